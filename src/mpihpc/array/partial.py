"""One reduction of one array: partial results of the blocks, their way to those who need them, and the result.

A reduction goes straight through three steps. `Reduction.values` and the `Reduction.exact...` methods make a rank's
partial results, without communication; `Reduction.combined` brings those of all blocks together; `Reduction.finish`
makes the scalar or array that the user gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import NDArray

from mpihpc.array import exact_sums
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.dtypes import number_dtype
from mpihpc.core.failure import agree
from mpihpc.core.projection import Gathered
from mpihpc.core.transfer import Transfer
from mpihpc.kernels import cpu

if TYPE_CHECKING:
    from mpihpc.array import DistArray

Axis = int | Sequence[int] | None


class Values(NamedTuple):
    """Partial results that a ufunc combines: of length 1 on the reduced axes, in host memory."""

    cells: NDArray[Any]
    combine: np.ufunc


class States(NamedTuple):
    """Exact sums of all cells of a block, a state for each component: see `exact_sums.total`."""

    words: NDArray[np.int64]
    odd: bool


class Lines(NamedTuple):
    """Exact sums along axes of a block, for each component numbers that add up to them: see `exact_sums.lines`."""

    sums: list[NDArray[np.float64]]
    odd: bool


Partial = Values | States | Lines


class Reduction:
    """What a reduction of an array reduces, and where its result is. Making it is collective.

    Parameters
    ----------
    a : DistArray
        What is reduced.
    axis : int, sequence of int, or None
        The axes to reduce; None: all.
    keepdims : bool
        Whether the result has them, with length 1.
    dtype : callable
        Gives the dtype of the result. It may refuse, on any rank.
    some : str
        Name of a function that needs cells to choose from.
    several : bool
        Whether `axis` may be a sequence.
    """

    def __init__(
        self,
        a: DistArray,
        axis: Axis,
        keepdims: bool,
        dtype: Callable[[], np.dtype],
        some: str = "",
        several: bool = True,
    ) -> None:
        self.array = a
        cut = a.decomposition
        with agree(a.topology.private) as alike:
            self.keepdims = bool(keepdims)
            self.axes = _axes(axis, a.ndim, several)
            self.dtype = number_dtype(dtype())
            self.count = math.prod(a.shape[d] for d in self.axes)
            if some and not self.count:
                raise ValueError(f"{some} of an array of shape {a.shape} has no cells to choose from")
            alike.append(
                f"{a.dtype} of shape {a.shape} reduced to {self.dtype} along {self.axes}, keepdims={self.keepdims}"
            )
        self.narrow = self.dtype.char not in "dD"
        self.kept = [d for d in range(a.ndim) if d not in self.axes]
        self.counts = tuple(cut.dims[d] for d in self.axes)
        self.moves = bool(self.kept) and max(self.counts, default=1) > 1

    @cached_property
    def cut(self) -> Decomposition:
        """How the result is cut, with length 1 on the reduced axes."""
        a, cut = self.array, self.array.decomposition
        dims = list(cut.dims)
        if self.moves:
            grid = Decomposition.balanced([a.shape[d] for d in self.kept], cut.size).dims
            dims = [1] * a.ndim
            for d, p in zip(self.kept, grid, strict=True):
                dims[d] = p
        return Decomposition(tuple(n if d in self.kept else 1 for d, n in enumerate(a.shape)), tuple(dims))

    # Partial results: no communication.

    def values(self, function: Callable[..., Any], combine: np.ufunc, empty: Any = None) -> Values:
        """``function(block, axis=..., keepdims=True)``; of a block without cells, `empty` if given."""
        block, device = self.array.local, self.array.device
        if not block.size and empty is not None:
            shape = [1 if d in self.axes else n for d, n in enumerate(block.shape)]
            return Values(np.full(shape, empty, self.array.dtype), combine)
        return Values(np.asarray(device.to_host(function(block, axis=self.axes, keepdims=True))), combine)

    def exact(self, terms: exact_sums.Terms, views: bool = False, odd: bool = False) -> Partial:
        """The sum of terms (see `exact_sums`), added without rounding.

        In the end it is rounded to the nearest number, or (`odd`) so that it can be rounded once more: see
        `exact_sums.narrowed`.
        """
        a = self.array
        if self.kept:
            return Lines(exact_sums.lines(terms, a.box.shape, self.axes, views, not self.moves, odd, a.device), odd)
        return States(exact_sums.total(terms, a.box.shape, views, a.device), odd)

    # Movement: collective.

    def combined(self, partial: Partial) -> NDArray[Any]:
        """This rank's part of the result, with all axes, from the partial results of all ranks. Collective.

        Exact sums become float64 or complex128.
        """
        if isinstance(partial, States):
            self.array.topology.private.Allreduce(MPI.IN_PLACE, partial.words, op=MPI.SUM)
            sums = [cpu.sum_round(words, partial.odd) for words in partial.words]
            return _joined([np.full((1,) * self.array.ndim, x) for x in sums])
        if isinstance(partial, Lines):
            return _joined([self._line(x, partial.odd) if self.moves else x[0] for x in partial.sums])
        total = self.gathered(partial.cells)
        return partial.combine.reduce(total, axis=self.axes, keepdims=True, dtype=total.dtype)

    def _line(self, sums: NDArray[np.float64], odd: bool) -> NDArray[np.float64]:
        most: int = self.array.topology.private.allreduce(len(sums), op=MPI.MAX)
        packed = np.zeros((*sums.shape[1:], most))
        packed[..., : len(sums)] = np.moveaxis(sums, 0, -1)
        found = self.gathered(packed.view(np.dtype((np.void, 8 * most)))[..., 0])
        numbers = found.view(float).reshape(*found.shape, most)
        # The numbers of all ranks along the reduced axes, one after the other.
        front = np.moveaxis(numbers, (-1, *self.axes), range(1 + len(self.axes)))
        here = (1 if d in self.axes else n for d, n in enumerate(found.shape))
        return exact_sums.rounded(front.reshape(most * math.prod(self.counts), *here), odd)

    def gathered(self, cells: NDArray[Any]) -> NDArray[Any]:
        """All partial results along the reduced axes, for this rank's part of the result. Collective."""
        a, cut = self.array, self.array.decomposition
        if not self.kept:
            found = np.empty((cut.size, 1), cells.dtype)
            a.topology.private.Allgather(_flat_bytes(cells), _flat_bytes(found))
            return found.reshape(cut.dims)
        if not self.moves:
            return cells
        shape, start = list(a.shape), list(a.box.start)
        for d, p in zip(self.axes, self.counts, strict=True):
            shape[d], start[d] = p, cut.coords(a.topology.rank)[d]
        need = Gathered(self.cut, self.axes, self.counts)
        box = need.box(a.topology.rank)
        found = np.empty(box.shape, cells.dtype)
        Transfer(Decomposition(tuple(shape), cut.dims), need).move(a.topology, cells, found, start, box.start)
        return found

    # The end.

    def finish(self, total: Any) -> Any:
        """The result, of `dtype`, out of this rank's part of it, which has all axes. Collective."""
        total = np.asarray(total)
        if total.dtype != self.dtype:
            with np.errstate(over="ignore"):
                total = exact_sums.narrowed(total, self.dtype)
        if not self.kept and not self.keepdims:
            return total.reshape(())[()]
        cut = self.cut
        if not self.keepdims:
            cut = Decomposition(tuple(cut.shape[d] for d in self.kept), tuple(cut.dims[d] for d in self.kept))
        elif not self.kept:
            cut = Decomposition.balanced(cut.shape, cut.size)
        new = self.array.like(cut, self.dtype, halo=0)
        if new.local.size:
            new.local[...] = new.device.asarray(total.reshape(new.local.shape))
        return new


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """The only part, or the complex numbers of two."""
    if len(parts) == 1:
        return parts[0]
    both = np.empty(parts[0].shape, complex)
    both.real, both.imag = parts
    return both


def _axes(axis: Axis, ndim: int, several: bool) -> tuple[int, ...]:
    """The axes to reduce, none of them negative, in order."""
    if axis is None:
        return tuple(range(ndim))
    whole = isinstance(axis, int | np.integer)
    if not whole and (not several or not isinstance(axis, Sequence)):
        raise TypeError(f"axis {axis!r} is not a whole number" + (", nor a tuple of them" if several else ": give one"))
    return tuple(sorted(normalize_axis_tuple(axis, ndim)))


def _flat_bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)
