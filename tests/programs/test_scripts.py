"""Plain scripts: however one rank ends, the others do not wait for ever; and all together end as they always did."""

import time

import pytest

START = """
import argparse, atexit, os, signal, sys, threading, time
from mpi4py import MPI
import mpihpc
comm = MPI.COMM_WORLD
last = comm.rank == comm.size - 1
u = mpihpc.ones((6, 6))
"""
END = "\nprint('>', float(u.sum()), flush=True)\n"

# What the last rank does before the others wait for it; the exit code; what is said.
LEAVES = {
    "sys.exit": ("if last: sys.exit(3)", 3, "exited with code 3"),
    "raise": ("if last: raise SystemExit(4)", 4, "exited with code 4"),
    "exit": ("if last: exit(5)", 5, "exited with code 5"),
    "more than a byte": ("if last: sys.exit(-1)", 255, "exited with code 255"),
    "text": ("if last: sys.exit('no such thing')", 1, "no such thing"),
    "argparse": ("argparse.ArgumentParser().parse_args(['--bad'] if last else [])", 2, "unrecognized arguments: --bad"),
    "in a function of ours": ("mpihpc.fromfunction(lambda i, j: sys.exit(6) if last else i, (6, 6))", 6, "with code 6"),
    "through a finally": ("try:\n    if last: sys.exit(7)\nfinally: pass", 7, "exited with code 7"),
    "beside a thread": (
        "threading.Thread(target=time.sleep, args=(60,)).start() if last else 0\nif last: sys.exit(8)",
        8,
        "exited with code 8",
    ),
    "others wait in MPI": ("if last: sys.exit(9)\ncomm.Barrier()", 9, "exited with code 9"),
    "others compute": ("if last: sys.exit(10)\ntime.sleep(60)", 10, "exited with code 10"),
    "interrupt": ("if last: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "was interrupted"),
}


def run(launch, tmp_path, n, text, **options):
    (tmp_path / "script.py").write_text(START + text + END)
    begin = time.monotonic()
    done = launch(n, "script.py", timeout=45, **options)
    assert time.monotonic() - begin < 25
    return done


@pytest.mark.parametrize("how", LEAVES)
def test_one_rank_leaves(launch, tmp_path, how):
    text, code, words = LEAVES[how]
    done = run(launch, tmp_path, 3, text)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert f"mpihpc: rank 2 of 3 {'was interrupted' if how == 'interrupt' else 'exited'}" in done.stderr
    assert done.stderr.count("mpihpc: rank") == 1
    assert ">" not in done.stdout


def test_one_rank_is_done_and_others_wait_for_it(launch, tmp_path):
    done = run(launch, tmp_path, 3, "if last: sys.exit(0)")
    assert done.returncode != 0
    assert done.stderr.count("mpihpc: rank") == 1
    assert "mpihpc: rank 2 of 3 has ended, but rank 0 waits for it here" in done.stderr
    assert "u.sum()" in done.stderr


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("u.sum(); sys.exit(0)", 0),
        ("u.sum(); sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('all say this')", 1),
        ("time.sleep(0.5 * comm.rank); sys.exit(3)", 3),
    ],
)
def test_all_ranks_leave(launch, tmp_path, n, text, code):
    """As without the package: nobody is told anything."""
    done = run(launch, tmp_path, n, text)
    assert done.returncode == code, done.stderr
    assert "mpihpc:" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "try: sys.exit(3)\nexcept SystemExit as stop: assert stop.code == 3",
        "t = threading.Thread(target=lambda: sys.exit(3) if last else 0); t.start(); t.join()",
        "atexit.register(lambda: mpihpc.ones(5).sum())",
        "if last: time.sleep(5)",
        "if last and os.fork() == 0: os._exit(3)",
        "c = comm.Dup(); mpihpc.ones(5, comm=c).sum(); c.Free()",
        "c = comm.Split(last); mpihpc.ones(5, comm=c).sum()",
    ],
)
def test_what_is_no_exit(launch, tmp_path, text):
    done = run(launch, tmp_path, 3, text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("36.0") == 3  # lines of ranks may run into each other
    assert "mpihpc:" not in done.stderr


def test_a_rank_that_goes_on_alone(launch, tmp_path):
    """The others are through, and wait at the end."""
    (tmp_path / "script.py").write_text(START + "u.sum()\nif last:\n    time.sleep(5)\n    print('> done')\n")
    done = launch(3, "script.py")
    assert (done.returncode, done.stdout.split()) == (0, [">", "done"])


def test_under_mpi4py(launch, tmp_path):
    (tmp_path / "script.py").write_text(START + "if last: sys.exit(3)" + END)
    assert launch(3, "-m", "mpi4py", "script.py", timeout=30).returncode == 3


WRITES = "import mpihpc\nmpihpc.io.write('alone.h5', mpihpc.zeros((4, 4)))\n"
ALONE = {"OMPI_COMM_WORLD_SIZE": None, "OMPI_COMM_WORLD_RANK": None, "PMI_SIZE": None, "PMI_RANK": None}


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("names", [("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")])
def test_launcher_of_another_mpi(launch, tmp_path, names, rank):
    (tmp_path / "script.py").write_text(WRITES)
    env = ALONE | {names[0]: "2", names[1]: str(rank), "PYTHONWARNINGS": "ignore::RuntimeWarning"}
    done = launch(0, "script.py", env=env)
    assert done.returncode == 2
    assert [p.name for p in tmp_path.iterdir()] == ["script.py"]
    assert len(done.lines) == (rank == 0)
    assert all("the launcher started 2 ranks" in line for line in done.lines)


def test_one_process_in_an_allocation(launch, tmp_path):
    (tmp_path / "script.py").write_text(WRITES)
    assert launch(0, "script.py", env={"SLURM_NTASKS": "4"}).returncode == 0
    assert (tmp_path / "alone.h5").exists()


@pytest.mark.parametrize("n", [1, 3])
def test_time_limit(launch, tmp_path, n):
    done = run(launch, tmp_path, n, "if comm.rank == 0: time.sleep(1000)", env={"MPIHPC_TIMEOUT": "3"})
    assert done.returncode != 0
    for rank in range(n):
        assert f"rank {rank}" in done.stderr
    assert "script.py" in done.stderr


def test_time_limit_that_is_kept(launch, tmp_path):
    """Every collective call is progress, whichever rank makes it."""
    text = "for _ in range(6):\n    time.sleep(1)\n    u.sum()"
    done = run(launch, tmp_path, 3, text, env={"MPIHPC_TIMEOUT": "3"})
    assert (done.returncode, done.stdout.count("36.0")) == (0, 3)


def test_time_limit_of_nonsense(launch, tmp_path):
    done = run(launch, tmp_path, 3, "", env={"MPIHPC_TIMEOUT": "soon"})
    assert done.returncode == 1
    assert done.stderr.count("MPIHPC_TIMEOUT soon is not a positive number of seconds") == 1
