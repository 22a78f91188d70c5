"""The kernels in C++ (`mpihpc._core`): vectors, threads, the same bits as `mpihpc.kernels.reference`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mpihpc import _core
from mpihpc._core import (
    SUM_WORDS,
    copy,
    has_openmp,
    isa,
    sum_add_complex,
    sum_round,
    sum_states,
    tile_cost,
)

__all__ = [
    "SUM_WORDS",
    "Boxes",
    "advance",
    "checksum",
    "copy",
    "correlate",
    "has_openmp",
    "isa",
    "multiplies",
    "multiply",
    "steps_at_once",
    "sum_add",
    "sum_add_complex",
    "sum_add_products",
    "sum_columns",
    "sum_round",
    "sum_states",
    "tile_cost",
]

_LEAST_SIDE = 128  # rows or columns of a product for which our kernels are faster than BLAS
_MODES = ("wrap", "constant", "nearest", "reflect", "mirror")  # as _core counts them


def correlate(
    src: NDArray[np.inexact],
    dst: NDArray[np.inexact],
    offsets: ArrayLike,
    weights: ArrayLike,
    threads: int = 1,
    strict: bool = True,
) -> None:
    """Fill ``dst[i] = sum_t weights[t] * src[i + offsets[t]]`` for every cell ``i`` of `dst`.

    Parameters
    ----------
    src, dst : float32, float64, complex64 or complex128 array of 1 to 4 axes
        As the contract in `mpihpc.kernels` says; the outer axes may have any strides.
    offsets : (T, ndim) integers >= 0
    weights : (T,) array of the data's dtype or of its real counterpart
    threads : int
        OpenMP threads, 1 to 1024. The result is the same for all.
    strict : bool
        Ignored: the bits are always the same.

    Raises
    ------
    TypeError, ValueError
        Input that breaks the contract, with the two numbers that do not fit; `dst` is then untouched.
    """
    taps = np.asarray(offsets)
    if taps.size == 0:
        taps = np.empty((len(taps) if taps.ndim else 1, src.ndim), dtype=np.int64)
    if taps.dtype.kind not in "iu":
        raise TypeError(f"offsets is {taps.dtype}, it must be integers")
    _core.correlate(src, dst, taps.astype(np.int64, copy=False), np.asarray(weights), threads)


def multiplies(dtype: DTypeLike) -> bool:
    """Whether `multiply` can multiply this dtype on this processor."""
    return np.dtype(dtype) == np.float64 and _core.can_multiply()


def multiply(
    a: NDArray[Any], b: NDArray[Any], out: NDArray[Any], add: bool = False, threads: int = 1, always: bool = False
) -> bool:
    """``out = a @ b``, or ``out += a @ b``, if these kernels are faster than `numpy.matmul`.

    Parameters
    ----------
    a, b : (m, k) and (k, n) array
        Any strides.
    out : (m, n) array
    add : bool
        Whether to add to the values in `out`.
    threads : int
        OpenMP threads, 1 to 1024. The bits of a cell depend only on its row of `a` and its column of `b`.
    always : bool
        Multiply even if BLAS is faster: small matrices, and a matrix by its own transpose, which is half the work for
        BLAS.

    Returns
    -------
    bool
        False: nothing was done, and `out` is untouched. The kernels multiply float64 on processors with AVX2 or
        AVX-512. Rows of `out` must be contiguous, and share no memory with `a` and `b`.

    Raises
    ------
    ValueError
        Shapes that do not fit, with the two numbers.

    Notes
    -----
    Overflow gives infinity without NumPy's warning. Each thread keeps up to 4 MiB of workspace.
    """
    square = a.ctypes.data == b.ctypes.data and a.strides == b.strides[::-1]
    if not always and (square or min(out.shape, default=0) < _LEAST_SIDE):
        return False
    return _core.multiply(a, b, out, add, threads)


def advance(
    src: NDArray[np.inexact],
    dst: NDArray[np.inexact],
    offsets: ArrayLike,
    weights: ArrayLike,
    steps: int,
    box: Sequence[tuple[int, int]],
    edges: Sequence[tuple[int, int]],
    modes: Sequence[str],
    cval: complex = 0.0,
    threads: int = 1,
    tile: Sequence[int] = (),
    field: NDArray[np.floating] | None = None,
    previous: NDArray[np.inexact] | None = None,
    kept: NDArray[np.inexact] | None = None,
    strict: bool = True,
) -> None:
    """Apply a stencil `steps` times to a box of a padded block, in one pass over memory.

    Let ``s`` be the weighted sum of `correlate`. A step replaces a cell by ``s``; with a field by ``u + field * s``;
    with the values of an earlier step by ``2 u - previous + s`` or ``2 u - previous + field * s``, computed in this
    order: ``(u + u - previous) + field * s``.

    Parameters
    ----------
    src : float32, float64, complex64 or complex128 array of 1 to 4 axes
        The padded block. Only cells beyond the edges are changed.
    dst : array
        Receives the box.
    offsets : (T, ndim) integers
        Relative to the cell.
    weights : (T,) array of the data's dtype or of its real counterpart
    steps : int
        1 to 1024.
    box : sequence of (first, end)
        On each axis, in the coordinates of `src`. Cells around it are read as far as the taps reach in `steps` steps.
    edges : sequence of (first, end)
        Where the array begins and ends, in the same coordinates, on axes that do not wrap.
    modes : sequence of str
        ``constant nearest reflect mirror``, or ``wrap``: then `src` holds the cells beyond the edge.
    cval : scalar
        The value beyond ``constant`` edges.
    threads : int
        OpenMP threads, 1 to 1024. The result is the same for all.
    tile : sequence of int, optional
        Cells of a tile on each axis; 0: chosen automatically. The result is the same for all.
    field : array, optional
        Shape of `src`, real. Read around the box as far as the taps reach in ``steps - 1`` steps.
    previous : array, optional
        Shape and dtype of `src`: the values one step before `src`. Read where `field` is.
    kept : array, optional
        Shape and dtype of `dst`: receives the values after ``steps - 1`` steps. Needed with `previous` and more than
        one step.
    strict : bool
        Ignored: the bits are always the same.

    Raises
    ------
    TypeError, ValueError
        Input that breaks the contract, with the two numbers that do not fit; `dst` is then untouched.
    """
    taps = np.asarray(offsets, np.int64).reshape(-1, src.ndim)
    _core.advance(
        src,
        dst,
        taps,
        np.asarray(weights),
        steps,
        list(box),
        list(edges),
        [_MODES.index(mode) for mode in modes],
        cval,
        threads,
        list(tile),
        field,
        previous,
        kept,
    )


def steps_at_once(offsets: ArrayLike) -> int | None:
    """None: the fastest number of steps per pass depends on the machine; `mpihpc.stencil.fusing` measures it."""
    return None


def sum_add(x: NDArray[Any], state: NDArray[np.int64]) -> None:
    """Add all numbers of an array, float32 or float64, to a state: `SUM_WORDS` words, all zero at first."""
    _core.sum_add(x, state)


def sum_add_products(x: NDArray[Any], y: NDArray[Any], state: NDArray[np.int64]) -> None:
    """Add the products of two arrays of one shape and dtype, each rounded to float64, to a state."""
    _core.sum_add_products(x, y, state)


def sum_columns(x: NDArray[Any], lead: int, out: NDArray[np.float64], odd: bool = False, y: Any = None) -> int:
    """The sums of `x`, or of ``x * y``, over its first `lead` axes, into the rows of `out`.

    One row gets the rounded sums (`odd`: rounded to odd); more get numbers that add up to them. Returns how many rows
    that takes: if they are more than there are, `out` holds nothing of use.
    """
    return _core.sum_columns(x, lead, out, odd, y)


class Boxes:
    """Packs the boxes of an exchange from an array into a buffer, or unpacks them, in one call for all boxes.

    Parameters
    ----------
    boxes : sequence of boxes, each a sequence of (first, end) for each axis
        In the coordinates of the arrays. A buffer holds their cells one box after the other, each box in C order.
    axes : int
        Number of axes of the arrays.
    dtype : numpy.dtype
        Of the arrays.
    """

    def __init__(self, boxes: Sequence[Sequence[tuple[int, int]]], axes: int, dtype: DTypeLike) -> None:
        # Bits, not numbers: void items pass through the buffer protocol whatever the dtype.
        size = np.dtype(dtype).itemsize
        self._void = f"V{size}"
        self._boxes = _core.Boxes([[(int(lo), int(hi)) for lo, hi in box] for box in boxes], axes, size)

    def pack(self, array: NDArray[Any], buffer: NDArray[np.uint8]) -> None:
        """Copy the boxes of `array` into `buffer`, which has at least as many bytes."""
        self._boxes.pack(array.view(self._void), buffer)

    def unpack(self, buffer: NDArray[np.uint8], array: NDArray[Any]) -> None:
        """Copy `buffer` into the boxes of `array`."""
        self._boxes.unpack(buffer, array.view(self._void))

    def copy(self, source: NDArray[Any], others: "Boxes", target: NDArray[Any]) -> None:
        """Copy the boxes of `source` to `others`, as many boxes of the same shapes, in `target`.

        The cells that are read and those that are written must not share memory.
        """
        self._boxes.copy(source.view(self._void), others._boxes, target.view(self._void))


def checksum(array: NDArray[Any], start: Sequence[int], shape: Sequence[int]) -> int:
    """Checksum of a block of a global array: a sum modulo 2**64 of one hash of (global index, bits) per cell.

    The sums over the blocks of any decomposition add up, modulo 2**64, to the checksum of the whole array.

    Parameters
    ----------
    array : array of 1 to 4 axes, any strides, items of 1, 2, 4, 8 or 16 bytes
        The block. Its bytes in memory count, so -0.0 differs from 0.0.
    start, shape : sequences of int
        The block's first cell in the global array, and the global array's shape.

    Returns
    -------
    int
        0 <= checksum < 2**64; `mpihpc._core.checksum` defines the hash.

    Raises
    ------
    TypeError, ValueError
        Objects, another itemsize or number of axes, or a block that is not inside `shape`.
    """
    if array.dtype.hasobject:
        raise TypeError(f"array is {array.dtype}: objects have no bits to sum")
    # Bits, not numbers: void items pass through the buffer protocol whatever the dtype.
    return _core.checksum(array.view(f"V{array.dtype.itemsize}"), [int(n) for n in start], [int(n) for n in shape])
