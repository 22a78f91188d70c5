"""Writing into a file that holds other things: they stay, whatever happens."""

import fcntl
import json
import os

import h5py
import numpy as np
import pytest

import mpihpc
from mpihpc.io.attributes import storable


def on_root(comm, action):
    """Rank 0 alone does it, the others wait."""
    if comm.rank == 0:
        action()
    comm.Barrier()


def foreign(file):
    """A file as others write them: groups, links, axes, references, attributes."""
    with h5py.File(file, "w", track_order=True) as h5:
        h5.attrs["title"] = "survey"
        h5.attrs["bytes"] = np.bytes_(b"\xb0C")
        raw = h5.create_dataset("raw", data=np.arange(20.0).reshape(4, 5), chunks=(2, 5), compression="gzip")
        raw.attrs["units"] = "m"
        h5["other/mask"] = np.arange(3)
        h5["other"].attrs["about"] = "masks"
        for axis, (name, n) in enumerate([("lat", 4), ("lon", 5)]):
            h5[name] = np.linspace(0, 1, n)
            h5[name].make_scale(name)
            raw.dims[axis].attach_scale(h5[name])
        h5["soft"] = h5py.SoftLink("/raw")
        h5["elsewhere"] = h5py.ExternalLink("no.h5", "/x")
        h5["again"] = raw  # a hard link
        h5["texts"] = ["a", "b"]


def content(file, but=()):
    """All that is in a file, as h5py finds it: links, values and attributes, in their order."""
    found = []
    with h5py.File(file) as h5:

        def look(group, above):
            for name in group:
                link = group.get(name, getlink=True)
                path = above + name
                if path in but:
                    continue
                if not isinstance(link, h5py.HardLink):
                    found.append((path, vars(link)))
                    continue
                item = group[name]
                attrs = {k: repr(v) for k, v in item.attrs.items() if "LIST" not in k}
                if isinstance(item, h5py.Group):
                    found.append((path, attrs))
                    look(item, f"{path}/")
                else:
                    found.append((path, attrs, item.dtype, item.shape, item.chunks, item[()].tobytes()))

        look(h5, "")
    return found


def refused(comm, error, text, action):
    """The same line on all ranks."""
    with pytest.raises(error, match=text) as caught:
        action()
    lines = comm.allgather(str(caught.value))
    assert len(set(lines)) == 1 and "\n" not in lines[0]


def taken(file):
    with open(file, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"compress": "gzip"}])
@pytest.mark.parametrize("name", ["smooth", "other/smooth", "new/deep/smooth"])
def test_what_is_there_stays(comm, shared_tmp_path, name, options):
    file = shared_tmp_path / "a.h5"
    on_root(comm, lambda: foreign(file))
    on_root(comm, lambda: os.chmod(file, 0o600))
    before = comm.bcast(content(file) if comm.rank == 0 else None)
    whole = np.random.default_rng(0).random((300, 700))
    u = mpihpc.asarray(whole, comm=comm, halo=1)
    for _ in range(2):  # added, and then replaced
        mpihpc.io.write(file, u, name, attrs={"units": "K"}, **options)
    if comm.rank == 0:
        assert content(file, but=(name, "new")) == before
        with h5py.File(file) as h5:
            assert np.array_equal(h5[name], whole) and dict(h5[name].attrs) == {"units": "K"}
            assert h5.attrs["title"] == "survey" and h5.attrs["ranks"] == comm.size
            assert [len(axis) for axis in h5["raw"].dims] == [1, 1] and h5["raw"].dims[1][0] == h5["lon"]
        assert os.stat(file).st_mode & 0o777 == 0o600
        assert os.listdir(shared_tmp_path) == ["a.h5"]
    comm.Barrier()


def test_one_of_the_name_is_replaced(comm, shared_tmp_path):
    """Its axes stay, and so do those that have it by another name; a link is replaced, not what it leads to."""
    file = shared_tmp_path / "a.h5"
    on_root(comm, lambda: foreign(file))
    before = comm.bcast(content(file, but=("raw", "soft", "elsewhere")) if comm.rank == 0 else None)
    for name in ("raw", "soft", "elsewhere"):
        mpihpc.io.write(file, mpihpc.ones((7, 3), "f4", comm=comm), name)
    if comm.rank == 0:
        assert content(file, but=("raw", "soft", "elsewhere")) == before
        with h5py.File(file) as h5:
            for name in ("raw", "soft", "elsewhere"):
                assert isinstance(h5.get(name, getlink=True), h5py.HardLink)
                assert np.array_equal(h5[name], np.ones((7, 3)))
    comm.Barrier()


