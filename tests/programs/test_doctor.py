"""The doctor: fit environments are called fit, and each illness is found and comes with what helps."""

import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpihpc.doctor.checks import judge, look
from mpihpc.doctor.findings import LEVELS, Finding, grouped, ranges
from mpihpc.doctor.gpu import attempt, gpu_map, prove, show_gpus
from suite import mpirun

TESTS = Path(__file__).resolve().parent.parent
DOCTOR = ("-m", "mpihpc.doctor")
CORES = len(os.sched_getaffinity(0))
FACTS = {
    "mpi": str,
    "libmpi": list,
    "mpi4py": str,
    "mpihpc": str,
    "python": str,
    "numpy": str,
    "h5py": dict,
    "cores": list,
    "machine_cores": int,
    "isa": str,
    "openmp": bool,
    "blas": dict,
    "gpus": list,
    "gpu": dict,
    "memory_available": int,
    "folder": str,
    "file_system": str,
    "free_bytes": int,
    "slurm": dict,
    "threads": int,
    "ring": int,
    "file": int,
    "copy": float,
}
OLD_HDF5 = h5py.version.hdf5_version_tuple < (1, 14, 4)


def report(done, code=0):
    """The JSON line, whole and alone; every ill comes with what helps."""
    assert done.returncode == code, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert set(result) == {"level", "facts", "findings"}
    assert all(f["fix"] for f in result["findings"] if f["level"] in ("warning", "broken"))
    assert result["level"] == max((f["level"] for f in result["findings"]), key=LEVELS.index)
    return result


def said(result, level, *words):
    """Whether there is a finding of this level with these words."""
    return any(f["level"] == level and all(w in f["what"] + f["fix"] for w in words) for f in result["findings"])


# --- the program


@pytest.mark.parametrize("n", [1, 3, 8])
def test_fit(launch, tmp_path, n):
    done = launch(n, *DOCTOR, "--json")
    result = report(done)
    assert done.lines == []
    facts = result["facts"]
    known = facts | {name: next(iter(values.values())) for name, values in facts["differing"].items()}
    for name, kind in FACTS.items():
        assert isinstance(known[name], kind), name
    assert facts["ranks"] == n and list(facts["nodes"].values()) == [n]
    assert facts["folder"] == str(tmp_path)
    assert facts["h5py"]["parallel"] == h5py.get_config().mpi
    assert len(facts["libmpi"]) == 1
    for words in ("around a ring", "HDF5 file", "GB/s", "no GPU: " if facts["gpu"]["why_not"] else "direct"):
        assert said(result, "ok", words)
    assert said(result, "warning", "security holes", h5py.version.hdf5_version) == OLD_HDF5
    assert not said(result, "broken")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [0, 3])
def test_report_for_a_reader(launch, tmp_path, n):
    """Without mpirun too. A short table, then the findings, the worst last."""
    done = launch(n, *DOCTOR)
    assert done.returncode == 0 and done.lines == []
    table, findings = done.stdout.split("\n\n")
    assert [line.split()[0] for line in table.splitlines()][:3] == ["MPI", "ranks", "cores"]
    levels = [line.split()[0] for line in findings.splitlines() if not line.startswith(" ")]
    assert levels == sorted(levels, key=LEVELS.index)
    assert max(map(len, table.splitlines())) < 200
    assert list(tmp_path.iterdir()) == []


def test_too_many_threads(launch):
    result = report(launch(8, *DOCTOR, "--json", env={"OMP_NUM_THREADS": str(CORES)}))
    assert said(result, "warning", f"8 ranks with {8 * CORES} threads in all")
    result = report(launch(1, *DOCTOR, "--json", "--threads", 2 * CORES))
    assert said(result, "warning", f"1 rank with {2 * CORES} threads in all")


@pytest.mark.parametrize("n", [1, 3])
def test_folder_that_may_not_be_written(launch, tmp_path, n):
    tmp_path.chmod(0o555)
    try:
        done = launch(n, *DOCTOR, "--json", unprivileged=True)
    finally:
        tmp_path.chmod(0o755)
    assert said(report(done, code=1), "broken", "file:", "Permission denied", "cd to a folder")
    assert done.lines == ["mpihpc.doctor: error: 1 broken, see the report"]


