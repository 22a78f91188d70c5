"""Reading: files as they are found give the values that plain h5py, NumPy and arithmetic give, on any ranks."""

import gzip
import os
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpihpc
from mpihpc.core import staging
from mpihpc.core.decomposition import Box
from mpihpc.io import formats, reading
from mpihpc.io.packing import Packing
from mpihpc.io.selection import Selection


def on_root(comm, action):
    """Rank 0 alone does it, the others wait."""
    if comm.rank == 0:
        action()
    comm.Barrier()


def read(comm, file, dataset=None, **options):
    """The whole array on every rank."""
    return mpihpc.io.read(file, dataset, comm=comm, **options).gather(None)


def refused(comm, error, text, file, dataset=None, **options):
    """All ranks are told the same line."""
    with pytest.raises(error, match=text) as caught:
        mpihpc.io.read(file, dataset, comm=comm, **options)
    lines = comm.allgather(str(caught.value))
    assert len(set(lines)) == 1 and "\n" not in lines[0]
    return lines[0]


def test_all_formats_and_dtypes_read_alike(comm, shared_tmp_path):
    whole = (np.arange(7 * 5 * 3).reshape(7, 5, 3) * 3 % 97).astype("i2")

    def make():
        np.save(shared_tmp_path / "c.npy", whole)
        np.save(shared_tmp_path / "f.npy", np.asfortranarray(whole))
        np.save(shared_tmp_path / "big.npy", whole.astype(">f8"))
        np.savez(shared_tmp_path / "a.npz", z=whole, y=whole[0])
        np.savez_compressed(shared_tmp_path / "b.npz", z=whole)
        with h5py.File(shared_tmp_path / "h.h5", "w") as h5:
            h5["group/z"] = whole
            h5["group/z"].attrs["units"] = "m"
            h5.create_dataset("chunked", data=whole, chunks=(2, 3, 2), compression="gzip")
            h5.create_dataset("big", data=whole.astype(">f4"))

    on_root(comm, make)
    for name, dataset in [
        ("c.npy", None), ("f.npy", None), ("big.npy", None), ("a.npz", "z"), ("b.npz", None),
        ("h.h5", "group/z"), ("h.h5", "/group/z"), ("h.h5", "chunked"), ("h.h5", "big"),
    ]:  # fmt: skip
        for dtype in (None, "f8", complex):
            got = mpihpc.io.read(shared_tmp_path / name, dataset, dtype=dtype, comm=comm, halo=2)
            assert got.dtype.isnative and (dtype is None or got.dtype == dtype)
            assert np.array_equal(got.gather(None), whole), (name, dataset)
    with mpihpc.io.open(shared_tmp_path / "h.h5", comm=comm) as reader:
        assert set(reader.entries) == {"group/z", "chunked", "big"}
        assert reader.entry("group/z").units == "m"
        assert reader.entry("group/z").shape == (7, 5, 3)


@pytest.mark.parametrize("limit", [1, 24, 100, 10_000])
def test_slabs_cover_each_cell_once(comm, shared_tmp_path, monkeypatch, limit):
    monkeypatch.setattr(staging, "SLAB_BYTES", limit * 8)
    whole = np.random.default_rng(0).random((9, 7, 5))

    def make():
        np.save(shared_tmp_path / "c.npy", whole)
        np.save(shared_tmp_path / "f.npy", np.asfortranarray(whole))
        with h5py.File(shared_tmp_path / "h.h5", "w") as h5:
            h5.create_dataset("z", data=whole, chunks=(2, 4, 3))

    on_root(comm, make)
    for name in ("c.npy", "f.npy", "h.h5"):
        got = mpihpc.io.read(shared_tmp_path / name, comm=comm)
        assert np.array_equal(got.gather(None), whole)


