"""Reductions: of all cells to one number, or along axes to a smaller array.

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
from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mpihpc.array import exact_sums
from mpihpc.array.operands import is_distributed, local_part, plain, together
from mpihpc.array.partial import Axis, Partial, Reduction, States
from mpihpc.core.dtypes import kind_of, number_dtype, numbers, require_cast

if TYPE_CHECKING:
    from mpihpc.array import DistArray


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check that the argument is a `DistArray`, and give it a plain `Decomposition`. Collective."""

    @functools.wraps(function)
    def checked(a: DistArray, *others: Any, **options: Any) -> Any:
        if not is_distributed(a):
            with together(f"mpihpc.{function.__name__}", {"a": a}):  # other ranks, which have one, agree first too
                pass
        return function(plain(a), *others, **options)

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
        Of the result; cells are converted to it before they are added. Default: as NumPy (small integers become int64
        or uint64).
    keepdims : bool
        Keep the reduced axes, with length 1.
    reproducible : bool
        Whether floating-point results have the same bits for every decomposition.

    Returns
    -------
    NumPy scalar, or DistArray
        A scalar, the same on all ranks, if all axes are reduced and `keepdims` is false. Otherwise an array: on the
        grid of `a` if the reduced axes are not cut, else on the balanced grid of the other axes.

    Raises
    ------
    ValueError
        `axis` is out of range.
    TypeError
        `a` is complex and `dtype` is not.

    Notes
    -----
    Rounding errors and references: see `mpihpc.array.reductions`. Integers wrap around, as in NumPy.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.sum()
    np.float64(21.0)
    >>> u.sum(axis=0).gather(root=None)
    array([5., 7., 9.])
    """
    r = Reduction(a, axis, keepdims, lambda: _result_dtype(np.sum, a, dtype))
    return r.finish(r.combined(_total(r, r.dtype, reproducible, r.narrow)))


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

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.mean(axis=1).gather(root=None)
    array([2., 5.])
    """
    r = Reduction(a, axis, keepdims, lambda: _result_dtype(np.mean, a, dtype))
    return r.finish(r.combined(_total(r, r.dtype, reproducible)) / r.count)


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

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.var(axis=0).gather(root=None)
    array([2.25, 2.25, 2.25])
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
    """The standard deviation, the square root of `var`. Collective. Parameters and result: see `var`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.std(axis=0).gather(root=None)
    array([1.5, 1.5, 1.5])
    """
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

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.norm(mpihpc.asarray([3.0, 4.0]))
    np.float64(5.0)
    """
    r = Reduction(a, axis, keepdims, lambda: _numpys_dtype(_norm, a.dtype, None))
    kind = np.promote_types(a.dtype if kind_of(a.dtype) in "fc" else "f8", "f4")

    if reproducible and not r.kept and exact_sums.side_by_side(a.local):
        part: Partial = r.exact(lambda at: [[(exact_sums.reals(a.local[at]),) * 2]], True)
    elif reproducible:
        views = a.dtype == kind and kind.kind == "f"
        part = r.exact(lambda at: [[(x, x) for x in _parts(a.local[at].astype(kind, copy=False))]], views)
    else:
        part = r.values(lambda x, **over: np.sum(_square(x.astype(kind, copy=False)), **over), np.add)
    return r.finish(np.sqrt(r.combined(part)))


def dot(a: DistArray, b: Any, *, reproducible: bool = True) -> Any:
    """The sum of the products of two vectors, ``sum(a * b)``. Collective.

    Parameters
    ----------
    a, b : DistArray of one axis
        Of equal length. `b` may be a NumPy array that all ranks hold. It is redistributed if its decomposition differs.
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

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([1.0, 2, 3])
    >>> u.dot(u)
    np.float64(14.0)
    """
    return _vecdot(a, b, 0, False, reproducible)


def vecdot(a: DistArray, b: Any, *, axis: int = -1, reproducible: bool = True) -> Any:
    """The sums of the products along an axis, ``sum(conj(a) * b, axis)``, as `numpy.vecdot`. Collective.

    Parameters
    ----------
    a, b : DistArray
        Of the same shape. `b` may be a NumPy array that all ranks hold. It is redistributed if its decomposition is
        another one.
    axis : int
        The axis to reduce.
    reproducible : bool
        See `sum`.

    Returns
    -------
    NumPy scalar, or DistArray
        As `sum`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2], [3, 4]])
    >>> mpihpc.vecdot(u, u).gather(root=None)
    array([ 5., 25.])
    """
    return _vecdot(a, b, axis, True, reproducible)


@_reduction
def prod(a: DistArray, axis: Axis = None, dtype: DTypeLike | None = None, *, keepdims: bool = False) -> Any:
    """The product of all cells, or along axes. Collective. Parameters and result: see `sum`.

    The products of the blocks are multiplied in the order of the ranks, so the last bits of floating-point results
    depend on the decomposition.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.prod()
    np.float64(720.0)
    """
    r = Reduction(a, axis, keepdims, lambda: _result_dtype(np.prod, a, dtype))
    return r.finish(r.combined(r.values(lambda x, **over: np.prod(x, dtype=r.dtype, **over), np.multiply)))


@_reduction
def min(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The minimum, NaN if any cell is. Collective. Parameters and result: see `sum`.

    Raises
    ------
    ValueError
        There are no cells to choose from.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.min(axis=1).gather(root=None)
    array([1., 4.])
    """
    r = Reduction(a, axis, keepdims, lambda: a.dtype, some="min")
    return r.finish(r.combined(r.values(np.min, np.minimum, _limit(a.dtype, largest=True))))


