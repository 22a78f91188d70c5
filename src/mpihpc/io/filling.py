"""Filling a dataset: every rank's box into one shared file.

Through HDF5 itself where h5py is parallel. Else through MPI-IO, at the places where HDF5 expects the cells: all at once
where they lie as in memory, chunk by chunk where not. Filters decide the places themselves: then the ranks take turns.
No rank ever opens the file for writing with an HDF5 that does not know of the others while they have it open.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Box, Rows
from mpihpc.core.transfer import Transfer
from mpihpc.core.watchdog import tick
from mpihpc.io.hdf5 import h5py

_ROUND_BYTES = 1 << 30  # MPI-IO libraries have been seen to break on single writes of more than 2 GiB


class Place(NamedTuple):
    """Where an array goes.

    Attributes
    ----------
    dataset : str
        Name in the file.
    at : tuple of int
        Indices on the dataset's leading axes; empty if it has just those of the array.
    chunk : tuple of int
        Shape of a chunk of the array; empty if it is contiguous.
    stretches : list of (Box, int), or None
        Boxes of the array that lie in the file as they would in memory, each with its offset in bytes. A box may reach
        beyond the array. None: chunks are not whole rows.
    offsets : list of int, or None
        Of all chunks, in C order of their grid. None: filters decide where they go.
    """

    dataset: str
    at: tuple[int, ...]
    chunk: tuple[int, ...] = ()
    stretches: list[tuple[Box, int]] | None = None
    offsets: list[int] | None = None


def find_place(dataset: h5py.Dataset, at: tuple[int, ...]) -> Place:
    """The place of an array in a dataset whose space is allocated."""
    shape = dataset.shape[len(at) :]
    if dataset.chunks is None:
        offset = dataset.id.get_offset()
        return Place(dataset.name, at, stretches=[] if offset is None else [(Box.whole(shape), offset)])
    place = Place(dataset.name, at, dataset.chunks[len(at) :])
    if dataset.id.get_create_plist().get_nfilters():
        return place
    corners = list(_corners(Box.whole(shape), place.chunk))
    offsets = [dataset.id.get_chunk_info_by_coord((*at, *corner)).byte_offset for corner in corners]
    if place.chunk[1:] != shape[1:]:
        return place._replace(offsets=offsets)
    boxes = [Box(corner, tuple(a + c for a, c in zip(corner, place.chunk, strict=True))) for corner in corners]
    return place._replace(stretches=list(zip(boxes, offsets, strict=True)))


def _corners(box: Box, chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where the chunks of a box begin that begins with one."""
    return product(*(range(a, b, c) for a, b, c in zip(*box, chunk, strict=True)))


def fill(file: str, place: Place, array: DistArray) -> None:
    """Write every rank's box. Collective.

    Raises
    ------
    OSError, RuntimeError, mpi4py.MPI.Exception
        On the ranks where something failed; the others return. After a failure of a parallel HDF5 the file is still
        open and must stay so: closing it would crash or hang.
    """
    if h5py.get_config().mpi:
        _through_hdf5(file, place, array)
    elif place.stretches is not None:
        _through_mpiio(file, place.stretches, array)
    elif place.offsets is not None:
        _by_chunks(file, place, place.offsets, array)
    else:
        _in_turn(file, place, array)


def _through_hdf5(file: str, place: Place, array: DistArray) -> None:
    """Collectively, out of the padded block without a copy."""
    box, frame = array.box, array.frame
    h5 = h5py.File(file, "r+", driver="mpio", comm=array.topology.private)
    target = h5[place.dataset].id
    there = target.get_space()
    # h5py's own slicing leaves ranks without cells out of the collective call.
    memory: NDArray[Any] = array.padded if box.size else np.empty((1,) * array.ndim, array.dtype)
    here = h5py.h5s.create_simple(memory.shape)
    if box.size:
        there.select_hyperslab((*place.at, *box.start), (*(1 for _ in place.at), *box.shape))
        here.select_hyperslab(tuple(b - f for b, f in zip(box.start, frame.start, strict=True)), box.shape)
    else:
        there.select_none()
        here.select_none()
    transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
    transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
    target.write(here, there, memory, h5py.h5t.py_create(array.dtype, logical=True), transfer)
    h5.close()  # not in a `finally`: see `fill`


