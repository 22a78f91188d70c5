"""Formats that can be written, chosen by the suffix of the file's name; each is a line in `_FORMATS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike

from mpihpc.array import DistArray
from mpihpc.core.dtypes import require_storable
from mpihpc.io import vtkhdf, writing
from mpihpc.io.attributes import storable
from mpihpc.io.describing import describe
from mpihpc.io.metadata import Metadata
from mpihpc.io.series import Series
from mpihpc.io.zarr import writing as zarr


class Output(Protocol):
    """A file open for writing on all ranks, until the end of a ``with`` statement. See `mpihpc.io.Writer`."""

    provenance: dict[str, Any]
    """What differs from run to run, on rank 0. A format may leave it out."""

    @property
    def attrs(self) -> MutableMapping[str, Any]:
        """Attributes of the file, on rank 0."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def write(
        self,
        dataset: str,
        array: DistArray,
        *,
        attrs: Mapping[str, Any] | None = None,
        axes: Mapping[str, ArrayLike | None] | Sequence[str] | None = None,
        metadata: Metadata | None = None,
        compress: str | None = None,
        chunks: bool = False,
    ) -> None:
        """Add an array. Collective."""
        ...

    def series(
        self,
        dataset: str,
        like: DistArray,
        *,
        attrs: Mapping[str, Any] | None = None,
        axes: Mapping[str, ArrayLike | None] | Sequence[str] | None = None,
        metadata: Metadata | None = None,
        compress: str | None = None,
    ) -> Series:
        """Begin a series of snapshots; a ValueError if the format has none. Collective."""
        ...

    def close(self) -> None:
        """Flush to the disk, and rename the file to its final name. Collective."""
        ...


class _Format(NamedTuple):
    suffixes: tuple[str, ...]
    writer: Callable[..., Output]
    check_target: Callable[..., None]


_FORMATS = (
    _Format((".zarr",), zarr.ZarrWriter, zarr.check_target),
    _Format(("",), writing.Writer, writing.check_target),  # it refuses other names than those of HDF5 files
)


def create(file: str | os.PathLike[str], mode: str = "w", *, comm: MPI.Intracomm | None = None) -> Output:
    """Open a file for writing, on all ranks: a `Writer`, or a `ZarrWriter` if the name ends with .zarr.

    Collective. Use it in a ``with`` statement.

    Parameters
    ----------
    file : path
        Its folder must exist.
    mode : str
        "w": a new file, instead of an old one. "a": what is in an old file stays, but for datasets of the same name.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.

    Examples
    --------
    >>> import mpihpc
    >>> with mpihpc.io.create("out.h5") as output:
    ...     output.write("u", mpihpc.ones((4, 3)))
    >>> mpihpc.io.read("out.h5", "u").sum()
    np.float64(12.0)
    """
    return _find(file).writer(file, mode, comm=comm)


def check_target(file: str | os.PathLike[str], dataset: str = "data", *, series: bool = False, mode: str = "a") -> None:
    """Check that a result can be written, before anything is computed. For one rank, inside `agree`.

    Parameters
    ----------
    file : path
        The file.
    dataset : str
        The dataset to write.
    series : bool
        Whether it will be a series of snapshots.
    mode : str
        See `create`.

    Raises
    ------
    ValueError
        The name is not valid for a file that can be written, or for a dataset.
    OSError
        The folder does not exist or is not writable, or the name is taken by something that cannot be replaced.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.io.check_target("/no/such/folder/out.h5")
    Traceback (most recent call last):
    ...
    FileNotFoundError: /no/such/folder/out.h5 cannot be written: there is no folder /no/such/folder
    """
    _find(file).check_target(file, dataset, series=series, mode=mode)


def check_content(file: str | os.PathLike[str], shape: Sequence[int], dtype: np.dtype, metadata: Metadata) -> None:
    """Check that a file can hold an array and its metadata, before it is computed. Inside `agree`.

    Parameters
    ----------
    file : path
        The file.
    shape, dtype
        Of the array.
    metadata : Metadata
        Of the array.

    Raises
    ------
    ValueError, TypeError
        A dtype that files do not have, names or coordinates of axes or attributes that cannot be written, or an array
        that VTK cannot show in a file whose name ends with .vtkhdf.

    Examples
    --------
    >>> metadata = Metadata(attrs={"units": "K"})
    >>> check_content("out.h5", (4, 3), np.dtype(float), metadata)
    """
    require_storable(dtype)
    vtkhdf.check_shown(file, shape, dtype)
    about = describe(shape, metadata, None, None)
    for attrs in (about.attrs, *(axis.attrs for axis in about.axes)):
        storable(attrs)


def _find(file: str | os.PathLike[str]) -> _Format:
    name = os.fspath(file).rstrip("/").lower()
    return next(format for format in _FORMATS if name.endswith(format.suffixes))
