"""Memory that ranks of a node share: what is read is what was packed, in every turn, and without it nothing changes."""

import gc
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from mpihpc.core import sharing, transfer
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.halo import Halo
from mpihpc.core.sharing import share
from mpihpc.core.topology import Topology

# Python may have been built for a C library that has none: then exchanges go on with messages, as the others test.
needs_memory = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this Python has no os.memfd_create")


def ring(comm):
    """Bytes to the next two ranks, and from the last two, other than to oneself."""
    ahead = {(comm.rank + n) % comm.size: 1000 * n for n in (1, 2)}
    behind = {(comm.rank - n) % comm.size: 1000 * n for n in (1, 2)}
    ahead.pop(comm.rank, None)
    behind.pop(comm.rank, None)
    return ahead, behind


@needs_memory
def test_what_one_writes_the_other_reads(comm, verdict):
    leaving, arriving = ring(comm)
    if comm.size == 2:  # the next but one is oneself
        leaving = arriving = {1 - comm.rank: 1000}
    mine, theirs = share(comm, 7, leaving, arriving)
    for peer, rows in mine.items():
        for turn, row in enumerate(rows):
            row[:] = (16 * comm.rank + peer + turn) % 256
    comm.Barrier()
    with verdict(comm):
        assert mine.keys() == leaving.keys() and theirs.keys() == arriving.keys()
        for peer, rows in theirs.items():
            for turn, row in enumerate(rows):
                assert row.shape == (arriving[peer],)
                assert (row == (16 * peer + comm.rank + turn) % 256).all()
                assert not row.flags.writeable and row.ctypes.data % 64 == 0


def no_memory(name):
    raise OSError(28, "No space left on device")


@needs_memory
@pytest.mark.parametrize("missing", ["memory", "sight"])
def test_a_rank_that_cannot_share_goes_on_with_messages(comm, verdict, missing, monkeypatch):
    """Rank 0 has no memory to give, or does not find that of others, as if it were on another node."""
    if comm.rank == 0 and missing == "memory":
        monkeypatch.setattr(os, "memfd_create", no_memory)
    if comm.rank == 0 and missing == "sight":
        monkeypatch.setattr(os, "readlink", lambda path: "/another/file")
    leaving, arriving = ring(comm)
    if comm.size == 2:
        leaving = arriving = {1 - comm.rank: 1000}
    mine, theirs = share(comm, 7, leaving, arriving)
    with verdict(comm):
        gives = comm.rank != 0 or missing != "memory"
        assert set(mine) == {peer for peer in leaving if gives and not (missing == "sight" and peer == 0)}
        gets = comm.rank != 0 or missing != "sight"
        assert set(theirs) == {peer for peer in arriving if gets and not (missing == "memory" and peer == 0)}
    monkeypatch.setattr(transfer, "_LARGE", 1)
    monkeypatch.setattr(transfer, "_OFTEN", 1)
    turns(comm, verdict, ((2, 1), (0, 0)), "wrap", 5)


def turns(comm, verdict, width, mode, count, seed=0):
    """So many exchanges of numbers that tell rank, cell and turn, by ranks that take their time."""
    dawdle = random.Random(seed * comm.size + comm.rank)
    n, (before, after) = 3 * comm.size, width[0]
    cut = Decomposition((n, 5), (comm.size, 1))
    halo = Halo(cut, Topology.of(comm), width, np.dtype(float), mode)
    box = cut.box(comm.rank)
    rows = np.arange(box.start[0] - before, box.stop[0] + after)
    inside = {"wrap": rows % n, "nearest": rows.clip(0, n - 1)}[mode]
    wrong = []
    for turn in range(count):
        padded = np.full((len(rows), 5), -1.0)
        padded[before : before + 3] = np.arange(box.start[0], box.stop[0])[:, None] + 1000 * turn
        time.sleep(dawdle.choice((0, 0, 0.001)))
        halo.start(padded)
        time.sleep(dawdle.choice((0, 0, 0.001)))
        halo.finish(padded)
        if not (padded == inside[:, None] + 1000 * turn).all():
            wrong.append(turn)
    with verdict(comm):
        assert wrong == []


