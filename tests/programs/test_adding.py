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
