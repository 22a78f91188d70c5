"""The program on good input: right numbers, one file layout, and what a user sees of it."""

import fcntl
import json
import math
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from suite import end, environment, mpirun

STENCIL = ("-m", "mpihpc.stencil")
FIELDS = {
    "shape": list,
    "dtype": str,
    "steps": int,
    "ranks": int,
    "grid": str,
    "threads": int,
    "fuse": int,
    "device": str,
    "seconds": float,
    "seconds_io": float,
    "t_eff_GBps": float,
    "gcells_per_s": float,
    "bytes_sent_per_rank_max": int,
    "messages_per_rank_max": int,
    "checksum": str,
}
PAD = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}
HEAT = np.array([[0, 0.1, 0], [0.1, 0.6, 0.1], [0, 0.1, 0]])


def finished(done):
    """The JSON line of a run that went well."""
    assert done.returncode == 0, done.stderr
    assert done.lines == []
    return json.loads(done.stdout.splitlines()[-1])


def steps_by_hand(u, kernel, steps=1, modes="reflect", cval=0):
    """numpy.pad for the boundary, then one shifted copy per weight."""
    modes = [modes] * u.ndim if isinstance(modes, str) else modes
    half = [n // 2 for n in kernel.shape]
    for _ in range(steps):
        p = u
        for axis, mode in enumerate(modes):
            width = [(half[axis],) * 2 if d == axis else (0, 0) for d in range(u.ndim)]
            p = np.pad(p, width, PAD[mode], **({"constant_values": cval} if mode == "constant" else {}))
        u = sum(
            w * p[tuple(slice(i, i + n) for i, n in zip(at, u.shape, strict=True))] for at, w in np.ndenumerate(kernel)
        )
    return u


def data(file, dataset="data"):
    with h5py.File(file) as f:
        return f[dataset][...]


@pytest.fixture(scope="module")
def elevation():
    """The elevation model that matplotlib ships: a .npz, int16."""
    from matplotlib.cbook import get_sample_data

    return Path(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))


@pytest.fixture
def small(tmp_path):
    """An integer array as small.npy, and the array."""
    a = np.random.default_rng(3).integers(-1000, 1000, (37, 53)).astype(np.int16)
    np.save(tmp_path / "small.npy", a)
    return a


def test_main_job(launch, tmp_path, elevation):
    """The command of the README on 8 ranks, held against SciPy's own Gaussian filter."""
    shutil.copy(elevation, tmp_path / "dem.npz")
    command = "--input dem.npz:elevation --kernel gaussian:2 --steps 50 --mode reflect --output out.h5 --verify"
    done = launch(8, *STENCIL, *command.split(), "--json")
    result = finished(done)
    for name, kind in FIELDS.items():
        assert isinstance(result[name], kind), name
    assert result["shape"] == [344, 403]
    assert (result["dtype"], result["steps"], result["ranks"], result["device"]) == ("float64", 50, 8, "cpu")
    rows, columns = map(int, result["grid"].split("x"))
    assert rows * columns == 8
    assert result["threads"] >= 1
    assert result["seconds"] > 0 and result["seconds_io"] > 0
    rate = 344 * 403 * 50 / result["seconds"] / 1e9
    assert result["gcells_per_s"] == pytest.approx(rate)
    assert result["t_eff_GBps"] == pytest.approx(2 * 8 * rate)
    # A rank sends each neighbour at least its side of the face, at most the whole padded face.
    exchanges, depth = math.ceil(50 / result["fuse"]), 8 * result["fuse"]
    assert exchanges * 3 <= result["messages_per_rank_max"] <= exchanges * 8
    assert 50 * 8 * 8 * 50 < result["bytes_sent_per_rank_max"] < exchanges * depth * 8 * 2 * (344 + 403 + 4 * depth)
    assert re.fullmatch("[0-9a-f]{16}", result["checksum"])
    assert 0 <= result["verify_error"] <= 1e-12

    u = np.load(elevation)["elevation"].astype(float)
    for _ in range(50):
        u = ndimage.gaussian_filter(u, 2, mode="reflect", truncate=4)
    np.testing.assert_allclose(data(tmp_path / "out.h5"), u, rtol=1e-12)
    assert {p.name for p in tmp_path.iterdir()} == {"dem.npz", "out.h5"}


