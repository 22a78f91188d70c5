"""Reductions: from all cells to one number, or along axes to a smaller array.

`sum`, `mean`, `var`, `std`, `dot`, `vecdot` and `norm` of floating-point numbers have the same bits however the array
is cut: they add without rounding (`src/_core/sums.hpp`) and round the total once. So with ``u = 2**-53``:

- `sum` is the number of its dtype nearest to the exact sum of the cells: of float64, ``|error| <= u |sum|``;
- `mean` is that divided by the number of cells, ``|error| <= 2 u |mean|``;
- `dot` and `vecdot` add products that were each rounded to float64 (of float32: none is):
  ``|error| <= u |dot| + u sum |a_i b_i|``, and round the sum once to their dtype;
- `norm` is the square root of such a sum, ``|error| <= 2 u |norm|``;
- `var` adds the squares of ``x_i - mean``, each rounded; `std` is its square root.

(Below the smallest normal number, a product has an absolute error of 2**-1075.) A sum is infinite only if the total is
beyond the largest number, whatever the parts. ``reproducible=False`` asks for NumPy's sum of each block and the sum of
those, whose last bits depend on the decomposition. Integers are exact modulo 2**64, as NumPy's.

Source: R. M. Neal, "Fast exact summation using small and large superaccumulators", arXiv 1505.05571, 2015; S. M. Rump,
T. Ogita, S. Oishi, "Accurate floating-point summation", SIAM J. Sci. Comput. 31, 2008.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.typing import DTypeLike, NDArray

from mpihpc import _core, exact
from mpihpc.arithmetic import is_distributed, local_part, plain
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.failure import agree
from mpihpc.core.projection import Gathered
from mpihpc.core.transfer import Transfer
from mpihpc.dtypes import kind_of, number_dtype, require_cast

if TYPE_CHECKING:
    from mpihpc.array import DistArray

Axis = int | Sequence[int] | None


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a `DistArray`, and maybe a second one, that gets them as `Decomposition` cuts them."""

    @functools.wraps(function)
    def checked(a: DistArray, *others: Any, **options: Any) -> Any:
        if not is_distributed(a):
            name, kind = function.__name__, type(a).__name__
            raise TypeError(
                f"mpihpc.{name} works on DistArrays, not on {kind}: use numpy.{name}, or mpihpc.asarray first"
            )
        return function(plain(a), *(plain(x) if is_distributed(x) else x for x in others), **options)

    return checked


@_reduction
def sum(
    a: DistArray,
    axis: Axis = None,
    dtype: DTypeLike | None = None,
    *,
    keepdims: bool = False,
    reproducible: bool = True,
) -> Any:
    """The sum of all cells, or along axes. Collective.

    Before: each rank holds its block. After: all ranks hold the number, or their blocks of the result.

    Parameters
    ----------
    a : DistArray
        Any dtype.
    axis : int or sequence of int, optional
        The axes to reduce. Default: all.
    dtype : dtype, optional
        Of the result, and what cells are converted to before they are added. Default: NumPy's choice (small integers
        become int64 or uint64).
    keepdims : bool
        Keep the reduced axes, with length 1.
    reproducible : bool
        Whether the bits of floating-point results must not depend on the decomposition.

    Returns
    -------
    NumPy scalar, or DistArray
        A scalar, the same on all ranks, if all axes are reduced and `keepdims` is false. An array stays on the grid of
        `a` if the reduced axes are not cut, else it has the balanced grid of the other axes.

    Raises
    ------
    ValueError
        An axis that `a` has not.
    TypeError
        `a` is complex and `dtype` is not.

    Notes
    -----
    Errors and source: see `mpihpc.reductions`. Integers wrap around, as in NumPy.
    """
    along = _Along(a, axis, keepdims, lambda: _result_dtype(np.sum, a, dtype))
    return along.finish(_total(along, along.dtype, reproducible, along.narrow))


