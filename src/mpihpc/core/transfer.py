"""Moving boxes between ranks: the only way data travel.

A `Transfer` compares what every rank *has* with what every rank *needs*, and computes which boxes go where, for any
rank and without communication. `Transfer.bind` allocates buffers and persistent requests to carry it out many times;
`Transfer.move` carries it out once; `Transfer.deliver` does too, and leaves the data in the receive buffers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from mpi4py import MPI

from mpihpc.core.decomposition import Box, Layout, Part
from mpihpc.core.device import CPU, Device
from mpihpc.core.sharing import Rows, share
from mpihpc.core.tally import received, sent
from mpihpc.core.topology import Topology

# MPI counts are C ints in most libraries, so a long message is counted in units of this many bytes.
_UNIT = 1 << 20
_MAX_COUNT = (1 << 31) - 1

# After _OFTEN turns of a halo exchange, ranks of a node read messages of at least _LARGE bytes directly from the
# sender's buffer. MPI would copy them twice more and take twice as long; setting up shared memory costs what ten turns
# save.
_OFTEN = 12
_LARGE = 1 << 12

_Request = TypeVar("_Request", bound=MPI.Request)


class Message(NamedTuple):
    """The boxes sent to or received from one other rank, in the order of the message."""

    peer: int
    boxes: list[Box]

    @property
    def cells(self) -> int:
        """Number of cells in the message."""
        return sum(box.size for box in self.boxes)


class Schedule(NamedTuple):
    """One rank's share of a transfer.

    Boxes are in the rank's own coordinates (see `Part`): those of the layout it has in `sends` and for the first of
    each pair in `copies`, those of the layout it needs in `receives` and for the second.
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
        """Number of cells received from other ranks."""
        return sum(message.cells for message in self.receives)


@dataclass(frozen=True)
class Transfer:
    """What every rank has, and what every rank needs.

    Parameters
    ----------
    have : Layout
        Where the cells are. No cell may be on two ranks.
    need : Layout
        Where they should be.
    in_place : bool
        Source and target are the same memory: cells that are already where they are needed do not move.

    Examples
    --------
    >>> from mpihpc import Decomposition, Transfer
    >>> rows, columns = Decomposition((4, 4), (2, 1)), Decomposition((4, 4), (1, 2))
    >>> Transfer(rows, columns).schedule(0).sends
    [Message(peer=1, boxes=[Box(start=(0, 2), stop=(2, 4))])]
    """

    have: Layout
    need: Layout
    in_place: bool = False

    def schedule(self, rank: int) -> Schedule:
        """The messages and copies of one rank, which may be any. The time depends only on its number of peers."""
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
        device: Device = CPU,
    ) -> Exchange:
        """Allocate buffers and requests to carry out this transfer many times. Collective.

        Parameters
        ----------
        topology : Topology
            The ranks.
        dtype : numpy.dtype
            Of the arrays to move.
        source_origin, target_origin : sequence of int, optional
            Global index of the first cell of the local source and target array. Default: zeros.
        device : Device
            Where both arrays are.
        """
        return Exchange(
            self.schedule(topology.rank), topology, dtype, source_origin, target_origin, device, self.in_place
        )

    def move(
        self,
        topology: Topology,
        source: Any,
        target: Any,
        source_origin: Sequence[int] | None = None,
        target_origin: Sequence[int] | None = None,
        device: Device = CPU,
    ) -> None:
        """Carry out this transfer once, from one local array to another of the same dtype. Collective.

        Other parameters: see `bind`.

        Examples
        --------
        >>> import mpihpc, numpy as np
        >>> topology = mpihpc.Topology.of()
        >>> cut = mpihpc.Decomposition((6,), (topology.size,))
        >>> box = cut.box(topology.rank)
        >>> source, target = np.ones(box.shape), np.zeros(box.shape)
        >>> mpihpc.Transfer(cut, cut).move(topology, source, target, box.start, box.start)
        >>> bool((target == 1).all())
        True
        """
        exchange = self.bind(topology, source.dtype, source_origin, target_origin, device)
        exchange(source, target)
        exchange.close()

    def deliver(
        self, topology: Topology, source: Any, origin: Sequence[int] | None = None, device: Device = CPU
    ) -> Delivery:
        """Start to carry out this transfer once. Collective.

        Parameters
        ----------
        topology : Topology
            The ranks.
        source : numpy.ndarray
            The local array. It must not change before `Delivery.finish`.
        origin : sequence of int, optional
            Global index of its first cell. Default: zeros.
        device : Device
            Where it is.
        """
        return Delivery(self.schedule(topology.rank), topology, source, origin, device)


