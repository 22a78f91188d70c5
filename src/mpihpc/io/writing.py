"""Writing HDF5: one shared file, one layout, whole or not at all.

Rank 0 alone makes the file and its datasets, with their space reserved, so the layout cannot depend on the number of
ranks and a full disk is found before any data moves. Then every rank writes its own box (`mpihpc.io.filling`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import mpi4py
import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike

from mpihpc.array import DistArray
from mpihpc.array.operands import require_beside, require_distributed
from mpihpc.core.decomposition import grid_text
from mpihpc.core.failure import agree, agreed, end_job
from mpihpc.core.topology import Topology
from mpihpc.core.watchdog import phase
from mpihpc.io import vtkhdf
from mpihpc.io.adding import check_adding, copy, holds_only, present, remove, state
from mpihpc.io.attributes import Attributes, storable
from mpihpc.io.datasets import check_folder, chunk_grid, create_dataset, gzip_level, sync
from mpihpc.io.describing import CONVENTIONS, attach, coordinates_nbytes, describe, share_axes
from mpihpc.io.filling import Place, fill, find_place
from mpihpc.io.hdf5 import h5py, open_file
from mpihpc.io.metadata import Metadata
from mpihpc.io.series import Series

_METADATA = 1 << 16  # more than HDF5 needs for the description of a dataset


def check_target(file: str | os.PathLike[str], dataset: str = "data", *, series: bool = False, mode: str = "a") -> None:
    """Refuse a result that cannot be written, before anything is computed. For one rank, inside `agree`.

    Raises
    ------
    ValueError
        Not the name of an HDF5 file, or of a dataset. Mode "a": or one that the file cannot take (`check_adding`).
    OSError
        The folder does not exist or is not writable, or the name is taken by a folder or a read-only file. Mode "a":
        or by what is not a whole HDF5 file, or has no room for a copy.
    """
    _ = h5py.File  # where there is no h5py, this says so
    target = os.path.realpath(file)
    if not target.lower().endswith((".h5", ".hdf5", ".he5", ".nc", ".vtkhdf")):
        raise ValueError(f"{os.fspath(file)} is no name for an HDF5 file: end it with .h5")
    parts = dataset.strip("/").split("/")
    if parts[0] == vtkhdf.GROUP or not all(part.strip(".") for part in parts):
        raise ValueError(f"{dataset!r} is no name for a dataset in {os.fspath(file)}: use NAME or GROUP/NAME")
    if "\0" in dataset:  # HDF5 would end the name there
        raise ValueError(f"{dataset!r} is no name for a dataset in {os.fspath(file)}: it has a NUL")
    try:
        dataset.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{dataset!r} is no name for a dataset in {os.fspath(file)}: it is not UTF-8") from None
    check_folder(os.fspath(file))
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(file)} cannot be written: it is a folder")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise PermissionError(f"{os.fspath(file)} cannot be replaced: it is read-only")
    if mode == "a" and present(target):
        check_adding(os.fspath(file), target, dataset, series)


class Writer:
    """A new HDF5 file, or datasets for one that is there; open on all ranks. Making it is collective.

    Use it in a ``with`` statement. The file is written under a temporary name in the same folder. Leaving the block
    closes it: flushed to the disk and renamed. Leaving it by an error removes it; an old file of this name then stays
    as it was.

    Parameters
    ----------
    file : path
        The file; its folder must exist. A symbolic link is followed.
    mode : str
        "w": a new file, instead of an old one. "a": what is in an old file stays, in a copy to which the datasets are
        added; one of the same name is replaced. A file that holds nothing but the result that is replaced is not
        copied. What was deleted leaves a gap, which ``h5repack`` closes.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.

    Attributes
    ----------
    attrs : dict
        Attributes of the root group, on rank 0; add your own. One that HDF5 cannot store is refused at once.
    provenance : dict
        What differs from run to run: command, versions, ranks and grid. It is kept as attributes, too.

    Examples
    --------
    >>> import mpihpc
    >>> with Writer("run.h5") as file:
    ...     file.write("u", mpihpc.ones((4, 3)), attrs={"units": "m"})
    >>> mpihpc.io.read("run.h5", "u").sum()
    np.float64(12.0)
    """

    def __init__(self, file: str | os.PathLike[str], mode: str = "w", *, comm: MPI.Intracomm | None = None) -> None:
        self.topology = Topology.of(comm)
        self.file, self.mode = os.fspath(file), mode
        command = shlex.join(sys.orig_argv).encode(errors="backslashreplace").decode()  # names need not be UTF-8
        self.attrs = Attributes()
        self.provenance: dict[str, Any] = {"command": command, "ranks": self.topology.size}
        name: str = self.topology.private.bcast(secrets.token_hex(4), root=0)
        self._target = os.path.realpath(self.file)
        self.keep = False  # what is whole under the temporary name is worth keeping
        self.partial = f"{self._target}.{name}.partial"
        self._begun: set[str] = set()  # names of datasets, on rank 0
        self._copied: tuple[int, ...] = ()  # the old file, if its content is in the new one
        self._lost = ""  # a dataset that was removed, and could not be made again
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                check_target(self.file, mode="w")
                self.provenance["versions"] = ", ".join(f"{name} {version}" for name, version in versions().items())
                try:
                    self._reserve(_METADATA)  # given back by the next line, but now it is known to be there
                    open_file(self.partial, "w").close()
                except BaseException:
                    self.discard()
                    raise

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()

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
        """Add an array to the file; each rank writes its own box. Collective.

        Parameters
        ----------
        dataset : str
            Name of the dataset, ``group/name`` if wanted.
        array : DistArray
            On the ranks of the file.
        attrs : mapping, optional
            Attributes of the dataset.
        axes, metadata : optional
            See `mpihpc.io.write`.
        compress : str, optional
            "gzip" or "gzip:LEVEL", level 1 to 9: in chunks, with the bytes of a chunk shuffled.
        chunks : bool
            In chunks of about 1 MiB, which depend on the shape alone. Default: contiguous, unless compressed.
        """
        place: Place | None = None
        with self.alone(dataset, array) as rank_0:
            if rank_0:
                level = gzip_level(compress)
                if not array.size:
                    level, chunks = None, False  # HDF5 has no chunks without cells
                grid = chunk_grid(array.shape, array.dtype.itemsize) if chunks or level else None
                # HDF5 1.10 was the first to be able to lay all chunks one behind the other, without an index.
                about = describe(array.shape, metadata, axes, attrs)
                vtkhdf.check_shown(self.file, array.shape, array.dtype)
                room = array.nbytes + coordinates_nbytes(about.axes)
                with self.reserved(room, libver=("v110", "v110") if chunks and level is None else None) as h5:
                    named = share_axes(h5, dataset, about.axes, array.shape)
                    made = create_dataset(h5, dataset, array.shape, array.dtype, grid, level)
                    attach(made, named, about.attrs)
                    vtkhdf.show(h5, dataset, array.shape, named)
                    place = find_place(made, ())
        self.fill_in(place, array)

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
        """Begin a series of snapshots of arrays like this one. Collective. See `Series`."""
        return Series(self, dataset, like, attrs, axes, metadata, compress)

    def close(self) -> None:
        """Flush to the disk, and give the file its name. Collective."""
        phase(f"flush {self.file}")
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                if self._lost:
                    raise ValueError(f"{self.file} stays as it was: dataset {self._lost!r} could not be written")
                if self.mode == "a" and not self._begun and present(self._target):  # attributes alone
                    self._copy(0)
                self.describe()
        with agree(self.topology.private):
            sync(self.partial)  # on every rank: each node has its own unwritten pages
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                if self._copied and state(self._target) != self._copied:
                    self.keep = True
                    why = f"it was changed since it was copied: the new content is in {self.partial}"
                    raise OSError(f"{self.file} is not replaced: {why}")
                os.replace(self.partial, self._target)
                with contextlib.suppress(OSError):  # not all file systems can, and the file is there
                    sync(os.path.dirname(self._target))

    def discard(self) -> None:
        """Remove what has no name yet. Whole snapshots stay, under the temporary name; the old file stays too."""
        if self.topology.rank == 0 and not self.keep and os.path.exists(self.partial):
            os.unlink(self.partial)

    @contextmanager
    def alone(self, dataset: str, array: DistArray, *, series: bool = False) -> Iterator[bool]:
        """What rank 0 alone does to the file; yields whether this is it. Collective."""
        with agree(self.topology.private, root=0):
            require_distributed(array, "the array")
            require_beside(array, "the array", self.topology, like="the file")
            removed = self.topology.rank == 0 and self._begin(dataset, array, series)
            if self.topology.rank == 0:
                self.provenance["decomposition"] = grid_text(array.decomposition.dims)
            try:
                yield self.topology.rank == 0
                removed = False
                self._lost = "" if self._lost == dataset else self._lost
            except OSError:
                raise
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"{self.file}: dataset {dataset!r} cannot be made: {error}") from error
            finally:
                if removed:
                    self._lost = dataset

    def _begin(self, dataset: str, array: DistArray, series: bool) -> bool:
        """Before a dataset is made: what is in the old file comes here, but for one of this name. For rank 0.

        Returns whether one was removed.
        """
        name = dataset.strip("/")
        adding = self.mode == "a" and name not in self._begun and present(self._target)
        check_target(self.file, dataset, series=series, mode="a" if adding else "w")
        if adding and not self._copied:
            with open_file(self._target) as h5:
                if not self._begun and holds_only(h5, name):
                    adding = False
                    self.mode = "w"
        if adding and not self._copied:
            self._copy(array.nbytes)
        self._begun.add(name)
        if not adding:
            return False
        with open_file(self.partial, "r+") as h5:
            return remove(h5, name, series)

    def _copy(self, nbytes: int) -> None:
        """The content of the old file comes here, where `nbytes` will follow. For rank 0."""
        phase(f"copy {self.file}")
        self._reserve(os.path.getsize(self._target) + nbytes + _METADATA)
        self._copied = copy(self.file, self._target, self.partial)

    def fill_in(self, place: Place | None, array: DistArray) -> None:
        """Write every rank's box to a place that rank 0 has made. Collective."""
        phase(f"write {self.file}")
        private = self.topology.private
        place = private.bcast(place, root=0)
        if not array.size:
            return
        failure: BaseException | None = None
        try:
            fill(self.partial, place, array)
        except Exception as error:  # whatever it is, the others must know
            if agreed(error):
                raise
            failure = error
        try:
            with agree(private):
                if failure is not None:
                    raise OSError(errno.EIO, f"writing failed: {failure}", self.file) from failure
        except OSError as error:
            if not h5py.get_config().mpi:
                raise
            self._end(error)

    def describe(self) -> None:
        """Write the attributes of the root group. For rank 0."""
        with open_file(self.partial, "r+") as h5:
            h5.attrs.update(storable({"Conventions": CONVENTIONS} | self.provenance | self.attrs.data))

    @contextmanager
    def reserved(self, nbytes: int, libver: tuple[str, str] | None = None) -> Iterator[h5py.File]:
        """The file, open on rank 0, with room on the disk for `nbytes` more: found now, not when ranks write them."""
        self._reserve(os.path.getsize(self.partial) + nbytes + _METADATA)
        with open_file(self.partial, "r+", libver=libver) as h5:
            yield h5
        self._reserve(os.path.getsize(self.partial))  # HDF5 leaves holes where it has allocated

    def _reserve(self, nbytes: int) -> None:
        """Make the file own its first `nbytes` on the disk, or say that there is no room."""
        handle = os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, nbytes)
        except OSError as error:
            why = f"no room for {nbytes} bytes ({error.strerror}): free some or write elsewhere"
            raise OSError(error.errno, why, self.file) from error
        finally:
            os.close(handle)

    def _end(self, error: OSError) -> NoReturn:
        """End the job: a parallel HDF5 crashes or hangs when a file is closed after a failed collective write."""
        self.discard()
        if self.topology.rank == 0:
            kept = f"; whole snapshots are in {self.partial}" if self.keep else ""
            print(f"mpihpc: error: {error}{kept}", file=sys.stderr, flush=True)
        self.topology.private.Barrier()
        end_job()
        raise error


def versions() -> dict[str, str]:
    """Versions of what makes the numbers and the files."""
    from mpihpc._version import __version__

    return {
        "mpihpc": __version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "HDF5": h5py.version.hdf5_version,
        "mpi4py": mpi4py.__version__,
        "MPI": MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0],
    }
