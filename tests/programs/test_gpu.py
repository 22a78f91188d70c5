"""``python -m tests.gpu`` without a GPU: nothing passes, all is counted; jobs that die are failures. And emulated."""

import importlib
import json
import os
import re
import sys

import pytest

from mpihpc.core.gpu import why_not
from suite import ROOT, Outcome, environment

PARTS = ("kernels", "arrays", "program", "benchmark")


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("tests.gpu.__main__")


def test_without_a_gpu(launch, tmp_path):
    if not why_not():
        pytest.skip("there is a GPU: run python -m tests.gpu")
    done = launch(0, "-m", "tests.gpu", "--report", tmp_path / "report.json", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    *_, said, _, last = done.stdout.splitlines()
    assert said == f"no GPU: {why_not()}"
    skipped = int(re.fullmatch(r"0 passed, 0 failed, (\d+) skipped", last)[1])
    jobs = json.loads((tmp_path / "report.json").read_text())["jobs"]
    assert {job["part"]: job["count"] for job in jobs}.keys() == set(PARTS)
    assert skipped == sum(job["skipped"] for job in jobs) == sum(job["count"] for job in jobs) > 150
    assert not any(job["passed"] or job["failed"] for job in jobs)


EMULATED = ROOT / "tests/emulated"
SELECTION = (
    "lanes or mail or current_stream or launch or evolve and heat or many_steps and wrap or leapfrog or bytes "
    "or reductions and f8 or products and f4"
)


def emulated(monkeypatch):
    if not why_not():
        pytest.skip("there is a GPU: run python -m tests.gpu")
    path = os.pathsep.join([str(EMULATED), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.removesuffix(os.pathsep))


def test_on_an_emulated_gpu(launch, tmp_path, monkeypatch):
    """The code that calls CuPy, in streams that do nothing before they must, with kernels compiled for this machine."""
    emulated(monkeypatch)
    report = tmp_path / "report.json"
    done = launch(
        0, "-m", "tests.gpu", "--only", "kernels", "arrays", "-k", SELECTION, "--report", report, cwd=ROOT, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert found["gpu"]["devices"] == ["no GPU, emulated"]
    for job in found["jobs"]:
        assert job["count"] >= 5 and (job["skipped"] if job["transport"] == "direct" else job["passed"]) == job["count"]


@pytest.mark.parametrize("transport", ["staged", "direct"])
def test_the_program_on_an_emulated_gpu(launch, monkeypatch, transport):
    """Both transports have the bits of the CPU; where a device has memory that this process sees, MPI takes it."""
    emulated(monkeypatch)
    monkeypatch.setenv("MPIHPC_GPU_TRANSPORT", transport)
    command = "-m mpihpc.stencil --shape 60 71 --steps 9 --mode wrap --dtype float32 --verify --json --device"
    sums = []
    for device in ("gpu", "cpu"):
        done = launch(2, *command.split(), device)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout[done.stdout.index("{") :].splitlines()[0])
        assert result["device"] == device
        advice = "start as many ranks on a node as it has GPUs"
        shared = [f"mpihpc.stencil: warning: 2 ranks share 1 GPU: {advice}"] if device == "gpu" else []
        assert done.lines == shared
        sums.append(result["checksum"])
    assert sums[0] == sums[1]


def test_without_the_compiled_part(program, monkeypatch, capsys):
    monkeypatch.setattr(program, "EXTENSION_SUFFIXES", [])
    monkeypatch.setattr(sys, "argv", ["tests.gpu"])
    assert program.main() == 1
    said = capsys.readouterr().err
    assert "the compiled part of mpihpc is missing" in said and "cmake --build" in said


def test_without_pytest(program, monkeypatch, capsys):
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["tests.gpu"])
    assert program.main() == 1
    assert "there is no pytest" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body, passed, failed, problem",
    [
        ("pass", 2, 0, ""),
        ("assert rank == 0, 'the other one'", 1, 1, ""),
        ("import pytest; pytest.skip('no')", 1, 1, "2 of 2 tests ran, 1 skipped; exit code 0"),
        ("import os; rank and os.kill(os.getpid(), 9)", 0, 1, "0 of 2 tests ran"),
        ("import time; rank and time.sleep(60)", 0, 1, "ended after the limit of 5 s"),
    ],
)
def test_a_job(program, monkeypatch, tmp_path, body, passed, failed, problem):
    """On two ranks, with pytest alone."""
    file = tmp_path / "test_sample.py"
    file.write_text(
        "from mpi4py import MPI\nrank = MPI.COMM_WORLD.rank\n"
        f"def test_first():\n    pass\ndef test_second():\n    {body}\n"
    )
    monkeypatch.setitem(program.FILES, "arrays", str(file))
    monkeypatch.setitem(program.LIMITS, "arrays", 5 if "sleep" in body else 60)
    env = environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    job, outcome = program.Job("arrays", 2, "staged", 2), Outcome("arrays")
    program.run_tests(job, outcome, env, None)
    assert (outcome.passed, outcome.failed) == (passed, failed)
    assert outcome.problem.startswith(problem) and bool(outcome.problem) == bool(problem)
    if "assert" in body:
        ((test, said),) = outcome.failures.items()
        assert test.endswith("::test_second") and said == ["AssertionError: the other one"]
