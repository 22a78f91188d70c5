"""The watchdog: a job that does not get on ends in time and says why; one that does is left alone.

Each case is run by several jobs at once (MPIHPC_TEST_ROUNDS, default 4): a watchdog must be right each time, and on a
machine that is busy with other things.
"""

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest

ROUNDS = int(os.environ.get("MPIHPC_TEST_ROUNDS", 4))
AT_ONCE = 4
LIMIT = 1.5
MARGIN = 5.0  # seconds after the limit within which the job must be gone

# Ranks go through steps; in the fourth one of them does something that the others wait for.
SCRIPT = """
import os, re, signal, subprocess, sys, time
import h5py
import numpy as np
from mpi4py import MPI
from mpihpc import _core
from mpihpc.core.timeout import watchdog
from mpihpc.core.watchdog import phase, tick

comm = MPI.COMM_WORLD
what, limit, nodes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
odd = comm.rank == comm.size // 2
pids = comm.allgather(os.getpid())

def stopped():
    if nodes:  # what others know of a node that is gone is as old as its last heartbeat
        time.sleep(0.5 * limit)
    os.kill(os.getpid(), signal.SIGSTOP)

def python_loop():
    while True:
        pass

def loop_without_gil():
    _core.checksum(np.broadcast_to(np.float64(1), (1 << 14,) * 4), [0] * 4, [1 << 14] * 4)

def loop_with_gil():
    re.match("(a+)+$", "a" * 60 + "b")

def fifo():
    os.mkfifo("fifo")
    h5py.File("fifo", "r")

def never_opens():
    python_loop()

def late():
    for _ in range(5):
        time.sleep(0.7 * limit)
        tick()

def suspended():
    others = " ".join(map(str, pids))
    subprocess.Popen(["sh", "-c", f"kill -STOP {others}; sleep {2 * limit}; kill -CONT {others}"])
    time.sleep(0.3)

def finished():
    sys.exit("it left")

def wait(step):
    if what == "never_opens" and step == 3:
        with h5py.File("shared.h5", "w", driver="mpio", comm=comm):
            pass
    comm.Barrier()

def main():
    with watchdog(comm, limit, node=comm.rank % nodes if nodes else None):
        for step in range(5):
            if step == 3:
                time.sleep(0.5)
            phase(f"step {step}")
            if step == 3:
                os.write(1, f"stuck {time.monotonic()} {pids};".encode())
                if odd:
                    globals()[what]()
            wait(step)
            tick()

main()
print("through", flush=True)
"""

STUCK = ["stopped", "python_loop", "loop_without_gil", "loop_with_gil", "fifo"]
if h5py.get_config().mpi:
    STUCK.append("never_opens")


def alive(pid):
    """Whether a process of a test is still there."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and b"mpihpc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def jobs(launch, tmp_path, n, what, limit=LIMIT, nodes=0, rounds=ROUNDS, script=SCRIPT, env=None):
    """Run a case several times, a few at once; yields for each what it left and when it ended after the limit."""

    def one(number):
        folder = tmp_path / f"{what}-{number}"
        beat = folder / "beat"
        beat.mkdir(parents=True)
        beats = {"MPIHPC_HEARTBEAT_DIR": str(beat), **(env or {})}
        done = launch(n, "-c", script, what, limit, nodes, env=beats, cwd=folder)
        stuck = re.findall(r"stuck ([\d.]+) \[([\d, ]+)\];", done.stdout)  # one write each: ranks cannot mix them
        assert stuck, done.stdout + done.stderr
        begin = max(float(moment) for moment, _ in stuck)
        assert list(beat.iterdir()) == []
        pids = [int(pid) for pid in stuck[0][1].split(",")]
        while any(map(alive, pids)) and time.monotonic() < begin + limit + MARGIN:
            time.sleep(0.05)
        ended = time.monotonic()
        assert not any(map(alive, pids)), f"{pids} are still there\n{done.stderr}"
        return done, ended - begin - limit

    with ThreadPoolExecutor(AT_ONCE) as pool:
        late = []
        for done, seconds in pool.map(one, range(rounds)):
            late.append(seconds)
            yield done, seconds
    print(
        f"{what}, {n} ranks, {nodes or 1} nodes: {len(late)} jobs, {min(late):.1f} to {max(late):.1f} s after the limit"
    )


def stacks(text):
    """Rank -> the block that it printed."""
    blocks = re.split(r"^mpihpc: ", text.replace("\0", ""), flags=re.MULTILINE)
    return {int(b.split()[1]): b for b in blocks if re.match(r"rank \d+ of \d+ \(process ", b)}


def says_what(done, seconds, n, what, odd, silent=False):
    """Every rank that can has printed its stack, and the report names the one that the others wait for."""
    assert done.returncode != 0
    assert seconds < MARGIN, done.stderr
    text = done.stderr
    found = stacks(text)
    assert set(found) == set(range(n)) - ({odd} if silent else set()), text
    for rank, block in found.items():
        assert "phase 'step 3'" in block
        assert (f" in {what}" if rank == odd else " in wait") in block, text
    assert text.count("mpihpc: timeout: no rank got on for ") == 1
    accused = re.findall(
        r"^mpihpc: (ranks? [-\d, ]+) (is behind|are behind|does not respond|do not respond)", text, re.M
    )
    assert accused == [(f"rank {odd}", "does not respond" if silent else "is behind")], text
    (line,) = [line for line in text.splitlines() if re.match(rf"mpihpc: rank {odd} (is behind|does not)", line)]
    assert "phase 'step 3'" in line
    assert " wait: phase 'step 3', at " in text or " waits: phase 'step 3', at " in text


@pytest.mark.parametrize("what", STUCK)
def test_stuck(launch, tmp_path, what):
    for done, seconds in jobs(launch, tmp_path, 3, what):
        says_what(done, seconds, 3, what, odd=1, silent=what == "stopped")


def test_stuck_among_eight(launch, tmp_path):
    for done, seconds in jobs(launch, tmp_path, 8, "stopped", rounds=1):
        says_what(done, seconds, 8, "stopped", odd=4, silent=True)
        assert "ranks 0-3, 5-7 wait" in done.stderr


@pytest.mark.parametrize(("nodes", "what"), [(2, "stopped"), (2, "python_loop"), (3, "stopped")])
def test_stuck_on_several_nodes(launch, tmp_path, nodes, what):
    """Ranks that share no memory, only a folder."""
    for done, seconds in jobs(launch, tmp_path, 3, what, nodes=nodes, rounds=1):
        says_what(done, seconds, 3, what, odd=1, silent=what == "stopped")


@pytest.mark.parametrize("n", [0, 1])
def test_stuck_alone(launch, tmp_path, n):
    for done, seconds in jobs(launch, tmp_path, n, "loop_with_gil", rounds=1):
        assert done.returncode == 1
        assert seconds < MARGIN
        assert " in loop_with_gil" in stacks(done.stderr)[0]
        assert "mpihpc: timeout: " in done.stderr
        assert "mpihpc: rank 0: phase 'step 3', at " in done.stderr


def test_a_rank_that_has_left(launch, tmp_path):
    """It would wait for the others in MPI's end, and they for it."""
    for done, seconds in jobs(launch, tmp_path, 3, "finished", rounds=1):
        assert done.returncode != 0
        assert seconds < MARGIN
        assert set(stacks(done.stderr)) == {0, 2}
        assert "mpihpc: rank 1 has finished" in done.stderr


