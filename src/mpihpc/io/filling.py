"""Filling a dataset: every rank's box into one shared file.

Where chunks hold parts of rows, each rank writes its cells of every chunk by itself, at the places where HDF5 expects
them: an MPI library takes several times as long. All else is collective: through HDF5 where h5py is parallel, else
through MPI-IO. Filters decide the places themselves: without a parallel h5py, the ranks then take turns.
No rank ever opens the file for writing with an HDF5 that does not know of the others while they have it open.

Blocks in host memory are written from where they lie. Those on a device come to host memory in sheets of at most 16 MiB
(of one chunk, where packed chunks are larger), the next while the last is written: a rank has two of them at a time,
however large its block is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from mpihpc.array import DistArray
from mpihpc.array.operands import plain
from mpihpc.core.decomposition import Box
from mpihpc.core.device import CPU, Device
from mpihpc.core.failure import agree
from mpihpc.core.layouts import Chunks
from mpihpc.core.staging import download, slab_cells
from mpihpc.core.transfer import Transfer
from mpihpc.core.watchdog import tick
from mpihpc.io.hdf5 import h5py, open_file

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
        beyond the array. None: chunks are not whole rows, or filters decide where they go.
    offsets : sequence of int, or None
        Of all chunks that are not whole rows, in C order of their grid.
    """

    dataset: str
    at: tuple[int, ...]
    chunk: tuple[int, ...] = ()
    stretches: list[tuple[Box, int]] | None = None
    offsets: Sequence[int] | None = None

    @property
    def packed(self) -> bool:
        """Whether filters decide where its chunks go."""
        return self.stretches is None and self.offsets is None


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
    if place.chunk[1:] != shape[1:]:
        # `Writer.write` had such chunks allocated one behind the other. A look-up goes through all before it.
        step = math.prod(place.chunk) * dataset.dtype.itemsize
        first, last = (dataset.id.get_chunk_info(k).byte_offset for k in (0, len(corners) - 1))
        if last - first != (len(corners) - 1) * step:
            raise RuntimeError(f"its chunks are not one behind the other: {len(corners)} from {first} to {last}")
        return place._replace(offsets=range(first, last + step, step))
    boxes = [Box(corner, tuple(a + c for a, c in zip(corner, place.chunk, strict=True))) for corner in corners]
    offsets = [dataset.id.get_chunk_info_by_coord((*at, *corner)).byte_offset for corner in corners]
    return place._replace(stretches=list(zip(boxes, offsets, strict=True)))