@_reduction
def mean(
    a: DistArray,
    axis: Axis = None,
    dtype: DTypeLike | None = None,
    *,
    keepdims: bool = False,
    reproducible: bool = True,
) -> Any:
    """The arithmetic mean, ``sum / count``. Collective. Parameters, result and errors: see `sum`.

    Integers are converted to float64. The mean of no cells is NaN.
    """
    along = _Along(a, axis, keepdims, lambda: _result_dtype(np.mean, a, dtype))
    return along.finish(_total(along, along.dtype, reproducible) / along.count)


@_reduction
def var(
    a: DistArray,
    axis: Axis = None,
    dtype: DTypeLike | None = None,
    *,
    ddof: float = 0,
    keepdims: bool = False,
    reproducible: bool = True,
) -> Any:
    """The variance, ``sum(abs(a - mean)**2) / (count - ddof)``. Collective.

    Parameters
    ----------
    a, axis, dtype, keepdims, reproducible
        See `sum`. Integers are converted to float64.
    ddof : float
        Subtracted from the number of cells.

    Returns
    -------
    NumPy scalar, or DistArray
        As `sum`; real.
    """
    return _var(a, axis, dtype, ddof, keepdims, reproducible, root=False)


@_reduction
def std(
    a: DistArray,
    axis: Axis = None,
    dtype: DTypeLike | None = None,
    *,
    ddof: float = 0,
    keepdims: bool = False,
    reproducible: bool = True,
) -> Any:
    """The standard deviation, the square root of `var`, which see. Collective."""
    return _var(a, axis, dtype, ddof, keepdims, reproducible, root=True)


@_reduction
def norm(a: DistArray, axis: Axis = None, *, keepdims: bool = False, reproducible: bool = True) -> Any:
    """The 2-norm of the cells, ``sqrt(sum(abs(a)**2))``: of all, or along axes. Collective.

    Parameters
    ----------
    a, axis, keepdims, reproducible
        See `sum`. Integers are converted to float64.

    Returns
    -------
    NumPy scalar, or DistArray
        As `sum`; real.
    """
    along = _Along(a, axis, keepdims, lambda: _numpys_dtype(_norm, a.dtype, None))
    kind = np.promote_types(a.dtype if kind_of(a.dtype) in "fc" else "f8", "f4")

    if reproducible and not along.kept and exact.side_by_side(a.local):
        total = along.exact(lambda at: [[(exact.reals(a.local[at]),) * 2]], True)
    elif reproducible:
        views = a.dtype == kind and kind.kind == "f"
        total = along.exact(lambda at: [[(x, x) for x in _parts(a.local[at].astype(kind, copy=False))]], views)
    else:
        total = along.reduce(lambda x, **over: np.sum(_square(x.astype(kind, copy=False)), **over), np.add)
    return along.finish(np.sqrt(total))


@_reduction
def dot(a: DistArray, b: Any, *, reproducible: bool = True) -> Any:
    """The sum of the products of two vectors, ``sum(a * b)``. Collective.

    Parameters
    ----------
    a, b : DistArray of one axis
        Of equal length. `b` may be a NumPy array that all ranks hold. It is moved if it is cut another way.
    reproducible : bool
        See `sum`.

    Returns
    -------
    NumPy scalar
        On all ranks.

    Raises
    ------
    ValueError
        Not vectors of the same length.
    """
    return _vecdot(a, b, 0, False, reproducible)


@_reduction
def vecdot(a: DistArray, b: Any, *, axis: int = -1, reproducible: bool = True) -> Any:
    """The sums of the products along an axis, ``sum(conj(a) * b, axis)``, as `numpy.vecdot`. Collective.

    Parameters
    ----------
    a, b : DistArray
        Of the same shape. `b` may be a NumPy array that all ranks hold. It is moved if it is cut another way.
    axis : int
        The axis to reduce.
    reproducible : bool
        See `sum`.

    Returns
    -------
    NumPy scalar, or DistArray
        As `sum`.
    """
    return _vecdot(a, b, axis, True, reproducible)