@pytest.mark.parametrize("nodes", [0, 2])
def test_late_but_alive(launch, tmp_path, nodes):
    """One rank ticks now and then, the others wait for it for three times the limit and more."""
    for done, seconds in jobs(launch, tmp_path, 3, "late", nodes=nodes, rounds=1 if nodes else ROUNDS):
        assert (done.returncode, done.lines) == (0, [])
        assert done.stdout.count("through") == 3
        assert seconds > 2 * LIMIT


def test_suspended_job(launch, tmp_path):
    """Nobody can get on while a batch system has stopped the whole job: that time does not count."""
    for done, _ in jobs(launch, tmp_path, 3, "suspended", rounds=1):
        assert (done.returncode, done.lines) == (0, [])
        assert done.stdout.count("through") == 3


def test_memory_of_the_system(launch, tmp_path):
    """Without a folder of one's own: nothing is left in /dev/shm, either."""

    def heartbeats():
        return set(Path("/dev/shm").glob(".mpihpc-heartbeat-*"))

    before = heartbeats()
    for done, seconds in jobs(launch, tmp_path, 3, "stopped", rounds=1, env={"MPIHPC_HEARTBEAT_DIR": None}):
        says_what(done, seconds, 3, "stopped", odd=1, silent=True)
    assert not heartbeats() - before


STENCIL = """
import runpy, sys, time, os
from mpi4py import MPI
from mpihpc.core.timeout import watchdog
from mpihpc.core.watchdog import phase
from mpihpc.kernels import cpu
calls, real, comm = 0, cpu.advance, MPI.COMM_WORLD
def sleeper(*args, **options):
    global calls
    calls += 1
    phase(f"step {calls}")
    real(*args, **options)
    if calls == 3:
        os.write(1, f"stuck {time.monotonic()} {pids};".encode())
    while calls == 3 and comm.rank == 1:
        pass
cpu.advance = sleeper
pids = comm.allgather(os.getpid())
limit = float(sys.argv[2])
sys.argv[:] = ["mpihpc.stencil", "--shape", "64", "64", "--quiet", "--fuse", "1", "--steps", "9", "--output", "out.h5"]
with watchdog(comm, limit):
    runpy.run_module("mpihpc.stencil", run_name="__main__", alter_sys=True)
"""


def test_stencil(launch, tmp_path):
    """A rank of the program whose kernel does not return: its neighbours wait in the halo exchange of a later step."""
    for done, seconds in jobs(launch, tmp_path, 3, "stencil", rounds=1, script=STENCIL):
        assert done.returncode != 0
        assert seconds < MARGIN
        found = stacks(done.stderr)
        assert set(found) == {0, 1, 2}
        assert " in sleeper" in found[1]
        assert "mpihpc: rank 1 is behind: phase 'step 3', at <string>:" in done.stderr
        for rank in (0, 2):
            assert "halo.py" in found[rank]
        assert not (tmp_path / "stencil-0" / "out.h5").exists()
