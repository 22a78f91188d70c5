"""Files: each rank reads and writes its own box.

Reads HDF5, Zarr, ``.npy`` and ``.npz``; writes HDF5 and Zarr. A written file has one layout whatever the number of
ranks, appears under its name only when it is whole, and opens with plain ``h5py.File(name)[dataset]`` or zarr-python.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from mpi4py import MPI
from numpy.typing import DTypeLike

from mpihpc.array import DistArray
from mpihpc.array.operands import together
from mpihpc.core.decomposition import Decomposition, Width
from mpihpc.core.device import Device
from mpihpc.io.datasets import gzip_level
from mpihpc.io.formats import FORMATS
from mpihpc.io.outputs import Output, check_target, create
from mpihpc.io.reading import Reader
from mpihpc.io.selection import parse_slices
from mpihpc.io.series import Series
from mpihpc.io.writing import Writer
from mpihpc.io.zarr.writing import ZarrWriter

__all__ = [
    "Output",
    "Reader",
    "Series",
    "Writer",
    "ZarrWriter",
    "check_target",
    "create",
    "gzip_level",
    "open",
    "parse_slices",
    "read",
    "split_name",
    "write",
]

_SUFFIXES = (".h5", ".hdf5", ".he5", ".hdf", ".nc", ".nc4", ".npy", ".npz", ".vtkhdf", ".zarr")  # of new files


def open(
    file: str | PathLike[str], mode: str = "r", *, comm: MPI.Intracomm | None = None, decode: bool = True
) -> Reader | Output:
    """Open a file on all ranks. Collective. Use it in a ``with`` statement.

    Parameters
    ----------
    file : path
        HDF5, Zarr, ``.npy`` or ``.npz`` to read; HDF5, or Zarr by a name that ends with ``.zarr``, to write.
    mode : str
        "r": a `Reader`. "w": a `Writer` or a `ZarrWriter` of a new file. "a": the same, and what is in an old file
        stays, but for datasets that are written again. The file appears under its name, whole, when it is closed
        without an error.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    decode : bool
        For reading, see `read`.

    Raises
    ------
    ValueError, OSError
        On all ranks, with the same text.
    """
    if mode not in ("r", "w", "a"):
        raise ValueError(f"mode {mode!r} is not 'r', 'w' or 'a'")
    return Reader(file, comm=comm, decode=decode) if mode == "r" else create(file, mode, comm=comm)


def read(
    file: str | PathLike[str],
    dataset: str | None = None,
    *,
    dtype: DTypeLike | None = None,
    slices: Any = None,
    decode: bool = True,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
    decomposition: Decomposition | None = None,
    device: str | Device = "cpu",
) -> DistArray:
    """Read an array; each rank reads its own box. Collective.

    It goes through host memory in slabs of at most 16 MiB, or of one packed chunk of the file if that is larger. For
    blocks on a GPU there are two of them at a time: one is read while the other travels.

    Parameters
    ----------
    file : path
        HDF5 (netCDF 4 and MATLAB 7.3 included), ``.npy`` (memory-mapped) or ``.npz`` (read by rank 0, and dealt slab
        by slab). What is in the file decides, not its name.
    dataset : str, optional
        The dataset of an HDF5 file, the key of an ``.npz`` file. Default: the only one.
    dtype : dtype, optional
        Of the array. Default: that of the values in the file, in native byte order. Numbers may be rounded; those that
        do not fit are refused.
    slices : optional
        The part to read, as ``np.s_[-1, :, ::2]``: an integer drops its axis; steps are 1 or more. Each rank reads its
        own cells of it only. Default: all.
    decode : bool
        Packed numbers (the attributes ``scale_factor``, ``add_offset``, ``_FillValue``, ``missing_value``,
        ``valid_range``, ``valid_min``, ``valid_max`` and ``_Unsigned`` of the CF conventions) become the values that
        they stand for, NaN where there is none: float32 where that holds them exactly, else float64, integers with a
        fill value too. False: the numbers as they are stored.
    comm, dims, halo, device
        See `mpihpc.empty`.
    decomposition : Decomposition, optional
        Instead of `dims`.

    Raises
    ------
    ValueError, TypeError, OSError
        No such file or dataset, another format, truncated, or not numbers; a part that is not there, or values that
        do not fit `dtype`. On all ranks, with the same text.

    Examples
    --------
    >>> u = mpihpc.io.read("run.h5", "data", slices=np.s_[-1])  # doctest: +SKIP
    """
    with Reader(file, dataset, comm=comm, decode=decode) as reader:
        options: dict[str, Any] = {"dims": dims, "halo": halo, "decomposition": decomposition, "device": device}
        return reader.read(dataset, dtype=dtype, slices=slices, **options)


def write(
    file: str | PathLike[str],
    array: DistArray,
    dataset: str = "data",
    *,
    attrs: Mapping[str, Any] | None = None,
    compress: str | None = None,
    chunks: bool = False,
) -> None:
    """Write an array into an HDF5 file or Zarr store; each rank writes its own cells. Collective.

    Other datasets of the file stay; one of the same name is replaced. A new file takes the name of the old one when it
    is whole; until then, and after any failure, the old one stays. It needs room for a copy of what stays.

    Blocks in host memory are written from where they lie (parts of packed chunks are moved before). Those on a GPU come
    to host memory in sheets of at most 16 MiB, or of one packed chunk if that is larger: two at a time, however large
    the block is, one of which comes while the other is written.

    Parameters
    ----------
    file : path
        The file, or a name that ends with ``.zarr``; its folder must exist.
    array : DistArray
        What to write.
    dataset : str
        Name of the dataset, ``group/name`` if wanted.
    attrs : mapping, optional
        Attributes of the dataset, such as ``{"units": "m"}``.
    compress : str, optional
        "gzip" or "gzip:LEVEL", level 1 to 9.
    chunks : bool
        In chunks of about 1 MiB. Default: contiguous, unless compressed; in Zarr, of at most 16 MiB.

    Raises
    ------
    ValueError, OSError
        No such folder, no permission, no room; a file that cannot take the dataset. On all ranks, with the same text.
    """
    with together("mpihpc.io.write", {"array": array}) as topology:
        pass
    with create(file, "a", comm=topology.comm) as writer:
        writer.write(dataset, array, attrs=attrs, compress=compress, chunks=chunks)


def split_name(text: str) -> tuple[str, str | None]:
    """``FILE[:DATASET]`` in two; both may have colons.

    What exists on the disk decides: the longest text before a colon, or before the end, that names a file or a Zarr
    store. If nothing exists, as for a new output, it is the longest text before a colon that ends as a file of a known
    format does. Else the whole text is the file.

    Examples
    --------
    >>> split_name("run:1/dem.npz:elevation"), split_name("out.h5")
    (('run:1/dem.npz', 'elevation'), ('out.h5', None))
    """
    ends = [len(text), *(k for k in range(len(text) - 1, 0, -1) if text[k] == ":")]
    for end in ends:
        file = text[:end]
        if os.path.exists(file) and (not os.path.isdir(file) or any(f.recognises(file, b"") for f in FORMATS)):
            return file, text[end + 1 :] if end < len(text) else None
    for end in ends[1:]:
        if text[:end].lower().endswith(_SUFFIXES):
            return text[:end], text[end + 1 :]
    return text, None
