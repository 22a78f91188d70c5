"""Moving boxes between ranks: the one way data travels.

A `Transfer` compares what every rank *has* with what every rank *needs* and says, for any rank and without asking
anybody, which boxes go where. `Transfer.bind` gives it buffers and persistent requests for arrays of one dtype;
`Transfer.deliver` carries it out once, and leaves what arrives where it lands.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from mpihpc.core.decomposition import Box, Layout, Part
from mpihpc.core.topology import Topology

# MPI counts are C ints in most libraries, so a long message is counted in units of this many bytes.
_UNIT = 1 << 20
_MAX_COUNT = (1 << 31) - 1


class Message(NamedTuple):
    """The boxes that go to or come from one other rank, in the order in which they lie in the message."""

    peer: int
    boxes: list[Box]

    @property
    def cells(self) -> int:
        """Number of cells in the message."""
        return sum(box.size for box in self.boxes)


class Schedule(NamedTuple):
    """One rank's share of a transfer.

    Boxes are where the rank itself sees the cells (see `Part`): of what it has in `sends` and the first of each pair
    in `copies`, of what it needs in `receives` and the second of each pair.
    """

    sends: list[Message]
    receives: list[Message]
    copies: list[tuple[Box, Box]]

    @property
    def cells_sent(self) -> int:
        """Number of cells sent to other ranks."""
        return sum(message.cells for message in self.sends)

    @property
    def cells_received(self) -> int:
        """Number of cells that other ranks send."""
        return sum(message.cells for message in self.receives)


@dataclass(frozen=True)
class Transfer:
    """What every rank has, and what every rank needs.

    Parameters
    ----------
    have : Layout
        Where the cells are. No cell may be on two ranks.
    need : Layout
        Where they are wanted.
    in_place : bool
        Source and target are the same memory: cells that a rank needs where it already has them do not move.
    """

    have: Layout
    need: Layout
    in_place: bool = False

    def schedule(self, rank: int) -> Schedule:
        """The messages and copies of one rank, any rank. Takes a time that grows with its number of peers only."""
        have, need = self.have.parts(rank), self.need.parts(rank)
        takers = sorted({peer for part in have for peer in self.need.owners(part.box)})
        givers = sorted({peer for part in need for peer in self.have.owners(part.box)})
        sends = [Message(q, [a for a, _ in _overlaps(have, self.need.parts(q))]) for q in takers if q != rank]
        receives = [Message(p, [b for _, b in _overlaps(self.have.parts(p), need)]) for p in givers if p != rank]
        return Schedule(
            [message for message in sends if message.boxes],
            [message for message in receives if message.boxes],
            [(a, b) for a, b in _overlaps(have, need) if not (self.in_place and a == b)],
        )

    def bind(
        self,
        topology: Topology,
        dtype: np.dtype,
        source_origin: Sequence[int] | None = None,
        target_origin: Sequence[int] | None = None,
    ) -> Exchange:
        """Buffers and requests to carry this transfer out, as often as wanted. Collective.

        Parameters
        ----------
        topology : Topology
            The ranks.
        dtype : numpy.dtype
            Of the arrays to come.
        source_origin, target_origin : sequence of int, optional
            Global index of the first cell of the local source and target array. Default: zeros.
        """
        return Exchange(self.schedule(topology.rank), topology, dtype, source_origin, target_origin)

    def deliver(self, topology: Topology, source: NDArray[Any], origin: Sequence[int] | None = None) -> Delivery:
        """Begin to carry this transfer out, once. Collective.

        Parameters
        ----------
        topology : Topology
            The ranks.
        source : numpy.ndarray
            The local array. It must not change before `Delivery.finish`.
        origin : sequence of int, optional
            Global index of its first cell. Default: zeros.
        """
        return Delivery(self.schedule(topology.rank), topology, source, origin)


class Exchange:
    """A transfer with its buffers and persistent requests. Made by `Transfer.bind`.

    Attributes
    ----------
    messages, bytes : int
        What this rank sends to other ranks each time.
    """

    def __init__(
        self,
        schedule: Schedule,
        topology: Topology,
        dtype: np.dtype,
        source_origin: Sequence[int] | None,
        target_origin: Sequence[int] | None,
    ) -> None:
        dtype = np.dtype(dtype)
        tag = topology.next_tag()
        self.messages = len(schedule.sends)
        self.bytes = schedule.cells_sent * dtype.itemsize
        self._receives = len(schedule.receives), schedule.cells_received
        self._itemsize = dtype.itemsize
        self._copies = [(a.slices(source_origin), b.slices(target_origin)) for a, b in schedule.copies]
        self._packs: list[tuple[np.ndarray, tuple[slice, ...]]] = []
        self._unpacks: list[tuple[np.ndarray, tuple[slice, ...]]] = []
        self._requests: list[MPI.Prequest] = []
        for messages, origin, views, post in (
            (schedule.receives, target_origin, self._unpacks, topology.private.Recv_init),
            (schedule.sends, source_origin, self._packs, topology.private.Send_init),
        ):
            for message in messages:
                buffer = _buffer(message.cells * dtype.itemsize)
                self._requests.append(_persistent(post, buffer, message.peer, tag))
                offset = 0
                for box in message.boxes:
                    nbytes = box.size * dtype.itemsize
                    view = buffer[offset : offset + nbytes].view(dtype).reshape(box.shape)
                    views.append((view, box.slices(origin)))
                    offset += nbytes
        self._free = weakref.finalize(self, _free, self._requests)

    def start(self, source: np.ndarray) -> None:
        """Send what others need of `source`, and begin to receive. `source` may change as soon as this returns."""
        for view, index in self._packs:
            np.copyto(view, source[index])
        sent.add(self.messages, self.bytes // self._itemsize, self._itemsize)
        received.add(*self._receives, self._itemsize)
        MPI.Prequest.Startall(self._requests)

    def progress(self) -> None:
        """Let MPI move what it can: many libraries do so only when they are called."""
        MPI.Prequest.Testall(self._requests)

    def finish(self, source: np.ndarray, target: np.ndarray) -> None:
        """Wait, and put everything into its place in `target`. What stays on the rank is copied from `source`."""
        for here, there in self._copies:
            np.copyto(target[there], source[here])
        MPI.Prequest.Waitall(self._requests)
        for view, index in self._unpacks:
            np.copyto(target[index], view)

    def __call__(self, source: np.ndarray, target: np.ndarray) -> None:
        """Carry it out from begin to end. Collective."""
        self.start(source)
        self.finish(source, target)

    def close(self) -> None:
        """Free the requests; the garbage collector does it too."""
        self._free()


class Delivery:
    """A transfer on its way, once. Made by `Transfer.deliver`.

    What a message needs not be packed for is sent from where it lies, and what arrives is used where it lands. So
    there is no target array: iterating gives pairs of a box, as the rank needs it, and its cells, first those that the
    rank itself has (views of the source), then those of one peer after the other, as soon as they are there.

    Attributes
    ----------
    nbytes : int
        Memory that it holds: what arrives, and what had to be packed.
    """

    def __init__(
        self, schedule: Schedule, topology: Topology, source: NDArray[Any], origin: Sequence[int] | None
    ) -> None:
        tag, size, rank = topology.next_tag(), topology.size, topology.rank
        itemsize, self.nbytes = source.dtype.itemsize, 0
        self._parts = [(there, source[here.slices(origin)]) for here, there in schedule.copies]
        self._arriving: list[tuple[MPI.Request, Message, NDArray[Any]]] = []
        # Each begins with the next rank, so that not all send to the first one first.
        for message in sorted(schedule.receives, key=lambda message: (rank - message.peer) % size):
            buffer = np.empty(message.cells, source.dtype)
            self.nbytes += buffer.nbytes
            request = _post(topology.private.Irecv, buffer, message.peer, tag)
            self._arriving.append((request, message, buffer))
        packed: dict[tuple[Box, ...], NDArray[Any]] = {}  # several peers may need the same
        self._sends: list[tuple[MPI.Request, NDArray[Any]]] = []
        for message in sorted(schedule.sends, key=lambda message: (message.peer - rank) % size):
            cells = packed.get(tuple(message.boxes))
            if cells is None:
                pieces = [source[box.slices(origin)] for box in message.boxes]
                in_place = len(pieces) == 1 and pieces[0].flags.c_contiguous
                cells = pieces[0] if in_place else np.concatenate([piece.ravel() for piece in pieces])
                self.nbytes += 0 if in_place else cells.nbytes
                packed[tuple(message.boxes)] = cells
            self._sends.append((_post(topology.private.Isend, cells, message.peer, tag), cells))
        sent.add(len(schedule.sends), schedule.cells_sent, itemsize)
        received.add(len(schedule.receives), schedule.cells_received, itemsize)

    def __iter__(self) -> Iterator[tuple[Box, NDArray[Any]]]:
        yield from list(self._parts)
        while self._arriving:
            request, message, buffer = self._arriving.pop(0)
            request.Wait()
            ends = np.cumsum([box.size for box in message.boxes])
            pieces = np.split(buffer, ends[:-1])
            arrived = [(box, piece.reshape(box.shape)) for box, piece in zip(message.boxes, pieces, strict=True)]
            self._parts += arrived
            yield from arrived

    def finish(self) -> None:
        """Wait until all has arrived, and the source may change."""
        for _ in self:
            pass
        MPI.Request.Waitall([request for request, _ in self._sends])
        self._sends.clear()


@dataclass
class Tally:
    """Messages, cells and bytes that this process has sent or received, counted where they are posted."""

    messages: int = 0
    cells: int = 0
    bytes: int = 0

    def add(self, messages: int, cells: int, itemsize: int) -> None:
        """Count some more."""
        self.messages += messages
        self.cells += cells
        self.bytes += cells * itemsize


sent = Tally()
received = Tally()


def _overlaps(have: list[Part], need: list[Part]) -> list[tuple[Box, Box]]:
    """What two sides share, where the first sees it and where the second does. Both sides find the same order."""
    shared = []
    for a in have:
        for b in need:
            cells = a.box & b.box
            if cells.size:
                shared.append((cells.shift(a.shift), cells.shift(b.shift)))
    return shared


def _buffer(nbytes: int) -> np.ndarray:
    """Bytes for one message; a long one is rounded up to whole units."""
    return np.empty(nbytes if nbytes <= _MAX_COUNT else -(-nbytes // _UNIT) * _UNIT, np.uint8)


def _persistent(post: Callable[..., MPI.Prequest], buffer: np.ndarray, peer: int, tag: int) -> MPI.Prequest:
    """A persistent send or receive of the whole buffer."""
    if buffer.size <= _MAX_COUNT:
        return post([buffer, MPI.BYTE], peer, tag)
    unit = MPI.BYTE.Create_contiguous(_UNIT).Commit()
    try:
        return post([buffer, buffer.size // _UNIT, unit], peer, tag)
    finally:
        unit.Free()  # the request keeps what it needs


def _post(post: Callable[..., MPI.Request], cells: NDArray[Any], peer: int, tag: int) -> MPI.Request:
    """A send or receive of a contiguous array."""
    raw = cells.reshape(-1).view(np.uint8)
    if raw.size <= _MAX_COUNT:
        return post([raw, MPI.BYTE], peer, tag)
    units = MPI.BYTE.Create_contiguous(_UNIT)
    full, rest = divmod(raw.size, _UNIT)
    whole = MPI.Datatype.Create_struct([full, rest], [0, full * _UNIT], [units, MPI.BYTE]).Commit()
    try:
        return post([raw, 1, whole], peer, tag)
    finally:
        whole.Free()  # the request keeps what it needs
        units.Free()


def _free(requests: list[MPI.Prequest]) -> None:
    if not MPI.Is_finalized():
        for request in requests:
            request.Free()
