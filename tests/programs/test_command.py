"""The command ``mpihpc``, one version for all, and what works where MPI must not start."""

import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pytest

import mpihpc
from mpihpc.programs.command import PROGRAMS

COMMAND = ("-m", "mpihpc")
NO_MPI = {"MPI4PY_RC_INITIALIZE": "0"}
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_lists_the_programs_once(launch, n, arguments):
    done = launch(n, *COMMAND, *arguments)
    assert (done.returncode, done.lines) == (0, [])
    assert done.stdout.count("usage: mpihpc") == 1
    for name in PROGRAMS:
        assert len(re.findall(rf"^  {name} ", done.stdout, re.MULTILINE)) == 1


@pytest.mark.parametrize("n", [0, 3])
def test_a_typo(launch, n):
    done = launch(n, *COMMAND, "stencl", "--steps", "3")
    assert done.returncode == 2
    assert done.lines == [
        "mpihpc: error: unknown program 'stencl': did you mean 'stencil'? (stencil, matmul, view, doctor)"
    ]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_old_and_new_name(launch, name, flag):
    new, old = launch(3, *COMMAND, name, flag), launch(0, "-m", f"mpihpc.{name}", flag)
    assert new.returncode == old.returncode == 0
    assert new.stdout == old.stdout
    assert new.stdout.count("usage:" if flag == "--help" else "mpihpc ") >= 1
    if flag == "--version":
        assert new.stdout == f"mpihpc {mpihpc.__version__}\n"


def test_a_program_runs(launch, tmp_path):
    done = launch(3, *COMMAND, "stencil", "--shape", "20", "20", "--steps", "2", "--output", "out.h5")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.h5").exists()
    assert launch(3, *COMMAND, "stencil", "--shape", "20", "--stops", "2").returncode == 2


def test_a_serial_program_under_mpirun(launch):
    done = launch(2, *COMMAND, "view", "a.npy", "--output", "a.png")
    assert done.returncode == 2
    assert done.lines == ["mpihpc.view: error: mpihpc.view runs in 1 process, the job has 2: start it without mpirun"]


def test_one_version(launch):
    assert launch(0, *COMMAND, "--version").stdout == f"mpihpc {mpihpc.__version__}\n"
    said = [
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("src/**/*.py"), ROOT / "pyproject.toml", ROOT / "CMakeLists.txt"]
        if re.search(rf"version[\W_].*\b{re.escape(mpihpc.__version__)}\b", path.read_text())
    ]
    assert said == ["src/mpihpc/_version.py"]
    assert importlib.metadata.version("mpihpc") == mpihpc.__version__


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize(
    "arguments", [("--version",), ("stencil", "--help"), ("view", "--version"), ("doctor", "--help")]
)
def test_without_mpi(launch, n, arguments):
    done = launch(n, *COMMAND, *arguments, env=NO_MPI)
    assert (done.returncode, done.lines) == (0, [])
    assert done.stdout.count("usage:") <= 1 and done.stdout


def test_import_starts_no_mpi(launch):
    code = "import mpihpc; from mpi4py import MPI; assert not MPI.Is_initialized()"
    assert launch(0, "-c", code, env=NO_MPI).returncode == 0


@pytest.mark.parametrize(
    "command", [("-m", "mpihpc.stencil", "--shape", "8"), ("-c", "import mpihpc; mpihpc.zeros(3)")]
)
def test_what_needs_mpi_says_so(launch, command):
    done = launch(0, *command, env=NO_MPI)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.lines) == 1
    assert "MPI is not initialised" in done.lines[0] and "MPI4PY_RC_INITIALIZE" in done.lines[0]


def test_pictures_without_mpi(launch, tmp_path):
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "a.npy", np.random.default_rng(2).random((30, 30)))
    code = (
        "import sys; from mpihpc.__main__ import main; code = main(sys.argv[1:]); from mpi4py import MPI; "
        "sys.exit(code or MPI.Is_initialized())"
    )
    done = launch(0, "-c", code, "view", "a.npy", "--output", "a.png", env=NO_MPI)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_the_package_says_that_it_is_typed():
    """The wheel takes all files of the folder (`wheel.packages`)."""
    assert Path(mpihpc.__file__).with_name("py.typed").exists()