@pytest.mark.parametrize("kernel", ["gaussian:2", "heat"])
def test_checksum_is_the_same_on_any_number_of_ranks(launch, elevation, kernel):
    command = (*STENCIL, "--input", f"{elevation}:elevation", "--kernel", kernel, "--steps", "20", "--json")
    results = [finished(launch(n, *command)) for n in (1, 2, 3, 5, 8)]
    assert len({r["checksum"] for r in results}) == 1
    assert [r["ranks"] for r in results] == [1, 2, 3, 5, 8]
    assert results[0]["bytes_sent_per_rank_max"] == results[0]["messages_per_rank_max"] == 0


def test_grid_and_threads_do_not_show_in_the_result(launch, small):
    command = (*STENCIL, "--input", "small.npy", "--kernel", "gaussian:1", "--steps", "5", "--json")
    results = [finished(launch(4, *command, "--grid", grid)) for grid in ("4x1", "1x4", "2x2")]
    assert [r["grid"] for r in results] == ["4x1", "1x4", "2x2"]
    results += [finished(launch(1, *command, "--threads", threads)) for threads in (1, 3)]
    assert [r["threads"] for r in results[3:]] == [1, 3]
    results += [finished(launch(3, *command, "--fuse", fuse)) for fuse in (1, 4, 64)]
    assert [r["fuse"] for r in results[5:]] == [1, 4, 64]
    results += [finished(launch(3, *command, "--overlap", overlap)) for overlap in ("on", "off")]
    assert len({r["checksum"] for r in results}) == 1


def test_line_by_line_only_where_asked_for(launch, small):
    command = (*STENCIL, "--input", "small.npy", "--kernel", "gaussian:2", "--steps", "3", "--verify", "--json")
    runs = [launch(n, *command, *more) for more in ((), ("--no-exact",)) for n in (1, 3)]
    assert ["lines of 17 + 17" in done.stdout for done in runs] == [False, False, True, True]
    checksums = [json.loads(done.stdout.splitlines()[-1])["checksum"] for done in runs]
    assert checksums[0] == checksums[1] != checksums[2] == checksums[3]


def test_no_arguments(launch, tmp_path):
    done = launch(2, *STENCIL)
    assert (done.returncode, done.lines) == (0, [])
    assert "2 ranks" in done.stdout and "checksum" in done.stdout
    last = done.stdout.splitlines()[-1]
    for words in ("--shape", "--input", "--help"):
        assert words in last
    assert list(tmp_path.iterdir()) == []


def test_without_mpirun(launch):
    assert finished(launch(0, *STENCIL, "--shape", "20", "--json"))["ranks"] == 1


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_told_once(launch, option):
    done = launch(3, *STENCIL, option)
    assert (done.returncode, done.lines) == (0, [])
    if option == "--version":
        assert re.fullmatch(r"mpihpc \d+\.\d+\.\d+\S*\n", done.stdout)
        return
    assert done.stdout.count("usage:") == 1
    options = "shape input kernel steps mode cval dtype grid threads device output plot verify json quiet version"
    for name in options.split():
        assert f"--{name}" in done.stdout


def test_installed_command(launch):
    command = Path(sys.executable).with_name("mpihpc-stencil")
    if not command.exists():
        pytest.skip(f"the package is not installed beside {sys.executable}")
    assert finished(launch(2, command, "--shape", "20", "20", "--json"))["ranks"] == 2
    done = launch(3, command, "--steps", "-1")
    assert done.returncode == 2
    assert len(done.lines) == 1


def test_every_format_gives_the_same(launch, tmp_path, small):
    """One array in many clothes."""
    wide = small.astype(float)
    np.save(tmp_path / "f64.npy", wide)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(wide))
    np.save(tmp_path / "big.npy", wide.astype(">f8"))
    np.save(tmp_path / "int16_big_fortran.npy", np.asfortranarray(small.astype(">i2")))
    np.savez(tmp_path / "plain.npz", z=small)
    np.savez_compressed(tmp_path / "packed.npz", z=wide, other=wide[:2])
    with h5py.File(tmp_path / "all.h5", "w") as f:
        f["f64"] = wide
        f["deep/int16"] = small
        f.create_dataset("big", data=wide.astype(">f8"))
        f.create_dataset("packed", data=small, chunks=(10, 7), compression="gzip", shuffle=True)
    inputs = [
        "small.npy",
        "f64.npy",
        "fortran.npy",
        "big.npy",
        "int16_big_fortran.npy",
        "plain.npz",
        "packed.npz:z",
    ]
    inputs += ["all.h5:f64", "all.h5:/deep/int16", "all.h5:big", "all.h5:packed"]
    checksums = {}
    for name in inputs:
        result = finished(launch(3, *STENCIL, "--input", name, "--kernel", "mean:3", "--json", "--output", "out.h5"))
        assert result["dtype"] == "float64"
        checksums[name] = result["checksum"]
        np.testing.assert_allclose(data(tmp_path / "out.h5"), ndimage.uniform_filter(wide, 3), rtol=0, atol=1e-10)
    assert len(set(checksums.values())) == 1, checksums


