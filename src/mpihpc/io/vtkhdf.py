"""The view of a file that ParaView and VTK have: a group VTKHDF, which links to the data and holds none itself."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from mpihpc.io.hdf5 import h5py
from mpihpc.io.metadata import Axis

GROUP = "VTKHDF"
_DTYPES = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def check_shown(file: str | os.PathLike[str], shape: Sequence[int], dtype: np.dtype) -> None:
    """Refuse an array that VTK cannot show for a name that ends in .vtkhdf. For one rank, inside `agree`.

    Raises
    ------
    ValueError
        Not 1 to 3 axes, no cells, or numbers of a kind that VTK has not.
    """
    if os.fspath(file).lower().endswith(".vtkhdf") and not _shows(shape, dtype):
        what = f"{len(shape)} axes of {dtype}, shape {tuple(shape)}"
        raise ValueError(
            f"{os.fspath(file)} cannot hold {what}: VTK shows 1 to 3 axes of real numbers; end the name with .h5"
        )


def show(h5: h5py.File, dataset: str, shape: Sequence[int], axes: Sequence[Axis], times: str = "") -> None:
    """Let VTK see a dataset, if it can: as an image whose x is the last axis. For rank 0.

    The first dataset makes the group, and others of the same shape and place are shown with it; of series one, alone.
    Uniform coordinates are its origin and spacing; without them a cell is 1 wide.

    Parameters
    ----------
    h5 : h5py.File
        Open for writing.
    dataset : str
        The dataset.
    shape : sequence of int
        Of the array; of one snapshot.
    axes : sequence of Axis
        As many.
    times : str
        The dataset of times, of a series.
    """
    name = dataset.strip("/").replace("/", "_")
    _forget(h5, dataset, name)
    if not _shows(shape, h5[dataset].dtype):
        return
    places = [axis.even() or (0.0, 1.0) for axis in reversed(axes)] + [(0.0, 1.0)] * (3 - len(axes))
    extent = [end for n in (*reversed(shape), *(1,) * (3 - len(shape))) for end in (0, n - 1)]
    geometry = {
        "WholeExtent": np.array(extent, np.int64),
        "Origin": np.array([origin for origin, _ in places]),
        "Spacing": np.array([spacing for _, spacing in places]),
        "Direction": np.eye(3).ravel(),
    }
    if GROUP not in h5:
        group = h5.create_group(GROUP)
        group.attrs["Version"] = np.array([2, 0], np.int64)
        group.attrs.create("Type", b"ImageData", dtype=h5py.string_dtype("ascii", len("ImageData")))
        group.attrs.update(geometry)
        if times:  # soft links: h5netcdf stumbles over datasets with two names
            group["Steps/Values"] = h5py.SoftLink(f"/{times.strip('/')}")
        fits = True
    else:
        group = h5[GROUP]
        same = all(np.array_equal(group.attrs.get(key), value) for key, value in geometry.items())
        fits = same and not times and "Steps" not in group and name not in group["PointData"]
    if fits:
        group[f"PointData/{name}"] = h5py.SoftLink(f"/{dataset.strip('/')}")
        count_steps(h5, dataset, 0)


def _forget(h5: h5py.File, dataset: str, name: str) -> None:
    """Take a dataset that is replaced out of the view, whose shape it may no longer have."""
    points = h5.get(f"{GROUP}/PointData")
    link = None if points is None else points.get(name, getlink=True)
    if isinstance(link, h5py.SoftLink) and link.path == f"/{dataset.strip('/')}":
        del points[name]
        if not len(points):
            del h5[GROUP]


def count_steps(h5: h5py.File, dataset: str, count: int) -> None:
    """Say how many snapshots are whole, last of all: a reader of a growing file sees those only. For rank 0."""
    name = dataset.strip("/").replace("/", "_")
    if f"{GROUP}/Steps" in h5 and h5[GROUP].get(f"PointData/{name}", getlink=True) is not None:
        h5[f"{GROUP}/Steps"].attrs["NSteps"] = np.int64(count)


def _shows(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Whether VTK can show an array."""
    return 1 <= len(shape) <= 3 and 0 not in shape and dtype.newbyteorder("=") in [np.dtype(d) for d in _DTYPES]
