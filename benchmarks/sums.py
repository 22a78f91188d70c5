"""Reproducible sums, beside NumPy's on the same cells: ``python -m benchmarks.sums``.

One rank and one thread: what it takes to add without rounding, not what messages take. Each case is a call of
`mpihpc` with all that belongs to it (agreement of the ranks, an Allreduce), beside NumPy's function of that name; BLAS
does the work of `numpy.dot` and `numpy.linalg.norm`, and adds in the precision of the cells. *to sum* compares with
`numpy.sum` of the same cells instead (of as many bytes: for `dot`, of both vectors). All take turns, and the ratios are
those of medians over the rounds. The smallest arrays lie in a second-level cache, the largest in memory.
"""

from benchmarks import launch

if __name__ == "__main__":
    launch("benchmarks.sums", ranks=1)  # before MPI is loaded

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_info

import mpihpc
from benchmarks.reports import parse_common, run_cases
from mpihpc.core.decomposition import grid_text
from mpihpc.core.device import blas_threads
from mpihpc.core.failure import VerificationError
from mpihpc.programs.frame import execute

CELLS = 1 << 18  # in a round, at least: small arrays are added several times
LIMIT = 1e-3  # difference from NumPy, relative to the sum of the sizes


@dataclass(frozen=True)
class Case:
    """A reduction of an array of normally distributed numbers, whole or along an axis."""

    what: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None = None


WHOLE = ("sum", "mean", "dot", "norm")
CASES = tuple(
    Case(what, (n,), dtype)
    for n in (1 << 15, 1 << 19, 1 << 23)
    for dtype in ("float32", "float64", "complex128")
    for what in WHOLE
) + tuple(
    Case(what, shape, dtype, axis)
    for shape in ((512, 512), (4096, 2048), (200, 200, 200))
    for dtype in ("float32", "float64")
    for what in ("sum", "norm")
    for axis in range(len(shape))
)


@dataclass(frozen=True)
class Config:
    """What to measure; a case of one's own replaces all."""

    cases: tuple[Case, ...] = CASES
    rounds: int = 15
    json: bool = False
    save: bool = False


@dataclass(frozen=True)
class Result:
    """What was measured. Seconds are medians over the rounds, for one call."""

    case: Case
    seconds: dict[str, float]
    to_numpy: float  # how many times as long as NumPy's function
    to_sum: float  # and as numpy.sum of as many bytes


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.sums", description=__doc__)
    add = parser.add_argument
    add("--what", choices=WHOLE, help="default: all")
    add("--shape", type=int, nargs="+", metavar="N", help="default: several")
    add("--dtype", choices=("float32", "float64", "complex64", "complex128"), help="default: several")
    add("--axis", type=int, help="default: the whole array, or all")
    options = parse_common(parser, argv, "sums", Config.rounds)
    what, shape, dtype, axis = (options.pop(name) for name in ("what", "shape", "dtype", "axis"))
    if not (what or shape or dtype or axis is not None):
        return Config(**options)
    own = Case(what or "sum", tuple(shape or (1 << 23,)), dtype or "float64", axis)
    return Config(cases=(own,), **options)


def run(comm: MPI.Intracomm, config: Config) -> list[Result]:
    """Measure all cases, and tell on rank 0. Collective."""
    if comm.size != 1:
        raise ValueError(f"one rank adds as NumPy does, the job has {comm.size}")
    blas = ", ".join(
        sorted({f"{x['internal_api']} {x['version']}" for x in threadpool_info() if x["user_api"] == "blas"})
    )
    if not config.json:
        print(
            f"{'':6}{'shape':14}{'dtype':12}{'axis':6}{'mpihpc':>10}{'numpy':>10} us{'ratio':>8}{'to sum':>8}",
            flush=True,
        )
    with blas_threads(1, force=True):
        return run_cases(comm, config, "sums", measure, table, {"BLAS": blas})


def measure(comm: MPI.Intracomm, case: Case, rounds: int) -> Result:
    """One case."""
    rng = np.random.default_rng(1)

    def made() -> np.ndarray:
        parts = rng.standard_normal((2, *case.shape))
        return (parts[0] + 1j * parts[1] if case.dtype.startswith("complex") else parts[0]).astype(case.dtype)

    x, y = made(), made() if case.what == "dot" else None
    a, b = mpihpc.asarray(x, comm=comm), None if y is None else mpihpc.asarray(y, comm=comm)
    calls: dict[str, Callable[[], Any]]
    if y is not None and b is not None:
        calls = {"mpihpc": lambda: mpihpc.dot(a, b), "numpy": lambda: np.dot(x, y), "sum": lambda: (x.sum(), y.sum())}
        scale = float(np.dot(abs(x), abs(y)))
    else:
        theirs = np.linalg.norm if case.what == "norm" else getattr(np, case.what)
        calls = {
            "mpihpc": lambda: getattr(mpihpc, case.what)(a, case.axis),
            "numpy": lambda: theirs(x, axis=case.axis),
            "sum": lambda: np.sum(x, axis=case.axis),
        }
        scale = float(np.max(abs(x).sum(axis=case.axis)))
    ours = calls["mpihpc"]()
    found = ours.gather() if isinstance(ours, mpihpc.DistArray) else ours
    if not np.max(abs(found - calls["numpy"]())) <= LIMIT * scale:
        raise VerificationError(f"{case} differs from NumPy's result by more than {LIMIT:g} of {scale:g}")
    repeats = max(1, CELLS // x.size)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter() - begin) / repeats)
    seconds = {name: median(of) for name, of in times.items()}
    return Result(case, seconds, seconds["mpihpc"] / seconds["numpy"], seconds["mpihpc"] / seconds["sum"])


def table(result: Result) -> str:
    """A line for a reader."""
    case, microseconds = result.case, {name: 1e6 * s for name, s in result.seconds.items()}
    where = "" if case.axis is None else str(case.axis)
    return (
        f"{case.what:6}{grid_text(case.shape):14}{case.dtype:12}{where:6}{microseconds['mpihpc']:10.1f}"
        f"{microseconds['numpy']:10.1f}   {result.to_numpy:8.2f}{result.to_sum:8.2f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("benchmarks.sums", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
