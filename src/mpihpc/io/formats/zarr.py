"""Zarr, v2 and v3: a folder with a file per chunk, or per shard of chunks. Read by zarr-python 3."""

from __future__ import annotations

import base64
import itertools
import os
import struct
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.io.formats.entry import Entry
from mpihpc.io.metadata import Axis, Metadata
from mpihpc.io.zarr.nodes import is_array, is_node, walk

NAME = "Zarr"

_MOST = 10_000  # nodes of a listing


def recognises(path: str, head: bytes) -> bool:
    """See `mpihpc.io.formats.Format`."""
    return os.path.isdir(path) and is_node(path)


def entries(path: str, wanted: str | None) -> dict[str, Entry]:
    """See `mpihpc.io.formats.Format`."""
    _library()
    if wanted is not None:
        return {wanted: _describe(path, wanted)} if _is_array(path, wanted) else {}
    names = list(itertools.islice(walk(path), _MOST + 1))
    found = {name: _describe(path, name) for name in names[:_MOST] if _is_array(path, name)}
    if len(names) > _MOST:
        found["..."] = _refused("...", f"the listing stops after {_MOST} arrays and groups: name one")
    return found


def axes(path: str, entry: Entry) -> tuple[Axis, ...]:
    """See `mpihpc.io.formats.Boxed`. As xarray has them: arrays beside the array or above, by the names of its axes."""
    return tuple(
        next(_coordinates(path, entry.name, axis.name, n), axis)
        for axis, n in zip(entry.metadata.axes, entry.shape, strict=False)  # no axes, or all
    )


def open(path: str) -> Store:
    """See `mpihpc.io.formats.Boxed`."""
    return Store(path)


class Store:
    """A store, whose arrays are opened when they are read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._arrays: dict[str, Any] = {}

    def read(self, entry: Entry, index: tuple[slice, ...], out: NDArray[Any]) -> None:
        """See `mpihpc.io.formats.Opened`."""
        if entry.name not in self._arrays:
            self._arrays[entry.name] = _open_array(self._path, entry.name)
        np.copyto(out, self._arrays[entry.name][index])

    def close(self) -> None:
        """See `mpihpc.io.formats.Opened`."""
        self._arrays.clear()


def _is_array(path: str, name: str) -> bool:
    folder = os.path.join(path, name)
    return ".." not in name.split("/") and is_node(folder) and is_array(folder)


def _coordinates(path: str, array: str, axis: str, n: int) -> Iterator[Axis]:
    """Those along an axis of an array, the nearest first."""
    group = array
    while axis and group:
        group = group.rpartition("/")[0]
        name = f"{group}/{axis}".lstrip("/")
        if name != array and _is_array(path, name):
            found = _describe(path, name)
            if found.shape == (n,) and found.dtype.kind in "biuf":
                yield Axis(axis, _open_array(path, name)[:], found.metadata.attrs)


def _refused(name: str, why: str) -> Entry:
    return Entry(name, (), np.dtype("V1"), refused=why)


def _library() -> Any:
    """zarr-python, or one clear error where it is missing or too old. All else does without, and it loads slowly."""
    try:
        import zarr
    except ImportError as error:
        raise OSError(
            f"Zarr needs zarr-python 3, which cannot be imported ({error}): pip install 'mpihpc[zarr]'"
        ) from None
    if int(zarr.__version__.partition(".")[0]) < 3:
        raise OSError(f"Zarr needs zarr-python 3, this is {zarr.__version__}: pip install 'mpihpc[zarr]'")
    return zarr


def _open_array(path: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about types that other libraries may not know
        return _library().open_array(path, path=name, mode="r")


def _describe(path: str, name: str) -> Entry:
    try:
        array = _open_array(path, name)
        attrs, names = dict(array.attrs), array.metadata.dimension_names if array.metadata.zarr_format == 3 else None
        if array.metadata.zarr_format == 2:
            # What xarray wrote before Zarr had names of axes, and its `_FillValue` where others have zeros.
            names = attrs.pop("_ARRAY_DIMENSIONS", None)
            if names is not None and array.fill_value is not None:
                attrs.setdefault("_FillValue", array.fill_value)
        elif array.dtype.kind == "f" and isinstance(attrs.get("_FillValue"), str):
            (attrs["_FillValue"],) = struct.unpack("<d", base64.b64decode(attrs["_FillValue"]))  # xarray's way
        axes = tuple(Axis(str(label or "")) for label in names or ()) if len(names or ()) == array.ndim else ()
        scale = array.ndim == 1 and [axis.name for axis in axes] == [name.rpartition("/")[2]]
        step = tuple(array.chunks)
        return Entry(name, array.shape, array.dtype, Metadata(axes, attrs), step, scale=scale)
    except Exception as error:  # whatever the library has to say about one array, there may be others
        return _refused(name, f"it cannot be opened: {error or type(error).__name__}")
