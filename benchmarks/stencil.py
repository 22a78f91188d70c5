"""One pass of a stencil, beside a plain copy and beside SciPy: ``python -m benchmarks.stencil``.

A pass reads and writes every cell once, as a copy does. So both count ``2 x cells x itemsize`` bytes, and the
copy says what the machine can do. The copy loop is one of ordinary loads and stores in the same extension,
`numpy.copyto` is the C library's; every rank copies its own block, all at once. SciPy works on the whole
array, on rank 0 alone, while the others sleep. They take turns, so that a busy machine disturbs all alike,
and the medians are shown.
"""

from benchmarks import launch, machine, on_all, on_first

if __name__ == "__main__":
    launch("benchmarks.stencil", ranks=2)  # before MPI is loaded

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import scipy
from mpi4py import MPI
from scipy import ndimage

from mpihpc import DistArray, _core
from mpihpc.core.decomposition import Decomposition, grid_text
from mpihpc.core.failure import VerificationError, agree
from mpihpc.io.writing import versions
from mpihpc.programs import execute
from mpihpc.stencil import Stencil, Taps, named_kernel

RESULTS = Path(__file__).with_name("results")
EVERY = 5  # SciPy takes long: it takes part in every fifth round
LIMIT = {"float32": 1e-6, "float64": 1e-12}  # relative difference from SciPy


@dataclass(frozen=True)
class Case:
    """One pass of a kernel over an array."""

    shape: tuple[int, ...] = (4096, 4096)
    dtype: str = "float64"
    kernel: str = "heat"


CASES = (Case(), Case((256, 256, 256)), Case((256, 256, 256), "float32", "mean:3"))


@dataclass(frozen=True)
class Config:
    """What to measure; a case of one's own replaces the three."""

    cases: tuple[Case, ...] = CASES
    rounds: int = 25
    json: bool = False
    save: bool = False


@dataclass(frozen=True)
class Result:
    """What was measured. Seconds are medians over the rounds, of the slowest rank in each."""

    case: Case
    taps: int
    grid: str
    threads: int
    seconds: dict[str, float]
    seconds_least: dict[str, float]  # far below the median: the machine was busy
    GB_per_s: dict[str, float]
    pass_to_copy: float
    pass_to_scipy: float
    bytes_sent: list[int]  # by each rank, in one exchange
    messages_sent: list[int]
    difference: float  # from SciPy, relative


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.stencil", description=__doc__)
    add = parser.add_argument
    add("--shape", type=int, nargs="+", metavar="N", help="default: 4096 4096")
    add("--dtype", choices=tuple(LIMIT), help="default: float64")
    add("--kernel", metavar="NAME", help="a name that python -m mpihpc.stencil knows (default: heat)")
    add("--rounds", type=int, default=Config.rounds, metavar="N", help=f"default: {Config.rounds}")
    add("--json", action="store_true", help="one line of JSON instead of tables")
    add("--save", action="store_true", help=f"write {RESULTS.name}/stencil-DATE.json beside this program")
    options = vars(parser.parse_args(argv))
    if options["rounds"] < 1:
        raise ValueError(f"rounds {options['rounds']} is less than 1")
    own = {name: options.pop(name) for name in ("shape", "dtype", "kernel")}
    own = {name: tuple(value) if name == "shape" else value for name, value in own.items() if value}
    return Config(cases=(Case(**own),) if own else CASES, **options)


def run(comm: MPI.Intracomm, config: Config) -> list[Result]:
    """Measure every case, and tell on rank 0. Collective."""
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z",
        "machine": machine() | {"instruction_set": _core.isa()},
        "versions": versions() | {"scipy": scipy.__version__, "python": platform.python_version()},
        "ranks": comm.size,
        "rounds": config.rounds,
    }
    results = []
    for case in config.cases:
        results.append(measure(comm, case, config.rounds))
        if comm.rank == 0 and not config.json:
            print(table(results[-1]), flush=True)
    report["results"] = [asdict(result) for result in results]
    with agree(comm, root=0):
        if comm.rank == 0 and config.json:
            print(json.dumps(report), flush=True)
        if comm.rank == 0 and config.save:
            RESULTS.mkdir(exist_ok=True)
            Path(RESULTS, f"stencil-{report['date'][:10]}.json").write_text(json.dumps(report, indent=2) + "\n")
    return results