def test_bad_input_is_the_same_line_on_all_ranks(comm, shared_tmp_path):
    def make():
        with h5py.File(shared_tmp_path / "good.h5", "w") as h5:
            h5["z"], h5["text"], h5["scalar"], h5["w"] = np.ones((50, 50)), ["a"], 3.0, np.ones(3)
        data = (shared_tmp_path / "good.h5").read_bytes()
        (shared_tmp_path / "short.h5").write_bytes(data[:-100])
        (shared_tmp_path / "text.h5").write_text("no HDF5 at all")
        (shared_tmp_path / "empty.h5").write_text("")
        np.save(shared_tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
        np.save(shared_tmp_path / "good.npy", np.ones(100))
        (shared_tmp_path / "short.npy").write_bytes((shared_tmp_path / "good.npy").read_bytes()[:-8])
        for name, shape in [("huge.npy", (10**10, 10**10)), ("minus.npy", (-3, 4))]:
            with open(shared_tmp_path / name, "wb") as stream:
                header = {"descr": "<f8", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)

    on_root(comm, make)
    for name, dataset, error, text in [
        ("none.h5", None, FileNotFoundError, "none.h5: No such file"),
        ("", None, IsADirectoryError, "is a folder"),
        ("text.h5", None, OSError, "neither HDF5 nor"),
        ("empty.h5", None, OSError, "cannot be read"),
        ("short.h5", "z", OSError, "truncated"),
        ("short.npy", None, OSError, "cannot be read: .*truncated: .*800 bytes, and 792 are there"),
        ("huge.npy", None, OSError, "truncated: .*8" + 20 * "0" + " bytes, and 0 are there"),
        ("minus.npy", None, OSError, r"its shape is \(-3, 4\)"),
        ("good.h5", "zz", ValueError, r"no dataset 'zz': did you mean 'z'\?.*scalar, text, w, z"),
        ("good.h5", None, ValueError, "holds 4 datasets .*name one"),
        ("good.h5", "text", TypeError, "not numeric"),
        ("good.h5", "scalar", ValueError, "0 axes"),
        ("objects.npy", None, (TypeError, OSError), "object"),
    ]:
        with pytest.raises(error, match=text) as caught:
            mpihpc.io.read(shared_tmp_path / name, dataset, comm=comm)
        lines = comm.allgather(str(caught.value))
        assert len(set(lines)) == 1 and "\n" not in lines[0]


PARTS = [
    np.s_[-1],
    np.s_[:, 2],
    np.s_[..., ::2],
    np.s_[-1, :, ::2],
    np.s_[1:-1:3, -3:, 4:1],
    np.s_[5:100, ::7, 0],
    np.s_[2, ..., 3],
]


@pytest.mark.parametrize("limit", [5, 10_000])
@pytest.mark.parametrize("slices", PARTS, ids=str)
def test_a_part_of_an_array(comm, shared_tmp_path, monkeypatch, slices, limit):
    monkeypatch.setattr(staging, "SLAB_BYTES", limit * 8)
    whole = np.random.default_rng(0).random((9, 7, 5))

    def make():
        np.save(shared_tmp_path / "c.npy", whole)
        np.save(shared_tmp_path / "f.npy", np.asfortranarray(whole))
        np.savez(shared_tmp_path / "c.npz", z=whole)
        np.savez(shared_tmp_path / "f.npz", z=np.asfortranarray(whole))
        with h5py.File(shared_tmp_path / "h.h5", "w") as h5:
            h5["z"] = whole
        with h5py.File(shared_tmp_path / "g.h5", "w") as h5:
            h5.create_dataset("z", data=whole, chunks=(2, 4, 3), compression="gzip")

    on_root(comm, make)
    for name in ("c.npy", "f.npy", "c.npz", "f.npz", "h.h5", "g.h5"):
        found = read(comm, shared_tmp_path / name, slices=slices)
        assert found.shape == whole[slices].shape and np.array_equal(found, whole[slices]), name


@given(st.data())
@settings(max_examples=60)
def test_selections_are_numpys(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    whole = np.arange(np.prod(shape)).reshape(shape)
    bound = st.none() | st.integers(-8, 8)
    item = st.builds(slice, bound, bound, st.none() | st.integers(1, 4))
    slices = tuple(data.draw(st.integers(-n, n - 1) | item) for n in shape)
    if all(isinstance(s, int) for s in slices):
        slices = (slice(None), *slices[1:])
    part = Selection.of(shape, slices)
    wanted = whole[slices]
    assert part.shape == wanted.shape
    assert np.array_equal(whole[part.of_box(Box.whole(part.shape))].reshape(wanted.shape), wanted)
    found = np.full_like(wanted, -1)
    for slab in Box.whole(shape).slabs(data.draw(st.integers(1, 20))):
        box, where = part.inside(slab)
        found[box.slices()] = whole[slab.slices()][where].reshape(box.shape)
    assert np.array_equal(found, wanted)


def test_parts_that_are_refused(comm, shared_tmp_path):
    on_root(comm, lambda: np.save(shared_tmp_path / "a.npy", np.ones((4, 5))))
    for slices, error, text in [
        (np.s_[4], ValueError, "index 4 is out of range for axis 0 of length 4"),
        (np.s_[:, -6], ValueError, "index -6 is out of range for axis 1 of length 5"),
        (np.s_[0, 0], ValueError, "one cell of 2 axes: keep an axis"),
        (np.s_[0, 0, 0], ValueError, "3 entries for 2 axes"),
        (np.s_[..., ...], ValueError, "2 entries for 2 axes"),
        (np.s_[::-1], ValueError, "step -1 on axis 0: use 1 or more"),
        (np.s_[[0, 1]], TypeError, "use an integer, a slice"),
        (np.s_[None, :], TypeError, "use an integer, a slice"),
    ]:
        refused(comm, error, text, shared_tmp_path / "a.npy", slices=slices)
    for text in ("a", "1:2:3:4", "", "1;2"):
        with pytest.raises(ValueError, match="neither an index nor a slice"):
            mpihpc.io.parse_slices(text)


def test_values_that_do_not_fit_are_refused(comm, shared_tmp_path):
    def make():
        np.save(shared_tmp_path / "i.npy", np.r_[np.zeros(20, "i8"), 70000])
        np.save(shared_tmp_path / "f.npy", np.r_[np.zeros(20), 1e300])
        np.save(shared_tmp_path / "nan.npy", np.r_[np.zeros(20), np.nan])
        np.savez(shared_tmp_path / "half.npz", np.r_[np.zeros(20), 2.5])
        np.save(shared_tmp_path / "c.npy", np.r_[np.zeros(20), 1e300j])
        np.save(shared_tmp_path / "edge.npy", np.r_[0, 2.0**63])
        np.save(shared_tmp_path / "inf.npy", np.r_[0, np.inf])

    on_root(comm, make)
    for name, dtype, text in [
        ("i", "i2", "70000 does not fit dtype int16: read it as int64"),
        ("i", "f2", "70000 does not fit dtype float16"),
        ("i", "?", "70000 does not fit dtype bool"),
        ("f", "f4", "1e.300 does not fit dtype float32: read it as float64"),
        ("nan", "i4", "nan does not fit dtype int32"),
        ("c", "c8", "does not fit dtype complex64"),
        ("edge", "i8", "does not fit dtype int64"),
    ]:
        refused(comm, ValueError, text, shared_tmp_path / f"{name}.npy", dtype=dtype)
    refused(comm, ValueError, "2.5 does not fit dtype int64", shared_tmp_path / "half.npz", dtype="i8")
    assert read(comm, shared_tmp_path / "i.npy", dtype="u4")[-1] == 70000
    assert read(comm, shared_tmp_path / "i.npy", dtype="f4")[-1] == 70000
    assert read(comm, shared_tmp_path / "inf.npy", dtype="f4")[-1] == np.inf


nan = np.nan
PACKED = [  # stored, attributes, values, dtype
    ([1, 2, -1], {"scale_factor": 0.5, "add_offset": 1.0, "_FillValue": np.int16(-1)}, [1.5, 2, nan], "f8"),
    ([1, 2, -1], {"scale_factor": np.float32(0.5)}, [0.5, 1, -0.5], "f4"),
    ([1, 2, -1], {"scale_factor": "0.5"}, [0.5, 1, -0.5], "f8"),
    ([1, 2, -1], {"scale_factor": np.array([0.5])}, [0.5, 1, -0.5], "f8"),
    ([1, 2, 3], {"_FillValue": np.int16(-1)}, [1, 2, 3], "f4"),  # no cell has it: the dtype is that of those that have
    ([1, 2, 3], {"missing_value": np.array([1, 3], "i2"), "_FillValue": np.int16(9)}, [nan, 2, nan], "f4"),
    ([1, 2, 3], {"valid_range": np.array([2, 2], "i2")}, [nan, 2, nan], "f4"),
    ([1, 2, 3], {"valid_min": np.int16(2), "scale_factor": 10.0}, [nan, 20, 30], "f8"),
    ([1, 2, 3], {"valid_max": 20.0, "scale_factor": 10.0}, [10, 20, nan], "f8"),  # in units of the values
    ([1, 2, -9], {"_FillValue": -9.0}, [1, 2, nan], "f4"),
    ([1, 2, -9], {"_FillValue": nan, "missing_value": 1e9}, [1, 2, -9], "f4"),  # no int16 is one of these
    ([1, 2, -1], {"flag_values": np.array([1, 2, -1], "i2"), "_FillValue": np.int16(-1)}, [1, 2, -1], "i2"),
    ([1, 2, 3], {"units": "days since 2000-01-01"}, [1, 2, 3], "i2"),
]


@pytest.mark.parametrize("case", range(len(PACKED)))
def test_packed_values(comm, shared_tmp_path, case):
    cells, attrs, values, dtype = PACKED[case]

    def make():
        with h5py.File(shared_tmp_path / "p.nc", "w") as h5:
            h5["x"] = np.array(cells, "i2")
            h5["x"].attrs.update(attrs)

    on_root(comm, make)
    found = read(comm, shared_tmp_path / "p.nc")
    assert found.dtype == dtype and np.allclose(found, values, equal_nan=True, rtol=0, atol=1e-12)
    raw = read(comm, shared_tmp_path / "p.nc", decode=False)
    assert raw.dtype == "i2" and raw.tolist() == cells


def test_packed_values_of_other_dtypes(comm, shared_tmp_path):
    big = 2**60 + 1

    def make():
        with h5py.File(shared_tmp_path / "p.nc", "w") as h5:
            h5["bytes"] = np.array([0, 100, -1], "i1")
            h5["bytes"].attrs["_Unsigned"] = "true"
            h5["filled"] = np.array([0, 100, -1], "i1")
            h5["filled"].attrs.update({"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": 2.0})
            h5["float"] = np.array([1, -999.9, nan], "f4")
            h5["float"].attrs["missing_value"] = -999.9  # as float64: not the number that is stored
            h5["swapped"] = np.array([1, 2], ">i2")
            h5["swapped"].attrs["scale_factor"] = 0.5
            h5["long"] = np.array([1, big])
            h5["long"].attrs["_FillValue"] = np.int64(-1)
            h5["filled_long"] = np.array([1, big])
            h5["filled_long"].attrs["_FillValue"] = np.int64(big)

    on_root(comm, make)
    file = shared_tmp_path / "p.nc"
    for name, values, dtype in [
        ("bytes", [0, 100, 255], "u1"),
        ("filled", [0, 200, nan], "f8"),
        ("float", [1, nan, nan], "f4"),
        ("swapped", [0.5, 1], "f8"),
        ("filled_long", [1, nan], "f8"),
    ]:
        found = read(comm, file, name)
        assert found.dtype == dtype and np.array_equal(found, values, equal_nan=True), name
    refused(comm, ValueError, f"{big} does not fit float64.*decode=False or --raw", file, "long")
    assert read(comm, file, "long", decode=False).tolist() == [1, big]
    assert read(comm, file, "swapped", dtype="f4", slices=np.s_[1:]).tolist() == [1]
    refused(comm, ValueError, "nan does not fit dtype int32", file, "filled", dtype="i4")


@pytest.mark.parametrize(
    ("cells", "attrs", "values"),
    [
        # netCDF has the bounds of unsigned cells in the signed type of the file: these are 0 and 254.
        (np.array([0, 127, -2, -1], "i1"), {"valid_range": np.array([0, -2], "i1")}, [0, 127, 254, nan]),
        (np.array([0, -1], "i2"), {"valid_max": np.int16(-6)}, [0, nan]),
        (np.array([0, -1], "i2"), {"valid_min": np.int32(1)}, [nan, 65535]),
    ],
)
def test_bounds_of_unsigned_cells(cells, attrs, values):
    packing = Packing.of(attrs | {"_Unsigned": "true"}, cells.dtype)
    np.testing.assert_array_equal(packing.decode(cells), values)


@pytest.mark.parametrize(
    ("cells", "attrs", "values"),
    [
        ([0.1, 0.2], {"valid_max": 0.1}, [np.float32(0.1), nan]),  # the bound itself is valid
        ([0.7, 0.3], {"valid_min": 0.7}, [np.float32(0.7), nan]),
        ([np.inf, 1], {"missing_value": 1e300}, [np.inf, 1]),  # no float32 is this
        ([1e20, 1], {"missing_value": 1e20}, [nan, 1]),
    ],
)
def test_attributes_in_float64_of_float32_cells(cells, attrs, values):
    packing = Packing.of(attrs, np.dtype("f4"))
    np.testing.assert_array_equal(packing.decode(np.array(cells, "f4")), np.array(values, "f4"))


@pytest.mark.parametrize(
    ("attrs", "text"),
    [
        ({"scale_factor": 0.0}, "is 0 or not finite"),
        ({"add_offset": np.inf}, "is 0 or not finite"),
        ({"scale_factor": "much"}, "scale_factor is 'much', which is not a number"),
        ({"scale_factor": np.array([1.0, 2.0])}, "scale_factor has 2 numbers, not 1"),
        ({"valid_range": 3}, "valid_range has 1 numbers, not 2"),
        ({"_Unsigned": "perhaps"}, "_Unsigned is 'perhaps'"),
        ({"_FillValue": None}, "_FillValue is None"),
    ],
)
def test_packing_that_is_not_understood(attrs, text):
    with pytest.raises(ValueError, match=text):
        Packing.of(attrs, np.dtype("i2"))


def test_names_decide_by_what_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = mpihpc.io.split_name
    for text, wanted in [
        ("out.h5", ("out.h5", None)),
        ("out.h5:a:b", ("out.h5", "a:b")),
        ("out:1.h5", ("out:1.h5", None)),
        ("out:1.h5:x", ("out:1.h5", "x")),
        ("plain:x", ("plain:x", None)),
        ("new.zarr:u", ("new.zarr", "u")),
    ]:
        assert split(text) == wanted, text
    for name in ("wrfout_2020-01-01_00:00:00", "plain", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    for text, wanted in [
        ("wrfout_2020-01-01_00:00:00", ("wrfout_2020-01-01_00:00:00", None)),
        ("wrfout_2020-01-01_00:00:00:T2", ("wrfout_2020-01-01_00:00:00", "T2")),
        ("plain:g/x", ("plain", "g/x")),
        ("a.h5:z", ("a.h5", "z")),
        ("folder:1.h5", ("folder:1.h5", None)),
    ]:
        assert split(text) == wanted, text
    (tmp_path / "a.h5:z").touch()
    assert split("a.h5:z") == ("a.h5:z", None) and split("a.h5:y") == ("a.h5", "y")


def test_objects_of_odd_kinds_harm_only_themselves(comm, shared_tmp_path):
    file = shared_tmp_path / "odd.h5"

    def make():
        with h5py.File(file, "w") as f:
            f["x"] = np.arange(5.0)
            f["empty"] = h5py.Empty("f8")
            f["scalar"] = 3.0
            f["text"], f["fixed"] = ["a", "b"], np.array([b"ab", b"c"])
            f["table"] = np.array([(1, 2.0)], [("id", "i4"), ("size", "f8")])
            f["complex"] = np.array([1 + 2j, 3], ">c8")
            f["half"], f["bool"] = np.array([1, 2], "f2"), np.array([True, False])
            f["wide"] = np.array([1, 2], "g")
            f["levels"] = np.array([1, 0, 1], h5py.enum_dtype({"LOW": 0, "HIGH": 1}, "i2"))
            f["type"] = np.dtype("i4")
            f["refs"] = np.array([f["x"].ref], h5py.ref_dtype)
            f["regions"] = np.array([f["x"].regionref[1:2]], h5py.regionref_dtype)
            f["lists"] = np.array([np.arange(2), np.arange(3)], h5py.vlen_dtype("i4"))
            f["vectors"] = np.zeros(2, np.dtype(("i4", (3,))))
            f.create_dataset("vectors3", (2,), np.dtype(("i4", (3,))))
            f["nowhere"], f["away"] = h5py.SoftLink("/none"), h5py.ExternalLink("none.h5", "/x")
            f["circle"] = h5py.SoftLink("/circle")
            f["x"].attrs["ref"] = f["x"].ref
            kind = h5py.h5t.STD_I32LE.copy()
            kind.set_size(3)
            kind.set_precision(24)
            h5py.h5d.create(f.id, b"raw24", kind, h5py.h5s.create_simple((4,)))
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_chunk((4,))
            layout.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
            h5py.h5d.create(f.id, b"zstd", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((4,)), layout)
            virtual = h5py.VirtualLayout((3,), "f8")
            virtual[:] = h5py.VirtualSource("gone.h5", "y", (3,))
            f.create_virtual_dataset("virtual", virtual)
            f.create_dataset("external", (3,), "f8", external=[("cells.raw", 0, 24)])

    on_root(comm, make)
    with h5py.File(file) as f:
        for name in ("x", "complex", "half", "bool", "levels"):
            found = read(comm, file, name)
            assert found.dtype == f[name].dtype.newbyteorder("=") and np.array_equal(found, f[name][()]), name
    for name, error, text in [
        ("empty", (TypeError, ValueError), "no cells"),
        ("scalar", ValueError, "0 axes"),
        ("text", TypeError, "text .*not numeric"),
        ("fixed", TypeError, "text .*not numeric"),
        ("table", TypeError, r"fields are id \(int32\), size \(float64\)"),
        ("wide", TypeError, "wider than float64"),
        ("refs", TypeError, "references"),
        ("regions", TypeError, "references"),
        ("lists", TypeError, "lists of different lengths"),
        ("vectors3", TypeError, "array in each cell"),
        ("raw24", TypeError, "not numeric"),
        ("zstd", ValueError, "Zstandard .*32015.*pip install hdf5plugin"),
        ("virtual", ValueError, "source .*gone.h5 is missing"),
        ("external", ValueError, "another file, .*cells.raw"),
        ("type", ValueError, "no dataset 'type'"),
        ("nowhere", ValueError, "no dataset 'nowhere'"),
        ("away", OSError, "none.h5"),
        ("circle", OSError, "more than 64 links"),
    ]:
        refused(comm, error, text, file, name)
    assert "more: name one" not in refused(comm, ValueError, "holds [0-9]+ datasets", file)


def test_links(comm, shared_tmp_path):
    def make():
        (shared_tmp_path / "sub").mkdir()
        with h5py.File(shared_tmp_path / "sub/scan.h5", "w") as f:
            f["m/image"] = np.arange(12.0).reshape(3, 4)
            f["m/back"] = h5py.ExternalLink("../master.h5", "/")
            f["m/alias"] = h5py.SoftLink("image")
        with h5py.File(shared_tmp_path / "master.h5", "w") as f:
            f["scan"] = h5py.ExternalLink("sub/scan.h5", "/m")
            f["entry/data"] = h5py.SoftLink("/scan/image")
            f["entry/own"] = np.arange(3)
            f["also"] = f["entry/own"]
            f["x"] = h5py.ExternalLink("pipe", "/x")
            f["VTKHDF/PointData/data"] = h5py.SoftLink("/entry/own")
        os.mkfifo(shared_tmp_path / "pipe")

    on_root(comm, make)
    file, image = shared_tmp_path / "master.h5", np.arange(12.0).reshape(3, 4)
    for name in ("scan/image", "scan/alias", "entry/data", "/entry/data/", "scan/back/scan/back/entry/data"):
        assert np.array_equal(read(comm, file, name), image), name
    assert read(comm, file, "also").tolist() == [0, 1, 2]
    refused(comm, OSError, "pipe, which is not a regular file", file, "x")
    with mpihpc.io.open(file, comm=comm) as reader:
        assert set(reader.entries) in ({"also", "entry/data"}, {"also", "scan/image"})


def test_a_listing_is_bounded(comm, shared_tmp_path, monkeypatch):
    from mpihpc.io.formats import hdf5

    monkeypatch.setattr(hdf5, "_OBJECTS", 20)

    def make():
        with h5py.File(shared_tmp_path / "many.h5", "w") as f:
            for k in range(40):
                f[f"g{k:02}/x"] = np.full(3, k)

    on_root(comm, make)
    assert read(comm, shared_tmp_path / "many.h5", "g39/x").tolist() == [39] * 3
    refused(comm, (TypeError, ValueError), "name one", shared_tmp_path / "many.h5")
    refused(comm, ValueError, "no dataset 'g39/y'", shared_tmp_path / "many.h5", "g39/y")


def test_text_that_is_not_utf8(comm, shared_tmp_path):
    name = os.fsdecode(os.fsencode(shared_tmp_path) + b"/gr\xf6\xdfe.h5")

    def make():
        with h5py.File(name, "w") as f:
            d = h5py.h5d.create(f.id, b"gr\xf6\xdfe", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((2,)))
            d.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1.0, 2.0]))
            h5py.Dataset(d).attrs.create("units", b"\xb0C", dtype=h5py.string_dtype("ascii"))
            h5py.Dataset(d).attrs["comment"] = np.array([b"\xe9t\xe9", b"ok"])

    on_root(comm, make)
    for dataset in (None, "größe", b"gr\xf6\xdfe".decode("utf-8", "surrogateescape")):
        assert read(comm, name, dataset).tolist() == [1, 2]
    with mpihpc.io.open(name, comm=comm) as reader:
        entry = reader.entry()
        assert (entry.name, entry.units, entry.metadata.attrs["comment"].tolist()) == ("größe", "°C", ["été", "ok"])


