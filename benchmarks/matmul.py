"""Matrix products, beside NumPy, heat and ScaLAPACK: ``python -m benchmarks.matmul``.

Two ranks of one thread each share a product; NumPy does it on rank 0 with as many threads as there are ranks, while the
others sleep. *blocks alone* is the same local work by NumPy, without a message: what a product that leaves it to
BLAS cannot beat. heat
(https://heat.readthedocs.io, in the ranks of this program) and ScaLAPACK (pdgemm.c beside this program, compiled and
started when libscalapack-openmpi-dev is installed) take part where they are; their operands are cut in each of the
ways a user might choose. All take turns, so that a busy machine disturbs all alike, and the medians are shown.
"""

from benchmarks import launch, on_all, on_first

if __name__ == "__main__":
    launch("benchmarks.matmul", ranks=2)  # before MPI is loaded

import argparse
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np
from mpi4py import MPI

from benchmarks import SINGLE_NODE
from benchmarks.reports import parse_common, run_cases
from mpihpc import DistArray
from mpihpc.core.decomposition import Box, Decomposition, grid_text
from mpihpc.core.device import blas_threads, thread_count
from mpihpc.core.failure import VerificationError, agree
from mpihpc.core.topology import Topology
from mpihpc.linalg import Counts, ProductPlan, gram, layouts, matmul
from mpihpc.programs.frame import execute

LIMIT = {"float32": 1e-4, "float64": 1e-12}  # difference from NumPy, relative to the largest element
HEAT_SPLITS = ((0, 0), (0, 1), (1, 0))  # the axes along which its operands are cut


@dataclass(frozen=True)
class Case:
    """A product of an m x k by a k x n matrix; where m is n, the Gram matrix of the second operand too."""

    m: int = 4096
    k: int = 4096
    n: int = 4096
    dtype: str = "float64"