def test_launcher_of_another_library(launch):
    """Every process is alone, and only the first one speaks."""
    start = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}
    done = launch(0, *DOCTOR, "--json", env=start)
    assert said(report(done, code=1), "broken", "the launcher started 4 ranks", "start with")
    done = launch(0, *DOCTOR, env=start | {"OMPI_COMM_WORLD_RANK": "1"})
    assert (done.returncode, done.stdout) == (1, "")


def test_several_mpi_libraries(launch, tmp_path):
    """A library of that name, mapped beside the real one."""
    intruder = tmp_path / "libmpi.so.12"
    intruder.write_bytes(bytes(4096))
    source = (
        "import mmap, runpy, sys; file = open('libmpi.so.12', 'r+b'); from mpi4py import MPI; "
        "held = mmap.mmap(file.fileno(), 0) if MPI.COMM_WORLD.rank == 1 else None; sys.argv[1:] = ['--json']; "
        "runpy.run_module('mpihpc.doctor', run_name='__main__', alter_sys=True)"
    )
    result = report(launch(3, "-c", source), code=1)
    assert said(result, "broken", "2 MPI libraries in one process (rank 1)", str(intruder), "--no-binary")
    assert set(result["facts"]["differing"]["libmpi"]) == {"0,2", "1"}


def test_h5py_missing_on_one_rank(launch):
    source = (
        "import mpihpc.programs.config, runpy, sys; from mpi4py import MPI; sys.argv[1:] = ['--json']; "
        "sys.modules.update({'h5py': None} if MPI.COMM_WORLD.rank == 1 else {}); "
        "runpy.run_module('mpihpc.doctor', run_name='__main__', alter_sys=True)"
    )
    done = launch(3, "-c", source)
    result = report(done, code=1)
    assert said(result, "broken", "rank 1: h5py cannot be imported", "pip install h5py")
    assert sum(f["level"] == "broken" for f in result["findings"]) == 1
    assert done.lines == ["mpihpc.doctor: error: 1 broken, see the report"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--larg"], "--large"),
        (["--threads", "0"], "threads 0"),
        (["--threads", "x"], "integer"),
        (["--large"], "2 ranks"),
    ],
)
def test_bad_arguments(launch, arguments, says):
    done = launch(1, *DOCTOR, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.lines) == 1 and says in done.lines[0]


def memory_available():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def test_large(launch):
    if memory_available() < 6e9:
        pytest.skip(f"needs 6 GB of memory, {memory_available() / 1e9:.1f} are free")
    result = report(launch(2, *DOCTOR, "--json", "--large", timeout=110))
    assert result["facts"]["large"]["bytes"] > 2**31
    assert result["facts"]["large"]["GBps"] > 0
    assert said(result, "ok", "2,148,532,224 bytes to rank 1", "GB/s")


def test_large_with_little_memory(launch):
    source = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)); "
        "sys.argv[1:] = ['--large']; runpy.run_module('mpihpc.doctor', run_name='__main__', alter_sys=True)"
    )
    done = launch(2, "-c", source)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.lines) == 1 and "--large needs 5.4 GB per node, 4.3 GB are free" in done.lines[0]


# --- the checks, on facts as other machines would have them


def gpus(*buses, **more):
    """What a rank sees that has GPUs."""
    seen = {"why_not": "", "visible": None, "mpi_says_direct": False, "buses": list(buses)}
    seen |= {"devices": ["NVIDIA H200"] * len(buses), "cupy": "14.2.0", "driver": "CUDA 13.0", "runtime": "CUDA 12.9"}
    return seen | more


@pytest.fixture
def healthy():
    """The facts of four ranks on two nodes of four cores."""
    facts = look(threads=2) | {
        "machine_cores": 4,
        "cpu_quota": None,
        "file_system": "lustre",
        "free_bytes": 10**12,
        "memory_limit": None,
        "locked_memory": None,
        "blas": {"openblas": 1},
        "gpus": [],
        "gpu": {"why_not": "no CuPy", "visible": None, "mpi_says_direct": False},
        "slurm": {},
        "h5py": {"version": "3.16.0", "hdf5": "2.0.0", "parallel": True},
        "libmpi": ["/usr/lib/libmpi.so.40"],
        "problems": [],
    }
    return [facts | {"host": host, "cores": cores} for host in ("a", "b") for cores in ([0, 1], [2, 3])]


