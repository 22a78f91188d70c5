"""How many steps to fuse, and whether messages travel meanwhile: a small model of what a step costs.

Its rates are measured once per machine.
"""

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
from mpihpc.core.halo import Halo
from mpihpc.core.topology import Topology
from mpihpc.kernels import cpu
from mpihpc.stencil.overlap import slab_count
from mpihpc.stencil.taps import Taps

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16)
_CALL = 1e-5  # seconds for a call of a kernel
_ROW = 100  # cells; what it costs to begin a row that is shorter
_LARGE = 1 << 20  # cells of a block; with fewer it is not worth while to measure anything


class Rates(NamedTuple):
    """What one rank can do while all others work too."""

    bytes_per_s: float = 1e10  # read and written by a plain copy
    seconds_per_cell: float = 2e-10  # of a step in the cache, by one thread
    seconds_per_tap: float = 3e-11  # more for each tap
    latency: float = 5e-6  # seconds for a message, packed and unpacked
    seconds_per_byte: float = 2e-10  # more for each byte sent
    exposed: float = 1.0  # the share of these that is left when there is work between start and finish


class Fusing(NamedTuple):
    """How many steps at once, and what the model expects.

    Attributes
    ----------
    steps : int
        Steps per exchange.
    overlap : bool
        Whether the middle of the block advances while messages travel.
    seconds : float or None
        Of one step. None: the blocks are too small for the machine to have been measured.
    """

    steps: int
    overlap: bool
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
    overlap: bool | None = None,
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
    overlap : bool, optional
        Predict for messages that travel while the middle of the block advances, or before it does.
    arrays : int
        How many are read or written in a pass.
    """
    dims, itemsize = decomposition.dims, dtype.itemsize
    block = tuple(max(1, -(-n // p)) for n, p in zip(decomposition.shape, dims, strict=True))
    size = math.prod(block)
    large = size >= _LARGE
    rates = _rates(topology, threads) if large else Rates()
    # The sides of a block from whose halo steps are computed twice, and the ranks on the other side.
    sides = [2 if mode == "wrap" or p > 2 else p - 1 for p, mode in zip(dims, modes, strict=True)]
    peers = [min(p - 1, 2) for p in dims]
    reach = [max(w) for w in width]
    cut = sum(p > 1 for p in dims)
    least, best = math.inf, Fusing(only or 1, bool(overlap), None)
    both = ((False, True) if cut else (False,)) if overlap is None else (overlap,)
    for steps, meanwhile in product(CANDIDATES if only is None else (only,), both):
        deep, shallow = (
            math.prod(n + a + b for n, (a, b) in zip(block, deep_width(decomposition, width, modes, k), strict=True))
            for k in (steps, 1)
        )
        if only is None and deep * itemsize > max(1.25 * shallow * itemsize, 1 << 20):
            continue  # for memory's sake
        # Half of the halo is computed, on the average over the steps; all of it is sent.
        cells = math.prod(n + r * s * (steps - 1) / 2 for n, r, s in zip(block, reach, sides, strict=True))
        compute = rates.seconds_per_cell + rates.seconds_per_tap * len(taps.weights)
        compute *= itemsize / 8 / threads * _core.tile_cost(block, width, itemsize, steps, threads)
        memory = arrays * itemsize / rates.bytes_per_s / steps
        # A quarter of the traffic hides behind the computation, as measured.
        per_cell = max(compute + 0.75 * memory, memory)
        messages = sum(peers) if taps.star and steps == 1 else math.prod(1 + p for p in peers) - 1
        far = [n + r * steps * s * (p > 1) for n, r, s, p in zip(block, reach, sides, dims, strict=True)]
        exchange = messages * rates.latency + (math.prod(far) - size) * itemsize * rates.seconds_per_byte
        if meanwhile:
            # Where boxes meet, both read and compute what lies between them; rows along a cut last axis are short.
            middle = [max(0, n - r * steps * s) for n, r, s in zip(block, reach, sides, strict=True)]
            slabs = slab_count(middle, itemsize, reach[0] * (steps - 1))
            meet = [s + (slabs - 1) * (d == 0) for d, s in enumerate(sides)]
            cells += sum(m * r * steps * size / n for m, r, n in zip(meet, reach, block, strict=True))
            cells += _ROW * sides[-1] * size / block[-1]
            hidden = min((1 - rates.exposed) * exchange, math.prod(middle) * steps * per_cell)
            exchange += _CALL * (slabs + sum(sides) - 1) - hidden
        seconds = cells * per_cell + exchange / steps
        if seconds < least:
            least, best = seconds, Fusing(steps, meanwhile, seconds if large else None)
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
                found = list(map(float, known[key]))
                found = found if len(found) == len(Rates._fields) and found[0] > 0 else None
    found = comm.bcast(found)
    if found is None:
        found = [comm.allreduce(x, op=MPI.MAX) for x in (*_measure(threads), *_measure_messages(topology))]
        if comm.rank == 0:
            with contextlib.suppress(OSError, RuntimeError):
                file = _cache()
                file.parent.mkdir(parents=True, exist_ok=True)
                new = file.with_name(f"{file.name}.{os.getpid()}")
                new.write_text(json.dumps(known | {key: found}, indent=1))
                new.replace(file)
    copy, *others = found
    return Rates(1 / copy, *others)


def _cache() -> Path:
    """Where the rates are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mpihpc", "rates.json")


