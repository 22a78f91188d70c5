"""Files that others look at while a job writes them, and files that hold other things beside its result."""

import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from suite import end, environment, mpirun

GROWING = ("-m", "mpihpc.stencil", "--shape", "300", "300", "--steps", "300", "--every", "10", "--output", "grow.h5")


@pytest.mark.parametrize("n", [1, 3])
def test_a_reader_with_locks_does_not_end_the_job(tmp_path, n):
    """It opens, holds and closes the growing file, as a notebook does, and sees whole snapshots only."""
    command = [mpirun(), "-n", str(n), sys.executable, *GROWING]
    job = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen = held = 0
    limit = time.monotonic() + 60
    try:
        while job.poll() is None and time.monotonic() < limit:
            for file in tmp_path.glob("grow.h5.*.partial"):
                try:
                    with h5py.File(file, "r", locking=True) as h5:
                        held += 1
                        for k in range(len(h5["t"])):
                            seen += 1
                            assert np.isfinite(h5["data"][k]).all() and h5["data"][k].any()
                        time.sleep(0.05)
                except (OSError, KeyError, RuntimeError):  # it is being written
                    pass
            time.sleep(0.02)
        assert job.wait(10) == 0, job.stderr.read()
    finally:
        end(job)
    assert held and seen
    with h5py.File(tmp_path / "grow.h5") as h5:
        assert list(h5["t"]) == list(range(0, 301, 10))


def survey(file):
    """A file of others; returns what it holds."""
    with h5py.File(file, "w") as h5:
        h5["raw"] = np.random.default_rng(1).random((20, 20))
        h5["other/mask"] = np.arange(3)
        h5.attrs["title"] = "survey"
    return file.read_bytes()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ["smooth", "raw", "other/smooth"])
def test_a_result_beside_its_input(launch, tmp_path, n, name):
    """Also in its place: who names the input as the output says so."""
    survey(tmp_path / "a.h5")
    for every in ((), ("--every", "1")):
        command = ("-m", "mpihpc.stencil", "--input", "a.h5:raw", "--steps", "2", "--output")
        output = f"a.h5:{name}" if not every else "a.h5:run/snapshots"
        done = launch(n, *command, output, *every)
        assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "a.h5") as h5:
        assert h5.attrs["title"] == "survey" and list(h5["other/mask"]) == [0, 1, 2]
        assert h5[name].shape == (20, 20) and "raw" in h5 and h5["run/snapshots"].shape == (3, 20, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (("a.h5:other",), "it is a group there"),
        (("a.h5:raw/x",), "'raw' is no group there"),
        (("text.h5:x",), "it is no HDF5 file"),
        (("cut.h5:x",), "it cannot be opened"),
        (("axis.h5:u", "--every", "1000000"), "'t', the name of an axis, is there"),
    ],
)
def test_what_cannot_be_added_is_said_before_the_work(launch, tmp_path, output, says):
    whole = survey(tmp_path / "a.h5")
    (tmp_path / "cut.h5").write_bytes(whole[:-500])
    (tmp_path / "text.h5").write_text("no HDF5\n" * 100)
    with h5py.File(tmp_path / "axis.h5", "w") as h5:
        h5["t"] = np.arange(3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = launch(3, "-m", "mpihpc.stencil", "--shape", "4096", "4096", "--steps", "1000000", "--output", *output)
    assert done.returncode == 2 and len(done.lines) == 1 and says in done.lines[0], done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


KILLED = """
import os, signal, sys
import mpihpc
from mpihpc.io import writing

when, u = sys.argv[1], mpihpc.ones((300, 300))
real = getattr(writing, when, None)

def killed(*args, **kwargs):
    if when != "sync":
        real(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(writing, when, killed)
mpihpc.io.write("a.h5", u, "raw")
"""


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("when", ["copy", "remove", "create_dataset", "fill", "sync"])
def test_a_kill_leaves_the_old_file(launch, tmp_path, when, n):
    """The process dies after this step, as by kill -9."""
    before = survey(tmp_path / "a.h5")
    (tmp_path / "script.py").write_text(KILLED)
    done = launch(n, "script.py", when)
    assert done.returncode != 0
    assert (tmp_path / "a.h5").read_bytes() == before
    left = {path.name for path in tmp_path.iterdir()} - {"a.h5", "script.py"}
    assert len(left) == 1 and left.pop().startswith("a.h5.")
