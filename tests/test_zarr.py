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
    for shape, kind in CASES:
        whole = numbers(shape, kind)
        grids = [g for g in itertools.product(range(1, COMM.size + 1), repeat=len(shape)) if math.prod(g) == COMM.size]
        for dims in {grids[0], grids[-1], min(grids, key=max)}:
            u = mpihpc.asarray(whole, dims=dims, halo=1, device=device)
            mpihpc.io.write(shared_tmp_path / "a.zarr", u, attrs={"units": "m"}, **options)
            if COMM.rank == 0:
                found, node = by_the_specification(shared_tmp_path / "a.zarr" / "data")
                assert found.dtype == whole.dtype and found.tobytes() == whole.tobytes()
                assert node["attributes"]["units"] == "m"
                assert os.listdir(shared_tmp_path) == ["a.zarr"]
            COMM.Barrier()