@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
def test_dtypes(launch, tmp_path, dtype):
    random = np.random.default_rng(5)
    a = random.standard_normal((23, 31))
    a = (a + 1j * random.standard_normal(a.shape) if dtype.startswith("c") else a).astype(dtype)
    np.save(tmp_path / "in.npy", a)
    command = "--input in.npy --kernel gaussian:1 --steps 4 --mode mirror --output out.h5 --verify --json"
    result = finished(launch(3, *STENCIL, *command.split()))
    assert result["dtype"] == dtype
    oracle = a.astype(complex)
    for _ in range(4):
        parts = [ndimage.gaussian_filter(x, 1, mode="mirror") for x in (oracle.real, oracle.imag)]
        oracle = parts[0] + 1j * parts[1]
    tolerance = 1e-12 if dtype == "complex128" else 4e-6
    out = data(tmp_path / "out.h5")
    assert out.dtype == dtype
    np.testing.assert_allclose(out, oracle, rtol=0, atol=tolerance * np.abs(a).max())


def test_dtype_asked_for(launch, small):
    for dtype in ("float32", "complex128"):
        assert finished(launch(1, *STENCIL, "--input", "small.npy", "--dtype", dtype, "--json"))["dtype"] == dtype


def test_complex_kernel(launch, tmp_path, small):
    """The weights as they are written, not conjugated."""
    command = (
        "--input",
        "small.npy",
        "--kernel",
        "[1j,2,-1]",
        "--mode",
        "wrap",
        "--output",
        "out.h5",
        "--verify",
    )
    assert launch(3, *STENCIL, *command).returncode == 0
    oracle = steps_by_hand(small.astype(complex), np.array([[1j, 2, -1]]), modes="wrap")
    np.testing.assert_array_equal(data(tmp_path / "out.h5"), oracle)


SHAPES = [
    ((97,), "reflect", ["reflect"]),
    ((97,), "constant", ["constant"]),
    ((2,), "periodic", ["wrap"]),  # fewer cells than ranks, and than the kernel reaches
    ((12, 9, 11), "wrap,neumann,dirichlet", ["wrap", "reflect", "constant"]),
    ((12, 9, 11), "grid-mirror", ["reflect"] * 3),
    ((5, 4, 6, 7), "mirror,nearest,constant,wrap", ["mirror", "nearest", "constant", "wrap"]),
]


@pytest.mark.parametrize(("shape", "mode", "modes"), SHAPES, ids=[f"{len(s)}-D {m}" for s, m, _ in SHAPES])
def test_axes_and_modes(launch, tmp_path, shape, mode, modes):
    a = np.random.default_rng(7).standard_normal(shape)
    kernel = np.random.default_rng(8).standard_normal((5, 3, 3, 3)[: len(shape)]) / 9
    np.save(tmp_path / "in.npy", a)
    np.save(tmp_path / "kernel.npy", kernel)
    command = f"--input in.npy --kernel kernel.npy --steps 3 --mode {mode} --cval 1.5 --output out.h5 --verify"
    done = launch(4, *STENCIL, *command.split())
    assert (done.returncode, done.lines) == (0, [])
    oracle = steps_by_hand(a, kernel, 3, modes, 1.5)
    np.testing.assert_allclose(data(tmp_path / "out.h5"), oracle, rtol=0, atol=1e-12 * np.abs(oracle).max())


def test_kernel_list_and_zero_steps(launch, tmp_path, small):
    command = (
        "--input",
        "small.npy",
        "--kernel",
        "[[0,1,0],[1,-4,1],[0,1,0]]",
        "--output",
        "out.h5",
        "--steps",
    )
    assert launch(2, *STENCIL, *command, "1").returncode == 0
    np.testing.assert_array_equal(data(tmp_path / "out.h5"), ndimage.laplace(small.astype(float)))
    assert launch(2, *STENCIL, *command, "0").returncode == 0
    np.testing.assert_array_equal(data(tmp_path / "out.h5"), small)


