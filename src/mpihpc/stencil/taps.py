"""Taps: the cells that a stencil reads around a cell, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpihpc.core.decomposition import Width, axes_text
from mpihpc.core.dtypes import numbers


@dataclass(frozen=True, eq=False)
class Taps:
    """The non-zero weights of a kernel: ``new[i] = sum_t weights[t] * old[i + offsets[t]]``, added in this order.

    Attributes
    ----------
    offsets : numpy.ndarray
        int64, shape (taps, axes).
    weights : numpy.ndarray
        float64 or complex128, shape (taps,).

    Examples
    --------
    >>> taps = Taps.from_kernel([[0, 1, 0], [1, -4, 1], [0, 1, 0]], ndim=2)
    >>> taps.weights
    array([ 1.,  1., -4.,  1.,  1.])
    >>> taps.width, taps.star
    (((1, 1), (1, 1)), True)
    """

    offsets: NDArray[np.int64]
    weights: NDArray[Any]

    @classmethod
    def from_kernel(cls, kernel: ArrayLike, ndim: int, origin: int | Sequence[int] = 0) -> Taps:
        """The taps of a dense kernel, in its C order.

        Parameters
        ----------
        kernel : array_like
            Weights, with at most `ndim` axes. Fewer are taken as the last axes, as NumPy broadcasts.
        ndim : int
            Number of axes of the arrays that it is applied to.
        origin : int or sequence of int
            As in `scipy.ndimage.correlate`: the kernel's cell ``shape // 2 + origin`` is on the output cell.

        Raises
        ------
        ValueError
            Too many axes, no weights, NaN or infinite weights, or an origin outside the kernel.
        TypeError
            The kernel does not hold numbers.

        Examples
        --------
        >>> Taps.from_kernel([1, 0, -1], ndim=1).offsets.ravel()
        array([-1,  1])
        """
        dense = numbers(kernel, "the kernel")
        if dense.ndim > ndim:
            raise ValueError(f"the kernel has {axes_text(dense.ndim)}, the input has {ndim}")
        dense = dense.reshape((1,) * (ndim - dense.ndim) + dense.shape)
        if not dense.size:
            raise ValueError(f"the kernel of shape {dense.shape} holds no weights")
        bad = int((~np.isfinite(dense)).sum())
        if bad:
            raise ValueError(f"{bad} of the kernel's {dense.size} weights are NaN or infinite")
        origins = [origin] * ndim if isinstance(origin, int | np.integer) else [index(o) for o in origin]
        if len(origins) != ndim:
            raise ValueError(f"{len(origins)} origins for {axes_text(ndim)}: give 1, or one per axis")
        check_origins(origins, dense.shape)
        centre = np.array([n // 2 + o for o, n in zip(origins, dense.shape, strict=True)], np.int64)
        kind = np.complex128 if dense.dtype.kind == "c" else np.float64
        return cls(np.argwhere(dense) - centre, dense[dense != 0].astype(kind))

    @property
    def width(self) -> Width:
        """The cells needed before and after a block on each axis: the halo of one step."""
        if not len(self.weights):
            return ((0, 0),) * self.offsets.shape[1]
        low, high = self.offsets.min(0), self.offsets.max(0)
        return tuple((max(0, -int(a)), max(0, int(b))) for a, b in zip(low, high, strict=True))

    @property
    def star(self) -> bool:
        """Whether every tap is on an axis, so that the corners of a halo are not read."""
        return bool((np.count_nonzero(self.offsets, axis=1) <= 1).all())

    def weights_for(self, dtype: np.dtype) -> NDArray[Any]:
        """The weights in the precision of data of a dtype, real if they are real: as the kernels take them."""
        return self.weights.astype(dtype if self.weights.dtype.kind == "c" else np.empty(0, dtype).real.dtype)


def check_origins(origins: Sequence[int], shape: Sequence[int]) -> None:
    """Refuse origins outside a kernel.

    Raises
    ------
    ValueError
        One is, with the range that it must be in.
    """
    for o, n in zip(origins, shape, strict=True):
        if not -(n // 2) <= o <= (n - 1) // 2:
            raise ValueError(f"origin {o} is outside a kernel of length {n}: use {-(n // 2)} to {(n - 1) // 2}")


def working_dtype(dtype: np.dtype, taps: Taps) -> np.dtype:
    """The dtype to compute in: float32, float64, complex64 or complex128.

    Integers and bools become float64, float16 becomes float32; complex weights make real data complex.

    Raises
    ------
    TypeError
        None of them can hold `dtype`.

    Examples
    --------
    >>> working_dtype(np.dtype(np.int16), Taps.from_kernel([1, 2, 1], ndim=1))
    dtype('float64')
    """
    if dtype.kind in "biu":
        found = np.dtype(np.float64)
    elif dtype.kind in "fc":
        found = np.result_type(dtype, np.float32)
    else:
        raise TypeError(f"dtype {dtype} is not numeric: use integers, floats or complex numbers")
    if taps.weights.dtype.kind == "c":
        found = np.result_type(found, np.complex64)
    if found.char not in "fdFD":
        raise TypeError(f"dtype {dtype} is wider than the kernels' {'complex128' if found.kind == 'c' else 'float64'}")
    return found
