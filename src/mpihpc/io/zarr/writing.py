"""Writing Zarr: a folder that is whole or not there, and the same for any number of ranks.

Rank 0 makes the folders, under a temporary name beside the target. Chunks depend on the shape alone. Each rank writes
whole ones, after one `Transfer`, so no two ranks write to one file. At the end rank 0 gives the folder its name.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from mpihpc.array import DistArray
from mpihpc.array.operands import require_beside, require_distributed
from mpihpc.core.decomposition import Box
from mpihpc.core.device import CPU
from mpihpc.core.dtypes import is_bfloat16, number_dtype
from mpihpc.core.failure import agree
from mpihpc.core.staging import SLAB_BYTES
from mpihpc.core.topology import Topology
from mpihpc.core.watchdog import phase, tick
from mpihpc.io.datasets import check_folder, chunk_grid, gzip_level, sync
from mpihpc.io.filling import Block, sheets, whole_chunks
from mpihpc.io.metadata import Axis, Metadata
from mpihpc.io.series import Series
from mpihpc.io.zarr import nodes
from mpihpc.io.zarr.placing import install, sync_folders

_AXES = ("w", "z", "y", "x")


def check_target(file: str | os.PathLike[str], dataset: str = "data", *, series: bool = False, mode: str = "a") -> None:
    """Refuse a result that cannot be written, before anything is computed. For one rank, inside `agree`.

    Raises
    ------
    ValueError
        Not the name of an array, or it would be snapshots.
    OSError
        The folder does not exist or is not writable, or the name is taken: by what is no Zarr store, or one of v2.
    """
    name, target = os.fspath(file), os.path.realpath(file)
    if series:
        raise ValueError(f"{name} cannot be written: snapshots go to HDF5 files, end the name with .h5")
    parts = dataset.strip("/").split("/")
    if not all(part.strip(".") and not part.startswith("__") for part in parts):
        raise ValueError(f"{dataset!r} is no name for an array in {name}: use NAME or GROUP/NAME")
    check_folder(name)
    if not os.path.lexists(target):
        return
    if not os.path.isdir(target):
        raise NotADirectoryError(f"{name} cannot be written: it is a file, and a Zarr store is a folder")
    if not os.access(target, os.W_OK | os.X_OK):
        raise PermissionError(f"{name} cannot be replaced: it is read-only")
    if not os.listdir(target):
        return
    if not nodes.is_node(target):
        raise FileExistsError(f"{name} cannot be replaced: it is a folder that is no Zarr store")
    if mode == "w":
        return
    if not os.path.exists(os.path.join(target, nodes.NODE)):
        raise FileExistsError(f"{name} cannot be added to: it is Zarr v2, and v3 is written: choose another name")
    for depth in range(len(parts)):
        above = os.path.join(target, *parts[:depth])
        if os.path.exists(above) and nodes.is_node(above) and nodes.is_array(above):
            inside = "/".join(parts[:depth])
            raise FileExistsError(f"{name} cannot be added to: {inside or 'the store'} is an array there, not a group")
    if os.path.isdir(os.path.join(target, *parts)) and not nodes.is_array(os.path.join(target, *parts)):
        raise FileExistsError(f"{name} cannot be added to: {dataset!r} is a group there")


class ZarrWriter:
    """A new Zarr store, or arrays for one that is there; open on all ranks. Making it is collective.

    Use it in a ``with`` statement. Everything is written under a temporary name in the same folder. Leaving the block
    closes it: flushed to the disk and renamed. Leaving it by an error removes it; an old store then stays as it was.

    Parameters
    ----------
    file : path
        The folder of the store; the folder that it is in must exist. A symbolic link is followed.
    mode : str
        "w": a new store, instead of an old one. "a": arrays of an old store that have other names stay.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.

    Attributes
    ----------
    attrs : dict
        Attributes of the root group, on rank 0; add your own.
    provenance : dict
        What differs from run to run is left out of the store: stores of equal arrays are equal, byte by byte.

    Examples
    --------
    >>> import mpihpc, os, tempfile
    >>> u = mpihpc.ones((4, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ZarrWriter(f"{folder}/a.zarr") as writer:
    ...         writer.write("u", u, attrs={"units": "m"})
    ...     sorted(os.listdir(f"{folder}/a.zarr"))
    ['u', 'zarr.json']
    """

    def __init__(self, file: str | os.PathLike[str], mode: str = "w", *, comm: MPI.Intracomm | None = None) -> None:
        self.topology = Topology.of(comm)
        self.file, self.mode = os.fspath(file), mode
        self.attrs: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self._arrays: list[str] = []  # on rank 0, in the order in which they take their places
        name: str = self.topology.private.bcast(secrets.token_hex(4), root=0)
        self._target = os.path.realpath(self.file)
        self.partial = f"{self._target}.{name}.partial"
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                check_target(self.file, mode=self.mode)
                os.mkdir(self.partial)

    def __enter__(self) -> ZarrWriter:
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
        metadata: Metadata | None = None,
        compress: str | None = None,
        chunks: bool = False,
    ) -> None:
        """Add an array to the store; each rank writes whole chunks. Collective.

        Parameters
        ----------
        dataset : str
            Name of the array, ``group/name`` if wanted.
        array : DistArray
            On the ranks of the writer.
        attrs : mapping, optional
            Attributes of the array.
        metadata : Metadata, optional
            Its axes and more attributes. Coordinates become arrays beside it, as xarray has them.
        compress : str, optional
            "gzip" or "gzip:LEVEL", level 1 to 9.
        chunks : bool
            In chunks of about 1 MiB. Default: of at most 16 MiB. Each is a file, and depends on the shape alone.
        """
        private = self.topology.private
        made: tuple[str, tuple[int, ...], int | None] | None = None
        with agree(private, root=0):
            require_distributed(array, "the array")
            require_beside(array, "the array", self.topology, like="the file")
            if self.topology.rank == 0:
                made = self._make(dataset.strip("/"), array, metadata or Metadata(), attrs or {}, compress, chunks)
        folder, chunk, level = private.bcast(made, root=0)
        phase(f"write {self.file}")
        with array.device.lane(urgent=True):
            block = whole_chunks(array, chunk)
            with agree(private):
                try:
                    write_chunks(folder, chunk, level, block)
                except OSError as error:
                    raise OSError(error.errno, f"writing failed: {error.strerror or error}", self.file) from error

    def series(self, dataset: str, like: DistArray, **_: Any) -> Series:
        """Refused: snapshots go to HDF5 files. Collective."""
        with agree(self.topology.private):
            check_target(self.file, dataset, series=True, mode=self.mode)
        raise AssertionError("it has been refused")

    def close(self) -> None:
        """Flush to the disk, and give the store its name. Collective."""
        phase(f"flush {self.file}")
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                nodes.write_node(self.partial, nodes.group_node(self.attrs))
                groups = [path for path in nodes.walk(self.partial) if path not in self._arrays]
                for path in groups:
                    nodes.consolidate(os.path.join(self.partial, path))
                sync_folders(self.partial)
                install(self.partial, self._target, self._arrays if self.mode == "a" else None)
                with contextlib.suppress(OSError):  # not all file systems can, and the store is there
                    sync(os.path.dirname(self._target))

    def discard(self) -> None:
        """Remove what has no name, or an old store that has none any more."""
        if self.topology.rank == 0:
            shutil.rmtree(self.partial, ignore_errors=True)

    def _make(
        self,
        dataset: str,
        array: DistArray,
        metadata: Metadata,
        attrs: Mapping[str, Any],
        compress: str | None,
        chunks: bool,
    ) -> tuple[str, tuple[int, ...], int | None]:
        """Make the folder of an array, and the arrays of its coordinates. For rank 0."""
        check_target(self.file, dataset, mode=self.mode)
        if is_bfloat16(array.dtype):
            raise TypeError("Zarr has no type for bfloat16: write u.astype('float32'), which holds the same numbers")
        level = gzip_level(compress)
        self._reserve(array.nbytes)
        axes = self._name_axes(dataset, array.shape, metadata.axes)
        for axis in axes:
            if axis.values is not None:
                self._write_coordinates(_beside(dataset, axis.name), axis)
        names = [axis.name for axis in axes]
        chunk = chunk_grid([max(1, n) for n in array.shape], array.dtype.itemsize, None if chunks else SLAB_BYTES)
        node = nodes.array_node(array.shape, array.dtype, chunk, level, names, {**metadata.attrs, **attrs})
        return self._add(dataset, node), chunk, level

    def _add(self, name: str, node: Mapping[str, Any]) -> str:
        """Make the folder of an array. For rank 0."""
        for known in self._arrays:
            if known == name or known.startswith(f"{name}/") or name.startswith(f"{known}/"):
                raise ValueError(f"{self.file}: dataset {name!r} cannot be made: {known!r} is there")
        folder = os.path.join(self.partial, name)
        nodes.write_node(folder, node)
        for group in nodes.groups_of(name)[1:]:
            nodes.write_node(os.path.join(self.partial, group), nodes.group_node({}))
        self._arrays.append(name)
        return folder

    def _name_axes(self, dataset: str, shape: Sequence[int], axes: Sequence[Axis]) -> list[Axis]:
        """Axes with names that xarray can put together with those of other arrays in the group. For rank 0.

        Arrays share an axis if it is the same for all. Else it is named after the array, too.
        """
        group, _, own = dataset.rpartition("/")
        defaults = _AXES[-len(shape) :] if len(shape) <= len(_AXES) else [f"dim_{d}" for d in range(len(shape))]
        named = []
        for axis, n, default in zip(axes or [Axis() for _ in shape], shape, defaults, strict=True):
            axis = replace(axis, name=axis.name or default)
            if axis.values is not None:
                number_dtype(axis.values.dtype)  # or a TypeError
                if axis.values.shape != (n,):
                    raise ValueError(f"axis {axis.name!r} has {n} cells and coordinates of shape {axis.values.shape}")
            shared = axis.name != own
            for store in (self.partial, self._target) if self.mode == "a" else (self.partial,):
                sizes = {
                    cells
                    for path, node in nodes.arrays_in(os.path.join(store, group)).items()
                    if path not in (own, axis.name)
                    and not (store == self._target and _beside(dataset, path) in self._arrays)
                    for label, cells in zip(node.get("dimension_names") or (), node["shape"], strict=False)
                    if label == axis.name
                }
                if sizes:
                    shared &= sizes == {n} and self._same_coordinates(os.path.join(store, group, axis.name), axis)
            named.append(axis if shared else replace(axis, name=f"{axis.name}_{own}"))
        return named

    def _same_coordinates(self, folder: str, axis: Axis) -> bool:
        """Whether an array has the coordinates of an axis, or neither has any."""
        if axis.values is None or not os.path.isdir(folder):
            return axis.values is None and not os.path.isdir(folder)
        try:
            with open(os.path.join(folder, "c", "0"), "rb") as file:
                return (
                    nodes.read_node(folder) == _coordinates_node(axis) and file.read() == _little(axis.values).tobytes()
                )
        except OSError:  # it is not one of ours
            return False

    def _write_coordinates(self, name: str, axis: Axis) -> None:
        """An array of coordinates beside those that have the axis. For rank 0."""
        if name not in self._arrays:
            folder = self._add(name, _coordinates_node(axis))
            values = np.asarray(axis.values)
            whole = Box.whole(values.shape)
            write_chunks(folder, (max(1, values.size),), None, Block(whole, values, whole, CPU))

    def _reserve(self, nbytes: int) -> None:
        """Say now that the disk has no room, not when the ranks write."""
        room = os.path.join(self.partial, ".room")
        with open(room, "wb") as file:
            try:
                if nbytes and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, nbytes)
            except OSError as error:
                why = f"no room for {nbytes} bytes ({error.strerror}): free some or write elsewhere"
                raise OSError(error.errno, why, self.file) from error
            finally:
                os.unlink(room)


def _beside(dataset: str, name: str) -> str:
    """The path of an array in the group of another."""
    return f"{dataset.rpartition('/')[0]}/{name}".lstrip("/")


def _coordinates_node(axis: Axis) -> dict[str, Any]:
    values = np.asarray(axis.values)
    return nodes.array_node(values.shape, values.dtype, (max(1, values.size),), None, [axis.name], axis.attrs)


def write_chunks(folder: str, chunk: tuple[int, ...], level: int | None, block: Block) -> None:
    """Write a rank's whole chunks to the disk, each to a file that no other rank writes."""
    low, high = (tuple(-(-a // c) for a, c in zip(end, chunk, strict=True)) for end in block.box)
    places = list(product(*map(range, low, high))) if block.box.size else []
    corners = [tuple(i * c for i, c in zip(place, chunk, strict=True)) for place in places]
    boxes = [Box(at, tuple(a + c for a, c in zip(at, chunk, strict=True))) & block.box for at in corners]
    for place, sheet in zip(places, sheets(block, boxes), strict=True):
        cells = _little(sheet.cells)
        if cells.shape != chunk:  # at the end of an axis: a file holds a whole chunk all the same
            part, cells = cells, np.zeros(chunk, cells.dtype)
            cells[tuple(map(slice, part.shape))] = part
        data: Any = cells.reshape(-1).view(np.uint8).data
        path = "/".join((folder, "c", *map(str, place)))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data if level is None else gzip.compress(data, level, mtime=0))
            file.flush()
            os.fsync(file.fileno())
        tick()


def _little(cells: NDArray[Any]) -> NDArray[Any]:
    """Cells as they are in a file: in C order, the lowest byte first."""
    return np.ascontiguousarray(cells, cells.dtype.newbyteorder("<"))
