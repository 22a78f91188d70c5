"""One HDF5 file for three worlds, as 3 ranks wrote it: plain HDF5, netCDF with CF, and VTK."""

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from suite import environment, mpirun

WHY = "is not installed: pip install 'mpihpc[interop]'"
xarray = pytest.importorskip("xarray", reason=f"xarray {WHY}")
netCDF4 = pytest.importorskip("netCDF4", reason=f"netCDF4 {WHY}")
pytest.importorskip("h5netcdf", reason=f"h5netcdf {WHY}")
dask = pytest.importorskip("dask.array", reason=f"dask {WHY}")
vtk_hdf = pytest.importorskip("vtkmodules.vtkIOHDF", reason=f"vtk {WHY}")
vtk_numpy = pytest.importorskip("vtkmodules.util.numpy_support", reason=f"vtk {WHY}")

pytestmark = pytest.mark.filterwarnings("error")

WRITE = """
    import numpy as np, mpihpc
    cube, plane = np.arange(60.0).reshape(3, 4, 5) ** 2, np.arange(35, dtype="i4").reshape(5, 7)
    place = {"z": [0.0, 0.5, 1.0], "y": [10, 20, 30, 40], "x": np.linspace(-1, 1, 5, dtype="f4")}
    for file, options in [("plain", {}), ("chunks", {"chunks": True}), ("gzip", {"compress": "gzip"})]:
        with mpihpc.io.open(f"{file}.h5", "w") as writer:
            writer.write("cube", mpihpc.asarray(cube), axes=place, attrs={"units": "K"}, **options)
            writer.write("twice", mpihpc.asarray(2 * cube), axes=place, **options)
            writer.write("plane", mpihpc.asarray(plane), **options)
            writer.write("group/line", mpihpc.asarray(plane[0]), axes=["lon"], **options)
            writer.write("complex", mpihpc.asarray(plane + 1j), **options)
            writer.write("flags", mpihpc.asarray(plane > 3), **options)
    for n, shape in enumerate([(5,), (4, 5), (3, 4, 5)], 1):
        for end in ("h5", "vtkhdf"):
            with mpihpc.io.open(f"series{n}.{end}", "w") as writer:
                u = mpihpc.asarray(cube.ravel()[: np.prod(shape)].reshape(shape))
                series = writer.series("data", u)
                for t in (0, 0.5, 1):
                    series.append(u, t=t)
                    u = u + 1
"""
CUBE = np.arange(60.0).reshape(3, 4, 5) ** 2


def job(folder, *args):
    command = [mpirun(), "-n", "3", sys.executable, *args]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    job(folder, "-c", textwrap.dedent(WRITE))
    given = xarray.Dataset(
        {"T": (("lat", "lon"), np.arange(48.0).reshape(6, 8), {"units": "K", "long_name": "temperature"})},
        coords={
            "lat": ("lat", np.linspace(50, 45, 6), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(5, 12, 8), {"units": "degrees_east"}),
        },
    )
    packed = {"T": {"dtype": "i2", "scale_factor": 0.5, "add_offset": 1.0, "_FillValue": -9}}
    given.to_netcdf(folder / "given.nc", engine="netcdf4", encoding=packed)
    for name, options in [("result.h5", []), ("raw.h5", ["--raw", "--dtype", "float64"])]:
        job(folder, "-m", "mpihpc.stencil", "--input", "given.nc:T", "--steps", "0", "--output", f"{name}:T", *options)
    return folder


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize("name", ["plain", "chunks", "gzip"])
def test_xarray_has_names_and_coordinates(written, name, engine):
    with xarray.open_dataset(written / f"{name}.h5", engine=engine) as found:
        assert found.attrs["Conventions"].startswith("CF-1.")
        assert found["cube"].dims == found["twice"].dims == ("z", "y", "x") and found["cube"].attrs["units"] == "K"
        assert found["plane"].dims == ("y_plane", "x_plane")  # as long as no other
        assert np.array_equal(found["cube"], CUBE) and np.array_equal(found["twice"], 2 * CUBE)
        assert found["cube"].sel(z=0.5, y=30, x=-1).item() == 30.0**2
        assert found["flags"].values.sum() == 31 and set(found.coords) == {"x", "y", "z"}
    with xarray.open_dataset(written / f"{name}.h5", engine=engine, group="group") as found:
        assert found["line"].dims == ("lon",) and list(found["line"]) == list(range(7))


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_xarray_has_the_times(written, n, engine):
    with xarray.open_dataset(written / f"series{n}.h5", engine=engine) as found:
        assert found["data"].dims == ("t", *"zyx"[-n:]) and found["t"].values.tolist() == [0, 0.5, 1]
        assert np.array_equal(found["data"].sel(t=0.5).values.ravel(), CUBE.ravel()[: found["data"][0].size] + 1)


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_metadata_travel_through_a_program(written, engine):
    with (
        xarray.open_dataset(written / "given.nc", engine=engine) as given,
        xarray.open_dataset(written / "result.h5", engine=engine) as found,
    ):
        xarray.testing.assert_identical(
            found["T"].drop_attrs(deep=False), given["T"].drop_attrs(deep=False).astype(found["T"].dtype)
        )
        assert found["T"].attrs["units"] == "K" and found["T"].attrs["long_name"] == "temperature"
        assert found["lat"].attrs["units"] == "degrees_north"
    with xarray.open_dataset(written / "raw.h5", engine=engine) as raw:  # what was packed is not unpacked twice
        assert raw["T"].values[0, :3].tolist() == [-2, 0, 2]


