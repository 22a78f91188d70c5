"""Files: what was written is what is read, by us and by plain h5py, however many ranks wrote it."""

import itertools
import math
import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpihpc
from mpihpc.io import datasets, filling, series


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def on_root(comm, action):
    """Rank 0 alone does it, the others wait."""
    if comm.rank == 0:
        action()
    comm.Barrier()


def stored(comm, file, dataset="data"):
    """What plain h5py finds, on rank 0, for all."""
    found = None
    if comm.rank == 0:
        with h5py.File(file) as h5:
            found = h5[dataset][()]
    return comm.bcast(found)


@st.composite
def arrays(draw, size):
    ndim = draw(st.integers(1, 5))
    shape = tuple(draw(st.integers(0, 6 if ndim < 4 else 3)) for _ in range(ndim))
    dims = st.sampled_from(grids(size, ndim))
    halo = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(ndim))
    return shape, draw(st.sampled_from("?bHifdFD")), draw(dims), draw(dims), halo


def test_round_trip(comm, verdict, shared_tmp_path):
    file = shared_tmp_path / "out.h5"

    @settings(max_examples=40)
    @given(arrays(comm.size))
    def check(case):
        shape, kind, dims, other, halo = case
        with verdict(comm):
            whole = (np.arange(math.prod(shape)).reshape(shape) * 37 % 101).astype(kind)
            u = mpihpc.asarray(whole, comm=comm, dims=dims, halo=halo)
            mpihpc.io.write(file, u)
            found = stored(comm, file)
            assert found.dtype == whole.dtype and np.array_equal(found, whole)
            back = mpihpc.io.read(file, comm=comm, dims=other, halo=1)
            assert back.dtype == whole.dtype and back.decomposition.dims == other
            assert np.array_equal(back.gather(None), whole)
            assert os.listdir(shared_tmp_path) == ["out.h5"]

    check()


def test_writes_in_rounds(comm, shared_tmp_path, monkeypatch):
    """More than one MPI-IO call allows: the same code, with a smaller limit."""
    monkeypatch.setattr(filling, "_ROUND_BYTES", 64)
    whole = np.random.default_rng(0).random((3, 50))
    mpihpc.io.write(shared_tmp_path / "a.h5", mpihpc.asarray(whole, comm=comm, halo=1))
    assert np.array_equal(stored(comm, shared_tmp_path / "a.h5"), whole)


def test_the_file_says_where_it_comes_from(comm, shared_tmp_path):
    file = shared_tmp_path / "a.h5"
    a, b = mpihpc.ones((4, 3), comm=comm), mpihpc.zeros(5, "f4", comm=comm)
    with mpihpc.io.open(file, "w", comm=comm) as writer:
        writer.attrs["note"] = "mine"
        writer.write("a", a, attrs={"units": "m"})
        writer.write("group/b", b)
        assert not file.exists()  # not before it is whole
    if comm.rank == 0:
        with h5py.File(file) as h5:
            assert {"command", "versions", "ranks", "decomposition", "note"} <= set(h5.attrs)
            assert h5.attrs["ranks"] == comm.size
            assert dict(h5["a"].attrs) == {"units": "m"}
            for dataset in (h5["a"], h5["group/b"]):
                assert dataset.chunks is None and dataset.id.get_offset() is not None
            assert h5["group/b"].dtype == np.float32


def test_the_layout_does_not_depend_on_the_ranks(comm, shared_tmp_path):
    from mpi4py import MPI

    whole = np.random.default_rng(1).random((11, 6))
    mpihpc.io.write(shared_tmp_path / "all.h5", mpihpc.asarray(whole, comm=comm))
    if comm.rank == 0:
        mpihpc.io.write(shared_tmp_path / "one.h5", mpihpc.asarray(whole, comm=MPI.COMM_SELF))
        with h5py.File(shared_tmp_path / "all.h5") as a, h5py.File(shared_tmp_path / "one.h5") as b:
            assert a["data"].id.get_offset() == b["data"].id.get_offset()
            assert np.array_equal(a["data"], b["data"])


