"""Kernels by name: ``heat:0.1``, ``gaussian:2``, ..."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import factorial, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.core.failure import nearest

_MAX_ORDER, _MAX_SIGMA, _MAX_SIZE = 100, 1000, 10_000


def heat(ndim: int, alpha: float = 0.1) -> NDArray[Any]:
    """Explicit Euler step of the heat equation, ``u + alpha * laplace(u)``; stable for ``alpha <= 1 / (2 * ndim)``."""
    if not isfinite(alpha):
        raise ValueError(f"heat alpha {alpha} is not a finite number")
    return identity(ndim, 3) + alpha * laplace(ndim)


def laplace(ndim: int, order: int = 2) -> NDArray[Any]:
    """The Laplacian on a unit grid by central differences of an even order of accuracy.

    The weights of the second derivative are those of Fornberg, Mathematics of Computation 51 (1988) 699, in closed
    form: ``2 (-1)**(k + 1) * m!**2 / (k**2 * (m - k)! * (m + k)!)`` at distance k, with ``m = order / 2``.
    """
    if not 2 <= order <= _MAX_ORDER or order % 2:
        raise ValueError(f"laplace order {order} is not an even number from 2 to {_MAX_ORDER}")
    m = order // 2
    side = [
        2 * (-1) ** (k + 1) * factorial(m) ** 2 / (k**2 * factorial(m - k) * factorial(m + k)) for k in range(1, m + 1)
    ]
    line = np.array([*side[::-1], -2 * sum(side), *side])
    kernel = np.zeros((order + 1,) * ndim)
    for axis in range(ndim):
        kernel[tuple(slice(None) if d == axis else m for d in range(ndim))] += line
    return kernel


def mean(ndim: int, size: int) -> NDArray[Any]:
    """The mean over `size` cells on each axis."""
    if not 1 <= size <= _MAX_SIZE:
        raise ValueError(f"mean size {size} is not a number from 1 to {_MAX_SIZE}")
    return np.full((size,) * ndim, 1 / size**ndim)


def gaussian(ndim: int, sigma: float) -> NDArray[Any]:
    """A Gaussian of standard deviation `sigma` cells, cut at 4 sigma as `scipy.ndimage.gaussian_filter` does."""
    if not 0.01 <= sigma <= _MAX_SIGMA:
        raise ValueError(f"gaussian sigma {sigma} is not a number from 0.01 to {_MAX_SIGMA}")
    x = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    line = np.exp(-0.5 / sigma**2 * x**2)
    return _outer([line / line.sum()] * ndim)


def sobel(ndim: int, axis: int = -1) -> NDArray[Any]:
    """The Sobel derivative along an axis, as `scipy.ndimage.sobel`."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"sobel axis {axis} is not one of {ndim}: use {-ndim} to {ndim - 1}")
    return _outer([np.array([-1.0, 0, 1] if d == axis % ndim else [1.0, 2, 1]) for d in range(ndim)])


def sharpen(ndim: int) -> NDArray[Any]:
    """``u - laplace(u)``."""
    return identity(ndim, 3) - laplace(ndim)


def identity(ndim: int, size: int = 1) -> NDArray[Any]:
    """A one in the middle of zeros."""
    kernel = np.zeros((size,) * ndim)
    kernel[(size // 2,) * ndim] = 1
    return kernel


# name -> function, type of its argument (None: it takes none), whether the argument must be given
NAMED: dict[str, tuple[Callable[..., NDArray[Any]], type | None, bool]] = {
    "heat": (heat, float, False),
    "laplace": (laplace, int, False),
    "mean": (mean, int, True),
    "gaussian": (gaussian, float, True),
    "sobel": (sobel, int, False),
    "sharpen": (sharpen, None, False),
    "identity": (identity, None, False),
}


def named_kernel(text: str, ndim: int) -> NDArray[Any]:
    """The kernel for a name with an optional argument, on `ndim` axes.

    Parameters
    ----------
    text : str
        ``heat[:alpha]`` (default 0.1), ``laplace[:order]`` (2), ``mean:SIZE``, ``gaussian:SIGMA``, ``sobel[:axis]``
        (-1), ``sharpen`` or ``identity``.
    ndim : int
        Number of axes.

    Returns
    -------
    numpy.ndarray
        float64, `ndim` axes.

    Raises
    ------
    ValueError
        An unknown name, a missing argument, or one out of range.

    Examples
    --------
    >>> named_kernel("laplace", 2)
    array([[ 0.,  1.,  0.],
           [ 1., -4.,  1.],
           [ 0.,  1.,  0.]])
    """
    name, _, argument = text.partition(":")
    if name not in NAMED:
        raise ValueError(f"unknown kernel {name!r}: {nearest(name, NAMED)}")
    function, kind, needed = NAMED[name]
    if not argument:
        if needed:
            raise ValueError(f"kernel {name!r} needs an argument: for example {name}:3")
        return function(ndim)
    if kind is None:
        raise ValueError(f"kernel {name!r} takes no argument, {argument!r} was given")
    try:
        value = kind(argument)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        raise ValueError(f"kernel {name!r} takes {wanted}, not {argument!r}") from None
    return function(ndim, value)


def _outer(lines: list[NDArray[Any]]) -> NDArray[Any]:
    """The outer product of one line of weights per axis."""
    return reduce(np.multiply.outer, lines)