@pytest.mark.parametrize(
    ("kernel", "oracle"),
    [
        ("identity", lambda a: a),
        ("laplace", ndimage.laplace),
        ("sharpen", lambda a: a - ndimage.laplace(a)),
        ("mean:4", lambda a: ndimage.uniform_filter(a, 4)),
        ("gaussian:1.5", lambda a: ndimage.gaussian_filter(a, 1.5)),
        ("sobel:0", lambda a: ndimage.sobel(a, 0)),
        ("sobel", ndimage.sobel),
        ("heat:0.2", lambda a: a + 0.2 * ndimage.laplace(a)),
    ],
)
def test_named_kernels(launch, tmp_path, small, kernel, oracle):
    command = ("--input", "small.npy", "--kernel", kernel, "--steps", "1", "--output", "out.h5")
    assert launch(2, *STENCIL, *command).returncode == 0
    np.testing.assert_allclose(data(tmp_path / "out.h5"), oracle(small.astype(float)), rtol=0, atol=1e-9)


def test_quiet(launch, tmp_path):
    command = ("--shape", "30", "30", "--quiet", "--output", "out.h5", "--plot", "out.png", "--verify")
    done = launch(3, *STENCIL, *command)
    assert (done.returncode, done.stdout, done.lines) == (0, "", [])
    assert (tmp_path / "out.h5").exists() and (tmp_path / "out.png").exists()
    done = launch(3, *STENCIL, *command, "--json")
    assert done.stdout.count("\n") == 1
    finished(done)


