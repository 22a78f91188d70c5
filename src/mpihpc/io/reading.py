"""Reading: HDF5, ``.npy`` and ``.npz``."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Box, Decomposition, Part, Width
from mpihpc.core.device import Device
from mpihpc.core.dtypes import number_dtype, require_cast
from mpihpc.core.failure import agree, nearest
from mpihpc.core.staging import Upload, slab_cells
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer
from mpihpc.core.watchdog import phase, tick
from mpihpc.io.hdf5 import h5py


class Entry(NamedTuple):
    """One array of a file: what can be known without reading it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    units: str | None = None
    step: tuple[int, ...] | None = None  # reads should begin at multiples of this
    fortran: bool = False
    scale: bool = False  # the coordinates of an axis of another one


class Reader:
    """A file open for reading on all ranks. Making it is collective.

    Parameters
    ----------
    file : path
        HDF5, ``.npy`` or ``.npz``.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.

    Attributes
    ----------
    entries : dict
        Name -> `Entry` (name, shape, dtype, units) of every array in the file. A ``.npy`` file has one, named "".
    """

    def __init__(self, file: str | os.PathLike[str], *, comm: MPI.Intracomm | None = None) -> None:
        self.topology = Topology.of(comm)
        self.file = os.fspath(file)
        phase(f"open {self.file}")
        # Rank 0 looks first: the others open a file only if there is something to open.
        found: tuple[str, dict[str, Entry]] | None = None
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                found = _inspect(self.file)
        self.format, self.entries = self.topology.private.bcast(found)
        self._h5: h5py.File | None = None
        with agree(self.topology.private):
            if self.format == "hdf5":
                self._h5 = h5py.File(self.file, "r")
            elif self.format == "npy":
                os.stat(self.file)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._h5 is not None:
            self._h5.close()
            self._h5 = None

    def entry(self, dataset: str | None = None) -> Entry:
        """The array of this name; None: the only one that does not describe the axes of another.

        Raises
        ------
        ValueError
            There is none, or there are several to choose from. The text lists them. The same on all ranks.
        TypeError
            It does not hold numbers.
        """
        names = list(self.entries)
        arrays = [name for name in names if not self.entries[name].scale]
        if dataset is None and len(arrays) != 1:
            raise ValueError(f"{self.file} holds {len(arrays)} datasets ({_listed(arrays)}): name one, FILE:DATASET")
        name = arrays[0] if dataset is None else dataset.strip("/")
        if name not in self.entries:
            hint = nearest(name, names, most=20) if names else "it holds none"
            raise ValueError(f"{self.file} has no dataset {name!r}: {hint}")
        entry = self.entries[name]
        try:
            number_dtype(entry.dtype)
        except TypeError as error:
            raise TypeError(f"{self.file}: dataset {name!r}: {error}") from None
        if not entry.shape:
            raise ValueError(f"{self.file}: dataset {name!r} has 0 axes: an array needs at least 1")
        return entry

    def read(
        self,
        dataset: str | None = None,
        *,
        dtype: DTypeLike | None = None,
        dims: Sequence[int] | None = None,
        halo: int | Sequence[int] | Width = 0,
        decomposition: Decomposition | None = None,
        device: str | Device = "cpu",
    ) -> DistArray:
        """Read one array; each rank reads its own box. Collective. See `mpihpc.io.read`."""
        private = self.topology.private
        with agree(self.topology.private):
            entry = self.entry(dataset)
            if decomposition is None:
                decomposition = Decomposition.balanced(entry.shape, private.size, halo=halo or 1, dims=dims)
            if decomposition.shape != entry.shape:
                raise ValueError(f"the decomposition is for shape {decomposition.shape}, the file has {entry.shape}")
            require_cast(entry.dtype, number_dtype(entry.dtype if dtype is None else dtype))
        dtype = entry.dtype if dtype is None else dtype
        new = DistArray(decomposition, dtype, comm=self.topology.comm, halo=halo, device=device)
        phase(f"read {self.file}")
        with new.device.lane(urgent=True):
            if self.format == "npz":
                self._read_stream(entry, new)
            else:
                with agree(private):
                    self._read_block(entry, new)
        return new

    def _read_block(self, entry: Entry, new: DistArray) -> None:
        """In slabs, so that neither a second block nor the pages of a mapped file pile up in memory."""
        local, origin = new.local, new.box.start
        limit = slab_cells(entry.dtype, new.dtype)
        slabs = list(new.box.slabs(limit, step=entry.step, fastest_first=entry.fortran))
        with Upload(new.device, new.dtype.itemsize * max((box.size for box in slabs), default=0)) as upload:
            for box in slabs:
                cells = upload.room(box.shape, new.dtype)
                self.read_box(entry, box, cells)
                upload.send(cells, local[box.slices(origin)])
                tick()

    def read_box(self, entry: Entry, box: Box, cells: NDArray[Any] | None = None) -> NDArray[Any]:
        """Some cells of an array of an HDF5 or ``.npy`` file, read by this rank alone, into `cells` if given."""
        if cells is None:
            cells = np.empty(box.shape, entry.dtype.newbyteorder("="))
        if self._h5 is None:
            # Mapped anew each time: the pages of the last slab are given back.
            np.copyto(cells, np.load(self.file, mmap_mode="r", allow_pickle=False)[box.slices()], casting="unsafe")
            return cells
        with _readable(self.file, entry.name):
            dataset = self._h5[entry.name]
            if dataset.dtype == cells.dtype and not dataset.dtype.metadata and box.size:
                dataset.read_direct(cells, box.slices())
            else:
                np.copyto(cells, dataset[box.slices()], casting="unsafe")
        return cells

    def _read_stream(self, entry: Entry, new: DistArray) -> None:
        """Read by rank 0 from begin to end, slab by slab, which goes to its owners. Collective."""
        private, local, origin = self.topology.private, new.local, new.box.start
        limit, dtype = slab_cells(entry.dtype, new.dtype), entry.dtype.newbyteorder("=")
        with ExitStack() as opened:
            stream: Any = None
            with agree(private, root=0), _readable(self.file, entry.name):
                if private.rank == 0:
                    archive = opened.enter_context(zipfile.ZipFile(self.file))
                    stream = opened.enter_context(archive.open(f"{entry.name}.npy"))
                    _npy_header(stream)
            upload = opened.enter_context(Upload(new.device, min(limit, new.size) * new.dtype.itemsize))
            for slab in Box.whole(new.shape).slabs(limit, fastest_first=entry.fortran):
                cells = np.empty((0,) * new.ndim, dtype)
                with agree(private, root=0), _readable(self.file, entry.name):
                    if stream is not None:
                        row = np.frombuffer(stream.read(slab.size * entry.dtype.itemsize), entry.dtype)
                        cells = row.astype(dtype, copy=False).reshape(slab.shape, order="F" if entry.fortran else "C")
                delivery = Transfer(_OnRank0(slab), new.decomposition).deliver(self.topology, cells, slab.start)
                for box, part in delivery:
                    room = upload.room(box.shape, new.dtype)
                    np.copyto(room, part, casting="unsafe")
                    upload.send(room, local[box.slices(origin)])
                delivery.finish()
                tick()
            with agree(private, root=0), _readable(self.file, entry.name):
                if stream is not None and stream.read(1):  # only its end says whether it was as it should be
                    raise ValueError(f"it is longer than {entry.shape} {entry.dtype}")