def _measure_messages(topology: Topology) -> tuple[float, float, float]:
    """Seconds per message and per byte of an exchange, and the share that work does not hide. Collective."""
    if topology.size == 1:
        return Rates().latency, Rates().seconds_per_byte, 1.0
    work, once = _cached_work(5)
    seconds = []
    for nbytes in (64, 1 << 20):  # from each rank to the next
        cut = Decomposition((topology.size, nbytes), (topology.size, 1))
        halo = Halo(cut, topology, ((1, 0), (0, 0)), np.dtype(np.uint8), "wrap")
        block = np.zeros((2, nbytes), np.uint8)
        topology.private.Barrier()
        seconds.append(_least(partial(halo.exchange, block), 10))
    exchange = seconds[1]
    times = max(1, min(100, math.ceil(exchange / once / 4)))

    def compute(after: Callable[[], object]) -> None:
        for _ in range(4):
            for _ in range(times):
                work()
            after()

    def overlapped() -> None:
        halo.start(block)
        compute(halo.progress)
        halo.finish(block)

    topology.private.Barrier()
    alone, together = _least(partial(compute, int), 10), _least(overlapped, 10)
    exposed = min(max(0.0, 1 - (exchange + alone - together) / min(exchange, alone)), 1.0)
    # The mean of the ranks: of many, one has always been disturbed.
    exposed = topology.private.allreduce(exposed) / topology.size
    return seconds[0], max(0.0, exchange - seconds[0]) / nbytes, exposed


def _measure(threads: int) -> tuple[float, float, float]:
    """Seconds per copied byte, per cell and per tap."""
    source, target = np.ones((2, 2048, 2048))
    copy = _least(partial(_core.copy, source, target, threads), 5) / (2 * source.nbytes)
    seconds = [_cached_work(taps)[1] / (8 * (64 + 7) * (1024 + 7)) for taps in (5, 9)]
    tap = max(0.0, (seconds[1] - seconds[0]) / 4)
    return copy, max(0.0, seconds[0] - 5 * tap), tap


def _cached_work(taps: int) -> tuple[Callable[[], object], float]:
    """8 steps of 64 x 1024 cells in the nearest caches, and the seconds they take."""
    offsets = [o for o in product((-1, 0, 1), repeat=2) if taps == 9 or 0 in o]
    small, out, box = np.ones((64 + 2 * 8, 1024 + 2 * 8)), np.empty((64, 1024)), [(8, 72), (8, 1032)]
    work = partial(cpu.advance, small, out, offsets, np.full(taps, 1 / taps), 8, box, box, ["wrap"] * 2)
    return work, _least(work, 5)


def _least(work: Callable[[], object], times: int) -> float:
    """The shortest time of several."""
    least = math.inf
    for _ in range(times):
        begin = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - begin)
    return least
