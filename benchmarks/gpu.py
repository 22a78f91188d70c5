"""Steps of stencils on a GPU, beside a copy on it and beside CuPy's ndimage: ``python -m benchmarks.gpu``.

One rank, one GPU. A step reads and writes every cell once, as a copy does, so both count ``2 x cells x itemsize``
bytes. What is compared takes turns; times are those between two events on the GPU, of many steps each, and their
medians are shown. `wanted` is what this project asks of itself; to see less is a result, not an error.

How much of an exchange hides behind the middle of the block: the axis is periodic, so the block is its own neighbour,
and what would be copied there goes through MPI instead, as if to another rank. A step with overlap and one without it
are compared with a step that only computes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from mpi4py import MPI

from benchmarks.reports import parse_common, run_cases
from mpihpc import DistArray
from mpihpc.core.decomposition import Decomposition, grid_text
from mpihpc.core.failure import VerificationError, agree
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Message, Schedule, Transfer
from mpihpc.programs.frame import execute
from mpihpc.stencil import Evolution, Stencil, Taps, evolve, named_kernel

STEPS = 20  # of each turn
TINY = 2000  # even; of each turn, on an array that is none
DTYPE_LIMIT = {"float32": 1e-5, "float64": 1e-13}  # difference from CuPy's ndimage, relative


@dataclass(frozen=True)
class Pass:
    """A kernel over an array; with the numbers of fused steps to try."""

    shape: tuple[int, ...]
    dtype: str
    kernel: str
    fuse: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hidden:
    """An exchange along the first axis, behind the middle of the block."""

    shape: tuple[int, ...]
    dtype: str
    kernel: str


@dataclass(frozen=True)
class Overhead:
    """Steps of an array that is so small that only their start takes time."""

    shape: tuple[int, ...] = (64, 64)
    dtype: str = "float64"
    kernel: str = "heat"


Case = Pass | Hidden | Overhead
CASES: tuple[Case, ...] = (
    Pass((8192, 8192), "float64", "heat", tuple(range(2, 11))),
    Pass((512, 512, 512), "float64", "heat", (2, 3, 4)),
    Pass((512, 512, 512), "float32", "mean:3", (2,)),
    Hidden((8192, 8192), "float64", "heat"),
    Hidden((512, 512, 512), "float64", "heat"),
    Overhead(),
)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    cases: tuple[Case, ...] = CASES
    rounds: int = 11
    json: bool = False
    save: bool = False


@dataclass(frozen=True)
class Result:
    """What was measured: seconds of one step, medians over the rounds, and what follows, with what is wanted."""

    kind: str
    case: Case
    device: str
    seconds: dict[str, float]
    seconds_least: dict[str, float]
    T_eff_GBps: dict[str, float]
    seen: dict[str, float]
    wanted: dict[str, str] = field(default_factory=dict)
    bytes_sent: int = 0  # in each exchange


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("--small", action="store_true", help="small arrays, to try this program: the numbers mean nothing")
    options = parse_common(parser, argv, "gpu", Config.rounds)
    cases = CASES
    if options.pop("small"):
        cases = tuple(type(case)(**vars(case) | {"shape": tuple(n // 16 for n in case.shape)}) for case in CASES)
    return Config(cases=cases, **options)


def run(comm: MPI.Intracomm, config: Config) -> list[Result]:
    """Measure every case, and tell."""
    with agree(comm):
        if comm.size > 1:
            raise ValueError(f"one rank and one GPU are measured, the job has {comm.size} ranks")
    device = Topology.of(comm).device("gpu")
    return run_cases(comm, config, "gpu", measure, table, {"device": device.label} | cuda_versions())


def cuda_versions() -> dict[str, str]:
    """Of CuPy, of the CUDA it brings, and of that of the driver."""
    import cupy

    runtime = cupy.cuda.runtime
    versions = {"CUDA": runtime.runtimeGetVersion(), "CUDA of the driver": runtime.driverGetVersion()}
    return {"cupy": cupy.__version__} | {name: f"{n // 1000}.{n % 1000 // 10}" for name, n in versions.items()}


def measure(comm: MPI.Intracomm, case: Case, rounds: int) -> Result:
    """Time one case."""
    kinds: dict[type, Callable[..., Result]] = {Pass: measure_pass, Hidden: measure_hidden, Overhead: measure_overhead}
    return kinds[type(case)](comm, case, rounds)


def measure_pass(comm: MPI.Intracomm, case: Pass, rounds: int) -> Result:
    """One pass, and fused ones, beside a copy and CuPy's ndimage."""
    from cupyx.scipy import ndimage

    cut, taps, kernel = prepare(case)
    single = Stencil(cut, taps, case.dtype, comm=comm, fuse=1, device="gpu")
    u, v = arrays(comm, case, cut, single)
    flat = [single.device.empty(u.local.shape, case.dtype) for _ in range(2)]
    flat[0][...] = u.local
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (1, lambda: flat[1].data.copy_from_device_async(flat[0].data, flat[0].nbytes)),
        "one step": (1, lambda: single.apply(u.padded, v.local)),
        "CuPy's ndimage": (1, lambda: ndimage.convolve(flat[0], there, output=flat[1], mode="reflect")),
    }
    there = single.device.asarray(kernel)  # symmetric: a convolution is a correlation
    for k in case.fuse:
        plan = Stencil(cut, taps, case.dtype, comm=comm, fuse=k, device="gpu")
        x, y = arrays(comm, case, cut, plan)
        work[f"{k} steps fused"] = k, lambda plan=plan, x=x, y=y, k=k: plan.apply(x.padded, y.local, k)
    for _, each in work.values():  # compiled, and right: a rate of wrong numbers is worth nothing
        each()
    single.apply(u.padded, v.local)
    difference = float(abs(flat[1] - v.local).max() / abs(v.local).max())
    if not difference <= DTYPE_LIMIT[case.dtype]:
        raise VerificationError(f"CuPy's ndimage differs by {difference:.2g}")
    seconds, least = in_turns(work, rounds)
    seen = {"one step / copy": seconds["copy"] / seconds["one step"]}
    seen["one step / CuPy's ndimage"] = seconds["CuPy's ndimage"] / seconds["one step"]
    for k in case.fuse:
        seen[f"{k} steps fused / one step"] = seconds["one step"] / seconds[f"{k} steps fused"]
    best = max(case.fuse, key=lambda k: seen[f"{k} steps fused / one step"])
    wanted = {"one step / copy": ">= 0.85", "one step / CuPy's ndimage": ">= 4"}
    if len(case.shape) == 2:
        wanted[f"{best} steps fused / one step"] = ">= 1.5"
    rates = {name: 2e-9 * u.nbytes / s for name, s in seconds.items()}
    return Result("pass", case, single.device.label, seconds, least, rates, seen, wanted)