def measure(comm: MPI.Intracomm, case: Case, rounds: int) -> Result:
    """Time one pass and what it is compared with. Collective."""
    with agree(comm):
        kernel = named_kernel(case.kernel, len(case.shape))
        taps = Taps.from_kernel(kernel, len(case.shape))
        cut = Decomposition.balanced(case.shape, comm.size, halo=taps.width)
    plan = Stencil(cut, taps, case.dtype, comm=comm, fuse=1)
    u, v = (DistArray(cut, case.dtype, comm=comm, halo=plan.halo.width) for _ in range(2))
    u.padded[...] = np.random.default_rng(comm.rank).random(u.padded.shape, case.dtype)
    v.padded.fill(0)
    whole = u.gather()
    expected = None if whole is None else np.zeros_like(whole)

    everywhere: dict[str, Callable[[], object]] = {
        "copy loop": lambda: _core.copy(u.local, v.local, plan.threads),
        "numpy.copyto": lambda: np.copyto(v.local, u.local),
        "pass": lambda: plan.apply(u.padded, v.local),
    }
    times: dict[str, list[float]] = {name: [] for name in (*everywhere, "SciPy")}
    for turn in range(-1, rounds):
        kept = times if turn >= 0 else {name: [] for name in times}  # the first round warms up
        for name, work in everywhere.items():
            kept[name].append(on_all(comm, work))
        if turn <= 0 or turn % EVERY == 0:
            kept["SciPy"].append(on_first(comm, lambda: ndimage.correlate(whole, kernel, expected)))
    seconds = {name: median(values) for name, values in times.items()}

    result, difference = v.gather(), 0.0
    with agree(comm, root=0):  # a rate of wrong numbers is worth nothing
        if result is not None:
            difference = float(np.abs(result - expected).max() / np.abs(kernel).sum())  # the input is below 1
            if not difference <= LIMIT[case.dtype]:
                raise VerificationError(f"a pass differs from SciPy by {difference:.2g}, relative")
    return Result(
        case=case,
        taps=len(taps.weights),
        grid=grid_text(cut.dims),
        threads=plan.threads,
        seconds=seconds,
        seconds_least={name: min(values) for name, values in times.items()},
        GB_per_s={name: 2e-9 * u.nbytes / s for name, s in seconds.items()},
        pass_to_copy=seconds["copy loop"] / seconds["pass"],
        pass_to_scipy=seconds["SciPy"] / seconds["pass"],
        bytes_sent=comm.allgather(plan.halo.bytes),
        messages_sent=comm.allgather(plan.halo.messages),
        difference=comm.bcast(difference),
    )


def table(result: Result) -> str:
    """A result for a reader."""
    case, names = result.case, {"pass": "pass with halo exchange", "SciPy": "scipy.ndimage.correlate, 1 core"}
    lines = [
        f"\n{grid_text(case.shape)} {case.dtype}, {result.taps} taps ({case.kernel}); ranks {result.grid}, "
        f"threads per rank {result.threads}",
        f"{'':32}{'seconds':>10}{'GB/s':>8}{'x copy':>8}{'x SciPy':>9}",
    ]
    for name, s in result.seconds.items():
        ratios = f"{result.seconds['copy loop'] / s:8.2f}{result.seconds['SciPy'] / s:9.1f}"
        lines.append(f"{names.get(name, name):32}{s:10.5f}{result.GB_per_s[name]:8.2f}{ratios}")
    sent = f"{max(result.bytes_sent):,} bytes in {max(result.messages_sent)} message(s)"
    return "\n".join([*lines, f"each pass, a rank sends at most {sent}"])


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("benchmarks.stencil", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
