"""Names of axes, coordinates and attributes, on their way into a file: what may be written, and how HDF5 keeps it.

Every array has dimension scales, as netCDF and xarray know them. An axis without coordinates is a netCDF dimension
without a variable: its scale has a length, and takes no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpihpc.io.attributes import storable
from mpihpc.io.hdf5 import h5py
from mpihpc.io.metadata import Axis, Metadata

CONVENTIONS = "CF-1.10"

_NAMES = ("w", "z", "y", "x")
_DIMENSION = "This is a netCDF dimension but not a netCDF variable."  # the name that netCDF knows it by


def describe(
    shape: Sequence[int],
    metadata: Metadata | None,
    axes: Mapping[str, ArrayLike | None] | Sequence[str] | None,
    attrs: Mapping[str, Any] | None,
) -> Metadata:
    """What a file is going to say about an array: an axis with a name for each of its own.

    Parameters
    ----------
    shape : sequence of int
        Of the array.
    metadata, axes, attrs
        As `mpihpc.io.write` has them.

    Raises
    ------
    ValueError, TypeError
        Another number of axes, names that are not legal or not unique, or coordinates that do not fit.

    Examples
    --------
    >>> [axis.name for axis in describe((4, 3), None, None, None).axes]
    ['y', 'x']
    >>> describe((2,), None, {"lon": [0.5, 1.5]}, None).axes[0].values
    array([0.5, 1.5])
    """
    metadata = metadata or Metadata()
    if axes is not None:
        if metadata.axes:
            raise ValueError("axes= and the axes of metadata= exclude each other: give one of them")
        if isinstance(axes, str):
            raise TypeError(f"axes={axes!r} is one text: give a name per axis, as in axes=['y', 'x']")
        given = axes if isinstance(axes, Mapping) else dict.fromkeys(axes)
        if len(given) != len(axes):
            raise ValueError(f"axes have different names, not {list(axes)}")
        metadata = replace(
            metadata, axes=tuple(Axis(name, None if v is None else np.asarray(v)) for name, v in given.items())
        )
    named = metadata.axes or (Axis(),) * len(shape)
    if len(named) != len(shape):
        raise ValueError(f"{len(named)} axes are described, and the array has {len(shape)}: give one for each")
    defaults = [f"dim_{d}" for d in range(len(shape))]
    if len(shape) <= len(_NAMES) and not {axis.name for axis in named} & set(_NAMES[-len(shape) :]):
        defaults = list(_NAMES[-len(shape) :])
    whole = tuple(_checked(axis, n, name) for axis, n, name in zip(named, shape, defaults, strict=True))
    names = [axis.name for axis in whole]
    if len(set(names)) < len(names):
        raise ValueError(f"axes have different names, not {names}")
    return Metadata(whole, {**_known(metadata.attrs), **(attrs or {})})


def _checked(axis: Axis, n: int, default: str) -> Axis:
    """An axis of `n` cells that can be written."""
    name = axis.name or default
    if not isinstance(name, str) or not name.isprintable() or "/" in name or name.strip(" .") != name:
        raise ValueError(f"{name!r} is no name for an axis: use letters, digits and _")
    values = axis.values
    if values is not None:
        values = np.asarray(values)
        if values.shape != (n,):
            raise ValueError(f"axis {name!r} has {n} cells and coordinates of shape {values.shape}: give one for each")
        if values.dtype.kind not in "iuf" or values.dtype.itemsize > 8:
            raise TypeError(
                f"coordinates of axis {name!r} are {values.dtype}, not real numbers: give those, and their units in "
                "metadata=, as in Axis('t', days, {'units': 'days since 2000-01-01'})"
            )
        if values.dtype == np.float16:  # netCDF has none
            values = values.astype(np.float32)
    return Axis(name, values, _known(axis.attrs))


def _known(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without those that a reader could not read."""
    return {name: value for name, value in attrs.items() if value is not None}


def share_axes(h5: h5py.File, dataset: str, axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...]:
    """The axes of a new dataset, with the names that their scales have in its group. For rank 0.

    Arrays share a scale if it is the same for all of them. Else, and beside another dataset of its name, an axis is
    named after the array, too: ``x_density``.

    Raises
    ------
    ValueError
        The dataset is named as an axis that is there, or an axis can have no name.
    """
    group, _, own = dataset.strip("/").rpartition("/")
    if (taken := h5.get(dataset)) is not None and getattr(taken, "is_scale", False):
        raise ValueError(f"{own!r} is the name of an axis there: write it first, or name the axes with axes=")
    found = []
    for axis, n in zip(axes, shape, strict=True):
        names = [name for name in (axis.name, f"{axis.name}_{own}") if name != own]
        free = [name for name in names if _fits(h5.get(f"{group}/{name}"), axis, n)]
        if not free:
            raise ValueError(f"{names[-1]!r} is there, and no such axis: name the axes with axes=")
        found.append(replace(axis, name=free[0]))
    return tuple(found)


def attach(made: h5py.Dataset, axes: Sequence[Axis], attrs: Mapping[str, Any]) -> None:
    """Give a new dataset its attributes and the scales of its axes, which are made where they are missing."""
    made.attrs.update(storable(attrs))
    group = made.parent
    for d, axis in enumerate(axes):
        if axis.name not in group:
            if axis.values is None:
                group.create_dataset(axis.name, (made.shape[d],), ">f4")  # as netCDF does it: it takes no room
                group[axis.name].make_scale(f"{_DIMENSION}{made.shape[d]:10d}")
            else:
                group[axis.name] = np.ascontiguousarray(axis.values)
                group[axis.name].attrs.update(storable(axis.attrs))
                group[axis.name].make_scale(axis.name)
        made.dims[d].attach_scale(group[axis.name])
        made.dims[d].label = axis.name


def _fits(scale: Any, axis: Axis, n: int) -> bool:
    """Whether a name is free for an axis, or has the scale of just this one."""
    if scale is None:
        return True
    if not isinstance(scale, h5py.Dataset) or not scale.is_scale or scale.shape != (n,) or scale.maxshape != (n,):
        return False
    bare = scale.attrs["NAME"].startswith(_DIMENSION.encode())
    if bare or axis.values is None:
        return bare and axis.values is None
    return _same(scale[()], axis.values) and all(
        name in scale.attrs and _same(scale.attrs[name], value) for name, value in axis.attrs.items()
    )


def _same(a: Any, b: Any) -> bool:
    """Equal, the dtype too but for the order of its bytes."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=") and np.array_equal(
        a, b, equal_nan=a.dtype.kind == "f"
    )


def coordinates_nbytes(axes: Sequence[Axis]) -> int:
    """The room that coordinates take."""
    return sum(values.nbytes for values in _values(axes))


def _values(axes: Sequence[Axis]) -> list[NDArray[Any]]:
    return [axis.values for axis in axes if axis.values is not None]