def ill(healthy, ranks=range(4), **changes):
    """What is found when these facts of these ranks change."""
    return judge([facts | changes if rank in ranks else facts for rank, facts in enumerate(healthy)])


def test_healthy(healthy):
    assert judge(healthy) == []


@pytest.mark.parametrize(
    "level, what, ranks, changes",
    [
        ("broken", ", 0.0.9 (rank 2)", [2], {"mpihpc": "0.0.9"}),
        ("broken", "ranks differ in mpi", [0, 1], {"mpi": "MPICH Version: 4.3.0"}),
        ("warning", "ranks differ in numpy", [1, 3], {"numpy": "2.0.0"}),
        ("warning", "a: 2 ranks with 16 threads in all on 4 of 4 cores", [0, 1], {"threads": 8}),
        ("warning", "b: 2 ranks with 4 threads in all, ranks 2-3 bound to cores 0 of 4", [2, 3], {"cores": [0]}),
        ("warning", "a: 2 ranks with 4 threads in all on 3 of 4 cores (CPU quota", [0, 1], {"cpu_quota": 3.5}),
        ("note", "grants 2.5 of 4 cores", range(4), {"cpu_quota": 2.5, "threads": 1}),
        ("note", "the job may use 4 of 64 cores (0-3)", range(4), {"machine_cores": 64}),
        ("warning", "a rank has 2", range(4), {"slurm": {"CPUS_PER_TASK": "4"}}),
        ("warning", "compiled without OpenMP (rank 3)", [3], {"openmp": False}),
        ("note", "BLAS may start 64 threads", range(4), {"blas": {"mkl": 64}}),
        ("note", "2 x NVIDIA H200 (ranks 0-1) not used: no CuPy", [0, 1], {"gpus": ["NVIDIA H200"] * 2}),
        ("warning", "ranks 1-3 have no GPU (no CuPy): the job runs on CPUs", [0], {"gpu": gpus("a")}),
        ("note", "2 ranks share gpu 0 of a (NVIDIA H200, a0)", range(4), {"gpu": gpus("a0")}),
        ("warning", "HDF5 1.14.3", range(4), {"h5py": {"version": "3.12", "hdf5": "1.14.3", "parallel": True}}),
        ("note", "h5py is serial", range(4), {"h5py": {"version": "3.16", "hdf5": "1.14.4", "parallel": False}}),
        ("warning", "NFS", range(4), {"file_system": "nfs4"}),
        ("warning", "tmpfs", range(4), {"file_system": "tmpfs"}),
        ("warning", "5 MB are free", [3], {"free_bytes": 5_000_000}),
        ("note", "memory is limited to 4 GB", range(4), {"memory_limit": 4 * 10**9}),
        ("warning", "InfiniBand", range(4), {"locked_memory": 65536}),
        ("broken", "check_cores failed", [0], {"cores": 7}),
    ],
)
def test_illness(healthy, level, what, ranks, changes):
    (found, *others) = ill(healthy, ranks, **changes)
    assert found.level == level and what in found.what
    assert found.fix or level == "note"
    assert [f for f in others if f.level == "broken" and level != "broken"] == []


def test_gpu_map(healthy):
    """Ranks take the GPUs of their node in turn; one that sees no other takes that."""
    ranks = [facts | {"gpu": gpus("b0", "b1")} for facts in healthy]
    assert judge(ranks) == []
    where = ["gpu 0 of a (NVIDIA H200, b0)", "gpu 1 of a (NVIDIA H200, b1)"]
    assert gpu_map(ranks) == [*where, *(text.replace("of a", "of b") for text in where)]
    assert show_gpus(ranks)["GPU map"].startswith("rank 0: gpu 0 of a (NVIDIA H200, b0); rank 1: gpu 1 of a")
    bound = [facts | {"gpu": gpus(f"b{n % 2}")} for n, facts in enumerate(healthy)]
    assert gpu_map(bound)[:2] == [where[0], "gpu 0 of a (NVIDIA H200, b1)"]
    (found,) = judge(bound)
    assert "ranks of a node see different GPUs" in found.what and "--gpus-per-task" in found.fix
    assert gpu_map(healthy) == [None] * 4 and show_gpus(healthy) == {}


