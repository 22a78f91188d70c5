"""Writing HDF5: one shared file, one layout, whole or not at all.

Rank 0 alone makes the file and its datasets, contiguous and with their space reserved, so the layout cannot depend on
the number of ranks and a full disk is found before any data moves. Then every rank writes its own box: through HDF5
where h5py is parallel, else through MPI-IO at the dataset's offset in the file. No rank but one ever opens the file
for writing with an HDF5 that does not know of the others.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import h5py
import mpi4py
import numpy as np
from mpi4py import MPI

from mpihpc.array import DistArray
from mpihpc.core.decomposition import grid_text
from mpihpc.core.failure import agree
from mpihpc.core.topology import Topology

_METADATA = 1 << 16  # more than HDF5 needs for the description of a dataset
_ROUND_BYTES = 1 << 30  # MPI-IO libraries have been seen to break on single writes of more than 2 GiB


def check_target(file: str | os.PathLike[str], dataset: str = "data") -> None:
    """Refuse a result that cannot be written, before anything is computed. For one rank, inside `agree`.

    Raises
    ------
    ValueError
        Not the name of an HDF5 file, or of a dataset.
    OSError
        The folder does not exist or is not writable, or the name is taken by a folder or a read-only file.
    """
    target = os.path.realpath(file)
    folder = os.path.dirname(target)
    if not target.lower().endswith((".h5", ".hdf5", ".he5", ".nc")):
        raise ValueError(f"{os.fspath(file)} is no name for an HDF5 file: end it with .h5")
    if not all(part.strip(".") for part in dataset.strip("/").split("/")):
        raise ValueError(f"{dataset!r} is no name for a dataset in {os.fspath(file)}: use NAME or GROUP/NAME")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{os.fspath(file)} cannot be written: there is no folder {folder}")
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(file)} cannot be written: it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{os.fspath(file)} cannot be written: no permission to write to folder {folder}")
    if os.path.exists(target) and not os.access(target, os.W_OK):
        raise PermissionError(f"{os.fspath(file)} cannot be replaced: it is read-only")


class Writer:
    """A new HDF5 file, open on all ranks. Making it is collective. Use it in a ``with`` statement.

    The file is written under a temporary name in the same folder. Leaving the block closes it: flushed to the disk and
    renamed. Leaving it by an error removes it; an old file of this name then stays as it was.

    Parameters
    ----------
    file : path
        The file; its folder must exist. A symbolic link is followed.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.

    Attributes
    ----------
    attrs : dict
        Attributes of the root group, on rank 0; add your own. Command, versions, ranks and grid are there already.
    """

    def __init__(self, file: str | os.PathLike[str], *, comm: MPI.Intracomm | None = None) -> None:
        self.topology = Topology.of(comm)
        self.file = os.fspath(file)
        self.attrs: dict[str, Any] = {
            "command": shlex.join(sys.orig_argv),
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
            "ranks": self.topology.size,
        }
        name: str = self.topology.private.bcast(secrets.token_hex(4), root=0)
        self._target = os.path.realpath(self.file)
        self._partial = f"{self._target}.{name}.partial"
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                check_target(self.file)
                try:
                    self._reserve(_METADATA)  # given back by the next line, but now it is known to be there
                    h5py.File(self._partial, "w").close()
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

    def write(self, dataset: str, array: DistArray, *, attrs: Mapping[str, Any] | None = None) -> None:
        """Add an array to the file; each rank writes its own box. Collective.

        Parameters
        ----------
        dataset : str
            Name of the dataset, ``group/name`` if wanted.
        array : DistArray
            On the ranks of the file.
        attrs : mapping, optional
            Attributes of the dataset.
        """
        private = self.topology.private
        self.attrs["decomposition"] = grid_text(array.decomposition.dims)
        offset: int | None = None
        with agree(private, root=0):
            if array.topology is not self.topology:
                raise ValueError("the array lies on another communicator than the file: open it with comm=array.comm")
            if self.topology.rank == 0:
                check_target(self.file, dataset)
                try:
                    offset = self._create(dataset, array, dict(attrs or {}))
                except (ValueError, RuntimeError) as error:
                    raise OSError(f"{self.file}: dataset {dataset!r} cannot be made: {error}") from error
        offset = private.bcast(offset, root=0)
        if offset is None:  # no cells
            return
        failure: BaseException | None = None
        try:
            if h5py.get_config().mpi:
                _write_hdf5(self._partial, dataset, array)
            else:
                _write_mpiio(self._partial, offset, array)
        except (MPI.Exception, OSError, RuntimeError) as error:
            failure = error
        try:
            with agree(private):
                if failure is not None:
                    raise OSError(errno.EIO, f"writing failed: {failure}", self.file) from failure
        except OSError as error:
            if not h5py.get_config().mpi:
                raise
            self._end(error)

    def close(self) -> None:
        """Flush to the disk, and give the file its name. Collective."""
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                with h5py.File(self._partial, "r+") as h5:
                    h5.attrs.update(self.attrs)
        with agree(self.topology.private):
            _sync(self._partial)  # on every rank: each node has its own unwritten pages
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                os.replace(self._partial, self._target)
                _sync(os.path.dirname(self._target))

    def discard(self) -> None:
        """Remove what has been written and not been given its name. The old file stays."""
        if self.topology.rank == 0 and os.path.exists(self._partial):
            os.unlink(self._partial)

    def _create(self, dataset: str, array: DistArray, attrs: dict[str, Any]) -> int | None:
        """Make an empty contiguous dataset; where its cells begin in the file."""
        self._reserve(os.path.getsize(self._partial) + array.nbytes + _METADATA)
        with h5py.File(self._partial, "r+") as h5:
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_layout(h5py.h5d.CONTIGUOUS)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
            links.set_create_intermediate_group(True)
            made = h5py.h5d.create(
                h5.id,
                dataset.encode(),
                h5py.h5t.py_create(array.dtype, logical=True),
                h5py.h5s.create_simple(array.shape),
                layout,
                links,
            )
            h5[dataset].attrs.update(attrs)
            offset: int | None = made.get_offset()
        return offset

    def _reserve(self, nbytes: int) -> None:
        """Take the space on the disk now, or say that there is none."""
        handle = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, nbytes)
        except OSError as error:
            raise OSError(
                error.errno,
                f"no room for {nbytes} bytes ({error.strerror}): free some or write elsewhere",
                self.file,
            ) from error
        finally:
            os.close(handle)

    def _end(self, error: OSError) -> NoReturn:
        """End the job: a parallel HDF5 crashes or hangs when a file is closed after a failed collective write."""
        self.discard()
        if self.topology.rank == 0:
            print(f"mpihpc: error: {error}", file=sys.stderr, flush=True)
        self.topology.private.Barrier()
        MPI.COMM_WORLD.Abort(1)
        raise error


def versions() -> dict[str, str]:
    """Versions of what makes the numbers and the files."""
    from mpihpc import __version__

    return {
        "mpihpc": __version__,
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "HDF5": h5py.version.hdf5_version,
        "mpi4py": mpi4py.__version__,
        "MPI": MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0],
    }


def _write_hdf5(file: str, dataset: str, array: DistArray) -> None:
    """Every rank's box through a parallel HDF5, collectively, out of the padded block without a copy."""
    box, frame = array.box, array.frame
    h5 = h5py.File(file, "r+", driver="mpio", comm=array.topology.private)
    target = h5[dataset].id
    there = target.get_space()
    # h5py's own slicing leaves ranks without cells out of the collective call.
    here = h5py.h5s.create_simple(frame.shape if box.size else (1,) * array.ndim)
    if box.size:
        there.select_hyperslab(box.start, box.shape)
        here.select_hyperslab(tuple(b - f for b, f in zip(box.start, frame.start, strict=True)), box.shape)
    else:
        there.select_none()
        here.select_none()
    transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
    transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
    memory = array.padded if box.size else np.empty((1,) * array.ndim, array.dtype)
    target.write(here, there, memory, h5py.h5t.py_create(array.dtype, logical=True), transfer)
    h5.close()  # not in a `finally`: see Writer._end


