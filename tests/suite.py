"""The whole test suite: under ``mpirun`` at several sizes, then the programs' tests in one plain process.

    python tests/suite.py                      everything (what ``make test`` runs)
    python tests/suite.py --ranks 1,3          these sizes alone
    python tests/suite.py --only programs      the programs alone
    python tests/suite.py --only interop       our files in other people's readers (needs the extra `interop`)
    python tests/suite.py --short              what differs between MPI and HDF5 libraries: two sizes, some of the files
    python tests/suite.py -k halo              the tests whose name matches

A file that sends no messages runs on one rank alone, and 8 ranks run what 4 do not show.

A job that ends early or skips what it should run must not look like success: each job reports how many tests
really ran, and that is held against a floor. The last line is the sum over all jobs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1, 2, 3, 4, 8)
TIME_LIMIT = 1800  # seconds for one job
# Files that send no messages: other ranks would do the same once more.
ALONE = ("decomposition", "docstrings", "kernels", "layers", "products")
# What has more to show on 8 ranks: grids that cut three axes or have a middle, more ranks than rows, trees of sums.
MANY = ("array", "halo", "io", "linalg", "reading", "reductions", "sharing", "stencil", "transfer")
# What another MPI or HDF5 may do differently, on one rank and on several of which one has two neighbours: messages,
# shared memory, files, and the ends of jobs. The rest stands on these.
SHORT_SIZES = (1, 3)
SHORT = (
    *(
        "adding",
        "attributes",
        "chunks",
        "device_files",
        "failure",
        "halo",
        "harness",
        "io",
        "linalg",
        "overlap",
        "reading",
        "reductions",
    ),
    *("sharing", "transfer", "watchdog"),
)
SHORT_PROGRAMS = ("doctor", "failures", "main_job", "memory", "snapshots", "watchdog")
# How many tests must at least pass in each job.
FLOORS: dict[int | str, int] = {1: 1560, 2: 860, 3: 860, 4: 860, 8: 320, "programs": 580, "interop": 33}
SHORT_FLOORS: dict[int | str, int] = {1: 370, 3: 370, "programs": 140}

# The folder where a job leaves its counts and the output of its silent ranks; tests/verdicts.py writes there.
REPORT = "MPIHPC_TEST_REPORT"


def mpirun() -> str:
    """The launcher that belongs to this interpreter: the one beside it, else the system's."""
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if not found:
        raise SystemExit(f"no mpirun beside {sys.executable} and none on PATH")
    return found


def environment() -> dict[str, str]:
    """This process's environment, and what jobs larger than the machine need on a single node.

    Open MPI 4 reads the OMPI_ names, Open MPI 5 the PRTE_ ones too, MPICH the MPIR_ ones; each ignores the others'.
    """
    return os.environ | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        # More ranks than cores: start them, let them share the cores, and let a waiting rank yield.
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Open MPI 5's OFI transport takes a second to find out that one node does not need it.
        "OMPI_MCA_btl": "^ofi",
        # Open MPI 4 sleeps this long, twice, before it passes on a program's exit code.
        "OMPI_MCA_odls_base_sigkill_timeout": "0",
        # MPICH yields too, but looks a thousand times before it does.
        "MPIR_CVAR_POLLS_BEFORE_YIELD": "1",
        # Ranks that share cores must not start a team of BLAS threads each.
        "OPENBLAS_NUM_THREADS": "1",
    }


@dataclass
class Outcome:
    job: int | str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    problem: str = ""
    failures: dict[str, list[str]] = field(default_factory=dict)  # the tests that failed, and what they said last


def files_of(job: int | str, short: bool = False) -> list[str]:
    """The files that a job runs: a number of ranks, "programs" or "interop". All, except those named above."""
    folder = f"tests/{job}" if isinstance(job, str) else "tests"
    names = {path.stem.removeprefix("test_") for path in Path(ROOT, folder).glob("test_*.py")}
    if short:
        names &= set(SHORT_PROGRAMS if job == "programs" else SHORT)
    elif job == 8:
        names &= set(MANY)
    if isinstance(job, int) and job != 1:
        names -= set(ALONE)
    return [f"{folder}/test_{name}.py" for name in sorted(names)]


