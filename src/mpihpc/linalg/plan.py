"""Which rank multiplies what: the grid of ranks that moves the fewest words. Pure arithmetic, no MPI, no arrays.

The multiply-adds of ``c[i, j] += a[i, l] * b[l, j]`` fill a cuboid of m x n x k cells. It is cut into a grid of
pm x pn x pk blocks, one per rank. The faces of a block are what its rank needs of `a`, what it needs of `b`, and what
it adds to `c`; each face is shared by the ranks of one line of the grid. A rank owns one strip of each of its faces. It
receives the other strips of `a` and `b` from its line, and the partial sums for its strip of `c`.

Sources: COSMA (Kwasniewski et al., arXiv 1908.09606); the lower bound of Al Daas et al. (arXiv 2205.13407).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import index
from typing import NamedTuple

from mpihpc.core.decomposition import Decomposition, factorisations, grid_text, ranks_text
from mpihpc.linalg.tiling import Slice, Tiling

M, N, K = range(3)  # the axes of the cuboid and of the grid
_ENOUGH = 8  # rows or columns per rank for nearly even shares
_THIN = 1024  # rows or columns of a strip, below which BLAS is notably slower


class Layouts(NamedTuple):
    """How the arrays of a product are distributed when each rank owns its strips of them."""

    a: Decomposition
    b: Decomposition
    c: Decomposition


@dataclass(frozen=True)
class ProductPlan:
    """The plan for the product of an m x k by a k x n matrix.

    Of all grids of at most `size` ranks it takes the one whose busiest rank receives the fewest words; ties go to grids
    that do not cut k, then to those that do not cut n. The data of idle ranks count, as if all ranks had shared the
    three matrices evenly: a smaller grid must save more words than those add.

    Parameters
    ----------
    m, n, k : int
        Lengths.
    size : int
        Number of ranks.
    memory : int, optional
        Bytes of workspace that a rank may use. Default: enough for one slice. With less, the product processes k in
        slices, and grids that need more memory are ruled out.
    itemsize : int
        Bytes of an element of the operands.
    grid : tuple of int, optional
        Use this grid, pm, pn, pk, instead of choosing one.
    worksize : int, optional
        Bytes of an element of the sums. Default: `itemsize`.
    blocks : int
        A power of two: cut each axis only between this many equal blocks, and k into powers of two. 0: cut anywhere.

    Attributes
    ----------
    grid : tuple of int
        Ranks along m, n, k.
    slices : int
        Slices of k.
    words : int
        Words that the busiest rank receives as panels and partial sums, if operands are distributed as in `layouts`.
    workspace : int
        The most bytes that a rank needs in addition to an even share of the three matrices.

    Raises
    ------
    ValueError
        A grid that does not fit, or too little memory for any grid.

    Examples
    --------
    >>> [ProductPlan(n, n, n, p).grid for n, p in ((60, 4), (60, 6), (64, 8), (64, 16))]
    [(2, 2, 1), (3, 2, 1), (2, 2, 2), (4, 2, 2)]
    >>> ProductPlan(64, 64, 64, 8).words / 64**2
    0.375
    """

    m: int
    n: int
    k: int
    size: int
    memory: int | None = None
    itemsize: int = 8
    grid: tuple[int, ...] = ()
    worksize: int = 0
    blocks: int = 0

    def __post_init__(self) -> None:
        if min(self.m, self.n, self.k) < 0:
            raise ValueError(f"a product of {self.m}x{self.k} by {self.k}x{self.n} has a negative length")
        if not self.worksize:
            object.__setattr__(self, "worksize", self.itemsize)
        if self.blocks & (self.blocks - 1) or self.blocks < 0:
            raise ValueError(f"blocks {self.blocks} is not a power of two: use 16, for example")
        if self.grid:
            grid = tuple(map(index, self.grid))
            if min(grid) < 1:
                raise ValueError(f"grid {grid_text(grid)} has an axis with no ranks: use 1 or more")
            if math.prod(grid) > self.size:
                raise ValueError(f"grid {grid_text(grid)} needs {ranks_text(math.prod(grid))}, the job has {self.size}")
            if not self._fits(*grid):
                raise ValueError(
                    f"grid {grid_text(grid)} does not fit a product of {self.m}x{self.k} by {self.k}x{self.n}"
                    + (f" in {self.blocks} blocks along each axis, powers of two along k" if self.blocks else "")
                    + ": use no more ranks along an axis than it has of these"
                )
            object.__setattr__(self, "grid", grid)
            if self.memory is not None and self.least_memory(grid) > self.memory:
                raise self._too_small(self.least_memory(grid))
        else:
            object.__setattr__(self, "grid", self._choose())

    @cached_property
    def slices(self) -> int:
        if self.memory is None or self._workspace(self.grid, 1) <= self.memory:
            return 1
        low, high = 1, max(1, self._extent(K))
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._workspace(self.grid, middle) <= self.memory else (middle + 1, high)
        return low

    @cached_property
    def strips(self) -> Strips:
        """How the faces of a block are cut into the strips that ranks own."""
        return _strips(self.m, self.n, self.k, *self.grid)

    @cached_property
    def joined(self) -> tuple[bool, bool]:
        """For each operand, whether the strips of a panel are joined before they are multiplied."""
        return _joined(self.strips, self._extent(M), self._extent(N))

    @cached_property
    def words(self) -> int:
        if self.blocks:
            return max(self.words_of(rank) for rank in range(self.size))
        return _words(self.m, self.n, self.k, *self.grid)

    @property
    def workspace(self) -> int:
        return self._workspace(self.grid, self.slices)

    @property
    def layouts(self) -> Layouts:
        """How the matrices are distributed when each rank owns its strips: then nothing needs to be redistributed."""
        return Layouts(self.own(0).plain(), self.own(1).plain(), self.own(2).plain())

    def own(self, matrix: int) -> Tiling:
        """The strips that ranks own, of the first operand (0), the second operand (1) or the product (2)."""
        # The grid axis whose ranks share the face becomes two axes: one cuts its rows, one its columns.
        shared, rows, columns = ((N, M, K), (M, K, N), (K, M, N))[matrix]
        first, second = self.strips[matrix]
        grid = (*self.grid[:shared], first, second, *self.grid[shared + 1 :])
        rows, columns = (g + (g > shared) for g in (rows, columns))
        return self._tiling(matrix, ((rows, shared), (columns, shared + 1)), grid)

    def panel(self, matrix: int, step: int, slices: int | None = None) -> Slice:
        """What ranks need of an operand for one slice of k, out of `slices` (default: the plan's number)."""
        axes = (((M,), (K,)), ((K,), (N,)))[matrix]
        return Slice(self._tiling(matrix, axes), 1 - matrix, step, slices or self.slices)

    def face(self, matrix: int, rank: int) -> int:
        """The number of words of an operand that a rank needs."""
        return self.panel(matrix, 0).tiling.box(rank).size

    def partial(self) -> Tiling:
        """The partial sums that ranks have, on three axes: part of k, row, column."""
        parts = self.grid[K]
        atoms = (parts, self.blocks, self.blocks) if self.blocks else ()
        return Tiling.of((parts, self.m, self.n), self.grid, ((K,), (M,), (N,)), self.size, atoms)

    def to_add(self) -> Tiling:
        """The partial sums that ranks need in order to add them."""
        own, parts = self.own(2), self.grid[K]
        atoms = (parts, *own.atoms) if own.atoms else ()
        return Tiling.of((parts, *own.shape), own.grid, ((), *own.axes), self.size, atoms)

    def words_of(self, rank: int) -> int:
        """Words that a rank receives as panels and partial sums, if operands are distributed as in `layouts`."""
        if rank >= math.prod(self.grid):
            return 0
        own = [self.own(matrix).box(rank).size for matrix in range(3)]
        return self.face(0, rank) - own[0] + self.face(1, rank) - own[1] + (self.grid[K] - 1) * own[2]

    def least_memory(self, grid: tuple[int, ...]) -> int:
        """The least workspace that a grid works with: with the thinnest slices of k, or with all of k at once."""
        slices = (1,) if self.blocks else (1, max(1, self._extent(K, grid)))
        return min(self._workspace(grid, count) for count in slices)

    def _tiling(self, matrix: int, axes: tuple[tuple[int, ...], ...], grid: tuple[int, ...] | None = None) -> Tiling:
        shape = ((self.m, self.k), (self.k, self.n), (self.m, self.n))[matrix]
        return Tiling.of(shape, grid or self.grid, axes, self.size, (self.blocks,) * 2 if self.blocks else ())

    def _extent(self, axis: int, grid: tuple[int, ...] | None = None, parts: int = 1) -> int:
        """The longest block along an axis of the cuboid, or the longest of the parts that each block is cut into."""
        n, p = (self.m, self.n, self.k)[axis], (grid or self.grid)[axis]
        atoms, cells = (self.blocks, -(-n // self.blocks)) if self.blocks else (n, 1)
        most = -(-atoms // p)
        return min(n, -(-most // parts) * cells)

    def _workspace(self, grid: tuple[int, ...], slices: int) -> int:
        """Bytes for two panels (one travels), their packed messages, partial sums, and the shares of idle ranks."""
        pm, pn, pk = grid
        rows, columns, depth = (self._extent(axis, grid) for axis in (M, N, K))
        thick = -(-depth // slices)
        strips = _strips(self.m, self.n, self.k, *grid)
        (rows_a, depth_a), (depth_b, columns_b) = strips.a, strips.b
        joined = _joined(strips, rows, columns)
        # A rank's own strips are used in place; what others need of them may have to be packed.
        panels = 0
        for length, parts, cut, join in ((rows, pn, depth_a, joined[0]), (columns, pm, depth_b, joined[1])):
            if parts > 1:
                packed = thick * (length if cut > 1 else -(-length // parts))
                panels += thick * length * (1 + join) + packed
        total = min(slices, 2) * panels * self.itemsize
        everything = self.m * self.k + self.k * self.n + self.m * self.n
        total += everything * self.itemsize * (self.size - math.prod(grid)) // (self.size * math.prod(grid))
        if pk > 1 or self.worksize != self.itemsize:
            total += rows * columns * self.worksize
        if pk > 1:
            own = self._extent(M, grid, strips.c[0]) * self._extent(N, grid, strips.c[1])
            total += ((pk - 1) * own + (rows * columns if strips.c[1] > 1 else 0)) * self.worksize
        if slices > 1:
            product = (rows if joined[0] else -(-rows // rows_a)) * (columns if joined[1] else -(-columns // columns_b))
            total += product * self.worksize
        if self.worksize != self.itemsize:
            total += thick * (rows + columns) * self.worksize
        return total

    def _choose(self) -> tuple[int, ...]:
        """The best grid, searched from all ranks down; grids that cannot be better are skipped."""
        m, n, k = self.m, self.n, self.k
        total = m * k + k * n + m * n
        best: tuple[float, int, int] | None = None
        grid: tuple[int, ...] = (1, 1, 1)
        least = math.inf
        for size in range(self.size, 0, -1):
            idle = total * (1 / size - 1 / self.size)
            # The bound holds for even shares; strips of the operands may be one row or column longer.
            if best and lower_bound(m, n, k, size) - total / self.size - (m + n + 2 * k) > best[0]:
                continue
            for pm, pn, pk in factorisations(size, 3):
                rows, columns, depth = m / pm, n / pn, k / pk
                least_cost = rows * depth + depth * columns + rows * columns - total / self.size
                slack = rows + columns + 2 * depth + 2  # a strip of an operand may be longer than an even one
                if not self._fits(pm, pn, pk) or (best and least_cost - slack > best[0]):
                    continue
                if self.memory is not None:
                    needed = self.least_memory((pm, pn, pk))
                    least = min(least, needed)
                    if needed > self.memory:
                        continue
                cost = (_words(m, n, k, pm, pn, pk) + idle, pk, pn)
                if best is None or cost < best:
                    best, grid = cost, (pm, pn, pk)
        if best is None:
            raise self._too_small(int(least))
        return grid

    def _fits(self, pm: int, pn: int, pk: int) -> bool:
        """Whether every rank of a grid has cells to multiply."""
        if self.blocks and (max(pm, pn, pk) > self.blocks or pk & (pk - 1)):
            return False
        return pm <= max(self.m, 1) and pn <= max(self.n, 1) and pk <= max(self.k, 1)

    def _too_small(self, least: int) -> ValueError:
        return ValueError(
            f"memory {self.memory} is too small for a product of {self.m}x{self.k} by {self.k}x{self.n} on "
            f"{ranks_text(self.size)}: it needs {least} bytes of workspace per rank"
        )


def lower_bound(m: int, n: int, k: int, size: int) -> float:
    """The number of words of the three matrices that some rank must access: Theorem 3 of arXiv 2205.13407.

    Examples
    --------
    >>> lower_bound(1000, 10, 10, 10), round(lower_bound(100, 100, 100, 8))
    (2100.0, 7500)
    """
    small, middle, large = sorted((m, n, k))
    if size * middle <= large:
        return (large * middle + large * small) / size + middle * small
    if size * small * small <= large * middle:
        return large * middle / size + 2 * math.sqrt(large * middle * small * small / size)
    return 3 * (m * n * k / size) ** (2 / 3)


class Strips(NamedTuple):
    """The number of strips, along rows and along columns, of the three faces of a block."""

    a: tuple[int, int]  # along m, k
    b: tuple[int, int]  # along k, n
    c: tuple[int, int]  # along m, n


@lru_cache(maxsize=1 << 16)
def _strips(m: int, n: int, k: int, pm: int, pn: int, pk: int) -> Strips:
    """Strips of whole rows of `a` and `c`, and whole columns of `b`, unless there are too few of them to share evenly.

    Strips of `a` along m and of `b` along n can be multiplied one by one as they arrive.
    """
    rows, columns, depth = -(-m // pm), -(-n // pn), -(-k // pk)
    a = (pn, 1) if rows >= _ENOUGH * pn else _even(rows, depth, pn, shortest=True)
    b = (pm, 1) if columns >= _ENOUGH * pm else _even(columns, depth, pm, shortest=True)
    c = (pk, 1) if rows >= _ENOUGH * pk else _even(rows, columns, pk, shortest=False)
    if m == 1 < n or n == 1 < m:  # a vector
        c = (pk, 1) if n == 1 else (1, pk)
    return Strips(a, (b[1], b[0]), c)


def _joined(strips: Strips, rows: int, columns: int) -> tuple[bool, bool]:
    """Strips cut along k are joined; thin ones too, if that costs less than reading the other panel for each of them.

    (BLAS packs what it reads: for products of 256 columns that is a quarter of the time, for 1024 a twentieth.)
    """

    def join(length: int, along: int, across: int, other: int) -> bool:
        return across > 1 or (length < along * _THIN and length < (along - 1) * other)

    (rows_a, depth_a), (depth_b, columns_b) = strips.a, strips.b
    return join(rows, rows_a, depth_a, columns), join(columns, columns_b, depth_b, rows)


def _even(first: int, second: int, parts: int, shortest: bool) -> tuple[int, int]:
    """How to cut a face into strips so that the shortest is as long, or the longest as short, as possible."""

    def unfair(cut: tuple[int, ...]) -> tuple[int, int]:
        p, q = cut
        return -(first // p) * (second // q) if shortest else -(-first // p) * -(-second // q), q

    p, q = min(factorisations(parts, 2), key=unfair)
    return p, q


def _words(m: int, n: int, k: int, pm: int, pn: int, pk: int) -> int:
    """The words that the busiest rank of a grid receives.

    Neither blocks nor strips get longer with their index. A rank receives more the longer its block is, the shorter its
    strips of the operands are, and the longer its strip of the sums is. So the busiest rank is among the last of the
    long or of the short blocks along m and n, and among the first of them along k.
    """
    most, strips = 0, _strips(m, n, k, pm, pn, pk)
    for i in _last(m % pm, pm, strips.b[1]):
        rows = m // pm + (i < m % pm)
        for j in _last(n % pn, pn, strips.a[1]):
            columns = n // pn + (j < n % pn)
            for t in {0, k % pk, min((k % pk // strips.c[1] + 1) * strips.c[1], pk - 1)}:
                depth = k // pk + (t < k % pk)
                a = rows * depth - _share(rows, depth, strips.a, j)
                b = depth * columns - _share(depth, columns, strips.b, i)
                most = max(most, a + b + (pk - 1) * _share(rows, columns, strips.c, t))
    return most


def _last(long: int, count: int, width: int) -> set[int]:
    """The last of the long blocks, the last of all, and for each the last in the row of strips before it."""
    ends = {max(long - 1, 0), count - 1}
    return ends | {max(end // width * width - 1, 0) for end in ends}


def _share(first: int, second: int, strips: tuple[int, int], index: int) -> int:
    """The number of words in one strip of a face."""
    i, j = divmod(index, strips[1])
    return (first // strips[0] + (i < first % strips[0])) * (second // strips[1] + (j < second % strips[1]))
