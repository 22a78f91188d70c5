"""The kernels on a GPU: CUDA C++ generated for one stencil and compiled when it is first used. Calls need CuPy.

These are the functions of `mpihpc.kernels.cpu`, for CuPy arrays of one device. They start work on CuPy's current stream
and do not wait for it. The steps of a call:

1. `plan.advance` checks the arguments and makes a `source.Kernel`: everything that the compiler needs to know, which is
   dtype, taps, weights, boundary modes, steps, tile (the last two chosen by `choice.choose`).
2. `source.source` writes the source: constants, and ``sum``, which adds the taps in their order. For five points in
   float64 it is::

       template <class At> __device__ __forceinline__ Value sum(const At &at) {
           Value acc = times(at(0, -1), 0x1.0000000000000p-3);           // column 0, one plane back
           acc = plus(acc, times(at(1, 0), 0x1.0000000000000p-3));       // column 1, the cell to the left
           acc = plus(acc, times(at(0, 0), 0x1.0000000000000p-1));
           ...

   in front of two files that are the same for all stencils: `common.cuh`, and `streaming.cuh` for one step or
   `fused.cuh` for several. Their first lines explain how they work.
3. `plan.advance` counts blocks and fills in a `GEOMETRY`, which holds everything that changes from call to call and is
   passed by value. If there are more steps than one kernel fuses, there are several launches.
4. CuPy compiles the source (by NVRTC; cached in memory and in the user's folder) and launches the kernel.

Steps 1 to 3 are pure functions and run on any `plan.Machine`: the tests have one that compiles the same source for the
CPU and takes NumPy arrays.

Multiplications and additions are not fused (``--fmad=false``), so results have the same bits as on CPUs. The fast mode,
``strict=False``, lets the compiler fuse them. With T taps its sums differ from the strict ones by at most
``2 T eps sum|w| max|x|`` (to first order in eps, which is half the distance from 1 to the next number), because each of
the two is within half of that of the exact sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mpihpc.kernels.cuda import choice, plan
from mpihpc.kernels.cuda.source import BOX_THREADS, Kernel, boxes_source, source
from mpihpc.kernels.cuda.sums import sum_add, sum_add_products, sum_columns

__all__ = ["Boxes", "advance", "correlate", "steps_at_once", "sum_add", "sum_add_products", "sum_columns"]

_STATIC_SHARED = 48 << 10  # more shared memory than this has to be asked for


def correlate(
    src: Any, dst: Any, offsets: ArrayLike, weights: ArrayLike, threads: int = 1, strict: bool = True
) -> None:
    """Fill ``dst[i] = sum_t weights[t] * src[i + offsets[t]]`` for every cell ``i`` of `dst`.

    Parameters are those of `mpihpc.kernels.cpu.correlate` with CuPy arrays; `threads` is ignored, `strict` is that of
    `advance`.
    """
    taps = np.asarray(offsets, np.int64).reshape(-1, src.ndim)
    if taps.min(initial=0) < 0:
        raise ValueError(f"offset {taps.min()} is negative, offsets must be >= 0")
    box = [(0, n) for n in dst.shape]
    advance(src, dst, taps, weights, 1, box, box, ["wrap"] * src.ndim, strict=strict)


def advance(
    src: Any,
    dst: Any,
    offsets: ArrayLike,
    weights: ArrayLike,
    steps: int,
    box: Sequence[tuple[int, int]],
    edges: Sequence[tuple[int, int]],
    modes: Sequence[str],
    cval: complex = 0.0,
    threads: int = 1,
    tile: Sequence[int] = (),
    field: Any = None,
    previous: Any = None,
    kept: Any = None,
    strict: bool = True,
) -> None:
    """Apply a stencil `steps` times to a box of a padded block, fusing as many steps per pass as is fastest.

    Parameters
    ----------
    src, dst, offsets, weights, steps, box, edges, modes, cval, field, previous, kept
        As in `mpihpc.kernels.cpu.advance`, but CuPy arrays on one device. `src` is not changed.
    threads : int
        Ignored: the same signature as the other kernels.
    tile : sequence of int, optional
        Cells of a thread block's tile on each axis (along the first: of its march); 0, or a tile that does not fit the
        device: chosen automatically. The result is the same for all.
    strict : bool
        Whether the result must have the same bits as on CPUs. If not, the bound in the module's docstring holds.

    Raises
    ------
    TypeError, ValueError
        Input that breaks the contract, with the two numbers that do not fit; `dst` is then untouched.
    ImportError
        CuPy is not installed.
    """
    with _device_of(src=src, dst=dst, field=field, previous=previous, kept=kept) as device:
        plan.advance(
            _machine(device.id, strict),
            src,
            dst,
            offsets,
            weights,
            steps,
            box,
            edges,
            modes,
            cval,
            tile,
            field,
            previous,
            kept,
        )


def steps_at_once(offsets: ArrayLike) -> int | None:
    """The number of steps of these taps that is fastest in one pass over memory."""
    return choice.steps_at_once(np.asarray(offsets, np.int64))


class Boxes:
    """Packs the boxes of an exchange from an array into a buffer, or unpacks them, by one kernel for all boxes.

    Parameters are those of `mpihpc.kernels.cpu.Boxes`; arrays have 1 to 4 axes, and items of 1, 2, 4, 8 or 16 bytes.
    """

    def __init__(self, boxes: Sequence[plan.Pairs], axes: int, dtype: DTypeLike) -> None:
        table = plan.describe(boxes)
        self._cells = int(table[-1, 0])
        self._boxes = boxes
        self._dtype = np.dtype(dtype)
        self._table = _cupy().asarray(table)
        self._checked: dict[Any, np.ndarray] = {}  # strides of arrays like those that were seen to fit

    def pack(self, array: Any, buffer: Any) -> None:
        """Copy the boxes of `array` into `buffer`, which has at least as many bytes."""
        self._move("pack", buffer, array)

    def unpack(self, buffer: Any, array: Any) -> None:
        """Copy `buffer` into the boxes of `array`."""
        self._move("unpack", buffer, array)

    def _move(self, verb: str, buffer: Any, array: Any) -> None:
        with _device_of(array=array, buffer=buffer) as device:
            strides = self._strides(array, buffer)
            pointers = buffer.data.ptr, array.data.ptr, self._table.data.ptr
            self._launch(device, verb, *pointers, len(self._boxes), strides)

    def copy(self, source: Any, others: Boxes, target: Any) -> None:
        """Copy the boxes of `source` to `others`, as many boxes of the same shapes, in `target`."""
        with _device_of(source=source, target=target) as device:
            strides, there = self._strides(source), others._strides(target)
            tables = self._table.data.ptr, others._table.data.ptr
            self._launch(device, "copy", source.data.ptr, target.data.ptr, *tables, len(self._boxes), strides, there)

    def _strides(self, array: Any, buffer: Any = None) -> np.ndarray:
        """`plan.check_boxes`, once for all arrays of the same shape, strides and dtype."""
        alike = plan.Layout.of(array), plan.Layout.of(buffer)
        if alike not in self._checked:
            self._checked[alike] = plan.check_boxes(self._boxes, self._dtype, array, buffer)
        return self._checked[alike]

    def _launch(self, device: Any, verb: str, *arguments: Any) -> None:
        if self._cells:
            mover, processors = _mover(device.id, self._dtype.itemsize, verb)
            mover((min(-(-self._cells // BOX_THREADS), 16 * processors),), (BOX_THREADS,), arguments)


@cache
def _cupy() -> Any:
    """CuPy, which is imported by the first call, and not before."""
    try:
        import cupy
    except ImportError as error:
        raise ImportError("the kernels on a GPU need CuPy: pip install 'mpihpc[gpu]'") from error
    return cupy


def _device_of(**arrays: Any) -> Any:
    """The device of the arrays, current while it is entered."""
    found = {}
    for name, array in arrays.items():
        if array is not None:
            if not isinstance(array, _cupy().ndarray):
                raise TypeError(f"{name} is {type(array).__module__}.{type(array).__name__}, it must be cupy.ndarray")
            found[name] = array.device
    (first, device), *others = found.items()
    for name, other in others:
        if other != device:
            raise ValueError(f"{first} is on device {device.id}, {name} on device {other.id}")
    return device


@cache
def _machine(device: int, strict: bool) -> _Gpu:
    return _Gpu(device, strict)


class _Gpu:
    """A device as a `plan.Machine`. It must be CuPy's current device when methods are called."""

    def __init__(self, device: int, strict: bool) -> None:
        attributes = _cupy().cuda.Device(device).attributes
        self.shared = attributes["MaxSharedMemoryPerBlockOptin"]
        self.processors = attributes["MultiProcessorCount"]
        self._options = ("--std=c++17", "--fmad=false" if strict else "--fmad=true")
        self._compiled: dict[Kernel, Any] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return _cupy().empty(shape, dtype)

    def address(self, array: Any) -> int:
        return array.data.ptr

    def launch(self, kernel: Kernel, blocks: int, addresses: Sequence[int], geometry: np.ndarray) -> None:
        function = self._compiled.get(kernel)
        if function is None:
            module = _cupy().RawModule(code=source(kernel), options=self._options)
            function = self._compiled[kernel] = module.get_function("advance")
            if kernel.shared > _STATIC_SHARED:
                function.max_dynamic_shared_size_bytes = kernel.shared
        # Addresses of cells outside the arrays may be negative.
        pointers = [np.uint64(address % (1 << 64)) for address in addresses]
        function((blocks,), (kernel.threads,), (*pointers, geometry), shared_mem=kernel.shared)


@cache
def _mover(device: int, itemsize: int, verb: str) -> tuple[Any, int]:
    """The kernel that packs, unpacks or copies, and the number of processors of the device."""
    module = _cupy().RawModule(code=boxes_source(itemsize), options=("--std=c++17",))
    return module.get_function(verb), _machine(device, True).processors
