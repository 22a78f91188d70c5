"""Names that are not UTF-8, on the command line of a program: kept, or refused before the work."""

import os

import numpy as np
import pytest

FOREVER = "1000000000"  # steps: what is refused after them is not refused in time


@pytest.mark.parametrize("n", [1, 3])
def test_a_dataset_is_refused_before_the_work(launch, tmp_path, n):
    done = launch(n, "-m", "mpihpc.stencil", "--shape", 8, 9, "--steps", FOREVER, "--output", "out.h5:x\udcb0")
    assert done.returncode == 2, done.stderr
    assert (
        "x\\udcb0' is no name for a dataset in out.h5: it is not UTF-8" in " ".join(done.lines) and len(done.lines) == 1
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("n", [1, 3])
def test_files_and_folders_are_kept(launch, tmp_path, n):
    folder = tmp_path / "d\udcb0"
    folder.mkdir()
    np.save(folder / "in\udcb0.npy", np.ones((8, 9)))
    arguments = ["--input", "d\udcb0/in\udcb0.npy", "--output", "d\udcb0/out\udcb0.h5", "--plot", "d\udcb0/p\udcb0.png"]
    done = launch(n, "-m", "mpihpc.stencil", "--steps", 2, "--every", 1, *arguments)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(folder)) == ["in\udcb0.npy", "out\udcb0.h5", "p\udcb0.png"]
