"""A device whose arrays do not let NumPy look into them: what runs on it will run on a GPU.

`FakeArray` is as strict as CuPy's arrays, and stricter: it refuses whatever would bring its cells into host memory
unasked (`numpy.asarray`, iterating, ``float(x)``, ``if x``), and NumPy arrays beside its own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from mpihpc.core.device import Device
from mpihpc.core.dtypes import numbers
from mpihpc.core.tally import copied
from mpihpc.core.topology import Topology
from mpihpc.kernels import cpu

# What tests of arrays on a device run on: MPIHPC_TEST_DEVICE=gpu makes it this machine's GPUs.
REAL = os.environ.get("MPIHPC_TEST_DEVICE") == "gpu"
KINDS = ["gpu"] if REAL else ["direct", "staged"]


def make_device(kind: str) -> Device:
    """One of the `KINDS`. Collective."""
    return Topology.of().device("gpu") if REAL else FakeDevice(kind)


# Of those that CuPy offers too.
FUNCTIONS = {
    np.all, np.any, np.argmax, np.argmin, np.array_equal, np.broadcast_to, np.concatenate, np.conj, np.copyto,
    np.count_nonzero, np.cumsum, np.empty_like, np.imag, np.isclose, np.linalg.norm, np.max, np.mean, np.meshgrid,
    np.min, np.moveaxis, np.ones_like, np.prod, np.real, np.result_type, np.shape, np.ndim, np.size, np.std, np.sum,
    np.take, np.transpose, np.var, np.where, np.zeros_like, np.full_like, np.expand_dims, np.squeeze, np.iscomplexobj,
    np.isrealobj, np.can_cast, np.stack, np.vdot, np.tensordot, np.nanmax, np.nanmin, np.take_along_axis,
}  # fmt: skip


class FakeArray(NDArrayOperatorsMixin):
    """An array on a `FakeDevice`: `there` is what no code but that of the device may look at."""

    __array_priority__ = 100

    def __init__(self, there: np.ndarray, direct: bool) -> None:
        self.there, self.direct = there, direct

    shape = property(lambda self: self.there.shape)
    ndim = property(lambda self: self.there.ndim)
    size = property(lambda self: self.there.size)
    dtype = property(lambda self: self.there.dtype)
    nbytes = property(lambda self: self.there.nbytes)
    itemsize = property(lambda self: self.there.itemsize)
    strides = property(lambda self: self.there.strides)
    flags = property(lambda self: self.there.flags)
    T = property(lambda self: self._wrap(self.there.T))
    real = property(lambda self: self._wrap(self.there.real))
    imag = property(lambda self: self._wrap(self.there.imag))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For MPI, which finds the cells in host memory after all."""
        if not self.direct:
            raise AttributeError("staged: MPI must not see device memory")
        interface = self.there.__array_interface__
        return {key: interface[key] for key in ("shape", "typestr", "data", "strides")} | {"version": 3}

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("implicit conversion of a device array to host memory")

    __array__ = __iter__ = __bool__ = __int__ = __float__ = __complex__ = __index__ = _refuse
    item = tolist = tobytes = _refuse

    def __len__(self) -> int:
        return len(self.there)

    def __repr__(self) -> str:
        return f"FakeArray({self.shape}, {self.dtype})"

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, np.generic):
            value = np.asarray(value)
        if isinstance(value, np.ndarray):
            return FakeArray(value, self.direct)
        return type(value)(map(self._wrap, value)) if isinstance(value, tuple | list) else value

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return self._wrap(getattr(ufunc, method)(*map(_inner, inputs), **{k: _inner(v) for k, v in options.items()}))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in FUNCTIONS:
            raise TypeError(f"numpy.{func.__name__} of a device array")
        return self._wrap(func(*map(_inner, args), **{k: _inner(v) for k, v in kwargs.items()}))

    def __getitem__(self, index: Any) -> Any:
        return self._wrap(self.there[_inner(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.there[_inner(index)] = _inner(value)

    def __getattr__(self, name: str) -> Any:
        methods = {
            "view", "reshape", "ravel", "astype", "copy", "fill", "transpose", "take", "sum", "prod", "min", "max",
            "mean", "var", "std", "any", "all", "argmin", "argmax", "conj", "squeeze", "dot", "swapaxes", "cumsum",
        }  # fmt: skip
        if name not in methods:
            raise AttributeError(f"device arrays have no {name!r}")
        method = getattr(self.there, name)

        def call(*args: Any, **options: Any) -> Any:
            return self._wrap(method(*map(_inner, args), **{k: _inner(v) for k, v in options.items()}))

        return call


def _inner(value: Any) -> Any:
    """What an argument is on the device; arrays in host memory are refused, but for single numbers."""
    if isinstance(value, FakeArray):
        return value.there
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"a NumPy array of shape {value.shape} meets a device array")
    return type(value)(map(_inner, value)) if isinstance(value, tuple | list) else value


class FakeKernels:
    """The CPU's kernels for the device's arrays."""

    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def correlate(self, src: FakeArray, dst: FakeArray, *args: Any, **options: Any) -> None:
        self._device.begin(partial(cpu.correlate, src.there, dst.there, *args, **options))

    def advance(self, src: FakeArray, dst: FakeArray, *args: Any, strict: bool = True, **options: Any) -> None:
        self.strict = strict
        for name in ("field", "previous", "kept"):
            if options.get(name) is not None:
                options[name] = options[name].there
        self._device.begin(partial(cpu.advance, src.there, dst.there, *args, **options))

    def steps_at_once(self, offsets: Any) -> int:
        return 3

    def sum_add(self, x: FakeArray, state: np.ndarray) -> None:
        cpu.sum_add(x.there, state)

    def sum_add_products(self, x: FakeArray, y: FakeArray, state: np.ndarray) -> None:
        cpu.sum_add_products(x.there, y.there, state)

    def sum_columns(self, x: FakeArray, lead: int, out: np.ndarray, odd: bool = False, y: Any = None) -> int:
        return cpu.sum_columns(x.there, lead, out, odd, None if y is None else y.there)

    def Boxes(self, boxes: Any, axes: int, dtype: Any) -> FakeBoxes:
        assert 1 <= axes <= 4
        return FakeBoxes(self._device, boxes, axes, dtype)


class FakeBoxes:
    def __init__(self, device: FakeDevice, boxes: Any, axes: int, dtype: Any) -> None:
        self._device, self._boxes = device, cpu.Boxes(boxes, axes, dtype)

    def pack(self, array: FakeArray, buffer: FakeArray) -> None:
        self._device.begin(partial(self._boxes.pack, array.there, buffer.there))
        self._device.written(buffer)

    def unpack(self, buffer: FakeArray, array: FakeArray) -> None:
        self._device.begin(partial(self._boxes.unpack, buffer.there, array.there))

    def copy(self, source: FakeArray, others: FakeBoxes, target: FakeArray) -> None:
        self._device.begin(partial(self._boxes.copy, source.there, others._boxes, target.there))


class FakeDevice:
    """See `mpihpc.core.device.Device`.

    What it is told to post is not there before `wait`; what MPI writes to a new mailbox before that is lost; what it
    is told to fetch must not be written to before.

    Attributes
    ----------
    waits : int
        How often somebody waited.
    recordings, replays : int
        How often work was recorded, and how often that was done again.
    pinned_now, pinned_most : int
        Bytes of host memory that `pinned` has handed out and that are in use, and the most that ever were.
    """

    name, identity, line = "gpu", "fake", 128
    host, asynchronous, piece, rows = False, True, 1 << 22, 1 << 10

    def __init__(self, transport: str) -> None:
        self.transport, self.direct = transport, transport == "direct"
        self.label = f"fake ({transport} transport)"
        self.kernels = FakeKernels(self)
        self._posted: list[tuple[np.ndarray, np.ndarray]] = []
        self._new: list[np.ndarray] = []
        self._fetched: list[np.ndarray] = []
        self._lanes: list[bool] = []
        self._tape: list[Any] | None = None
        self.waits = self.released = self.pinned_now = self.pinned_most = self.recordings = self.replays = 0

    def begin(self, work: Any) -> None:
        """Do it, or note it where work is recorded."""
        work() if self._tape is None else self._tape.append(work)

    def recorded(self, work: Any) -> Any:
        """Not as CUDA: what is done to arrays by NumPy's functions is done once more, and not noted."""
        work()
        self._tape = tape = []
        work()
        self._tape = None
        self.recordings += 1

        def again() -> None:
            self.replays += 1
            for each in tape:
                each()

        return again

    def _outside(self) -> None:
        assert self._tape is None, "what is recorded must not wait, nor reach into host memory"

    def empty(self, shape: int | Sequence[int], dtype: Any) -> FakeArray:
        new = np.empty(shape, dtype)
        new.view(np.uint8).fill(0xA5) if new.size and new.ndim else None  # nothing may count on zeros
        return FakeArray(new, self.direct)

    scratch = empty

    def address(self, array: FakeArray) -> int:
        return array.there.ctypes.data

    def asarray(self, a: Any) -> FakeArray:
        self._outside()
        if isinstance(a, FakeArray):
            return a
        host = np.array(numbers(a))
        copied.to_device += host.nbytes
        return FakeArray(host, self.direct)

    def to_host(self, array: FakeArray) -> np.ndarray:
        self._outside()
        copied.to_host += array.nbytes
        return array.there.copy()

    def pinned(self, nbytes: int) -> np.ndarray:
        self._outside()
        row = np.full(nbytes, 0x5A, np.uint8)
        self.pinned_now += nbytes
        self.pinned_most = max(self.pinned_most, self.pinned_now)
        weakref.finalize(row, self._unpin, nbytes)
        return row

    def _unpin(self, nbytes: int) -> None:
        self.pinned_now -= nbytes

    def mailbox(self, nbytes: int) -> tuple[FakeArray, Any]:
        self._outside()
        here = self.empty(nbytes, np.uint8)
        mail = here if self.direct else np.full(nbytes, 0x5A, np.uint8)
        self._new.append(here.there if self.direct else mail)
        return here, mail

    def written(self, row: FakeArray) -> None:
        """The device itself writes to a mailbox: it knows what it has begun before."""
        self._new = [new for new in self._new if new is not row.there]

    def post(self, here: FakeArray, mail: Any) -> None:
        self._outside()
        self.written(here)
        if mail is not here:
            copied.to_host += here.nbytes
            self._posted.append((here.there, mail))

    def outgoing(self, row: FakeArray) -> Any:
        if self.direct:
            return row
        mail = np.full(row.nbytes, 0x5A, np.uint8)
        self.post(row, mail)
        return mail

    def fetch(self, mail: Any, here: FakeArray) -> None:
        self._outside()
        if mail is not here:
            copied.to_device += here.nbytes
            here.there[...] = mail
            owner = mail if mail.base is None else mail.base
            owner.flags.writeable = False
            self._fetched.append(owner)

    def apply(self, ufunc: np.ufunc, inputs: Any, outs: Any, where: Any, options: Any) -> None:
        """As in `mpihpc.core.gpu`: CuPy's ufuncs know no `where`, and one `out` only."""
        if where is True and len(outs) == 1:
            ufunc(*inputs, out=outs[0], **options)
            return
        found = ufunc(*inputs, **options)
        for out, result in zip(outs, found if ufunc.nout > 1 else (found,), strict=True):
            np.copyto(out, result, casting="unsafe", where=where)

    def multiplies(self, dtype: Any) -> bool:
        return False

    def multiply(self, a: Any, b: Any, out: Any, add: bool, threads: int, always: bool = False) -> bool:
        return False

    def wait(self) -> None:
        self._outside()
        assert not self._lanes or self._lanes[-1], "MPI would wait for the middle of the block"
        self.waits += 1
        for row in self._new:
            row.fill(0x5A)
        self._new.clear()
        for here, mail in self._posted:
            mail[...] = here
        self._posted.clear()
        for owner in self._fetched:
            owner.flags.writeable = True
        self._fetched.clear()

    def release(self) -> None:
        self.released += 1

    @contextmanager
    def lane(self, urgent: bool) -> Iterator[None]:
        self._lanes.append(urgent)
        yield
        self._lanes.pop()
