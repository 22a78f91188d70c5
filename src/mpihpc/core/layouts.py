"""Layouts around a decomposition: blocks with a halo, blocks cut between chunks, and everything on one rank or on all.

Pure arithmetic, as `mpihpc.core.decomposition`, which says what a layout is.
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

    Cells beyond the array are needed from nobody, but on periodic axes they are the cells on the other side. An
    empty block needs nothing.

    Parameters
    ----------
    decomposition : Decomposition
        How the array is cut.
    width : tuple of (before, after) pairs
        Depth of the halo on each axis. It may exceed a neighbour's block, and the array.
    periodic : tuple of bool
        The axes that wrap around.
    corners : bool
        Whether the halo has edges and corners. Without them it is one slab per face: enough for star-shaped
        stencils, and at most two neighbours per axis.
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
        # A cell is in the halo of the blocks up to `after` behind it and `before` ahead of it.
        reach = box.grow(tuple((after, before) for before, after in self.width))
        near = [
            sorted({c for lo, hi, _ in self._images(d, a, b) for c in cut.blocks(d, lo, hi)})
            for d, (a, b) in enumerate(zip(*reach, strict=True))
        ]
        return sorted({cut.rank(c) for axes in self._spread(own, near) for c in product(*axes)})

    def _images(self, axis: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The cells of the axis that ``start <= i < stop`` stands for: (start, stop, shift back to i)."""
        n = self.decomposition.shape[axis]
        if not self.periodic[axis]:
            yield max(start, 0), min(stop, n), 0
            return
        for turn in range(start // n, -(-stop // n)):
            yield max(start - turn * n, 0), min(stop - turn * n, n), turn * n

    def _spread(self, own: list[T], near: list[T]) -> Iterator[list[T]]:
        """Reach out on all axes at once, or on one axis at a time where there are no corners."""
        if self.corners:
            yield near
        else:
            for d in range(len(own)):
                yield [*own[:d], near[d], *own[d + 1 :]]


@dataclass(frozen=True)
class Chunks:
    """The array cut between chunks: the grid of chunks is split over the same grid of ranks as the array is.

    So a rank's chunks are those of its block, but for some at the edges.

    Parameters
    ----------
    decomposition : Decomposition
        How the array is cut.
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
        The only rank that has or needs the array; None: all of them. (Only as a need: a rank that *has* what others
        have too would send it twice.)
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
