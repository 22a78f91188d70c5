"""Boxes in global index space, and how an array is cut into one box per rank.

Pure arithmetic: no MPI, no arrays. Every question is answered in closed form for any rank, so planning for one
rank out of a million needs no loop over a million.

A *layout* says which cells each rank has or needs. It has two methods:

``parts(rank)``
    the boxes that the rank has or needs, as `Part` s;
``owners(box)``
    the ranks that have or need a part of `box`, in increasing order (extra ranks do no harm: their overlap is empty).

`Decomposition` is one; `mpihpc.core.layouts` has others. `mpihpc.core.transfer.Transfer` moves data between any two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Integral
from operator import index
from typing import Any, NamedTuple, Protocol

Width = tuple[tuple[int, int], ...]
"""Cells before and after a block, one pair per axis."""


class Box(NamedTuple):
    """A box of cells: half-open ranges of global indices, ``start[d] <= i < stop[d]`` on each axis.

    Attributes
    ----------
    start, stop : tuple of int
        The first index on each axis, and the one after the last. ``a & b`` is the intersection of two boxes.

    Examples
    --------
    >>> a, b = Box((0, 0), (4, 6)), Box((2, 5), (9, 9))
    >>> a & b
    Box(start=(2, 5), stop=(4, 6))
    >>> (a & b).shape, (a & b).size
    ((2, 1), 2)
    >>> a.grow(((1, 2), (0, 0)))
    Box(start=(-1, 0), stop=(6, 6))
    >>> b.slices(origin=(2, 4))
    (slice(0, 7, None), slice(1, 5, None))
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """The box of all cells of an array of this shape.

        Examples
        --------
        >>> Box.whole((3, 4))
        Box(start=(0, 0), stop=(3, 4))
        """
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of cells along each axis; an empty box has a zero."""
        return tuple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    def __and__(self, other: Box) -> Box:
        """The cells in both."""
        return Box(
            tuple(map(max, self.start, other.start)),
            tuple(map(min, self.stop, other.stop)),
        )

    def shift(self, by: Sequence[int]) -> Box:
        """The box shifted by this many cells on each axis."""
        return Box(
            tuple(a + s for a, s in zip(self.start, by, strict=True)),
            tuple(b + s for b, s in zip(self.stop, by, strict=True)),
        )

    def grow(self, width: Width) -> Box:
        """The box with a halo around it. It may reach beyond the array."""
        return Box(
            tuple(a - w[0] for a, w in zip(self.start, width, strict=True)),
            tuple(b + w[1] for b, w in zip(self.stop, width, strict=True)),
        )

    def slabs(self, limit: int, *, step: Sequence[int] | None = None, fastest_first: bool = False) -> Iterator[Box]:
        """The box in pieces of about `limit` cells that are contiguous, or nearly so, in memory or in a file.

        Parameters
        ----------
        limit : int
            The most cells in a piece; exceeded only where `step` requires it.
        step : sequence of int, optional
            Cut at multiples of this on each axis, where chunks of a file begin.
        fastest_first : bool
            Whether the first axis varies fastest, as in Fortran order.

        Examples
        --------
        >>> [box.shape for box in Box((0, 0), (5, 4)).slabs(8)]
        [(2, 4), (2, 4), (1, 4)]
        """
        if not self.size:
            return
        order = range(len(self.start))
        for axis in reversed(order) if fastest_first else order:
            start, stop, chunk = self.start[axis], self.stop[axis], step[axis] if step else 1
            rows = max(1, limit * (stop - start) // self.size // chunk) * chunk
            if self.size <= limit or rows >= stop - start:
                continue
            while start < stop:
                end = min((start // rows + 1) * rows, stop)
                low, high = list(self.start), list(self.stop)
                low[axis], high[axis] = start, end
                yield from Box(tuple(low), tuple(high)).slabs(limit, step=step, fastest_first=fastest_first)
                start = end
            return
        yield self

    def slices(self, origin: Sequence[int] | None = None) -> tuple[slice, ...]:
        """The index of these cells in a local array whose first cell has the global index `origin` (default: zeros)."""
        origin = origin or (0,) * len(self.start)
        return tuple(slice(a - o, max(a, b) - o) for a, b, o in zip(self.start, self.stop, origin, strict=True))


class Part(NamedTuple):
    """Cells of the global array, and the coordinates at which the rank sees them.

    The rank sees the cells of `box` at ``box.shift(shift)``. The shift is not zero where a periodic axis wraps around:
    there, cell n - 1 is also cell -1.
    """

    box: Box
    shift: tuple[int, ...]


class Layout(Protocol):
    """Which boxes each rank has or needs: what `Transfer` moves data between."""

    def parts(self, rank: int) -> list[Part]:
        """The boxes that a rank has or needs."""
        ...

    def owners(self, box: Box) -> list[int]:
        """The ranks that have or need a part of `box`, in increasing order."""
        ...


@dataclass(frozen=True)
class Decomposition:
    """A global shape cut into a grid of blocks, one per rank, as `numpy.array_split` cuts an axis.

    The first ``n % p`` of the ``p`` blocks of an axis of length ``n`` have one cell more. Ranks are numbered over
    the grid in C order. If an axis has more blocks than cells, some blocks are empty.

    Parameters
    ----------
    shape : tuple of int
        Global shape.
    dims : tuple of int
        Blocks along each axis. Their product is the number of ranks.

    Raises
    ------
    ValueError
        No axes, a negative length, 2**63 cells or more, or a grid that does not fit.

    Examples
    --------
    >>> d = Decomposition((10, 4), (3, 2))
    >>> d.size, d.coords(3), d.box(3)
    (6, (1, 1), Box(start=(4, 2), stop=(7, 4)))
    >>> d.owners(Box((3, 0), (5, 1)))
    [0, 2]
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(index(n) for n in self.shape))
        object.__setattr__(self, "dims", tuple(index(p) for p in self.dims))
        if len(self.shape) != len(self.dims):
            raise ValueError(
                f"grid {grid_text(self.dims)} has {axes_text(len(self.dims))}, the array has {len(self.shape)}"
            )
        if not self.shape:
            raise ValueError("an array with 0 axes cannot be split: give it at least 1 axis")
        if min(self.shape) < 0:
            raise ValueError(f"shape {self.shape} has a negative length")
        if math.prod(self.shape) >= 1 << 63:
            raise ValueError(f"shape {self.shape} has {math.prod(self.shape)} cells, more than 2**63 - 1")
        if min(self.dims) < 1:
            raise ValueError(f"grid {grid_text(self.dims)} has an axis with no ranks: use 1 or more")

    @classmethod
    def balanced(
        cls,
        shape: Sequence[int],
        size: int,
        *,
        halo: int | Sequence[int] | Width = 1,
        periodic: bool | Sequence[bool] = False,
        dims: Sequence[int] | None = None,
    ) -> Decomposition:
        """The grid of `size` ranks with the fewest halo bytes.

        Grids that leave ranks without cells are taken only if every grid does. Among ties it takes the grid whose
        largest block is smallest; then one that leaves the last axis whole, so that rows stay contiguous in memory and
        in files; then one that leaves the first axis whole, along which kernels sweep.

        Parameters
        ----------
        shape : sequence of int
            Global shape.
        size : int
            Number of ranks.
        halo : int, one int or one (before, after) pair per axis
            Depth of the halo that will be exchanged.
        periodic : bool or one per axis
            Whether the axis wraps around, so that its first and last block are neighbours too.
        dims : sequence of int, optional
            Use this grid instead of choosing one: it must have one entry per axis, and `size` ranks.

        Raises
        ------
        ValueError
            A grid that does not have `size` ranks or one entry per axis.

        Examples
        --------
        >>> Decomposition.balanced((4096, 4096), 8).dims
        (4, 2)
        >>> Decomposition.balanced((4096, 4096), 2).dims
        (2, 1)
        >>> Decomposition.balanced((10, 4000), 4).dims
        (1, 4)
        >>> Decomposition.balanced((256, 256, 256), 2).dims
        (1, 2, 1)
        >>> Decomposition.balanced((1000, 10, 1000), 8, halo=(0, 0, 1)).dims
        (4, 2, 1)
        """
        shape = tuple(index(n) for n in shape)
        if dims is not None:
            chosen = cls(shape, tuple(dims))
            if chosen.size != size:
                raise ValueError(f"grid {grid_text(dims)} needs {ranks_text(chosen.size)}, the job has {size}")
            return chosen
        cls(shape, (1,) * len(shape))  # raises if the shape cannot be split
        width = halo_width(halo, len(shape))
        wraps = (periodic,) * len(shape) if isinstance(periodic, bool) else tuple(periodic)

        def cost(grid: tuple[int, ...]) -> tuple[int, int, int, tuple[int, ...]]:
            busy = [min(p, n) for p, n in zip(grid, shape, strict=True)]
            cuts = [p if w and p > 1 else max(p - 1, 0) for p, w in zip(busy, wraps, strict=True)]
            # The total size of all padded blocks is a product over the axes; corners are counted too.
            padded = math.prod(n + c * sum(w) for n, c, w in zip(shape, cuts, width, strict=True))
            largest = math.prod(-(-n // p) for n, p in zip(shape, grid, strict=True))
            return -math.prod(busy), padded - math.prod(shape), largest, (*grid[-1:], *grid[:-1])

        return cls(shape, min(factorisations(size, len(shape)), key=cost))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of ranks."""
        return math.prod(self.dims)

    def coords(self, rank: int) -> tuple[int, ...]:
        """The coordinates of a rank in the grid."""
        if not 0 <= rank < self.size:
            raise ValueError(f"rank {rank} is not one of the {self.size} of grid {grid_text(self.dims)}")
        coords = []
        for p in reversed(self.dims):
            rank, c = divmod(rank, p)
            coords.append(c)
        return tuple(reversed(coords))

    def rank(self, coords: Sequence[int]) -> int:
        """The rank at these coordinates of the grid."""
        rank = 0
        for c, p in zip(coords, self.dims, strict=True):
            rank = rank * p + c
        return rank

    def cut(self, axis: int, block: int) -> int:
        """The global index at which a block of an axis begins; for block ``dims[axis]``, the length of the axis."""
        q, r = divmod(self.shape[axis], self.dims[axis])
        return block * q + min(block, r)

    def block(self, axis: int, index: int) -> int:
        """The block of an axis that holds a global index."""
        q, r = divmod(self.shape[axis], self.dims[axis])
        return index // (q + 1) if index < r * (q + 1) else r + (index - r * (q + 1)) // q

    def box(self, rank: int) -> Box:
        """The cells that a rank owns."""
        coords = self.coords(rank)
        return Box(
            tuple(self.cut(d, c) for d, c in enumerate(coords)),
            tuple(self.cut(d, c + 1) for d, c in enumerate(coords)),
        )

    def blocks(self, axis: int, start: int, stop: int) -> range:
        """The blocks of an axis with a cell in ``start <= i < stop``; indices outside the axis are ignored."""
        start, stop = max(start, 0), min(stop, self.shape[axis])
        return range(self.block(axis, start), self.block(axis, stop - 1) + 1) if start < stop else range(0)

    def parts(self, rank: int) -> list[Part]:
        """The rank's block."""
        box = self.box(rank)
        return [Part(box, (0,) * self.ndim)] if box.size else []

    def owners(self, box: Box) -> list[int]:
        """The ranks that own a cell of `box`."""
        near = [self.blocks(d, a, b) for d, (a, b) in enumerate(zip(*box, strict=True))]
        return [self.rank(coords) for coords in product(*near)]


def halo_width(halo: int | Sequence[int] | Width, ndim: int) -> Width:
    """A halo as one (before, after) pair per axis, from one depth, one per axis, or one pair per axis.

    Examples
    --------
    >>> halo_width(2, 2)
    ((2, 2), (2, 2))
    >>> halo_width([1, (0, 3)], 2)
    ((1, 1), (0, 3))
    """
    try:
        per_axis: list[Any] = [halo] * ndim if isinstance(halo, Integral) else list(halo)  # type: ignore[arg-type]
        pairs = [(w, w) if isinstance(w, Integral) else tuple(w) for w in per_axis]
        width = tuple((index(before), index(after)) for before, after in pairs)
    except (TypeError, ValueError):
        raise TypeError(f"halo {halo!r} is not a depth, one per axis, or one (before, after) pair per axis") from None
    if len(width) != ndim:
        raise ValueError(f"halo {halo} has {axes_text(len(width))}, the array has {ndim}")
    if any(w < 0 for pair in width for w in pair):
        raise ValueError(f"halo {halo} has a negative depth: use 0 or more")
    return width


def grid_text(dims: Sequence[int]) -> str:
    """A grid as text: ``4x2``."""
    return "x".join(map(str, dims))


def axes_text(count: int) -> str:
    """``1 axis``, ``2 axes``."""
    return f"{count} {'axis' if count == 1 else 'axes'}"


def ranks_text(count: int) -> str:
    """``1 rank``, ``2 ranks``."""
    return f"{count} {'rank' if count == 1 else 'ranks'}"


def factorisations(size: int, ndim: int) -> Iterator[tuple[int, ...]]:
    """All grids of `ndim` axes with `size` ranks."""
    if ndim == 1:
        yield (size,)
        return
    small = [p for p in range(1, math.isqrt(size) + 1) if size % p == 0]
    for p in {*small, *(size // p for p in small)}:
        for rest in factorisations(size // p, ndim - 1):
            yield (p, *rest)
