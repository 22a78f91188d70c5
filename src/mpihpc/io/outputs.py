"""Formats that can be written. The end of a file's name says which; a format is a line in `_FORMATS`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from mpi4py import MPI

from mpihpc.array import DistArray
from mpihpc.io import writing
from mpihpc.io.series import Series
from mpihpc.io.zarr import writing as zarr


class Output(Protocol):
    """What is open for writing, on all ranks, until the end of a ``with`` statement. See `mpihpc.io.Writer`."""

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
        compress: str | None = None,
        chunks: bool = False,
    ) -> None:
        """Add an array. Collective."""
        ...

    def series(
        self, dataset: str, like: DistArray, *, attrs: Mapping[str, Any] | None = None, compress: str | None = None
    ) -> Series:
        """Begin a series of snapshots; a ValueError if the format has none. Collective."""
        ...

    def close(self) -> None:
        """Flush to the disk, and give the file its name. Collective."""
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
    """
    return _find(file).writer(file, mode, comm=comm)


def check_target(file: str | os.PathLike[str], dataset: str = "data", *, series: bool = False, mode: str = "a") -> None:
    """Refuse a result that cannot be written, before anything is computed. For one rank, inside `agree`.

    Parameters
    ----------
    file : path
        The file.
    dataset : str
        What will be in it.
    series : bool
        Whether that is going to be snapshots.
    mode : str
        See `create`.

    Raises
    ------
    ValueError
        Not the name of a file that can be written, or of a dataset.
    OSError
        The folder does not exist or is not writable, or the name is taken by what cannot be replaced.
    """
    _find(file).check_target(file, dataset, series=series, mode=mode)


def _find(file: str | os.PathLike[str]) -> _Format:
    name = os.fspath(file).rstrip("/").lower()
    return next(format for format in _FORMATS if name.endswith(format.suffixes))
