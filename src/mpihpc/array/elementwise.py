"""Arithmetic on distributed arrays: operators and NumPy's ufuncs, cell by cell, each rank on its own block.

Operands may be distributed arrays, numbers, and small NumPy arrays that every rank holds alike. What lies on another
decomposition is moved first, and `mpihpc.core.transfer.sent` counts it. Nothing is gathered.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from mpihpc.core.decomposition import Decomposition
from mpihpc.core.dtypes import number_dtype
from mpihpc.core.failure import agree
from mpihpc.core.projection import Spread
from mpihpc.core.transfer import Transfer

if TYPE_CHECKING:
    from mpihpc.array import DistArray

_AS_METHOD = {"add": "sum", "multiply": "prod", "minimum": "min", "maximum": "max"}
_AS_METHOD |= {"logical_and": "all", "logical_or": "any"}
_REDUCTIONS = [
    "sum",
    "prod",
    "min",
    "max",
    "mean",
    "var",
    "std",
    "any",
    "all",
    "argmin",
    "argmax",
    "count_nonzero",
    "dot",
    "vecdot",
]
_INSTEAD = {
    "norm": "mpihpc.norm",
    "outer": "mpihpc.linalg.outer",
    "copy": "the method .copy()",
    "where": "where= of a ufunc, or mpihpc.map_blocks(numpy.where, ...)",
    "clip": "numpy.minimum and numpy.maximum",
}


class Arithmetic(NDArrayOperatorsMixin):
    """What makes operators and ufuncs work on `DistArray`.

    All are collective. Before and after, each rank holds its blocks; the result is cut as the first operand that has
    its shape (or as `out`), with a halo as deep, which is not filled. Dtypes are those of NumPy. Shapes are broadcast
    as NumPy does it, but one distributed operand must have the shape of the result.
    """

    __slots__ = ()

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, where: Any = True, **options: Any
    ) -> Any:
        """A ufunc of arrays, cell by cell. Collective.

        Parameters
        ----------
        ufunc, method, inputs
            As NumPy hands them over; `method` must be ``__call__``.
        out : tuple of DistArray or None
            Where to put the results. They may have any decomposition.
        where : bool, bool DistArray or array of bool
            The cells to compute; the others of a new array hold anything.
        **options
            `dtype` and `casting`.

        Raises
        ------
        TypeError
            Methods such as `reduce`, ufuncs that do not work cell by cell, operands or `out` that are no arrays of
            numbers.
        ValueError
            Shapes that do not fit, or operands on different communicators.
        """
        outs: tuple[Any, ...] = out or (None,) * ufunc.nout
        distributed = [x for x in (*outs, *inputs, where) if is_distributed(x)]
        topology, device = distributed[0].topology, distributed[0].device
        with agree(topology.private):
            _check_ufunc(ufunc, method, outs, options)
            operands = [x if is_distributed(x) else _replicated(x) for x in (*inputs, where)]
            for x in distributed:
                if x.topology is not topology:
                    raise ValueError(
                        f"operands lie on different communicators, of {topology.size} and {x.topology.size} ranks: "
                        "make them with the same comm"
                    )
                if x.device is not device:
                    raise ValueError(
                        f"operands lie on {device.label} and on {x.device.label}: use .to_device to bring them together"
                    )
            shape = np.broadcast_shapes(*(x.shape for x in operands if hasattr(x, "shape")))
            for x in outs:
                if x is not None and x.shape != shape:
                    raise ValueError(f"out has shape {x.shape}, the result has {shape}")
            frame = next((x for x in distributed if x.shape == shape), None)
            if frame is None:
                known = ", ".join(str(x.shape) for x in distributed)
                raise ValueError(f"the result has shape {shape}, but no distributed operand has, only {known}")
            # Types decide, not values: so operands without cells tell what comes out.
            found = ufunc(*map(_sample, operands[:-1]), **options)
            dtypes = [number_dtype(x.dtype) for x in (found if ufunc.nout > 1 else (found,))]
            casting = options.get("casting", "same_kind")
            for x, dtype in zip(outs, dtypes, strict=True):
                if x is not None and not np.can_cast(dtype, x.dtype, casting):
                    raise TypeError(f"the result is {dtype}, which casting {casting!r} does not put into {x.dtype}")
            if (kind := np.asarray(_sample(operands[-1])).dtype).kind != "b":
                raise TypeError(f"where is {kind}: give an array of bool")
        frame = plain(frame)
        *local, chosen = [local_part(x, frame) for x in operands]
        results = [
            frame.__class__(frame.decomposition, dtype, comm=frame.comm, halo=frame.halo, device=device)
            if x is None or x.decomposition != frame.decomposition
            else x
            for x, dtype in zip(outs, dtypes, strict=True)
        ]
        moved = [(x, new) for x, new in zip(outs, results, strict=True) if x is not None and x is not new]
        if where is not True:
            for x, new in moved:  # what is not computed stays
                np.copyto(new.local, local_part(x, frame), casting="unsafe")
        with agree(topology.private):  # values may be refused too, such as negative powers of integers
            device.apply(ufunc, local, [x.local for x in results], chosen, options)
        for x, new in moved:
            np.copyto(x.local, local_part(new, x), casting="unsafe")
        given = [new if x is None else x for x, new in zip(outs, results, strict=True)]
        return tuple(given) if ufunc.nout > 1 else given[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Refuse, on all ranks alike, but for what is known without looking at cells."""
        name = {"amin": "min", "amax": "max"}.get(func.__name__, func.__name__)
        if name in ("shape", "ndim"):
            return getattr(self, name)
        module = func.__module__ or "numpy"
        with agree(self.topology.private):  # type: ignore[attr-defined]
            raise TypeError(f"{module}.{name} is not offered for distributed arrays: use {_instead(module, name)}")

    # NumPy's operator takes other ufuncs for some exponents, with other dtypes and bits.
    def __pow__(self, other: Any) -> Any:
        return self._power(operator.pow, other, ())

    def __ipow__(self, other: Any) -> Any:
        return self._power(operator.ipow, other, (self,))

    def _power(self, function: Callable[..., Any], exponent: Any, out: tuple[Any, ...]) -> Any:
        if getattr(exponent, "__array_ufunc__", self) is None:
            return NotImplemented
        ufunc: Any = np.power
        if isinstance(exponent, int | float | complex):
            ufunc = function(np.empty(0, self.dtype).view(_Which), exponent)  # type: ignore[attr-defined]
        return ufunc(self, *(exponent,) * (ufunc.nin - 1), out=out or None)

    def __bool__(self) -> NoReturn:
        raise ValueError("an array is neither true nor false: use .any() or .all()")

    def __len__(self) -> NoReturn:
        raise TypeError("a distributed array has no len: use .shape[0], or len(u.local) for this rank's block")

    def __getitem__(self, index: Any) -> NoReturn:
        raise TypeError("a distributed array has no cells by index: use .local for this rank's block, or .gather()")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("a distributed array has no cells by index: write into .local, this rank's block")