class Exchange:
    """A transfer with its buffers and persistent requests, created by `Transfer.bind`.

    Attributes
    ----------
    messages, bytes : int
        Sent by this rank to others each time.
    silent : bool
        Whether this rank neither sends nor receives.
    """

    def __init__(
        self,
        schedule: Schedule,
        topology: Topology,
        dtype: np.dtype,
        source_origin: Sequence[int] | None,
        target_origin: Sequence[int] | None,
        device: Device,
        in_place: bool,
    ) -> None:
        self._schedule, self._comm, self._tag = schedule, topology.private, topology.next_tag()
        self._origins = source_origin, target_origin
        self._device, self._dtype, self._size = device, dtype, np.dtype(dtype).itemsize
        self.messages = len(schedule.sends)
        self.bytes = schedule.cells_sent * self._size
        self.silent = not (schedule.sends or schedule.receives)
        self._sent = self.messages, schedule.cells_sent, self._size
        self._received = len(schedule.receives), schedule.cells_received, self._size
        self._stay = self._boxes([a for a, _ in schedule.copies], source_origin)
        self._land = self._boxes([b for _, b in schedule.copies], target_origin)
        self._requests: list[MPI.Prequest] = []
        self._free = weakref.finalize(self, _free, self._requests)
        self._turn, self._posted = 0, True  # the number of finished turns
        self._share_at = _OFTEN if in_place and device.host else -1
        self._connect({}, {})

    def _boxes(self, boxes: Iterable[Box], origin: Sequence[int] | None) -> Any:
        """The kernel that moves boxes of a local array whose first cell is `origin`; None for no boxes."""
        where = [[(s.start, s.stop) for s in box.slices(origin)] for box in boxes]
        return self._device.kernels.Boxes(where, len(where[0]), self._dtype) if where else None

    def _connect(self, mine: Mapping[int, Rows], theirs: Mapping[int, Rows]) -> None:
        """Create buffers and requests; messages in `mine` and `theirs` have shared rows that both ranks see."""

        def side(messages: list[Message], shared: Mapping[int, Rows], origin: Sequence[int] | None, post: Any) -> Any:
            """Map boxes to bytes, for even and odd turns, and create a request per message.

            Messages carried by MPI are contiguous in one row. For messages in shared rows MPI carries an empty message
            that announces them; and one in the other direction, if there is none, that tells how far the peer is.
            """
            carried = [message for message in messages if message.peer not in shared]
            here, mail = self._device.mailbox(sum(message.cells for message in carried) * self._size)
            ends = np.cumsum([0, *(message.cells * self._size for message in carried)]).tolist()
            for message, (first, end) in zip(carried, pairwise(ends), strict=True):
                self._requests.append(_post(post, mail[first:end], message.peer, self._tag))
            for peer in sorted((mine.keys() | theirs.keys()) - {message.peer for message in carried}):
                self._requests.append(post([mail[:0], MPI.BYTE], peer, self._tag))
            moves = [(self._boxes([box for m in carried for box in m.boxes], origin), (here, here))]
            moves += [(self._boxes(m.boxes, origin), shared[m.peer]) for m in messages if m.peer in shared]
            return [move for move in moves if move[0]], here, mail

        _free(self._requests)
        (source, target), (sends, receives, _) = self._origins, self._schedule
        self._unpacks, self._arrived, self._arriving = side(receives, theirs, target, self._comm.Recv_init)
        self._packs, self._packed, self._leaving = side(sends, mine, source, self._comm.Send_init)

    def _share(self) -> None:
        """From now on, let peers on the same node read large messages from the sender's buffer. Collective."""
        if self._comm == MPI.COMM_NULL:
            return  # the user has freed the communicator; the requests still work

        def large(messages: list[Message]) -> dict[int, int]:
            return {m.peer: m.cells * self._size for m in messages if m.cells * self._size >= _LARGE}

        mine, theirs = share(self._comm, self._tag, large(self._schedule.sends), large(self._schedule.receives))
        if mine or theirs:
            self._connect(mine, theirs)

    def start(self, source: Any) -> None:
        """Send what others need of `source`, and start to receive.

        `source` must not change before `finish`. On a GPU this does not wait for the packing kernels; the messages are
        sent by the first call of `progress` or `finish`.
        """
        for boxes, rows in self._packs:
            boxes.pack(source, rows[self._turn % 2])
        if self._packs:
            self._device.post(self._packed, self._leaving)
        self._posted = False
        if self._device.host:
            self._send()

    def _send(self) -> None:
        sent.add(*self._sent)
        received.add(*self._received)
        if self._requests:
            self._device.wait()
            MPI.Prequest.Startall(self._requests)
        self._posted = True

    def progress(self) -> None:
        """Let MPI make progress: many libraries do so only inside MPI calls."""
        if not self._posted:
            self._send()
        else:
            MPI.Prequest.Testall(self._requests)

    def finish(self, source: Any, target: Any) -> None:
        """Wait for the messages and unpack them into `target`; cells that stay on the rank are copied from `source`.

        Collective: in one turn it also sets up shared memory with the peers.
        """
        if not self._posted:
            self._send()
        if self._stay:
            self._stay.copy(source, self._land, target)
        MPI.Prequest.Waitall(self._requests)
        moves, turn = self._unpacks, self._turn % 2
        if moves:
            self._device.fetch(self._arriving, self._arrived)
        self._turn += 1
        if self._turn == self._share_at:
            self._share()
        for boxes, rows in moves:
            boxes.unpack(rows[turn], target)

    def __call__(self, source: Any, target: Any) -> None:
        """Carry out the transfer: `start`, then `finish`. Collective."""
        self.start(source)
        self.finish(source, target)

    def close(self) -> None:
        """Free the requests; garbage collection does so too."""
        self._free()


