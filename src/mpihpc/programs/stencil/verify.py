"""The same computation with SciPy on one process, as a check."""

from __future__ import annotations

from collections.abc import Sequence

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


def verify(
    first: NDArray[np.inexact],
    last: NDArray[np.inexact],
    kernel: NDArray[np.number],
    steps: int,
    modes: Sequence[str],
    cval: complex,
) -> float:
    """Compute `last` from `first` with `numpy.pad` and `scipy.ndimage.correlate`, and compare.

    Both work in double precision on the whole array. The difference is relative to the largest value that a step of
    the computation could have had, ``sum|kernel| * max|u|``.

    Returns
    -------
    float
        The largest relative difference.

    Raises
    ------
    VerificationError
        It exceeds 1e-12, or 1e-6 per step in single precision.
    """
    from scipy import ndimage  # takes long to import, and most runs do not verify

    kernel = np.asarray(kernel).reshape((1,) * (first.ndim - np.ndim(kernel)) + np.shape(kernel))
    complex_data = first.dtype.kind == "c"
    u = first.astype(np.complex128 if complex_data else np.float64)
    weights = kernel.conj() if kernel.dtype.kind == "c" else kernel.astype(float)  # SciPy conjugates them
    scale = 0.0
    for _ in range(steps if u.size else 0):
        tick()
        with np.errstate(all="ignore"):
            scale = max(scale, float(np.abs(kernel).sum() * np.nanmax(np.abs(u), initial=0)))
        for axis, (mode, n) in enumerate(zip(modes, kernel.shape, strict=True)):
            width = [(n // 2, n // 2) if d == axis else (0, 0) for d in range(u.ndim)]
            constant = {"constant_values": cval} if mode == "constant" else {}
            u = np.pad(u, width, _PAD[mode], **constant)  # type: ignore[call-overload]
        u = ndimage.correlate(u, weights, mode="constant")
        u = u[tuple(slice(n // 2, m - n // 2) for n, m in zip(kernel.shape, u.shape, strict=True))]
    if not np.isfinite(scale):
        raise VerificationError("the values grow beyond what float64 can hold, so nothing can be verified")
    limit = 1e-12 if last.dtype.char in "dD" else 1e-6 * max(steps, 1)
    same = (last == u) | (np.isnan(last) & np.isnan(u))
    difference = np.where(same, 0, np.nan_to_num(np.abs(last - u), nan=np.inf))
    error = float(np.max(difference, initial=0)) / (scale or 1.0)
    if error > limit:
        where = np.unravel_index(int(np.argmax(difference)), difference.shape)
        raise VerificationError(
            f"the result differs from SciPy by {error:.3g} relative, more than {limit:.3g}: at cell "
            f"{tuple(map(int, where))} of an array with {axes_text(last.ndim)} it is {last[where]}, not {u[where]}"
        )
    return error