def test_a_result_that_is_alone_is_replaced_without_a_gap(comm, shared_tmp_path):
    file = shared_tmp_path / "a.h5"
    u = mpihpc.ones((100, 90), comm=comm)
    sizes = []
    for _ in range(3):
        mpihpc.io.write(file, u, "g/u")
        sizes.append(os.path.getsize(file))
        comm.Barrier()
    assert sizes[0] == sizes[1] == sizes[2]
    for _ in range(2):
        with mpihpc.io.open(file, "a", comm=comm) as writer:
            snapshots = writer.series("s/u", u)
            snapshots.append(u, 0)
        sizes.append(os.path.getsize(file))
        comm.Barrier()
    if comm.rank == 0:
        with h5py.File(file) as h5:
            assert list(h5["s/t"]) == [0] and h5["s/u"].dims[0]["t"] == h5["s/t"] and "g/u" in h5
    with mpihpc.io.open(file, "w", comm=comm) as writer:  # a new file, whatever was there
        writer.write("v", u)
    if comm.rank == 0:
        with h5py.File(file) as h5:
            assert list(h5) == ["v"]
    comm.Barrier()


def test_mode_a(comm, shared_tmp_path):
    file = shared_tmp_path / "a.h5"
    u = mpihpc.ones(6, comm=comm)
    for name in ("a", "b", "b", "c"):
        with mpihpc.io.open(file, "a", comm=comm) as writer:
            writer.attrs[f"last {name}"] = 1
            writer.write(name, u)
    with mpihpc.io.open(file, "a", comm=comm) as writer:  # attributes alone
        writer.attrs["note"] = "mine"
    if comm.rank == 0:
        with h5py.File(file) as h5:
            assert list(h5) == ["a", "b", "c"] and h5.attrs["note"] == "mine" and h5.attrs["last a"] == 1
    comm.Barrier()


def test_what_cannot_be_added_is_refused_and_harms_nothing(comm, shared_tmp_path):
    file, u = shared_tmp_path / "a.h5", mpihpc.ones((4, 5), comm=comm)
    on_root(comm, lambda: foreign(file))
    before = taken(file)
    for name, text in [
        ("other", "it is a group there"),
        ("raw/x", "'raw' is no group there"),
        ("lon", "it is an axis of other datasets"),
        ("elsewhere/x", "'elsewhere' leads to another file"),
        ("gr\udcf6sse", "it is not UTF-8"),
    ]:
        refused(comm, ValueError, text, lambda name=name: mpihpc.io.write(file, u, name))
    # A program asks before it computes.
    with pytest.raises(ValueError, match="it is a group there"):
        mpihpc.io.check_target(file, "other")
    with pytest.raises(ValueError, match="unknown compression"):
        mpihpc.io.write(file, u, "raw", compress="lzf")
    with (
        pytest.raises(ValueError, match="'raw' could not be written"),
        mpihpc.io.open(file, "a", comm=comm) as writer,
        pytest.raises(ValueError, match="attribute 'k' cannot be stored"),
    ):
        writer.write("raw", u, attrs={"k": {}})
    assert taken(file) == before
    on_root(comm, lambda: (shared_tmp_path / "cut.h5").write_bytes(before[:-1000]))
    on_root(comm, lambda: (shared_tmp_path / "text.h5").write_text("no HDF5\n" * 100))
    for name, text in [("cut.h5", "cannot be opened"), ("text.h5", "no HDF5 file")]:
        refused(comm, OSError, text, lambda name=name: mpihpc.io.write(shared_tmp_path / name, u))
    comm.Barrier()
    assert sorted(os.listdir(shared_tmp_path)) == ["a.h5", "cut.h5", "text.h5"]
    assert taken(shared_tmp_path / "cut.h5") == before[:-1000]


