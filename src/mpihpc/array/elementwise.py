"""Operators and NumPy ufuncs, elementwise: each rank works on its own block.

Operands may be distributed arrays, numbers, and small NumPy arrays that every rank holds alike. What is cut another way
is moved first, and `mpihpc.core.tally.sent` counts it. Nothing is gathered.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from mpihpc.array.operands import Part, is_distributed, together
from mpihpc.array.refusals import refuse_ufunc
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.dtypes import number_dtype, numbers
from mpihpc.core.failure import agree

if TYPE_CHECKING:
    from mpihpc.array import DistArray


class Arithmetic(NDArrayOperatorsMixin):
    """What makes operators and ufuncs work on `DistArray`.

    All are collective. Before and after, each rank holds its blocks; the result is cut as the first operand that has
    its shape (or as `out`), with a halo as deep, which is not filled. Dtypes are those of NumPy. Shapes are broadcast
    as NumPy does it, but one distributed operand must have the shape of the result.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.full((4, 3), 2.0)
    >>> (np.sqrt(2 * u) + 1).max()
    np.float64(3.0)
    """

    __slots__ = ()

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, where: Any = True, **options: Any
    ) -> Any:
        """A ufunc of arrays, elementwise. Collective.

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
            Methods such as `reduce`, ufuncs that do not work elementwise, operands or `out` that are no arrays of
            numbers.
        ValueError
            Shapes that do not fit, or operands on different communicators or devices.

        Notes
        -----
        The ranks agree twice: that all operands fit and there is memory, and that the ufunc takes the values.
        """
        outs: tuple[Any, ...] = out or (None,) * ufunc.nout
        named = {**{f"out {k}": x for k, x in enumerate(outs)}, **{f"operand {k}": x for k, x in enumerate(inputs)}}
        with together(f"numpy.{ufunc.__name__}", {}, named | {"where": where}) as topology:
            refuse_ufunc(ufunc, method, outs, options)
            operands = [x if is_distributed(x) else _replicated(x) for x in (*inputs, where)]
            frame = _frame(outs, operands)
            dtypes = _result_dtypes(ufunc, outs, operands, options)
            cut, halo = frame.decomposition, frame.halo
            if type(cut) is not Decomposition:  # of a product
                cut, halo = Decomposition.balanced(frame.shape, topology.size), ((0, 0),) * frame.ndim
            results = [
                frame.allocate_like(cut, dtype, halo=halo) if x is None or x.decomposition != cut else x
                for x, dtype in zip(outs, dtypes, strict=True)
            ]
            parts = [Part(x, results[0]) for x in operands]
            moved = [(x, new) for x, new in zip(outs, results, strict=True) if x is not None and x is not new]
            there = [Part(x, new) for x, new in moved] if where is not True else []
            back = [Part(new, x) for x, new in moved]
        *local, chosen = [part.fetched() for part in parts]
        for part in there:  # what is not computed stays
            np.copyto(part.frame.local, part.fetched(), casting="unsafe")
        with agree(topology.private):  # values may be refused too, such as negative powers of integers
            frame.device.apply(ufunc, local, [x.local for x in results], chosen, options)
        for part in back:
            np.copyto(part.frame.local, part.fetched(), casting="unsafe")
        given = [new if x is None else x for x, new in zip(outs, results, strict=True)]
        return tuple(given) if ufunc.nout > 1 else given[0]

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


class _Which(np.ndarray):
    """Tells which ufunc NumPy's operator takes."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        return ufunc


def _frame(outs: tuple[Any, ...], operands: list[Any]) -> DistArray:
    """The array as which the results are cut: the first that has their shape."""
    shape = np.broadcast_shapes(*(x.shape for x in operands if hasattr(x, "shape")))
    for x in outs:
        if x is not None and x.shape != shape:
            raise ValueError(f"out has shape {x.shape}, the result has {shape}")
    distributed = [x for x in (*outs, *operands) if is_distributed(x)]
    frame = next((x for x in distributed if x.shape == shape), None)
    if frame is None:
        known = ", ".join(str(x.shape) for x in distributed)
        raise ValueError(f"the result has shape {shape}, which no distributed operand has: they have {known}")
    return frame


def _result_dtypes(
    ufunc: np.ufunc, outs: tuple[Any, ...], operands: list[Any], options: dict[str, Any]
) -> list[np.dtype]:
    # Types decide, not values: so operands without cells tell what comes out.
    found = ufunc(*map(_sample, operands[:-1]), **options)
    dtypes = [number_dtype(x.dtype) for x in (found if ufunc.nout > 1 else (found,))]
    casting = options.get("casting", "same_kind")
    for x, dtype in zip(outs, dtypes, strict=True):
        if x is not None and not np.can_cast(dtype, x.dtype, casting):
            raise TypeError(f"cannot cast the result from {dtype} to {x.dtype} with casting={casting!r}")
    if (kind := np.asarray(_sample(operands[-1])).dtype).kind != "b":
        raise TypeError(f"where has dtype {kind}: give an array of bool")
    return dtypes


def _replicated(x: Any) -> Any:
    """A number as it is, since NumPy's promotion asks for its type; anything else as an array."""
    if isinstance(x, bool | int | float | complex):
        return x
    if isinstance(x, np.matrix):
        raise TypeError("an operand is a numpy.matrix, whose operators are not elementwise: give numpy.asarray of it")
    array = numbers(x, "an operand")
    return array if array.ndim else array[()]


def _sample(x: Any) -> Any:
    """No cell of an operand, but its dtype."""
    return np.empty(0, x.dtype) if is_distributed(x) or isinstance(x, np.ndarray) else x