@_reduction
def max(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The maximum, NaN if any cell is. Collective. Parameters and result: see `sum`; errors: see `min`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.max(axis=1).gather(root=None)
    array([3., 6.])
    """
    r = Reduction(a, axis, keepdims, lambda: a.dtype, some="max")
    return r.finish(r.combined(r.values(np.max, np.maximum, _limit(a.dtype, largest=False))))


@_reduction
def any(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Whether any cell is non-zero. Collective. Parameters and result: see `sum`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> (u > 5).any(axis=1).gather(root=None)
    array([False,  True])
    """
    r = Reduction(a, axis, keepdims, lambda: np.dtype(bool))
    return r.finish(r.combined(r.values(np.any, np.logical_or)))


@_reduction
def all(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Whether all cells are non-zero. Collective. Parameters and result: see `sum`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> (u > 3).all(axis=1).gather(root=None)
    array([False,  True])
    """
    r = Reduction(a, axis, keepdims, lambda: np.dtype(bool))
    return r.finish(r.combined(r.values(np.all, np.logical_and)))


@_reduction
def count_nonzero(a: DistArray, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """The number of non-zero cells, as int64. Collective. Parameters and result: see `sum`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> mpihpc.count_nonzero(u > 2)
    np.int64(4)
    """
    r = Reduction(a, axis, keepdims, lambda: np.dtype(np.int64))
    return r.finish(r.combined(r.values(lambda x, **over: np.sum(x != 0, dtype=np.int64, **over), np.add)))


@_reduction
def argmin(a: DistArray, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """The index of the smallest cell, or of the first NaN. Collective.

    Parameters
    ----------
    a, keepdims
        See `sum`.
    axis : int, optional
        Default: all axes; the index is then into the flattened global array, in C order.

    Returns
    -------
    NumPy int64, or DistArray of int64
        Among equal cells, the index of the first.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.argmin()
    np.int64(0)
    """
    return _arg(a, axis, keepdims, "argmin")


@_reduction
def argmax(a: DistArray, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """The index of the largest cell, or of the first NaN. Collective. Parameters and result: see `argmin`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1.0, 2, 3], [4, 5, 6]])
    >>> u.argmax(), u.argmax(axis=0).gather(root=None)
    (np.int64(5), array([1, 1, 1]))
    """
    return _arg(a, axis, keepdims, "argmax")


class Reductions:
    """The reductions as methods of `DistArray`."""

    __slots__ = ()

    sum, mean, var, std, prod = sum, mean, var, std, prod
    min, max, any, all = min, max, any, all
    argmin, argmax, dot = argmin, argmax, dot


def _total(r: Reduction, kind: np.dtype, reproducible: bool, odd: bool = False) -> Partial:
    """The sum of this rank's cells, each converted to `kind` first."""
    a = r.array
    if not (reproducible and kind_of(kind) in "fc"):
        return r.values(lambda x, **over: np.sum(x, dtype=kind, **over), np.add)
    if a.dtype.char in "fdFD" and np.can_cast(a.dtype, kind) and (a.dtype.kind == kind.kind):
        if not r.kept and exact_sums.side_by_side(a.local):
            return States(exact_sums.complex_total(a.local, None, False), odd)
        # The parts of complex numbers lie near each other: in pieces, memory is read only once.
        return r.exact(lambda at: [[x] for x in _parts(a.local[at])], bool(r.kept) or kind.kind == "f", odd)
    wide = np.promote_types(kind, "f4")
    return r.exact(lambda at: [[x] for x in _parts(a.local[at].astype(kind).astype(wide))], odd=odd)