def _write_mpiio(file: str, offset: int, array: DistArray) -> None:
    """Every rank's box through MPI-IO, collectively, out of the padded block without a copy."""
    box, frame, comm = array.box, array.frame, array.topology.private
    cell = MPI.BYTE.Create_contiguous(array.dtype.itemsize).Commit()
    parts = list(box.slabs(max(1, _ROUND_BYTES // array.dtype.itemsize)))
    rounds = comm.allreduce(len(parts), op=MPI.MAX)
    failure: MPI.Exception | None = None
    handle = MPI.File.Open(comm, file, MPI.MODE_WRONLY)
    for k in range(rounds):
        count, there, here = 0, cell, cell
        if k < len(parts):
            corner = [p - f for p, f in zip(parts[k].start, frame.start, strict=True)]
            count = 1
            there = cell.Create_subarray(array.shape, parts[k].shape, parts[k].start).Commit()
            here = cell.Create_subarray(frame.shape, parts[k].shape, corner).Commit()
        try:
            handle.Set_view(offset, cell, there, "native")
            handle.Write_all([array.padded, count, here])
        except MPI.Exception as error:
            failure = failure or error  # the others go on, and need this rank in their calls
        if count:
            there.Free()
            here.Free()
    handle.Close()
    cell.Free()
    if failure:
        raise failure


def _sync(path: str) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
