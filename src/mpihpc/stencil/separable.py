"""Separable kernels: one pass per axis has far fewer taps than the kernel, and other rounding errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from mpihpc.core.decomposition import Width
from mpihpc.core.device import Device
from mpihpc.stencil.taps import Taps

Ranges = Sequence[tuple[int, int]]

_SLAB = 4 << 20  # bytes
_PASS = 16  # overhead of a pass, in taps (measured: for 7 x 7 in double precision both ways take as long)


def lines_worth_it(taps: Taps) -> list[Taps]:
    """The lines of `separate`, if applying them is faster than applying the kernel itself; else none."""
    lines = separate(taps)
    return lines if len(taps.weights) > sum(len(line.weights) + _PASS for line in lines) else []


def separate(taps: Taps) -> list[Taps]:
    """The one-dimensional kernels whose outer product is the kernel, to rounding; none if it is not separable.

    An axis along which all taps are at the cell itself needs no line.

    Examples
    --------
    >>> lines = separate(Taps.from_kernel([[1, 2, 1], [2, 4, 2], [1, 2, 1]], ndim=2))
    >>> [line.weights.tolist() for line in lines]
    [[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]
    >>> separate(Taps.from_kernel([[0, 1, 0], [1, -4, 1], [0, 1, 0]], ndim=2))
    []
    """
    if not len(taps.weights):
        return []
    places, index = zip(*(np.unique(column, return_inverse=True) for column in taps.offsets.T), strict=True)
    shape = tuple(map(len, places))
    if math.prod(shape) != len(taps.weights):
        return []
    dense = np.zeros(shape, taps.weights.dtype)
    dense[index] = taps.weights
    # A matrix of rank 1 is the outer product of the row and the column through its largest entry; likewise with more
    # axes.
    peak = tuple(map(int, np.unravel_index(np.abs(dense).argmax(), shape)))
    largest = dense[peak]
    crosses = [tuple(slice(None) if e == d else i for e, i in enumerate(peak)) for d in range(dense.ndim)]
    lines = [dense[cross] / largest for cross in crosses]
    error = np.abs(largest * reduce(np.multiply.outer, lines) - dense).max()
    if not error <= 4 * dense.ndim * np.finfo(float).eps * abs(largest):
        return []
    axes = [d for d, place in enumerate(places) if place.any()]
    # Each line gets its share of the factor as a power of two, which causes no rounding; the first one gets the rest.
    share = 2.0 ** round(math.log2(abs(largest)) / max(len(axes), 1))
    found = []
    for i, d in enumerate(axes):
        offsets = np.zeros((len(places[d]), dense.ndim), np.int64)
        offsets[:, d] = places[d]
        found.append(Taps(offsets, lines[d] * (share if i else largest / share ** (len(axes) - 1))))
    return found


class Passes:
    """One pass per axis, from a padded block to a box of it, slab by slab: between passes a slab stays in a cache.

    Parameters
    ----------
    lines : list of Taps
        From `separate`.
    width : tuple of (before, after) pairs
        The halo of the padded blocks.
    dtype : numpy.dtype
        Of the blocks.
    device : Device
        Where they are.
    edges, modes, cval, threads
        As for `mpihpc.kernels.cpu.advance`.
    """

    def __init__(
        self,
        lines: list[Taps],
        width: Width,
        dtype: np.dtype,
        device: Device,
        edges: Ranges,
        modes: Sequence[str],
        cval: complex,
        threads: int,
    ) -> None:
        self._width, self._dtype, self._edges, self._modes, self._threads = width, dtype, edges, modes, threads
        self._device = device
        self._axes = [int(line.offsets.any(0).argmax()) for line in lines]
        self._lines = []
        for line in lines:
            self._lines.append((line.offsets, line.weights_for(dtype), cval))
            cval *= complex(line.weights.sum())  # the value beyond an edge after the passes so far

    def advance(self, src: Any, dst: Any, box: Ranges) -> None:
        """Write the cells of `box`, in the coordinates of the padded block `src`, to `dst`."""
        grown = [hi - lo + sum(w) for (lo, hi), w in zip(box, self._width, strict=True)]
        plane = math.prod(grown[1:]) * self._dtype.itemsize
        (first, end), inner = box[0], list(box[1:])
        rows = max(1, _SLAB // plane)
        for lo in range(first, end, rows):
            hi = min(lo + rows, end)
            self._slab(src, dst[lo - first : hi - first], [(lo, hi), *inner])

    def _slab(self, src: Any, dst: Any, box: Ranges) -> None:
        origin = [0] * len(box)
        for i, (offsets, weights, cval) in enumerate(self._lines):
            # This pass computes what the next ones read: cells of the array, with room for those beyond its edges.
            later = self._axes[i + 1 :]
            fill, corner, room = [], [], []
            for d, ((lo, hi), (a, b), (begin, stop), mode) in enumerate(
                zip(box, self._width, self._edges, self._modes, strict=True)
            ):
                if d not in later:
                    a = b = 0
                corner.append(lo - a)
                room.append(hi - lo + a + b)
                fill.append((lo - a, hi + b) if mode == "wrap" else (max(lo - a, begin), min(hi + b, stop)))
            target = self._device.scratch(room, self._dtype) if later else dst
            self._device.kernels.advance(
                src,
                target[tuple(slice(lo - c, hi - c) for (lo, hi), c in zip(fill, corner, strict=True))],
                offsets,
                weights,
                1,
                [(lo - o, hi - o) for (lo, hi), o in zip(fill, origin, strict=True)],
                [(lo - o, hi - o) for (lo, hi), o in zip(self._edges, origin, strict=True)],
                self._modes,
                cval,
                self._threads,
            )
            src, origin = target, corner