def test_what_the_file_says(comm, shared_tmp_path):
    file = shared_tmp_path / "cf.nc"

    def make():
        with h5py.File(file, "w") as f:
            f["lat"], f["lon"] = np.array([10, 20, 30], "i2"), np.arange(4.0)
            f["lat"].attrs.update(scale_factor=0.1, units="degrees_north")
            f.create_dataset("band", (2,), "f4").attrs["note"] = "nothing but a length"
            f["t2m"] = np.arange(24, dtype="i2").reshape(2, 3, 4)
            f["t2m"].attrs.update(scale_factor=0.5, units="K", coordinates="lat2", long_name="temperature")
            for d, scale in enumerate(("band", "lat", "lon")):
                hidden = "This is a netCDF dimension but not a netCDF variable.         2"
                f[scale].make_scale(hidden if scale == "band" else scale)
                f["t2m"].dims[d].attach_scale(f[scale])
            f["plain"] = np.ones((2, 2))

    on_root(comm, make)
    with mpihpc.io.open(file, comm=comm) as reader:
        found = reader.metadata("t2m")
        assert found.attrs == {"units": "K", "long_name": "temperature"} and found.units == "K"
        assert [axis.name for axis in found.axes] == ["band", "lat", "lon"]
        assert found.axes[0].values is None
        assert np.allclose(found.axes[1].values, [1, 2, 3], rtol=1e-15) and found.axes[1].attrs == {
            "units": "degrees_north"
        }
        part = reader.metadata("t2m", slices=np.s_[0, ::2, 1:3])
        assert [axis.name for axis in part.axes] == ["lat", "lon"]
        assert np.allclose(part.axes[0].values, [1, 3], rtol=1e-15) and part.axes[1].values.tolist() == [1, 2]
        assert reader.metadata("plain").axes == () and reader.metadata("plain").units == ""
        assert all(axis.values is None for axis in reader.entry("t2m").metadata.axes)
    with mpihpc.io.open(file, comm=comm, decode=False) as reader:
        assert reader.metadata("t2m").attrs["scale_factor"] == 0.5
        assert reader.metadata("t2m").axes[1].values.tolist() == [10, 20, 30]