class Delivery:
    """A transfer in progress, created by `Transfer.deliver`.

    Contiguous data are sent without packing, and received data are used in the receive buffer, so there is no target
    array: iteration yields pairs of a box, in the coordinates of the layout that the rank needs, and its cells; first
    those that the rank itself has (views of the source), then those of one peer after the other, as they arrive.

    Attributes
    ----------
    nbytes : int
        Size of the receive buffers and of the packed messages.
    """

    def __init__(
        self, schedule: Schedule, topology: Topology, source: Any, origin: Sequence[int] | None, device: Device
    ) -> None:
        tag, size, rank = topology.next_tag(), topology.size, topology.rank
        itemsize, self.nbytes = source.dtype.itemsize, 0
        self._device, self._dtype = device, source.dtype
        self._parts = [(there, source[here.slices(origin)]) for here, there in schedule.copies]
        # Each rank starts with the next one, so that they do not all send to rank 0 first.
        receives = sorted(schedule.receives, key=lambda message: (rank - message.peer) % size)
        rows = [device.mailbox(message.cells * itemsize) for message in receives]
        self.nbytes += sum(here.nbytes for here, _ in rows)
        packed: dict[tuple[Box, ...], Any] = {}  # several peers may need the same
        self._sends: list[tuple[MPI.Request, Any]] = []
        for message in schedule.sends:
            if (boxes := tuple(message.boxes)) in packed:
                continue
            cells = [source[box.slices(origin)] for box in boxes]
            if len(cells) == 1 and cells[0].flags.c_contiguous:
                packed[boxes] = device.outgoing(cells[0].ravel().view(np.uint8))
                continue
            here, packed[boxes] = device.mailbox(message.cells * itemsize)
            self.nbytes += here.nbytes
            row, at = here.view(source.dtype), 0
            for piece in cells:
                row[at : at + piece.size].reshape(piece.shape)[...] = piece
                at += piece.size
            device.post(here, packed[boxes])
        device.wait()
        self._arriving: list[tuple[MPI.Request, Message, Any, Any]] = []
        for message, (here, mail) in zip(receives, rows, strict=True):
            self._arriving.append((_post(topology.private.Irecv, mail, message.peer, tag), message, here, mail))
        for message in sorted(schedule.sends, key=lambda message: (message.peer - rank) % size):
            row = packed[tuple(message.boxes)]
            self._sends.append((_post(topology.private.Isend, row, message.peer, tag), row))
        sent.add(len(schedule.sends), schedule.cells_sent, itemsize)
        received.add(len(schedule.receives), schedule.cells_received, itemsize)

    def __iter__(self) -> Iterator[tuple[Box, Any]]:
        yield from list(self._parts)
        while self._arriving:
            request, message, here, mail = self._arriving.pop(0)
            request.Wait()
            self._device.fetch(mail, here)
            buffer = here.view(self._dtype)
            at, arrived = 0, []
            for box in message.boxes:
                arrived.append((box, buffer[at : at + box.size].reshape(box.shape)))
                at += box.size
            self._parts += arrived
            yield from arrived

    def finish(self) -> None:
        """Wait until everything has arrived and the source may change."""
        for _ in self:
            pass
        MPI.Request.Waitall([request for request, _ in self._sends])
        self._sends.clear()


def _overlaps(have: list[Part], need: list[Part]) -> list[tuple[Box, Box]]:
    """The overlaps of two sides, in the coordinates of each. Both sides find the same order."""
    shared = []
    for a in have:
        for b in need:
            cells = a.box & b.box
            if cells.size:
                shared.append((cells.shift(a.shift), cells.shift(b.shift)))
    return shared


def _post(post: Callable[..., _Request], row: Any, peer: int, tag: int) -> _Request:
    """Post a send or receive of a row of bytes."""
    if row.size <= _MAX_COUNT:
        return post([row, MPI.BYTE], peer, tag)
    units = MPI.BYTE.Create_contiguous(_UNIT)
    full, rest = divmod(row.size, _UNIT)
    whole = MPI.Datatype.Create_struct([full, rest], [0, full * _UNIT], [units, MPI.BYTE]).Commit()
    try:
        return post([row, 1, whole], peer, tag)
    finally:
        whole.Free()  # the request keeps what it needs
        units.Free()


def _free(requests: list[MPI.Prequest]) -> None:
    if not MPI.Is_finalized():
        for request in requests:
            request.Free()
    requests.clear()
