"""How many steps to fuse: a small model of what a step costs, with rates that are measured once per machine."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from mpihpc import _core
from mpihpc.core.decomposition import Decomposition, Width
from mpihpc.core.topology import Topology
from mpihpc.kernels import cpu
from mpihpc.stencil.taps import Taps

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16)
_MESSAGES = 5e-6  # seconds for a message, packed and unpacked
_LARGE = 1 << 20  # cells of a block; with fewer it is not worth while to measure anything


class Rates(NamedTuple):
    """What one rank can do while all others work too."""

    bytes_per_s: float = 1e10  # read and written by a plain copy
    seconds_per_cell: float = 2e-10  # of a step in the cache, by one thread
    seconds_per_tap: float = 3e-11  # more for each tap


class Fusing(NamedTuple):
    """How many steps at once, and what the model expects.

    Attributes
    ----------
    steps : int
        Steps per exchange.
    seconds : float or None
        Of one step. None: the blocks are too small for the machine to have been measured.
    """

    steps: int
    seconds: float | None


def deep_width(decomposition: Decomposition, width: Width, modes: Sequence[str], steps: int) -> Width:
    """The halo for so many steps: deeper where neighbours or the other end of the array are on the other side."""
    return tuple(
        (a * steps, b * steps) if p > 1 or mode == "wrap" else (a, b)
        for (a, b), p, mode in zip(width, decomposition.dims, modes, strict=True)
    )


def choose_fuse(
    decomposition: Decomposition,
    taps: Taps,
    width: Width,
    dtype: np.dtype,
    modes: Sequence[str],
    topology: Topology,
    threads: int,
    only: int | None = None,
    arrays: int = 2,
) -> Fusing:
    """The number of steps per exchange that takes the least time by the model. Collective.

    Parameters
    ----------
    decomposition, taps, dtype, modes, topology, threads
        Of the plan.
    width : tuple of (before, after) pairs
        The halo of one step.
    only : int, optional
        Predict for this number.
    arrays : int
        How many are read or written in a pass.
    """
    block = tuple(-(-n // p) for n, p in zip(decomposition.shape, decomposition.dims, strict=True))
    large = math.prod(block) >= _LARGE
    rates = _rates(topology, threads) if large else Rates()
    least, best = math.inf, Fusing(only or 1, None)
    for steps in CANDIDATES if only is None else (only,):
        deep = deep_width(decomposition, width, modes, steps)
        frame, shallow = (
            math.prod(n + a + b for n, (a, b) in zip(block, w, strict=True))
            for w in (deep, deep_width(decomposition, width, modes, 1))
        )
        if only is None and frame * dtype.itemsize > max(1.25 * shallow * dtype.itemsize, 1 << 20):
            continue  # for memory's sake
        # Half of the halo is computed, on the average over the steps; all of it is sent.
        cells = math.prod(
            n + (a + b) * (steps - 1) / 2 / steps if p > 1 or mode == "wrap" else n
            for n, (a, b), p, mode in zip(block, deep, decomposition.dims, modes, strict=True)
        )
        compute = rates.seconds_per_cell + rates.seconds_per_tap * len(taps.weights)
        compute *= dtype.itemsize / 8 / threads * _core.tile_cost(block, width, dtype.itemsize, steps, threads)
        memory = arrays * dtype.itemsize / rates.bytes_per_s / steps
        cut = sum(p > 1 for p in decomposition.dims)
        messages = 2 * cut if taps.star and steps == 1 else 3**cut - 1
        sent = (frame - math.prod(block)) * dtype.itemsize if cut else 0
        exchange = (messages * _MESSAGES + 2 * sent / rates.bytes_per_s) / steps
        # A quarter of the traffic hides behind the computation, as measured.
        seconds = cells * max(compute + 0.75 * memory, memory) + exchange
        if seconds < least:
            least, best = seconds, Fusing(steps, seconds if large else None)
    return best


def _rates(topology: Topology, threads: int) -> Rates:
    """The rates of this machine with so many ranks and threads, from the user's cache if they are there. Collective."""
    comm = topology.private
    key = f"{platform.node()} {_core.isa()} {comm.size}x{threads}"
    known: dict[str, list[float]] = {}
    found: list[float] | None = None
    if comm.rank == 0:
        # A cache that cannot be read is none; neither is one where the user has no home.
        with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
            known = dict(json.loads(_cache().read_text()))
            if key in known:
                copy, cell, tap = map(float, known[key])
                found = [copy, cell, tap] if copy > 0 else None
    found = comm.bcast(found)
    if found is None:
        found = [comm.allreduce(x, op=MPI.MAX) for x in _measure(threads)]
        if comm.rank == 0:
            with contextlib.suppress(OSError, RuntimeError):
                file = _cache()
                file.parent.mkdir(parents=True, exist_ok=True)
                new = file.with_name(f"{file.name}.{os.getpid()}")
                new.write_text(json.dumps(known | {key: found}, indent=1))
                new.replace(file)
    copy, cell, tap = found
    return Rates(1 / copy, cell, tap)


def _cache() -> Path:
    """Where the rates are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mpihpc", "rates.json")


def _measure(threads: int) -> tuple[float, float, float]:
    """Seconds per copied byte, per cell and per tap."""
    source, target = np.ones((2, 2048, 2048))
    copy = _least(partial(_core.copy, source, target, threads), 5) / (2 * source.nbytes)
    seconds = []
    for taps in (5, 9):
        offsets = [o for o in product((-1, 0, 1), repeat=2) if taps == 9 or 0 in o]
        small, out = np.ones((64 + 2 * 8, 1024 + 2 * 8)), np.empty((64, 1024))  # in the nearest caches
        box, cells = [(8, 72), (8, 1032)], 8 * (64 + 7) * (1024 + 7)
        step = partial(cpu.advance, small, out, offsets, np.full(taps, 1 / taps), 8, box, box, ["wrap"] * 2)
        seconds.append(_least(step, 5) / cells)
    tap = max(0.0, (seconds[1] - seconds[0]) / 4)
    return copy, max(0.0, seconds[0] - 5 * tap), tap


def _least(work: Callable[[], object], times: int) -> float:
    """The shortest time of several."""
    least = math.inf
    for _ in range(times):
        begin = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - begin)
    return least
