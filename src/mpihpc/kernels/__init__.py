"""Kernels: what one process does to its local arrays. They know nothing of MPI, decompositions or halos.

Each room (`reference`, `cpu`, `cuda`) offers the functions of `Kernels`, or names those that it does not offer in its
`NOT_OFFERED`. `advance` applies a stencil several times to a block
with edges; one step of it is::

    correlate(src, dst, offsets, weights, threads=1, strict=True)

    dst[i] = sum over t of weights[t] * src[i + offsets[t]]    for every cell i of dst

`src` is the region grown by the halo and `dst` the region, both usually views: equal dtypes (float32,
float64, complex64, complex128), 1 to 4 axes, the last one contiguous, no memory in common (judged by the
ranges of addresses). `offsets` is a (T, ndim) integer array of values >= 0 with
``src.shape[d] >= dst.shape[d] + offsets[:, d].max()``; `weights` has T entries of the data's dtype or of its
real counterpart. No taps give zeros. Bad input is a `ValueError` or `TypeError`, with `dst` untouched.

Every room adds the taps in the order given, ``acc = w[0]*x[0]; acc = acc + w[t]*x[t]``, without fused
multiply-add, for interior and edge cells alike: so a result does not depend on how the array was cut, and the
CPU rooms agree bit for bit. (Where the result is NaN, which NaN comes out is not promised.)
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Mover(Protocol):
    """The boxes that an exchange takes out of an array, or puts into it, in one call for all."""

    def pack(self, array: Any, buffer: Any) -> None:
        """Copy the boxes of `array` into `buffer`, a row of bytes."""

    def unpack(self, buffer: Any, array: Any) -> None:
        """Copy `buffer` into the boxes of `array`."""

    def copy(self, source: Any, others: Any, target: Any) -> None:
        """Copy the boxes of `source` to those of `target`, which are `others`: as many, of the same shapes."""


class Kernels(Protocol):
    """What a room offers for the arrays of its device. The docstrings of `mpihpc.kernels.cpu` say what each does."""

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
        """Some steps of a box of a padded block; without `strict`, multiplications may be fused with additions."""

    def steps_at_once(self, offsets: Any) -> int | None:
        """How many steps of these taps are worth while in one pass; None: that depends on the machine."""

    def Boxes(self, boxes: Any, axes: int, dtype: Any) -> Mover:
        """What packs and unpacks boxes, each a sequence of (first, end), of arrays of a dtype."""

    def sum_add(self, x: Any, state: Any) -> None:
        """Add all numbers of an array to an exact sum, whose state is in host memory."""

    def sum_add_products(self, x: Any, y: Any, state: Any) -> None:
        """Add the products of two arrays to an exact sum."""

    def sum_columns(self, x: Any, lead: int, out: Any, odd: bool = False, y: Any = None) -> int:
        """The sums of ``x``, or of ``x * y``, over the first axes, as one or more rows of numbers in host memory."""
