"""Steps of stencils, beside a plain copy and beside other libraries: ``python -m benchmarks.stencil``.

A step reads and writes every cell once, as a copy does. So both count ``2 x cells x itemsize`` bytes, and the copy says
what the machine can do in one pass over memory; fused steps make less than one pass each. The copy loop is one of
ordinary loads and stores in the same extension; every rank copies its own block, all at once. Other libraries
(`benchmarks.peers`; ``make bench`` installs them) work on the whole array on rank 0, with as many threads as there are
ranks, while the others sleep; so does one rank of mpihpc with threads. Ranks that work together are bound to a core
each, if there are as many. They take turns, so that a busy machine disturbs
all alike, and the medians are shown.
"""

from benchmarks import launch, on_all, on_first

if __name__ == "__main__":
    launch("benchmarks.stencil", ranks=2)  # before MPI is loaded

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
from mpi4py import MPI

import mpihpc
from benchmarks import peers
from benchmarks.reports import parse_common, run_cases
from mpihpc import DistArray, _core
from mpihpc.core.decomposition import Decomposition, grid_text, ranks_text
from mpihpc.core.failure import VerificationError, agree
from mpihpc.programs.frame import execute
from mpihpc.stencil import Evolution, Stencil, Taps, evolve, named_kernel, padded_copy

STEPS = 24  # in each turn of what fuses steps, and of the faster peers
FEW = {"NumPy slices": 2, "SciPy": 1, "OpenCV": 4, "JAX": 4}  # these take long: fewer steps, in every fifth round
EVERY = 5
LIMIT = {"float32": 1e-5, "float64": 1e-12}  # difference from the peers after STEPS steps, relative


@dataclass(frozen=True)
class Case:
    """One pass of a kernel over an array."""

    shape: tuple[int, ...] = (4096, 4096)
    dtype: str = "float64"
    kernel: str = "heat"


CUBE = (256, 256, 256)
CASES = (
    Case(),
    Case(kernel="mean:3"),
    Case(CUBE),
    Case(CUBE, "float32", "heat8"),
    Case(CUBE, "float32", "mean:3"),
)


@dataclass(frozen=True)
class Config:
    """What to measure; a case of one's own replaces all."""

    cases: tuple[Case, ...] = CASES
    rounds: int = 25
    json: bool = False
    save: bool = False


@dataclass(frozen=True)
class Result:
    """What was measured. Seconds are of one step: medians over the rounds, of the slowest rank in each."""

    case: Case
    taps: int
    grid: str
    threads: int  # of each rank; those that work alone have as many as there are ranks
    fuse: dict[str, int]  # steps at once
    seconds: dict[str, float]
    seconds_least: dict[str, float]  # far below the median: the machine was busy
    GB_per_s: dict[str, float]
    to_copy: dict[str, float]  # how many times faster than the copy loop
    to_threads: list[float]  # how many times faster ranks are than as many threads: quartiles of the rounds
    bytes_sent: list[int]  # by each rank, in one exchange of fused steps
    messages_sent: list[int]
    differences: dict[str, float]  # of the peers, after STEPS steps, relative


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.stencil", description=__doc__)
    add = parser.add_argument
    add("--shape", type=int, nargs="+", metavar="N", help="default: 4096 4096")
    add("--dtype", choices=tuple(LIMIT), help="default: float64")
    add("--kernel", metavar="NAME", help="a name that python -m mpihpc.stencil knows, or heat8 (default: heat)")
    options = parse_common(parser, argv, "stencil", Config.rounds)
    own = {name: options.pop(name) for name in ("shape", "dtype", "kernel")}
    own = {name: tuple(value) if name == "shape" else value for name, value in own.items() if value}
    return Config(cases=(Case(**own),) if own else CASES, **options)


def run(comm: MPI.Intracomm, config: Config) -> list[Result]:
    """Measure every case, and tell on rank 0. Collective."""
    return run_cases(comm, config, "stencil", measure, table, peers.versions())


def weights(name: str, ndim: int) -> np.ndarray:
    """A kernel by its name; heat8: a step of the heat equation with a Laplacian of order 8 (13 or 25 points)."""
    if name != "heat8":
        return named_kernel(name, ndim)
    kernel = 0.05 * named_kernel("laplace:8", ndim)
    kernel[(4,) * ndim] += 1
    return kernel


