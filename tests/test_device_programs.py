"""What stands on arrays, with arrays on a device: filters, pictures, the stencil program from begin to end."""

import dataclasses

import h5py
import numpy as np
import pytest
from mpi4py import MPI

import mpihpc
from fake_device import FakeDevice
from mpihpc import ndimage
from mpihpc.core import staging, topology
from mpihpc.programs.stencil.job import Config, run
from mpihpc.programs.stencil.picture import thumbnail
from mpihpc.view import PIXELS

COMM = MPI.COMM_WORLD


@pytest.fixture(params=["direct", "staged"])
def device(request):
    return FakeDevice(request.param)


@pytest.fixture
def found(device, monkeypatch):
    """``--device gpu`` finds the device, on a communicator that has not looked for one before."""
    real = topology.find_device
    monkeypatch.setattr(topology, "find_device", lambda name, rank: device if name == "gpu" else real(name, rank))
    monkeypatch.setattr(topology.Topology, "_tell_of_sharing", lambda self, device: None)
    comm = COMM.Dup()
    yield comm
    comm.Free()


def numbers(shape, kind="d"):
    rng = np.random.default_rng(3)
    values = rng.standard_normal(shape) * 8
    return (values + 1j * rng.standard_normal(shape) if kind in "FD" else values).astype(kind)


def test_filters(device):
    for kind, weights in [("d", [[0, 1, 0], [1, -4, 1], [0, 1, 0]]), ("i2", np.ones((3, 2))), ("F", [[1j, 2], [0, 1]])]:
        whole = numbers((21, 17), kind)
        u, v = mpihpc.asarray(whole), mpihpc.asarray(whole, device=device)
        for filter in (ndimage.correlate, ndimage.convolve):
            for options in ({"mode": "wrap"}, {"mode": ("mirror", "constant"), "cval": 2.0}, {"output": "c16"}):
                wanted, got = filter(u, weights, **options), filter(v, weights, **options)
                assert got.device is device and got.dtype == wanted.dtype
                assert got.gather(None).tobytes() == wanted.gather(None).tobytes()
            for dtype in ("f4", "f8", "c16") if kind != "F" else ("c8", "c16"):
                here, there = (mpihpc.zeros((21, 17), dtype, halo=1, device=d) for d in ("cpu", device))
                assert filter(v, weights, output=there) is there
                filter(u, weights, output=here)
                assert there.gather(None).tobytes() == here.gather(None).tobytes()
    with pytest.raises(ValueError, match=r"output is on cpu, input on fake \(\w+ transport\): use \.to_device"):
        ndimage.correlate(v, weights, output=mpihpc.zeros((21, 17), complex))


@pytest.mark.parametrize("shape", [(PIXELS + 7,), (2 * PIXELS + 1, 13), (5, 30, 20), (2, 3, 9, 8)])
@pytest.mark.parametrize("kind", "dF")
def test_thumbnails(device, shape, kind):
    whole = numbers(shape, kind)
    wanted, got = (thumbnail(mpihpc.asarray(whole, halo=1, device=d)) for d in ("cpu", device))
    assert (got is None) == (COMM.rank > 0)
    if got is not None:
        assert got.dtype == wanted.dtype and got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("kind", ["?", "i2", "d", "D"])
def test_checksums_take_two_slabs(device, monkeypatch, kind):
    whole = numbers((23, 9, 4), kind)
    u = mpihpc.asarray(whole, halo=1)
    for size in (1, 100, 1 << 24):
        monkeypatch.setattr(staging, "SLAB_BYTES", size)
        v = u.to_device(device)
        assert v.checksum() == u.checksum()
        assert device.pinned_most <= 2 * max(size, whole.itemsize) and device.pinned_now == 0
        device.pinned_most = 0


CASES = [
    Config(shape=(40, 37), steps=7, kernel="heat", output="out.h5"),
    Config(shape=(40, 37), steps=7, kernel="gaussian:1", dtype="float32", fuse=2, overlap="on", output="out.h5:a/b"),
    Config(input="in.h5", steps=6, kernel="laplace:4", every=2, mode="wrap", output="out.h5:u"),
    Config(input="in.npz:z", steps=5, kernel="sharpen", every=3, compress="gzip:1", dtype="complex64", output="out.h5"),
    Config(input="in.npy", steps=2, kernel="mean:3", mode="mirror", compress="gzip", verify=True, output="out.h5"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}-{case.every}")
def test_the_program(device, found, shared_tmp_path, monkeypatch, case):
    monkeypatch.setattr(staging, "SLAB_BYTES", 500)
    if COMM.rank == 0:
        whole = numbers((33, 21))
        np.save(shared_tmp_path / "in.npy", whole)
        np.savez(shared_tmp_path / "in.npz", z=whole, y=whole)
        with h5py.File(shared_tmp_path / "in.h5", "w") as h5:
            h5["z"] = whole.astype("i4")
    COMM.Barrier()
    results, files = [], []
    for device_name in ("cpu", "gpu"):
        paths = {key: f"{shared_tmp_path / text}" for key in ("input", "output") if (text := getattr(case, key))}
        config = dataclasses.replace(case, **paths, device=device_name, quiet=True, plot=f"{shared_tmp_path}/out.png")
        results.append(run(found, config))
        if COMM.rank == 0:
            with h5py.File(shared_tmp_path / "out.h5") as h5:
                name = "data" if "data" in h5 else case.output.partition(":")[2]
                cells = h5[name][()].tobytes()
                files.append((cells, (shared_tmp_path / "out.png").read_bytes()))
        COMM.Barrier()
    here, there = results
    assert (here.device, there.device) == ("cpu", "gpu")
    assert here.checksum == there.checksum
    assert here.verify_error == there.verify_error
    assert not files or files[0] == files[1]
    assert device.pinned_now == 0
