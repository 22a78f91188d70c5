"""The watchdog where it does not bark. What it does when it does: tests/programs/test_watchdog.py."""

import os
import time

import pytest
from mpi4py import MPI

from mpihpc import _core
from mpihpc.core.timeout import timeout_from, watchdog
from mpihpc.core.watchdog import phase, tick

WORLD = MPI.COMM_WORLD


@pytest.mark.parametrize(("text", "seconds"), [("2.5", 2.5), (3, 3.0), (" 1e3 ", 1000.0), ("0", None), (0, None)])
def test_timeout(text, seconds):
    assert timeout_from(text) == seconds


def test_timeout_of_the_environment(monkeypatch):
    monkeypatch.delenv("MPIHPC_TIMEOUT", raising=False)
    assert timeout_from() is None
    monkeypatch.setenv("MPIHPC_TIMEOUT", "")
    assert timeout_from() is None
    monkeypatch.setenv("MPIHPC_TIMEOUT", "60")
    assert timeout_from() == 60
    assert timeout_from("5") == 5
    assert timeout_from(0) is None
    monkeypatch.setenv("MPIHPC_TIMEOUT", "soon")
    with pytest.raises(ValueError, match=r"^MPIHPC_TIMEOUT soon is not a positive number of seconds$"):
        timeout_from()


@pytest.mark.parametrize("text", ["-1", -1, "nan", "inf", "1e10", "ten", ""])
def test_timeout_of_nonsense(text):
    with pytest.raises(ValueError, match=f"^timeout {text} is not a positive number of seconds$"):
        timeout_from(text)


@pytest.mark.parametrize("seconds", [None, 0, 30])
def test_cheap(seconds):
    """A tick may stand in the innermost loop of Python."""
    with watchdog(WORLD, seconds):
        for call in (tick, lambda: phase("step 1234")):
            spent = []
            for _ in range(5):
                begin = time.thread_time()
                for _ in range(10_000):
                    call()
                spent.append((time.thread_time() - begin) / 10_000)
            assert min(spent) < 1e-6


@pytest.mark.parametrize("text", ["", "é" * 100, "a\0b", "\udcff", "x" * 10_000])
def test_any_text(text):
    phase(text)
    with watchdog(WORLD, 30):
        phase(text)


@pytest.mark.parametrize("nodes", [None, 2, 8])
def test_leaves_nothing(nodes, shared_tmp_path, monkeypatch):
    """No file, thread, descriptor or signal handler: neither afterwards nor, on one node, a file while it runs."""
    monkeypatch.setenv("MPIHPC_HEARTBEAT_DIR", str(shared_tmp_path))
    node = None if nodes is None else WORLD.rank % nodes

    def mine():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), _core.watchdog_signal()

    with watchdog(WORLD, 30, node=node):
        pass
    before = mine()
    for _ in range(3):
        with watchdog(WORLD, 30, node=node):
            WORLD.Barrier()
            several = WORLD.size > 1 and nodes is not None
            assert len(list(shared_tmp_path.iterdir())) == several
            assert mine() != before
            time.sleep(0.1)
        WORLD.Barrier()
        assert mine() == before
        assert list(shared_tmp_path.iterdir()) == []


def test_inside_another_one():
    with watchdog(WORLD, 30):
        signal = _core.watchdog_signal()
        with watchdog(WORLD, 0.1):
            time.sleep(0.3)
        assert _core.watchdog_signal() == signal


def test_limit_of_rank_0_counts():
    with watchdog(WORLD, 30 if WORLD.rank == 0 else 0.1):
        time.sleep(0.3)


def test_an_error_goes_through():
    signal = _core.watchdog_signal()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^wrong$"), watchdog(WORLD, 30):
            raise ValueError("wrong")
    assert _core.watchdog_signal() == signal


def test_no_room_for_the_heartbeat(monkeypatch):
    """All ranks say so, and the next one works."""
    monkeypatch.setenv("MPIHPC_HEARTBEAT_DIR", "/nowhere")
    if WORLD.size > 1:
        with pytest.raises(OSError, match="/nowhere"), watchdog(WORLD, 30):
            pass
    monkeypatch.delenv("MPIHPC_HEARTBEAT_DIR")
    with watchdog(WORLD, 30):
        tick()


def test_a_forked_child_stops_nothing():
    """It has no such threads."""
    with watchdog(WORLD, 30):
        child = os.fork()
        if child == 0:
            _core.watchdog_stop()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