def test_axes_of_others_are_not_taken_for_snapshots(comm, shared_tmp_path):
    file, u = shared_tmp_path / "a.h5", mpihpc.ones((4, 5), comm=comm)

    def make():
        foreign(file)
        with h5py.File(file, "r+") as h5:
            h5["x"] = [1.0]

    on_root(comm, make)
    with mpihpc.io.open(file, "a", comm=comm) as writer:
        refused(comm, ValueError, "'x', the name of an axis, is there", lambda: writer.series("u", u))
        writer.series("run/u", u).append(u, 3)
    if comm.rank == 0:
        with h5py.File(file) as h5:
            assert list(h5["x"]) == [1] and list(h5["run/t"]) == [3] and "raw" in h5
    comm.Barrier()


def test_who_writes_the_file_meanwhile_is_not_undone(comm, shared_tmp_path):
    file, u = shared_tmp_path / "a.h5", mpihpc.ones(6, comm=comm)
    on_root(comm, lambda: foreign(file))
    if comm.rank == 0:  # h5py with locks holds it so
        stream = file.open("rb")
        fcntl.flock(stream, fcntl.LOCK_EX)
    comm.Barrier()
    refused(comm, OSError, "a program has it open for writing", lambda: mpihpc.io.write(file, u, "v"))
    if comm.rank == 0:
        stream.close()

    def change():
        with h5py.File(file, "r+") as h5:
            h5["theirs"] = 1

    with (
        pytest.raises(OSError, match="changed since it was copied: the new content is in") as caught,
        mpihpc.io.open(file, "a", comm=comm) as writer,
    ):
        writer.write("ours", u)
        on_root(comm, change)
    if comm.rank == 0:
        with h5py.File(file) as h5, h5py.File(str(caught.value).rpartition(" in ")[2]) as kept:
            assert "theirs" in h5 and "ours" not in h5 and np.array_equal(kept["ours"], np.ones(6))
    comm.Barrier()


def test_attributes_that_hdf5_has_no_type_for(comm, shared_tmp_path):
    file, u = shared_tmp_path / "a.h5", mpihpc.ones(6, comm=comm)
    for name, value in [
        ("k", {}),
        ("k", None),
        ("k", object()),
        ("k", np.zeros(10000)),
        ("k", "a\0b"),
        ("k\0", 1),
        (3, 1),
    ]:
        refused(
            comm,
            ValueError,
            f"attribute {name!r} cannot be stored".replace("\\", r"\\"),
            lambda name=name, value=value: mpihpc.io.write(file, u, attrs={"fine": 1, name: value}),
        )
    assert not file.exists()
    attrs = {"units": "\udcb0C", "raw": b"\xb0C", "gr\udcf6": 1, "names": np.array(["a", "é"]), "plain": "°C"}
    mpihpc.io.write(file, u, attrs=attrs)
    if comm.rank == 0:
        with h5py.File(file) as h5:
            found = h5["data"].attrs
            assert found["units"] == found["raw"] == "\udcb0C" and found["plain"] == "°C"
            assert list(found["names"]) == ["a", "é"] and found[b"gr\xf6"] == 1
    comm.Barrier()
    assert storable({}) == {}


def test_file_names_that_are_not_utf_8(comm, shared_tmp_path):
    file, u = os.path.join(shared_tmp_path, "gr\udcf6sse.h5"), mpihpc.asarray(np.arange(6.0), comm=comm)
    for options in ({}, {"compress": "gzip"}, {"chunks": True}):
        mpihpc.io.write(file, u, "a", **options)
        mpihpc.io.write(file, u, "b", **options)
        assert np.array_equal(mpihpc.io.read(file, "a", comm=comm).gather(None), np.arange(6.0))


def test_zarr_follows_the_same_rules(comm, shared_tmp_path):
    file, u = shared_tmp_path / "a.zarr", mpihpc.ones(6, comm=comm)
    for name in ("a", "b"):
        with mpihpc.io.open(file, "a", comm=comm) as writer:
            writer.attrs[f"made {name}"] = 1
            writer.write(name, u)
    assert {"a", "b"} <= set(os.listdir(file))
    assert json.loads((file / "zarr.json").read_text())["attributes"] == {"made a": 1, "made b": 1}
    comm.Barrier()
    with mpihpc.io.open(file, "w", comm=comm) as writer:
        writer.write("c", u)
    assert set(os.listdir(file)) == {"c", "zarr.json"}
