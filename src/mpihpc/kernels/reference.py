"""The kernel in plain NumPy slices: slow, short, and the oracle of the fast ones."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def correlate(
    src: NDArray[np.inexact],
    dst: NDArray[np.inexact],
    offsets: ArrayLike,
    weights: ArrayLike,
    threads: int = 1,
) -> None:
    """Fill ``dst[i] = sum_t weights[t] * src[i + offsets[t]]`` for every cell ``i`` of `dst`.

    Parameters
    ----------
    src, dst, offsets, weights
        As the contract in `mpihpc.kernels` says.
    threads : int
        Ignored: the same signature as the other kernels.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    """
    taps = np.asarray(offsets, dtype=np.int64).reshape(-1, dst.ndim)
    if taps.min(initial=0) < 0 or any(np.add(dst.shape, taps.max(axis=0, initial=0)) > src.shape):
        raise ValueError(f"src of shape {src.shape} is too small for dst of {dst.shape} and the offsets")
    dst[...] = 0
    with np.errstate(all="ignore"):
        for first, (offset, w) in enumerate(zip(taps, np.asarray(weights), strict=True)):
            x = src[tuple(slice(o, o + n) for o, n in zip(offset, dst.shape, strict=True))]
            # Real arithmetic only: NumPy's complex product may use fused multiply-add.
            if np.isrealobj(x):
                products = [(dst, w * x)]
            elif np.isrealobj(w):
                products = [(dst.real, w * x.real), (dst.imag, w * x.imag)]
            else:
                products = [
                    (dst.real, w.real * x.real - w.imag * x.imag),
                    (dst.imag, w.real * x.imag + w.imag * x.real),
                ]
            for acc, product in products:
                # The first product is stored, not added to zero: 0.0 + -0.0 would lose the sign.
                acc[...] = acc + product if first else product
