"""Attributes and names: what HDF5 cannot keep is refused by name, before the work; all else is there as it was."""

import os

import h5py
import numpy as np
import pytest

import mpihpc

# Given, and what HDF5 must hold: the text or the bytes themselves, not what h5py makes of them.
KEPT = [
    ("K", b"K"),
    ("µm", "µm".encode()),
    (b"\xb0C", b"\xb0C"),
    ("\udcb0C", b"\xb0C"),  # as h5py reads Latin-1, and Python the names of files
    (np.str_("µm"), "µm".encode()),
    (["a", "\udcb0", "µ"], [b"a", b"\xb0", "µ".encode()]),
    (np.array(["x", "µ"]), [b"x", "µ".encode()]),
    (0.5, 0.5),
    (np.arange(3, dtype="i2"), [0, 1, 2]),
    (np.ma.masked_array([1.0, 2.0], mask=False), [1.0, 2.0]),
]
REFUSED = [
    ("k", None, "Object dtype"),
    ("k", {"a": 1}, "dtype"),
    ("k", "a\0b", "NULL"),
    ("k", "\ud800", "surrogate"),
    ("k", ["a", None], "dtype"),
    ("k", np.datetime64("2020-01-01"), "dtype"),
    ("k", np.ma.masked_array([1.0, 2.0], [False, True]), "filled"),
    ("k", np.array([], "U1"), "dtype"),
    ("k", np.zeros(8192), "too large"),
    ("a\0b", 1, "no name"),
    ("", 1, "no name"),
    (1, 1, "no name"),
]


def held(file, where):
    """The attribute's cells, as HDF5 has them: text undecoded."""
    with h5py.File(file) as f:
        attribute = h5py.h5a.open(f[where].id, b"k")
        if not isinstance(attribute.get_type(), h5py.h5t.TypeStringID):
            return f[where].attrs["k"]
        cells = np.empty(attribute.shape, attribute.dtype)
        attribute.read(cells)
        return cells[()] if cells.ndim else cells.item()


def write(file, u, kind, name, value):
    """The attribute on an array, on snapshots, or on the file."""
    with mpihpc.io.open(file, "w", comm=u.comm) as writer:
        if kind == "file":
            writer.attrs[name] = value
        attrs = None if kind == "file" else {name: value}
        if kind == "snapshots":
            writer.series("data", u, attrs=attrs).append(u, 0)
        else:
            writer.write("data", u, attrs=attrs)


@pytest.mark.parametrize("kind", ["array", "snapshots", "file"])
def test_kept(comm, shared_tmp_path, kind):
    u = mpihpc.ones((3, 4), comm=comm)
    for value, right in KEPT:
        write(shared_tmp_path / "a.h5", u, kind, "k", value)
        found = comm.bcast(
            held(shared_tmp_path / "a.h5", "/" if kind == "file" else "data") if comm.rank == 0 else None
        )
        assert np.array_equal(found, np.array(right) if isinstance(right, list) else right), value
        comm.Barrier()


@pytest.mark.parametrize("kind", ["array", "snapshots", "file"])
@pytest.mark.parametrize("name, value, why", REFUSED)
def test_refused_by_name_with_nothing_left(comm, shared_tmp_path, kind, name, value, why):
    u = mpihpc.ones((3, 4), comm=comm)
    with pytest.raises(ValueError, match=why) as caught:
        write(shared_tmp_path / "a.h5", u, kind, name, value)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert repr(name) in str(caught.value) and "\n" not in str(caught.value)
    comm.Barrier()
    assert os.listdir(shared_tmp_path) == []


def test_update_of_the_file_is_checked_too(comm, shared_tmp_path):
    with mpihpc.io.open(shared_tmp_path / "a.h5", "w", comm=comm) as writer:
        writer.write("data", mpihpc.ones(3, comm=comm))
        with pytest.raises(ValueError, match="'when' cannot be stored"):
            writer.attrs.update(who="me", when=None)
        writer.attrs |= {"where": "here"}
    found = None
    if comm.rank == 0:
        with h5py.File(shared_tmp_path / "a.h5") as f:
            found = {name: f.attrs.get(name) for name in ("who", "when", "where")}
    assert comm.bcast(found) == {"who": "me", "when": None, "where": "here"}


def test_attributes_of_others_go_round(comm, shared_tmp_path):
    """What h5py read from somebody's Latin-1 can be written again, with the same bytes."""
    carried = None
    if comm.rank == 0:
        with h5py.File(shared_tmp_path / "in.h5", "w") as f:
            f["x"] = np.ones(3)
            f["x"].attrs.create("k", b"\xb0C", dtype=h5py.string_dtype("ascii"))
        with h5py.File(shared_tmp_path / "in.h5") as f:
            carried = dict(f["x"].attrs)
    mpihpc.io.write(shared_tmp_path / "out.h5", mpihpc.ones(3, comm=comm), attrs=comm.bcast(carried))
    assert comm.bcast(held(shared_tmp_path / "out.h5", "data") if comm.rank == 0 else None) == b"\xb0C"


@pytest.mark.parametrize("name", ["x\udcb0", "a\0b", "g\0/x"])
def test_names_of_datasets(comm, shared_tmp_path, name):
    for work in (
        lambda: mpihpc.io.check_target(shared_tmp_path / "a.h5", name),  # what programs ask before they begin
        lambda: mpihpc.io.write(shared_tmp_path / "a.h5", mpihpc.ones(3, comm=comm), name),
    ):
        with pytest.raises(ValueError, match="is no name for a dataset"):
            work()
    comm.Barrier()
    assert os.listdir(shared_tmp_path) == []
