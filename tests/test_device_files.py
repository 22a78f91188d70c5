"""Files of arrays on a device: what the CPU writes and reads, through a bounded part of host memory."""

import gc
import itertools
import math
import os

import h5py
import numpy as np
import pytest
from mpi4py import MPI

import mpihpc
from fake_device import FakeDevice
from mpihpc.core import staging
from mpihpc.core.tally import copied
from mpihpc.io import datasets, filling, series
from mpihpc.linalg import layouts

COMM = MPI.COMM_WORLD
SHAPES = [((23, 9), "d"), ((5, 4, 7), "F"), ((100,), "i2"), ((9, 9), "?"), ((2, 1), "d"), ((0, 3), "d")]


@pytest.fixture(params=["direct", "staged"])
def device(request):
    return FakeDevice(request.param)


@pytest.fixture
def slab(device, monkeypatch):
    """Bytes of a slab: some cells, so that blocks have many, and not all ranks as many."""
    size = 64 if device.direct else 200
    monkeypatch.setattr(staging, "SLAB_BYTES", size)
    return size


def grids(ndim):
    """The one that cuts the first axis alone, and the one that cuts all axes the most."""
    every = [g for g in itertools.product(range(1, COMM.size + 1), repeat=ndim) if math.prod(g) == COMM.size]
    return {(COMM.size,) + (1,) * (ndim - 1), min(every, key=lambda g: (max(g), g))}


def numbers(shape, kind):
    return (np.arange(math.prod(shape)).reshape(shape) * 37 % 101).astype(kind)


def stored(file, dataset="data"):
    """What plain h5py finds, on rank 0, for all: the cells, and how they lie in the file."""
    found = None
    if COMM.rank == 0:
        with h5py.File(file) as h5:
            found = h5[dataset][()], h5[dataset].chunks, h5[dataset].compression_opts
    return COMM.bcast(found)


def in_its_memory(device, slab, step):
    """The bound: two slabs, or two chunks where these are larger, whatever the block. And nothing stays."""
    assert device.pinned_most <= 2 * max(slab, step)
    assert device.pinned_now == 0
    device.pinned_most = 0


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"compress": "gzip:1"}])
def test_write(device, slab, shared_tmp_path, monkeypatch, options):
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 200)  # many chunks, across the blocks of all ranks
    for shape, kind in SHAPES:
        whole = numbers(shape, kind)
        for dims in grids(len(shape)):
            u = mpihpc.asarray(whole, dims=dims, halo=1)
            v = mpihpc.asarray(whole, dims=dims, halo=(2,) * len(shape), device=device)
            out = copied.to_host
            mpihpc.io.write(shared_tmp_path / "there.h5", v, **options)
            assert COMM.allreduce(copied.to_host - out) >= whole.nbytes
            mpihpc.io.write(shared_tmp_path / "here.h5", u, **options)
            found, *how = stored(shared_tmp_path / "there.h5")
            wanted, *wanted_how = stored(shared_tmp_path / "here.h5")
            assert found.dtype == whole.dtype and found.tobytes() == whole.tobytes() == wanted.tobytes()
            assert how == wanted_how
            in_its_memory(device, slab, 200)


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"compress": "gzip:1"}])
def test_write_what_is_cut_for_a_product(device, slab, shared_tmp_path, monkeypatch, options):
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 200)
    whole = numbers((37, 29), "d")
    for cut in (layouts(37, 29, 23).c, layouts(37, 11, 29).a):
        v = mpihpc.asarray(whole, device=device).recut(cut)
        mpihpc.io.write(shared_tmp_path / "a.h5", v, **options)
        assert stored(shared_tmp_path / "a.h5")[0].tobytes() == whole.tobytes()
        in_its_memory(device, slab, 200)


@pytest.mark.parametrize("compress", [None, "gzip:1"])
@pytest.mark.parametrize("chunk", [1 << 30, 200])
def test_snapshots(device, slab, shared_tmp_path, monkeypatch, compress, chunk):
    monkeypatch.setattr(series, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", chunk)
    for shape in [(13, 7), (40,), (3, 4, 5)]:
        whole = numbers(shape, "d")
        u = mpihpc.asarray(whole, halo=1, device=device)
        with mpihpc.io.open(shared_tmp_path / "s.h5", "w") as writer:
            snapshots = writer.series("u", u, compress=compress)
            for t in range(3):
                snapshots.append(u, t)
                u.local[...] += 1  # what was written is what it was at the call
        found, *_ = stored(shared_tmp_path / "s.h5", "u")
        assert np.array_equal(found, whole + np.arange(3).reshape((3,) + (1,) * whole.ndim))
        in_its_memory(device, slab, min(chunk, whole.nbytes))


def test_read(device, slab, shared_tmp_path):
    whole = numbers((7, 5, 3), "i2")
    if COMM.rank == 0:
        for name, a in [("c", whole), ("f", np.asfortranarray(whole)), ("big", whole.astype(">f8"))]:
            np.save(shared_tmp_path / f"{name}.npy", a)
            np.savez_compressed(shared_tmp_path / f"{name}.npz", z=a, other=a[0])
        with h5py.File(shared_tmp_path / "h.h5", "w") as h5:
            h5["plain"] = whole
            h5.create_dataset("packed", data=whole, chunks=(4, 3, 2), compression="gzip")
            h5.create_dataset("big", data=whole.astype(">f4"))
            h5["empty"] = whole[:0]
    COMM.Barrier()
    files = [f"{name}.npy" for name in ("c", "f", "big")] + [f"{name}.npz:z" for name in ("c", "f", "big")]
    files += [f"h.h5:{name}" for name in ("plain", "packed", "big", "empty")]
    for file in files:
        name, dataset = mpihpc.io.split_name(file)
        for dtype in (None, complex):
            for dims in grids(3):
                u = mpihpc.io.read(shared_tmp_path / name, dataset, dtype=dtype, dims=dims, halo=1)
                into = copied.to_device
                v = mpihpc.io.read(shared_tmp_path / name, dataset, dtype=dtype, dims=dims, halo=1, device=device)
                assert copied.to_device - into == v.box.size * v.dtype.itemsize
                assert v.device is device and v.dtype == u.dtype
                found = v.gather(None)
                assert found.tobytes() == u.gather(None).tobytes()
                assert np.array_equal(found, whole[:0] if file.endswith("empty") else whole), file
                in_its_memory(device, slab, 24 * v.dtype.itemsize)


def test_a_failure_gives_all_back(device, slab, shared_tmp_path, monkeypatch):
    """Of one rank, in the middle of a file."""
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 100)
    if h5py.get_config().mpi:
        pytest.skip("a parallel HDF5 ends the job")
    real = filling.tick
    ticks = []

    def fails():
        ticks.append(0)
        if COMM.rank == COMM.size - 1 and len(ticks) == 2:
            raise OSError("on purpose")
        real()

    monkeypatch.setattr(filling, "tick", fails)
    u = mpihpc.asarray(numbers((60, 9), "d"), device=device)
    for options in [{"compress": "gzip"}, {"chunks": True}]:
        ticks.clear()
        with pytest.raises(OSError, match="on purpose"):
            mpihpc.io.write(shared_tmp_path / "a.h5", u, **options)
        COMM.Barrier()
        assert os.listdir(shared_tmp_path) == []
        gc.collect()  # of what the error's traceback held
        assert device.pinned_now == 0
