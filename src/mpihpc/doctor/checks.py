"""What a rank sees of its environment, and what the facts of all ranks say together.

An instrument looks at one thing, on every rank by itself. A check gets the facts of all ranks and yields findings.
Neither communicates, so one that fails is a finding too, and holds nobody up.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mpi4py
import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_info

from mpihpc._version import __version__
from mpihpc.core.decomposition import ranks_text
from mpihpc.core.launch import LaunchError, check_launch
from mpihpc.doctor.findings import Facts, Finding, each, ranges, ranks_word
from mpihpc.doctor.gpu import check_gpus, look_gpu
from mpihpc.kernels import cpu

_LIBMPI = re.compile(r"libmpi(ch|_abi|_(cray|gnu|intel|amd|aocc|nvidia)\w*)?(-[0-9a-f]{6,})?\.so[.\d]*")
_SAFE_HDF5 = (1, 14, 4)
_BUILD = "pip install --force-reinstall --no-cache-dir --no-binary"
_FOLDERS = {
    "nfs": (
        "warning",
        "NFS: MPI-IO needs file locks, which are slow, and missing on some servers",
        "parallel (scratch)",
    ),
    "tmpfs": ("warning", "memory (tmpfs): files use up memory of the ranks, and are lost on restart", "disk's"),
    "overlay": ("note", "a layer of the container: files are lost with it", "mounted"),
}
_SLURM = ("JOB_ID", "JOB_NODELIST", "NTASKS", "CPUS_PER_TASK", "MEM_PER_NODE", "MEM_PER_CPU", "MPI_TYPE", "CPU_BIND")


# --- instruments: one rank, no communication


def _library() -> str:
    first = MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0]
    return f"{' '.join(first.split())} (MPI {'.'.join(map(str, MPI.Get_version()))})"


def libmpi_files() -> list[str]:
    """The files of MPI libraries that are mapped into this process."""
    mapped = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(file for file in mapped if _LIBMPI.fullmatch(os.path.basename(file).removesuffix(" (deleted)")))


def launcher() -> str:
    """The mpirun beside the MPI library in use, or an empty text."""
    beside = [folder / "bin/mpirun" for file in libmpi_files() for folder in Path(file).parents]
    return next((str(file) for file in beside if file.exists()), "")


def _h5py() -> dict[str, Any]:
    import h5py

    return {"version": h5py.__version__, "hdf5": h5py.version.hdf5_version, "parallel": bool(h5py.get_config().mpi)}


def _cgroup(controller: str, *names: str) -> Iterator[list[int]]:
    """The numbers in these files, in this process's control group and in those above it; limits only."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = Path("/sys/fs/cgroup", controller if controllers else "")
            inner = root / path.lstrip("/")
            for folder in (f for f in (inner, *inner.parents) if f.is_relative_to(root)):
                files = [folder / name for name in names]
                words = [word for file in files if file.is_file() for word in file.read_text().split()]
                if words and all(word.isdigit() for word in words):  # no limit is "max", or -1
                    yield [int(word) for word in words]


