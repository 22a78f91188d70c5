"""Functions of one's own, by blocks or chunks: of arrays, of large files; and arrays whose data arrive in pieces."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike, NDArray

from mpihpc.array import DistArray
from mpihpc.array.creation import empty
from mpihpc.array.operands import is_distributed, local_part, plain, together
from mpihpc.core.decomposition import Box, Decomposition, Part, Width
from mpihpc.core.device import CPU, Device
from mpihpc.core.dtypes import number_dtype, numbers
from mpihpc.core.failure import agree
from mpihpc.core.layouts import Chunks, Whole
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer
from mpihpc.core.watchdog import tick
from mpihpc.io import split_name
from mpihpc.io.reading import Reader

T = TypeVar("T")

_CHUNK_BYTES = 1 << 24


def map_blocks(func: Callable[..., ArrayLike], *arrays: Any) -> DistArray:
    """A new array made by a function of the blocks. Collective.

    Before: each rank holds its blocks. After: each rank holds its block of the result, cut as the first array.

    Parameters
    ----------
    func : callable
        Called once on each rank that has cells, with one array per array, NumPy's or CuPy's; returns an array of the
        shape of the first one's block. It may be called with any decomposition, so it should work cell by cell; and it
        must not communicate.
    *arrays : DistArray
        At least one, first. The others may be cut in another way (they are moved, which
        `mpihpc.core.tally.sent` counts), be NumPy arrays that all ranks hold alike, or numbers: what can be
        broadcast to the shape of the first one.

    Returns
    -------
    DistArray
        Of the dtype that `func` returns; where that differs between ranks, the one that holds all.

    Raises
    ------
    ValueError, TypeError
        What `func` raises of these kinds on any rank, on all ranks; a result of another shape than the block's.
    """
    names = {f"array {k}": x for k, x in enumerate(arrays)} or {"array 0": None}
    with together("map_blocks", {"array 0": names.pop("array 0")}, names) as topology:
        operands = [x if is_distributed(x) else numbers(x, "an array") for x in arrays]
        shape = arrays[0].shape
        for x in operands:
            if np.broadcast_shapes(x.shape, shape) != shape:
                raise ValueError(f"an array of shape {x.shape} cannot be broadcast to the first one's, {shape}")
    first, private = plain(arrays[0]), topology.private
    blocks = [local_part(x if is_distributed(x) or np.ndim(x) else x[()], first) for x in operands]
    result: Any = None
    with agree(private):
        if first.local.size:
            result = first.device.asarray(func(*blocks))
            if result.shape != first.box.shape:
                raise ValueError(f"the function made shape {result.shape} of a block of shape {first.box.shape}")
    found = [dtype for dtype in private.allgather(None if result is None else result.dtype) if dtype is not None]
    dtype = np.result_type(*found) if found else first.dtype
    new = first.like(dtype=dtype, halo=0)
    if result is not None:
        new.local[...] = result.astype(dtype, copy=False)
    return new


def map_reduce(
    func: Callable[[NDArray[Any]], T],
    source: DistArray | str | os.PathLike[str],
    combine: Callable[[T, T], T],
    *,
    rows: int | None = None,
    comm: MPI.Intracomm | None = None,
) -> T:
    """A value of each block or chunk, and all values combined into one. Collective.

    Before: each rank holds its block, or can open the file. After: all ranks hold the result.

    Parameters
    ----------
    func : callable
        Called with arrays that have cells, NumPy's or CuPy's; must not communicate. Its values should be small: all
        ranks get the values of all blocks, in host memory.
    source : DistArray, or path
        An array; or an HDF5 or ``.npy`` file, as ``FILE`` or ``FILE:DATASET``, of any size.
    combine : callable
        Makes one value of two. It need not be associative: values are combined from the left in the order of their
        chunks, or of the ranks.
    rows : int, optional
        Make chunks of so many indices along the first axis, all of the other axes: the result is then the same for any
        number of ranks. Arrays that are cut otherwise are moved. Default: of arrays, the blocks as they are; of files,
        chunks of about 16 MiB.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that read the file. Default: COMM_WORLD.

    Returns
    -------
    object
        The same on all ranks; the value itself where there is only one.

    Raises
    ------
    ValueError, TypeError, OSError
        What `func` and `combine` raise of these kinds on any rank, on all ranks; no cells; a file that cannot be read.

    Notes
    -----
    Memory for a file, on each rank: at most twice a chunk at a time (the chunk and the mapped pages that it is copied
    from), what `func` takes, and all values. For an array that is moved: a second block.

    Examples
    --------
    >>> largest = map_reduce(np.max, "big.npy", max)  # doctest: +SKIP
    """
    topology = source.topology if is_distributed(source) else Topology.of(comm)
    kind = "an array" if is_distributed(source) else "a file" if _is_path(source) else "nothing"
    with agree(topology.private, alike=f"map_reduce: the source is {kind}"):
        if not is_distributed(source) and not _is_path(source):
            raise TypeError(f"map_reduce takes a DistArray or the name of a file, not {type(source).__name__}")
        if rows is not None and not (isinstance(rows, int | np.integer) and rows >= 1):
            raise ValueError(f"chunks of {rows} rows cannot be: use a whole number, 1 or more")
    values: list[T] = []
    device = source.device if is_distributed(source) else CPU

    def take(pieces: Iterable[Any]) -> None:
        with agree(topology.private):
            for piece in pieces:
                value: Any = func(piece)
                if isinstance(value, type(piece)):
                    value = device.to_host(value)
                values.append(value)
                del piece  # before the next one is read
                tick()

    if not is_distributed(source):
        file, dataset = topology.private.bcast(split_name(os.fspath(source)))  # type: ignore[arg-type]
        with Reader(file, dataset, comm=topology.comm) as reader:
            entry = reader.entry(dataset)
            with agree(topology.private):
                if reader.streamed:
                    raise ValueError(
                        f"{file} is compressed as a whole and cannot be read in pieces: read() it, or save a .npy"
                    )
                row_bytes = max(1, entry.dtype.itemsize * int(np.prod(entry.shape[1:])))
                layout = _chunks(entry.shape, topology.size, rows or max(1, _CHUNK_BYTES // row_bytes))
                dtype = number_dtype(entry.dtype)
            boxes = _boxes(layout, topology.rank)
            take(reader.read_box(entry, box).astype(dtype, copy=False) for box in boxes)
    elif rows is None:
        take([source.local] if source.local.size else [])
    else:
        layout = _chunks(source.shape, topology.size, rows)
        mine = layout.box(topology.rank)
        held = device.empty(mine.shape, source.dtype)
        transfer = Transfer(source.decomposition, layout)
        transfer.move(topology, source.local, held, source.box.start, mine.start, device)
        take(held[box.slices(mine.start)] for box in _boxes(layout, topology.rank))

    everything = [value for part in topology.private.allgather(values) for value in part]
    with agree(topology.private):
        if not everything:
            raise ValueError(
                f"the source has no cells, so there is nothing to combine (0 values on {topology.size} ranks)"
            )
        return functools.reduce(combine, everything)


def from_chunks(
    chunks: Iterable[ArrayLike] | None,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
    device: str | Device = "cpu",
) -> DistArray:
    """An array from pieces that follow each other along the first axis, as many as come. Collective.

    Before: one rank has the pieces and the others pass None, or every rank has some, and those of rank 0 come first,
    then those of rank 1, and so on. After: each rank holds its block.

    Parameters
    ----------
    chunks : iterable of array_like, or None
        The pieces: equal dtypes, and equal shapes but for the first axis. They are taken one at a time, and need not
        exist before; to make one must not communicate.
    comm, dims, halo, device
        See `mpihpc.empty`. The pieces are in host memory.

    Raises
    ------
    ValueError
        No pieces, pieces that do not fit together, or some ranks but not all pass None. What making a piece raises, of
        the kinds that `mpihpc.agree` knows, is raised on all ranks.

    Notes
    -----
    If one rank has the pieces, they are dealt out in turn as they arrive, so that no rank holds many more than others.
    Memory on each rank: twice its share, and the piece on its way.
    """
    topology = Topology.of(comm)
    private, size, rank = topology.private, topology.size, topology.rank
    holders = [r for r, has in enumerate(private.allgather(chunks is not None)) if has]
    with agree(private):
        if len(holders) not in (1, size):
            raise ValueError(f"{len(holders)} of {size} ranks have chunks: 1 of them must have, or all")
        source: Iterator[ArrayLike] = iter(() if chunks is None else chunks)
    kept: list[NDArray[Any]] = []
    first: NDArray[Any] | None = None

    def following() -> NDArray[Any] | None:
        nonlocal first
        found = next(source, None)
        if found is None:
            return None
        piece = numbers(found, "a chunk")
        if piece.ndim == 0:
            raise ValueError("a chunk is a single number: chunks need at least 1 axis")
        if first is None:
            first = piece[:0]
        if (piece.shape[1:], piece.dtype) != (first.shape[1:], first.dtype):
            raise ValueError(
                f"a chunk has shape {piece.shape} and dtype {piece.dtype}, "
                f"but those before had (..., {str(first.shape[1:])[1:]} and {first.dtype}"
            )
        return piece

    owners: list[int] = []
    lengths: list[int] = []
    if len(holders) == 1:
        while True:
            with agree(private, root=holders[0]):
                piece = following()
            header = private.bcast(None if piece is None else (piece.shape, piece.dtype), root=holders[0])
            if header is None:
                break
            shape, dtype = header
            owners.append(len(owners) % size)
            lengths.append(shape[0])
            target = np.empty(shape if rank == owners[-1] else (0,) * len(shape), dtype)
            mine = np.empty((0,) * len(shape), dtype) if piece is None else piece
            Transfer(Whole(shape, size, holders[0]), Whole(shape, size, owners[-1])).move(topology, mine, target)
            if rank == owners[-1]:
                kept.append(target)
            if first is None:
                first = np.empty((0, *shape[1:]), dtype)
            tick()
    else:
        with agree(private):
            while (piece := following()) is not None:
                kept.append(np.array(piece))
                tick()
        for r, found in enumerate(private.allgather([len(piece) for piece in kept])):
            owners += [r] * len(found)
            lengths += found
    kinds = [x for x in private.allgather(None if first is None else (first.shape[1:], first.dtype)) if x is not None]
    with agree(private):
        if not kinds:
            raise ValueError(f"there is no chunk, on {len(holders)} of {size} ranks: shape and dtype are not known")
        if len(set(kinds)) > 1:
            raise ValueError(f"chunks of rows of shape {kinds[0][0]} and dtype {kinds[0][1]} do not fit to {kinds[-1]}")
    tail, dtype = kinds[0]
    new = empty((sum(lengths), *tail), dtype, comm=comm, dims=dims, halo=halo)
    held = np.concatenate([np.empty((0, *tail), dtype), *kept])
    kept.clear()
    dealt = _Dealt(tuple(owners), tuple(lengths), tail)
    Transfer(dealt, new.decomposition).move(topology, held, new.padded, None, new.frame.start)
    return new.to_device(device)


@dataclass(frozen=True)
class _Dealt:
    """Pieces along the first axis, each on a rank, which keeps its own one after the other."""

    ranks: tuple[int, ...]
    lengths: tuple[int, ...]
    tail: tuple[int, ...]

    def parts(self, rank: int) -> list[Part]:
        """The rank's pieces."""
        parts, start, held = [], 0, 0
        for owner, n in zip(self.ranks, self.lengths, strict=True):
            if owner == rank:
                box = Box((start, *(0 for _ in self.tail)), (start + n, *self.tail))
                if box.size:
                    parts.append(Part(box, (held - start, *(0 for _ in self.tail))))
                held += n
            start += n
        return parts

    def owners(self, box: Box) -> list[int]:
        """The ranks of the pieces that `box` touches."""
        found, start = set(), 0
        for owner, n in zip(self.ranks, self.lengths, strict=True):
            if start < box.stop[0] and box.start[0] < start + n:
                found.add(owner)
            start += n
        return sorted(found)


def _is_path(x: Any) -> bool:
    return isinstance(x, str | os.PathLike)


def _chunks(shape: Sequence[int], size: int, rows: int) -> Chunks:
    """Chunks of so many indices along the first axis, spread over all ranks."""
    cut = Decomposition(tuple(shape), (size,) + (1,) * (len(shape) - 1))
    return Chunks(cut, (rows, *(max(n, 1) for n in shape[1:])))


def _boxes(layout: Chunks, rank: int) -> Iterator[Box]:
    """A rank's chunks, one by one."""
    start, stop = layout.box(rank)
    for row in range(start[0], stop[0], layout.chunk[0]):
        box = Box((row, *start[1:]), (min(row + layout.chunk[0], stop[0]), *stop[1:]))
        if box.size:
            yield box