def test_an_error_leaves_the_old_file_and_nothing_else(comm, shared_tmp_path):
    file = shared_tmp_path / "a.h5"
    mpihpc.io.write(file, mpihpc.ones(6, comm=comm))
    with pytest.raises(RuntimeError, match="on purpose"), mpihpc.io.open(file, "w", comm=comm) as writer:
        writer.write("data", mpihpc.zeros(6, comm=comm))
        raise RuntimeError("on purpose")
    comm.Barrier()
    assert os.listdir(shared_tmp_path) == ["a.h5"]
    assert np.array_equal(stored(comm, file), np.ones(6))


def test_a_link_stays_a_link(comm, shared_tmp_path):
    on_root(comm, lambda: os.symlink(shared_tmp_path / "real.h5", shared_tmp_path / "link.h5"))
    mpihpc.io.write(shared_tmp_path / "link.h5", mpihpc.ones(6, comm=comm))
    assert (shared_tmp_path / "link.h5").is_symlink()
    assert np.array_equal(stored(comm, shared_tmp_path / "real.h5"), np.ones(6))


def test_bad_output_is_the_same_line_on_all_ranks(comm, shared_tmp_path):
    u = mpihpc.ones(3, comm=comm)
    before = sorted(os.listdir(shared_tmp_path))
    comm.Barrier()
    for name, error, text in [
        ("no/a.h5", FileNotFoundError, "no folder"),
        ("a.txt", ValueError, "end it with .h5"),
    ]:
        with pytest.raises(error, match=text) as caught:
            mpihpc.io.write(shared_tmp_path / name, u)
        assert len(set(comm.allgather(str(caught.value)))) == 1
    with pytest.raises(ValueError, match="mode 'x'"):
        mpihpc.io.open(shared_tmp_path / "a.h5", "x", comm=comm)
    other = comm.Dup()
    v = mpihpc.ones(3, comm=other)
    with (
        pytest.raises(ValueError, match="another communicator"),
        mpihpc.io.open(shared_tmp_path / "a.h5", "w", comm=comm) as writer,
    ):
        writer.write("data", v)
    other.Free()
    comm.Barrier()
    assert sorted(os.listdir(shared_tmp_path)) == before


@pytest.mark.parametrize("options", [{"compress": "gzip"}, {"compress": "gzip:9"}, {"chunks": True}])
def test_chunked_files_do_not_depend_on_the_cut(comm, shared_tmp_path, monkeypatch, options):
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", 200)  # many chunks in small arrays, across the blocks of all ranks
    for kind, shape in [("d", (23, 9)), ("F", (5, 4, 7)), ("i2", (100,)), ("?", (9, 9)), ("d", (2, 1)), ("d", (0, 3))]:
        whole = (np.arange(math.prod(shape)).reshape(shape) * 37 % 101).astype(kind)
        for dims in grids(comm.size, len(shape)):
            u = mpihpc.asarray(whole, comm=comm, dims=dims, halo=1)
            mpihpc.io.write(shared_tmp_path / "a.h5", u, **options)
            assert np.array_equal(stored(comm, shared_tmp_path / "a.h5"), whole)
            assert np.array_equal(mpihpc.io.read(shared_tmp_path / "a.h5", comm=comm).gather(None), whole)
        if comm.rank == 0 and whole.size:
            with h5py.File(shared_tmp_path / "a.h5") as h5:
                found = h5["data"]
                assert found.chunks == datasets.chunk_grid(shape, whole.itemsize)
                assert found.compression == ("gzip" if "compress" in options else None)
                assert found.compression_opts == {"gzip": 4, "gzip:9": 9}.get(options.get("compress"))
                assert math.prod(found.chunks) * whole.itemsize <= 200