def _cpu_quota() -> float | None:
    """Cores that the control group grants, in time shares."""
    found = [*_cgroup("cpu", "cpu.max"), *_cgroup("cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return min((quota / period for quota, period in found), default=None)


def _meminfo(name: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _memory_limit() -> int | None:
    """Bytes that control group and ulimit leave to the job on this node, if less than the machine has."""
    limits = [*_cgroup("memory", "memory.max"), *_cgroup("memory", "memory.limit_in_bytes")]
    limits.append([resource.getrlimit(resource.RLIMIT_AS)[0]])
    return min((n for (n,) in limits if n != resource.RLIM_INFINITY and n < _meminfo("MemTotal")), default=None)


def memory_available() -> int:
    """Bytes that may still be taken on this node."""
    return min(_meminfo("MemAvailable"), _memory_limit() or sys.maxsize)


def _locked_memory() -> int | None:
    """The limit in bytes, where there is InfiniBand, which needs it, and a limit."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return limit if limit != resource.RLIM_INFINITY and os.path.isdir("/sys/class/infiniband") else None


def _file_system() -> str:
    """Type of the file system of the working folder."""
    folder, best, kind = Path.cwd(), 0, "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), left.split()[4])
        if folder.is_relative_to(point) and len(point) >= best:  # later mounts cover earlier ones
            best, kind = len(point), right.split()[0]
    return kind


def _gpus() -> list[str]:
    """NVIDIA's driver lists them here; nvidia-smi would be a fork, which some networks do not bear."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [re.sub(r"(?s).*Model:\s*(.*?)\n.*", r"\1", file.read_text()) for file in files]


def _blas() -> dict[str, int]:
    """Libraries, and the threads that each would start."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {f"{pool['internal_api']} {pool['version']}": pool["num_threads"] for pool in pools}


INSTRUMENTS: dict[str, Callable[[], Any]] = {
    "host": MPI.Get_processor_name,
    "mpi": _library,
    "libmpi": libmpi_files,
    "mpi4py": lambda: mpi4py.__version__,
    "mpihpc": lambda: __version__,
    "python": platform.python_version,
    "numpy": lambda: np.__version__,
    "h5py": _h5py,
    "cores": lambda: sorted(os.sched_getaffinity(0)),
    "machine_cores": os.cpu_count,
    "cpu_quota": _cpu_quota,
    "isa": cpu.isa,
    "openmp": cpu.has_openmp,
    "blas": _blas,
    "gpus": _gpus,
    "gpu": look_gpu,
    "memory_available": memory_available,
    "memory_limit": _memory_limit,
    "locked_memory": _locked_memory,
    "folder": os.getcwd,
    "file_system": _file_system,
    "free_bytes": lambda: shutil.disk_usage(".").free,
    "slurm": lambda: {name: os.environ[f"SLURM_{name}"] for name in _SLURM if f"SLURM_{name}" in os.environ},
}


def look(threads: int) -> Facts:
    """The facts of this rank. What an instrument could not see is None, and a finding under "problems"."""
    facts: Facts = {"threads": threads, "problems": []}
    for name, instrument in INSTRUMENTS.items():
        try:
            facts[name] = instrument()
        except ImportError as error:
            facts[name] = None
            fix = f"pip install {'' if isinstance(error, ModuleNotFoundError) else '--force-reinstall '}{name}"
            facts["problems"].append(Finding("broken", f"{name} cannot be imported: {error}", fix))
        except Exception as error:
            facts[name] = None
            facts["problems"].append(_defect(name, error))
    return facts


def _defect(name: str, error: Exception) -> Finding:
    return Finding("broken", f"{name} failed: {type(error).__name__}: {error}", "report this line as a bug")


# --- checks: the facts of all ranks, no communication


def check_mpi(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """One MPI library per process, and a launcher that belongs to it."""
    own, found = launcher(), shutil.which("mpirun")
    try:
        check_launch()
    except LaunchError as error:
        yield Finding("broken", str(error), f"start with {own or 'its own mpirun'}, or srun --mpi=pmix")
    for files, who in each(ranks, "libmpi"):
        if len(files) > 1:
            what = f"{len(files)} MPI libraries in one process{who}: {', '.join(files)}"
            yield Finding("broken", what, f"MPICC=mpicc CC=mpicc HDF5_MPI=ON {_BUILD}=mpi4py,h5py mpi4py h5py")
    if len(ranks) == 1 and own and found and os.path.realpath(own) != os.path.realpath(found):
        yield Finding("note", f"the mpirun on PATH ({found}) is not that of this MPI library", f"start with {own}")


def check_versions(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """The same software on all ranks."""
    for name in ("mpi", "mpihpc", "mpi4py", "python", "numpy", "h5py"):
        values = [f"{value}{who}" for value, who in each(ranks, name)]
        if len(values) > 1:
            level = "broken" if name in ("mpi", "mpihpc") else "warning"
            fix = "use one environment, in a folder that all nodes see"
            yield Finding(level, f"ranks differ in {name}: {', '.join(values)}", fix)


def check_cores(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """Each thread has a core: on the node, in the control group, and where its rank is bound."""
    for host in dict.fromkeys(facts["host"] for facts in ranks):
        here = {rank: facts for rank, facts in enumerate(ranks) if facts["host"] == host}
        first = next(iter(here.values()))
        cores, machine = set().union(*(facts["cores"] for facts in here.values())), first["machine_cores"]
        quota = first["cpu_quota"] or len(cores)
        room, threads = max(1, int(min(quota, len(cores)))), sum(facts["threads"] for facts in here.values())
        load: Counter[tuple[int, ...]] = Counter()
        for facts in here.values():
            load[tuple(facts["cores"])] += facts["threads"]
        crowded = [rank for rank, facts in here.items() if load[tuple(facts["cores"])] > len(facts["cores"])]
        job = f"{host}: {ranks_text(len(here))} with {threads} threads in all"
        if threads > room and (quota < len(cores) or len(cores) == machine):
            why = f" (CPU quota of the control group: {quota:g})" if quota < len(cores) else ""
            fix = f"OMP_NUM_THREADS={max(1, room // len(here))}"
            fix += f", and at most {ranks_text(room)} on this node" if len(here) > room else ""
            yield Finding("warning", f"{job} on {room} of {machine} cores{why}: threads compete for cores", fix)
        elif crowded:
            tight = ranges({core for rank in crowded for core in here[rank]["cores"]})
            bound = f"{ranks_word(ranges(crowded))} bound to cores {tight} of {machine}"
            fix = "mpirun --bind-to none, or srun --cpus-per-task=THREADS --cpu-bind=cores"
            yield Finding("warning", f"{job}, {bound}: threads share a core", fix)
        elif len(cores) < machine:
            fix = "to use the other cores, if they are yours: mpirun --bind-to none, or srun --cpus-per-task=THREADS"
            yield Finding("note", f"{host}: the job may use {len(cores)} of {machine} cores ({ranges(cores)})", fix)
        elif quota < len(cores):
            yield Finding("note", f"{host}: the control group grants {quota:g} of {len(cores)} cores")


def check_kernels(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """The compiled part has threads, and BLAS not too many."""
    for openmp, who in each(ranks, "openmp"):
        if not openmp:
            fix = f"install a compiler with OpenMP, then {_BUILD}=mpihpc --no-deps mpihpc"
            yield Finding("warning", f"compiled without OpenMP{who}: one compute thread per rank", fix)
    blas = max((n for facts in ranks for n in facts["blas"].values()), default=0)
    own = min(facts["threads"] for facts in ranks)
    if len(ranks) > 1 and blas > own:
        what = f"BLAS may start {blas} threads on a rank that has {own}; mpihpc's programs cap it, scripts do not"
        yield Finding("note", what, f"export OPENBLAS_NUM_THREADS={own} (or MKL_NUM_THREADS)")


def check_hdf5(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """HDF5 is safe; what a serial h5py means."""
    for found, who in each(ranks, "h5py"):
        # CVE-2024-29157 to -33877 and CVE-2026-26200 among others.
        if tuple(int(n) for n in re.findall(r"\d+", found["hdf5"])[:3]) < _SAFE_HDF5:
            parallel = f"HDF5_DIR=/path/to/newer/parallel/hdf5 HDF5_MPI=ON CC=mpicc {_BUILD}=h5py h5py"
            yield Finding(
                "warning",
                f"HDF5 {found['hdf5']}{who} has security holes, closed in 1.14.4: do not open untrusted files",
                parallel if found["parallel"] else "pip install --upgrade h5py",
            )
        if len(ranks) > 1 and not found["parallel"]:
            yield Finding(
                "note", f"h5py is serial{who}: files are written through MPI-IO, compressed ones by one rank at a time"
            )


def check_room(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """The working folder is a place for results, and the ranks have memory."""
    for kind, who in each(ranks, "file_system"):
        name = "nfs" if kind.startswith("nfs") else kind
        if name in _FOLDERS:
            level, what, better = _FOLDERS[name]
            yield Finding(level, f"the working folder{who} is {what}", f"cd to a folder on a {better} file system")
    free = min(facts["free_bytes"] for facts in ranks)
    if free < 1e9:
        yield Finding("warning", f"{free / 1e6:.0f} MB are free in the working folder", "make room, or cd elsewhere")
    for limit, who in each(ranks, "memory_limit"):
        yield Finding("note", f"memory is limited to {limit / 1e9:.3g} GB by the control group or ulimit{who}")
    for limit, who in each(ranks, "locked_memory"):
        what = f"InfiniBand, and only {limit / 1e3:.0f} kB may be locked{who}: messages are slow or fail"
        yield Finding("warning", what, "ulimit -l unlimited (in /etc/security/limits.conf, or the Slurm unit)")


def check_slurm(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """Ranks have the cores that were asked for."""
    wanted, least = int(ranks[0]["slurm"].get("CPUS_PER_TASK", 1)), min(len(facts["cores"]) for facts in ranks)
    if least < wanted:
        what = f"{wanted} cores per task were asked for, a rank has {least}: srun does not inherit it from sbatch"
        yield Finding("warning", what, "srun --cpus-per-task=$SLURM_CPUS_PER_TASK")


CHECKS = (check_mpi, check_versions, check_cores, check_kernels, check_gpus, check_hdf5, check_room, check_slurm)


def judge(ranks: Sequence[Facts]) -> list[Finding]:
    """What all checks find, and what could not be seen."""
    problems: list[list[Finding]] = [facts["problems"] for facts in ranks]
    findings = []
    for problem in dict.fromkeys(problem for mine in problems for problem in mine):
        who = ranges(rank for rank, mine in enumerate(problems) if problem in mine)
        findings.append(Finding(problem.level, f"{ranks_word(who)}: {problem.what}", problem.fix))
    for check in CHECKS:
        try:
            findings += check(ranks)
        except Exception as error:
            if not any(problems):  # else it fails for what could not be seen
                findings.append(_defect(check.__name__, error))
    return findings
