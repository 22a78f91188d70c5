"""What programs read: parts, packed values, snapshots, and names of every kind."""

import json
import os

import h5py
import numpy as np
import pytest


def result(folder, name="out.h5"):
    with h5py.File(folder / name) as f:
        return f["data"][()]


@pytest.fixture
def stencil(launch):
    def run(n, *arguments, code=0, **options):
        done = launch(n, "-m", "mpihpc.stencil", *arguments, **options)
        assert done.returncode == code, done.stderr
        if code:
            assert len(done.stderr.strip().splitlines()) == 1 or "prterun" in done.stderr, done.stderr
        return done.stderr if code else done.stdout

    return run


@pytest.fixture
def packed(tmp_path):
    """A packed dataset; returns its values."""
    cells = np.arange(60, dtype="i2").reshape(3, 4, 5)
    with h5py.File(tmp_path / "packed", "w") as f:  # no suffix
        f["t2m"] = cells
        f["t2m"].attrs.update(scale_factor=0.5, units="K")
    return cells * 0.5


@pytest.mark.parametrize("n", [1, 3])
def test_a_part_and_its_values(stencil, packed, tmp_path, n):
    arguments = ["--input", "packed:t2m", "--kernel", "identity", "--output", "out.h5", "--quiet"]
    stencil(n, *arguments, "--slice", "-1,:,::2")
    assert np.array_equal(result(tmp_path), packed[-1, :, ::2])
    stencil(n, *arguments, "--slice=1", "--raw", "--dtype", "float32")
    assert np.array_equal(result(tmp_path), packed[1] * 2)


def test_bad_parts(stencil, packed, tmp_path):
    for part, text in [
        ("3", "index 3 is out of range for axis 0 of length 3"),
        ("::-1", "step -1 on axis 0: use 1 or more"),
        ("0,0,0", "one cell of 3 axes"),
        ("a", "neither an index nor a slice"),
    ]:
        line = stencil(1, "--input", "packed:t2m", f"--slice={part}", "--output", "out.h5", code=2)
        assert text in line and not (tmp_path / "out.h5").exists()
    assert "--input FILE" in stencil(1, "--slice=0", code=2)


@pytest.mark.parametrize("n", [1, 3])
def test_snapshots_are_no_array(stencil, launch, tmp_path, n):
    stencil(n, "--shape", "20", "20", "--steps", "4", "--every", "2", "--output", "run.h5", "--quiet")
    with h5py.File(tmp_path / "run.h5") as f:
        last = f["data"][-1]
    for part in ([], ["--slice", "0:2"], ["--slice", "..."]):
        line = stencil(n, "--input", "run.h5:data", *part, "--output", "out.h5", code=2)
        assert "holds 3 snapshots along t" in line and "--slice=-1" in line and not (tmp_path / "out.h5").exists()
    stencil(n, "--input", "run.h5:data", "--slice", "-1", "--kernel", "identity", "--output", "out.h5", "--quiet")
    assert np.array_equal(result(tmp_path), last)
    done = launch(n, "-m", "mpihpc.matmul", "--a", "run.h5:data", "--b", "run.h5:data", "--slice-a", "0")
    assert done.returncode == 2 and "snapshots" in done.stderr


def test_parts_of_matrices(launch, tmp_path):
    cube = np.random.default_rng(3).integers(-4, 4, (2, 6, 7)).astype(float)
    np.save(tmp_path / "cube.npy", cube)
    arguments = [
        "--a",
        "cube.npy",
        "--b",
        "cube.npy",
        "--slice-a",
        "0,:,1:",
        "--slice-b=-1,:,::3",
        "--output",
        "out.h5",
    ]
    done = launch(2, "-m", "mpihpc.matmul", *arguments)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(result(tmp_path), cube[0, :, 1:] @ cube[-1, :, ::3])


@pytest.mark.parametrize("timeout", [[], ["--timeout", "50"]])
def test_names_that_are_not_utf8(stencil, tmp_path, timeout):
    name = os.fsdecode(b"gr\xf6\xdfe:1")
    with h5py.File(tmp_path / name, "w") as f:
        d = h5py.h5d.create(f.id, b"h\xf6he", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((8, 9)))
        d.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((8, 9)))
        h5py.Dataset(d).attrs.create("units", b"\xb0C", dtype=h5py.string_dtype("ascii"))
    env = {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"}
    wanted = f"{name}:{os.fsdecode(bytes([104, 0xF6, 104, 101]))}"
    out = stencil(2, "--input", wanted, "--steps", "1", "--output", "out.h5", "--json", *timeout, env=env)
    assert json.loads(out.splitlines()[-1])["shape"] == [8, 9] and result(tmp_path).shape == (8, 9)


def test_a_link_to_a_pipe_does_not_hang(stencil, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["x"], f["y"] = h5py.ExternalLink("pipe", "/x"), np.ones((5, 5))
    assert "not a regular file" in stencil(2, "--input", "a.h5:x", code=2)
    stencil(2, "--input", "a.h5", "--steps", "1", "--quiet")
