"""Kernels: what one process does to its local arrays. They know nothing of MPI, decompositions or halos.

Each backend (`reference`, `cpu`, `cuda`) offers the functions of `Kernels`, or names those that it lacks in its
`NOT_OFFERED`. `advance` applies a stencil several times to a block with edges; one step of it is::

    correlate(src, dst, offsets, weights, threads=1, strict=True)

    dst[i] = sum over t of weights[t] * src[i + offsets[t]]    for every cell i of dst

`dst` is a region and `src` the same region with a halo, both usually views. They have equal dtypes (float32, float64,
complex64, complex128), 1 to 4 axes, the last one contiguous, and no memory in common (judged by the ranges of
addresses). `offsets` is a (T, ndim) integer array of values >= 0 with
``src.shape[d] >= dst.shape[d] + offsets[:, d].max()``; `weights` has T entries of the data's dtype or of its real
counterpart. Without taps the result is zero. Bad input raises `ValueError` or `TypeError`, and leaves `dst` untouched.

All of them add the taps in the order given, ``acc = w[0]*x[0]; acc = acc + w[t]*x[t]``, without fused multiply-add, for
interior and edge cells alike. So a result does not depend on how the array is distributed, and all of them agree bit
for bit. (If a result is NaN, its payload is not specified.)
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Mover(Protocol):
    """Packs the boxes of an exchange from an array into a buffer, or unpacks them, in one call for all boxes."""

    def pack(self, array: Any, buffer: Any) -> None:
        """Copy the boxes of `array` into `buffer`, an array of bytes."""

    def unpack(self, buffer: Any, array: Any) -> None:
        """Copy `buffer` into the boxes of `array`."""

    def copy(self, source: Any, others: Any, target: Any) -> None:
        """Copy the boxes of `source` to `others`, as many boxes of the same shapes, in `target`."""


class Kernels(Protocol):
    """What a backend offers for arrays of its device. The docstrings of `mpihpc.kernels.cpu` describe each function."""

    def correlate(self, src: Any, dst: Any, offsets: Any, weights: Any, threads: int = 1, strict: bool = True) -> None:
        """One step of a stencil, as above."""

    def advance(
        self,
        src: Any,
        dst: Any,
        offsets: Any,
        weights: Any,
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
        """Several steps on a box of a padded block; without `strict`, fused multiply-add is allowed."""

    def steps_at_once(self, offsets: Any) -> int | None:
        """The number of steps of these taps per pass that is fastest; None: it depends on the machine."""

    def Boxes(self, boxes: Any, axes: int, dtype: Any) -> Mover:
        """An object that packs and unpacks boxes, each a sequence of (first, end), of arrays of a dtype."""

    def sum_add(self, x: Any, state: Any) -> None:
        """Add all numbers of an array to an exact sum, whose state is in host memory."""

    def sum_add_products(self, x: Any, y: Any, state: Any) -> None:
        """Add the products of two arrays to an exact sum."""

    def sum_columns(self, x: Any, lead: int, out: Any, odd: bool = False, y: Any = None) -> int:
        """The sums of ``x``, or of ``x * y``, over the first axes, as one or more rows of numbers in host memory."""
