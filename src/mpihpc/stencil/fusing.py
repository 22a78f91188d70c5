"""How many steps to fuse, and whether to overlap them with messages: a small model of what a step costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from mpihpc.core.decomposition import Decomposition, Width
from mpihpc.core.topology import Topology
from mpihpc.kernels import cpu
from mpihpc.stencil.overlap import slab_count
from mpihpc.stencil.rates import CANDIDATES, Step, guessed, measured, sample

_TIE = 1.02  # times the least: measurements are no better than this, and fewer steps need shallower halos
_CALL = 1e-5  # seconds for a call of a kernel
_ROW = 100  # cells; the cost of starting a short row
_LARGE = 1 << 20  # cells of a block; below this, measuring does not pay


class Fusing(NamedTuple):
    """The number of steps per exchange, and the predicted time.

    Attributes
    ----------
    steps : int
        Steps per exchange.
    overlap : bool
        Whether the interior of the block is computed while messages travel.
    seconds : float or None
        The predicted time of one step. None: nothing was measured, because blocks are small or there was no choice.
    """

    steps: int
    overlap: bool
    seconds: float | None


def deep_width(decomposition: Decomposition, width: Width, modes: Sequence[str], steps: int) -> Width:
    """The halo for `steps` steps: deeper on sides with a neighbour, or where the axis wraps around."""
    return tuple(
        (a * steps, b * steps) if p > 1 or mode == "wrap" else (a, b)
        for (a, b), p, mode in zip(width, decomposition.dims, modes, strict=True)
    )


def choose_fuse(
    decomposition: Decomposition,
    step: Step,
    width: Width,
    modes: Sequence[str],
    topology: Topology,
    threads: int,
    only: int | None = None,
    overlap: bool | None = None,
    total: int | None = None,
) -> Fusing:
    """The smallest number of steps per exchange whose predicted time is within 2 % of the best. Collective.

    Parameters
    ----------
    decomposition, step, modes, topology, threads
        Of the plan.
    width : tuple of (before, after) pairs
        The halo of one step.
    only : int, optional
        Predict for this number of steps.
    overlap : bool, optional
        Predict with, or without, messages that travel while the interior is computed. Default: take the faster.
    total : int, optional
        The total number of steps to come: no more are fused.

    Returns
    -------
    Fusing
        The same on all ranks.
    """
    taps, itemsize, dims = step.taps, step.dtype.itemsize, decomposition.dims
    block = tuple(max(1, -(-n // p)) for n, p in zip(decomposition.shape, dims, strict=True))
    size = math.prod(block)
    # The sides of a block on which halo cells are computed twice, and the ranks on the other side.
    sides = [2 if mode == "wrap" or p > 2 else p - 1 for p, mode in zip(dims, modes, strict=True)]
    peers = [min(p - 1, 2) for p in dims]
    reach = [max(w) for w in width]
    cut = sum(p > 1 for p in dims)
    found: list[tuple[float, Fusing]] = []
    both = ((False, True) if cut else (False,)) if overlap is None else (overlap,)
    choices = [k for k in CANDIDATES if k <= max(1, total or k)] if only is None else [only]
    # Nothing is measured where there is nothing to choose.
    large = size >= _LARGE and len(choices) * len(both) > 1
    rates = measured(topology, threads, step) if large else guessed(step)
    for steps, meanwhile in product(choices, both):
        deep, shallow = (
            math.prod(n + a + b for n, (a, b) in zip(block, deep_width(decomposition, width, modes, k), strict=True))
            for k in (steps, 1)
        )
        if only is None and deep * itemsize > max(1.25 * shallow * itemsize, 1 << 20):
            continue  # it would take too much memory
        # On average over the steps, half of the halo is computed; all of it is sent.
        cells = math.prod(n + r * s * (steps - 1) / 2 for n, r, s in zip(block, reach, sides, strict=True))
        # Measured for a block of another shape, whose tiles overlap less or more: scale.
        per_cell = float(np.interp(steps, CANDIDATES, rates.seconds_per_cell))
        here, there = (cpu.tile_cost(shape, width, itemsize, steps, threads) for shape in (block, sample(step)))
        per_cell *= here / there
        messages = sum(peers) if taps.star and steps == 1 else math.prod(1 + p for p in peers) - 1
        far = [n + r * steps * s * (p > 1) for n, r, s, p in zip(block, reach, sides, dims, strict=True)]
        exchange = messages * rates.latency + (math.prod(far) - size) * itemsize * rates.seconds_per_byte
        if meanwhile:
            # Where boxes meet, both compute the cells in between; rows along a cut last axis are short.
            middle = [max(0, n - r * steps * s) for n, r, s in zip(block, reach, sides, strict=True)]
            slabs = slab_count(middle, itemsize, reach[0] * (steps - 1))
            meet = [s + (slabs - 1) * (d == 0) for d, s in enumerate(sides)]
            cells += sum(m * r * steps * size / n for m, r, n in zip(meet, reach, block, strict=True))
            cells += _ROW * sides[-1] * size / block[-1]
            hidden = min((1 - rates.exposed) * exchange, math.prod(middle) * steps * per_cell)
            exchange += _CALL * (slabs + sum(sides) - 1) - hidden
        seconds = cells * per_cell + exchange / steps
        found.append((seconds, Fusing(steps, meanwhile, seconds if large else None)))
    most = _TIE * min(seconds for seconds, _ in found)
    best = next(fusing for seconds, fusing in found if seconds <= most)
    return topology.private.bcast(best)  # ranks may run on different machines, with other tile times