@_reduction
def prod(a: DistArray, axis: Axis = None, dtype: DTypeLike | None = None, *, keepdims: bool = False) -> Any:
    """The product of all cells, or along axes. Collective. Parameters and result: see `sum`.

    The product of each block, multiplied in the order of the ranks: the last bits of floating-point results depend on
    the decomposition.
    """
    along = _Along(a, axis, keepdims, lambda: _result_dtype(np.prod, a, dtype))
    return along.finish(along.reduce(lambda x, **over: np.prod(x, dtype=along.dtype, **over), np.multiply))


@_reduction
def min(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The smallest cell, or NaN where there is one. Collective. Parameters and result: see `sum`.

    Raises
    ------
    ValueError
        There is no cell to choose from.
    """
    along = _Along(a, axis, keepdims, lambda: a.dtype, some="min")
    start = _limit(a.dtype, largest=True)
    return along.finish(along.reduce(np.min, np.minimum, start))


@_reduction
def max(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The largest cell, or NaN where there is one. Collective. Parameters and result: see `sum`; errors: see `min`."""
    along = _Along(a, axis, keepdims, lambda: a.dtype, some="max")
    start = _limit(a.dtype, largest=False)
    return along.finish(along.reduce(np.max, np.maximum, start))


@_reduction
def any(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Whether a cell is not zero. Collective. Parameters and result: see `sum`."""
    along = _Along(a, axis, keepdims, lambda: np.dtype(bool))
    return along.finish(along.reduce(np.any, np.logical_or))


@_reduction
def all(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Whether no cell is zero. Collective. Parameters and result: see `sum`."""
    along = _Along(a, axis, keepdims, lambda: np.dtype(bool))
    return along.finish(along.reduce(np.all, np.logical_and))


@_reduction
def count_nonzero(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The number of cells that are not zero, as int64. Collective. Parameters and result: see `sum`."""
    along = _Along(a, axis, keepdims, lambda: np.dtype(np.int64))
    return along.finish(along.reduce(lambda x, **over: np.sum(x != 0, dtype=np.int64, **over), np.add))


@_reduction
def argmin(a: DistArray, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """Where the smallest cell is, or the first NaN. Collective.

    Parameters
    ----------
    a, keepdims
        See `sum`.
    axis : int, optional
        Default: all, and the index counts cells of the global array in C order.

    Returns
    -------
    NumPy int64, or DistArray of int64
        Of equal cells, the first one's index.
    """
    return _arg(a, axis, keepdims, "argmin")


@_reduction
def argmax(a: DistArray, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """Where the largest cell is, or the first NaN. Collective. Parameters and result: see `argmin`."""
    return _arg(a, axis, keepdims, "argmax")


class Reductions:
    """The reductions as methods of `DistArray`."""

    __slots__ = ()

    sum, mean, var, std, prod = sum, mean, var, std, prod
    min, max, any, all = min, max, any, all
    argmin, argmax, dot = argmin, argmax, dot


class _Along:
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
        self.moves = bool(self.kept) and builtins.max(self.counts, default=1) > 1

    @functools.cached_property
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

    def exact(self, terms: exact.Terms, views: bool = False, odd: bool = False) -> NDArray[Any]:
        """This rank's part of the sum of terms (see `mpihpc.exact`), added without rounding: float64 or complex128.

        It is rounded to the nearest number, or (`odd`) so that it can be rounded once more: see `exact.narrowed`.
        """
        shape = self.array.box.shape
        if self.kept:
            sums = exact.lines(terms, shape, self.axes, views, not self.moves, odd, self.array.device)
            parts = [self.round_lines(x, odd) if self.moves else x[0] for x in sums]
        else:
            return self.round_states(exact.total(terms, shape, views, self.array.device), odd)
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
        return exact.rounded(front.reshape(most * math.prod(self.counts), *here), odd)

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
                total = exact.narrowed(total, self.dtype)
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


def _total(along: _Along, kind: np.dtype, reproducible: bool, odd: bool = False) -> NDArray[Any]:
    """This rank's part of the sum of all cells, each converted to `kind` first."""
    a = along.array
    if not (reproducible and kind_of(kind) in "fc"):
        return along.reduce(lambda x, **over: np.sum(x, dtype=kind, **over), np.add)
    if a.dtype.char in "fdFD" and np.can_cast(a.dtype, kind) and (a.dtype.kind == kind.kind):
        if not along.kept and exact.side_by_side(a.local):
            return along.round_states(exact.complex_total(a.local, None, False), odd)
        # The parts of complex numbers lie near each other: in pieces, memory is read only once.
        return along.exact(lambda at: [[x] for x in _parts(a.local[at])], bool(along.kept) or kind.kind == "f", odd)
    wide = np.promote_types(kind, "f4")
    return along.exact(lambda at: [[x] for x in _parts(a.local[at].astype(kind).astype(wide))], odd=odd)


def _var(a: DistArray, axis: Axis, dtype: Any, ddof: float, keepdims: bool, reproducible: bool, root: bool) -> Any:
    def check() -> np.dtype:
        if not isinstance(ddof, Real):
            raise TypeError(f"ddof {ddof!r} is not a number")
        return _result_dtype(np.var, a, dtype)

    along = _Along(a, axis, keepdims, check)
    wide = np.promote_types(a.dtype, "f8")
    centre = _total(along, wide, reproducible) / along.count
    centre = a.device.asarray(centre)
    if along.moves:  # back to where the cells are
        there = a.__class__(along.cut, wide, comm=a.comm, device=a.device)
        there.local[...] = centre
        centre = local_part(there, a)

    def deviation(at: exact.Index) -> NDArray[Any]:
        return a.local[at] - centre[tuple(slice(None) if d in along.axes else s for d, s in enumerate(at))]

    if reproducible:
        total = along.exact(lambda at: [[(x, x) for x in _parts(deviation(at))]])
    else:
        total = along.reduce(lambda x, **over: np.sum(_square(deviation((slice(None),) * a.ndim)), **over), np.add)
    total = total / builtins.max(along.count - ddof, 0)
    return along.finish(np.sqrt(total) if root else total)


def _vecdot(a: DistArray, b: Any, axis: int, conjugate: bool, reproducible: bool) -> Any:
    def check() -> np.dtype:
        nonlocal b
        if not conjugate and a.ndim != 1:
            raise ValueError(f"dot takes vectors, a has shape {a.shape}: use vecdot along an axis, or @ for matrices")
        b = b if is_distributed(b) else np.asarray(b)
        if is_distributed(b) and b.topology is not a.topology:
            raise ValueError(
                f"a and b lie on different communicators, of {a.topology.size} and {b.topology.size} ranks"
            )
        if is_distributed(b) and b.device is not a.device:
            raise ValueError(f"a lies on {a.device.label}, b on {b.device.label}: use .to_device")
        if a.shape != b.shape:
            raise ValueError(f"a has shape {a.shape} and b {b.shape}: they must be equal")
        return np.result_type(a.dtype, number_dtype(b.dtype))

    along = _Along(a, axis, False, check, several=False)
    kind = along.dtype
    y = local_part(b, a)
    if kind.kind == "b":
        return along.finish(along.reduce(lambda x, **over: np.any(x & y, **over), np.logical_or))
    if not (reproducible and kind_of(kind) in "fc"):
        return along.finish(
            along.reduce(
                lambda x, **over: np.sum((x.conj() if conjugate else x).astype(kind) * y, dtype=kind, **over), np.add
            )
        )
    work = np.promote_types(kind, "f4")
    sign = -1 if conjugate else 1

    def products(at: exact.Index) -> list[list[Any]]:
        p, q = (_parts(x[at].astype(work, copy=False)) for x in (a.local, y))
        if len(p) == 1:
            return [[(p[0], q[0])]]
        return [[(p[0], q[0]), (-sign * p[1], q[1])], [(p[0], q[1]), (sign * p[1], q[0])]]

    if not along.kept and a.dtype == y.dtype == work and exact.side_by_side(a.local, y):
        return along.finish(along.round_states(exact.complex_total(a.local, y, conjugate), along.narrow))
    views = a.dtype == y.dtype == work and kind.kind == "f"
    return along.finish(along.exact(products, views, along.narrow))


def _arg(a: DistArray, axis: int | None, keepdims: bool, name: str) -> Any:
    """`argmin` or `argmax`, by its name."""
    along = _Along(a, axis, keepdims, lambda: np.dtype(np.int64), some=name, several=False)
    smallest = name == "argmin"
    pick, best = (np.min, np.minimum) if smallest else (np.max, np.maximum)
    here = np.empty(
        [1 if d in along.axes else n for d, n in enumerate(a.box.shape)], [("value", a.dtype), ("index", np.int64)]
    )
    here["value"] = along.partial(pick, _limit(a.dtype, smallest))
    here["index"] = np.iinfo(np.int64).max
    if a.local.size:
        find = getattr(np, name)
        found: Any = a.device.to_host(find(a.local, axis=None if axis is None else along.axes[0], keepdims=True))
        if axis is None:
            place = np.unravel_index(int(found.reshape(())), a.box.shape)
            found = np.ravel_multi_index([p + s for p, s in zip(place, a.box.start, strict=True)], a.shape)
        else:
            found += a.box.start[along.axes[0]]
        here["index"] = found
    every = along.gather(here)
    value = every["value"]
    total = best.reduce(value, axis=along.axes, keepdims=True)
    chosen = (value == total) | ((value != value) & (total != total))  # NaN is what NumPy finds first
    return along.finish(
        np.min(np.where(chosen, every["index"], np.iinfo(np.int64).max), axis=along.axes, keepdims=True)
    )


def _norm(x: NDArray[Any], dtype: None) -> Any:
    return np.linalg.norm(x)


def _axes(axis: Axis, ndim: int, several: bool) -> tuple[int, ...]:
    """The axes to reduce, none of them negative, in order."""
    if axis is None:
        return tuple(range(ndim))
    whole = isinstance(axis, int | np.integer)
    if not whole and (not several or not isinstance(axis, Sequence)):
        raise TypeError(f"axis {axis!r} is not a whole number" + (", nor a tuple of them" if several else ": give one"))
    return tuple(sorted(normalize_axis_tuple(axis, ndim)))


def _result_dtype(function: Callable[..., Any], a: DistArray, dtype: DTypeLike | None) -> np.dtype:
    """What NumPy's function gives for this dtype."""
    wanted = None if dtype is None else number_dtype(dtype)
    if wanted is not None:
        require_cast(a.dtype, wanted)
    return _numpys_dtype(function, a.dtype, wanted)


@functools.cache
def _numpys_dtype(function: Callable[..., Any], dtype: np.dtype, wanted: np.dtype | None) -> np.dtype:
    return function(np.ones(1, dtype), dtype=wanted).dtype


def _limit(dtype: np.dtype, largest: bool) -> Any:
    """What no cell is beyond, for blocks without cells."""
    if dtype.kind == "b":
        return largest
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if largest else np.iinfo(dtype).min
    end = np.inf if largest else -np.inf
    return complex(end, end) if dtype.kind == "c" else end


def _parts(x: NDArray[Any]) -> list[NDArray[Any]]:
    """An array, or its real and imaginary part."""
    return [x.real, x.imag] if x.dtype.kind == "c" else [x]


def _square(x: NDArray[Any]) -> NDArray[Any]:
    return x.real**2 + x.imag**2 if x.dtype.kind == "c" else x * x


def _flat_bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)
