"""Where a rank computes: the one place where devices differ.

A `Device` makes arrays, knows the kernels for them, and gets bytes between them and MPI. `Cpu` is this process's memory
and cores; `mpihpc.core.gpu.Gpu` is a GPU through CuPy, which nothing else imports. Whoever works on blocks takes what
it needs from ``array.device``, and otherwise calls NumPy's functions and ufuncs: they go where the blocks are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from numbers import Integral
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import ThreadpoolController

from mpihpc.core.dtypes import numbers
from mpihpc.core.failure import nearest
from mpihpc.core.scratch import Scratch
from mpihpc.kernels import Kernels, cpu

MAX_THREADS = 1024
DEVICES = ("auto", "cpu", "gpu")
_KEPT = 1 << 28  # bytes of scratch memory that a process keeps for later
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


class Device(Protocol):
    """What the package asks of a device.

    Attributes
    ----------
    name : str
        "cpu" or "gpu", as users say it.
    label : str
        Which one exactly, and how its bytes reach MPI; for headers.
    identity : str
        The same for all processes on a device, another for each device of the job.
    kernels : module
        The room of `mpihpc.kernels` for its arrays.
    line : int
        Bytes that memory hands over at once: rows begin at multiples of it.
    host : bool
        Whether arrays are in this process's own memory: MPI, files and other processes of the node read it directly.
    asynchronous : bool
        Whether calls return before the work is done: it goes on while this process talks to MPI, and starting it is
        worth being recorded where passes are short.
    piece, rows : int
        How many cells to work on at a time, and how many of them, at least, along axes that are reduced.
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def kernels(self) -> Kernels: ...
    @property
    def line(self) -> int: ...
    @property
    def host(self) -> bool: ...
    @property
    def asynchronous(self) -> bool: ...
    @property
    def piece(self) -> int: ...
    @property
    def rows(self) -> int: ...

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        """A new array, C order."""

    def scratch(self, shape: int | Sequence[int], dtype: DTypeLike) -> Any:
        """The same for workspace: in memory that has been used before, if there is some."""

    def address(self, array: Any) -> int:
        """Where the first cell of an array lies."""

    def asarray(self, a: Any) -> Any:
        """An array here of what `mpihpc.core.dtypes.numbers` takes; arrays that are here stay as they are."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array in host memory: a copy, or itself if it is there."""

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """A row of bytes in host memory, for `post` and `fetch`."""

    def mailbox(self, nbytes: int) -> tuple[Any, Any]:
        """A row of bytes here, and the one that MPI reads or writes, which may be the same."""

    def post(self, here: Any, mail: Any) -> None:
        """Bring bytes to where MPI reads them, or into host memory. They are there after the next `wait`."""

    def outgoing(self, row: Any) -> Any:
        """A row of bytes for MPI to read, after the next `wait`: the same, if MPI can read it."""

    def fetch(self, mail: Any, here: Any) -> None:
        """Bring bytes from where MPI wrote them, or from host memory, which must stay as it is until the next `wait`.

        Whoever works on `here` next finds them.
        """

    def apply(
        self, ufunc: np.ufunc, inputs: Sequence[Any], outs: Sequence[Any], where: Any, options: Mapping[str, Any]
    ) -> None:
        """``ufunc(*inputs, out=outs, where=where, **options)``."""

    def multiplies(self, dtype: DTypeLike) -> bool:
        """Whether `multiply` knows this dtype, and the bits of a cell depend on its row and its column only."""

    def multiply(self, a: Any, b: Any, out: Any, add: bool, threads: int, always: bool = False) -> bool:
        """``out = a @ b`` or ``out += a @ b`` of matrices, if there is a faster way than `numpy.matmul`; else False.

        With `always`, also if it is slower.
        """

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do some work, and give what does it again, with less to do for this process if the device can record it.

        The work must begin the same things here each time it is done, on arrays that stay where they are or are its
        own; it must not wait, and brings nothing to or from host memory.
        """

    def wait(self) -> None:
        """Until all is done that was begun in the current lane.

        Only then may MPI write to rows from `mailbox`: what used their memory before may not be through with it.
        """

    def release(self) -> None:
        """Give back memory that is kept for arrays to come."""

    def lane(self, urgent: bool) -> AbstractContextManager[None]:
        """What begins inside waits for what was begun before the outermost lane, and for nothing begun elsewhere since.

        Lanes may lie in each other; what follows the outermost waits for all that was begun in them.
        """


class Cpu:
    """This process's memory and cores: the only instance is `CPU`. See `Device`."""

    name, label, identity, line = "cpu", "cpu", "", 64
    kernels: Kernels = cpu
    host, asynchronous = True, False
    piece, rows = 1 << 15, 64  # in a cache
    _memory = Scratch(_KEPT)

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def scratch(self, shape: int | Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        return self._memory.row(math.prod(sizes) * kind.itemsize).view(kind).reshape(sizes)

    def address(self, array: NDArray[Any]) -> int:
        return array.ctypes.data

    def asarray(self, a: Any) -> NDArray[Any]:
        return numbers(a)

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        return np.empty(nbytes, np.uint8)

    def mailbox(self, nbytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        row = self._memory.row(nbytes)
        return row, row

    def post(self, here: NDArray[np.uint8], mail: NDArray[np.uint8]) -> None:
        pass

    def outgoing(self, row: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return row

    def fetch(self, mail: NDArray[np.uint8], here: NDArray[np.uint8]) -> None:
        pass

    def apply(
        self, ufunc: np.ufunc, inputs: Sequence[Any], outs: Sequence[Any], where: Any, options: Mapping[str, Any]
    ) -> None:
        ufunc(*inputs, out=tuple(outs), where=where, **options)

    def multiplies(self, dtype: DTypeLike) -> bool:
        return cpu.multiplies(dtype)

    def multiply(
        self, a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], add: bool, threads: int, always: bool = False
    ) -> bool:
        return cpu.multiply(a, b, out, add, threads, always)

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    def wait(self) -> None:
        pass

    def release(self) -> None:
        self._memory.clear()

    def lane(self, urgent: bool) -> AbstractContextManager[None]:
        return nullcontext()


CPU: Device = Cpu()


def check_device(name: Any) -> None:
    """Refuse what is no device.

    Raises
    ------
    ValueError
        Another name than ``auto``, ``cpu`` or ``gpu``.
    """
    if isinstance(name, str) and name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: {nearest(name, DEVICES)}")


def find_device(name: str | Device, node_rank: int) -> Device:
    """The device that a name means on this process.

    Parameters
    ----------
    name : str or Device
        ``cpu``; ``gpu``; or ``auto``: a GPU if CuPy and a GPU are there. A device stands for itself.
    node_rank : int
        Number of this process on its node: those of a node take its GPUs in turn. (Slurm and others may show each
        process other GPUs: then it takes the first that it sees.)

    Raises
    ------
    ValueError
        An unknown name, or "gpu" and there is none; or MPIHPC_GPU_TRANSPORT is no way that there is.
    """
    check_device(name)
    if not isinstance(name, str):
        return name
    if name == "cpu":
        return CPU
    from mpihpc.core.gpu import gpu, why_not, wished_transport

    wished_transport()  # a wrong one is found on machines without GPUs too
    if reason := why_not():
        if name == "gpu":
            raise ValueError(f"no GPU is available: {reason}; or use --device cpu")
        return CPU
    return gpu(node_rank)


def thread_count(cores: int, threads: int | None = None) -> int:
    """Threads of a rank: as asked for, else OMP_NUM_THREADS, else the cores it may call its own."""
    if threads is not None:
        if not isinstance(threads, Integral) or not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads {threads} is not a whole number from 1 to {MAX_THREADS}")
        return threads
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdigit() and 1 <= int(wanted) <= MAX_THREADS else min(cores, MAX_THREADS)


def product_threads(cores: int, threads: int | None = None) -> int:
    """Threads of a rank's products: as asked for, else the least that a variable for BLAS says, else `thread_count`."""
    said = [os.environ.get(name, "").split(",")[0] for name in _THREAD_VARIABLES]
    numbers = [int(text) for text in said if text.isdigit() and int(text) >= 1]
    return min([*numbers, MAX_THREADS]) if numbers and threads is None else thread_count(cores, threads)


@contextmanager
def blas_threads(threads: int, *, force: bool = False) -> Iterator[None]:
    """Cap BLAS at this many threads, unless the user has set one of the variables that do so (or `force`)."""
    if not force and any(name in os.environ for name in _THREAD_VARIABLES):
        yield
    else:
        with _pools().limit(limits=threads, user_api="blas"):
            yield


@cache
def _pools() -> ThreadpoolController:
    """The BLAS that are loaded; to look for them takes milliseconds."""
    return ThreadpoolController()
