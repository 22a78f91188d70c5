"""Measurements: programs that print what this machine does, beside what it could do at best."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing it starts MPI, and `launch` comes first
    from mpi4py import MPI

_LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS")

SINGLE_NODE = {  # Open MPI 4 reads the OMPI_ names, 5 the PRTE_ ones too; other MPIs ignore both
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",  # rank 0 works with threads on all cores while the others sleep
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


REST = 0.03
"""Seconds of sleep before each turn: threads of OpenMP go on turning for milliseconds after their last work."""


def launch(module: str, ranks: int) -> None:
    """Become ``mpirun -n ranks python -m module ...``, unless a launcher has started this process already.

    To be called before anything loads MPI. Returns only under a launcher.
    """
    if any(name in os.environ for name in _LAUNCHED):
        return
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        sys.exit(f"{module}: error: no mpirun beside {sys.executable} and none on PATH")
    command = [mpirun, "-n", str(ranks), sys.executable, "-m", module, *sys.argv[1:]]
    os.execve(mpirun, command, SINGLE_NODE | os.environ)


def machine() -> dict[str, object]:
    """What the numbers are measured on."""
    info = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def on_all(comm: MPI.Intracomm, work: Callable[[], object]) -> float:
    """Seconds that the slowest rank takes when all begin together. Collective."""
    time.sleep(REST)
    comm.Barrier()
    begin = time.perf_counter()
    work()
    return max(comm.allgather(time.perf_counter() - begin))


def on_first(comm: MPI.Intracomm, work: Callable[[], object]) -> float:
    """Seconds that rank 0 takes while the others sleep: a rank that waits inside MPI keeps its core busy.

    Collective.
    """
    time.sleep(REST)
    begin = time.perf_counter()
    if comm.rank == 0:
        work()
    seconds = time.perf_counter() - begin
    through = comm.Ibarrier()
    while not through.Test():
        time.sleep(0.01)
    return comm.bcast(seconds)
