"""Filters of `scipy.ndimage` for distributed arrays, with SciPy's names and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mpihpc.array import DistArray
from mpihpc.array.operands import is_distributed, together
from mpihpc.core.decomposition import axes_text
from mpihpc.core.dtypes import number_dtype, numbers, require_cast
from mpihpc.stencil import Stencil, Taps, padded_copy
from mpihpc.stencil.taps import check_origins, working_dtype

__all__ = ["convolve", "correlate"]


def correlate(
    input: DistArray,
    weights: ArrayLike,
    output: DistArray | DTypeLike | None = None,
    mode: str | Sequence[str] = "reflect",
    cval: Any = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
) -> DistArray:
    """Multidimensional correlation, as `scipy.ndimage.correlate`. Collective.

    Parameters
    ----------
    input : DistArray
        1 to 4 axes. Not changed.
    weights : array_like
        As many axes as `input` (or as `axes` has entries). Complex weights are conjugated, as in SciPy.
    output : DistArray or dtype, optional
        Where to put the result (same shape and decomposition as `input`, not `input` itself), or its dtype. Default:
        the dtype of the computation, which is that of `input` with integers promoted to float64 (SciPy keeps integers).
    mode : str or sequence of str
        How the array continues beyond its edges, for all axes or one per axis. See `mpihpc.stencil.evolve`.
    cval : scalar
        The value beyond ``constant`` axes.
    origin : int or sequence of int
        Shifts the kernel; positive values to lower indices, as in SciPy.
    axes : int or sequence of int, optional
        The axes along which the filter is applied. Default: all.

    Returns
    -------
    DistArray
        Shape, decomposition and device of `input`; no halo.

    Raises
    ------
    ValueError
        Weights, modes, origins or axes that do not fit `input`, or an `output` that is distributed otherwise. On all
        ranks, with the same text.
    TypeError
        Dtypes that cannot be computed in, or converted. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([0.0, 0, 1, 0, 0])
    >>> mpihpc.ndimage.correlate(u, [1, 2, 4]).gather(root=None)
    array([0., 4., 2., 1., 0.])
    """
    return _filter(input, weights, output, mode, cval, origin, axes, convolution=False)


def convolve(
    input: DistArray,
    weights: ArrayLike,
    output: DistArray | DTypeLike | None = None,
    mode: str | Sequence[str] = "reflect",
    cval: Any = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
) -> DistArray:
    """Multidimensional convolution, as `scipy.ndimage.convolve`. Collective.

    The weights are mirrored, and not conjugated. Parameters, result and errors are those of `correlate`.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([0.0, 0, 1, 0, 0])
    >>> mpihpc.ndimage.convolve(u, [1, 2, 4]).gather(root=None)
    array([0., 1., 2., 4., 0.])
    """
    return _filter(input, weights, output, mode, cval, origin, axes, convolution=True)


def _filter(
    input: DistArray,
    weights: ArrayLike,
    output: DistArray | DTypeLike | None,
    mode: str | Sequence[str],
    cval: Any,
    origin: int | Sequence[int],
    axes: int | Sequence[int] | None,
    convolution: bool,
) -> DistArray:
    with together("convolve" if convolution else "correlate", {"input": input}, {"output": output}):
        kernel, origins, modes = _expand(numbers(weights, "the kernel"), origin, mode, axes, input.ndim)
        if convolution:
            check_origins(origins, kernel.shape)  # as they are given; they name the same cells when mirrored
            kernel = kernel[(slice(None, None, -1),) * kernel.ndim]
            origins = [-o - (n % 2 == 0) for o, n in zip(origins, kernel.shape, strict=True)]
        else:
            kernel = kernel.conj()
        taps = Taps.from_kernel(kernel, input.ndim, origins)
        given = output if is_distributed(output) else None
        wanted = given.dtype if given is not None else None if output is None else number_dtype(output)
        work = working_dtype(input.dtype, taps)
        if wanted is not None and wanted.kind in "fc":
            work = working_dtype(np.result_type(work, wanted), taps)
        if given is input:
            raise ValueError("output must not be input itself: the filter still reads what it writes")
        if given is not None and given.decomposition != input.decomposition:
            raise ValueError(
                f"output must have the decomposition of input: {given.decomposition} is not {input.decomposition}"
            )
        require_cast(work, wanted or work)
    where: dict[str, Any] = {"comm": input.comm, "device": input.device}
    plan = Stencil(input.decomposition, taps, work, mode=modes, cval=cval, fuse=1, overlap=False, **where)
    same = input.dtype == work and input.halo == plan.halo.width
    source = input if same else padded_copy(input, work, plan.halo.width)
    result = given if given is not None and given.dtype == work else input.like(dtype=work, halo=0)
    plan.apply(source.padded, result.local)
    if given is not None and given is not result:
        np.copyto(given.local, result.local, casting="unsafe")
        return given
    return result if wanted in (None, work) else result.astype(wanted)


def _expand(
    weights: np.ndarray,
    origin: int | Sequence[int],
    mode: str | Sequence[str],
    axes: int | Sequence[int] | None,
    ndim: int,
) -> tuple[np.ndarray, list[int], str | Sequence[str]]:
    """Weights, origins and modes for all axes, from those for the filtered ones."""
    chosen = list(range(ndim)) if axes is None else [axes] if isinstance(axes, int | np.integer) else list(axes)
    if any(not -ndim <= a < ndim for a in chosen) or len({a % ndim for a in chosen}) < len(chosen):
        raise ValueError(f"axes {axes} are not distinct axes of an input with {axes_text(ndim)}")
    if weights.ndim != len(chosen):
        raise ValueError(f"weights have {axes_text(weights.ndim)}, the input has {len(chosen)} to filter along")
    origins = [origin] * len(chosen) if isinstance(origin, int | np.integer) else list(origin)
    modes = [mode] * len(chosen) if isinstance(mode, str) else list(mode)
    if len(origins) != len(chosen) or len(modes) != len(chosen):
        raise ValueError(
            f"{len(origins)} origins and {len(modes)} modes for {axes_text(len(chosen))}: give 1, or one per axis"
        )
    order = np.argsort([a % ndim for a in chosen])
    place = [chosen[k] % ndim for k in order]
    shape, all_origins, all_modes = [1] * ndim, [0] * ndim, ["nearest"] * ndim
    for k, axis in zip(order, place, strict=True):
        shape[axis], all_origins[axis], all_modes[axis] = weights.shape[k], origins[k], modes[k]
    return weights.transpose(order).reshape(shape), all_origins, all_modes
