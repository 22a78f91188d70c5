"""What goes wrong in the middle: the job ends, soon and with a reason, and the old result is still there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from suite import end, environment, mpirun, ranks_of

STENCIL = ("-m", "mpihpc.stencil")

# Runs the program after this source: to break one rank of it.
PROGRAM = """
import runpy, sys
sys.argv[0] = "mpihpc.stencil"
runpy.run_module("mpihpc.stencil", run_name="__main__", alter_sys=True)
"""
LIMITED = """
import resource
from mpi4py import MPI
import matplotlib.font_manager
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
"""


def write_old(file):
    """An old result, and its bytes."""
    with h5py.File(file, "w") as f:
        f["data"] = np.arange(12.0)
    return file.read_bytes()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; test_file_too_large needs no mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def one_line(done, *says):
    """The failure is told in one line, on rank 0 alone."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.lines) == 1, done.stderr
    assert done.lines[0].startswith("mpihpc.stencil: error: ")
    for words in says:
        assert words in done.lines[0]


@pytest.mark.parametrize("n", [1, 3])
def test_disk_full(launch, small_disk, n):
    old = write_old(small_disk / "out.h5")
    done = launch(n, *STENCIL, "--shape", "1024", "1024", "--steps", "2", "--output", "disk/out.h5")
    one_line(done, "disk/out.h5", "No space left", "free some")
    assert [p.name for p in small_disk.iterdir()] == ["out.h5"]
    assert (small_disk / "out.h5").read_bytes() == old
    # What fits goes on working.
    assert launch(n, *STENCIL, "--shape", "64", "64", "--steps", "2", "--output", "disk/out.h5").returncode == 0
    with h5py.File(small_disk / "out.h5") as f:
        assert f["data"].shape == (64, 64)


def test_disk_full_new_file(launch, small_disk):
    done = launch(3, *STENCIL, "--shape", "1024", "1024", "--steps", "2", "--output", "disk/out.h5")
    one_line(done, "disk/out.h5")
    assert list(small_disk.iterdir()) == []


def test_disk_full_before_anything(launch, small_disk):
    """Not even the empty file has room."""
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - 4096))
    done = launch(3, *STENCIL, "--shape", "64", "64", "--steps", "2", "--output", "disk/out.h5")
    one_line(done, "disk/out.h5")
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("n", [1, 3])
def test_file_too_large(launch, tmp_path, n):
    """The limit on a file's size stands for a full disk where nothing may be mounted."""
    old = write_old(tmp_path / "out.h5")
    command = ("--shape", "1024", "1024", "--steps", "2", "--output", "out.h5")
    one_line(launch(n, "-c", LIMITED.format(1 << 20) + PROGRAM, *command), "out.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert (tmp_path / "out.h5").read_bytes() == old


@pytest.mark.parametrize("n", [1, 3])
def test_no_room_for_the_picture(launch, tmp_path, n):
    (tmp_path / "out.png").write_bytes(b"old")
    command = ("--shape", "100", "100", "--steps", "2", "--plot", "out.png")
    one_line(launch(n, "-c", LIMITED.format(4096) + PROGRAM, *command), "out.png", "File too large")
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"old"


@pytest.mark.parametrize("n", [1, 3])
def test_not_enough_memory(launch, tmp_path, n):
    """8 PB: more than a process can address, however freely the system promises memory."""
    old = write_old(tmp_path / "out.h5")
    done = launch(n, *STENCIL, "--shape", "1000000000", "1000000", "--steps", "1", "--output", "out.h5")
    one_line(done, "memory")
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert (tmp_path / "out.h5").read_bytes() == old


def ends_with_traceback(launch, n, *command, rank, words, **options):
    """The job ends within seconds, with the traceback of one rank alone."""
    begin = time.monotonic()
    done = launch(n, *command, timeout=30, **options)
    assert time.monotonic() - begin < 15
    assert done.returncode not in (0, 2)
    assert done.stderr.count("Traceback (most recent call last):") == 1
    assert words in done.stderr
    assert f"rank {rank} of {n}" in done.stderr


def test_exception_in_a_script(launch, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from mpi4py import MPI\n"
        "import mpihpc\n"
        "u = mpihpc.zeros((8, 8))\n"
        "if MPI.COMM_WORLD.rank == 1:\n"
        "    raise RuntimeError('rank 1 stumbles')\n"
        "u.checksum()\n"  # the others wait here
    )
    ends_with_traceback(launch, 3, "script.py", rank=1, words="RuntimeError: rank 1 stumbles")
    ends_with_traceback(launch, 3, "-m", "mpi4py", "script.py", rank=1, words="RuntimeError: rank 1 stumbles")


def test_agreed_exception_in_a_script(launch, tmp_path):
    """All ranks raise the same: one traceback, of rank 0."""
    (tmp_path / "script.py").write_text(
        "import mpihpc\nmpihpc.io.read('missing.h5')\n",
    )
    done = launch(3, "script.py")
    assert done.returncode != 0
    assert done.stderr.count("Traceback (most recent call last):") <= 2  # a cause is a traceback too
    assert done.stderr.count("FileNotFoundError: missing.h5: No such file or directory") == 1


@pytest.mark.parametrize("error", ["ZeroDivisionError", "ValueError", "OSError", "SystemError"])
def test_exception_in_the_program(launch, tmp_path, error):
    """One rank's kernel fails in the third step, with an error that bad input could have raised, too."""
    old = write_old(tmp_path / "out.h5")
    broken = f"""
from mpi4py import MPI
from mpihpc.kernels import cpu
def advance(*args, calls=[], real=cpu.advance, **options):
    calls.append(1)
    if MPI.COMM_WORLD.rank == 1 and len(calls) == 3:
        raise {error}("the kernel is broken")
    return real(*args, **options)
cpu.advance = advance
"""
    command = ("-c", broken + PROGRAM, "--shape", "64", "64", "--output", "out.h5")
    ends_with_traceback(launch, 3, *command, rank=1, words=f"{error}: the kernel is broken")
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert (tmp_path / "out.h5").read_bytes() == old


def test_exception_on_the_only_rank(launch):
    broken = "import mpihpc.kernels.cpu as cpu\ncpu.advance = lambda *a, **b: 1 / 0\n"
    done = launch(1, "-c", broken + PROGRAM, "--shape", "8", "8")
    assert done.returncode == 1
    assert done.stderr.count("ZeroDivisionError: division by zero") == 1


def test_wrong_result_is_found(launch, tmp_path):
    """--verify notices a kernel that is off by a little in one cell; nothing is written."""
    old = write_old(tmp_path / "out.h5")
    broken = """
from mpi4py import MPI
from mpihpc.kernels import cpu
def advance(padded, out, *args, real=cpu.advance, **options):
    real(padded, out, *args, **options)
    if MPI.COMM_WORLD.rank == 1:
        out[1, 2] += 1e-10
cpu.advance = advance
"""
    command = (
        "-c",
        broken + PROGRAM,
        "--shape",
        "64",
        "64",
        "--steps",
        "1",
        "--verify",
        "--output",
        "out.h5",
    )
    one_line(launch(3, *command), "differs from NumPy")
    assert (tmp_path / "out.h5").read_bytes() == old


# Every rank would compute everything and write the same file: a launcher of another MPI.
@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_launcher_of_another_mpi(launch, tmp_path, name):
    others = {"OMPI_COMM_WORLD_SIZE": None, "PMI_SIZE": None, "SLURM_STEP_NUM_TASKS": None}
    others["PYTHONWARNINGS"] = "ignore::RuntimeWarning"  # mpi4py says that MPICH has no use for Open MPI's variables
    done = launch(0, *STENCIL, "--shape", "8", "--output", "out.h5", env={**others, name: "4"})
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.lines) == 1
    assert done.lines[0].startswith("mpihpc.stencil: error: ")
    for words in ("4 ranks", name, "1", "MPI"):
        assert words in done.lines[0]
    assert list(tmp_path.iterdir()) == []


