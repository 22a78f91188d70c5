"""Sums of one rank's block without rounding, as states that add up to those of all ranks.

What is added comes as `Terms`: for a part of the block, by its index, the arrays or pairs of factors that belong to
each component of the sum (one, or the real and the imaginary). So products and squares are made in pieces that stay in
a cache, not for the whole block at once.

`src/_core/sums.hpp` explains the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.core.decomposition import Box
from mpihpc.core.device import CPU, Device
from mpihpc.core.dtypes import is_bfloat16
from mpihpc.kernels import Kernels, cpu

Index = tuple[slice, ...]
Terms = Callable[[Index], list[list[Any]]]

_WHOLE = 1 << 30  # cells, or rows, that go to a kernel at once


def total(terms: Terms, shape: Sequence[int], views: bool, device: Device = CPU) -> NDArray[np.int64]:
    """The sums over all cells: (components, words). Element-wise sums of such states are states of the sums.

    Parameters
    ----------
    terms : callable
        See above.
    shape : sequence of int
        Of the block.
    views : bool
        Whether terms may be asked for the whole block at once.
    device : Device
        Where the terms are.
    """
    kernels, piece = device.kernels, _WHOLE if views else device.piece
    states: list[NDArray[np.int64]] = []
    for at in _pieces(shape, piece) if math.prod(shape) else [_everything(shape)]:
        found = terms(at)
        states = states or list(np.zeros((len(found), cpu.SUM_WORDS), np.int64))
        for state, component in zip(states, found, strict=True):
            for x in component:
                if isinstance(x, tuple):
                    kernels.sum_add_products(x[0], x[1], state)
                else:
                    kernels.sum_add(x, state)
    return np.array(states)


def complex_total(x: NDArray[Any], y: NDArray[Any] | None, conjugate: bool) -> NDArray[np.int64]:
    """The sums of the real and the imaginary parts of the cells, or of ``x * y``, as `total`.

    Parameters
    ----------
    x, y : complex64 or complex128 arrays
        Of the same shape and dtype, `y` may be None. Their last axis is contiguous.
    conjugate : bool
        Of `x`, before it is multiplied.
    """
    states = np.zeros((2, cpu.SUM_WORDS), np.int64)
    if x.size:
        cpu.sum_add_complex(reals(x), None if y is None else reals(y), conjugate, *states)
    return states


def reals(x: NDArray[Any]) -> NDArray[Any]:
    """Complex numbers as real ones, along the last axis, which is contiguous."""
    return x.view(x.real.dtype)


def side_by_side(*arrays: Any) -> bool:
    """Whether `complex_total` takes them: complex numbers in host memory, contiguous along the last axis."""
    return all(isinstance(x, np.ndarray) and x.dtype.char in "FD" and x.strides[-1] == x.itemsize for x in arrays)


def lines(
    terms: Terms,
    shape: Sequence[int],
    axes: Sequence[int],
    views: bool,
    complete: bool,
    odd: bool = False,
    device: Device = CPU,
) -> list[NDArray[np.float64]]:
    """The sums along axes, for each component: (numbers, ...), with length 1 on the axes.

    Parameters
    ----------
    terms, shape, views
        As in `total`.
    axes : sequence of int
        The reduced axes.
    complete : bool
        Whether nothing else will be added: then there is one number, the rounded sum; else numbers that add up to it.
    odd : bool
        How it is rounded: see `narrowed`.
    device : Device
        Where the terms are; the sums are in host memory.
    """
    kernels, piece, least = device.kernels, device.piece, device.rows
    here = tuple(1 if d in axes else n for d, n in enumerate(shape))
    tall = tuple(n if d in axes else 1 for d, n in enumerate(shape))
    height = math.prod(tall)
    if views and height <= _WHOLE:
        everything = terms(_everything(shape))
        return [_columns(x, axes, complete, odd, here, kernels) for (x,) in everything]
    sums = [np.zeros((1 if complete else 2, *here)) for _ in terms(_nothing(shape))]
    wide = piece // max(1, min(height, least))
    for at in _pieces(here, wide):
        parts: list[NDArray[np.float64] | None] = [None] * len(sums)
        for rows in _pieces(tall, max(least, piece // max(1, min(math.prod(here), wide)))):
            index = tuple(rows[d] if d in axes else s for d, s in enumerate(at))
            for c, component in enumerate(terms(index)):
                found = [_columns(x, axes, False, kernels=kernels) for x in component]
                if (before := parts[c]) is not None:
                    found.append(before)
                parts[c] = found[0] if len(found) == 1 else _columns(np.concatenate(found), [0], False)
        for c, part in enumerate(parts):
            if part is None:
                continue
            if complete:
                part = _columns(part, [0], True, odd)
            elif len(part) > len(sums[c]):
                sums[c] = np.concatenate([sums[c], np.zeros((len(part) - len(sums[c]), *here))])
            there = sums[c][: len(part), *at]
            there[...] = part.reshape(there.shape)
    return sums


def rounded(sums: NDArray[np.float64], odd: bool) -> NDArray[np.float64]:
    """The sums over the first axis, rounded once."""
    return _columns(sums, [0], True, odd, sums.shape[1:])[0]


def narrowed(x: NDArray[Any], dtype: np.dtype) -> NDArray[Any]:
    """Numbers in a dtype, each the nearest one; of sums that were rounded to odd, the nearest to the sum itself.

    A number rounded to the nearest float64, and then to the nearest float32, may not be the nearest float32. So sums
    that are to be rounded again become the float64 whose last bit is 1, of the two beside them, unless they are one.
    That bit tells on which side of a tie the sum was (S. Boldo, G. Melquiond, "Emulation of a FMA and correctly
    rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57, 2008).
    """
    if is_bfloat16(dtype) and x.dtype == np.float64:  # ml_dtypes rounds to float32 on the way
        near = x.astype(np.float32)
        there = np.where(x > near, np.float32(np.inf), np.float32(-np.inf))
        x = np.where((near != x) & (near.view(np.uint32) % 2 == 0) & (x == x), np.nextafter(near, there), near)
    return x.astype(dtype, copy=False)


def _columns(
    x: Any, axes: Sequence[int], complete: bool, odd: bool = False, shape: Sequence[int] = (-1,), kernels: Kernels = cpu
) -> NDArray[np.float64]:
    """The sums along axes: one row of them, rounded, or as many rows of numbers as it takes to have them."""
    x, y = (None if f is None else _first(f, axes) for f in (x if isinstance(x, tuple) else (x, None)))
    columns = math.prod(x.shape[len(axes) :])
    out = np.empty((1 if complete else 2, columns))
    while (needed := kernels.sum_columns(x, len(axes), out, odd, y)) > len(out):
        out = np.empty((needed, columns))
    return out.reshape(len(out), *shape) if columns else np.empty((len(out), *(shape if shape != (-1,) else (0,))))


def _first(x: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    """With these axes before the others."""
    return x.transpose(*axes, *(d for d in range(x.ndim) if d not in axes))


def _pieces(shape: Sequence[int], limit: int) -> Iterator[Index]:
    return (box.slices() for box in Box.whole(shape).slabs(limit))


def _everything(shape: Sequence[int]) -> Index:
    return (slice(None),) * len(shape)


def _nothing(shape: Sequence[int]) -> Index:
    return (slice(0, 0),) * len(shape)