def test_a_compressed_npy_is_a_module_and_a_line(comm, shared_tmp_path, monkeypatch):
    """A format as CONTRIBUTING.md has it: the example there, registered."""
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    text = page[page.index('"""``.npy.gz``') :]
    npy_gz = types.ModuleType("npy_gz")
    exec(text[: text.index("```\n")], vars(npy_gz))
    registry = (*formats.FORMATS, npy_gz)
    for module in (formats, reading):
        monkeypatch.setattr(module, "FORMATS", registry)
    whole = np.arange(60, dtype="i2").reshape(3, 4, 5)

    def make():
        for name, array in (("c", whole), ("f", np.asfortranarray(whole))):
            with gzip.open(shared_tmp_path / f"{name}.npy.gz", "wb") as f:
                np.save(f, array)
        data = (shared_tmp_path / "c.npy.gz").read_bytes()
        (shared_tmp_path / "short.npy.gz").write_bytes(data[:-20])

    on_root(comm, make)
    for name in "cf":
        assert np.array_equal(read(comm, shared_tmp_path / f"{name}.npy.gz"), whole)
        assert np.array_equal(read(comm, shared_tmp_path / f"{name}.npy.gz", slices=np.s_[::2, 1]), whole[::2, 1])
    refused(comm, OSError, "short.npy.gz.* cannot be read", shared_tmp_path / "short.npy.gz")