def _corners(box: Box, chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where the chunks of a box begin that begins with one."""
    return product(*(range(a, b, c) for a, b, c in zip(*box, chunk, strict=True)))


def fill(file: str, place: Place, array: DistArray) -> None:
    """Write every rank's box. Collective.

    Raises
    ------
    OSError
        On all ranks: one of them cannot open the file.
    Exception
        What MPI or HDF5 raise, on the ranks where something failed; the others return. After a failure of a parallel
        HDF5 the file is still open and must stay so: closing it would crash or hang.
    """
    with agree(array.topology.private):
        os.close(os.open(file, os.O_WRONLY))  # Open MPI hangs when some ranks cannot
    with array.device.lane(urgent=True):
        if place.offsets is not None:
            _by_chunks(file, place, place.offsets, array)
        elif h5py.get_config().mpi:
            _through_hdf5(file, place, array)
        elif place.stretches is not None:
            _through_mpiio(file, place.stretches, array)
        else:
            _in_turn(file, place, array)


class Block(NamedTuple):
    """Cells of this rank: those of `box`, in contiguous memory that covers the box `around`; on a device or not."""

    box: Box
    memory: Any
    around: Box
    device: Device

    @property
    def cells(self) -> Any:
        return self.memory[self.box.slices(self.around.start)]


def _block(array: DistArray) -> Block:
    return Block(array.box, array.memory, array.memory_box, array.device)


def sheets(block: Block, boxes: Sequence[Box]) -> Iterator[Block]:
    """Parts of a block, one after the other, in host memory: out of the block's own memory without a copy, or copied
    from a device, while the last one is written."""
    parts = [block._replace(box=box) for box in boxes]
    if block.device.host:
        yield from parts
        return
    for box, cells in zip(boxes, download(block.device, [part.cells for part in parts]), strict=True):
        yield Block(box, cells, box, CPU)


def _through_hdf5(file: str, place: Place, array: DistArray) -> None:
    """Collectively, out of the padded block without a copy, or in rounds of one sheet from each rank."""
    block, step = _block(array), None
    if not array.device.host and place.packed:
        block, step = whole_chunks(array, place.chunk), place.chunk  # so that no chunk is packed in two rounds
    limit = array.size if array.device.host else slab_cells(array.dtype)
    (boxes,) = _in_rounds(array, [list(block.box.slabs(limit, step=step))])
    h5 = open_file(file, "r+", driver="mpio", comm=array.topology.private)
    target = h5[place.dataset].id
    there = target.get_space()
    transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
    transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
    for sheet in sheets(block, boxes):
        box = sheet.box
        # h5py's own slicing leaves ranks without cells out of the collective call.
        memory: NDArray[Any] = sheet.memory if box.size else np.empty((1,) * array.ndim, array.dtype)
        here = h5py.h5s.create_simple(memory.shape)
        if box.size:
            there.select_hyperslab((*place.at, *box.start), (*(1 for _ in place.at), *box.shape))
            here.select_hyperslab(tuple(b - a for b, a in zip(box.start, sheet.around.start, strict=True)), box.shape)
        else:
            there.select_none()
            here.select_none()
        target.write(here, there, memory, h5py.h5t.py_create(array.dtype, logical=True), transfer)
        tick()
    h5.close()  # not in a `finally`: see `fill`


def _through_mpiio(file: str, stretches: list[tuple[Box, int]], array: DistArray) -> None:
    """Collectively, at the cells' offsets in the file; out of the padded block without a copy, or sheet by sheet."""
    comm, block, itemsize = array.topology.private, _block(array), array.dtype.itemsize
    limit = max(1, _ROUND_BYTES // itemsize) if array.device.host else slab_cells(array.dtype)
    rounds = _in_rounds(array, [list((array.box & stretch).slabs(limit)) for stretch, _ in stretches])
    places = [place for place, boxes in zip(stretches, rounds, strict=True) for _ in boxes]
    parts = sheets(block, [box for boxes in rounds for box in boxes])
    failures: list[Exception] = []
    handle = MPI.File.Open(comm, file, MPI.MODE_WRONLY)
    for (stretch, offset), sheet in zip(places, parts, strict=True):
        types: list[MPI.Datatype] = []
        if sheet.box.size:
            with _noted(failures):
                for around in (stretch, sheet.around):
                    strides = [math.prod(around.shape[d + 1 :]) * itemsize for d in range(len(around.shape))]
                    types.append(_box_type(sheet.box.slices(around.start), strides, itemsize))
        there, here = types or (MPI.BYTE, MPI.BYTE)
        with _noted(failures):
            handle.Set_view(offset, MPI.BYTE, there, "native")
        with _noted(failures):
            handle.Write_all([sheet.memory, len(types) // 2, here])
        for made in types:
            made.Free()
        tick()
    handle.Close()
    if failures:
        raise failures[0]


def _box_type(box: Sequence[slice], strides: Sequence[int], itemsize: int) -> MPI.Datatype:
    """A box of an array as an MPI datatype, to be used at its first cell, and to be freed.

    Vectors of vectors: `Create_subarray` would take no axes of 2**31 cells.
    """
    kind, width = MPI.BYTE.Create_contiguous(itemsize), itemsize
    for at, stride in zip(reversed(box), reversed(strides), strict=True):
        inner, n = kind, at.stop - at.start
        kind = kind.Create_contiguous(n) if stride == width else kind.Create_hvector(n, 1, stride)
        inner.Free()
        width = width * n if stride == width else 0
    place = sum(at.start * stride for at, stride in zip(box, strides, strict=True))
    whole = MPI.Datatype.Create_struct([1], [place], [kind]).Commit()
    kind.Free()
    return whole


def _in_rounds(array: DistArray, boxes: list[list[Box]]) -> list[list[Box]]:
    """Lists of boxes, each filled up with empty ones to as many as the rank with the most has. Collective."""
    most, nothing = np.array([len(some) for some in boxes]), Box(array.box.start, array.box.start)
    array.topology.private.Allreduce(MPI.IN_PLACE, most, op=MPI.MAX)
    return [[*some, *[nothing] * (n - len(some))] for some, n in zip(boxes, most, strict=True)]


@contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    """What fails on this rank must not keep it from the calls in which the others need it."""
    try:
        yield
    except MPI.Exception as error:
        failures.append(error)


def _by_chunks(file: str, place: Place, offsets: Sequence[int], array: DistArray) -> None:
    """Each rank its cells of every chunk; by plain writes."""
    box, itemsize = array.box, array.dtype.itemsize
    grid = tuple(-(-n // c) for n, c in zip(array.shape, place.chunk, strict=True))
    near = [range(a // c, -(-b // c)) for a, b, c in zip(*box, place.chunk, strict=True)]
    chunks = list(product(*near))
    corners = [tuple(i * c for i, c in zip(index, place.chunk, strict=True)) for index in chunks]
    parts = [Box(at, tuple(a + c for a, c in zip(at, place.chunk, strict=True))) & box for at in corners]
    memory = np.empty(math.prod(place.chunk), array.dtype)  # stays in the cache
    # For writing only: on NFS, what is open for reading too is read and written back by whole pages.
    with open(os.open(file, os.O_WRONLY), "wb", buffering=0) as handle:
        for index, corner, sheet in zip(chunks, corners, sheets(_block(array), parts), strict=True):
            part = sheet.box
            cells = memory[: part.size].reshape(part.shape)
            cells[...] = sheet.cells
            start = offsets[int(np.ravel_multi_index(index, grid))]
            # The axes behind `axis` are whole in the chunk, so what has one index on those before it is one stretch.
            axis = max((d for d in range(1, array.ndim) if part.shape[d] < place.chunk[d]), default=0)
            behind = (0,) * (array.ndim - axis)
            for first in product(*(range(n) for n in part.shape[:axis])):
                inside = [p - c + i for p, c, i in zip(part.start, corner, (*first, *behind), strict=True)]
                handle.seek(start + int(np.ravel_multi_index(inside, place.chunk)) * itemsize)
                left = cells[first].reshape(-1).view(np.uint8).data
                while left:
                    left = left[handle.write(left) or 0 :]
            tick()


def whole_chunks(array: DistArray, chunk: tuple[int, ...]) -> Block:
    """The array, moved where blocks and chunks differ: this rank's whole chunks. Collective."""
    topology, array = array.topology, plain(array)
    chunks = Chunks(array.decomposition, chunk)
    box = chunks.box(topology.rank)
    if topology.private.allreduce(box == array.box, op=MPI.LAND):
        return _block(array)
    with agree(topology.private):
        block = array.device.empty(box.shape, array.dtype)
    transfer = Transfer(array.decomposition, chunks)
    transfer.move(topology, array.padded, block, array.frame.start, box.start, array.device)
    return Block(box, block, box, array.device)


def _in_turn(file: str, place: Place, array: DistArray) -> None:
    """One rank after the other, each with its own chunks, so that none is packed twice."""
    block = whole_chunks(array, place.chunk)
    boxes = list(block.box.slabs(slab_cells(array.dtype), step=place.chunk))
    comm = array.topology.private
    failed = comm.rank > 0 and comm.recv(source=comm.rank - 1)
    failure: BaseException | None = None
    try:
        if boxes and not failed:
            with open_file(file, "r+") as h5:
                for sheet in sheets(block, boxes):
                    h5[place.dataset][(*place.at, *sheet.box.slices())] = sheet.cells
                    tick()
    except Exception as error:  # whatever it is, the next rank waits for its turn
        failure, failed = error, True
    if comm.rank < comm.size - 1:
        comm.send(failed, comm.rank + 1)
    if failure:
        raise failure
