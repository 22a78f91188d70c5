"""Everything that only a GPU can prove, and what it measures: ``python -m tests.gpu``.

Runs the GPU part of the tests in jobs of their own, limited in time: the kernels on one rank; then arrays on a device
and the program, on one rank and on two that share a GPU, with messages through host memory (``staged``) and, if the
MPI library says that it takes device memory, without (``direct``); then the benchmark. A job that crashes or hangs is
a line that failed, not the end. One table at the end; the report as JSON. Without a GPU all is skipped.

    python -m tests.gpu                     everything; exit code 1 if anything failed
    python -m tests.gpu --only kernels      some of the parts: kernels, arrays, program, benchmark
    python -m tests.gpu -k boxes            the tests whose name matches
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from suite import REPORT, Outcome, environment, mpirun, run_limited  # noqa: E402

PARTS = ("kernels", "arrays", "program", "benchmark")
FILES = {"kernels": "tests/gpu/kernels.py", "arrays": "tests/test_device.py"}
LIMITS = {"kernels": 420, "arrays": 120, "program": 60, "benchmark": 240}  # seconds
RUNS = (
    "--shape 300 401 --steps 20",
    "--shape 60 71 80 --steps 6 --kernel gaussian:1 --mode periodic,neumann,constant --dtype float32",
)
_LOOK = "import json; from mpihpc.doctor.gpu import look_gpu; print(json.dumps(look_gpu()))"
_BUILD = """\
the compiled part of mpihpc is missing for this Python ({version}); to build it here:
  cmake -S . -B build/core -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE={python} \\
      -Dnanobind_DIR=$({python} -m nanobind --cmake_dir)
  cmake --build build/core --parallel && cp build/core/_core*.so src/mpihpc/"""


@dataclass(frozen=True)
class Job:
    """One line of the table."""

    part: str
    ranks: int
    transport: str
    count: int  # what it has to run
    run: str = ""  # of the program

    @property
    def name(self) -> str:
        return f"{self.part}, {self.ranks} rank{'s' * (self.ranks > 1)}, {self.transport}"


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tests.gpu", description=__doc__, formatter_class=raw)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--report", type=Path, default=ROOT / "build/gpu-report.json", help="default: %(default)s")
    parser.add_argument("-k", metavar="EXPRESSION", help="select tests by name")
    options = parser.parse_args()
    # Leave through the door when asked to go, so that the running job is ended too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    if find_spec("pytest") is None:
        print(f"tests.gpu: error: there is no pytest: {sys.executable} -m pip install pytest", file=sys.stderr)
        return 1
    env = environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MPIHPC_TEST_DEVICE": "gpu"}
    source = package()
    if source is None:
        print(_BUILD.format(version=platform.python_version(), python=sys.executable), file=sys.stderr)
        return 1
    paths = [*source, str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)

    seen = look(env)
    jobs = [job for job in plan(env, options.k) if job.part in options.only]
    outcomes: list[tuple[Job, Outcome]] = []
    benchmark: Any = None
    for job in jobs:
        outcome = Outcome(job.name)
        if seen["why_not"] or (job.transport == "direct" and not seen["mpi_says_direct"]):
            outcome.skipped = job.count
            outcome.problem = "no GPU" if seen["why_not"] else "the MPI library does not say that it can"
        elif job.part == "benchmark":
            benchmark = measure(job, outcome, env)
        else:
            (run_tests if job.part in FILES else run_program)(job, outcome, env, options.k)
        outcomes.append((job, outcome))

    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z",
        "gpu": seen,
        "python": platform.python_version(),
        "jobs": [asdict(job) | asdict(outcome) for job, outcome in outcomes],
        "benchmark": benchmark,
    }
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(report, indent=2) + "\n")
    return tell([outcome for _, outcome in outcomes], seen, options.report)


def package() -> list[str] | None:
    """Where to look for a package that is built for this Python: in the sources, or where it is installed."""
    found = subprocess.run(
        [sys.executable, "-c", "import importlib.util as u; s = u.find_spec('mpihpc'); print(s.origin if s else '')"],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    installed = found.stdout.strip()
    for folder, path in ((ROOT / "src/mpihpc", [str(ROOT / "src")]), (Path(installed or "/none").parent, [])):
        if any((folder / f"_core{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
            return path
    return None


def look(env: dict[str, str]) -> dict[str, Any]:
    """What the doctor sees of GPUs, in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOOK], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120
        )
    except subprocess.TimeoutExpired:
        return {"why_not": "CUDA did not answer within 120 s", "mpi_says_direct": False, "broken": True}
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"why_not": f"looking for GPUs failed: {why}", "mpi_says_direct": False, "broken": True}
    return json.loads(done.stdout.splitlines()[-1])


