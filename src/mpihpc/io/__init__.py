"""Files: each rank reads and writes its own box.

Reads HDF5, ``.npy`` and ``.npz``; writes HDF5. A written file has one layout whatever the number of ranks, appears
under its name only when it is whole, and opens with plain ``h5py.File(name)[dataset]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from mpi4py import MPI
from numpy.typing import DTypeLike

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Decomposition, Width
from mpihpc.core.device import Device
from mpihpc.io.datasets import gzip_level
from mpihpc.io.outputs import Output, check_target, create
from mpihpc.io.reading import Reader
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
    "gzip_level",
    "open",
    "read",
    "split_name",
    "write",
]

_SUFFIXES = (".h5", ".hdf5", ".he5", ".nc", ".npy", ".npz", ".zarr")


def open(file: str | PathLike[str], mode: str = "r", *, comm: MPI.Intracomm | None = None) -> Reader | Output:
    """Open a file on all ranks. Collective. Use it in a ``with`` statement.

    Parameters
    ----------
    file : path
        HDF5, ``.npy`` or ``.npz`` to read; HDF5 to write.
    mode : str
        "r": a `Reader`. "w": a `Writer`; the file appears under its name, whole, when it is closed without an error.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.

    Raises
    ------
    ValueError, OSError
        On all ranks, with the same text.
    """
    if mode not in ("r", "w"):
        raise ValueError(f"mode {mode!r} is not 'r' or 'w'")
    return Reader(file, comm=comm) if mode == "r" else create(file, comm=comm)


def read(
    file: str | PathLike[str],
    dataset: str | None = None,
    *,
    dtype: DTypeLike | None = None,
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
        HDF5, ``.npy`` (memory-mapped) or ``.npz`` (read by rank 0, and dealt slab by slab).
    dataset : str, optional
        The dataset of an HDF5 file, the key of an ``.npz`` file. Default: the only one.
    dtype : dtype, optional
        Of the array. Default: that of the file, in native byte order.
    comm, dims, halo, device
        See `mpihpc.empty`.
    decomposition : Decomposition, optional
        Instead of `dims`.

    Raises
    ------
    ValueError, TypeError, OSError
        No such file or dataset, another format, truncated, or not numbers. On all ranks, with the same text.
    """
    with Reader(file, dataset, comm=comm) as reader:
        return reader.read(dataset, dtype=dtype, dims=dims, halo=halo, decomposition=decomposition, device=device)


def write(
    file: str | PathLike[str],
    array: DistArray,
    dataset: str = "data",
    *,
    attrs: Mapping[str, Any] | None = None,
    compress: str | None = None,
    chunks: bool = False,
) -> None:
    """Write an array into a new HDF5 file; each rank writes its own box. Collective.

    An old file of this name is replaced when the new one is whole; until then, and after any failure, it stays.

    Blocks in host memory are written from where they lie (parts of packed chunks are moved before). Those on a GPU come
    to host memory in sheets of at most 16 MiB, or of one packed chunk if that is larger: two at a time, however large
    the block is, one of which comes while the other is written.

    Parameters
    ----------
    file : path
        The file; its folder must exist.
    array : DistArray
        What to write.
    dataset : str
        Name of the dataset, ``group/name`` if wanted.
    attrs : mapping, optional
        Attributes of the dataset, such as ``{"units": "m"}``.
    compress : str, optional
        "gzip" or "gzip:LEVEL", level 1 to 9.
    chunks : bool
        In chunks of about 1 MiB. Default: contiguous, unless compressed.

    Raises
    ------
    ValueError, OSError
        No such folder, no permission, no room. On all ranks, with the same text.
    """
    with create(file, comm=array.comm) as writer:
        writer.write(dataset, array, attrs=attrs, compress=compress, chunks=chunks)


def split_name(text: str) -> tuple[str, str | None]:
    """``FILE[:DATASET]`` in two.

    >>> split_name("run:1/dem.npz:elevation"), split_name("out.h5")
    (('run:1/dem.npz', 'elevation'), ('out.h5', None))
    """
    file, colon, dataset = text.rpartition(":")
    if colon and file.lower().endswith(_SUFFIXES):
        return file, dataset
    return text, None
