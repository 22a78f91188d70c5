"""Attributes as HDF5 can store them, or one clear line about the one that it cannot."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpihpc.core.failure import one_line
from mpihpc.io.hdf5 import h5py


class Attributes(UserDict[Any, Any]):
    """Attributes of a file: those that cannot be stored are refused when they are set, not after the work."""

    def __setitem__(self, name: Any, value: Any) -> None:
        storable({name: value})
        self.data[name] = value


def storable(attrs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Attributes for h5py. Text that is not UTF-8, as Latin-1 in old files, keeps its bytes.

    Each is stored in a file in memory first, so that nothing is half-written when one cannot be.

    Raises
    ------
    ValueError
        With the name of the attribute.

    Examples
    --------
    >>> storable({"units": "\\udcb0C", "n": 3})
    {'units': b'\\xb0C', 'n': 3}
    """
    if not attrs:
        return {}
    made = {}
    with h5py.File("attributes", "w", driver="core", backing_store=False) as trial:
        for name, value in attrs.items():
            try:
                if not isinstance(name, str | bytes) or not name or (0 if isinstance(name, bytes) else "\0") in name:
                    raise ValueError("it is no name")
                if np.ma.is_masked(value):
                    raise ValueError("it has masked cells: give them values with .filled(...)")
                key, value = _bytes_kept(name), _bytes_kept(value)
                trial.attrs[key] = value
            except (TypeError, ValueError, OSError, RuntimeError, OverflowError) as error:
                raise ValueError(f"attribute {name!r} cannot be stored in HDF5: {one_line(error)}") from error
            made[key] = value
    return made


def _bytes_kept(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.str_) and value.dtype.kind == "U" and value.size:  # HDF5 has no type for none
        value = value.tolist()
    if isinstance(value, list | tuple):
        texts = np.array(value, object)
        cells = [_bytes_kept(text) for text in texts.flat]
        if any(isinstance(cell, bytes) for cell in cells):  # then all: HDF5 has one type for them
            cells = [cell.encode() if isinstance(cell, str) else cell for cell in cells]
            return np.array(cells, object).reshape(texts.shape).tolist()
    if not isinstance(value, str):
        return value
    data = value.encode("utf-8", "surrogateescape")
    return value if data == value.encode("utf-8", "replace") else data