def test_whether_mpi_takes_device_memory(healthy, monkeypatch):
    """The verdicts; here no MPI can take such addresses, so what was tried has failed."""
    assert prove(healthy, "") == Finding("ok", "no GPU: no CuPy")
    ranks = [facts | {"gpu": gpus("b0")} for facts in healthy]
    assert "the MPI library does not report CUDA support" in prove(ranks, "").what
    ranks = [facts | {"gpu": gpus("b0", mpi_says_direct=True)} for facts in healthy]
    assert prove(ranks, "").level == "note" and "was not tried" in prove(ranks, "").what
    monkeypatch.setenv("MPIHPC_GPU_TRANSPORT", "direct")
    found = prove(ranks, mpirun())
    assert found.level == "broken" and "reports CUDA support, but it fails: its start" in found.what
    assert found.fix == "export MPIHPC_GPU_TRANSPORT=staged"
    monkeypatch.setenv("MPIHPC_GPU_TRANSPORT", "staged")
    monkeypatch.setattr("mpihpc.doctor.gpu.attempt", lambda *_: (["Isend", "done"], ""))
    assert prove(ranks, "mpirun") == Finding("ok", "direct works on a: Isend")


@pytest.mark.parametrize(
    "program, problem",
    [
        ("print('one'); print('done')", ""),
        ("print('one')", "one: exit code 0"),
        ("print('one', flush=True); import os; os.kill(os.getpid(), 11)", "one: exit code -11"),
        ("raise ValueError('other bytes')", "its start: ValueError: other bytes"),
        ("print('one', flush=True); import time; time.sleep(60)", "one: not finished after 1 s"),
    ],
)
def test_a_program_that_may_crash(program, problem):
    assert attempt([sys.executable, "-c", program], os.environ, 1)[1] == problem


def test_a_job_beside_a_job(launch, tmp_path):
    """A launcher that a rank starts does not take itself for a part of the rank's job."""
    (tmp_path / "inner.py").write_text(
        "from mpi4py import MPI\nif MPI.COMM_WORLD.rank == 0:\n    print(MPI.COMM_WORLD.size)\n    print('done')\n"
    )
    (tmp_path / "outer.py").write_text(
        "import os, sys\n"
        "from mpi4py import MPI\n"
        "from mpihpc.doctor.gpu import attempt, unlaunched\n"
        "if MPI.COMM_WORLD.rank == 0:\n"
        "    print(attempt([sys.argv[1], '-n', '2', sys.executable, 'inner.py'], unlaunched(os.environ), 30))\n"
        "MPI.COMM_WORLD.Barrier()\n"
    )
    done = launch(3, "outer.py", mpirun())
    assert done.stdout.strip() == "(['2', 'done'], '')", done.stdout + done.stderr


def test_the_ways_of_the_proof(launch):
    """They bring the right bytes, between arrays that let nobody but MPI see them."""
    source = (
        "import sys; sys.path.insert(0, sys.argv[1]); from mpi4py import MPI; from fake_device import FakeDevice; "
        "from mpihpc.doctor.exchange import exercise; said = list(exercise(MPI.COMM_WORLD, FakeDevice('direct'))); "
        "print(len(said), said[-1]) if MPI.COMM_WORLD.rank == 0 else None"
    )
    done = launch(2, "-c", source, TESTS)
    assert done.stdout.strip() == "5 done", done.stderr


def test_h5py_missing(healthy, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    seen = look(threads=2)
    assert seen["h5py"] is None
    (found,) = ill(healthy, [1], h5py=None, problems=seen["problems"])
    assert found.level == "broken" and found.what.startswith("rank 1: h5py cannot be imported")
    assert found.fix == "pip install h5py"


def test_instrument_that_fails(healthy, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: 1 / 0)
    problems = look(threads=2)["problems"]
    (found,) = ill(healthy, [0, 1], cores=None, problems=problems)
    assert found == Finding("broken", "ranks 0-1: cores failed: ZeroDivisionError: division by zero", found.fix)
    assert found.fix


def test_grouping():
    assert ranges([]) == "" and ranges([5, 0, 2, 1, 7, 8]) == "0-2,5,7-8"
    assert grouped([[0], [1], [0]]) == {"0,2": [0], "1": [1]}
    assert grouped(list(np.zeros(3))) == {"0-2": 0.0}
