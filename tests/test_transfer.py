"""Movement: what is sent is what was planned, and arrives where it is needed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from mpihpc.core import transfer as module
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.layouts import Grown, Whole
from mpihpc.core.tally import received, sent
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def global_array(shape, dtype):
    """Every cell tells its place."""
    return (np.arange(math.prod(shape)).reshape(shape) + 1).astype(dtype)


class CountingComm(MPI.Intracomm):
    """Counts what is really handed to MPI."""

    def Send_init(self, buf, dest, tag=0):
        data, *count, datatype = buf
        nbytes = (count[0] if count else data.size) * datatype.Get_size()
        self.log.append((dest, nbytes))
        return super().Send_init(buf, dest, tag)


@st.composite
def redistributions(draw, size):
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(0, 9)) for _ in range(ndim))
    dims = st.sampled_from(grids(size, ndim))
    return shape, draw(dims), draw(dims), draw(st.sampled_from("bfdFD"))


def test_redistribution_between_any_two_grids(comm, verdict):
    topology = Topology.of(comm)

    @settings(max_examples=100)
    @given(redistributions(comm.size))
    def check(case):
        shape, before, after, kind = case
        with verdict(comm):
            whole = global_array(shape, kind)
            have, need = Decomposition(shape, before), Decomposition(shape, after)
            mine, wanted = have.box(comm.rank), need.box(comm.rank)
            target = np.zeros(wanted.shape, kind)
            exchange = Transfer(have, need).bind(topology, kind, mine.start, wanted.start)
            exchange(whole[mine.slices()].copy(), target)
            exchange.close()
            assert np.array_equal(target, whole[wanted.slices()])

    check()


def test_all_schedules_fit_together(comm):
    """What rank a sends to b is what b receives from a, in the same order, for every pair."""
    for shape, size, wrap in [((7, 5), 6, True), ((3, 9), 4, False), ((2, 3, 4), 12, True), ((2,), 5, True)]:
        for dims in grids(size, len(shape)):
            for corners in (True, False):
                cut = Decomposition(shape, dims)
                grown = Grown(cut, ((3, 1),) * len(shape), (wrap,) * len(shape), corners)
                plan = Transfer(cut, grown, in_place=True)
                schedules = [plan.schedule(rank) for rank in range(size)]
                for a, b in itertools.permutations(range(size), 2):
                    out = [m.boxes for m in schedules[a].sends if m.peer == b]
                    into = [m.boxes for m in schedules[b].receives if m.peer == a]
                    assert len(out) == len(into) <= 1  # one message a peer
                    for x, y in zip(*out, *into, strict=True) if out else ():
                        assert x.shape == y.shape
                        for i, j, n in zip(x.start, y.start, shape, strict=True):
                            assert (i - j) % n == 0


def test_counts_sent_equal_counts_planned(comm):
    topology = Topology.of(comm)
    counting = CountingComm(comm.Dup())
    counting.log = []
    original, topology.private = topology.private, counting
    try:
        shape, width = (40, 33), ((2, 1), (1, 3))
        cut = Decomposition.balanced(shape, comm.size)
        grown = Grown(cut, width, (True, False))
        plan = Transfer(cut, grown, in_place=True)
        origin = cut.box(comm.rank).grow(width).start
        exchange = plan.bind(topology, np.dtype(np.float32), origin, origin)
    finally:
        topology.private = original
    schedule = plan.schedule(comm.rank)
    assert sorted(counting.log) == sorted((m.peer, 4 * m.cells) for m in schedule.sends)
    before = sent.messages, sent.bytes
    padded = np.zeros(cut.box(comm.rank).grow(width).shape, np.float32)
    for _ in range(3):
        exchange(padded, padded)
    assert sent.messages - before[0] == 3 * len(counting.log) == 3 * exchange.messages
    assert sent.bytes - before[1] == 3 * sum(n for _, n in counting.log) == 3 * exchange.bytes
    total = comm.allreduce(schedule.cells_sent)
    assert total == comm.allreduce(sum(m.cells for m in schedule.receives))
    exchange.close()
    counting.Free()


def test_faces_alone_are_two_messages_per_axis(comm):
    for size, ndim in [(9, 2), (27, 3), (64, 3)]:
        side = round(size ** (1 / ndim))
        cut = Decomposition((8 * side,) * ndim, (side,) * ndim)
        for corners, most in ((False, 2 * ndim), (True, 3**ndim - 1)):
            grown = Grown(cut, ((1, 1),) * ndim, (True,) * ndim, corners)
            plan = Transfer(cut, grown, in_place=True)
            messages = {len(plan.schedule(rank).sends) for rank in range(size)}
            assert messages == {most}
            bytes_faces = 2 * ndim * 8 ** (ndim - 1)
            if not corners:
                assert {plan.schedule(rank).cells_sent for rank in range(size)} == {bytes_faces}


def test_gather_and_scatter_to_each_root(comm):
    topology = Topology.of(comm)
    whole = global_array((5, 4, 3), "d")
    cut = Decomposition.balanced(whole.shape, comm.size)
    box = cut.box(comm.rank)
    for root in (*range(comm.size), None):
        target = np.zeros(whole.shape if root in (None, comm.rank) else (0, 0, 0))
        gather = Transfer(cut, Whole(whole.shape, comm.size, root)).bind(topology, whole.dtype, box.start)
        gather(whole[box.slices()].copy(), target)
        if root in (None, comm.rank):
            assert np.array_equal(target, whole)
        if root is not None:
            back = np.zeros(box.shape)
            scatter = Transfer(Whole(whole.shape, comm.size, root), cut).bind(topology, whole.dtype, None, box.start)
            scatter(whole if comm.rank == root else target, back)
            assert np.array_equal(back, whole[box.slices()])


def test_long_messages_travel_in_units(comm, monkeypatch):
    """Counts beyond a C int: the same code, with a smaller limit."""
    monkeypatch.setattr(module, "_MAX_COUNT", 100)
    monkeypatch.setattr(module, "_UNIT", 16)
    topology = Topology.of(comm)
    whole = global_array((comm.size * 7, 5), "d")
    have, need = Decomposition(whole.shape, (comm.size, 1)), Decomposition(whole.shape, (1, comm.size))
    mine, wanted = have.box(comm.rank), need.box(comm.rank)
    target = np.zeros(wanted.shape)
    Transfer(have, need).bind(topology, whole.dtype, mine.start, wanted.start)(whole[mine.slices()].copy(), target)
    assert np.array_equal(target, whole[wanted.slices()])


def test_plans_in_flight_together_do_not_mix(comm):
    topology = Topology.of(comm)
    cut = Decomposition((4 * comm.size,), (comm.size,))
    grown = Grown(cut, ((1, 1),), (True,))
    origin = (cut.box(comm.rank).start[0] - 1,)
    plans = [Transfer(cut, grown, in_place=True).bind(topology, np.dtype(float), origin, origin) for _ in "ab"]
    n = 4 * comm.size
    blocks = [np.full(6, -1.0) for _ in plans]
    for scale, block in zip((1, 100), blocks, strict=True):
        block[1:-1] = scale * np.arange(origin[0] + 1, origin[0] + 5)
    order = (0, 1) if comm.rank % 2 else (1, 0)  # ranks start them in different order
    for k in order:
        plans[k].start(blocks[k])
    for k in order:
        plans[k].finish(blocks[k], blocks[k])
    for scale, block in zip((1, 100), blocks, strict=True):
        assert list(block) == [scale * (i % n) for i in range(origin[0], origin[0] + 6)]


def test_a_topology_is_made_once_per_communicator(comm):
    assert Topology.of(comm) is Topology.of(comm)
    other = comm.Dup()
    topology = Topology.of(other)
    assert topology is not Topology.of(comm)
    assert topology.private != other
    other.Free()
    assert topology.private == MPI.COMM_NULL
    with pytest.raises(TypeError, match="intracommunicator"):
        Topology.of(3)


def test_persistent_requests_are_freed(comm):
    topology = Topology.of(comm)
    cut = Decomposition((4 * comm.size,), (comm.size,))
    exchange = Transfer(cut, Whole(cut.shape, comm.size, None)).bind(
        topology, np.dtype(float), cut.box(comm.rank).start
    )
    requests = exchange._requests
    assert all(r != MPI.REQUEST_NULL for r in requests)
    assert len(requests) == 2 * (comm.size - 1)
    del exchange
    assert all(r == MPI.REQUEST_NULL for r in requests)


@pytest.mark.parametrize("limit", [None, 100])
def test_deliveries_bring_what_exchanges_bring(comm, monkeypatch, limit):
    """Own cells as views, others' where they landed; counted; long messages in units."""
    if limit:
        monkeypatch.setattr(module, "_MAX_COUNT", limit)
        monkeypatch.setattr(module, "_UNIT", 16)
    topology = Topology.of(comm)
    whole = global_array((comm.size * 5, 7), "F")
    have = Decomposition(whole.shape, (comm.size, 1))
    for need in (Decomposition(whole.shape, (1, comm.size)), Whole(whole.shape, comm.size), have):
        mine = have.box(comm.rank)
        for source in (whole[mine.slices()].copy(), np.asfortranarray(whole[mine.slices()])):
            plan = Transfer(have, need)
            schedule = plan.schedule(comm.rank)
            before = (sent.messages, sent.cells, sent.bytes), (received.messages, received.cells, received.bytes)
            delivery = plan.deliver(topology, source, mine.start)
            posted = (len(schedule.sends), schedule.cells_sent, 8 * schedule.cells_sent)
            expected = (len(schedule.receives), schedule.cells_received, 8 * schedule.cells_received)
            assert (sent.messages, sent.cells, sent.bytes) == tuple(map(sum, zip(before[0], posted, strict=True)))
            assert (received.messages, received.cells, received.bytes) == tuple(
                map(sum, zip(before[1], expected, strict=True))
            )
            target = np.zeros(whole.shape, "F")
            for box, cells in delivery:
                target[box.slices()] += cells
            again = list(delivery)  # as often as one likes
            assert sum(cells.size for _, cells in again) == sum(part.box.size for part in need.parts(comm.rank))
            assert not schedule.copies or np.shares_memory(again[0][1], source)
            delivery.finish()
            for part in need.parts(comm.rank):
                assert np.array_equal(target[part.box.slices()], whole[part.box.slices()])
            in_place = source.flags.c_contiguous and need is not have and isinstance(need, Whole)
            assert delivery.nbytes >= 8 * schedule.cells_received
            assert not in_place or delivery.nbytes == 8 * schedule.cells_received  # nothing was packed


def test_exchanges_count_what_they_receive(comm):
    topology = Topology.of(comm)
    whole = global_array((9, 8), "d")
    have, need = Decomposition(whole.shape, (comm.size, 1)), Decomposition(whole.shape, (1, comm.size))
    plan, mine, wanted = Transfer(have, need), have.box(comm.rank), need.box(comm.rank)
    exchange = plan.bind(topology, whole.dtype, mine.start, wanted.start)
    before = received.messages, received.cells, received.bytes
    target = np.zeros(wanted.shape)
    for _ in range(2):
        exchange(whole[mine.slices()].copy(), target)
    schedule = plan.schedule(comm.rank)
    assert received.messages - before[0] == 2 * len(schedule.receives)
    assert received.cells - before[1] == 2 * sum(message.cells for message in schedule.receives)
    assert received.bytes - before[2] == 8 * (received.cells - before[1])
    exchange.close()
