"""Norms with the arguments of `numpy.linalg.norm`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, cast

import numpy as np

from mpihpc.array import DistArray, reductions
from mpihpc.array.operands import together
from mpihpc.core.dtypes import kind_of


def norm(
    x: DistArray,
    ord: float | str | None = None,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
    *,
    reproducible: bool = True,
) -> Any:
    """A norm of vectors or matrices, as `numpy.linalg.norm`. Collective.

    Parameters
    ----------
    x : DistArray
        Integers are converted to float64.
    ord : number, "fro" or None
        For vectors: ``sum(abs(x)**ord)**(1/ord)``; inf and -inf: the largest and the smallest ``abs(x)``; 0: the number
        of non-zero cells. For matrices: None or "fro": the 2-norm of all cells; 1 and -1: the largest and the smallest
        column sum of ``abs(x)``; inf and -inf: row sum. Default: the 2-norm of all cells.
    axis : int or pair of int, optional
        The axis of the vectors, or the axes of rows and columns of the matrices. Default: all axes; with an `ord`, the
        array must then have one or two.
    keepdims : bool
        Keep the reduced axes, with length 1.
    reproducible : bool
        Whether the bits of sums must not depend on the decomposition: see `mpihpc.sum`.

    Returns
    -------
    NumPy scalar, or DistArray
        As `mpihpc.sum`; real.

    Raises
    ------
    ValueError
        An unknown `ord`, or a matrix norm that needs singular values (2, -2, "nuc"): if the matrix fits on one rank,
        gather it. On all ranks, with the same text.
    TypeError
        `x` is not a DistArray.

    Examples
    --------
    >>> import mpihpc
    >>> x = mpihpc.asarray([[3.0, -4], [0, 12]])
    >>> mpihpc.linalg.norm(x), mpihpc.linalg.norm(x, 1)
    (np.float64(13.0), np.float64(16.0))
    >>> mpihpc.linalg.norm(x, axis=0).gather(root=None).round(3)
    array([ 3.   , 12.649])
    """
    options: dict[str, Any] = {"keepdims": keepdims}
    exact = {**options, "reproducible": reproducible}
    with together("norm", {"x": x}):
        axes = tuple(range(x.ndim)) if axis is None else tuple(map(index, np.atleast_1d(axis).tolist()))
        axes = tuple(d + x.ndim if -x.ndim <= d < 0 else d for d in axes)
        cells = ord is None and axis is None
        if not cells and len(axes) not in (1, 2):
            raise ValueError(f"norms are taken along one or two axes, not {len(axes)}: give axis")
        if not cells and (min(axes) < 0 or max(axes) >= x.ndim or len(set(axes)) < len(axes)):
            raise ValueError(f"axis {axis} does not name different axes of an array of {x.ndim}")
        if len(axes) == 2 and ord in (2, -2, "nuc"):
            raise ValueError(
                f"ord {ord!r} of matrices needs singular values, which are not supported: gather the matrix"
            )
        known = (None, "fro", "f", 1, -1, np.inf, -np.inf) if len(axes) == 2 else (None,)
        if not cells and ord not in known and (len(axes) == 2 or isinstance(ord, str) or not np.isscalar(ord)):
            raise ValueError(f"ord {ord!r} is not a norm of {'matrices' if len(axes) == 2 else 'vectors'}")
    if cells or ord in (None, "fro", "f") or (ord == 2 and len(axes) == 1):
        return reductions.norm(x, axes, **exact)
    size, power = abs(x if kind_of(x.dtype) in "fc" else x.astype(float)), cast(float, ord)
    extreme = reductions.max if power > 0 else reductions.min
    if len(axes) == 2:
        lines, across = axes if abs(power) == 1 else axes[::-1]
        across -= across > lines and not keepdims
        return extreme(reductions.sum(size, lines, **exact), across, **options)
    if abs(power) == np.inf:
        return extreme(size, axes, **options)
    if power == 0:
        return reductions.sum((x != 0).astype(size.dtype), axes, **exact)
    if power == 1:
        return reductions.sum(size, axes, **exact)
    return reductions.sum(size**power, axes, **exact) ** (1 / power)