class _Which(np.ndarray):
    """Tells which ufunc NumPy's operator takes."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return ufunc


def is_distributed(x: Any) -> TypeGuard[DistArray]:
    """Whether it is a `DistArray`."""
    return isinstance(x, Arithmetic)


def plain(a: DistArray) -> DistArray:
    """The array, cut as `Decomposition` cuts: products may lie otherwise. Collective."""
    return a if type(a.decomposition) is Decomposition else a.redistribute()


def local_part(x: Any, frame: DistArray) -> Any:
    """What this rank needs of an operand for its block of `frame`. Collective.

    A number stays as it is, and of an array that all ranks hold it is a view. A distributed array, of the shape of
    `frame` or one that can be broadcast to it, is moved where it is not cut alike.
    """
    if not is_distributed(x):
        return frame.device.asarray(np.broadcast_to(x, frame.shape)[frame.box.slices()]) if np.ndim(x) else x
    if x.decomposition == frame.decomposition:
        return x.local
    if x.shape == frame.shape:
        return x.recut(frame.decomposition).local
    x = plain(x)
    more = frame.ndim - x.ndim
    shape = (1,) * more + x.shape
    need = Spread(frame.decomposition, tuple(d for d, n in enumerate(shape) if n == 1))
    box = need.box(frame.topology.rank)
    move = Transfer(Decomposition(shape, (1,) * more + x.decomposition.dims), need)
    exchange = move.bind(frame.topology, x.dtype, (0,) * more + x.box.start, box.start, frame.device)
    target = frame.device.empty(box.shape, x.dtype)
    exchange(x.local[(None,) * more], target)
    exchange.close()
    return target


def _check_ufunc(ufunc: np.ufunc, method: str, outs: tuple[Any, ...], options: dict[str, Any]) -> None:
    name: str = ufunc.__name__
    if method != "__call__":
        here = f": use .{_AS_METHOD[name]}()" if method == "reduce" and name in _AS_METHOD else ""
        raise TypeError(f"numpy.{name}.{method} is not offered for distributed arrays{here}")
    if ufunc.signature is not None:
        here = {"matmul": ": use @ between distributed arrays", "vecdot": ": use mpihpc.vecdot"}.get(name, "")
        raise TypeError(f"numpy.{name} does not work cell by cell, so not on distributed arrays{here}")
    if unknown := set(options) - {"dtype", "casting"}:
        raise TypeError(f"numpy.{name} of distributed arrays takes dtype and casting, not {', '.join(sorted(unknown))}")
    for x in outs:
        if x is not None and not is_distributed(x):
            raise TypeError(f"out is {type(x).__name__}: the result is distributed, give a DistArray")


def _instead(module: str, name: str) -> str:
    """What to use instead of a function of NumPy."""
    if name in _REDUCTIONS and module == "numpy":
        return f"mpihpc.{name}"
    return _INSTEAD.get(name, "ufuncs, functions of mpihpc, or mpihpc.map_blocks where each cell is worked on alone")


def _replicated(x: Any) -> Any:
    """A number as it is, since NumPy's promotion asks for its type; anything else as an array."""
    if isinstance(x, bool | int | float | complex):
        return x
    array = np.asarray(x)
    try:
        number_dtype(array.dtype)
    except TypeError:
        kind = type(x).__name__
        raise TypeError(
            f"an operand is {kind} of dtype {array.dtype}: give numbers, arrays of numbers, or DistArrays"
        ) from None
    return array if array.ndim else array[()]


def _sample(x: Any) -> Any:
    """No cell of an operand, but its dtype."""
    return np.empty(0, x.dtype) if is_distributed(x) or isinstance(x, np.ndarray) else x
