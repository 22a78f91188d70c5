"""Zarr stores as they are on the disk: the same for any number of ranks, whole or not at all.

That zarr-python, dask and xarray read them is in tests/interop.
"""

import gzip
import itertools
import json
import math
import os

import numpy as np
import pytest
from mpi4py import MPI

import mpihpc
from fake_device import FakeDevice
from mpihpc.io import datasets
from mpihpc.io.metadata import Axis, Metadata
from mpihpc.io.zarr import placing, writing

COMM = MPI.COMM_WORLD
CASES = [
    ((23, 9), "d"),
    ((5, 4, 7), "F"),
    ((100,), "i2"),
    ((9, 9), "?"),
    ((3, 5, 4, 3, 2), "f2"),
    ((2, 1), "D"),
    ((0, 3), "d"),
]


def numbers(shape, kind):
    return (np.arange(math.prod(shape)).reshape(shape) * 37 % 101 - 50).astype(kind)


def by_the_specification(folder):
    """The cells of an array as the Zarr v3 specification has them in files. (https://zarr-specs.readthedocs.io)"""
    node = json.loads((folder / "zarr.json").read_text())
    assert (node["zarr_format"], node["node_type"]) == (3, "array")
    assert node["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
    shape, chunk = node["shape"], node["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = [codec["name"] for codec in node["codecs"]]
    assert codecs in (["bytes"], ["bytes", "gzip"]) and node["codecs"][0]["configuration"] == {"endian": "little"}
    whole = np.full([-(-n // c) * c for n, c in zip(shape, chunk, strict=True)], 1, node["data_type"])
    grid = [range(n // c) for n, c in zip(whole.shape, chunk, strict=True)]
    keys = {"/".join(("c", *map(str, index))) for index in itertools.product(*grid)}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == keys | {"zarr.json"}
    for index in itertools.product(*grid):
        data = folder.joinpath("c", *map(str, index)).read_bytes()
        cells = np.frombuffer(gzip.decompress(data) if "gzip" in codecs else data, whole.dtype)
        whole[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk, strict=True))] = cells.reshape(chunk)
    return whole[tuple(map(slice, shape))], node


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"chunks": True, "compress": "gzip:1"}])
@pytest.mark.parametrize("on", ["cpu", "direct", "staged"])
def test_write(shared_tmp_path, monkeypatch, options, on):
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 200)  # many chunks, across the blocks of all ranks
    device = "cpu" if on == "cpu" else FakeDevice(on)
    for shape, kind in CASES if on == "cpu" else [case for case in CASES if len(case[0]) <= 4]:  # as kernels of devices
        whole = numbers(shape, kind)
        grids = [g for g in itertools.product(range(1, COMM.size + 1), repeat=len(shape)) if math.prod(g) == COMM.size]
        for dims in {grids[0], grids[-1], min(grids, key=max)}:
            u = mpihpc.asarray(whole, dims=dims, halo=1, device=device)
            mpihpc.io.write(shared_tmp_path / "a.zarr", u, attrs={"units": "m"}, **options)
            if COMM.rank == 0:
                found, node = by_the_specification(shared_tmp_path / "a.zarr" / "data")
                assert found.dtype == whole.dtype and found.tobytes() == whole.tobytes()
                assert node["attributes"]["units"] == "m"
                assert len(node["dimension_names"]) == len(shape)
                assert os.listdir(shared_tmp_path) == ["a.zarr"]
            COMM.Barrier()


def tree(folder):
    """Every file of a folder, on rank 0, for all."""
    found = None
    if COMM.rank == 0:
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return COMM.bcast(found)


def cells(folder):
    found = None
    if COMM.rank == 0:
        found = by_the_specification(folder)[0]
    return COMM.bcast(found)


def listed(folder):
    return COMM.bcast(sorted(os.listdir(folder)) if COMM.rank == 0 else None)


def known(store):
    """What the root group says it has."""
    return sorted(json.loads(tree(store)["zarr.json"])["consolidated_metadata"]["metadata"])


@pytest.fixture(params=["at once", "step by step"])
def exchange(request, monkeypatch):
    """How two folders change places: with renameat2 of Linux, or where file systems do not know it."""
    if request.param == "step by step":
        monkeypatch.setattr(placing, "_exchanged", lambda new, old: False)


def test_what_else_is_in_the_store_stays(shared_tmp_path, exchange):
    store = shared_tmp_path / "a.zarr"
    u, v = mpihpc.asarray(numbers((5, 7), "d")), mpihpc.asarray(numbers((5, 7), "i4"))
    mpihpc.io.write(store, u, "raw")
    before = tree(store)
    mpihpc.io.write(store, v, "group/below/smooth")
    after = tree(store)
    assert {name: after[name] for name in before if name != "zarr.json"} == {
        name: before[name] for name in before if name != "zarr.json"
    }
    assert known(store) == ["group", "group/below", "group/below/smooth", "raw"]
    assert known(store / "group") == ["below", "below/smooth"]
    mpihpc.io.write(store, v, "raw")
    assert cells(store / "raw").dtype == "i4" and np.array_equal(cells(store / "group/below/smooth"), v.gather(None))
    assert listed(shared_tmp_path) == ["a.zarr"]


def test_a_store_of_the_same_arrays_is_replaced_as_a_whole(shared_tmp_path, exchange):
    store = shared_tmp_path / "a.zarr"
    u = mpihpc.asarray(numbers((40, 30), "d"))
    with mpihpc.io.open(store, "w", comm=u.comm) as writer:
        writer.attrs["title"] = "old"
        writer.write("u", u)
        writer.write("g/v", u)
    with mpihpc.io.open(store, "w", comm=u.comm) as writer:
        writer.write("g/v", u.astype("f4"))
        writer.write("u", u)
    assert b"old" not in tree(store)["zarr.json"] and cells(store / "g/v").dtype == "f4"
    assert listed(shared_tmp_path) == ["a.zarr"] and listed(store) == ["g", "u", "zarr.json"]


def test_a_failure_leaves_the_old_store_alone(shared_tmp_path, monkeypatch):
    store = shared_tmp_path / "a.zarr"
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 100)
    u = mpihpc.asarray(numbers((60, 9), "d"))
    mpihpc.io.write(store, u, "u", chunks=True)
    before = tree(store)
    real, ticks = writing.tick, []

    def fails():
        ticks.append(0)
        if COMM.rank == COMM.size - 1 and len(ticks) == 2:
            raise OSError(28, "No space left on device", "c/0")
        real()

    monkeypatch.setattr(writing, "tick", fails)
    for name in ("u", "v"):
        ticks.clear()
        with pytest.raises(OSError, match="No space left on device") as caught:
            mpihpc.io.write(store, u, name, chunks=True)
        assert caught.value.errno == 28 and COMM.allgather(str(caught.value)) == [str(caught.value)] * COMM.size
        COMM.Barrier()
        assert tree(store) == before and listed(shared_tmp_path) == ["a.zarr"]
    monkeypatch.setattr(writing, "tick", real)
    with pytest.raises(ZeroDivisionError), mpihpc.io.open(store, "w", comm=u.comm) as writer:
        writer.write("u", u)
        raise ZeroDivisionError
    COMM.Barrier()
    assert tree(store) == before and listed(shared_tmp_path) == ["a.zarr"]