def test_launcher_of_another_mpi_second_rank(launch):
    """Four processes, one explanation."""
    done = launch(0, *STENCIL, "--shape", "8", env={"PMI_SIZE": "4", "PMI_RANK": "1"})
    assert (done.returncode, done.stdout, done.lines) == (2, "", [])


def test_serial_program_in_a_batch_script(launch):
    """Slurm sets SLURM_NTASKS for what runs outside srun, too."""
    assert launch(0, *STENCIL, "--shape", "8", env={"SLURM_NTASKS": "4"}).returncode == 0


def written(pid):
    """Bytes a process has written so far."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split("wchar: ")[1].split()[0])
    except (OSError, IndexError):
        return 0


@pytest.mark.parametrize("victim", [0, 1])
def test_kill_in_the_middle_of_a_write(launch, tmp_path, victim):
    """kill -9 of one rank while all write: the job ends within 10 s, and the old result still opens."""
    old = write_old(tmp_path / "out.h5")
    nbytes = 8192 * 8192 * 8
    command = [mpirun(), "-n", "3", sys.executable, *STENCIL, "--shape", "8192", "8192", "--steps", "1"]
    job = subprocess.Popen(
        [*command, "--output", "out.h5"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        ranks = {}
        deadline = time.monotonic() + 60
        while job.poll() is None and time.monotonic() < deadline:
            partial = next(tmp_path.glob("out.h5.*partial"), None)
            if partial is None:
                time.sleep(0.01)
                continue
            ranks = ranks or ranks_of(job.pid)
            done = sum(map(written, ranks.values()))
            if done > nbytes // 20:
                break
            time.sleep(0.001)
        assert len(ranks) == 3, f"not the three ranks: {ranks}"
        os.kill(ranks[victim], signal.SIGKILL)
        begin = time.monotonic()
        assert job.wait(10) != 0
        print(f"killed after {done / nbytes:.0%} were written, ended in {time.monotonic() - begin:.1f} s")
        assert done < nbytes, "all had been written: the test came too late"
        assert (tmp_path / "out.h5").read_bytes() == old
        with h5py.File(tmp_path / "out.h5") as f:
            np.testing.assert_array_equal(f["data"], np.arange(12.0))
    finally:
        end(job)
    # A rest under a temporary name disturbs nobody.
    assert launch(2, *STENCIL, "--shape", "64", "64", "--output", "out.h5").returncode == 0
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"].shape == (64, 64)
    for rest in tmp_path.glob("*.partial"):
        rest.unlink()