class ThroughMpi(Transfer):
    """A transfer whose copies on a rank are messages that it sends to itself."""

    def schedule(self, rank: int) -> Schedule:
        sends, receives, copies = super().schedule(rank)
        if copies:
            sends = [*sends, Message(rank, [here for here, _ in copies])]
            receives = [*receives, Message(rank, [there for _, there in copies])]
        return Schedule(sends, receives, [])


def measure_hidden(comm: MPI.Intracomm, case: Hidden, rounds: int) -> Result:
    """A step with overlap, one without, one that only computes."""
    cut, taps, _ = prepare(case)
    modes = ["wrap"] + ["reflect"] * (len(case.shape) - 1)
    plans = {}
    with patch("mpihpc.core.halo.Transfer", ThroughMpi):
        for name, overlap in (("overlapped", True), ("one after the other", False)):
            options: dict[str, Any] = {"mode": modes, "fuse": 1, "overlap": overlap, "device": "gpu"}
            plans[name] = Stencil(cut, taps, case.dtype, comm=comm, **options)
    plan = plans["overlapped"]
    u, v = arrays(comm, case, cut, plan)
    first = [a for a, _ in plan.halo.width]
    box = [(a, a + n) for a, n in zip(first, case.shape, strict=True)]
    given = taps.offsets, taps.weights_for(np.dtype(case.dtype)), 1, box, box, modes
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "compute": (1, lambda: plan.device.kernels.advance(u.padded, v.local, *given)),
        "exchange": (1, lambda: plan.halo.exchange(u.padded)),
    }
    for name, each in plans.items():
        work[name] = 1, lambda each=each: each.apply(u.padded, v.local)
    results = []
    for name in plans:
        work[name][1]()
        results.append(v.checksum())
    wanted_sum = evolve(u, named_kernel(case.kernel, len(case.shape)), 1, modes).checksum()
    if set(results) != {wanted_sum}:
        raise VerificationError(f"steps through messages give {results}, wanted {wanted_sum}")
    seconds, least = in_turns(work, rounds)
    exposed, whole = (seconds[name] - seconds["compute"] for name in ("overlapped", "one after the other"))
    seen = {"not hidden, of the exchange": exposed / whole, "exchange / compute": whole / seconds["compute"]}
    rates = {name: 2e-9 * u.nbytes / s for name, s in seconds.items() if name != "exchange"}
    wanted = {"not hidden, of the exchange": "<= 0.1"}
    return Result("hidden", case, plan.device.label, seconds, least, rates, seen, wanted, plan.halo.bytes)