def test_a_failure_at_the_end_takes_everything_back(shared_tmp_path, monkeypatch, exchange):
    store = shared_tmp_path / "a.zarr"
    u = mpihpc.asarray(numbers((6, 9), "d"))
    for name in ("kept", "u"):
        mpihpc.io.write(store, u, name)
    before = tree(store)

    def fails(folder):
        raise OSError(5, "Input/output error", folder)

    monkeypatch.setattr(placing, "consolidate", fails)
    with pytest.raises(OSError, match="Input/output"), mpihpc.io.open(store, "a", comm=u.comm) as writer:
        writer.write("u", u.astype("f4"))
        writer.write("new", u)
    COMM.Barrier()
    assert (
        tree(store) == before and listed(shared_tmp_path) == ["a.zarr"] and listed(store) == ["kept", "u", "zarr.json"]
    )


def test_refused_before_any_work(shared_tmp_path):
    u = mpihpc.asarray(numbers((6, 9), "d"))
    if COMM.rank == 0:
        (shared_tmp_path / "file.zarr").write_text("")
        (shared_tmp_path / "folder.zarr").mkdir()
        (shared_tmp_path / "folder.zarr" / "thesis.tex").write_text("")
        (shared_tmp_path / "two.zarr").mkdir()
        (shared_tmp_path / "two.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
        (shared_tmp_path / "array.zarr").mkdir()
        (shared_tmp_path / "array.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    COMM.Barrier()
    mpihpc.io.write(shared_tmp_path / "a.zarr", u, "g/u")
    before = tree(shared_tmp_path)
    for file, dataset, kind, text in [
        ("no/a.zarr", "u", FileNotFoundError, "there is no folder"),
        ("file.zarr", "u", NotADirectoryError, "it is a file, and a Zarr store is a folder"),
        ("folder.zarr", "u", FileExistsError, "not a Zarr store"),
        ("two.zarr", "u", FileExistsError, "it is Zarr v2, and v3 is written"),
        ("array.zarr", "u", FileExistsError, "the store is an array there, not a group"),
        ("a.zarr", "g", FileExistsError, "'g' is a group there"),
        ("a.zarr", "g/u/v", FileExistsError, "g/u is an array there"),
        ("a.zarr", "../u", ValueError, "not a valid name for an array"),
        ("a.zarr", "__u", ValueError, "not a valid name for an array"),
        ("a.zarr", "", ValueError, "not a valid name for an array"),
    ]:
        with pytest.raises(kind, match=text):
            mpihpc.io.check_target(shared_tmp_path / file, dataset)
        with pytest.raises(kind, match=text):
            mpihpc.io.write(shared_tmp_path / file, u, dataset)
    assert tree(shared_tmp_path) == before
    with pytest.raises(TypeError, match="no type for bfloat16"):
        mpihpc.io.write(shared_tmp_path / "b.zarr", u.astype("bfloat16"))
    with pytest.raises(ValueError, match="unknown compression 'zip'"):
        mpihpc.io.write(shared_tmp_path / "b.zarr", u, compress="zip")
    assert tree(shared_tmp_path) == before


def about(store, *names):
    """Names of axes, shapes and attributes of arrays, on rank 0, for all."""
    found = None
    if COMM.rank == 0:
        nodes = [json.loads((store / name / "zarr.json").read_text()) for name in names]
        found = [(node["dimension_names"], node["shape"], node["attributes"]) for node in nodes]
    return COMM.bcast(found)


def test_axes_have_coordinates_beside_the_array(shared_tmp_path):
    store = shared_tmp_path / "a.zarr"
    u = mpihpc.asarray(numbers((4, 3), "d"))
    axes = (Axis("lat", np.array([1.5, 2.5, 3.5, 4.5]), {"units": "degrees_north"}), Axis("lon", np.arange(3)))
    with mpihpc.io.open(store, "w", comm=u.comm) as writer:
        writer.write("g/u", u, metadata=Metadata(axes, {"units": "K"}), attrs={"n": np.int64(3), "ab": np.ones(2)})
        writer.write("g/v", u, metadata=Metadata(axes))
    assert about(store, "g/u", "g/v", "g/lat", "g/lon") == [
        (["lat", "lon"], [4, 3], {"units": "K", "n": 3, "ab": [1.0, 1.0]}),
        (["lat", "lon"], [4, 3], {}),
        (["lat"], [4], {"units": "degrees_north"}),
        (["lon"], [3], {}),
    ]
    assert np.array_equal(cells(store / "g/lat"), axes[0].values) and cells(store / "g/lon").tolist() == [0, 1, 2]
    for values, kind, text in [
        (np.arange(5), ValueError, "has 4 cells and"),
        (np.array(list("abcd")), TypeError, "numbers"),
    ]:
        with (
            pytest.raises(kind, match=text),
            mpihpc.io.open(store, "w", comm=u.comm) as writer,
        ):
            writer.write("w", u, metadata=Metadata((Axis("lat", values), Axis("lon"))))
    with pytest.raises(ValueError, match="attribute 'who' is"):
        mpihpc.io.write(store, u, "w", attrs={"who": object})


def test_axes_that_differ_do_not_share_a_name(shared_tmp_path):
    store = shared_tmp_path / "a.zarr"
    u, longer = mpihpc.asarray(numbers((4, 3), "d")), mpihpc.asarray(numbers((5, 3), "d"))
    for array, name in [(u, "u"), (longer, "v"), (u, "w")]:
        mpihpc.io.write(store, array, name)
    assert [names for names, *_ in about(store, "u", "v", "w")] == [["y", "x"], ["y_v", "x"], ["y", "x"]]
    ours, others = (Metadata((Axis("lat", np.arange(4.0) + k), Axis("lon"))) for k in (0, 1))
    with mpihpc.io.open(store, "a", comm=u.comm) as writer:
        writer.write("a", u, metadata=ours)
        writer.write("b", u, metadata=others)
    with mpihpc.io.open(store, "a", comm=u.comm) as writer:
        writer.write("c", u, metadata=others)
        writer.write("d", u, metadata=ours)
    names = [["lat", "lon"], ["lat_b", "lon"], ["lat_c", "lon"], ["lat", "lon"]]
    assert [names for names, *_ in about(store, "a", "b", "c", "d")] == names
    mpihpc.io.write(store, longer, "a")
    assert about(store, "a")[0][0] == ["y_a", "x"]