def test_other_files_are_named(comm, shared_tmp_path):
    def make():
        (shared_tmp_path / "classic.nc").write_bytes(b"CDF\x01" + bytes(100))
        (shared_tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
        with h5py.File(shared_tmp_path / "new.mat", "w", userblock_size=512) as f:
            f["v"] = np.arange(3.0)
            f["word"], f["none"] = np.array([[72, 105]], "u2"), np.array([0, 3], "u8")
            f["word"].attrs["MATLAB_class"], f["none"].attrs["MATLAB_empty"] = np.bytes_("char"), np.uint8(1)
        (shared_tmp_path / "liar.npy").write_bytes((shared_tmp_path / "new.mat").read_bytes())
        with open(shared_tmp_path / "new.mat", "r+b") as f:
            f.write(b"MATLAB 7.3 MAT-file")

    on_root(comm, make)
    refused(comm, OSError, "netCDF 3: convert it with nccopy", shared_tmp_path / "classic.nc")
    refused(comm, OSError, "save it with -v7.3", shared_tmp_path / "old.mat")
    for name in ("new.mat", "liar.npy"):
        assert read(comm, shared_tmp_path / name, "v").tolist() == [0, 1, 2]
    refused(comm, ValueError, "char array of MATLAB", shared_tmp_path / "new.mat", "word")
    refused(comm, ValueError, "empty MATLAB array", shared_tmp_path / "new.mat", "none")


def test_a_file_that_this_process_has_open(comm, shared_tmp_path):
    on_root(comm, lambda: h5py.File(shared_tmp_path / "a.h5", "w").create_dataset("x", data=np.arange(3)).file.close())
    with h5py.File(shared_tmp_path / "a.h5") as f:
        assert read(comm, shared_tmp_path / "a.h5").tolist() == f["x"][()].tolist() == [0, 1, 2]
    comm.Barrier()
