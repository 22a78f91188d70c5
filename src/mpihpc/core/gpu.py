"""A GPU of NVIDIA's, through CuPy. `mpihpc.core.device` imports this when a GPU is asked for, and nothing else does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from mpihpc.core.dtypes import numbers
from mpihpc.core.failure import nearest
from mpihpc.core.tally import copied
from mpihpc.kernels import Kernels, cuda

TRANSPORTS = ("auto", "direct", "staged")
VARIABLE = "MPIHPC_GPU_TRANSPORT"


class Gpu:
    """One GPU. See `mpihpc.core.device.Device`.

    Parameters
    ----------
    number : int
        Of the device, among those that this process sees.
    transport : str
        ``direct``: MPI gets addresses on the device. ``staged``: it gets pinned host memory, and bytes are copied.
    """

    name, line = "gpu", 128
    kernels: Kernels = cuda
    host, asynchronous = False, True
    piece, rows = 1 << 22, 1 << 10  # much to do at once; of each column, some numbers come to the host

    def __init__(self, number: int, transport: str) -> None:
        import cupy

        self._cupy = cupy
        self.number, self.transport = number, transport
        self._device = cupy.cuda.Device(number)
        self._device.use()
        model = cupy.cuda.runtime.getDeviceProperties(number)["name"].decode()
        self.label = f"gpu {number} ({model}, {transport} transport)"
        self.identity = f"{MPI.Get_processor_name()} {self._device.pci_bus_id}"
        # Priorities: the lower, the more urgent.
        self._streams = [cupy.cuda.Stream(non_blocking=True, priority=priority) for priority in (0, -5)]
        self._depth = 0
        self._begun: Any = None  # an event: all that was begun before the outermost lane
        self._loose: list[Any] = []  # events at the end of lanes that others have not waited for
        self._read: list[tuple[Any, Any]] = []  # pinned rows, and events after which they have been copied

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        return self._cupy.empty(shape, dtype)

    scratch = empty  # CuPy keeps memory by itself

    def address(self, array: Any) -> int:
        return array.data.ptr

    def asarray(self, a: Any) -> Any:
        if isinstance(a, self._cupy.ndarray):
            return a
        host = numbers(a)
        copied.to_device += host.nbytes
        return self._cupy.asarray(host)

    def to_host(self, array: Any) -> NDArray[Any]:
        copied.to_host += array.nbytes
        return self._cupy.asnumpy(array)

    def mailbox(self, nbytes: int) -> tuple[Any, Any]:
        here = self._cupy.empty(nbytes, np.uint8)
        if self.transport == "direct":
            return here, here
        return here, self.pinned(nbytes)

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(max(1, nbytes)), np.uint8, nbytes)

    def post(self, here: Any, mail: Any) -> None:
        if mail is not here:
            copied.to_host += here.nbytes
            here.data.copy_to_host_async(mail.ctypes.data, here.nbytes)

    def outgoing(self, row: Any) -> Any:
        if self.transport == "direct":
            return row
        mail = self.pinned(row.nbytes)
        self.post(row, mail)
        return mail

    def fetch(self, mail: Any, here: Any) -> None:
        if mail is not here:
            copied.to_device += here.nbytes
            here.data.copy_from_host_async(mail.ctypes.data, here.nbytes)
            # CuPy gives pinned memory that nobody holds to the next who asks, who may be MPI.
            self._read = [(event, row) for event, row in self._read if not event.done]
            self._read.append((self._cupy.cuda.get_current_stream().record(), mail))

    def apply(
        self, ufunc: np.ufunc, inputs: Sequence[Any], outs: Sequence[Any], where: Any, options: Mapping[str, Any]
    ) -> None:
        if where is True and len(outs) == 1:
            ufunc(*inputs, out=outs[0], **options)
            return
        # CuPy's ufuncs know no `where`, and one `out` only.
        found = ufunc(*inputs, **options)
        for out, result in zip(outs, found if ufunc.nout > 1 else (found,), strict=True):
            self._cupy.copyto(out, result, casting="unsafe", where=None if where is True else where)

    def multiplies(self, dtype: DTypeLike) -> bool:
        return False

    def multiply(self, a: Any, b: Any, out: Any, add: bool, threads: int, always: bool = False) -> bool:
        return False  # matmul is cuBLAS

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        # A graph keeps addresses: what the work makes for itself lies in a pool that nobody else gets memory from, and
        # that has it after the first time. Streams other than the default one can be recorded.
        cuda, outer = self._cupy.cuda, self._cupy.cuda.get_current_stream()
        stream, pool = cuda.Stream(non_blocking=True), cuda.MemoryPool()
        stream.wait_event(outer.record())
        try:
            with stream, cuda.using_allocator(pool.malloc):
                work()
                stream.begin_capture()
                try:
                    work()
                finally:
                    graph = stream.end_capture()
        finally:
            outer.wait_event(stream.record())

        def again(_memory: Any = pool) -> None:  # which lives as long as the graph
            graph.launch()

        return again

    def wait(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def release(self) -> None:
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    @contextmanager
    def lane(self, urgent: bool) -> Iterator[None]:
        outer, stream = self._cupy.cuda.get_current_stream(), self._streams[urgent]
        if not self._depth:
            self._begun = outer.record()
        stream.wait_event(self._begun)
        self._depth += 1
        try:
            with stream:
                yield
        finally:
            self._depth -= 1
            self._loose.append(stream.record())
            if not self._depth:
                for event in self._loose:
                    outer.wait_event(event)
                self._loose.clear()


@cache
def why_not() -> str:
    """Why there is no GPU for this process, or nothing if there is one."""
    try:
        import cupy
    except ImportError as error:
        # CuPy's own text is a page long; what it comes from is a line.
        return f"CuPy cannot be imported ({error.__cause__ or error}): pip install 'mpihpc[gpu]'"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        why = "" if count else " (it counts 0)"
    except (RuntimeError, ImportError) as error:
        why = f" ({error})"
    if not why:
        return ""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if shown is None else f" with CUDA_VISIBLE_DEVICES={shown!r}"
    return f"CUDA finds none{hidden}{why}: start the job where nvidia-smi shows GPUs"


@cache
def gpu(node_rank: int) -> Gpu:
    """The GPU of this process. (One: the first number of a process on its node that comes here decides.)"""
    global _chosen
    if _chosen is None:
        import cupy

        _chosen = Gpu(node_rank % cupy.cuda.runtime.getDeviceCount(), transport())
    return _chosen


_chosen: Gpu | None = None


def transport() -> str:
    """How messages leave the GPU: as MPIHPC_GPU_TRANSPORT says, else directly if MPI says that it can."""
    wish = wished_transport()
    return wish if wish != "auto" else "direct" if mpi_takes_device_memory() else "staged"


def wished_transport() -> str:
    """What MPIHPC_GPU_TRANSPORT says.

    Raises
    ------
    ValueError
        It is no way that there is.
    """
    wish = os.environ.get(VARIABLE, "auto")
    if wish not in TRANSPORTS:
        raise ValueError(f"{VARIABLE} is {wish!r}: {nearest(wish, TRANSPORTS)}")
    return wish


def mpi_takes_device_memory() -> bool:
    """Whether the MPI library says of itself that it takes addresses on a GPU. It may be wrong: the doctor tries it."""
    if "MPICH" in MPI.Get_library_version() and os.environ.get("MPIR_CVAR_ENABLE_GPU", "1") == "0":
        return False
    try:
        # mpi4py's own library finds what libmpi has.
        return bool(ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support())
    except AttributeError:
        return False