@pytest.mark.parametrize("mode", ["wrap", "nearest"])
@pytest.mark.parametrize("width", [(1, 1), (2, 0), (0, 3), (3, 2), (4, 4)])
def test_no_turn_brings_the_numbers_of_another(comm, verdict, width, mode, monkeypatch):
    """Also where nobody answers, as only one side has a halo; and deeper than a block."""
    monkeypatch.setattr(transfer, "_LARGE", 1)
    monkeypatch.setattr(transfer, "_OFTEN", 3)
    turns(comm, verdict, (width, (0, 0)), mode, 25)


@pytest.mark.parametrize("large", [100, 200])
def test_small_messages_beside_large_ones(comm, verdict, large, monkeypatch):
    """One way the message is large, and the other way it is small."""
    monkeypatch.setattr(transfer, "_LARGE", large)
    monkeypatch.setattr(transfer, "_OFTEN", 1)
    turns(comm, verdict, ((3, 1), (0, 0)), "wrap", 25, seed=1)


@pytest.mark.parametrize("refused", [0, 1, 2, 3, 4])
def test_a_refused_array_spoils_no_turn(comm, verdict, refused, monkeypatch):
    """One rank, or all, may try again with the right array: before there is such memory, when it is made, and after."""
    monkeypatch.setattr(transfer, "_LARGE", 1)
    monkeypatch.setattr(transfer, "_OFTEN", 2)
    cut = Decomposition((2 * comm.size, 5), (comm.size, 1))
    halo = Halo(cut, Topology.of(comm), ((1, 1), (0, 0)), np.dtype(float), "wrap")
    before, after = ((comm.rank + n) % comm.size for n in (-1, 1))
    wrong = []
    for turn in range(9):
        if comm.size > 1 and ((turn == refused and comm.rank == 0) or turn == refused + 1):
            with pytest.raises((TypeError, ValueError)):
                halo.start(np.zeros(7))
        padded = np.full((4, 5), 100.0 * turn + comm.rank)
        halo.start(padded)
        time.sleep(0.001 * (comm.rank == 1))
        halo.finish(padded)
        if not ((padded[0] == 100 * turn + before).all() and (padded[-1] == 100 * turn + after).all()):
            wrong.append(turn)
    with verdict(comm):
        assert wrong == []


def test_plans_outlive_their_communicator(comm, verdict, monkeypatch):
    monkeypatch.setattr(transfer, "_LARGE", 1)
    monkeypatch.setattr(transfer, "_OFTEN", 2)
    other = comm.Dup()
    halo = Halo(Decomposition((2 * comm.size,), (comm.size,)), Topology.of(other), ((1, 1),), np.dtype(float), "wrap")
    other.Free()
    padded = np.empty(4)
    with verdict(comm):
        for turn in range(5):
            padded[:] = comm.rank + turn
            halo.exchange(padded)
            assert padded[0] == (comm.rank - 1) % comm.size + turn
            assert padded[-1] == (comm.rank + 1) % comm.size + turn


@needs_memory
def test_memory_goes_with_the_plan(comm, verdict, monkeypatch):
    monkeypatch.setattr(transfer, "_OFTEN", 2)
    cut = Decomposition((2 * comm.size, 4096), (comm.size, 1))
    halo = Halo(cut, Topology.of(comm), ((1, 1), (0, 0)), np.dtype(float), "wrap")
    padded = np.zeros((4, 4096))

    def mapped():
        return Path("/proc/self/maps").read_text().count("/memfd:mpihpc-")

    gc.collect()
    before = mapped()
    halo.exchange(padded)
    once, files = mapped(), len(os.listdir("/proc/self/fd"))
    halo.exchange(padded)
    more = mapped()
    del halo
    gc.collect()
    after = mapped()
    with verdict(comm):
        peers = len({(comm.rank + n) % comm.size for n in (-1, 1)} - {comm.rank})
        assert once == before and more == before + peers + (peers > 0)
        assert after == before
        assert len(os.listdir("/proc/self/fd")) == files


def test_another_file_is_not_taken_for_it():
    """A process of another node may have the same number, and a pipe open under the same number."""
    reading, writing = os.pipe()
    for path in (f"/proc/{os.getpid()}/fd/{reading}", f"/proc/{1 << 30}/fd/3"):
        assert sharing._find(sharing._Offer(path, "mpihpc-0", 0, 4096), 64) is None
    os.close(reading)
    os.close(writing)
