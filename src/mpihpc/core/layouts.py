"""Layouts based on a decomposition: blocks with a halo, blocks of whole chunks, everything on one rank or on all.

Pure arithmetic, like `mpihpc.core.decomposition`, which says what a layout is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from mpihpc.core.decomposition import Box, Decomposition, Part, Width

T = TypeVar("T")


@dataclass(frozen=True)
class Grown:
    """Every rank's block grown by a halo: what a rank needs before it can apply a stencil.

    Cells beyond the array are not part of it, except on periodic axes, where they are the cells on the other side. An
    empty block needs nothing.

    Parameters
    ----------
    decomposition : Decomposition
        How the array is distributed.
    width : tuple of (before, after) pairs
        Depth of the halo on each axis. It may exceed a neighbour's block, and the array.
    periodic : tuple of bool
        The axes that wrap around.
    corners : bool
        Whether the halo has edges and corners. Without them it is one slab per face, which is enough for star-shaped
        stencils, and gives at most two neighbours per axis.

    Examples
    --------
    >>> grown = Grown(Decomposition((8,), (2,)), ((1, 1),), (True,))
    >>> for part in grown.parts(0):
    ...     print(part.box.start, part.box.stop, "seen from", part.box.shift(part.shift).start)
    (7,) (8,) seen from (-1,)
    (0,) (5,) seen from (0,)
    """

    decomposition: Decomposition
    width: Width
    periodic: tuple[bool, ...]
    corners: bool = True

    def parts(self, rank: int) -> list[Part]:
        """The rank's block and halo, cut where an axis wraps around."""
        box = self.decomposition.box(rank)
        if not box.size:
            return []
        own = [[(a, b, 0)] for a, b in zip(*box, strict=True)]
        near = [list(self._images(d, a, b)) for d, (a, b) in enumerate(zip(*box.grow(self.width), strict=True))]
        return [
            Part(Box(*zip(*((lo, hi) for lo, hi, _ in cell), strict=True)), tuple(s for _, _, s in cell))
            for axes in self._spread(own, near)
            for cell in product(*axes)
        ]

    def owners(self, box: Box) -> list[int]:
        """The ranks whose block or halo may hold a cell of `box`."""
        cut = self.decomposition
        own = [list(cut.blocks(d, a, b)) for d, (a, b) in enumerate(zip(*box, strict=True))]
        # A cell is in the halo of blocks that end up to `after` cells before it, or begin up to `before` cells after
        # it.
        reach = box.grow(tuple((after, before) for before, after in self.width))
        near = [
            sorted({c for lo, hi, _ in self._images(d, a, b) for c in cut.blocks(d, lo, hi)})
            for d, (a, b) in enumerate(zip(*reach, strict=True))
        ]
        return sorted({cut.rank(c) for axes in self._spread(own, near) for c in product(*axes)})

    def _images(self, axis: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The cells of the axis that ``start <= i < stop`` refers to: (start, stop, shift back to i)."""
        n = self.decomposition.shape[axis]
        if not self.periodic[axis]:
            yield max(start, 0), min(stop, n), 0
            return
        for turn in range(start // n, -(-stop // n)):
            yield max(start - turn * n, 0), min(stop - turn * n, n), turn * n

    def _spread(self, own: list[T], near: list[T]) -> Iterator[list[T]]:
        """Extend the block on all axes at once, or, without corners, on one axis at a time."""
        if self.corners:
            yield near
        else:
            for d in range(len(own)):
                yield [*own[:d], near[d], *own[d + 1 :]]


@dataclass(frozen=True)
class Chunks:
    """The array cut between chunks: the grid of chunks is split over the same grid of ranks as the array is.

    So a rank's chunks are those of its block, except for some at the edges of the block.

    Parameters
    ----------
    decomposition : Decomposition
        How the array is distributed.
    chunk : tuple of int
        Shape of a chunk.

    Examples
    --------
    >>> chunks = Chunks(Decomposition((10, 4), (2, 1)), (3, 4))
    >>> [chunks.box(rank).shape for rank in (0, 1)]
    [(6, 4), (4, 4)]
    """

    decomposition: Decomposition
    chunk: tuple[int, ...]

    def box(self, rank: int) -> Box:
        """The cells of a rank's chunks."""
        low, high = self._grid.box(rank)
        shape = self.decomposition.shape
        return Box(
            tuple(min(i * c, n) for i, c, n in zip(low, self.chunk, shape, strict=True)),
            tuple(min(i * c, n) for i, c, n in zip(high, self.chunk, shape, strict=True)),
        )

    def parts(self, rank: int) -> list[Part]:
        """The rank's chunks, as one box."""
        box = self.box(rank)
        return [Part(box, (0,) * len(self.chunk))] if box.size else []

    def owners(self, box: Box) -> list[int]:
        """The ranks that have chunks with cells of `box`."""
        low = tuple(a // c for a, c in zip(box.start, self.chunk, strict=True))
        high = tuple(-(-b // c) for b, c in zip(box.stop, self.chunk, strict=True))
        return self._grid.owners(Box(low, high))

    @property
    def _grid(self) -> Decomposition:
        cut = self.decomposition
        return Decomposition(tuple(-(-n // c) for n, c in zip(cut.shape, self.chunk, strict=True)), cut.dims)


@dataclass(frozen=True)
class Whole:
    """The whole array on one rank, or on every rank.

    Parameters
    ----------
    shape : tuple of int
        Global shape.
    size : int
        Number of ranks.
    root : int, optional
        The only rank that has or needs the array; None: all of them. (None is only for the need of a transfer: if
        several ranks *have* the same cells, all of them would send them.)

    Examples
    --------
    >>> whole = Whole((4, 3), size=2, root=0)
    >>> whole.parts(0), whole.parts(1)
    ([Part(box=Box(start=(0, 0), stop=(4, 3)), shift=(0, 0))], [])
    """

    shape: tuple[int, ...]
    size: int
    root: int | None = None

    def parts(self, rank: int) -> list[Part]:
        """Everything, or nothing."""
        whole = Box.whole(self.shape)
        return [Part(whole, (0,) * len(self.shape))] if self.root in (None, rank) and whole.size else []

    def owners(self, box: Box) -> list[int]:
        """All ranks, or the root."""
        return list(range(self.size)) if self.root is None else [self.root]
