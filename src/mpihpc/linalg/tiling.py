"""Layouts of the matrices of a product. Pure arithmetic, no MPI, no arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpihpc.core.decomposition import Box, Decomposition, Layout, Part


@dataclass(frozen=True)
class Tiling(Decomposition):
    """An array distributed over the process grid of a product.

    For each axis of the array, `axes` names grid axes. The axis is cut into as many blocks as the first of them has
    ranks, each block into as many as the second has, and so on. Ranks are numbered over the grid in C order; ranks
    beyond the grid have nothing.

    Parameters
    ----------
    shape, dims : tuple of int
        Shape of the array, and number of blocks along each of its axes.
    grid : tuple of int
        Ranks along each axis of the grid (for a product: m, n, k).
    axes : tuple of tuples
        For each axis of the array, the grid axes that cut it. Along a grid axis that is in none of them, all ranks have
        the same cells.
    ranks : int
        Size of the communicator.
    atoms : tuple of int, optional
        For each axis of the array: cut it only between this many equal parts.

    Examples
    --------
    >>> a = Tiling((8, 6), (4, 2), (2, 2, 2), ((0, 1), (2,)), 8)
    >>> a.box(0), a.box(1)
    (Box(start=(0, 0), stop=(2, 3)), Box(start=(0, 3), stop=(2, 6)))
    """

    grid: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    ranks: int
    atoms: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        grid: tuple[int, ...],
        axes: tuple[tuple[int, ...], ...],
        ranks: int,
        atoms: tuple[int, ...] = (),
    ) -> Tiling:
        """The tiling of a shape; `dims` follows from the grid."""
        dims = tuple(math.prod(grid[g] for g in cuts) for cuts in axes)
        return cls(tuple(shape), dims, grid, axes, ranks, atoms)

    @property
    def size(self) -> int:
        return self.ranks

    def coords(self, rank: int) -> tuple[int, ...]:
        """Index of a rank's block along each axis of the array."""
        place = Decomposition(self.grid, self.grid).coords(rank)
        coords = []
        for cuts in self.axes:
            block = 0
            for g in cuts:
                block = block * self.grid[g] + place[g]
            coords.append(block)
        return tuple(coords)

    def rank(self, coords: Sequence[int]) -> int:
        """The first rank that has a block."""
        place = [0] * len(self.grid)
        for block, cuts in zip(coords, self.axes, strict=True):
            for g in reversed(cuts):
                block, place[g] = divmod(block, self.grid[g])
        return Decomposition(self.grid, self.grid).rank(place)

    def cut(self, axis: int, block: int) -> int:
        atoms = self._atoms(axis)
        start = self._range(axis, block)[0] if block < self.dims[axis] else atoms
        return self._cells(axis).cut(0, start) if self.atoms else start

    def block(self, axis: int, index: int) -> int:
        atom = self._cells(axis).block(0, index) if self.atoms else index
        block, count = 0, self._atoms(axis)
        for g in self.axes[axis]:
            line = Decomposition((count,), (self.grid[g],))
            i = line.block(0, atom)
            atom, count = atom - line.cut(0, i), line.cut(0, i + 1) - line.cut(0, i)
            block = block * self.grid[g] + i
        return block

    def box(self, rank: int) -> Box:
        """The cells of a rank."""
        if math.prod(self.grid) <= rank < self.ranks:
            return Box((0,) * self.ndim, (0,) * self.ndim)
        return super().box(rank)

    def owners(self, box: Box) -> list[int]:
        """The ranks that have a cell of `box`."""
        shared = [g for g in range(len(self.grid)) if all(g not in cuts for cuts in self.axes)]
        strides = [math.prod(self.grid[g + 1 :]) for g in shared]
        owners = super().owners(box)
        for g, stride in zip(shared, strides, strict=True):
            owners = [rank + c * stride for rank in owners for c in range(self.grid[g])]
        return sorted(owners)

    def _atoms(self, axis: int) -> int:
        """The most parts that an axis can be cut into."""
        return self.atoms[axis] if self.atoms else self.shape[axis]

    def _cells(self, axis: int) -> Decomposition:
        return Decomposition((self.shape[axis],), (self.atoms[axis],))

    def _range(self, axis: int, block: int) -> tuple[int, int]:
        """The atoms of a block of an axis."""
        start, stop = 0, self._atoms(axis)
        rest = self.dims[axis]
        for g in self.axes[axis]:
            rest //= self.grid[g]
            i, block = divmod(block, rest)
            line = Decomposition((stop - start,), (self.grid[g],))
            start, stop = start + line.cut(0, i), start + line.cut(0, i + 1)
        return start, stop

    def plain(self) -> Decomposition:
        """The equal plain `Decomposition`, or the tiling itself if there is none."""
        cuts = [[g for g in axis if self.grid[g] > 1] for axis in self.axes]
        order = [g for axis in cuts for g in axis]
        same = order == sorted(order) and all(len(axis) <= 1 for axis in cuts) and not self.atoms
        whole = math.prod(self.dims) == self.ranks
        return Decomposition(self.shape, self.dims) if same and whole else self

    def without(self, axis: int) -> Tiling:
        """The tiling of the array without one of its axes."""
        keep = [d for d in range(self.ndim) if d != axis]
        shape, axes = tuple(self.shape[d] for d in keep), tuple(self.axes[d] for d in keep)
        return Tiling.of(shape, self.grid, axes, self.ranks, tuple(self.atoms[d] for d in keep if self.atoms))


