"""Which part of a block can be computed while its halo travels, and which part must wait for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from mpihpc.core.decomposition import Box, Decomposition, Width

_SLAB = 24 << 20  # bytes; smaller results are written through the caches, which is slower
_MOST = 8
_PLANES, _LINE = 4, 64  # planes that the kernels compute together; bytes of a cache line


def early_and_late(
    decomposition: Decomposition,
    rank: int,
    width: Width,
    modes: Sequence[str],
    itemsize: int,
    twice: int,
    slabs: bool = True,
) -> tuple[list[Box], list[Box]]:
    """The block of a rank in disjoint boxes: those that read no cell that `Halo.finish` fills, and the others.

    Parameters
    ----------
    decomposition, rank, modes, itemsize
        Of the plan.
    width : tuple of (before, after) pairs
        The halo of all fused steps.
    twice : int
        Planes that are computed twice where two boxes meet along the first axis.
    slabs : bool
        Whether `early` may be several boxes.

    Returns
    -------
    early, late : list of Box
        Global indices. `early` is the interior, in slabs along the first axis; it is empty for a block without one.
    """
    block, shape = decomposition.box(rank), decomposition.shape
    margin = [
        (-a if mode == "wrap" or lo > 0 else 0, -b if mode == "wrap" or hi < n else 0)
        for (a, b), lo, hi, n, mode in zip(width, *block, shape, modes, strict=True)
    ]
    # Align the interior to whole groups of planes and cache lines, unless too little of a small block would be left.
    for axis, grain in ((0, _PLANES), (-1, max(1, _LINE // itemsize))):
        if block.shape[axis] >= 16 * grain:
            margin[axis] = margin[axis][0] // grain * grain, margin[axis][1] // grain * grain
    middle = block.grow(tuple(margin))
    if not middle.size:
        return [], [block]
    count = slab_count(middle.shape, itemsize, twice) if slabs else 1
    first, planes = middle.start[0], middle.shape[0]
    cuts = [*(first + planes * i // count // _PLANES * _PLANES for i in range(count)), middle.stop[0]]
    early = [_between(middle, 0, lo, hi) for lo, hi in pairwise(cuts)]
    late, rest = [], block
    for axis, (lo, hi) in enumerate(zip(*middle, strict=True)):
        late += [_between(rest, axis, rest.start[axis], lo), _between(rest, axis, hi, rest.stop[axis])]
        rest = _between(rest, axis, lo, hi)
    return early, [box for box in late if box.size]


def slab_count(shape: Sequence[int], itemsize: int, twice: int) -> int:
    """The number of slabs for an interior of this shape: few, if much would be computed twice."""
    return max(1, min(_MOST, math.prod(shape) * itemsize // _SLAB, shape[0] // max(_PLANES, 32 * twice)))


def _between(box: Box, axis: int, lo: int, hi: int) -> Box:
    """The part of a box between two indices of an axis."""
    start, stop = list(box.start), list(box.stop)
    start[axis], stop[axis] = lo, hi
    return Box(tuple(start), tuple(stop))
