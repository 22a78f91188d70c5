"""What the machine can do, for the model that fuses steps: measured once, and kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from mpihpc import _core
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.halo import Halo
from mpihpc.core.topology import Topology
from mpihpc.kernels import cpu
from mpihpc.stencil.taps import Taps

_SMALL = {1: (1 << 18,), 2: (256, 1024), 3: (48, 64, 256), 4: (12, 12, 32, 128)}  # blocks to measure by their axes
_MOST_TAPS = 1 << 28  # cells times taps times steps of a measurement


class Rates(NamedTuple):
    """What one rank can do while all others work too."""

    bytes_per_s: float = 1e10  # read and written by a plain copy
    seconds_per_cell: float = 5e-10  # of a step of the stencil in the caches, by one thread
    latency: float = 5e-6  # seconds for a message, packed and unpacked
    seconds_per_byte: float = 2e-10  # more for each byte sent
    exposed: float = 1.0  # the share of these that is left when there is work between start and finish


class Step(NamedTuple):
    """A step of a stencil: its taps and dtype, whether there is a field, how many steps a new value depends on."""

    taps: Taps
    dtype: np.dtype
    field: bool = False
    levels: int = 1


def measured(topology: Topology, threads: int, step: Step) -> Rates:
    """The rates of this machine for a stencil, with so many ranks and threads, from the user's cache if they are there.

    Collective.
    """
    comm = topology.private
    machine = f"{platform.node()} {_core.isa()} {comm.size}x{threads}"
    measures: dict[str, Callable[[], list[float]]] = {
        f"{machine} copy": partial(_copy, threads),
        f"{machine} messages": partial(_messages, topology),
        f"{machine} {_name(step)}": partial(_cell, step),
    }
    known: dict[str, list[float]] = {}
    if comm.rank == 0:
        # A cache that cannot be read is none; neither is one where the user has no home.
        with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
            content = dict(json.loads(_cache().read_text()))
            known = {str(key): list(map(float, values)) for key, values in content.items()}
    lengths = dict(zip(measures, (1, 3, 1), strict=True))
    good = {key: v for key, v in known.items() if len(v) == lengths.get(key) and math.isfinite(sum(v)) and v[0] > 0}
    found: dict[str, list[float]] = comm.bcast(good)
    missing = [key for key in measures if key not in found]
    for key in missing:
        found[key] = [comm.allreduce(value, op=MPI.MAX) for value in measures[key]()]
    if missing and comm.rank == 0:
        with contextlib.suppress(OSError, RuntimeError):
            file = _cache()
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{file.name}.{os.getpid()}")
            new.write_text(json.dumps(known | found, indent=1))
            new.replace(file)
    copy, messages, cell = (found[key] for key in measures)
    return Rates(1 / copy[0], cell[0], *messages)


def _cache() -> Path:
    """Where the rates are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mpihpc", "rates.json")


def _name(step: Step) -> str:
    taps, dtype, field, levels = step
    extra = (" field" if field else "") + (" two levels" if levels > 1 else "")
    return f"{len(taps.weights)} {taps.weights.dtype} taps {taps.width} {dtype}{extra}"


def _copy(threads: int) -> list[float]:
    """Seconds per copied byte."""
    source, target = np.ones((2, 2048, 2048))
    return [_least(partial(_core.copy, source, target, threads), 5) / (2 * source.nbytes)]


def _cell(step: Step) -> list[float]:
    """Seconds per cell of a step in the caches, which hold some planes of a 3-D array as they will of a large one."""
    work, cells = _cached_work(step)
    return [_least(work, 5, time.thread_time) / cells]  # not of whoever has the core in between


def _cached_work(step: Step) -> tuple[Callable[[], object], int]:
    """Steps of a block in the caches, and how many cells they compute in all."""
    taps, dtype, field, levels = step
    steps, shape = 4, _SMALL[len(taps.width)]
    plane = math.prod(shape[1:]) * steps * max(1, len(taps.weights))
    shape = (min(shape[0], max(_MOST_TAPS // plane, 8)), *shape[1:])
    box = [(a, a + n) for n, (a, _) in zip(shape, taps.width, strict=True)]
    frame = [n + a + b for n, (a, b) in zip(shape, taps.width, strict=True)]
    arrays: dict[str, Any] = {
        "field": np.ones(frame, np.empty(0, dtype).real.dtype) if field else None,
        "previous": np.ones(frame, dtype) if levels > 1 else None,
        "kept": np.empty(shape, dtype) if levels > 1 else None,
    }
    # Weights that keep ones what they are: other numbers may be slower.
    total = (0 if field or levels > 1 else 1) / max(1, len(taps.weights))
    weights = np.full(len(taps.weights), total, taps.weights_for(dtype).dtype)
    modes = ["nearest"] * len(shape)
    source, target = np.ones(frame, dtype), np.empty(shape, dtype)
    work = partial(cpu.advance, source, target, taps.offsets, weights, steps, box, box, modes, **arrays)
    return work, steps * math.prod(shape)


def _messages(topology: Topology) -> list[float]:
    """Seconds per message and per byte of an exchange, and the share that work does not hide. Collective."""
    default = Rates()
    if topology.size == 1:
        return [default.latency, default.seconds_per_byte, default.exposed]
    seconds = []
    for nbytes in (64, 1 << 20):  # from each rank to the next
        cut = Decomposition((topology.size, nbytes), (topology.size, 1))
        halo = Halo(cut, topology, ((1, 0), (0, 0)), np.dtype(np.uint8), "wrap")
        block = np.zeros((2, nbytes), np.uint8)
        topology.private.Barrier()
        seconds.append(_least(partial(halo.exchange, block), 10))
    exchange = seconds[1]
    step = Taps.from_kernel(np.ones((3, 3)), 2)
    work, _ = _cached_work(Step(step, np.dtype(float)))
    times = max(1, min(100, math.ceil(exchange / _least(work, 5) / 4)))

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
    return [seconds[0], max(0.0, exchange - seconds[0]) / nbytes, exposed]


def _least(work: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The shortest time of several."""
    least = math.inf
    for _ in range(times):
        begin = clock()
        work()
        least = min(least, clock() - begin)
    return least
