"""Layouts between an array and one with length 1 on some axes: its reduction, or an array that is broadcast to it.

Pure arithmetic, like `mpihpc.core.decomposition`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from mpihpc.core.decomposition import Box, Decomposition, Part


@dataclass(frozen=True)
class Spread:
    """What the blocks of a decomposition need of an array that NumPy broadcasts to its shape.

    Parameters
    ----------
    decomposition : Decomposition
        How the large array is distributed.
    axes : tuple of int
        The axes on which the other array has length 1: all blocks along them need its one cell.

    Examples
    --------
    >>> row = Spread(Decomposition((8, 6), (2, 2)), (0,))
    >>> [row.box(rank) for rank in (1, 3)]
    [Box(start=(0, 3), stop=(1, 6)), Box(start=(0, 3), stop=(1, 6))]
    """

    decomposition: Decomposition
    axes: tuple[int, ...]

    def box(self, rank: int) -> Box:
        """The cells that are broadcast to a rank's block."""
        return replaced(self.decomposition.box(rank), self.axes, [1] * len(self.axes))

    def parts(self, rank: int) -> list[Part]:
        """The rank's box, if its block is not empty."""
        return [Part(self.box(rank), (0,) * self.decomposition.ndim)] if self.decomposition.box(rank).size else []

    def owners(self, box: Box) -> list[int]:
        """The ranks to whose blocks cells of `box` are broadcast."""
        cut = self.decomposition
        near = [
            range(cut.dims[d]) if d in self.axes else cut.blocks(d, a, b)
            for d, (a, b) in enumerate(zip(*box, strict=True))
        ]
        return [cut.rank(coords) for coords in product(*near)]


@dataclass(frozen=True)
class Gathered:
    """What the owners of a reduction need: the partial results of all blocks along the reduced axes.

    Parameters
    ----------
    decomposition : Decomposition
        How the result is distributed; it has length 1 on the reduced axes.
    axes : tuple of int
        The reduced axes.
    counts : tuple of int
        The number of partial results along each of them.

    Examples
    --------
    >>> Gathered(Decomposition((1, 6), (1, 2)), (0,), (4,)).box(1)
    Box(start=(0, 3), stop=(4, 6))
    """

    decomposition: Decomposition
    axes: tuple[int, ...]
    counts: tuple[int, ...]

    def box(self, rank: int) -> Box:
        """The partial results that a rank needs."""
        return replaced(self.decomposition.box(rank), self.axes, self.counts)

    def parts(self, rank: int) -> list[Part]:
        """The rank's box, if it owns a part of the result."""
        return [Part(self.box(rank), (0,) * self.decomposition.ndim)] if self.decomposition.box(rank).size else []

    def owners(self, box: Box) -> list[int]:
        """The ranks that own the results of these partial results."""
        return self.decomposition.owners(replaced(box, self.axes, [1] * len(self.axes)))


def replaced(box: Box, axes: Sequence[int], lengths: Sequence[int]) -> Box:
    """The box with ``0 <= i < length`` on some axes.

    Examples
    --------
    >>> replaced(Box((2, 3), (4, 9)), (1,), (1,))
    Box(start=(2, 0), stop=(4, 1))
    """
    start, stop = list(box.start), list(box.stop)
    for axis, length in zip(axes, lengths, strict=True):
        start[axis], stop[axis] = 0, length
    return Box(tuple(start), tuple(stop))
