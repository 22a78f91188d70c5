"""One reduction of one array: which axes, where the result lies, and how partial results come together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import NDArray

from mpihpc import _core
from mpihpc.array import exact_sums
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.dtypes import number_dtype
from mpihpc.core.failure import agree
from mpihpc.core.projection import Gathered
from mpihpc.core.transfer import Transfer

if TYPE_CHECKING:
    from mpihpc.array import DistArray

Axis = int | Sequence[int] | None


class Along:
    """One reduction of one array: which axes, where the result lies, and how partial results come together.

    Making it, `reduce`, `exact` and `finish` are collective. Each rank makes a partial result of its block, of length 1
    on the reduced axes; these go to the owners of the result, or to everybody if all axes are reduced.

    `dtype` may refuse: it is called where all ranks learn of it. `some` names a function that needs cells to choose
    from. `several`: whether `axis` may be a sequence.
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
        self.array, self.keepdims = a, keepdims
        cut = a.decomposition
        with agree(a.topology.private):
            self.axes = _axes(axis, a.ndim, several)
            self.dtype = number_dtype(dtype())
            self.count = math.prod(a.shape[d] for d in self.axes)
            if some and not self.count:
                raise ValueError(f"{some} of an array of shape {a.shape} has no cells to choose from")
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

    def partial(self, function: Callable[..., Any], empty: Any = None) -> NDArray[Any]:
        """``function(block, axis=..., keepdims=True)`` in host memory; of a block without cells, `empty` if given."""
        block, device = self.array.local, self.array.device
        if not block.size and empty is not None:
            return np.full([1 if d in self.axes else n for d, n in enumerate(block.shape)], empty, self.array.dtype)
        return np.asarray(device.to_host(function(block, axis=self.axes, keepdims=True)))

    def reduce(self, partial: Callable[..., Any], combine: np.ufunc, empty: Any = None) -> NDArray[Any]:
        """This rank's part of the result, if the partial ones are `partial`'s (see there)."""
        total = self.gather(self.partial(partial, empty))
        return combine.reduce(total, axis=self.axes, keepdims=True, dtype=total.dtype)

    def exact(self, terms: exact_sums.Terms, views: bool = False, odd: bool = False) -> NDArray[Any]:
        """This rank's part of the sum of terms (see `exact_sums`), added without rounding: float64 or complex128.

        It is rounded to the nearest number, or (`odd`) so that it can be rounded once more: see `exact_sums.narrowed`.
        """
        shape = self.array.box.shape
        if self.kept:
            sums = exact_sums.lines(terms, shape, self.axes, views, not self.moves, odd, self.array.device)
            parts = [self.round_lines(x, odd) if self.moves else x[0] for x in sums]
        else:
            return self.round_states(exact_sums.total(terms, shape, views, self.array.device), odd)
        return _joined(parts)

    def round_states(self, states: NDArray[np.int64], odd: bool) -> NDArray[Any]:
        """The sum over all ranks, from the states of the components of theirs. Collective."""
        self.array.topology.private.Allreduce(MPI.IN_PLACE, states, op=MPI.SUM)
        return _joined([np.full((1,) * self.array.ndim, _core.sum_round(state, odd)) for state in states])

    def round_lines(self, sums: NDArray[np.float64], odd: bool) -> NDArray[np.float64]:
        """This rank's part of the result, from the numbers that add up to the sums of its block. Collective."""
        most: int = self.array.topology.private.allreduce(len(sums), op=MPI.MAX)
        packed = np.zeros((*sums.shape[1:], most))
        packed[..., : len(sums)] = np.moveaxis(sums, 0, -1)
        found = self.gather(packed.view(np.dtype((np.void, 8 * most)))[..., 0])
        numbers = found.view(float).reshape(*found.shape, most)
        # The numbers of all ranks along the reduced axes, one after the other.
        front = np.moveaxis(numbers, (-1, *self.axes), range(1 + len(self.axes)))
        here = (1 if d in self.axes else n for d, n in enumerate(found.shape))
        return exact_sums.rounded(front.reshape(most * math.prod(self.counts), *here), odd)

    def gather(self, partial: NDArray[Any]) -> NDArray[Any]:
        """All partial results along the reduced axes, for this rank's part of the result. Collective."""
        a, cut = self.array, self.array.decomposition
        if not self.kept:
            found = np.empty((cut.size, 1), partial.dtype)
            a.topology.private.Allgather(_flat_bytes(partial), _flat_bytes(found))
            return found.reshape(cut.dims)
        if not self.moves:
            return partial
        shape = list(a.shape)
        start = list(a.box.start)
        for d, p in zip(self.axes, self.counts, strict=True):
            shape[d], start[d] = p, cut.coords(a.topology.rank)[d]
        need = Gathered(self.cut, self.axes, self.counts)
        box = need.box(a.topology.rank)
        found = np.empty(box.shape, partial.dtype)
        exchange = Transfer(Decomposition(tuple(shape), cut.dims), need).bind(
            a.topology, partial.dtype, start, box.start
        )
        exchange(partial, found)
        exchange.close()
        return found

    def finish(self, total: Any) -> Any:
        """The result, of `dtype`, out of this rank's part of it, which has all axes."""
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
        new = self.array.__class__(cut, self.dtype, comm=self.array.comm, device=self.array.device)
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