def _through_mpiio(file: str, stretches: list[tuple[Box, int]], array: DistArray) -> None:
    """Collectively, at the cells' offsets in the file, out of the padded block without a copy."""
    frame, comm = array.frame, array.topology.private
    cell = MPI.BYTE.Create_contiguous(array.dtype.itemsize).Commit()
    failure: MPI.Exception | None = None
    handle = MPI.File.Open(comm, file, MPI.MODE_WRONLY)
    for stretch, offset in stretches:
        parts = list((array.box & stretch).slabs(max(1, _ROUND_BYTES // array.dtype.itemsize)))
        for k in range(comm.allreduce(len(parts), op=MPI.MAX)):
            count, there, here = 0, cell, cell
            if k < len(parts):
                part, count = parts[k], 1
                inside = [p - s for p, s in zip(part.start, stretch.start, strict=True)]
                corner = [p - f for p, f in zip(part.start, frame.start, strict=True)]
                there = cell.Create_subarray(stretch.shape, part.shape, inside).Commit()
                here = cell.Create_subarray(frame.shape, part.shape, corner).Commit()
            try:
                handle.Set_view(offset, cell, there, "native")
                handle.Write_all([array.padded, count, here])
            except MPI.Exception as error:
                failure = failure or error  # the others go on, and need this rank in their calls
            tick()
            if count:
                there.Free()
                here.Free()
    handle.Close()
    cell.Free()
    if failure:
        raise failure


def _whole_chunks(place: Place, array: DistArray) -> tuple[Box, NDArray[Any]]:
    """The array moved so that every rank has rows of whole chunks: its box, and its cells. Collective."""
    topology = array.topology
    rows = Rows(array.shape, topology.size, place.chunk[0])
    box = rows.box(topology.rank)
    block: NDArray[Any] = np.empty(box.shape, array.dtype)
    exchange = Transfer(array.decomposition, rows).bind(topology, array.dtype, array.frame.start, box.start)
    exchange(array.padded, block)
    exchange.close()
    return box, block


def _by_chunks(file: str, place: Place, offsets: list[int], array: DistArray) -> None:
    """Each rank its own chunks, at their offsets in the file."""
    box, block = _whole_chunks(place, array)
    grid = tuple(-(-n // c) for n, c in zip(array.shape, place.chunk, strict=True))
    piece = np.zeros(place.chunk, array.dtype)
    failure: MPI.Exception | None = None
    handle = MPI.File.Open(array.topology.private, file, MPI.MODE_WRONLY)
    for corner in _corners(box, place.chunk) if box.size else ():
        cells = Box(corner, tuple(a + c for a, c in zip(corner, place.chunk, strict=True))) & box
        if cells.shape != piece.shape:
            piece.fill(0)
        piece[cells.slices(corner)] = block[cells.slices(box.start)]
        number = np.ravel_multi_index([a // c for a, c in zip(corner, place.chunk, strict=True)], grid)
        try:
            handle.Write_at(offsets[number], [piece.view(np.uint8), MPI.BYTE])
        except MPI.Exception as error:
            failure = failure or error
        tick()
    handle.Close()
    if failure:
        raise failure


def _in_turn(file: str, place: Place, array: DistArray) -> None:
    """One rank after the other, each with its own chunks, so that none is packed twice."""
    box, block = _whole_chunks(place, array)
    comm = array.topology.private
    failed = comm.rank > 0 and comm.recv(source=comm.rank - 1)
    failure: BaseException | None = None
    try:
        if box.size and not failed:
            with h5py.File(file, "r+") as h5:
                h5[place.dataset][(*place.at, *box.slices())] = block
            tick()
    except (OSError, RuntimeError) as error:
        failure, failed = error, True
    if comm.rank < comm.size - 1:
        comm.send(failed, comm.rank + 1)
    if failure:
        raise failure