def run_job(job: int | str, selection: str | None, short: bool = False) -> Outcome:
    """Run one job: a number of ranks, "programs" or "interop"."""
    files = files_of(job, short)
    if isinstance(job, str):
        command = [sys.executable, "-m", "pytest", *files]
    else:
        command = [mpirun(), "-n", str(job), sys.executable, "-m", "mpi4py", "-m", "pytest", "--with-mpi", *files]
    if selection:
        command += ["-k", selection]
    print(f"\n==== {shlex.join(command)}", flush=True)
    # mpirun gives its ranks a terminal of their own, so pytest cannot see where its colours would go.
    command.append(f"--color={'yes' if sys.stdout.isatty() else 'no'}")

    outcome = Outcome(job)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mpihpc-suite-") as folder:
        code = run_limited(command, environment() | {REPORT: folder})
        outcome.seconds = time.monotonic() - begin
        counts = Path(folder, "counts.json")
        if counts.exists():
            for name, count in json.loads(counts.read_text()).items():
                setattr(outcome, name, count)
        else:
            # The report of rank 0 is not whole: what the other ranks wrote may tell why.
            for log in sorted(Path(folder).glob("rank-*.log")):
                print(f"---- the end of {log.stem}", *log.read_text().splitlines()[-40:], sep="\n")

    floor = 0 if selection else (SHORT_FLOORS if short else FLOORS).get(job, 1)
    nothing_selected = selection and code == 5
    if code is None:
        outcome.problem = f"ended after the limit of {TIME_LIMIT} s"
    elif code and not nothing_selected:
        outcome.problem = f"exit code {code}"
    elif outcome.passed < floor:
        outcome.problem = f"ran fewer than {floor} tests"
    if outcome.problem:
        outcome.failed = max(outcome.failed, 1)
    return outcome


def run_limited(command: list[str], env: dict[str, str], limit: float = TIME_LIMIT, stdout: Any = None) -> int | None:
    """The exit code of a command, or None when it had to be ended after the time limit."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)
        # A test that was ended cannot clean up; what it started is still in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def end(process: subprocess.Popen) -> None:
    """End a process that still runs: politely, so that mpirun ends its ranks, then for good."""
    for stop in (process.terminate, process.kill):
        if process.poll() is None:
            stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)


def ranks_of(pid: int) -> dict[int, int]:
    """Rank -> process id, of the ranks below a launcher."""
    found: dict[int, int] = {}
    below = [pid]
    while below:
        process = Path("/proc", str(below.pop()))
        try:
            for thread in (process / "task").iterdir():
                below += [int(child) for child in (thread / "children").read_text().split()]
            environ = dict(e.split(b"=", 1) for e in (process / "environ").read_bytes().split(b"\0") if b"=" in e)
            if b"mpihpc.stencil" in (process / "cmdline").read_bytes() and int(process.name) != pid:
                rank = environ[b"OMPI_COMM_WORLD_RANK" if b"OMPI_COMM_WORLD_RANK" in environ else b"PMI_RANK"]
                found[int(rank)] = int(process.name)
        except (OSError, KeyError):  # it ended, or it is mpirun's own
            continue
    return found


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--ranks", metavar="N,N", help="sizes to run, without the programs")
    parser.add_argument("--only", choices=["ranks", "programs", "interop"], help="one part of the suite")
    parser.add_argument("--short", action="store_true", help="what depends on the MPI and HDF5 libraries, on two sizes")
    parser.add_argument("-k", metavar="EXPRESSION", help="select tests by name; the floors do not count")
    options = parser.parse_args()
    # Leave through the door when asked to go, so that the running job is ended too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    sizes = list(SHORT_SIZES if options.short else SIZES)
    if options.ranks:
        sizes = [int(n) for n in options.ranks.split(",")]
    jobs: list[int | str] = []
    if options.only in (None, "ranks"):
        jobs += sizes
    if options.only == "programs" or not (options.only or options.ranks):
        jobs.append("programs")
    if options.only == "interop":
        jobs.append("interop")

    outcomes = [run_job(job, options.k, options.short) for job in jobs]

    print(f"\n{'ranks':>8} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for o in outcomes:
        print(f"{o.job:>8} {o.passed:7} {o.failed:7} {o.skipped:8} {o.seconds:8.1f}  {o.problem}")
    passed, failed, skipped = (sum(getattr(o, n) for o in outcomes) for n in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
