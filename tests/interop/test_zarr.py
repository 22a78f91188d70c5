"""Zarr stores of others, and ours in their hands: zarr-python, xarray and dask, where they are installed."""

import json
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

from suite import environment, mpirun

zarr = pytest.importorskip("zarr", minversion="3", reason="zarr-python is not installed: pip install 'mpihpc[interop]'")
xarray = pytest.importorskip("xarray", reason="xarray is not installed: pip install 'mpihpc[interop]'")
dask = pytest.importorskip("dask.array", reason="dask is not installed: pip install 'mpihpc[interop]'")

pytestmark = pytest.mark.filterwarnings("error")

WHOLE = np.arange(1000.0).reshape(20, 50)


def on_ranks(n, script, cwd, *args):
    """What a script prints, on `n` ranks."""
    command = [mpirun(), "-n", str(n), sys.executable, "-c", textwrap.dedent(script), *args]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


READ = """
    import json, sys
    import numpy as np
    import mpihpc
    from mpi4py.MPI import COMM_WORLD as comm
    found = {}
    with mpihpc.io.open(sys.argv[1]) as reader:
        for name in sys.argv[2:]:
            try:
                whole = reader.read(name or None).gather(None)
                about = reader.metadata(name or None)
            except (OSError, ValueError, TypeError) as error:
                found[name] = f"{type(error).__name__}: {error}"
                assert comm.allgather(found[name]) == [found[name]] * comm.size
                continue
            if comm.rank == 0:
                np.save(name.replace("/", ".") + "_found.npy", whole)
            axes = [[axis.name, None if axis.values is None else axis.values.tolist()] for axis in about.axes]
            found[name] = [str(whole.dtype), about.units, axes]
    if comm.rank == 0:
        print(json.dumps(found))
"""