@dataclass(frozen=True)
class _OnRank0:
    """A layout: rank 0 has a box, and the others nothing."""

    box: Box

    def parts(self, rank: int) -> list[Part]:
        return [] if rank else [Part(self.box, (0,) * len(self.box.start))]

    def owners(self, box: Box) -> list[int]:
        return [0]


def _inspect(file: str) -> tuple[str, dict[str, Entry]]:
    """The format of a file, and what is in it."""
    if os.path.isdir(file):
        raise IsADirectoryError(f"{file} is a folder, not a file")
    if os.path.exists(file) and not os.path.isfile(file):
        raise OSError(f"{file} is no regular file: each rank must be able to read its own part")
    with open(file, "rb") as stream:
        head = stream.read(8)
    with _readable(file):
        if head.startswith(b"\x93NUMPY"):
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            fortran = array.flags.f_contiguous and not array.flags.c_contiguous
            return "npy", {"": Entry("", array.shape, array.dtype, fortran=fortran)}
        if head.startswith(b"PK") and zipfile.is_zipfile(file):
            return "npz", _inspect_npz(file)
        with h5py.File(file, "r") as h5:
            return "hdf5", _inspect_hdf5(h5)


@contextmanager
def _readable(file: str, dataset: str = "") -> Iterator[None]:
    """What the libraries raise for files they cannot read, as one line that names the file."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        what = f"{file}: dataset {dataset!r}" if dataset else file
        why = "it is neither HDF5 nor .npy nor .npz" if "signature not found" in str(error) else error
        raise OSError(f"{what} cannot be read: {why}") from error


def _inspect_npz(file: str) -> dict[str, Entry]:
    entries = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as stream:
                shape, fortran, dtype = _npy_header(stream)
            name = member.removesuffix(".npy")
            entries[name] = Entry(name, shape, dtype, fortran=fortran)
    return entries


def _npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, dtype."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _inspect_hdf5(h5: h5py.File) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}

    def visit(group: h5py.Group, above: tuple[Any, ...]) -> None:
        for name in group:
            item = group.get(name)  # None: a link to nowhere
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                units = item.attrs.get("units")
                if isinstance(units, bytes):  # of a fixed length, as netCDF and C programs write it
                    units = units.decode(errors="replace")
                path = f"{group.name}/{name}".lstrip("/")
                units = units if isinstance(units, str) else None
                # What is packed, or small enough for HDF5's cache, is best read by whole chunks.
                packed = item.chunks and (item.compression or math.prod(item.chunks) * item.dtype.itemsize <= 1 << 20)
                entries[path] = Entry(
                    path, item.shape, item.dtype, units, item.chunks if packed else None, scale=item.is_scale
                )
            elif isinstance(item, h5py.Group) and item.id not in above:  # links may go in circles
                visit(item, (*above, item.id))

    visit(h5, (h5["/"].id,))
    return entries


def _listed(names: list[str]) -> str:
    """The first of many names."""
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
