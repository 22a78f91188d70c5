"""Snapshots and compression through the program, and what is left of them when it is killed."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from scipy import ndimage

from suite import end, environment, mpirun, ranks_of

STENCIL = ("-m", "mpihpc.stencil")
HEAT = np.array([[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]])


def evolved(shape, steps):
    """The program's own beginning, advanced by SciPy."""
    u = np.zeros(shape)
    u[tuple(slice(n // 4, n - n // 4) for n in shape)] = 1
    for _ in range(steps):
        u = ndimage.correlate(u, HEAT, mode="reflect")
    return u


@pytest.mark.parametrize("compress", [[], ["--compress", "gzip"], ["--compress", "gzip:9"]])
@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_snapshots(launch, tmp_path, ranks, compress):
    command = ("--shape", "37", "23", "--steps", "10", "--every", "4", "--output", "out.h5:run/u", "--verify", "--json")
    done = launch(ranks, *STENCIL, *command, *compress)
    assert (done.returncode, done.lines) == (0, []), done
    assert os.listdir(tmp_path) == ["out.h5"]
    with h5py.File(tmp_path / "out.h5") as h5:
        u = h5["run/u"]
        assert list(h5["run/t"]) == [0, 4, 8, 10]
        assert u.dims[0]["t"] == h5["run/t"] and [d.label for d in u.dims] == ["t", "y", "x"]
        assert u.maxshape == (None, 37, 23) and u.compression == ("gzip" if compress else None)
        for plane, steps in zip(u, (0, 4, 8, 10), strict=True):
            np.testing.assert_allclose(plane, evolved((37, 23), steps), rtol=1e-13, atol=1e-15)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["verify_error"] <= 1e-12
    exchanges = sum(math.ceil(steps / result["fuse"]) for steps in (4, 4, 2))
    assert result["messages_per_rank_max"] % exchanges == 0  # those of the steps alone, not what writing needs


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_compressed_result(launch, tmp_path, ranks):
    for name, options in [("plain.h5", []), ("packed.h5", ["--compress", "gzip:6"])]:
        done = launch(ranks, *STENCIL, "--shape", "600", "500", "--steps", "3", "--output", name, *options)
        assert (done.returncode, done.lines) == (0, []), done
    with h5py.File(tmp_path / "plain.h5") as plain, h5py.File(tmp_path / "packed.h5") as packed:
        assert np.array_equal(plain["data"][:], packed["data"][:])
        assert packed["data"].chunks == (300, 250)  # the same for any number of ranks
    assert os.path.getsize(tmp_path / "packed.h5") < os.path.getsize(tmp_path / "plain.h5") / 5


@pytest.mark.parametrize("compress", [[], ["--compress", "gzip:1"]])
def test_whole_snapshots_survive_kill_9(tmp_path, compress):
    command = ["--shape", "400", "300", "--steps", "1000000", "--every", "2", "--output", "out.h5", "--quiet"]
    job = subprocess.Popen(
        [mpirun(), "-n", "3", sys.executable, *STENCIL, *command, *compress],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*.partial")):
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.02)
        time.sleep(3)  # the size does not tell: space is reserved
        os.kill(ranks_of(job.pid)[1], signal.SIGKILL)
        assert job.wait(10) != 0
    finally:
        end(job)
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith("out.h5.")
    with h5py.File(partial) as h5:
        t = h5["t"][:]
        assert len(t) > 3 and list(t) == list(range(0, 2 * len(t), 2))
        for k in (0, 1, len(t) - 1):
            np.testing.assert_allclose(h5["data"][k], evolved((400, 300), int(t[k])), rtol=1e-11, atol=1e-13)