def measure(comm: MPI.Intracomm, case: Case, rounds: int) -> Result:
    """Time steps and what they are compared with. Collective."""
    with agree(comm):
        kernel = weights(case.kernel, len(case.shape))
        taps = Taps.from_kernel(kernel, len(case.shape))
        cut = Decomposition.balanced(case.shape, comm.size, halo=taps.width)
    everywhere: dict[str, tuple[int, Callable[[], object]]] = {}  # what all ranks do together; steps in a turn
    alone: dict[str, tuple[int, Callable[[], object]]] = {}  # what rank 0 does
    fuse = {"one step": 1}

    single = Stencil(cut, taps, case.dtype, comm=comm, fuse=1)
    u, v = (DistArray(cut, case.dtype, comm=comm, halo=single.halo.width) for _ in range(2))
    u.padded[...] = v.padded[...] = 0
    u.local[...] = np.random.default_rng(comm.rank).random(u.local.shape, case.dtype)
    whole = u.gather()
    everywhere["copy loop"] = 1, lambda: _core.copy(u.local, v.local, single.threads)
    everywhere["one step"] = 1, lambda: single.apply(u.padded, v.local)
    plan = Evolution(cut, taps, case.dtype, comm=comm)
    label = f"fused, {ranks_text(comm.size)}"
    state, fuse[label] = padded_copy(u, u.dtype, plan.stencil.halo.width), plan.stencil.fusing.steps
    everywhere[label] = STEPS, partial(_go_on, plan, [state])

    def prepare() -> None:
        cut_alone = Decomposition.balanced(case.shape, 1)
        plan = Evolution(cut_alone, taps, case.dtype, comm=MPI.COMM_SELF, threads=comm.size)
        state = DistArray(cut_alone, case.dtype, comm=MPI.COMM_SELF, halo=plan.stencil.halo.width)
        state.local[...] = whole
        label = f"fused, {comm.size} threads"
        alone[label], fuse[label] = (STEPS, partial(_go_on, plan, [state])), plan.stencil.fusing.steps
        inner = tuple(slice(STEPS * (n // 2), -STEPS * (n // 2)) for n in kernel.shape)
        wanted = evolve(mpihpc.asarray(whole, comm=MPI.COMM_SELF), kernel, STEPS, "constant").local[inner]
        for name, advance in peers.make(whole, kernel.astype(case.dtype), comm.size).items():
            difference = float(np.abs(advance(STEPS)[inner] - wanted).max() / np.abs(wanted).max())
            if not difference <= LIMIT[case.dtype]:  # a rate of wrong numbers is worth nothing
                raise VerificationError(f"{name} differs by {difference:.2g} after {STEPS} steps")
            differences[name] = difference
            steps = FEW.get(name, STEPS)
            alone[name] = steps, partial(advance, steps)

    differences: dict[str, float] = {}
    failure: list[Exception] = []

    def prepared() -> None:
        try:
            prepare()
        except Exception as error:
            failure.append(error)

    on_first(comm, prepared)
    with agree(comm, root=0):
        if failure:
            raise failure[0]
    names = [*everywhere, *comm.bcast(list(alone))]
    times: dict[str, list[float]] = {name: [] for name in names}
    cores = sorted(os.sched_getaffinity(0))
    for turn in range(-1, rounds):
        for name in names:
            if name in FEW and turn > 0 and turn % EVERY:
                continue
            together = name in everywhere
            os.sched_setaffinity(0, [cores[comm.rank]] if together and 1 < comm.size <= len(cores) else cores)
            if together:
                steps, work = everywhere[name]
                taken = on_all(comm, work) / steps
            else:
                steps, work = alone.get(name, (1, int))  # other ranks sleep
                taken = comm.bcast(on_first(comm, work) / steps)
            if turn >= 0:  # the first round warms up
                times[name].append(taken)
    seconds = {name: median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times[f"fused, {comm.size} threads"], times[label], strict=True)]
    return Result(
        case=case,
        taps=len(taps.weights),
        grid=grid_text(cut.dims),
        threads=single.threads,
        fuse=comm.bcast(fuse),
        seconds=seconds,
        seconds_least={name: min(values) for name, values in times.items()},
        GB_per_s={name: 2e-9 * u.nbytes / s for name, s in seconds.items()},
        to_copy={name: seconds["copy loop"] / s for name, s in seconds.items()},
        to_threads=np.percentile(ratios, (25, 50, 75)).tolist(),
        bytes_sent=comm.allgather(plan.stencil.halo.bytes),
        messages_sent=comm.allgather(plan.stencil.halo.messages),
        differences=comm.bcast(differences),
    )


def _go_on(plan: Evolution, state: list[DistArray]) -> None:
    """Some steps more."""
    state[0] = plan.run(state[0], STEPS)


def table(result: Result) -> str:
    """A result for a reader."""
    case, slowest = result.case, max(result.seconds.values())
    lines = [
        f"\n{grid_text(case.shape)} {case.dtype}, {result.taps} taps ({case.kernel}); ranks {result.grid}, "
        f"threads per rank {result.threads}",
        f"{'':24}{'seconds':>10}{'GB/s':>8}{'x copy':>8}{'x slowest':>11}",
    ]
    for name, s in result.seconds.items():
        many = f" ({result.fuse[name]} at once)" if name in result.fuse and name != "one step" else ""
        lines.append(
            f"{name:24}{s:10.5f}{result.GB_per_s[name]:8.2f}{result.to_copy[name]:8.2f}{slowest / s:11.1f}{many}"
        )
    sent = f"{max(result.bytes_sent):,} bytes in {max(result.messages_sent)} message(s)"
    lines.append(f"in each exchange of fused steps, a rank sends at most {sent}")
    low, middle, high = result.to_threads
    lines.append(f"ranks over threads, round by round: {middle:.3f} ({low:.3f} to {high:.3f} in half of the rounds)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("benchmarks.stencil", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