@dataclass(frozen=True)
class Slice:
    """One slice, along an axis, of every rank's block: number `step` of `steps`."""

    tiling: Decomposition
    axis: int
    step: int
    steps: int

    def parts(self, rank: int) -> list[Part]:
        """The slice of the rank's block."""
        box = self.tiling.box(rank)
        line, first = Decomposition((box.shape[self.axis],), (self.steps,)), box.start[self.axis]
        start, stop = list(box.start), list(box.stop)
        start[self.axis], stop[self.axis] = first + line.cut(0, self.step), first + line.cut(0, self.step + 1)
        box = Box(tuple(start), tuple(stop))
        return [Part(box, (0,) * len(start))] if box.size else []

    def owners(self, box: Box) -> list[int]:
        """The ranks that may need a cell of `box`."""
        return self.tiling.owners(box)


@dataclass(frozen=True)
class AsMatrix:
    """An array viewed as a matrix: transposed, or a vector as a row or a column.

    Parameters
    ----------
    layout : Layout
        Of the array.
    axes : tuple of int or None
        For the rows and the columns of the matrix: the axis of the array, or None if there is only one row or column.

    Examples
    --------
    >>> AsMatrix(Decomposition((8, 6), (2, 1)), (1, 0)).parts(1)
    [Part(box=Box(start=(0, 4), stop=(6, 8)), shift=(0, 0))]
    >>> AsMatrix(Decomposition((8,), (2,)), (None, 0)).parts(1)
    [Part(box=Box(start=(0, 4), stop=(1, 8)), shift=(0, 0))]
    """

    layout: Layout
    axes: tuple[int | None, ...]

    def parts(self, rank: int) -> list[Part]:
        """The parts of the rank, as parts of the matrix."""
        return [
            Part(Box(self.seen(box.start, 0), self.seen(box.stop, 1)), self.seen(shift, 0))
            for box, shift in self.layout.parts(rank)
        ]

    def owners(self, box: Box) -> list[int]:
        """The ranks that have a cell of `box`."""
        back = [self.axes.index(d) for d in range(sum(d is not None for d in self.axes))]
        return self.layout.owners(Box(tuple(box.start[d] for d in back), tuple(box.stop[d] for d in back)))

    def seen(self, indices: Sequence[int], single: int) -> tuple[int, ...]:
        """Indices of the array as indices of the matrix; `single` where there is only one row or column."""
        return tuple(single if d is None else indices[d] for d in self.axes)