def measure_overhead(comm: MPI.Intracomm, case: Overhead, rounds: int) -> Result:
    """What it takes to start a step, by the clock: of the kernel alone, of all that a step is, and in a graph."""
    cut, taps, _ = prepare(case)
    plan = Stencil(cut, taps, case.dtype, comm=comm, fuse=1, device="gpu")
    u, v = arrays(comm, case, cut, plan)
    box = [(0, n) for n in case.shape]
    given = taps.offsets, taps.weights_for(np.dtype(case.dtype)), 1, box, box, ["reflect"] * len(case.shape)
    turns = Evolution(cut, taps, case.dtype, comm=comm, fuse=1, device="gpu")
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "one launch": (1, lambda: plan.device.kernels.advance(u.padded, v.local, *given)),
        "one step": (1, lambda: plan.apply(u.padded, v.local)),
        "one step of many, recorded": (TINY, lambda: turns.run(u, TINY)),
    }
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(-1, rounds):
        for name, (steps, each) in work.items():
            plan.device.wait()
            begin = time.perf_counter()
            for _ in range(TINY // steps):
                each()
            plan.device.wait()
            if turn >= 0:
                times[name].append((time.perf_counter() - begin) / TINY)
    seconds = {name: median(values) for name, values in times.items()}
    least = {name: min(values) for name, values in times.items()}
    seen = {f"{name}, microseconds": 1e6 * s for name, s in seconds.items()}
    return Result("overhead", case, plan.device.label, seconds, least, {}, seen)


def prepare(case: Case) -> tuple[Decomposition, Taps, np.ndarray]:
    """What a case works with."""
    kernel = named_kernel(case.kernel, len(case.shape))
    return Decomposition.balanced(case.shape, 1), Taps.from_kernel(kernel, len(case.shape)), kernel.astype(case.dtype)


def arrays(comm: MPI.Intracomm, case: Case, cut: Decomposition, plan: Stencil) -> tuple[DistArray, DistArray]:
    """An array of numbers, and one for the result."""
    u, v = (DistArray(cut, case.dtype, comm=comm, halo=plan.halo.width, device="gpu") for _ in range(2))
    u.padded.fill(0)
    v.padded.fill(0)
    rows = np.random.default_rng(1).random((64, *case.shape[1:]), case.dtype)
    for at in range(0, case.shape[0], 64):
        u.local[at : at + 64] = plan.device.asarray(rows[: case.shape[0] - at])
    return u, v


def in_turns(
    work: dict[str, tuple[int, Callable[[], object]]], rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of one step of each, by events on the GPU: medians over the rounds, and the least.

    Parameters
    ----------
    work : dict of (int, callable)
        How many steps a call makes, and what to call.
    rounds : int
        A first one more warms up.
    """
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(-1, rounds):
        for name, (steps, each) in work.items():
            calls = max(1, STEPS // steps)
            cupy.cuda.get_current_stream().synchronize()
            begin.record()
            for _ in range(calls):
                each()
            end.record()
            end.synchronize()
            if turn >= 0:
                times[name].append(1e-3 * cupy.cuda.get_elapsed_time(begin, end) / (calls * steps))
    least = {name: min(values) for name, values in times.items()}
    return {name: median(values) for name, values in times.items()}, least


def table(result: Result) -> str:
    """A result for a reader."""
    case = result.case
    lines = [f"\n{grid_text(case.shape)} {case.dtype}, {case.kernel}; {result.kind}; {result.device}"]
    if result.bytes_sent:
        lines[0] += f"; {result.bytes_sent:,} bytes in each exchange"
    for name, s in result.seconds.items():
        rate = f"{result.T_eff_GBps[name]:10.1f} GB/s" if name in result.T_eff_GBps else ""
        lines.append(f"{name:32}{1e6 * s:12.1f} us{rate}")
    lines.append(f"{'':32}{'seen':>12}{'wanted':>12}")
    for name, number in result.seen.items():
        lines.append(f"{name:32}{number:12.3f}{result.wanted.get(name, ''):>12}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("benchmarks.gpu", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
