"""Every bad input: exit code 2, one line that says what is wrong, nothing written, old output untouched."""

import os
import zipfile
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

OLD = np.arange(12.0).reshape(3, 4)


def make_inputs(folder):
    """Good and bad inputs, and an old result `out.h5`."""
    z = np.arange(80.0).reshape(8, 10)
    with h5py.File(folder / "out.h5", "w") as f:
        f["data"] = OLD
    with h5py.File(folder / "good.h5", "w") as f:
        f["terrain/elevation"] = z
    with h5py.File(folder / "several.h5", "w") as f:
        f["density"], f["pressure"] = z, z
    with h5py.File(folder / "none.h5", "w") as f:
        f.create_group("empty")
    with h5py.File(folder / "kinds.h5", "w") as f:
        f["strings"] = ["a", "b"]
        f["fixed"] = np.array([b"a", b"b"])
        f["pairs"] = np.zeros(4, [("x", float), ("y", float)])
        f.create_dataset("ragged", (3,), h5py.vlen_dtype(np.int32))
        f["scalar"] = 1.0
        f["five"] = np.zeros((2, 2, 2, 2, 2))
        f["waves"] = z + 1j * z
        f["cube"] = np.zeros((4, 5, 6))
    with h5py.File(folder / "packed.h5", "w") as f:
        f.create_dataset("z", data=np.random.default_rng(1).random((64, 64)), chunks=(8, 64), compression="gzip")
        at = f["z"].id.get_chunk_info(5)
    whole = bytearray((folder / "packed.h5").read_bytes())
    whole[at.byte_offset : at.byte_offset + at.size] = bytes(at.size)
    (folder / "packed.h5").write_bytes(whole)

    whole = (folder / "good.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (folder / "stub.h5").write_bytes(whole[:20])
    (folder / "text.h5").write_text("this is no HDF5\n" * 100)
    (folder / "empty.h5").write_bytes(b"")
    np.save(folder / "good.npy", z)
    whole = (folder / "good.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-100])
    (folder / "stub.npy").write_bytes(whole[:30])
    np.save(folder / "objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save(folder / "strings.npy", np.array(["a", "b"]))
    np.save(folder / "times.npy", np.zeros(4, "M8[s]"))
    np.save(folder / "scalar.npy", np.float64(1))
    np.save(folder / "five.npy", np.zeros((2, 2, 2, 2, 2)))
    np.save(folder / "none.npy", np.zeros((0, 3)))
    np.save(folder / "nan.npy", np.array([[0, np.nan], [1, 2]]))
    np.save(folder / "waves.npy", np.array([1j, 0, 1]))
    np.savez(folder / "good.npz", elevation=z, slope=z)
    np.savez(folder / "objects.npz", z=np.array([{}, None]))
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "damaged.npz", "w", zipfile.ZIP_DEFLATED) as f:
        f.write(folder / "good.npy", "z.npy")
    whole = bytearray((folder / "damaged.npz").read_bytes())
    whole[100:140] = bytes(40)
    (folder / "damaged.npz").write_bytes(whole)
    with zipfile.ZipFile(folder / "text.npz", "w") as f:
        f.writestr("z.npy", "no array")
    (folder / "taken.h5").mkdir()
    (folder / "taken.png").mkdir()


def snapshot(folder):
    """Every file and folder, with its bytes."""
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@dataclass
class Case:
    """Arguments, what the line must say, and on how many ranks."""

    arguments: str | list[str]
    says: tuple[str, ...]
    n: int = 1

    def __str__(self):
        return self.arguments if isinstance(self.arguments, str) else " ".join(self.arguments)


CASES = [
    # input files
    Case("--input missing.h5", ("missing.h5", "No such file"), 3),
    Case("--input missing.npy", ("missing.npy", "No such file")),
    Case("--input nowhere/missing.h5:z", ("nowhere/missing.h5", "No such file")),
    Case("--input text.h5", ("text.h5", "neither HDF5 nor Zarr nor .npy nor .npz"), 3),
    Case("--input empty.h5", ("empty.h5", "cannot be read")),
    Case("--input cut.h5", ("cut.h5", "cannot be read", "truncated"), 3),
    Case("--input stub.h5", ("stub.h5", "cannot be read")),
    Case("--input packed.h5", ("packed.h5", "'z'", "cannot be read"), 3),
    Case("--input cut.npy", ("cut.npy", "cannot be read"), 3),
    Case("--input stub.npy", ("stub.npy", "cannot be read")),
    Case("--input cut.npz:elevation", ("cut.npz", "cannot be read")),
    Case("--input damaged.npz", ("damaged.npz",), 3),
    Case("--input text.npz", ("text.npz", "cannot be read")),
    Case("--input taken.h5", ("taken.h5", "folder")),
    Case(["--input", ""], ("--input",)),  # a shell variable that nobody set
    Case("--input .", ("folder",)),
    # datasets
    Case("--input good.h5:elevatoin", ("good.h5", "no dataset 'elevatoin'", "terrain/elevation"), 3),
    Case("--input good.h5:terrain", ("no dataset 'terrain'", "terrain/elevation")),
    Case("--input good.npz:elevatoin", ("no dataset 'elevatoin'", "did you mean 'elevation'", "slope")),
    Case("--input good.npy:z", ("good.npy", "no dataset 'z'")),
    Case("--input several.h5", ("2 datasets", "density", "pressure", "FILE:DATASET"), 3),
    Case("--input good.npz", ("2 datasets", "elevation", "slope")),
    Case("--input none.h5", ("none.h5", "0 datasets")),
    # dtypes and axes
    Case("--shape 3 3 3 3 --output a.vtkhdf", ("4 axes", "1 to 3 axes"), 3),
    Case("--input kinds.h5:strings", ("'strings'", "holds text", "not numeric"), 3),
    Case("--input kinds.h5:fixed", ("'fixed'", "holds text", "not numeric")),
    Case("--input kinds.h5:pairs", ("'pairs'", "dtype")),
    Case("--input kinds.h5:ragged", ("'ragged'", "lists of different lengths", "not numeric")),
    Case("--input objects.npy", ("objects.npy",)),
    Case("--input objects.npz", ("objects.npz", "dtype object")),
    Case("--input strings.npy", ("strings.npy", "dtype"), 3),
    Case("--input times.npy", ("times.npy", "dtype")),
    Case("--input kinds.h5:scalar", ("'scalar'", "0 axes"), 3),
    Case("--input scalar.npy", ("scalar.npy", "0 axes")),
    Case("--input kinds.h5:five", ("1 to 4 axes", "5"), 3),
    Case("--input five.npy", ("1 to 4 axes", "5")),
    Case("--shape 2 2 2 2 2", ("1 to 4 axes", "5")),
    Case("--shape 8 -3", ("negative",)),
    Case("--shape 100000000000000000000", ("shape",)),
    Case("--shape 8 x", ("--shape", "'x'")),
    Case("--shape 8.5", ("--shape", "'8.5'")),
    Case("--input kinds.h5:waves --dtype float64", ("complex", "float64"), 3),
    Case("--input kinds.h5:waves --dtype float32", ("complex", "float32")),
    Case("--input good.npy --dtype float16", ("unknown dtype 'float16'", "float")),
    Case("--input good.npy --dtype flota32", ("unknown dtype 'flota32'", "did you mean 'float32'")),
    Case("--input good.npy --dtype float64 --kernel waves.npy", ("float64", "complex kernel")),
    Case("--input good.npy --shape 8 8", ("--input", "--shape")),
    # kernels
    Case("--input good.npy --kernel nan.npy", ("1 of the kernel's 4 weights", "NaN"), 3),
    Case("--kernel heat:nan", ("alpha nan", "finite")),
    Case("--kernel heat:inf", ("alpha inf", "finite")),
    Case(["--kernel", "[0, 1e999]"], ("infinite",)),
    Case(["--input", "good.npy", "--kernel", "[[[1, 2, 1]]]"], ("kernel", "3 axes", "input has 2"), 3),
    Case("--input good.npy --kernel five.npy", ("kernel", "5 axes", "input has 2")),
    Case("--kernel gausian:2", ("unknown kernel 'gausian'", "did you mean 'gaussian'", "laplace"), 3),
    Case(["--kernel", ""], ("--kernel", "empty")),
    Case("--kernel gaussian", ("'gaussian' needs an argument",)),
    Case("--kernel gaussian:-1", ("sigma -1", "0.01 to")),
    Case("--kernel gaussian:1e-300", ("gaussian sigma 1e-300",)),
    Case("--kernel gaussian:x", ("takes a number", "'x'")),
    Case("--kernel mean:0", ("mean size 0",)),
    Case("--kernel mean:2.5", ("takes an integer", "'2.5'")),
    Case("--kernel laplace:3", ("order 3",)),
    Case("--kernel sobel:7", ("sobel axis 7", "2")),
    Case("--kernel sharpen:2", ("takes no argument", "'2'")),
    Case("--kernel missing.npy", ("missing.npy", "No such file"), 3),
    Case("--kernel taken/missing.txt", ("taken/missing.txt",)),
    Case("--kernel cut.npy", ("cut.npy", "cannot be read")),
    Case("--kernel stub.npy", ("stub.npy", "cannot be read")),
    Case("--kernel objects.npy", ("objects.npy",)),
    Case("--kernel strings.npy", ("dtype",)),
    Case("--kernel none.npy", ("no weights",)),
    Case("--kernel good.h5", ("good.h5", "not a .npy file")),
    Case(["--kernel", "[]"], ("no weights",)),
    Case(["--kernel", "[[]]"], ("no weights",)),
    Case(["--kernel", "[[0,1,0],[1,-4"], ("[[0,1,0],[1,-4", "not a list of numbers"), 3),
    Case(["--kernel", "[[0,1,0],[1,-4]]"], ("not a list of numbers", "equal length")),
    Case(["--kernel", "[['a']]"], ("numbers",)),
    Case(["--kernel", "[None]"], ("numbers",)),
    Case(["--kernel", "[__import__('os')]"], ("not a list of numbers",)),
    Case(["--kernel", "[" * 300 + "1" + "]" * 300], ("list of numbers",)),
    # numbers and names
    Case("--steps -1", ("steps -1 is negative",), 3),
    Case("--steps x", ("--steps", "'x'"), 3),
    Case("--steps 1.5", ("--steps", "'1.5'")),
    Case("--steps", ("--steps", "expected one argument")),
    Case("--mode reflekt", ("unknown mode 'reflekt'", "did you mean 'reflect'", "wrap"), 3),
    Case("--mode reflect,,wrap --shape 4 4 4", ("unknown mode ''",)),
    Case("--input kinds.h5:cube --mode wrap,reflect", ("2 boundary modes", "3 axes"), 3),
    Case("--mode constant --cval x", ("--cval", "'x'")),
    Case("--mode constant --cval 1+2j", ("cval", "1+2j", "float64")),
    Case("--dtype int", ("unknown dtype 'int'",)),
    Case("--device gpuu", ("unknown device 'gpuu'", "did you mean 'gpu'")),
    Case("--fuse 0", ("fuse 0", "1 to 64"), 3),
    Case("--fuse 65", ("fuse 65", "1 to 64")),
    Case("--fuse many", ("--fuse", "'many'", "8|auto")),
    Case("--overlap maybe", ("--overlap", "'maybe'", "auto|on|off")),
    Case("--threads 0", ("threads 0", "1 to 1024"), 3),
    Case("--threads -2", ("threads -2", "1 to 1024")),
    Case("--threads 1000000", ("threads 1000000",)),
    Case("--threads many", ("--threads", "'many'")),
    Case("--step 3", ("unknown argument '--step'", "did you mean '--steps'"), 3),
    Case("--colour red", ("unknown argument '--colour'",)),
    Case("good.npy", ("unknown argument 'good.npy'",)),
    # grids
    Case("--grid 3x3", ("grid 3x3 needs 9 ranks", "the job has 8"), 8),
    Case("--input kinds.h5:cube --grid 4x2", ("grid 4x2 has 2 axes", "the array has 3"), 8),
    Case("--grid 0x4", ("grid 0x4", "no ranks")),
    Case("--grid -1x-1", ("grid",)),
    Case("--grid 4x", ("--grid", "'4x'")),
    Case("--grid four", ("--grid", "'four'")),
    # pictures
    Case("--plot nowhere/out.png", ("nowhere/out.png", "no folder"), 3),
    Case(["--plot", ""], ("--plot",)),
    Case("--plot out.txt", ("out.txt", ".png")),
    Case("--plot taken.png", ("taken.png", "folder")),
]


def check(done, *says):
    """The contract of point 9 of the issue."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.lines) == 1, done.stderr
    line = done.lines[0]
    assert line.startswith("mpihpc.stencil: error: ")
    assert "error:" not in done.stdout
    for words in says:
        assert words in line
    assert " _" not in line, f"a name from the code: {line}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case)[:60].replace("/", "|"))
def test_bad_input(launch, tmp_path, case):
    make_inputs(tmp_path)
    before = snapshot(tmp_path)
    arguments = case.arguments.split() if isinstance(case.arguments, str) else case.arguments
    # No steps: what is wrong must be found all the same.
    done = launch(case.n, "-m", "mpihpc.stencil", "--output", "out.h5", *arguments)
    assert snapshot(tmp_path) == before
    check(done, *case.says)


@pytest.mark.parametrize("n", [1, 3])
def test_no_gpu(launch, tmp_path, n):
    """Of those that are there, too: none is shown to the job."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = launch(n, "-m", "mpihpc.stencil", "--shape", "8", "8", "--device", "gpu", env=hidden)
    assert done.stdout == ""
    check(done, "no GPU is available: ", "; or use --device cpu")
    # Why, and what to do.
    missing, none = "pip install 'mpihpc[gpu]'", "CUDA finds none with CUDA_VISIBLE_DEVICES=''"
    assert (missing in done.lines[0]) != (none in done.lines[0])
    assert (none in done.lines[0]) == ("nvidia-smi" in done.lines[0])
    done = launch(n, "-m", "mpihpc.stencil", "--shape", "8", "8", "--device", "auto", env=hidden)
    assert (done.returncode, done.lines) == (0, [])
    assert " on cpu, halo" in done.stdout


@pytest.mark.parametrize(("device", "n"), [("gpu", 1), ("auto", 3)])
def test_unknown_transport(launch, tmp_path, device, n):
    env = {"MPIHPC_GPU_TRANSPORT": "dircet"}
    done = launch(n, "-m", "mpihpc.stencil", "--shape", "8", "8", "--device", device, env=env)
    check(done, "MPIHPC_GPU_TRANSPORT is 'dircet': did you mean 'direct'? (auto, direct, staged)")
    assert done.stdout == ""


OUTPUTS = [
    ("nowhere/out.h5", ("nowhere/out.h5", "no folder"), 3),
    ("good.h5/out.h5", ("good.h5/out.h5", "no folder"), 1),
    ("out.txt", ("out.txt", ".h5"), 3),
    ("out", ("out", ".h5"), 1),
    ("", ("--output",), 1),
    ("taken.h5", ("taken.h5", "folder"), 3),
    ("dangling.h5", ("dangling.h5", "no folder"), 1),
    ("out.h5:/", ("out.h5",), 3),
    ("out.h5:.", ("out.h5",), 1),
]


@pytest.mark.parametrize(("output", "says", "n"), OUTPUTS, ids=[o.replace("/", "|") for o, _, _ in OUTPUTS])
def test_bad_output(launch, tmp_path, output, says, n):
    make_inputs(tmp_path)
    (tmp_path / "dangling.h5").symlink_to("nowhere/out.h5")
    before = snapshot(tmp_path)
    done = launch(n, "-m", "mpihpc.stencil", "--shape", "8", "8", "--output", output)
    assert snapshot(tmp_path) == before
    check(done, *says)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("option", ["--output", "--plot"])
def test_folder_not_writable(launch, tmp_path, option, n):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "out.h5").write_bytes(b"old")
    (folder / "out.png").write_bytes(b"old")
    folder.chmod(0o555)
    before = snapshot(tmp_path)
    name = "closed/out.h5" if option == "--output" else "closed/out.png"
    done = launch(n, "-m", "mpihpc.stencil", "--shape", "8", "8", option, name, unprivileged=True)
    assert snapshot(tmp_path) == before
    check(done, name, "no permission", os.fspath(folder))


def test_old_output_read_only(launch, tmp_path):
    """A file whose owner has closed it is not replaced, though its folder would allow it."""
    (tmp_path / "out.h5").write_bytes(b"old")
    (tmp_path / "out.h5").chmod(0o444)
    done = launch(1, "-m", "mpihpc.stencil", "--shape", "8", "8", "--output", "out.h5", unprivileged=True)
    assert (tmp_path / "out.h5").read_bytes() == b"old"
    check(done, "out.h5", "read-only")


@pytest.mark.parametrize("n", [1, 3])
def test_input_not_readable(launch, tmp_path, n):
    make_inputs(tmp_path)
    (tmp_path / "good.h5").chmod(0)
    done = launch(n, "-m", "mpihpc.stencil", "--input", "good.h5", unprivileged=True)
    check(done, "good.h5", "ermission denied")


def test_output_found_bad_before_computing(launch, tmp_path):
    """The output's name is looked at first: nobody computes for hours to be told."""
    done = launch(1, "-m", "mpihpc.stencil", "--shape", "4096", "4096", "--steps", "1000000", "--output", "no/out.h5")
    check(done, "no/out.h5")
    assert done.stdout == ""
