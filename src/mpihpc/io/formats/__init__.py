"""File formats: what is in a file, and reading a part of it.

A format is a module of this package and a line in `FORMATS`. It knows nothing of MPI, nor of other formats: `Reader`
calls `entries` on rank 0, and then either

- `open` on every rank, each of which reads its own cells (`Boxed`), or
- `stream` on rank 0, which reads from begin to end and deals slab by slab (`Streamed`): compressed `.npy` files.

It may raise what its library raises; `Reader` adds the name of the file and makes it one line on all ranks.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from mpihpc.io.formats import hdf5, npy, npz, zarr
from mpihpc.io.formats.entry import Entry
from mpihpc.io.metadata import Axis

__all__ = ["FORMATS", "Boxed", "Entry", "Format", "Opened", "Streamed", "find_format"]

_HEAD = 128  # bytes of a file that are shown to `recognises`


class Format(Protocol):
    """What every format offers."""

    NAME: str
    """For errors: "it is neither HDF5 nor .npy nor ..."."""

    def recognises(self, path: str, head: bytes) -> bool:
        """Whether a file is of this format, by what is in it: `head` is its first 128 bytes, b"" for a folder."""
        ...

    def entries(self, path: str, wanted: str | None) -> dict[str, Entry]:
        """Name -> `Entry` of the arrays in a file, on one rank.

        With `wanted`, only the array of that name, or nothing if there is none: no need to look at others. An array
        that cannot be read is listed too, with the reason in `Entry.refused`.
        """
        ...


class Opened(Protocol):
    """A file that one rank has open."""

    def read(self, entry: Entry, index: tuple[slice, ...], out: NDArray[Any]) -> None:
        """Read some cells, by this rank alone.

        Parameters
        ----------
        entry : Entry
            One of those that `entries` gave.
        index : tuple of slice
            One for each axis: 0 <= start <= stop <= n, and a step of 1 or more.
        out : numpy.ndarray
            Shape of the selection, ``entry.dtype`` in native byte order, C order.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@runtime_checkable
class Boxed(Format, Protocol):
    """A format of which each rank reads its own part."""

    def open(self, path: str) -> Opened:
        """Open a file, on each rank."""
        ...

    def axes(self, path: str, entry: Entry) -> tuple[Axis, ...]:
        """The axes of an array with their coordinates, on one rank; () if nothing is known."""
        ...


@runtime_checkable
class Streamed(Format, Protocol):
    """A format that can only be read from begin to end."""

    def stream(self, path: str, entry: Entry) -> AbstractContextManager[IO[bytes]]:
        """One array as the bytes of a ``.npy`` file, on rank 0, for a ``with`` statement."""
        ...


FORMATS: tuple[Boxed | Streamed, ...] = (
    hdf5,
    zarr,
    npy,
    npz,
)

_OTHERS = {
    b"CDF": "it is netCDF 3: convert it with nccopy -k netCDF-4",
    b"MATLAB 5.0": "it is a MATLAB file before version 7.3: save it with -v7.3",
    b"\x0e\x03\x13\x01": "it is HDF4: convert it with h4toh5",
}


def find_format(path: str) -> Boxed | Streamed:
    """The format of a file, known by what is in it. For one rank.

    Raises
    ------
    OSError
        There is no such file, it is of no known format, or neither a file nor a folder.
    """
    folder = os.path.isdir(path)
    if os.path.exists(path) and not folder and not os.path.isfile(path):
        raise OSError(f"{path} is not a regular file: each rank must be able to read its own part")
    head = b""
    if not folder:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    for format in FORMATS:
        if format.recognises(path, head):
            return format
    if folder:
        raise IsADirectoryError(f"{path} is a folder, not a file")
    why = next((text for begin, text in _OTHERS.items() if head.startswith(begin)), None)
    if why is None:
        why = "it is neither " + " nor ".join(format.NAME for format in FORMATS)
    raise OSError(f"{path} cannot be read: {why}")
