"""The harness itself: what fails or hangs on one rank ends for all."""

import re
import shutil
from pathlib import Path

import pytest

import suite

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture
def run_tests(launch, tmp_path):
    """Run a test file under mpirun with this repository's harness."""

    def run(n, source, *options):
        shutil.copy(TESTS / "conftest.py", tmp_path)
        shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
        (tmp_path / "test_sample.py").write_text(source)
        arguments = ["-m", "mpi4py", "-m", "pytest", "--with-mpi", "--color=no", *options, "test_sample.py"]
        return launch(n, *arguments, env={"PYTHONPATH": str(TESTS), "MPIHPC_TEST_REPORT": None})

    return run


def test_failure_on_one_rank_fails_on_all(run_tests):
    done = run_tests(
        3,
        """
def test_one_rank(comm):
    assert comm.rank != 1, "not this one"

def test_next(comm):
    assert comm.allreduce(1) == comm.size

def test_fixture(comm, shared_tmp_path):
    (shared_tmp_path / "x").touch()
""",
    )
    assert done.returncode != 0
    assert done.stdout.count("1 failed, 2 passed") == 1  # rank 0 alone reports
    assert "rank 1 of 3: AssertionError: not this one" in done.stdout
    assert "assert 1 != 1" in done.stdout  # with the source of the rank that failed


def test_skip_on_one_rank_fails_on_all(run_tests):
    done = run_tests(
        2,
        """
import pytest

def test_one_rank(comm):
    if comm.rank == 1:
        pytest.skip("only here")

def test_everywhere(comm):
    pytest.skip("everywhere")
""",
    )
    assert done.returncode != 0
    assert "1 failed, 1 skipped" in done.stdout
    assert "skipped on ranks [1] of 2 only" in done.stdout


def test_different_tests_are_refused(run_tests):
    done = run_tests(
        2,
        """
from mpi4py import MPI

def test_a(): pass

if MPI.COMM_WORLD.rank:
    def test_b(): pass
""",
    )
    assert done.returncode != 0
    assert "the ranks did not collect the same tests" in done.stdout


def test_hang_ends_the_job(run_tests):
    """One rank fails, the other waits for it in a collective: the time limit ends it, the failure is told."""
    done = run_tests(
        2,
        """
def test_hang(comm):
    assert comm.rank != 0, "gone"
    comm.Barrier()
""",
        "--timeout=8",
    )
    assert done.returncode != 0
    assert "rank 0 failed while others still run" in done.stdout
    assert "gone" in done.stdout


def test_mpirun_noise_is_told_apart(launch):
    program = "import sys; from mpi4py import MPI; sys.stderr.write('mine\\n'); sys.exit(3)"
    done = launch(2, "-m", "mpi4py", "-c", program)
    assert done.returncode == 3
    assert done.lines == ["mine", "mine"]


def test_files_of_the_suite():
    """All names are files; what runs on one rank alone knows no communicator; every file runs in the whole suite."""
    named = {*suite.ALONE, *suite.MANY, *suite.SHORT}
    files = {path.stem.removeprefix("test_"): path for path in TESTS.glob("test_*.py")}
    programs = {path.stem.removeprefix("test_") for path in (TESTS / "programs").glob("test_*.py")}
    assert named <= set(files)
    assert set(suite.SHORT_PROGRAMS) <= programs
    for name in suite.ALONE:
        assert not re.search(r"\bcomm\b|shared_tmp_path|^ *(from|import) mpi4py", files[name].read_text(), re.M), name
    assert len(suite.files_of(1)) == len(files)
    assert set(suite.files_of(4)) == {f"tests/test_{name}.py" for name in set(files) - set(suite.ALONE)}


def test_unprivileged_respects_modes(launch, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    done = launch(1, "-c", f"open({str(folder / 'x')!r}, 'w')", unprivileged=True)
    assert done.returncode != 0
    assert "PermissionError" in done.stderr
