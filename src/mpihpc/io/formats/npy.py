"""``.npy``: one array, memory-mapped; and the parts that compressed ``.npy`` files share."""

from __future__ import annotations

import builtins
import math
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.io.formats.entry import Entry
from mpihpc.io.metadata import Axis

NAME = ".npy"


def recognises(path: str, head: bytes) -> bool:
    """See `mpihpc.io.formats.Format`."""
    return head.startswith(b"\x93NUMPY")


def entries(path: str, wanted: str | None) -> dict[str, Entry]:
    """See `mpihpc.io.formats.Format`."""
    with builtins.open(path, "rb") as stream:
        found = describe("", stream)
        held = os.fstat(stream.fileno()).st_size - stream.tell()
    needed = math.prod(found.shape) * found.dtype.itemsize
    if held < needed and not found.dtype.hasobject:
        raise OSError(f"it is truncated: {found.shape} {found.dtype} needs {needed} bytes, and {held} are there")
    return {"": found} if not wanted else {}


def open(path: str) -> Mapped:
    """See `mpihpc.io.formats.Boxed`."""
    return Mapped(path)


def axes(path: str, entry: Entry) -> tuple[Axis, ...]:
    """See `mpihpc.io.formats.Boxed`."""
    return ()


class Mapped:
    """A file that is mapped anew for each read, so that the pages of the last one are given back."""

    def __init__(self, path: str) -> None:
        self._path = path
        with builtins.open(path, "rb"):
            pass

    def read(self, entry: Entry, index: tuple[slice, ...], out: NDArray[Any]) -> None:
        """See `mpihpc.io.formats.Opened`."""
        np.copyto(out, np.load(self._path, mmap_mode="r", allow_pickle=False)[index])

    def close(self) -> None:
        """See `mpihpc.io.formats.Opened`."""


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and dtype; the stream is then at the first cell."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def describe(name: str, stream: IO[bytes]) -> Entry:
    """The entry of an array that comes as the bytes of a ``.npy`` file."""
    shape, fortran, dtype = read_header(stream)
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}: lengths are 0 or more")
    return Entry(name, shape, dtype, fortran=fortran and len(shape) > 1)