def read(folder, store, *names, ranks=3):
    """What the ranks find in a store: the cells, and what is said about them."""
    about = json.loads(on_ranks(ranks, READ, folder, store, *names))
    files = {name: folder / f"{name.replace('/', '.')}_found.npy" for name in names}
    return {name: np.load(file) for name, file in files.items() if file.exists()}, about


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A folder with stores as zarr-python and xarray write them."""
    folder = tmp_path_factory.mktemp("stores")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for version in (2, 3):
            group = zarr.open_group(folder / f"v{version}.zarr", mode="w", zarr_format=version)
            for name, options in {
                "raw": {"compressors": None},
                "gzip": {"compressors": zarr.codecs.GzipCodec() if version == 3 else __import__("numcodecs").GZip()},
                "default": {},
                "g/h/turned": {"order": "F"}
                if version == 2
                else {"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
            }.items():
                made = group.create_array(name, shape=WHOLE.shape, chunks=(7, 11), dtype="f8", **options)
                made[:] = WHOLE
            group.create_array("big", shape=WHOLE.shape, chunks=(7, 11), dtype=">f4")[:] = WHOLE
            group.create_array("text", shape=(3,), chunks=(3,), dtype="U5")[:] = ["a", "b", "c"]
            group.create_array("time", shape=(3,), chunks=(3,), dtype="M8[s]")
            group.create_array("scalar", shape=(), chunks=(), dtype="f8")
            group.create_array("filled", shape=(9, 9), chunks=(4, 4), dtype="i2", fill_value=-7)[:3, :3] = 1
            group.create_array("empty", shape=(0, 3), chunks=(1, 3), dtype="f8")
            group.create_array("complex", shape=(4,), chunks=(3,), dtype="c8")[:] = [1, 2j, 3, -0.0]
            group.create_array("flags", shape=(5,), chunks=(2,), dtype="?")[:] = [1, 0, 1, 1, 0]
        sharded = group.create_array("shards", shape=WHOLE.shape, chunks=(5, 10), shards=(10, 50), dtype="f8")
        sharded[:] = WHOLE
        zarr.save_array(folder / "single.zarr", WHOLE)
        for version in (2, 3):
            packed = xarray.Dataset(
                {
                    "t": (("y", "x"), [[1.0, np.nan, 2.5], [3.0, 4.0, -1.5]], {"units": "K"}),
                    "f": (("y", "x"), [[1.0, np.nan, 2.5], [3.0, 4.0, -1.5]]),
                },
                coords={"y": [10, 20], "x": ("x", [0.5, 1.5, 2.5], {"units": "m"})},
            )
            encoding = {
                "t": {"dtype": "i2", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -99},
                "f": {"dtype": "f4", "_FillValue": 7.5},
            }
            packed.to_zarr(folder / f"xarray{version}.zarr", zarr_format=version, encoding=encoding)
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_read_what_zarr_python_wrote(found, version):
    same = ["raw", "gzip", "default", "g/h/turned", "big", *(["shards"] if version == 3 else [])]
    cells, about = read(
        found, f"v{version}.zarr", *same, "filled", "empty", "complex", "flags", "text", "time", "scalar"
    )
    for name in same:
        assert np.array_equal(cells[name], WHOLE) and about[name][0] == ("float32" if name == "big" else "float64")
    assert cells["filled"].sum() == 9 - 7 * 72 and cells["empty"].shape == (0, 3)
    assert cells["complex"].tolist() == [1, 2j, 3, 0] and cells["flags"].tolist() == [1, 0, 1, 1, 0]
    assert "not numeric" in about["text"] and "not numeric" in about["time"]
    assert "has 0 axes" in about["scalar"]


def test_read_a_store_that_is_an_array(found):
    cells, _ = read(found, "single.zarr", "")
    assert np.array_equal(cells[""], WHOLE)
    cells, _ = read(found, "v3.zarr/g/h", "")
    assert np.array_equal(cells[""], WHOLE)


@pytest.mark.parametrize("version", [2, 3])
def test_read_what_xarray_wrote(found, version):
    cells, about = read(found, f"xarray{version}.zarr", "t", "f")
    for name, dtype in [("t", "float64"), ("f", "float32")]:
        assert np.array_equal(cells[name], [[1.0, np.nan, 2.5], [3.0, 4.0, -1.5]], equal_nan=True)
        assert about[name][0] == dtype and about[name][2] == [["y", [10, 20]], ["x", [0.5, 1.5, 2.5]]]
    assert about["t"][1] == "K"


def test_a_bad_array_harms_itself_alone(found, tmp_path):
    group = zarr.open_group(tmp_path / "bad.zarr", mode="w")
    broken = {
        "gzip": {"compressors": zarr.codecs.GzipCodec()},
        "zstd": {"compressors": zarr.codecs.ZstdCodec()},
        "raw": {"compressors": None},
        "shards": {"shards": (10, 50), "compressors": None},
    }
    for name, options in broken.items():
        group.create_array(name, shape=WHOLE.shape, chunks=(5, 10), dtype="f8", **options)[:] = WHOLE
        os.truncate(tmp_path / "bad.zarr" / name / "c/0/0", 100)
    for name in ("good", "codec", "type", "json"):
        group.create_array(name, shape=WHOLE.shape, chunks=(5, 10), dtype="f8", compressors=None)[:] = WHOLE
    node = json.loads((tmp_path / "bad.zarr/codec/zarr.json").read_text())
    unknown = node | {"codecs": [*node["codecs"], {"name": "frobnicate", "configuration": {}}]}
    (tmp_path / "bad.zarr/codec/zarr.json").write_text(json.dumps(unknown))
    (tmp_path / "bad.zarr/type/zarr.json").write_text(json.dumps(node | {"data_type": "float8_e4m3"}))
    (tmp_path / "bad.zarr/json/zarr.json").write_text("{")
    os.symlink("..", tmp_path / "bad.zarr/loop")
    cells, about = read(
        tmp_path, "bad.zarr", "good", *broken, "codec", "type", "json", "nothing", "loop", "../bad.zarr/good"
    )
    assert list(cells) == ["good"] and np.array_equal(cells["good"], WHOLE)
    for name in broken:
        assert f"bad.zarr: dataset '{name}' cannot be read: " in about[name]
    assert "'frobnicate'" in about["codec"] and "float8_e4m3" in about["type"] and "'json'" in about["json"]
    assert "has no dataset 'nothing'" in about["nothing"] and "has no dataset 'loop'" in about["loop"]
    assert all("\n" not in about[name] for name in about if name != "good")


WRITE = """
    import sys
    import numpy as np
    import mpihpc
    from mpihpc.io import datasets
    datasets._CHUNK_BYTES = 2000
    rng = np.random.default_rng(1)
    with mpihpc.io.open(sys.argv[1], "w") as writer:
        writer.attrs["title"] = "three arrays"
        for name, shape, kind, options in [
            ("plain", (23, 90), "d", {}), ("chunks", (23, 90), "F", {"chunks": True}),
            ("gzip", (40, 30), "d", {"chunks": True, "compress": "gzip:4"}),
            ("g/h/cube", (8, 7, 9), "i2", {"chunks": True}),
            ("flags", (100,), "?", {}), ("half", (3, 5, 4, 3), "f2", {"chunks": True}), ("empty", (0, 3), "d", {}),
        ]:
            whole = (10 * rng.standard_normal(shape)).astype(kind)
            writer.write(name, mpihpc.asarray(whole, halo=1), attrs={"units": "m"}, **options)
            if writer.topology.rank == 0:
                np.save(name.replace("/", ".") + "_wanted.npy", whole)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with what 1, 3 and 8 ranks wrote, at different times of day."""
    folder = tmp_path_factory.mktemp("written")
    for ranks in (1, 3, 8):
        on_ranks(ranks, WRITE, folder, f"{ranks}.zarr")
    return folder


def test_stores_do_not_depend_on_the_number_of_ranks(written):
    for ranks in (3, 8):
        subprocess.run(["diff", "-r", "1.zarr", f"{ranks}.zarr"], cwd=written, check=True)


def test_others_read_what_the_ranks_wrote(written):
    group = zarr.open_group(written / "3.zarr", mode="r")
    wanted = {path.name.removesuffix("_wanted.npy").replace(".", "/"): np.load(path) for path in written.glob("*.npy")}
    assert len(wanted) == 7 and group.attrs["title"] == "three arrays"
    for name, whole in wanted.items():
        assert group[name].dtype == whole.dtype and group[name][...].tobytes() == whole.tobytes()
        assert group[name].attrs["units"] == "m"
        assert np.array_equal(dask.from_zarr(written / "3.zarr", name).compute(), whole)
        folder, _, own = name.rpartition("/")
        with xarray.open_zarr(written / "3.zarr", group=folder or None) as data:  # all of a group together
            assert data[own].ndim == whole.ndim and data[own].values.tobytes() == whole.tobytes()