@pytest.mark.parametrize("compress", [None, "gzip:1"])
@pytest.mark.parametrize("chunk", [1 << 30, 200])
def test_snapshots(comm, shared_tmp_path, monkeypatch, compress, chunk):
    monkeypatch.setattr(series, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(datasets, "_CHUNK_BYTES", chunk)
    for shape, dataset in [((13, 7), "data"), ((40,), "run/u"), ((3, 4, 5), "u"), ((2, 3, 2, 3), "u"), ((0, 2), "u")]:
        file = shared_tmp_path / "s.h5"
        whole = np.arange(math.prod(shape), dtype=float).reshape(shape)
        u = mpihpc.asarray(whole, comm=comm, halo=1)
        with mpihpc.io.open(file, "w", comm=comm) as writer:
            snapshots = writer.series(dataset, u, attrs={"units": "K"}, compress=compress)
            for t in (0, 3, 6, 7):
                u.local[...] += t
                snapshots.append(u, t)
                # Whole so far, under the name it has so far.
                partial = [p for p in os.listdir(shared_tmp_path) if p.endswith(".partial")]
                assert len(partial) == 1
                so_far = stored(comm, shared_tmp_path / partial[0], f"{dataset.rpartition('/')[0]}/t")
                assert list(so_far) == [s for s in (0, 3, 6, 7) if s <= t]
        found = stored(comm, file, dataset)
        assert found.shape == (4, *shape)
        for plane, added in zip(found, (0, 3, 9, 16), strict=True):
            assert np.array_equal(plane, whole + added)
        if comm.rank == 0:
            with h5py.File(file) as h5:
                axes = h5[dataset].dims
                assert [axis.label for axis in axes] == ["t", *"wzyx"[-len(shape) :]]
                assert list(axes[0]["t"]) == [0, 3, 6, 7]
                for axis, n in zip(list(axes)[1:], shape, strict=True):
                    assert list(axis[axis.label]) == list(range(n))
                assert h5[dataset].maxshape[0] is None and h5[dataset].attrs["units"] == "K"
        back = mpihpc.io.read(file, comm=comm)  # the axes do not count as datasets to choose from
        assert np.array_equal(back.gather(None), found)


def test_bad_snapshots_and_compression(comm, shared_tmp_path):
    u = mpihpc.ones((4, 3), comm=comm)
    file = shared_tmp_path / "a.h5"
    for options, text in [
        ({"compress": "lzf"}, "unknown compression 'lzf'"),
        ({"compress": "gzip:0"}, "level 0"),
        ({"compress": "gzip:x"}, "level x"),
    ]:
        with pytest.raises(ValueError, match=text) as caught:
            mpihpc.io.write(file, u, **options)
        assert len(set(comm.allgather(str(caught.value)))) == 1
    with pytest.raises(ValueError, match="'y' is the name of an axis"), mpihpc.io.open(file, "w", comm=comm) as writer:
        writer.series("y", u)
    with pytest.raises(ValueError, match="a snapshot of"), mpihpc.io.open(file, "w", comm=comm) as writer:
        writer.series("u", u).append(mpihpc.ones((4, 2), comm=comm), 0)
    with pytest.raises(ValueError, match="already exists"), mpihpc.io.open(file, "w", comm=comm) as writer:
        writer.write("a", u)
        writer.write("a", u)
    comm.Barrier()
    assert os.listdir(shared_tmp_path) == []


def test_whole_snapshots_survive_a_failure(comm, shared_tmp_path):
    u = mpihpc.ones((4, 3), comm=comm)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        mpihpc.io.open(shared_tmp_path / "a.h5", "w", comm=comm) as writer,
    ):
        snapshots = writer.series("u", u)
        snapshots.append(u, 5)
        raise RuntimeError("on purpose")
    comm.Barrier()
    (partial,) = os.listdir(shared_tmp_path)
    assert partial.endswith(".partial")
    assert stored(comm, shared_tmp_path / partial, "t") == [5]
    assert np.array_equal(stored(comm, shared_tmp_path / partial, "u"), np.ones((1, 4, 3)))