def _var(a: DistArray, axis: Axis, dtype: Any, ddof: float, keepdims: bool, reproducible: bool, root: bool) -> Any:
    def check() -> np.dtype:
        if not isinstance(ddof, Real):
            raise TypeError(f"ddof {ddof!r} is not a number")
        return _result_dtype(np.var, a, dtype)

    r = Reduction(a, axis, keepdims, check)
    wide = np.promote_types(a.dtype, "f8")
    centre = r.combined(_total(r, wide, reproducible)) / r.count
    centre = a.device.asarray(centre)
    if r.moves:  # back to where the cells are
        there = a.like(r.cut, wide, halo=0)
        there.local[...] = centre
        centre = local_part(there, a)

    def deviation(at: exact_sums.Index) -> NDArray[Any]:
        return a.local[at] - centre[tuple(slice(None) if d in r.axes else s for d, s in enumerate(at))]

    if reproducible:
        part: Partial = r.exact(lambda at: [[(x, x) for x in _parts(deviation(at))]])
    else:
        part = r.values(lambda x, **over: np.sum(_square(deviation((slice(None),) * a.ndim)), **over), np.add)
    total = r.combined(part) / builtins.max(r.count - ddof, 0)
    return r.finish(np.sqrt(total) if root else total)


def _vecdot(a: DistArray, b: Any, axis: int, conjugate: bool, reproducible: bool) -> Any:
    name = "vecdot" if conjugate else "dot"
    with together(f"mpihpc.{name}", {"a": a}, {"b": b}):
        if not conjugate and a.ndim != 1:
            raise ValueError(f"dot takes vectors, a has shape {a.shape}: use vecdot along an axis, or @ for matrices")
        b = b if is_distributed(b) else numbers(b, "b")
        if a.shape != b.shape:
            raise ValueError(f"a has shape {a.shape} and b {b.shape}: they must be equal")
        found = np.result_type(a.dtype, b.dtype)
    a = plain(a)
    r = Reduction(a, axis, False, lambda: found, several=False)
    return r.finish(r.combined(_products(r, local_part(b, a), conjugate, reproducible)))


def _products(r: Reduction, y: Any, conjugate: bool, reproducible: bool) -> Partial:
    """The sum of the products of this rank's cells with those of `y`."""
    a, kind = r.array, r.dtype
    if kind.kind == "b":
        return r.values(lambda x, **over: np.any(x & y, **over), np.logical_or)
    if not (reproducible and kind_of(kind) in "fc"):

        def product(x: Any, **over: Any) -> Any:
            return np.sum((x.conj() if conjugate else x).astype(kind) * y, dtype=kind, **over)

        return r.values(product, np.add)
    work = np.promote_types(kind, "f4")
    sign = -1 if conjugate else 1

    def products(at: exact_sums.Index) -> list[list[Any]]:
        p, q = (_parts(x[at].astype(work, copy=False)) for x in (a.local, y))
        if len(p) == 1:
            return [[(p[0], q[0])]]
        return [[(p[0], q[0]), (-sign * p[1], q[1])], [(p[0], q[1]), (sign * p[1], q[0])]]

    if not r.kept and a.dtype == y.dtype == work and exact_sums.side_by_side(a.local, y):
        return States(exact_sums.complex_total(a.local, y, conjugate), r.narrow)
    return r.exact(products, a.dtype == y.dtype == work and kind.kind == "f", r.narrow)


def _arg(a: DistArray, axis: int | None, keepdims: bool, name: str) -> Any:
    """`argmin` or `argmax`, by its name."""
    r = Reduction(a, axis, keepdims, lambda: np.dtype(np.int64), some=name, several=False)
    smallest = name == "argmin"
    pick, best = (np.min, np.minimum) if smallest else (np.max, np.maximum)
    chosen_here = r.values(pick, best, _limit(a.dtype, smallest)).cells
    here = np.empty(chosen_here.shape, [("value", a.dtype), ("index", np.int64)])
    here["value"] = chosen_here
    here["index"] = np.iinfo(np.int64).max
    if a.local.size:
        find = getattr(np, name)
        found: Any = a.device.to_host(find(a.local, axis=None if axis is None else r.axes[0], keepdims=True))
        if axis is None:
            place = np.unravel_index(int(found.reshape(())), a.box.shape)
            found = np.ravel_multi_index([p + s for p, s in zip(place, a.box.start, strict=True)], a.shape)
        else:
            found += a.box.start[r.axes[0]]
        here["index"] = found
    every = r.gathered(here)
    value = every["value"]
    total = best.reduce(value, axis=r.axes, keepdims=True)
    chosen = (value == total) | ((value != value) & (total != total))  # NaN is what NumPy finds first
    return r.finish(np.min(np.where(chosen, every["index"], np.iinfo(np.int64).max), axis=r.axes, keepdims=True))


def _norm(x: NDArray[Any], dtype: None) -> Any:
    return np.linalg.norm(x)


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
