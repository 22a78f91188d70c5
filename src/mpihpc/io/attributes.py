"""Attributes as HDF5 can keep them. The others are refused by name, before anything is written."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from mpihpc.io.hdf5 import h5py


class Attributes(UserDict[str, Any]):
    """Attributes of a file: `storable` when they are set, for after the work it is too late to refuse one."""

    def __setitem__(self, name: str, value: Any) -> None:
        self.data.update(storable({name: value}))


def storable(attrs: Mapping[str, Any]) -> dict[str, Any]:
    r"""Attributes with values that h5py can write as they are.

    Parameters
    ----------
    attrs : mapping
        Text, numbers, and arrays or lists of them. NumPy's text becomes Python's. Text that is not UTF-8 becomes the
        bytes that it came from: h5py reads the units ``b"\xb0C"`` as ``"\udcb0C"``, as Python does file names.

    Raises
    ------
    ValueError
        HDF5 cannot store one of them, or would change it.

    Examples
    --------
    >>> storable({"units": "\udcb0C", "long_name": "temperature", "range": (0, 1)})
    {'units': b'\xb0C', 'long_name': 'temperature', 'range': (0, 1)}
    """
    found: dict[str, Any] = {}
    if not attrs:
        return found
    with h5py.File("attributes", "w", driver="core", backing_store=False) as trial:  # in memory
        for name, value in attrs.items():
            try:
                if not isinstance(name, str) or not name or "\0" in name:  # HDF5 would end it there
                    raise ValueError("names are text without NUL")
                if np.ma.is_masked(value):
                    raise ValueError("it has masked cells: give them values with .filled(...)")
                found[name] = trial.attrs[name] = _plain(value)
            except (TypeError, ValueError) as error:
                why = "HDF5 has text, numbers, and arrays of them" if isinstance(error, TypeError) else error
                raise ValueError(f"attribute {name!r} cannot be {_short(value)}: {why}") from None
            except (OSError, RuntimeError):  # from HDF5 itself
                size = np.asarray(value).nbytes
                raise ValueError(f"attribute {name!r} has {size} bytes, HDF5 takes less than 65536") from None
    return found


def _plain(value: Any) -> Any:
    """NumPy's text as Python's, and text that is not UTF-8 as its bytes."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "U":
        value = value.tolist()
    if isinstance(value, str):
        return _as_bytes(value) if _escaped(value) else value
    if isinstance(value, list | tuple):
        texts = np.array(value, object)
        if any(_escaped(text) for text in texts.flat):  # bytes all: HDF5 has one type for all of them
            return np.array([_as_bytes(text) for text in texts.flat], object).reshape(texts.shape).tolist()
    return value


def _escaped(text: Any) -> bool:
    return isinstance(text, str) and any("\udc80" <= letter <= "\udcff" for letter in text)


def _as_bytes(text: Any) -> Any:
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text


def _short(value: Any) -> str:
    """A value in a message of one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
