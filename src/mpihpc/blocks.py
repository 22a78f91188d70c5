"""User functions applied by block or chunk, to arrays and to large files; and arrays whose data arrive in pieces."""

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
    """Apply a function to each block. Collective.

    Before: each rank holds its blocks. After: each rank holds its block of the result, cut as the first array.

    Parameters
    ----------
    func : callable
        Called once on each rank that has cells, with this rank's block of each array, as a NumPy or CuPy array. It
        returns an array of the shape of the first block. Blocks depend on the decomposition, so it should work
        elementwise; it must not communicate.
    *arrays : DistArray
        The first must be a DistArray. The others are anything that broadcasts to its shape: DistArrays (redistributed
        if their decomposition differs, which `mpihpc.core.tally.sent` counts), NumPy arrays that are equal on all
        ranks, or numbers.

    Returns
    -------
    DistArray
        Of the dtype that `func` returns; if that differs between ranks, of their common dtype (`numpy.result_type`).

    Raises
    ------
    ValueError, TypeError
        Raised by `func` on any rank, and then on all ranks; or the result does not have the shape of the block.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([1.0, -2.0, 3.0])
    >>> mpihpc.map_blocks(np.where, u > 0, u, 0).gather(root=None)
    array([1., 0., 3.])
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
                raise ValueError(f"the function returned shape {result.shape} for a block of shape {first.box.shape}")
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
    """Compute a value from each block or chunk, and combine the values into one. Collective.

    Before: each rank holds its block, or can open the file. After: all ranks hold the result.

    Parameters
    ----------
    func : callable
        Called with a non-empty NumPy or CuPy array; must not communicate. It should return small values: all ranks
        receive those of all blocks, in host memory.
    source : DistArray, or path
        An array; or an HDF5 or ``.npy`` file, as ``FILE`` or ``FILE:DATASET``, of any size.
    combine : callable
        Combines two values. It need not be associative: values are combined from the left, in the order of the chunks
        or of the ranks.
    rows : int, optional
        Use chunks of `rows` indices along the first axis, whole along the others; the result is then the same for any
        number of ranks. Arrays are redistributed for this. Default: the blocks of an array; chunks of about 16 MiB of
        a file.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that read the file. Default: COMM_WORLD.

    Returns
    -------
    object
        The same on all ranks; the value itself if there is only one.

    Raises
    ------
    ValueError, TypeError, OSError
        Raised by `func` or `combine` on any rank, and then on all ranks; or there are no cells, or the file cannot be
        read.

    Notes
    -----
    Memory for a file, on each rank: at most two chunks at a time (the chunk and the mapped pages that it is copied
    from), the workspace of `func`, and all values. For an array that is redistributed: a second block.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([3.0, 1, 4, 1, 5])
    >>> mpihpc.map_reduce(np.max, u, max)
    np.float64(5.0)

    Of a file, which may be larger than memory:

    >>> np.save("big.npy", np.arange(1000))
    >>> mpihpc.map_reduce(np.max, "big.npy", max)
    np.int64(999)
    """
    topology = source.topology if is_distributed(source) else Topology.of(comm)
    kind = "an array" if is_distributed(source) else "a file" if _is_path(source) else "nothing"
    with agree(topology.private, alike=f"map_reduce: the source is {kind}"):
        if not is_distributed(source) and not _is_path(source):
            raise TypeError(f"map_reduce takes a DistArray or the name of a file, not {type(source).__name__}")
        if rows is not None and not (isinstance(rows, int | np.integer) and rows >= 1):
            raise ValueError(f"rows {rows} is not a whole number of 1 or more")
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
    """Concatenate pieces along the first axis, as they arrive. Collective.

    Before: one rank has the pieces and the others pass None; or every rank has some, and they are concatenated in the
    order of the ranks. After: each rank holds its block.

    Parameters
    ----------
    chunks : iterable of array_like, or None
        The pieces: of the same dtype, and of the same shape but for the first axis. They are taken one at a time, so a
        generator will do; it must not communicate.
    comm, dims, halo, device
        See `mpihpc.empty`. The pieces are in host memory.

    Raises
    ------
    ValueError
        There are no pieces, they do not fit together, or more than one rank has pieces but not all. An error that the
        iterable raises on one rank is raised on all, as `mpihpc.agree` does.

    Notes ----- If one rank has the pieces, they go to the ranks in turn as they arrive, so that no rank holds many more
    than others. Memory on each rank: twice its share, and one piece in transit.

    Examples
    --------
    >>> import mpihpc
    >>> comm = mpihpc.Topology.of().comm
    >>> pieces = (np.full((2, 3), k) for k in range(4))
    >>> mpihpc.from_chunks(pieces if comm.rank == 0 else None).shape
    (8, 3)
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
                f"but earlier ones have (..., {str(first.shape[1:])[1:]} and {first.dtype}"
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
            raise ValueError(f"no chunks on {len(holders)} of {size} ranks: shape and dtype are unknown")
        if len(set(kinds)) > 1:
            raise ValueError(f"chunks of rows of shape {kinds[0][0]} and dtype {kinds[0][1]} do not fit {kinds[-1]}")
    tail, dtype = kinds[0]
    new = empty((sum(lengths), *tail), dtype, comm=comm, dims=dims, halo=halo)
    held = np.concatenate([np.empty((0, *tail), dtype), *kept])
    kept.clear()
    dealt = _Dealt(tuple(owners), tuple(lengths), tail)
    Transfer(dealt, new.decomposition).move(topology, held, new.padded, None, new.frame.start)
    return new.to_device(device)


@dataclass(frozen=True)
class _Dealt:
    """A layout: pieces along the first axis, each on one rank, which stores its pieces contiguously."""

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
    """Chunks of `rows` indices along the first axis, distributed over all ranks."""
    cut = Decomposition(tuple(shape), (size,) + (1,) * (len(shape) - 1))
    return Chunks(cut, (rows, *(max(n, 1) for n in shape[1:])))


def _boxes(layout: Chunks, rank: int) -> Iterator[Box]:
    """A rank's chunks, one by one."""
    start, stop = layout.box(rank)
    for row in range(start[0], stop[0], layout.chunk[0]):
        box = Box((row, *start[1:]), (min(row + layout.chunk[0], stop[0]), *stop[1:]))
        if box.size:
            yield box
