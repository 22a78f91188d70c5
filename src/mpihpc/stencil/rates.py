"""The rates of the machine, for the model that fuses steps: measured once, and kept in the user's cache folder."""

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
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.halo import Halo
from mpihpc.core.topology import Topology
from mpihpc.kernels import cpu
from mpihpc.stencil.taps import Taps

CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16)  # fused steps
SAMPLE = {1: (1 << 23,), 2: (2048, 4096), 3: (128, 256, 256), 4: (32, 16, 64, 256)}  # blocks of 8-byte cells
_MOST_TAPS = 1 << 29  # cells times taps of one step on the sample
_HOPELESS, _UNLIKELY = 1.8, 1.2  # times the least: in the first turn, and later
_TURNS = 9
_EDITION = 3  # of the kernels and their tiles: rates measured for another edition do not apply


class Rates(NamedTuple):
    """The rates of one rank while all others work too."""

    seconds_per_cell: tuple[float, ...]  # of one step, for each number of fused steps in CANDIDATES
    latency: float = 5e-6  # seconds for a message, with packing and unpacking
    seconds_per_byte: float = 2e-10  # in addition, for each byte sent
    exposed: float = 1.0  # the fraction of message time that computing between start and finish does not hide


class Step(NamedTuple):
    """A step of a stencil: taps, dtype, whether it has a field, how many earlier steps a new value depends on."""

    taps: Taps
    dtype: np.dtype
    field: bool = False
    levels: int = 1


def guessed(step: Step) -> Rates:
    """Estimated rates, for blocks so small that measuring does not pay."""
    taps = len(step.taps.weights)
    return Rates(tuple(2e-10 + 3e-11 * taps + 4e-10 / k for k in CANDIDATES))


def measured(topology: Topology, threads: int, step: Step) -> Rates:
    """The rates of this machine for a stencil and this number of ranks and threads, from the user's cache if known.

    Collective.
    """
    comm = topology.private
    # Rank 0's machine decides: other ranks may run on other machines, and all must measure the same things.
    machine = comm.bcast(job_name(comm.size, threads))
    measures: dict[str, Callable[[], list[float]]] = {
        f"{machine} exchanges": partial(_messages, topology),
        f"{machine} {name_of(step)}": partial(_steps, topology, threads, step),
    }
    known: dict[str, list[float]] = {}
    if comm.rank == 0:
        # A cache that cannot be read counts as empty; so does that of a user without a home.
        with contextlib.suppress(OSError, ValueError, TypeError, RuntimeError):
            content = dict(json.loads(_cache().read_text()))
            known = {str(key): list(map(float, values)) for key, values in content.items()}
    lengths = dict(zip(measures, (3, len(CANDIDATES)), strict=True))
    good = {key: v for key, v in known.items() if len(v) == lengths.get(key) and math.isfinite(sum(v)) and v[0] > 0}
    found: dict[str, list[float]] = comm.bcast(good)
    missing = [key for key in measures if key not in found]
    for key in missing:
        found[key] = comm.bcast(measures[key]())
    if missing and comm.rank == 0:
        with contextlib.suppress(OSError, RuntimeError):
            file = _cache()
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_name(f"{file.name}.{os.getpid()}")
            new.write_text(json.dumps(known | found, indent=1))
            new.replace(file)
    messages, seconds = (found[key] for key in measures)
    return Rates(tuple(seconds), *messages)