@pytest.mark.parametrize("shape", ["200", "100 150", "2000 1600", "11 60 70"])
def test_plot(launch, tmp_path, shape):
    done = launch(3, *STENCIL, "--shape", *shape.split(), "--steps", "5", "--plot", "out.png")
    assert (done.returncode, done.lines) == (0, [])
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    from matplotlib.image import imread

    assert (tmp_path / "out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = imread(tmp_path / "out.png")[..., :3]
    assert min(image.shape[:2]) > 300
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10  # something is drawn


def test_named_dataset(launch, tmp_path, small):
    done = launch(3, *STENCIL, "--input", "small.npy", "--kernel", "identity", "--output", "out.h5:deep/er/field")
    assert (done.returncode, done.lines) == (0, [])
    np.testing.assert_array_equal(data(tmp_path / "out.h5", "deep/er/field"), small)


def test_result_is_input_again(launch, tmp_path, small):
    """Two runs of 3 and 4 steps give what one of 7 gives; the second one reads what it replaces."""
    command = (*STENCIL, "--kernel", "heat", "--json", "--steps")
    one = finished(launch(3, *command, "7", "--input", "small.npy"))
    finished(launch(2, *command, "3", "--input", "small.npy", "--output", "out.h5"))
    two = finished(launch(3, *command, "4", "--input", "out.h5", "--output", "out.h5"))
    assert one["checksum"] == two["checksum"]
    np.testing.assert_allclose(data(tmp_path / "out.h5"), steps_by_hand(small.astype(float), HEAT, 7), atol=1e-9)


@pytest.mark.parametrize("fixed", [False, True], ids=["", "fixed length"])
def test_attributes(launch, tmp_path, small, fixed):
    """What made the file is told on its root; units stay with the data, however they were written."""
    with h5py.File(tmp_path / "in.h5", "w") as f:
        f["z"] = small
        f["z"].attrs["units"] = np.bytes_("km") if fixed else "km"
    command = "--input in.h5 --kernel gaussian:1 --steps 2 --output out.h5"
    assert launch(4, *STENCIL, *command.split()).returncode == 0
    with h5py.File(tmp_path / "out.h5") as f:
        attributes = dict(f.attrs)
        assert set(f) == {"VTKHDF", "data", "x", "y"}
        described = {k: v for k, v in f["data"].attrs.items() if not k.startswith("DIMENSION_")}
        assert described == {"units": "km"}
    assert set(attributes) >= {"Conventions", "command", "config", "versions", "decomposition", "ranks"}
    assert command in attributes["command"]
    config = json.loads(attributes["config"])
    assert (config["input"], config["kernel"], config["steps"]) == ("in.h5", "gaussian:1", 2)
    for name in ("mpihpc", "numpy", "h5py", "HDF5", "mpi4py", "MPI"):
        assert name in attributes["versions"]
    assert f"h5py {h5py.__version__}" in attributes["versions"]
    assert attributes["ranks"] == 4
    rows, columns = map(int, attributes["decomposition"].split("x"))
    assert rows * columns == 4


def test_one_layout(launch, tmp_path, small):
    """The data lie at the same place of the file whatever the number of ranks, and HDF5's tools agree."""
    places = set()
    for n in (1, 3, 8):
        command = ("--input", "small.npy", "--kernel", "gaussian:1", "--steps", "3", "--output", f"out{n}.h5")
        assert launch(n, *STENCIL, *command).returncode == 0
        with h5py.File(tmp_path / f"out{n}.h5") as f:
            assert f["data"].chunks is None
            assert f["data"].id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
            places.add((f["data"].id.get_offset(), f["data"].id.get_storage_size(), f["data"].dtype.str))
    assert len(places) == 1
    offset, size, dtype = places.pop()
    assert (size, dtype) == (37 * 53 * 8, "<f8")
    raw = np.fromfile(tmp_path / "out8.h5", "<f8", 37 * 53, offset=offset).reshape(37, 53)
    np.testing.assert_allclose(raw, steps_by_hand(small.astype(float), gaussian1(), 3), atol=1e-9)
    if not (shutil.which("h5diff") and shutil.which("h5ls")):
        pytest.skip("h5diff and h5ls are not installed (hdf5-tools); the rest of this test passed")

    def tool(*command):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    for other in ("out3.h5", "out8.h5"):
        code, said = tool("h5diff", "out1.h5", other, "/data", "/data")
        # It compares all but references, such as those to the axes, and says so.
        assert code == 0 and "differences" not in said, said
    code, said = tool("h5ls", "out8.h5")
    assert code == 0
    assert re.fullmatch(r"VTKHDF\s+Group\ndata\s+Dataset \{37, 53\}\nx\s+Dataset \{53\}\ny\s+Dataset \{37\}\n", said)


def gaussian1():
    """The weights of a Gaussian of one cell, cut at 4."""
    line = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def test_array_without_cells(launch, tmp_path):
    """Nothing to do is done, but cannot be drawn."""
    command = (2, *STENCIL, "--shape", "0", "5", "--output", "out.h5")
    done = launch(*command, "--verify")
    assert (done.returncode, done.lines) == (0, [])
    assert data(tmp_path / "out.h5").shape == (0, 5)
    done = launch(*command, "--plot", "out.png")
    assert (done.returncode, len(done.lines)) == (2, 1)
    assert "nothing to plot in an array of shape (0, 5)" in done.lines[0]


def test_later_run_replaces_the_output(launch, tmp_path, small):
    for kernel in ("identity", "laplace"):
        command = ("--input", "small.npy", "--kernel", kernel, "--output", "out.h5")
        assert launch(2, *STENCIL, *command).returncode == 0
    np.testing.assert_array_equal(data(tmp_path / "out.h5"), ndimage.laplace(small.astype(float)))
    assert {p.name for p in tmp_path.iterdir()} == {"small.npy", "out.h5"}


def test_symbolic_link_is_kept(launch, tmp_path, small):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.h5").symlink_to("elsewhere/real.h5")
    for kernel in ("laplace", "identity"):  # the link points nowhere, then to a file
        command = ("--input", "small.npy", "--kernel", kernel, "--output", "out.h5")
        assert launch(2, *STENCIL, *command).returncode == 0
        assert os.readlink(tmp_path / "out.h5") == "elsewhere/real.h5"
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["real.h5"]
    np.testing.assert_array_equal(data(tmp_path / "elsewhere/real.h5"), small)


def test_progress_lines(tmp_path):
    """Where stderr is no terminal: a line every few seconds, no bar."""
    command = [mpirun(), "-n", "2", sys.executable, *STENCIL, "--shape", "300", "300", "--steps", "100000000"]
    job = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    begin = time.monotonic()
    try:
        line = next(line for line in job.stderr if "step" in line)
    finally:
        end(job)
        job.stderr.close()
    assert 4 < time.monotonic() - begin < 60
    assert re.fullmatch(r"step \d+ of 100000000, \d+ s left\n", line)


def test_progress_bar_on_a_terminal(tmp_path):
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 25, 80, 0, 0))
    command = [sys.executable, *STENCIL, "--shape", "300", "300", "--steps", "4000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=child)
    os.close(child)
    said = b""
    try:
        while block := os.read(parent, 4096):
            said += block
    except OSError:  # the end of a terminal
        pass
    os.close(parent)
    assert process.wait(30) == 0
    assert b"/4000" in said and b"\r" in said
