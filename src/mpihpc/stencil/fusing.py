"""How many steps to fuse: a small model of what a step costs, with rates that are measured once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
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
_SMALL = {1: (1 << 18,), 2: (256, 1024), 3: (48, 64, 256), 4: (12, 12, 32, 128)}  # blocks to measure by their axes
_MOST_TAPS = 1 << 28  # cells times taps times steps of a measurement


class Rates(NamedTuple):
    """What one rank can do while all others work too."""

    bytes_per_s: float = 1e10  # read and written by a plain copy
    seconds_per_cell: float = 5e-10  # of a step of the stencil in the caches, by one thread


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
    """
    block = tuple(-(-n // p) for n, p in zip(decomposition.shape, decomposition.dims, strict=True))
    large = math.prod(block) >= _LARGE
    rates = _rates(topology, threads, taps, dtype) if large else Rates()
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
        compute = rates.seconds_per_cell / threads * _core.tile_cost(block, width, dtype.itemsize, steps, threads)
        memory = 2 * dtype.itemsize / rates.bytes_per_s / steps
        cut = sum(p > 1 for p in decomposition.dims)
        messages = 2 * cut if taps.star and steps == 1 else 3**cut - 1
        sent = (frame - math.prod(block)) * dtype.itemsize if cut else 0
        exchange = (messages * _MESSAGES + 2 * sent / rates.bytes_per_s) / steps
        # Three quarters of the traffic hide behind the computation, as measured.
        seconds = cells * max(compute + 0.25 * memory, memory) + exchange
        if seconds < least:
            least, best = seconds, Fusing(steps, seconds if large else None)
    return best


def _rates(topology: Topology, threads: int, taps: Taps, dtype: np.dtype) -> Rates:
    """The rates of this machine for a stencil, with so many ranks and threads, from the user's cache if they are there.

    Collective.
    """
    comm = topology.private
    machine = f"{platform.node()} {_core.isa()} {comm.size}x{threads}"
    stencil = f"{machine} {len(taps.weights)} {taps.weights.dtype} taps {taps.width} {dtype}"
    measures = {machine: partial(_measure_copy, threads), stencil: partial(_measure_cell, taps, dtype)}
    known: dict[str, float] = {}
    if comm.rank == 0:
        # A cache that cannot be read is none; neither is one where the user has no home.
        with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
            known = {str(key): float(value) for key, value in dict(json.loads(_cache().read_text())).items()}
    found: dict[str, float] = comm.bcast({key: known[key] for key in measures if known.get(key, 0) > 0})
    missing = [key for key in measures if key not in found]
    found |= {key: comm.allreduce(measures[key](), op=MPI.MAX) for key in missing}
    if missing and comm.rank == 0:
        with contextlib.suppress(OSError, RuntimeError):
            file = _cache()
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{file.name}.{os.getpid()}")
            new.write_text(json.dumps(known | found, indent=1))
            new.replace(file)
    return Rates(1 / found[machine], found[stencil])


def _cache() -> Path:
    """Where the rates are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mpihpc", "rates.json")


def _measure_copy(threads: int) -> float:
    """Seconds per copied byte."""
    source, target = np.ones((2, 2048, 2048))
    return _least(partial(_core.copy, source, target, threads), 5) / (2 * source.nbytes)


def _measure_cell(taps: Taps, dtype: np.dtype) -> float:
    """Seconds per cell of a step in the caches, which hold some planes of a 3-D array as they will of a large one."""
    steps, shape = 4, _SMALL[len(taps.width)]
    work = math.prod(shape[1:]) * steps * max(1, len(taps.weights))
    shape = (min(shape[0], max(_MOST_TAPS // work, 8)), *shape[1:])
    box = [(a, a + n) for n, (a, _) in zip(shape, taps.width, strict=True)]
    source = np.ones([n + a + b for n, (a, b) in zip(shape, taps.width, strict=True)], dtype)
    weights = taps.weights / max(1, len(taps.weights))
    weights = weights.astype(dtype if weights.dtype.kind == "c" else np.zeros(0, dtype).real.dtype)
    target, modes = np.empty(shape, dtype), ["nearest"] * len(shape)
    step = partial(cpu.advance, source, target, taps.offsets, weights, steps, box, box, modes)
    return _least(step, 5, time.thread_time) / (steps * math.prod(shape))  # not of whoever has the core in between


def _least(work: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest time of several."""
    least = math.inf
    for _ in range(times):
        begin = clock()
        work()
        least = min(least, clock() - begin)
    return least
