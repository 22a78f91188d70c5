"""Reading: each rank reads its own part of an array, in any format."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Box, Decomposition, Part, Width
from mpihpc.core.device import Device
from mpihpc.core.dtypes import kind_of, number_dtype, require_cast
from mpihpc.core.failure import agree, nearest
from mpihpc.core.staging import Upload, slab_cells
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer
from mpihpc.core.watchdog import phase, tick
from mpihpc.io.formats import FORMATS, Entry, Opened, Streamed, find_format
from mpihpc.io.formats.npy import read_header
from mpihpc.io.metadata import Axis, Metadata
from mpihpc.io.packing import ATTRIBUTES, Packing
from mpihpc.io.selection import Selection, parse_slices

_RAW = "read it as stored, decode=False or --raw"
_ELSEWHERE = ("coordinates", "bounds", "grid_mapping", "cell_measures", "ancillary_variables", "formula_terms")


class Alone:
    """Stands in for a communicator in a program of one process that needs no MPI."""

    rank, size = 0, 1

    @property
    def private(self) -> Alone:
        """As `Topology.private`."""
        return self

    def bcast(self, value: Any, root: int = 0) -> Any:
        """The value of this process."""
        return value

    def allreduce(self, value: Any, op: Any) -> Any:
        """The value of this process."""
        return value

    def Allreduce(self, here: Any, values: Any, op: Any) -> None:
        """The values of this process, in place."""


class Reader:
    """A file open for reading on all ranks. Opening it is collective. Use it in a ``with`` statement.

    Parameters
    ----------
    file : path
        In one of `mpihpc.io.formats.FORMATS`.
    dataset : str, optional
        Inspect only this one. Default: list all.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD. A process without MPI passes an `Alone`, and cannot call `read`.
    decode : bool
        Whether to decode packed values, see `mpihpc.io.read`.

    Attributes
    ----------
    entries : dict
        Name -> `Entry` (name, shape, dtype, units) of the arrays inspected so far. A ``.npy`` file has one, named "".
    streamed : bool
        Whether rank 0 reads the file as a stream and distributes it.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.io.write("run.h5", mpihpc.ones((4, 3)), "u", attrs={"units": "m"})
    >>> with Reader("run.h5") as reader:
    ...     reader.entries["u"].shape, reader.entries["u"].units, reader.read("u").sum()
    ((4, 3), 'm', np.float64(12.0))
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        dataset: str | None = None,
        *,
        comm: MPI.Intracomm | Alone | None = None,
        decode: bool = True,
    ) -> None:
        self.topology: Topology = comm if isinstance(comm, Alone) else Topology.of(comm)  # type: ignore[assignment]
        self.file = os.fspath(file)
        self.entries: dict[str, Entry] = {}
        self._stored: dict[str, Entry] = {}
        self._packings: dict[str, Packing] = {}
        self._decode = decode
        self._opened: Opened | None = None
        phase(f"open {self.file}")
        # Rank 0 looks first: the others open a file only if there is something to open.
        number = 0
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                number = FORMATS.index(find_format(self.file))
        self._format = FORMATS[self.topology.private.bcast(number)]
        self.streamed = isinstance(self._format, Streamed)
        self._look(dataset)
        with agree(self.topology.private), _readable(self.file):
            if not isinstance(self._format, Streamed):
                self._opened = self._format.open(self.file)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def entry(self, dataset: str | None = None) -> Entry:
        """The array of this name; None: the only one that is not a dimension scale. Collective.

        Raises
        ------
        ValueError
            There is none, or there are several. The message lists them, and is the same on all ranks.
        TypeError
            It does not hold numbers.
        """
        if dataset is not None and dataset.strip("/") not in self.entries:
            self._look(dataset)
        with agree(self.topology.private):
            arrays = [name for name, entry in self.entries.items() if not entry.scale]
            if dataset is None and len(arrays) != 1:
                raise ValueError(
                    f"{self.file} holds {len(arrays)} datasets ({_listed(arrays)}): name one, FILE:DATASET"
                )
            name = arrays[0] if dataset is None else dataset.strip("/")
            if name not in self.entries:
                hint = nearest(name, arrays, most=20) if arrays else "it holds none"
                raise ValueError(f"{self.file} has no dataset {name!r}: {hint}")
            entry = self.entries[name]
            if entry.refused:
                kind = ValueError if kind_of(entry.dtype) in "biufc" else TypeError
                raise kind(f"{self.file}: dataset {name!r}: {entry.refused}")
            try:
                number_dtype(entry.dtype)
            except TypeError as error:
                raise TypeError(f"{self.file}: dataset {name!r}: {error}") from None
            if not entry.shape:
                raise ValueError(f"{self.file}: dataset {name!r} has 0 axes: an array needs at least 1")
        return entry

    def array(self, dataset: str | None = None, slices: str | None = None) -> tuple[Entry, Any]:
        """An array for a program, and the parsed slices; a series of snapshots is refused. Collective.

        Raises
        ------
        ValueError
            It is a series of snapshots, and `slices` does not choose one.
        """
        entry = self.entry(dataset)
        with agree(self.topology.private):
            part = None if slices is None else parse_slices(slices)
            if entry.series and 0 in Selection.of(entry.shape, part).kept:
                raise ValueError(
                    f"{self.file}: dataset {entry.name!r} holds {entry.shape[0]} snapshots along t, not one array: "
                    "choose one, such as the last: --slice=-1"
                )
            return replace(entry, shape=Selection.of(entry.shape, part).shape), part

    def metadata(self, dataset: str | None = None, *, slices: Any = None) -> Metadata:
        """The metadata of an array, including the coordinates along its axes. Collective.

        Parameters
        ----------
        dataset : str, optional
            Default: the only one.
        slices : optional
            The part to describe, see `mpihpc.io.read`.

        Returns
        -------
        Metadata
            On all ranks. Packing attributes are included only with ``decode=False``.
        """
        entry = self.entry(dataset)
        axes: tuple[Axis, ...] = ()
        with agree(self.topology.private, root=0), _readable(self.file, entry.name):
            part = Selection.of(entry.shape, slices)
            if self.topology.rank == 0 and not isinstance(self._format, Streamed):
                axes = self._format.axes(self.file, self._stored[entry.name])
                if axes:
                    axes = tuple(self._part_of(axes[d], part.ranges[d]) for d in part.kept)
        return Metadata(self.topology.private.bcast(axes), entry.metadata.attrs)

    def read(
        self,
        dataset: str | None = None,
        *,
        dtype: DTypeLike | None = None,
        slices: Any = None,
        dims: Sequence[int] | None = None,
        halo: int | Sequence[int] | Width = 0,
        decomposition: Decomposition | None = None,
        device: str | Device = "cpu",
    ) -> DistArray:
        """Read one array; each rank reads its own box. Collective. See `mpihpc.io.read`."""
        private = self.topology.private
        entry = self.entry(dataset)
        with agree(private):
            part = Selection.of(entry.shape, slices)
            if decomposition is None:
                decomposition = Decomposition.balanced(part.shape, private.size, halo=halo or 1, dims=dims)
            if decomposition.shape != part.shape:
                raise ValueError(f"the decomposition is for shape {decomposition.shape}, the file has {part.shape}")
            require_cast(entry.dtype, number_dtype(entry.dtype if dtype is None else dtype))
        dtype = entry.dtype if dtype is None else dtype
        new = DistArray(decomposition, dtype, comm=self.topology.comm, halo=halo, device=device)
        phase(f"read {self.file}")
        with new.device.lane(urgent=True):
            if isinstance(self._format, Streamed):
                self._read_stream(self._format, entry, part, new)
            else:
                with agree(private):
                    self._read_block(entry, part, new)
        return new

    def read_box(self, entry: Entry, box: Box) -> NDArray[Any]:
        """Read a box of an array, on this rank alone; not from a `streamed` file."""
        return self.read_part(entry, Selection.of(entry.shape).of_box(box))

    def read_part(self, entry: Entry, index: tuple[slice, ...], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read ``array[index]`` (no negative bounds or steps), on this rank alone, into `out` if given."""
        if self._opened is None:
            raise ValueError(f"{self.file} is closed, or can only be read as a stream: use read()")
        stored, shape = self._stored[entry.name], [len(range(s.start, s.stop, s.step or 1)) for s in index]
        native = stored.dtype.newbyteorder("=")
        if out is None:
            out = np.empty(shape, entry.dtype.newbyteorder("="))
        cells = out.reshape(shape)
        direct = entry.name not in self._packings and native == out.dtype and out.flags.c_contiguous
        raw = cells if direct else np.empty(shape, native)
        with _readable(self.file, entry.name):
            self._opened.read(stored, index, raw)
        if not direct:
            self._store(entry, raw, cells)
        return out

    def load(self, entry: Entry) -> NDArray[Any]:
        """Read all of an array of a `streamed` file, on this rank alone."""
        if not isinstance(self._format, Streamed):
            raise ValueError(f"{self.file} is read in parts: use read_part()")
        with _readable(self.file, entry.name), self._format.stream(self.file, entry) as stream:
            raw = np.lib.format.read_array(stream, allow_pickle=False)
        out = np.empty(entry.shape, entry.dtype.newbyteorder("="))
        self._store(entry, raw, out)
        return out

    def _read_block(self, entry: Entry, part: Selection, new: DistArray) -> None:
        """Read in slabs, so that neither a second block nor the pages of a mapped file fill the memory."""
        local, origin = new.local, new.box.start
        limit, step = slab_cells(self._stored[entry.name].dtype, new.dtype), None
        if entry.step:
            step = [max(1, entry.step[d] // part.ranges[d].step) for d in part.kept]
        slabs = list(new.box.slabs(limit, step=step, fastest_first=entry.fortran))
        with Upload(new.device, new.dtype.itemsize * max((box.size for box in slabs), default=0)) as upload:
            for box in slabs:
                cells = upload.room(box.shape, new.dtype)
                self.read_part(entry, part.of_box(box), cells)
                upload.send(cells, local[box.slices(origin)])
                tick()

    def _read_stream(self, format: Streamed, entry: Entry, part: Selection, new: DistArray) -> None:
        """Rank 0 reads the stream slab by slab, and sends each slab to its owners. Collective."""
        private, local, origin = self.topology.private, new.local, new.box.start
        dtype = self._stored[entry.name].dtype
        limit = slab_cells(dtype, new.dtype)
        with ExitStack() as opened:
            stream: IO[bytes] | None = None
            with agree(private, root=0), _readable(self.file, entry.name):
                if private.rank == 0:
                    stream = opened.enter_context(format.stream(self.file, entry))
                    read_header(stream)
            upload = opened.enter_context(Upload(new.device, min(limit, new.size) * new.dtype.itemsize))
            for slab in Box.whole(entry.shape).slabs(limit, fastest_first=entry.fortran):
                box, where = part.inside(slab)
                cells = np.empty((0,) * new.ndim, new.dtype)
                with agree(private, root=0):
                    if stream is not None:
                        with _readable(self.file, entry.name):
                            row = np.frombuffer(stream.read(slab.size * dtype.itemsize), dtype)
                            raw = row.reshape(slab.shape, order="F" if entry.fortran else "C")[where]
                        cells = np.empty(box.shape, new.dtype)
                        self._store(entry, raw.reshape(box.shape), cells)
                delivery = Transfer(_OnRank0(box), new.decomposition).deliver(self.topology, cells, box.start)
                for piece, values in delivery:
                    room = upload.room(piece.shape, new.dtype)
                    room[...] = values
                    upload.send(room, local[piece.slices(origin)])
                delivery.finish()
                tick()
            with agree(private, root=0), _readable(self.file, entry.name):
                if stream is not None and stream.read(1):  # only its end says whether it was as it should be
                    raise ValueError(f"it is longer than {entry.shape} {dtype}")

    def _store(self, entry: Entry, raw: NDArray[Any], out: NDArray[Any]) -> None:
        """Decode stored cells into `out`, in its dtype."""
        try:
            packing = self._packings.get(entry.name)
            if packing:
                raw = packing.decode(raw.astype(raw.dtype.newbyteorder("="), order="C", copy=False))
            cast(raw, out)
        except ValueError as error:
            way = f": {_RAW}" if entry.name in self._packings else ""
            raise ValueError(f"{self.file}: dataset {entry.name!r}: {error}{way}") from None

    def _look(self, dataset: str | None) -> None:
        """Add one array of the file to the entries; all of them if it does not exist, or for None. Collective."""
        private = self.topology.private
        found: dict[str, Entry] = {}
        with agree(private, root=0), _readable(self.file):
            if private.rank == 0:
                wanted = None if dataset is None else dataset.strip("/")
                found = self._format.entries(self.file, wanted)
                if wanted is not None and wanted not in found:
                    found = self._format.entries(self.file, None)
        for name, stored in private.bcast(found).items():
            self._stored[name] = stored
            self.entries[name] = self._as_values(stored)

    def _as_values(self, stored: Entry) -> Entry:
        """The entry of an array as `read` will return it."""
        dtype, attrs, refused = stored.dtype, dict(stored.metadata.attrs), stored.refused
        if self._decode and not refused:
            try:
                packing = Packing.of(attrs, stored.dtype)
            except ValueError as error:
                packing, refused = None, f"{error}: {_RAW}"
            if packing:
                self._packings[stored.name] = packing
                dtype = packing.dtype
                attrs = {name: value for name, value in attrs.items() if name not in ATTRIBUTES}
        attrs = {name: value for name, value in attrs.items() if value is not None and name not in _ELSEWHERE}
        return replace(stored, dtype=dtype, metadata=Metadata(stored.metadata.axes, attrs), refused=refused)

    def _part_of(self, axis: Axis, part: range) -> Axis:
        """Some of the coordinates along an axis, as values."""
        values, attrs = axis.values, {k: v for k, v in axis.attrs.items() if v is not None and k not in _ELSEWHERE}
        packing = None
        if values is not None and self._decode:
            try:
                packing = Packing.of(attrs, values.dtype)
            except ValueError:
                values = None  # they cannot be understood, and the array can do without
        if packing and values is not None:
            values = packing.decode(values.astype(values.dtype.newbyteorder("=")))
            attrs = {name: value for name, value in attrs.items() if name not in ATTRIBUTES}
        return Axis(axis.name, None if values is None else values[part.start : part.stop : part.step], attrs)


@dataclass(frozen=True)
class _OnRank0:
    """A layout: rank 0 has a box, and the others nothing."""

    box: Box

    def parts(self, rank: int) -> list[Part]:
        return [] if rank else [Part(self.box, (0,) * len(self.box.start))]

    def owners(self, box: Box) -> list[int]:
        return [0]


def cast(cells: NDArray[Any], out: NDArray[Any]) -> None:
    """Copy numbers into an array of another dtype; they may be rounded, but must be in range.

    Raises
    ------
    ValueError
        An integer or bool would wrap or lose a fraction, or a finite number become infinite.

    Examples
    --------
    >>> cast(np.array([1, 70000]), np.empty(2, np.int16))
    Traceback (most recent call last):
    ...
    ValueError: 70000 does not fit dtype int16: read it as int64
    """
    with np.errstate(all="ignore"):
        np.copyto(out, cells, casting="unsafe")
        if np.can_cast(cells.dtype, out.dtype, "safe"):
            return
        if kind_of(out.dtype) in "biu":
            wrong = out != cells
            if kind_of(cells.dtype) == "f" and out.dtype.kind != "b":
                info = np.iinfo(out.dtype)
                wrong |= ~((cells >= float(info.min)) & (cells < float(info.max) + 1))
        else:
            wrong = np.isfinite(cells) & ~np.isfinite(out)
    if wrong.any():
        raise ValueError(
            f"{cells[wrong][0]} does not fit dtype {out.dtype}: read it as {cells.dtype.newbyteorder('=')}"
        )


@contextmanager
def _readable(file: str, dataset: str = "") -> Iterator[None]:
    """Turn what libraries raise for unreadable files into one line that names the file."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        what = f"{file}: dataset {dataset!r}" if dataset else file
        raise OSError(f"{what} cannot be read: {error}") from error


def _listed(names: list[str]) -> str:
    """The first 20 names, as text."""
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
