"""Sums of one rank's block without rounding, as states that add up to those of all ranks.

What is added comes as `Terms`: for a part of the block, by its index, the arrays or pairs of factors that belong to
each component of the sum (one, or the real and the imaginary). So products and squares are made in pieces that stay in
a cache, not for the whole block at once.

`src/_core/sums.hpp` explains the method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc import _core
from mpihpc.core.decomposition import Box

Index = tuple[slice, ...]
Terms = Callable[[Index], list[list[Any]]]

_PIECE = 1 << 15  # cells
_ROWS = 64  # of a piece, along each reduced axis


def total(terms: Terms, shape: Sequence[int], views: bool) -> NDArray[np.int64]:
    """The sums over all cells: (components, words). Element-wise sums of such states are states of the sums.

    Parameters
    ----------
    terms : callable
        See above.
    shape : sequence of int
        Of the block.
    views : bool
        Whether terms may be asked for the whole block at once.
    """
    states = np.zeros((len(terms(_nothing(shape))), _core.SUM_WORDS), np.int64)
    for at in [_everything(shape)] if views else _pieces(shape, _PIECE):
        for state, component in zip(states, terms(at), strict=True):
            for x in component:
                if isinstance(x, tuple):
                    _core.sum_add_products(x[0], x[1], state)
                else:
                    _core.sum_add(x, state)
    return states


def lines(terms: Terms, shape: Sequence[int], axes: Sequence[int], views: bool) -> list[NDArray[np.float64]]:
    """The sums along axes, for each component numbers that add up to it: (numbers, ...), with length 1 on the axes.

    Parameters as in `total`.
    """
    here = tuple(1 if d in axes else n for d, n in enumerate(shape))
    if views:
        return [_columns(np.moveaxis(x, axes, range(len(axes))), len(axes), here) for (x,) in terms(_everything(shape))]
    sums = [np.zeros((2, *here)) for _ in terms(_nothing(shape))]
    for at in _pieces(here, _PIECE // _ROWS):
        tall = tuple(n if d in axes else 1 for d, n in enumerate(shape))
        for rows in _pieces(tall, _ROWS):
            part = tuple(rows[d] if d in axes else s for d, s in enumerate(at))
            for c, component in enumerate(terms(part)):
                before = sums[c][:, *at]
                flat = [before.reshape(len(before), -1)]
                for x in component:
                    x = np.multiply(*x, dtype=float) if isinstance(x, tuple) else x
                    flat.append(np.moveaxis(x, axes, range(len(axes))).reshape(-1, flat[0].shape[1]))
                found = _columns(np.concatenate(flat), 1, before.shape[1:])
                if len(found) > len(sums[c]):
                    sums[c] = np.concatenate([sums[c], np.zeros((len(found) - len(sums[c]), *here))])
                sums[c][:, *at] = 0
                sums[c][: len(found), *at] = found
    return sums


def rounded(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums over the first axis, rounded once."""
    out = np.empty((1, sums[0].size))
    _core.sum_columns(sums, 1, out)
    return out.reshape(sums.shape[1:])


def _columns(x: NDArray[Any], lead: int, shape: Sequence[int]) -> NDArray[np.float64]:
    """Numbers that add up to the sums over the first axes, in as many rows as that takes."""
    columns = int(np.prod(x.shape[lead:]))
    out = np.empty((2, columns))
    while (needed := _core.sum_columns(x, lead, out)) > len(out):
        out = np.empty((needed, columns))
    return out.reshape(len(out), *shape)


def _pieces(shape: Sequence[int], limit: int) -> Iterator[Index]:
    return (box.slices() for box in Box.whole(shape).slabs(limit))


def _everything(shape: Sequence[int]) -> Index:
    return (slice(None),) * len(shape)


def _nothing(shape: Sequence[int]) -> Index:
    return (slice(0, 0),) * len(shape)
