"""Exact sums on a GPU: `mpihpc.array.exact_sums` calls these as it calls those of `mpihpc.kernels.cpu`.

The data stay on the GPU: a few numbers per column are copied to the host, and a few words per column where those are
not enough. `sums.cuh` explains the method. As in `plan`, everything but `_Cupy` runs on any `Machine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpihpc.core.tally import copied
from mpihpc.kernels import cpu
from mpihpc.kernels.cuda.source import BOX_THREADS, SUM_TERMS, sums_source

COLUMNS = np.dtype(
    [("down", "i8", (3, 4)), ("across", "i8", (3, 4))]
    + [(name, "i8") for name in ("rows", "ways", "beside", "first", "columns", "range")]
)
"""`Columns` of sums.cuh."""

_THREADS = 1 << 17  # that keep a GPU busy
_FEW_ROWS = 16  # the fewest rows of a thread, if several share a column: their results must be fewer than the rows
_MANY_ROWS = 1 << 20  # the most rows of a thread: this many numbers of 2**1000 do not overflow
_SECTOR = 32  # the fewest bytes of a memory transaction
_RANGE = 1 << 16  # columns whose long integers exist at a time
_PIECE = 1 << 20  # columns that are summed at a time: one thread each, and three numbers copied to the host


class Machine(Protocol):
    """What runs the kernel: a GPU through CuPy, or an emulation of one."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array."""

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array of zeros."""

    def contiguous(self, array: Any) -> Any:
        """The array, or a copy of it in C order."""

    def to_host(self, array: Any) -> NDArray[Any]:
        """The array in host memory."""

    def add_up(self, arrays: Sequence[Any], geometry: NDArray[Any], blocks: int) -> None:
        """Launch the kernel with x, y, parts, lost and words; None for an array that is not used."""


def sum_add(x: Any, state: NDArray[np.int64]) -> None:
    """Add all numbers of a CuPy array, float32 or float64, up to 2**30 of them, to a state in host memory."""
    with x.device as device:
        add(_machine(device.id), x, None, state)


def sum_add_products(x: Any, y: Any, state: NDArray[np.int64]) -> None:
    """Add the products of two CuPy arrays of one shape and dtype, each rounded to float64."""
    with x.device as device:
        add(_machine(device.id), x, y, state)


def sum_columns(x: Any, lead: int, out: NDArray[np.float64], odd: bool = False, y: Any = None) -> int:
    """`mpihpc.kernels.cpu.sum_columns` of CuPy arrays with up to 2**30 rows; `out` is in host memory."""
    with x.device as device:
        return add_columns(_machine(device.id), x, lead, out, odd, y)


def add(machine: Machine, x: Any, y: Any, state: NDArray[np.int64]) -> None:
    """`sum_add` or `sum_add_products` on a machine."""
    if not x.size:
        return
    columns = _Columns(machine, x, y, x.ndim)
    parts, lost = columns.parts(0, 1)
    if lost:
        (words,) = columns.words(0, 1)
        cpu.sum_add(np.empty(0), words)  # adds nothing, but carries: states must be carried before they are added
        state += words
    else:
        cpu.sum_add(parts, state)


def add_columns(machine: Machine, x: Any, lead: int, out: NDArray[np.float64], odd: bool = False, y: Any = None) -> int:
    """`sum_columns` on a machine."""
    if not x.size:
        out[...] = 0
        return 1
    columns, most = _Columns(machine, x, y, lead), 1
    for first in range(0, columns.count, _PIECE):
        count = min(_PIECE, columns.count - first)
        parts, lost = columns.parts(first, count)
        for begin in lost:
            parts[:, begin - first : begin - first + _RANGE] = 0  # nonsense, which could need more terms
        here = np.empty((len(out), count))
        most = max(most, cpu.sum_columns(parts, 1, here, odd))
        for begin in lost:
            words = columns.words(begin, min(_RANGE, first + count - begin))
            some = np.empty((len(out), len(words)))
            most = max(most, cpu.sum_states(words, some, odd))
            here[:, begin - first : begin - first + len(words)] = some
        out[:, first : first + count] = here
    return most


class _Columns:
    """The columns of an array, or of its products with another: its first `lead` axes are rows."""

    def __init__(self, machine: Machine, x: Any, y: Any, lead: int) -> None:
        if max(len(_merged(x, y, axes)) for axes in (range(lead), range(lead, x.ndim))) > 4:  # more than kernels know
            x, y = machine.contiguous(x), None if y is None else machine.contiguous(y)
        self._machine, self._x, self._y, self._lead = machine, x, y, lead
        self.count = math.prod(x.shape[lead:])

    def parts(self, first: int, count: int) -> tuple[NDArray[np.float64], list[int]]:
        """Rows of numbers that add up to some columns, and the first columns of ranges for which they do not."""
        machine = self._machine
        lost = machine.zeros((-(-count // _RANGE),), np.dtype(np.int32))
        x, y, lead, begin = self._x, self._y, self._lead, first
        while True:
            geometry = _geometry(x, y, lead, begin, count)
            ways = int(geometry["ways"][0])
            parts = machine.empty((SUM_TERMS * ways, count), np.dtype(np.float64))
            machine.add_up((x, y, parts, lost, None), geometry, -(-ways * count // BOX_THREADS))
            if ways == 1:
                break
            x, y, lead, begin = parts, None, 1, 0
        return machine.to_host(parts), [first + n * _RANGE for n in np.flatnonzero(machine.to_host(lost)).tolist()]

    def words(self, first: int, count: int) -> NDArray[np.int64]:
        """The states of some columns; no limb has been carried."""
        geometry = _geometry(self._x, self._y, self._lead, first, count)
        words = self._machine.zeros((count, cpu.SUM_WORDS), np.dtype(np.int64))
        blocks = -(-int(geometry["ways"][0]) * count // BOX_THREADS)
        self._machine.add_up((self._x, self._y, None, None, words), geometry, blocks)
        return self._machine.to_host(words)


def _geometry(x: Any, y: Any, lead: int, first: int, count: int) -> NDArray[Any]:
    """The numbers of a launch for some columns, as an array of one `COLUMNS`."""
    geometry = np.zeros(1, COLUMNS)
    axes = {"down": _merged(x, y, range(lead)), "across": _merged(x, y, range(lead, x.ndim))}
    for name, merged in axes.items():
        geometry[name][0, 0] = 1
        geometry[name][0, :, : len(merged)] = np.transpose(merged)
    rows = math.prod(x.shape[:lead])
    beside = abs(axes["down"][-1][1]) < abs(axes["across"][-1][1])
    # Neighbours along a column that has neighbours too are as few as read from memory together.
    ways = max(_THREADS // count, _SECTOR // x.itemsize if beside else 1)
    ways = max(1, min(ways, rows // _FEW_ROWS), -(-rows // _MANY_ROWS))
    numbers = {"rows": rows, "ways": ways, "beside": beside, "first": first, "columns": count, "range": _RANGE}
    for name, number in numbers.items():
        geometry[name] = number
    return geometry


def _merged(x: Any, y: Any, axes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Length, stride of x and stride of y, in cells, of these axes: as few of them as the strides allow."""
    merged: list[tuple[int, int, int]] = []
    for d in axes:
        length, *strides = x.shape[d], *((x if a is None else a).strides[d] // x.itemsize for a in (x, y))
        if length == 1:
            continue
        if merged and list(merged[-1][1:]) == [length * stride for stride in strides]:
            length *= merged.pop()[0]
        merged.append((length, *strides))
    return merged or [(1, 1, 1)]


@cache  # one for each device
def _machine(device: int) -> _Cupy:
    return _Cupy()


class _Cupy:
    """CuPy's current device as a `Machine`."""

    def __init__(self) -> None:
        self._kernels: dict[np.dtype, Any] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return _cupy().empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return _cupy().zeros(shape, dtype)

    def contiguous(self, array: Any) -> Any:
        return _cupy().ascontiguousarray(array)

    def to_host(self, array: Any) -> NDArray[Any]:
        copied.to_host += array.nbytes
        return array.get()

    def add_up(self, arrays: Sequence[Any], geometry: NDArray[Any], blocks: int) -> None:
        dtype = arrays[0].dtype
        if dtype not in self._kernels:
            module = _cupy().RawModule(code=sums_source(dtype.str[1:]), options=("--std=c++17", "--fmad=false"))
            self._kernels[dtype] = module.get_function("sum")
        pointers = [np.uint64(0 if array is None else array.data.ptr) for array in arrays]
        self._kernels[dtype]((blocks,), (BOX_THREADS,), (*pointers, geometry))


def _cupy() -> Any:
    import cupy

    return cupy