def test_netcdf_and_its_tools(written):
    with netCDF4.Dataset(written / "plain.h5") as found:
        assert found["cube"].dimensions == ("z", "y", "x") and found["y"][:].tolist() == [10, 20, 30, 40]
    for name in ("plain", "chunks", "gzip", "series3", "result"):
        for tool in (["ncdump", "-h"], ["h5dump", "-H"]):
            if not shutil.which(tool[0]):
                pytest.fail(f"{tool[0]} is not installed (Debian: netcdf-bin, hdf5-tools)")
            done = subprocess.run([*tool, f"{name}.h5"], cwd=written, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr


def images(file):
    """What VTK reads: per time, the time, the origin, the spacing, and arrays by name."""
    reader = vtk_hdf.vtkHDFReader()
    reader.SetFileName(str(file))
    reader.UpdateInformation()
    for k in range(reader.GetNumberOfSteps()):
        reader.SetStep(k)
        reader.Update()
        image = reader.GetOutput()
        shape = image.GetDimensions()[::-1]
        data = image.GetPointData()
        arrays = {
            data.GetArrayName(i): vtk_numpy.vtk_to_numpy(data.GetArray(i)).reshape(shape)
            for i in range(data.GetNumberOfArrays())
        }
        yield reader.GetTimeValue(), image.GetOrigin(), image.GetSpacing(), arrays


@pytest.mark.parametrize("name", ["plain", "chunks", "gzip"])
def test_vtk_sees_arrays(written, name):
    ((_, origin, spacing, arrays),) = images(written / f"{name}.h5")
    assert origin == (-1, 10, 0) and spacing == (0.5, 10, 0.5)
    assert arrays.keys() == {"cube", "twice"}
    assert np.array_equal(arrays["cube"], CUBE) and np.array_equal(arrays["twice"], 2 * CUBE)


@pytest.mark.parametrize("end", ["h5", "vtkhdf"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_vtk_sees_snapshots(written, n, end):
    found = list(images(written / f"series{n}.{end}"))
    assert [t for t, *_ in found] == [0, 0.5, 1]
    for k, (*_, arrays) in enumerate(found):
        assert np.array_equal(arrays["data"].ravel(), CUBE.ravel()[: arrays["data"].size] + k)


def test_dask_reads_chunks(written):
    with xarray.open_dataset(written / "chunks.h5", engine="h5netcdf", chunks={}) as found:
        assert isinstance(found["cube"].data, dask.Array) and found["cube"].sum().compute() == CUBE.sum()
