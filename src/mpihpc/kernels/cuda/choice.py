"""The choice of a kernel: the number of fused steps, the tile, and the planes that a thread block marches over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product

import numpy as np

from mpihpc.kernels.cuda.source import AXES, SIZES, Kernel, on_four

_STREAMED = {1: (1, 256), 2: (1, 256), 3: (8, 32), 4: (8, 32)}  # tile of a kernel with one step
_MOST_CELLS = 2048  # of a fused tile's frame
_MOST_TAPS = 64  # of a fused kernel, or it takes long to compile
_FEW = 4  # steps that are enough to hide how slow memory is
_USEFUL = 0.4  # of the cells of a fused tile's frame, those that are result: at least
# The most steps per pass that pay, by number of axes, for taps that reach 1, 2, ... cells (further: as the last).
_MOST_ON_AXES = {1: (16, 8, 5, 4), 2: (10, 5, 3, 2), 3: (4, 3, 2, 1)}
_MOST_IN_BOX = {1: (16, 8, 5, 4), 2: (8, 3, 2, 1), 3: (2, 1)}


@lru_cache(maxsize=256)
def choose(stencil: Kernel, ndim: int, steps: int, shared: int, tile: Sequence[int] = ()) -> Kernel:
    """The kernel for the next launch when `steps` steps are left; the same for all launches if they divide evenly.

    Parameters
    ----------
    stencil : Kernel
        With the data's dtype, taps and modes.
    ndim : int
        Axes of the arrays.
    steps : int
        Steps to do.
    shared : int
        Bytes of shared memory that a block may have.
    tile : sequence of int
        Cells of a tile on each axis. 0, or more than fit: chosen here.
    """
    wish = on_four(tile or (0,) * ndim, 0)[2:]
    most = min(steps, steps_at_once(np.array(stencil.offsets, np.int64).reshape(-1, 4)[:, list(AXES[ndim])]))
    counts = sorted({-(-steps // -(-steps // limit)) for limit in range(2, most + 1)}, reverse=True)
    fused = [found for count in counts if (found := _fused(replace(stencil, steps=count), ndim, shared, wish))]
    if ndim == 2:
        # Steps without reads along z are worth more than some more steps. Planes of 3 axes need too many registers.
        fused.sort(key=lambda kernel: not (kernel.hold and kernel.steps >= _FEW))
    if fused:
        return fused[0]
    x = min(wish[1] or _STREAMED[ndim][1], 1024)
    c = min(wish[0] or _STREAMED[ndim][0], 1024 // x)
    return replace(stencil, tile=(c, x), threads=c * x)


def steps_at_once(offsets: np.ndarray) -> int:
    """The most steps per pass over memory that pay, for taps with these (taps, axes) offsets."""
    taps, ndim = offsets.shape
    if taps > _MOST_TAPS:
        return 1
    on_axes = not taps or np.count_nonzero(offsets, axis=1).max() <= 1
    limits = (_MOST_ON_AXES if on_axes else _MOST_IN_BOX).get(ndim, (1,))
    furthest = max(1, int(np.abs(offsets).max(initial=0)))
    return limits[min(furthest, len(limits)) - 1]


def _fused(kernel: Kernel, ndim: int, shared: int, wish: Sequence[int]) -> Kernel | None:
    """The kernel with the tile that is the largest part of its frame; None: too small a part, or it does not fit."""
    around = [kernel.steps * sum(reach) for reach in kernel.reach[2:]]
    most = min(_MOST_CELLS, shared // (kernel.steps * kernel.slots * SIZES[kernel.dtype]))
    frames = list(product(range(8, 65), (32, 48, 64))) if ndim > 2 else [(1, x) for x in (256, 512, 1024)]
    if wish[1] and (wish[0] or ndim < 3):
        frames.insert(0, ((wish[0] or 1) + around[0], wish[1] + around[1]))
    best, best_part = (0, 0), _USEFUL
    for frame in frames:
        tile = frame[0] - around[0], frame[1] - around[1]
        part = math.prod(tile) / math.prod(frame)
        wished = tile == (wish[0] or tile[0], wish[1])
        if min(tile) > 0 and math.prod(frame) <= most and (part > best_part or wished):
            best, best_part = tile, part
            if wished or (ndim < 3 and part > 0.85):
                break  # of rows, longer ones would leave a processor fewer blocks
    if not any(best):
        return None
    cells = math.prod(n + a for n, a in zip(best, around, strict=True))
    return replace(kernel, tile=best, threads=min(256 if ndim < 3 else 512, -(-cells // 32) * 32))


@lru_cache(maxsize=256)
def planes_of(planes: int, tiles: int, extra: int, at_once: int) -> int:
    """The number of planes that a block marches over, chosen so that the last blocks do not run alone.

    Parameters
    ----------
    planes : int
        Of the region.
    tiles : int
        Blocks that a plane is cut into.
    extra : int
        Planes that each block goes through in addition.
    at_once : int
        Blocks that the machine runs at the same time.

    33 pieces of 32 tiles fill a machine of 528 blocks twice:

    >>> planes_of(8192, 32, 2, 528)
    249
    """

    def time(pieces: int) -> int:
        return -(-tiles * pieces // at_once) * (-(-planes // pieces) + extra)

    pieces = min(range(1, min(planes, 256) + 1), key=time)
    return -(-planes // pieces)