def plan(env: dict[str, str], selection: str | None) -> list[Job]:
    """All jobs, with as many tests as there are."""
    counts = {}
    for part, file in FILES.items():
        command = [*pytest(file, selection), "--collect-only", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
        counts[part] = len([line for line in done.stdout.splitlines() if "::" in line and not line.startswith("ERROR")])
        if done.returncode not in (0, 5):
            print(done.stdout + done.stderr)
            raise SystemExit(f"tests.gpu: error: {file} cannot be read, see above")
    jobs = [Job("kernels", 1, "no messages", counts["kernels"])]
    for transport in ("staged", "direct"):
        for ranks in (1, 2):
            jobs.append(Job("arrays", ranks, transport, counts["arrays"]))
            if not selection:
                jobs += [Job("program", ranks, transport, 1, run) for run in RUNS]
    return jobs + ([] if selection else [Job("benchmark", 1, "auto", 1)])


def pytest(file: str, selection: str | None) -> list[str]:
    command = [sys.executable, "-m", "mpi4py", "-m", "pytest", "-c", "tests/gpu/pytest.ini", f"--rootdir={ROOT}"]
    return [*command, "--noconftest", file, *(["-k", selection] if selection else [])]


def ranks(n: int) -> list[str]:
    """The launcher; one rank needs none where there is none."""
    try:
        return [mpirun(), "-n", str(n)]
    except SystemExit:
        if n == 1:
            return []
        raise


def run_tests(job: Job, outcome: Outcome, env: dict[str, str], selection: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="mpihpc-gpu-") as folder:
        command = [*pytest(FILES[job.part], selection), "-q", "--color=no"]
        code = started(job, outcome, command, env | {REPORT: folder})
        counts = Path(folder, "counts.json")
        if counts.exists():
            for name, found in json.loads(counts.read_text()).items():
                setattr(outcome, name, found)
        else:  # what the ranks wrote may tell why
            for log in sorted(Path(folder).glob("rank-*.log")):
                print(f"---- the end of {log.stem}", *log.read_text().splitlines()[-40:], sep="\n")
    ran = outcome.passed + outcome.failed + outcome.skipped
    if not outcome.problem and (code or ran != job.count or outcome.skipped):
        outcome.problem = f"{ran} of {job.count} tests ran, {outcome.skipped} skipped; exit code {code}"
        outcome.problem = "" if outcome.failed and ran == job.count else outcome.problem
    if outcome.problem:
        outcome.failed = max(outcome.failed, 1)


def run_program(job: Job, outcome: Outcome, env: dict[str, str], _: str | None) -> None:
    """The result of the program has the bits that it has on the CPU, SciPy agrees, and a file brings it back."""
    said = []
    with tempfile.TemporaryDirectory(prefix="mpihpc-gpu-") as folder:
        file = str(Path(folder, "result.h5"))
        run = shlex.split(job.run)
        for arguments in (
            [*run, "--device", "gpu", "--verify", "--output", file],
            [*run, "--device", "cpu"],
            ["--input", file, "--steps", "0", "--device", "gpu"],
        ):
            with Path(folder, "said").open("w+") as out:
                started(job, outcome, ["-m", "mpihpc.stencil", *arguments, "--json"], env, out)
                out.seek(0)
                said.append(out.read())
    if not outcome.problem:
        results = [json.loads(text[text.index("{") :].splitlines()[0]) for text in said]
        sums = [result["checksum"] for result in results]
        devices = [result["device"] for result in results]
        if devices != ["gpu", "cpu", "gpu"] or len(set(sums)) > 1:
            found = ", ".join(f"{device}: checksum {one}" for device, one in zip(devices, sums, strict=True))
            outcome.problem = f"{found} (computed, on the CPU, from its file)"
    outcome.passed, outcome.failed = (0, 1) if outcome.problem else (1, 0)


def measure(job: Job, outcome: Outcome, env: dict[str, str]) -> Any:
    """The benchmark; what it wants and does not see is told, and is no failure."""
    begin = time.time()
    started(job, outcome, ["-m", "benchmarks.gpu", "--save"], env)
    files = [file for file in (ROOT / "benchmarks/results").glob("gpu-*.json") if file.stat().st_mtime >= begin]
    if not files and not outcome.problem:
        outcome.problem = "it wrote nothing"
    outcome.passed, outcome.failed = (0, 1) if outcome.problem else (1, 0)
    return json.loads(files[0].read_text()) if files else None


def started(job: Job, outcome: Outcome, command: Sequence[str], env: dict[str, str], out: Any = None) -> int | None:
    """Run a job; what went wrong is the outcome's problem."""
    python = [] if command[0] == sys.executable else [sys.executable]
    try:
        whole = [*ranks(job.ranks), *python, *command]
    except SystemExit as error:
        outcome.problem = str(error)
        return 1
    print(f"\n==== {job.transport}: {shlex.join(whole)}", flush=True)
    if job.transport in ("direct", "staged"):
        env = env | {"MPIHPC_GPU_TRANSPORT": job.transport}
    begin = time.monotonic()
    code = run_limited(whole, env, LIMITS[job.part], out)
    outcome.seconds += time.monotonic() - begin
    if code is None:
        outcome.problem = f"ended after the limit of {LIMITS[job.part]} s"
    elif code and job.part not in FILES:
        outcome.problem = f"exit code {code}"
    return code


def tell(outcomes: list[Outcome], seen: dict[str, Any], file: Path) -> int:
    """The table; returns the exit code."""
    width = max([0, *(len(str(o.job)) for o in outcomes)])
    print(f"\n{'':{width}} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for o in outcomes:
        print(f"{o.job!s:{width}} {o.passed:7} {o.failed:7} {o.skipped:8} {o.seconds:8.1f}  {o.problem}")
        for test, lines in o.failures.items():
            print(f"{'':{width}} {test}: {' '.join(lines)[:160]}")
    if seen["why_not"]:
        print(f"no GPU: {seen['why_not']}")
    else:
        print(f"{len(seen['devices'])} x {seen['devices'][0]}, driver {seen['driver']}, CuPy {seen['cupy']}")
    passed, failed, skipped = (sum(getattr(o, n) for o in outcomes) for n in ("passed", "failed", "skipped"))
    print(f"report: {file}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed or seen.get("broken") else 0


if __name__ == "__main__":
    sys.exit(main())
