"""Reading Zarr, v2 and v3: a folder with a file per chunk, or per shard of chunks."""

from __future__ import annotations

import base64
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.core.decomposition import Box
from mpihpc.io.zarr_store import is_node, walk

def _zarr() -> Any:
    """zarr-python, or one clear error where it is missing or too old: all else needs none, and it takes a while."""
    try:
        import zarr
    except ImportError as error:
        raise OSError(f"Zarr stores need zarr-python, which cannot be imported ({error}): pip install 'mpihpc[zarr]'") from error
    if int(zarr.__version__.split(".")[0]) < 3:
        raise OSError(f"Zarr stores need zarr-python 3, this is {zarr.__version__}: pip install 'mpihpc[zarr]'")
    return zarr

def open_array(folder, path):
    zarr = _zarr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr-python about types that others may not know
        return zarr.open_array(folder, path=path, mode="r")

def axis_names(array) -> tuple[str, ...]:
    """As the array says, or as xarray said before Zarr could."""
    names = array.attrs.get("_ARRAY_DIMENSIONS") if array.metadata.zarr_format == 2 else array.metadata.dimension_names
    names = names or () 
    return tuple(str(n or "") for n in names) if len(names) == array.ndim else ()

def attributes(array) -> dict[str, Any]:
    """Attributes as netCDF has them: without what only tells of the file, and `_FillValue` as a number."""
    attrs = dict(array.attrs)
    if array.metadata.zarr_format == 2:
        # xarray keeps `_FillValue` there, and takes it from there
        if attrs.pop("_ARRAY_DIMENSIONS", None) is not None and array.fill_value is not None:
            attrs.setdefault("_FillValue", array.fill_value)
    elif isinstance(attrs.get("_FillValue"), str) and array.dtype.kind == "f":
        attrs["_FillValue"] = struct.unpack("<d", base64.b64decode(attrs["_FillValue"]))[0]
    return attrs
