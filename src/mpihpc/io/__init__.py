"""Files: each rank reads and writes its own box.

Reads HDF5, Zarr, ``.npy`` and ``.npz``; writes HDF5 and Zarr. The layout of a written file does not depend on the
number of ranks, the file appears under its name only when it is complete, and plain h5py or zarr-python opens it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from mpi4py import MPI
from numpy.typing import ArrayLike, DTypeLike

from mpihpc.array import DistArray
from mpihpc.array.operands import together
from mpihpc.core.decomposition import Decomposition, Width
from mpihpc.core.device import Device
from mpihpc.io.datasets import gzip_level
from mpihpc.io.formats import FORMATS
from mpihpc.io.metadata import Axis, Metadata
from mpihpc.io.outputs import Output, check_content, check_target, create
from mpihpc.io.reading import Reader
from mpihpc.io.selection import parse_slices
from mpihpc.io.series import Series
from mpihpc.io.writing import Writer
from mpihpc.io.zarr.writing import ZarrWriter

__all__ = [
    "Axis",
    "Metadata",
    "Output",
    "Reader",
    "Series",
    "Writer",
    "ZarrWriter",
    "check_content",
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
        "r": returns a `Reader`. "w": returns a `Writer` or a `ZarrWriter` of a new file. "a": the same, but what an old
        file holds stays, except for datasets that are written again. The complete file appears under its name when it
        is closed without an error.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    decode : bool
        For reading, see `read`.

    Raises
    ------
    ValueError, OSError
        An unknown mode, or a file that cannot be read or written. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> with mpihpc.io.open("run.h5", "w") as file:
    ...     file.write("u", mpihpc.ones((4, 3)))
    >>> with mpihpc.io.open("run.h5") as file:
    ...     file.read("u").sum()
    np.float64(12.0)
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
    """Read an array; each rank reads its own block. Collective.

    Data are read in slabs of at most 16 MiB, or of one compressed chunk of the file if that is larger. Blocks on a GPU
    need two slabs in host memory: one is read while the other is copied to the GPU.

    Parameters
    ----------
    file : path
        HDF5 (including netCDF 4 and MATLAB 7.3), Zarr, ``.npy`` (memory-mapped) or ``.npz`` (read by rank 0, which
        sends each slab to its owners). The format follows from the content, not from the name.
    dataset : str, optional
        The dataset of an HDF5 file, the array of a Zarr store, or the key of an ``.npz`` file. Default: the only one.
    dtype : dtype, optional
        Of the array. Default: that of the values in the file, in native byte order. Numbers may be rounded; numbers out
        of range are refused.
    slices : optional
        The part to read, as ``np.s_[-1, :, ::2]``: an integer drops its axis; steps are 1 or more. Each rank reads only
        its own cells of it. Default: all.
    decode : bool
        Decode packed values (attributes ``scale_factor``, ``add_offset``, ``_FillValue``, ``missing_value``,
        ``valid_range``, ``valid_min``, ``valid_max`` and ``_Unsigned`` of the CF conventions), with NaN for missing
        ones, to float32 if that is exact, else to float64. Integers with a fill value become floats too. False: read
        the numbers as stored.
    comm, dims, halo, device
        See `mpihpc.empty`.
    decomposition : Decomposition, optional
        Instead of `dims`.

    Raises
    ------
    ValueError, TypeError, OSError
        The file or dataset does not exist, has an unknown format, is truncated, or does not hold numbers; `slices` is
        out of range; or values do not fit `dtype`. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.io.write("field.h5", mpihpc.fromfunction(lambda i, j: 10 * i + j, (3, 4)))
    >>> mpihpc.io.read("field.h5").shape
    (3, 4)
    >>> mpihpc.io.read("field.h5", slices=(-1, slice(None, None, 2))).gather(root=None)
    array([20., 22.])
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
    axes: Mapping[str, ArrayLike | None] | Sequence[str] | None = None,
    metadata: Metadata | None = None,
    compress: str | None = None,
    chunks: bool = False,
) -> None:
    """Write an array into an HDF5 file or Zarr store; each rank writes its own cells. Collective.

    Other datasets of the file stay; one of the same name is replaced. The new file takes the name of the old one when
    it is complete; until then, and after any failure, the old one stays. This needs room for a copy of what stays.

    Blocks in host memory are written in place, without a copy (parts of compressed chunks are redistributed first).
    Blocks on a GPU are copied to host memory in sheets of at most 16 MiB, or of one compressed chunk if that is larger;
    there are two at a time: one is copied while the other is written.

    Parameters
    ----------
    file : path
        The file, or a name that ends with ``.zarr``; its folder must exist.
    array : DistArray
        The array to write.
    dataset : str
        Name of the dataset, ``group/name`` if wanted.
    attrs : mapping, optional
        Attributes of the dataset, such as ``{"units": "m"}``.
    axes : mapping or sequence of str, optional
        Names of the axes, such as ``("lat", "lon")``; or coordinates of the cells along each, by name (numbers, or
        None). Default: ``("y", "x")``, and likewise for up to four axes. Where another array of the file has an axis
        of this name that is not the same, it is named after the array, too: ``x_density``.
    metadata : Metadata, optional
        Axes and attributes in one, as `Reader.metadata` returns them; `attrs` are added to those.

        The file opens in xarray and, for 1 to 3 axes of real numbers, in ParaView. netCDF4 shows bools as int8 and
        complex numbers as pairs; it cannot open a file that holds float16, which h5netcdf can.
    compress : str, optional
        "gzip" or "gzip:LEVEL", level 1 to 9.
    chunks : bool
        Store in chunks of about 1 MiB. Default: contiguous, unless compressed; in Zarr, chunks of at most 16 MiB.

    Raises
    ------
    ValueError, OSError
        The folder does not exist or is not writable, the disk is full, or the file cannot take the dataset. On all
        ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.ones((4, 3))
    >>> mpihpc.io.write("u.h5", u, "velocity/u", attrs={"units": "m/s"}, compress="gzip")
    >>> (mpihpc.io.read("u.h5", "velocity/u") == u).all()
    np.True_
    """
    with together("mpihpc.io.write", {"array": array}) as topology:
        pass
    with create(file, "a", comm=topology.comm) as writer:
        writer.write(dataset, array, attrs=attrs, axes=axes, metadata=metadata, compress=compress, chunks=chunks)


def split_name(text: str) -> tuple[str, str | None]:
    """Split ``FILE[:DATASET]``; both parts may contain colons.

    FILE is the longest part before a colon, or the whole text, that is an existing file or Zarr store. If there is
    none, as for a new output, it is the longest part before a colon that has the suffix of a known format; failing
    that, the whole text.

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
