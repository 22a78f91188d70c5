"""The same computation with NumPy on one process, as a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.core.decomposition import axes_text
from mpihpc.core.failure import VerificationError
from mpihpc.core.watchdog import tick

_PAD = {
    "reflect": "symmetric",
    "mirror": "reflect",
    "nearest": "edge",
    "wrap": "wrap",
    "constant": "constant",
}
_SLAB = 1 << 15  # cells that stay in a cache while all taps are added


def verify(
    first: NDArray[np.inexact],
    last: NDArray[np.inexact],
    kernel: NDArray[np.number],
    steps: int,
    modes: Sequence[str],
    cval: complex,
    lines: Sequence[int] = (),
) -> float:
    """Compute `last` from `first` in double precision on the whole array, and compare.

    Beside each cell goes a bound of its error, so that no right run is called wrong. A sum of T taps, one after the
    other, is off by at most ``gamma * sum |w| |x|`` with ``gamma = n u / (1 - n u)``, where u is half the spacing of
    the dtype at 1, and n is T + 1: a product, the additions, and the rounding of the weight (Higham, *Accuracy and
    Stability of Numerical Algorithms*, 2002, section 3.1). To that come the errors of the step before, ``sum |w| e``,
    and what underflows.

    A cell whose sum may overflow the dtype (by a rough estimate) is not compared, nor is what is computed from it.
    A cell that infinities or NaN of `first` reach must hold the same infinity, or NaN; in complex arrays, something
    that is not finite.

    Parameters
    ----------
    lines : sequence of int
        The lengths of the lines that were applied in place of the kernel, if there were any.

    Returns
    -------
    float
        The largest difference, relative to ``sum|kernel| * max|u|``, the largest value that a step could have had.

    Raises
    ------
    VerificationError
        Some difference exceeds its bound, or there is no cell that can be compared.
    """
    kernel = np.asarray(kernel).reshape((1,) * (first.ndim - np.ndim(kernel)) + np.shape(kernel))
    places, weights = np.argwhere(kernel), kernel[kernel != 0]
    weights = weights.astype(np.complex128 if weights.dtype.kind == "c" else np.float64)
    limits = np.finfo(last.real.dtype)
    # As the dtype has it: too small a weight makes NaN of an infinity.
    weights = np.where(weights.astype(last.dtype) == 0, 0, weights)
    beyond: Any = np.asarray(cval, last.dtype)[()] if last.dtype.kind == "c" else last.dtype.type(np.real(cval))

    operations = (sum(lines) + 2 * len(lines) if lines else len(weights)) + 1
    if weights.dtype.kind == "c":
        operations = 2 * operations + 4  # a product of complex numbers rounds each part three times
    gamma = _gamma(operations, limits.eps / 2) + _gamma(operations, 2.0**-53)
    sizes = np.abs(weights)
    peak = float(sizes.max(initial=0))
    # What is lost of a tap whatever its weight is: by underflow, and in lines, which are the kernel to rounding.
    lost = float(limits.smallest_subnormal) * (1 + peak)
    slack = (lost + (8 * first.ndim * 2.0**-52 * peak if lines else 0)) / gamma
    most = float(limits.max) / (4.0**first.ndim if lines else 1)  # lines may overflow before their product does

    u = first.astype(np.complex128 if last.dtype.kind == "c" else np.float64)
    bound = np.zeros(u.shape)
    scale = 0.0
    with np.errstate(all="ignore"):
        for _ in range(steps if u.size else 0):
            shape = u.shape
            u, bound = _padded(u, kernel.shape, modes, beyond), _padded(bound, kernel.shape, modes, 0)
            size = np.where(np.isfinite(u), np.abs(u), 0)
            scale = max(scale, float(sizes.sum() * size.max()))
            u, bound = (
                _sum(u, shape, places, weights),
                _sum(bound + gamma * (size + bound), shape, places, sizes + slack) + lost * len(weights),
            )
            bound[~(bound < gamma * most)] = np.inf
        same = (last == u) | (np.isnan(last) & np.isnan(u))
        if last.dtype.kind == "c":
            same |= ~np.isfinite(last) & ~np.isfinite(u)
        difference = np.where(same | (bound == np.inf), 0, np.nan_to_num(np.abs(last - u), nan=np.inf))
        wrong = difference > bound * 1.001  # the bound is rounded, too
        excess = np.where(wrong, difference / bound, 0)
    if u.size and np.all(bound == np.inf):
        raise VerificationError(f"all values may have overflowed {last.dtype}: nothing can be verified")
    if np.any(wrong):
        where = np.unravel_index(int(np.argmax(excess)), difference.shape)
        raise VerificationError(
            f"the result differs from NumPy's by {difference[where]:.3g}, where rounding allows {bound[where]:.3g}: at "
            f"cell {tuple(map(int, where))} of an array with {axes_text(last.ndim)} it is {last[where]}, not {u[where]}"
        )
    return float(np.max(difference, initial=0)) / (scale or 1.0)


def _gamma(n: int, unit: float) -> float:
    """How much n roundings may change a number, relatively."""
    return n * unit / (1 - n * unit) if n * unit < 1 else np.inf


def _padded(x: NDArray, shape: Sequence[int], modes: Sequence[str], cval: complex) -> NDArray:
    """The array with what lies beyond its edges, half a kernel of it."""
    for axis, (mode, n) in enumerate(zip(modes, shape, strict=True)):
        width = [(n // 2, n // 2) if d == axis else (0, 0) for d in range(x.ndim)]
        constant = {"constant_values": cval} if mode == "constant" else {}
        x = np.pad(x, width, _PAD[mode], **constant)  # type: ignore[call-overload]
    return x


def _sum(padded: NDArray, shape: tuple[int, ...], places: NDArray, weights: NDArray) -> NDArray:
    """``sum_t weights[t] * x[i + places[t]]``. (`scipy.ndimage.correlate` leaves out weights below 2.2e-16.)"""
    total = np.zeros(shape, np.result_type(padded, weights))
    rows = max(1, _SLAB * shape[0] // total.size)
    for lo in range(0, shape[0], rows):
        part = total[lo : lo + rows]
        for place, weight in zip(places + ([lo] + [0] * (len(shape) - 1)), weights, strict=True):
            tick()
            part += weight * padded[tuple(slice(p, p + n) for p, n in zip(place, part.shape, strict=True))]
    return total