CASES = (
    Case(),
    Case(dtype="float32"),
    Case(256, 262144, 256),
    Case(4096, 256, 4096),
    Case(65536, 512, 512),
    Case(4093, 1021, 2039),
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
    """What was measured. Seconds are medians over the rounds, of the slowest rank in each."""

    case: Case
    grid: str
    threads: int  # of each rank; NumPy has as many as all ranks together
    seconds: dict[str, float]
    seconds_least: dict[str, float]  # far below the median: the machine was busy
    gflops: dict[str, float]
    to_numpy: dict[str, float]  # how many times faster than NumPy
    words_received: int  # by the busiest rank
    words_optimum: int
    words_from_rows: int  # when all arrays are cut into rows instead, what moves before included
    absent: dict[str, str]  # who did not take part, and why


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.matmul", description=__doc__)
    add = parser.add_argument
    add("--shape", type=int, nargs=3, metavar=("M", "K", "N"), help="default: several")
    add("--dtype", choices=tuple(LIMIT), help="default: float64")
    options = parse_common(parser, argv, "matmul", Config.rounds)
    shape, dtype = options.pop("shape"), options.pop("dtype")
    own = Case(*(shape or ()), **({"dtype": dtype} if dtype else {}))
    return Config(cases=(own,) if shape or dtype else CASES, **options)


def run(comm: MPI.Intracomm, config: Config) -> list[Result]:
    """Measure every case, and tell on rank 0. Collective."""
    return run_cases(comm, config, "matmul", measure, table, _peer_versions())


def measure(comm: MPI.Intracomm, case: Case, rounds: int) -> Result:
    """Time the products. Collective."""
    m, k, n, threads = case.m, case.k, case.n, thread_count(Topology.of(comm).cores)
    plan, cut = ProductPlan(m, n, k, comm.size), layouts(m, n, k, dtype=case.dtype, comm=comm)
    a, b, c = (DistArray(d, case.dtype, comm=comm) for d in cut)
    rows = [a.redistribute((comm.size, 1)), b.redistribute((comm.size, 1)), c.redistribute((comm.size, 1))]
    for x, by_rows, factors in ((a, rows[0], (7, 11)), (b, rows[1], (13, 5))):
        for array in (x, by_rows):
            array.local[...] = _values(array.box, factors)
    c.local.fill(0)
    turns: dict[str, Callable[[], float]] = {}  # each gives seconds, on all ranks
    absent: dict[str, str] = {}

    together = partial(partial, on_all, comm)
    turns["mpihpc"] = together(partial(matmul, a, b, out=c))
    turns["mpihpc, from rows"] = together(partial(matmul, *rows[:2], out=rows[2]))
    if m == n:
        tall = DistArray(Decomposition((k, n), (comm.size, 1)), case.dtype, comm=comm)
        tall.local[...] = rows[1].local
        square = DistArray(Decomposition((n, n), (comm.size, 1)), case.dtype, comm=comm)
        square.local.fill(0)
        turns["mpihpc, gram"] = together(partial(gram, tall, out=square))
    shape = [-(-length // p) for length, p in zip((m, n, k), plan.grid, strict=True)]
    left, right = np.ones((shape[0], shape[2]), case.dtype), np.ones((shape[2], shape[1]), case.dtype)
    local = np.zeros((shape[0], shape[1]), case.dtype)
    turns["blocks alone"] = together(partial(_with_threads, threads, np.matmul, left, right, out=local))

    whole = [x.gather() for x in (a, b)]
    alone: Callable[[], object] = int  # others sleep
    wanted = np.empty((m, n), case.dtype) if comm.rank == 0 else np.empty(0)
    if comm.rank == 0:
        alone = partial(_with_threads, comm.size * threads, np.matmul, *whole, out=wanted)
    turns["NumPy"] = partial(on_first, comm, alone)
    turns["NumPy"]()

    def check(name: str, found: np.ndarray | None) -> None:
        with agree(comm, root=0):
            if found is not None and comm.rank == 0:
                difference = float(np.abs(found - wanted).max() / np.abs(wanted).max())
                if not difference <= LIMIT[case.dtype]:  # a rate of wrong numbers is worth nothing
                    raise VerificationError(f"{name} differs from NumPy by {difference:.2g}")

    for name, product in (("mpihpc", c), ("mpihpc, from rows", rows[2])):
        turns[name]()
        check(name, product.gather())
    absent |= _add_heat(turns, comm, case, threads, check)
    server = _add_scalapack(turns, comm, case, absent)

    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(-1, rounds):
        for name, work in turns.items():
            taken = work()
            if turn >= 0:  # the first round warms up
                times[name].append(taken)
    if server:
        server()
    seconds = {name: median(values) for name, values in times.items()}
    counts, from_rows = Counts(), Counts()
    matmul(a, b, out=c, counts=counts)
    matmul(*rows[:2], out=rows[2], counts=from_rows)
    most = partial(comm.allreduce, op=MPI.MAX)
    return Result(
        case=case,
        grid=grid_text(plan.grid),
        threads=threads,
        seconds=seconds,
        seconds_least={name: min(values) for name, values in times.items()},
        gflops={name: 2e-9 * m * n * k / s for name, s in seconds.items()},
        to_numpy={name: seconds["NumPy"] / s for name, s in seconds.items()},
        words_received=most(counts.words),
        words_optimum=plan.words,
        words_from_rows=most(from_rows.words + from_rows.words_relayout),
        absent=comm.bcast(absent),
    )


def _values(box: Box, factors: tuple[int, int]) -> np.ndarray:
    """Numbers of every sign that depend on the place alone."""
    i, j = (np.arange(start, stop) * f for start, stop, f in zip(*box, factors, strict=True))
    return ((i[:, None] + j) % 101) / 50.5 - 1


def _with_threads(threads: int, work: Callable[..., object], *args: object, **options: object) -> None:
    with blas_threads(threads, force=True):
        work(*args, **options)


def _add_heat(
    turns: dict[str, Callable[[], float]],
    comm: MPI.Intracomm,
    case: Case,
    threads: int,
    check: Callable[[str, np.ndarray | None], None],
) -> dict[str, str]:
    """heat's product for each way to cut the operands; who is absent, and why."""
    try:
        import heat
        import torch
    except ImportError as error:
        missing = str(error)
    else:
        missing = ""
    if any(comm.allgather(bool(missing))):
        return {"heat": missing or "not installed on all ranks"}
    torch.set_num_threads(threads)
    for splits in HEAT_SPLITS:
        operands = []
        for shape, split, factors in (((case.m, case.k), splits[0], (7, 11)), ((case.k, case.n), splits[1], (13, 5))):
            _, _, place = heat.communication.MPI_WORLD.chunk(shape, split)
            box = Box(
                tuple(s.indices(n)[0] for s, n in zip(place, shape, strict=True)),
                tuple(s.indices(n)[1] for s, n in zip(place, shape, strict=True)),
            )
            operands.append(heat.array(_values(box, factors).astype(case.dtype), is_split=split))
        name = f"heat, cut {splits[0]} and {splits[1]}"
        check(name, heat.matmul(*operands).numpy())
        turns[name] = partial(on_all, comm, partial(heat.matmul, *operands))
    return {}


def _add_scalapack(
    turns: dict[str, Callable[[], float]], comm: MPI.Intracomm, case: Case, absent: dict[str, str]
) -> Callable[[], object] | None:
    """ScaLAPACK's product on two grids, in processes of their own; returns what ends them."""
    servers: list[tuple[str, subprocess.Popen[str]]] = []
    if case.dtype != "float64":
        absent["ScaLAPACK"] = "pdgemm is of float64"
        return None
    if comm.rank == 0:
        program, why = _compiled()
        if program is None:
            absent["ScaLAPACK"] = why
        else:
            for grid in dict.fromkeys(((comm.size, 1), (1, comm.size))):
                command = [program[0], "-n", str(comm.size), *map(str, (program[1], case.m, case.n, case.k, *grid))]
                process = subprocess.Popen(
                    command, env=_outside() | SINGLE_NODE | {"OMP_NUM_THREADS": "1"}, text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )  # fmt: skip
                servers.append((f"ScaLAPACK, {grid_text(grid)}", process))
    named = dict(servers)

    def turn(name: str) -> float:
        taken: list[float] = []

        def ask() -> None:
            server = named[name]
            assert server.stdin and server.stdout
            print(file=server.stdin, flush=True)
            answer = server.stdout.readline().strip()
            if not answer or answer == "wrong":
                raise VerificationError(f"{name} gave {answer or 'nothing'}")
            taken.append(float(answer))

        on_first(comm, ask)
        return float(comm.bcast(taken[0] if taken else None))

    for name in comm.bcast([name for name, _ in servers]):
        turns[name] = partial(turn, name)

    def end() -> None:
        for process in named.values():
            process.communicate()

    return partial(on_first, comm, end)


def _outside() -> dict[str, str]:
    """The environment without what this job's MPI has put there: another MPI's programs are to be started."""
    own = ("OMPI_", "OPAL_", "PMIX_", "PRTE_", "PMI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


def _compiled() -> tuple[tuple[str, str] | None, str]:
    """mpirun and pdgemm.c, compiled, or why there is none."""
    compiler = shutil.which("mpicc.openmpi") or shutil.which("mpicc")
    mpirun = shutil.which("mpirun.openmpi") or shutil.which("mpirun")
    if compiler is None or mpirun is None:
        return None, "no mpicc or mpirun on PATH"
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, program = Path(__file__).with_name("pdgemm.c"), str(Path(folder, "pdgemm"))
    done = subprocess.run(
        [compiler, "-O2", str(source), "-lscalapack-openmpi", "-o", program],
        capture_output=True,
        text=True,
        env=_outside(),
    )
    if done.returncode:
        return None, "pdgemm.c does not compile: install libscalapack-openmpi-dev and libopenblas-dev"
    return (mpirun, program), ""


def _peer_versions() -> dict[str, str]:
    found = {}
    for name in ("heat", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def table(result: Result) -> str:
    """A result for a reader."""
    case = result.case
    lines = [
        f"\n{case.m}x{case.k} by {case.k}x{case.n} {case.dtype}; ranks {result.grid} along m, n, k, "
        f"threads per rank {result.threads}",
        f"{'':24}{'seconds':>10}{'GFLOP/s':>10}{'x NumPy':>9}",
    ]
    for name, s in result.seconds.items():
        lines.append(f"{name:24}{s:10.4f}{result.gflops[name]:10.1f}{result.to_numpy[name]:9.2f}")
    lines += [f"{name:24}{'':10}absent: {why}" for name, why in result.absent.items()]
    optimum = result.words_received / result.words_optimum if result.words_optimum else 1
    lines.append(
        f"the busiest rank received {result.words_received:,} words, {optimum:g} of the optimum; from rows "
        f"{result.words_from_rows:,}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("benchmarks.matmul", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