def _cache() -> Path:
    """The file that keeps the rates."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mpihpc", "rates.json")


def job_name(ranks: int, threads: int) -> str:
    """The key for the rates of a job: machine, instruction set, ranks and threads, edition of the kernels."""
    return f"{platform.node()} {cpu.isa()} {ranks}x{threads} edition {_EDITION}"


def name_of(step: Step) -> str:
    """The key for the rates of a step, appended to the name of the job."""
    taps, dtype, field, levels = step
    extra = (" field" if field else "") + (" two levels" if levels > 1 else "")
    kinds = len(np.unique(taps.weights))
    return f"{len(taps.weights)} {taps.weights.dtype} taps {taps.width}, {kinds} weights, {dtype}{extra}"


def sample(step: Step) -> tuple[int, ...]:
    """The shape of the block that is measured: larger than the caches, unless the stencil has very many taps."""
    first, *plane = SAMPLE[len(step.taps.width)]
    most = _MOST_TAPS // (math.prod(plane) * max(1, len(step.taps.weights)))
    return (max(8, min(first * 8 // step.dtype.itemsize, most)), *plane)


def _steps(topology: Topology, threads: int, step: Step) -> list[float]:
    """Seconds per cell of a step, for each number of fused steps. Collective.

    The numbers of steps are measured in turns, so that a moment's disturbance affects all of them. The median counts:
    if memory is busy now and then, unfused steps suffer most, and the shortest time would not show it.
    """
    private, shape = topology.private, sample(step)
    work = _block(step, shape, threads)
    times: list[list[float]] = [[] for _ in CANDIDATES]

    def measure(n: int) -> None:
        private.Barrier()
        # Twice: right after another number of steps, the first run takes up to 10 % longer.
        seconds = private.allreduce(_least(partial(work, CANDIDATES[n]), 2), op=MPI.MAX)
        times[n].append(seconds / (CANDIDATES[n] * math.prod(shape)))

    for n in range(len(CANDIDATES)):
        measure(n)
        if times[n][0] > _HOPELESS * min(times[: n + 1])[0]:
            break  # more steps will not help either
    tried = [found for found in times if found]
    for _ in range(_TURNS - 1):
        least = min(map(min, tried))
        for n, found in enumerate(tried):
            if min(found) <= _UNLIKELY * least:
                measure(n)
    return [median(found or tried[-1]) for found in times]


def _block(step: Step, shape: tuple[int, ...], threads: int) -> Callable[[int], None]:
    """A function that advances a block by some steps. The block has the memory order of those of plans."""
    taps, dtype, field, levels = step
    cut = Decomposition.balanced(shape, 1)

    def ones(kind: np.dtype = dtype) -> DistArray:
        new = DistArray(cut, kind, comm=MPI.COMM_SELF, halo=taps.width)
        new.padded[...] = 1
        return new

    source, target = ones().padded, ones().local
    factor = ones(np.empty(0, dtype).real.dtype).padded if field else None
    previous, kept = (ones().padded, ones().local) if levels > 1 else (None, None)
    # Weights that keep ones unchanged, because other numbers may be slower; equal where the real weights are equal,
    # because kernels exploit that.
    kinds = 1 + np.unique(taps.weights, return_inverse=True)[1] / 1024
    total = 0 if field or levels > 1 else 1
    weights = (total * kinds / max(1, kinds.sum())).astype(taps.weights_for(dtype).dtype)
    box, modes = [(a, a + n) for n, (a, _) in zip(shape, taps.width, strict=True)], ["nearest"] * len(shape)

    def advance(steps: int) -> None:
        more: dict[str, Any] = {
            "threads": threads,
            "field": factor,
            "previous": previous,
            "kept": kept if steps > 1 else None,
        }
        cpu.advance(source, target, taps.offsets, weights, steps, box, box, modes, **more)

    return advance


def _messages(topology: Topology) -> list[float]:
    """Seconds per message and per byte of an exchange, and the fraction that computing does not hide. Collective."""
    if topology.size == 1:
        return [Rates._field_defaults[name] for name in ("latency", "seconds_per_byte", "exposed")]
    seconds = []
    for nbytes in (64, 1 << 20):  # from each rank to the next
        cut = Decomposition((topology.size, nbytes), (topology.size, 1))
        halo = Halo(cut, topology, ((1, 0), (0, 0)), np.dtype(np.uint8), "wrap")
        block = np.zeros((2, nbytes), np.uint8)
        topology.private.Barrier()
        seconds.append(_least(partial(halo.exchange, block), 30))  # exchanges that repeat get faster
    exchange = seconds[1]
    work = partial(_block(Step(Taps.from_kernel(np.ones((3, 3)), 2), np.dtype(float)), (64, 1024), 1), 4)
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
    # The mean over the ranks: among many, one is always disturbed.
    exposed = topology.private.allreduce(exposed) / topology.size
    latency, last = (topology.private.allreduce(value, op=MPI.MAX) for value in seconds)
    return [latency, max(0.0, last - latency) / nbytes, exposed]


def _least(work: Callable[[], object], times: int) -> float:
    """The shortest of several runs, in seconds."""
    least = math.inf
    for _ in range(times):
        begin = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - begin)
    return least
