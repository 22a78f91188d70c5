"""CuPy's names where there is no GPU: enough of them to run this project's code for GPUs, on the CPU.

Put this folder's parent on PYTHONPATH. A stream is a queue: what is begun in it is done when somebody waits for it and
not before, after what events ask for. Memory that nobody holds goes to the next who asks in the same stream, though it
may be at work there, as from CuPy's pools. Kernels are compiled by g++ (`tests/cuda_host.hpp`). What CuPy or CUDA would
refuse is refused: arrays of NumPy's among its own, and in a recording what cannot be recorded.

It says nothing about how fast anything is, nor whether CuPy and CUDA are as is thought here.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from cupy._kernels import RawModule
from cupy._streams import Event, Graph, Stream, now, synchronize

__all__ = ["RawModule", "cuda", "ndarray"]
__version__ = "none (emulated)"

_METHODS = {
    "view", "reshape", "ravel", "astype", "copy", "transpose", "take", "sum", "prod", "min", "max", "mean", "var",
    "std", "any", "all", "argmin", "argmax", "conj", "squeeze", "dot", "swapaxes", "cumsum",
}  # fmt: skip


# ---- memory


class MemoryPool:
    """Memory by stream and size, as arenas of CuPy's pools."""

    def __init__(self) -> None:
        self._free: dict[tuple[Stream, int], list[np.ndarray]] = defaultdict(list)

    def malloc(self, nbytes: int) -> _Memory:
        size = -(-nbytes // 512) * 512
        free = self._free[now.stream, size]
        if not free and now.recording:
            raise RuntimeError("new memory while work is recorded: the pool should have some")
        return _Memory(free.pop() if free else np.full(size, 0xA5, np.uint8), free)

    def free_all_blocks(self) -> None:
        synchronize()  # as cudaFree does
        for free in self._free.values():
            free.clear()


class _Memory:
    """Some bytes, for as long as somebody holds this; those who are to work on them later do not."""

    def __init__(self, raw: np.ndarray, free: list[np.ndarray]) -> None:
        self.raw = raw
        weakref.finalize(self, free.append, raw).atexit = False


_pool, _pinned = MemoryPool(), MemoryPool()
_allocators = [_pool.malloc]


@contextmanager
def _using_allocator(allocator: Callable[[int], _Memory]) -> Iterator[None]:
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def _alloc_pinned_memory(nbytes: int) -> Any:
    """No array, for arrays made of arrays do not hold them, but the memory below."""
    memory = _pinned.malloc(nbytes)
    row = type("PinnedMemory", (ctypes.c_ubyte * nbytes,), {}).from_buffer(memory.raw)
    weakref.finalize(row, lambda memory: None, memory).atexit = False
    return row


def get_default_memory_pool() -> MemoryPool:
    return _pool


def get_default_pinned_memory_pool() -> MemoryPool:
    return _pinned


# ---- arrays


class ndarray(NDArrayOperatorsMixin):
    __array_priority__ = 100

    def __init__(self, there: np.ndarray, memory: _Memory) -> None:
        self._there, self._memory = there, memory

    shape = property(lambda self: self._there.shape)
    ndim = property(lambda self: self._there.ndim)
    size = property(lambda self: self._there.size)
    dtype = property(lambda self: self._there.dtype)
    nbytes = property(lambda self: self._there.nbytes)
    itemsize = property(lambda self: self._there.itemsize)
    strides = property(lambda self: self._there.strides)
    flags = property(lambda self: self._there.flags)
    T = property(lambda self: ndarray(self._there.T, self._memory))
    real = property(lambda self: ndarray(self._there.real, self._memory))
    imag = property(lambda self: ndarray(self._there.imag, self._memory))
    device = property(lambda self: Device(0))
    data = property(lambda self: _Pointer(self._there))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface = self._there.__array_interface__
        return {key: interface[key] for key in ("shape", "typestr", "data", "strides")} | {"version": 3}

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    def get(self) -> np.ndarray:
        host = np.empty(self.shape, self.dtype)
        there = self._there
        now.stream.begin(lambda: np.copyto(host, there))
        now.stream.synchronize()
        return host

    def __bool__(self) -> bool:
        return bool(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __len__(self) -> int:
        return len(self._there)

    def __setitem__(self, index: Any, value: Any) -> None:
        there, inner, index = self._there, _inner(value), _inner(index)
        np.broadcast_to(inner, there[index].shape)  # or it raises
        _begin(lambda: there.__setitem__(index, inner))

    def fill(self, value: Any) -> None:
        self[...] = value

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if "where" in options or len(options.get("out", ())) > 1:
            raise TypeError("CuPy's ufuncs know no `where`, and one `out`")
        return _apply(getattr(ufunc, method), *inputs, **options)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _apply(func, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(f"emulated arrays have no {name!r}")
        method = getattr(np.ndarray, name)
        return lambda *args, **options: _apply(method, self, *args, **options)

    def __getitem__(self, index: Any) -> Any:
        return _apply(np.ndarray.__getitem__, self, index)


class _Pointer:
    """What CuPy calls a MemoryPointer."""

    def __init__(self, there: np.ndarray) -> None:
        self._there, self.ptr = there, there.ctypes.data

    def copy_to_host_async(self, address: int, nbytes: int, stream: Stream | None = None) -> None:
        (stream or now.stream).begin(lambda: ctypes.memmove(address, self.ptr, nbytes))

    def copy_from_host_async(self, address: int, nbytes: int, stream: Stream | None = None) -> None:
        (stream or now.stream).begin(lambda: ctypes.memmove(self.ptr, address, nbytes))

    def copy_from_device_async(self, source: _Pointer, nbytes: int, stream: Stream | None = None) -> None:
        self.copy_from_host_async(source.ptr, nbytes, stream)


def _inner(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._there
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {np.ndarray}")
    return type(value)(map(_inner, value)) if type(value) in (tuple, list) else value


def _begin(work: Callable[[], object]) -> None:
    def quiet() -> None:
        with np.errstate(all="ignore"):
            work()

    now.stream.begin(quiet)


def _arrays(value: Any) -> list[ndarray]:
    if isinstance(value, ndarray):
        return [value]
    return [a for each in value for a in _arrays(each)] if isinstance(value, tuple | list) else []


def _apply(func: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A view at once; other results later, in the current stream. What they are is found out with what is there now."""
    inner, more = _inner(args), {name: _inner(value) for name, value in options.items()}
    if (out := options.get("out")) is not None or func is np.copyto:
        target = (args[0] if out is None else out[0]) if isinstance(out, tuple) or out is None else out
        _begin(lambda: func(*inner, **more))
        return target
    if func in (np.ndarray.__getitem__, np.ndarray.take, np.take) and _arrays(args[1:]):
        now.stream.synchronize()  # indices must be there
    with np.errstate(all="ignore"):
        found = func(*inner, **more)
    return _placed(found, lambda: func(*inner, **more), _arrays(args))


def _placed(found: Any, again: Callable[[], Any], sources: list[ndarray]) -> Any:
    if isinstance(found, tuple | list):
        whole = [_placed(one, lambda n=n: again()[n], sources) for n, one in enumerate(found)]
        return type(found)(whole)
    if not isinstance(found, np.ndarray | np.generic):
        return found
    for source in sources:
        if isinstance(found, np.ndarray) and found.size and np.may_share_memory(found, source._there):
            return ndarray(found, source._memory)
    new = empty(np.shape(found), found.dtype)
    there = new._there
    _begin(lambda: np.copyto(there, again()))
    return new


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    wanted = np.empty(shape, dtype)
    memory = _allocators[-1](max(1, wanted.nbytes))
    return ndarray(memory.raw[: wanted.nbytes].view(wanted.dtype).reshape(wanted.shape), memory)


def full(shape: Any, value: Any, dtype: Any = None) -> ndarray:
    new = empty(shape, np.asarray(value).dtype if dtype is None else dtype)
    new[...] = value
    return new


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return full(shape, 0, dtype)


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return full(shape, 1, dtype)


def zeros_like(a: ndarray) -> ndarray:
    return zeros(a.shape, a.dtype)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    host = np.array(a, dtype)
    new = empty(host.shape, host.dtype)
    there = new._there
    _begin(lambda: np.copyto(there, host))
    return new


def asnumpy(a: ndarray) -> np.ndarray:
    return a.get()


def ascontiguousarray(a: ndarray) -> ndarray:
    return _apply(np.ascontiguousarray, a)


def copyto(out: ndarray, source: Any, casting: str = "same_kind", where: Any = None) -> None:
    _apply(np.copyto, out, source, casting=casting, where=True if where is None else where)


def __getattr__(name: str) -> Any:
    found = getattr(np, name)
    if isinstance(found, type):
        return found
    raise AttributeError(name)


# ---- the device


class Device:
    attributes: ClassVar = {"MaxSharedMemoryPerBlockOptin": 232448, "MultiProcessorCount": 3}

    def __init__(self, device: int = 0) -> None:
        self.id, self.pci_bus_id = device, f"emulated:{device}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        synchronize()


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    Graph=Graph,
    MemoryPool=MemoryPool,
    Stream=Stream,
    alloc_pinned_memory=_alloc_pinned_memory,
    get_current_stream=lambda: now.stream,
    get_elapsed_time=lambda begin, end: float("nan"),  # nobody knows how long a GPU takes
    using_allocator=_using_allocator,
    runtime=SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda number: {"name": b"no GPU, emulated"},
        runtimeGetVersion=lambda: 12000,
        driverGetVersion=lambda: 12000,
    ),
)
