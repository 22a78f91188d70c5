"""How datasets lie in a file; nothing here depends on the number of ranks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from mpihpc.core.dtypes import require_storable
from mpihpc.core.failure import nearest
from mpihpc.io.hdf5 import h5py

_CHUNK_BYTES = 1 << 20


def gzip_level(compress: str | None) -> int | None:
    """The level for "gzip" or "gzip:LEVEL".

    Examples
    --------
    >>> gzip_level("gzip"), gzip_level("gzip:9"), gzip_level(None)
    (4, 9, None)
    """
    if compress is None:
        return None
    name, _, level = compress.partition(":")
    if name != "gzip":
        raise ValueError(f"unknown compression {compress!r}: {nearest(name, ['gzip'])}")
    if (level or "4") not in tuple("123456789"):
        raise ValueError(f"gzip level {level} is not a number from 1 to 9")
    return int(level or 4)


def chunk_grid(shape: Sequence[int], itemsize: int, most: int | None = None) -> tuple[int, ...]:
    """Chunks of at most `most` bytes (1 MiB), nearly cubes, which depend on the shape and the size of a cell alone.

    >>> chunk_grid((4096, 4096), 8), chunk_grid((100, 7), 8)
    ((256, 512), (100, 7))
    """
    chunk = list(shape)
    while math.prod(chunk) * itemsize > (most or _CHUNK_BYTES):
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def create_dataset(
    h5: h5py.File,
    name: str,
    shape: Sequence[int],
    dtype: np.dtype,
    chunks: tuple[int, ...] | None,
    level: int | None,
    grows: bool = False,
) -> h5py.Dataset:
    """Make a dataset whose cells hold anything, in space that is allocated now.

    Parameters
    ----------
    h5 : h5py.File
        Open for writing on this rank alone.
    name, shape, dtype
        Of the dataset.
    chunks : tuple of int, optional
        Shape of a chunk. Default: contiguous.
    level : int, optional
        Of gzip, after a shuffle of the bytes; needs chunks.
    grows : bool
        Whether the first axis can be extended; needs chunks.
    """
    require_storable(dtype)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    if chunks is not None:
        layout.set_chunk(chunks)
    # Also where it will be given back: parallel HDF5 1.10 hangs on a grown dataset of packed chunks that has none.
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    if level is not None:
        layout.set_shuffle()
        layout.set_deflate(level)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    most = (h5py.h5s.UNLIMITED if grows else shape[0], *shape[1:])
    h5py.h5d.create(
        h5.id,
        name.encode(),
        h5py.h5t.py_create(dtype, logical=True),
        h5py.h5s.create_simple(tuple(shape), most),
        layout,
        links,
    )
    return h5[name]


def check_folder(file: str) -> None:
    """Refuse a file in a folder that does not exist or is not writable.

    Raises
    ------
    OSError
        With the name of the file, and of the folder.
    """
    folder = os.path.dirname(os.path.realpath(file))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{file} cannot be written: no permission to write to folder {folder}")


def sync(path: str) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
