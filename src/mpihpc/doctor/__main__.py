"""The program: ``mpirun -n 8 mpihpc doctor``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mpi4py import MPI

from mpihpc import io
from mpihpc._version import __version__
from mpihpc.array.creation import fromfunction
from mpihpc.core.decomposition import ranks_text
from mpihpc.core.device import thread_count
from mpihpc.core.failure import VerificationError, agree, agreed
from mpihpc.core.launch import LaunchError, check_launch, is_first, mpi_active
from mpihpc.core.topology import Topology
from mpihpc.doctor.checks import judge, launcher, look, memory_available
from mpihpc.doctor.findings import LEVELS, Facts, Finding, grouped, ranges, ranks_word
from mpihpc.doctor.gpu import prove, show_gpus
from mpihpc.kernels import cpu
from mpihpc.programs.config import option, parse_config
from mpihpc.programs.frame import execute

EXAMPLES = """
examples:
  mpirun -n 8 python -m mpihpc.doctor
  srun -n 128 python -m mpihpc.doctor --json
  mpirun -n 2 python -m mpihpc.doctor --large

exit code: 0, 1 if something is broken, 2 for bad arguments
"""
_UNIT = 1 << 20  # MPI counts are C ints: a long message is counted in units of this many bytes
_LARGE = (1 << 31) // _UNIT + 1  # units: one more than 2 GiB
_COPIED = 1 << 27  # bytes per node, more than most caches hold
_BY_NODE = ("memory_available", "free_bytes")  # never the same twice: the least is told


@dataclass(frozen=True)
class Config:
    """What to look at; the fields are the flags of the command line."""

    threads: int | None = option(
        None, "per rank (default: OMP_NUM_THREADS, or its share of the cores)", type=int, metavar="N"
    )
    large: bool = option(False, "also send more than 2 GiB from the first rank to the last; needs 5 GB of memory")
    json: bool = option(False, "one line of JSON instead of the report")


@dataclass(frozen=True)
class Result:
    """What was found; the fields are those of the ``--json`` line.

    `level` is the worst of the findings'. A fact that differs between ranks is under ``facts["differing"]``, as a
    dictionary of ranks ("0-3,7") and values.
    """

    level: str
    facts: dict[str, Any]
    findings: list[Finding]


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    return parse_config(
        Config,
        argv,
        prog="mpihpc.doctor",
        description="Check whether this environment suits mpihpc, and say what to change.",
        epilog=EXAMPLES,
        version=f"mpihpc {__version__}",
    )


def run(comm: MPI.Intracomm, config: Config, *, alone: bool = False) -> Result:
    """Look, try, and report. Collective; the result is the same on all ranks.

    `alone`: the launcher started other processes of which MPI does not know. There is nothing to try then.

    Raises
    ------
    ValueError, MemoryError
        Bad arguments, on all ranks. Whatever else is wrong is a finding.
    """
    topology = Topology(comm) if alone else Topology.of(comm)
    with agree(topology.private):
        threads = thread_count(topology.cores, config.threads)
    ranks: list[Facts] = topology.private.allgather(look(threads))
    if config.large:
        _require_large(topology.private, ranks)
    findings, measured = judge(ranks), {}
    trials = [
        (_ring, "test the network, and whether all nodes use one MPI library"),
        (_file, "cd to a folder that all nodes see, where you may write and where there is room"),
        (_copy, "start fewer ranks on a node, or ask for more memory"),
        (_large, "use another version of MPI"),
    ]
    if not config.large:
        trials.pop()
    if any(facts["h5py"] is None for facts in ranks):
        trials.pop(1)  # that it is missing is a finding already
    if alone:
        trials.clear()
    for trial, fix in trials:
        name = trial.__name__[1:]
        try:
            said, measured[name] = trial(topology, ranks)
            findings.append(Finding("ok", said))
        except Exception as error:
            if comm.size > 1 and not agreed(error):
                raise  # the others may wait for this rank: the job ends
            findings.append(Finding("broken", f"{name}: {error}", fix))
    with agree(topology.private, root=0):
        proof = prove(ranks, launcher()) if comm.rank == 0 else None
    findings.append(topology.private.bcast(proof, root=0))
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    result = Result(findings[-1].level, _merged(ranks) | measured, findings)
    if comm.rank == 0:
        print(json.dumps(asdict(result)) if config.json else _report(result, show_gpus(ranks)), flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    try:
        if mpi_active():
            check_launch()
    except LaunchError:  # every process is alone: the first one reports
        if is_first():
            run(MPI.COMM_SELF, parse_args(argv), alone=True)
        return 1
    return execute("mpihpc.doctor", parse_args, _verdict, argv)


def _verdict(comm: MPI.Intracomm, config: Config) -> None:
    broken = sum(finding.level == "broken" for finding in run(comm, config).findings)
    with agree(comm):
        if broken:
            raise VerificationError(f"{broken} broken, see the report")


# --- trials: collective. An error is raised on all ranks; else what to say, and a figure


def _ring(topology: Topology, ranks: Sequence[Facts]) -> tuple[str, int]:
    """Every rank sends to the next: in one packet, and in many."""
    comm = topology.private
    with agree(comm):
        mine = np.arange(1 << 19) * comm.size + comm.rank
        got = np.zeros_like(mine)
    before, after = (comm.rank - 1) % comm.size, (comm.rank + 1) % comm.size
    for count in (1, 1000, mine.size):
        comm.Sendrecv(mine[:count], after, recvbuf=got[:count], source=before)
        with agree(comm):
            if not np.array_equal(got[:count], mine[:count] - comm.rank + before):
                raise VerificationError(f"{got[:count].nbytes} bytes from rank {before} arrived with wrong values")
    return f"{ranks_text(comm.size)} sent {mine.nbytes:,} bytes around a ring, all values correct", mine.nbytes


def _file(topology: Topology, ranks: Sequence[Facts]) -> tuple[str, int]:
    """Write and read a small file, each rank its part."""
    comm = topology.private
    u = fromfunction(lambda i, j: 100.0 * i + j, (1000, 100), comm=topology.comm)
    folder: str | None = None
    try:
        with agree(comm, root=0):
            if comm.rank == 0:
                folder = tempfile.mkdtemp(prefix=".mpihpc-doctor-", dir=".")
        there = comm.bcast(folder, root=0)
        with agree(comm):
            if not os.path.isdir(there):
                raise OSError(f"the working folder {os.getcwd()} is not that of rank 0")
        io.write(f"{there}/data.h5", u)
        back = io.read(f"{there}/data.h5", comm=topology.comm)
        with agree(comm):
            if not np.array_equal(back.local, u.local):
                raise VerificationError("the values read from a file differ from those written")
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    return f"{ranks_text(comm.size)} wrote and read an HDF5 file, all values correct", u.nbytes


def _copy(topology: Topology, ranks: Sequence[Facts]) -> tuple[str, float]:
    """All ranks copy at once: GB/s of a node's memory, of the slowest if there are several."""
    comm = topology.private
    sharers = sum(facts["host"] == ranks[comm.rank]["host"] for facts in ranks)
    with agree(comm):
        source = np.zeros(_COPIED // sharers // 8 + 1)
        target = np.ones_like(source)
    seconds = []
    for _ in range(3):
        comm.Barrier()
        begin = time.perf_counter()
        cpu.copy(source, target, ranks[comm.rank]["threads"])
        comm.Barrier()
        seconds.append(time.perf_counter() - begin)
    rate: float = comm.allreduce(2 * _COPIED / min(seconds) / 1e9, op=MPI.MIN)
    return f"a node copies {_COPIED >> 20} MiB at {rate:.3g} GB/s, read and written", rate


def _require_large(comm: MPI.Intracomm, ranks: Sequence[Facts]) -> None:
    with agree(comm):
        if comm.size < 2:
            raise ValueError("--large sends from one rank to another: it needs 2 ranks, the job has 1")
        need = _LARGE * _UNIT * 5 // 4 * (2 if ranks[0]["host"] == ranks[-1]["host"] else 1)
        if comm.rank in (0, comm.size - 1) and (free := memory_available()) < need:
            raise MemoryError(f"--large needs {need / 1e9:.1f} GB per node, {free / 1e9:.1f} GB are free")


def _large(topology: Topology, ranks: Sequence[Facts]) -> tuple[str, dict[str, float]]:
    """One message of more bytes than an int counts, from the first rank to the last."""
    comm = topology.private
    first, last, nbytes = comm.rank == 0, comm.rank == comm.size - 1, _LARGE * _UNIT
    with agree(comm):
        data = np.zeros(nbytes // 8 if first or last else 0)
        data += 1  # the memory is taken now, not while the message is timed
        if first:
            for at in range(0, data.size, _UNIT):
                data[at : at + _UNIT] = np.arange(at, min(data.size, at + _UNIT))
    unit = MPI.BYTE.Create_contiguous(_UNIT).Commit()
    comm.Barrier()
    begin = time.perf_counter()
    if first:
        comm.Send([data, _LARGE, unit], comm.size - 1)
    elif last:
        comm.Recv([data, _LARGE, unit], 0)
    rate: float = comm.bcast(nbytes / (time.perf_counter() - begin) / 1e9, root=comm.size - 1)
    unit.Free()
    sums = comm.allgather(cpu.checksum(data, (0,), data.shape))
    with agree(comm):
        if sums[0] != sums[-1]:
            raise VerificationError(f"{nbytes} bytes from rank 0 arrived with wrong values")
    said = f"rank 0 sent {nbytes:,} bytes to rank {comm.size - 1} at {rate:.3g} GB/s, all values correct"
    return said, {"bytes": nbytes, "GBps": rate}


# --- words


def _merged(ranks: Sequence[Facts]) -> dict[str, Any]:
    """The facts of all ranks in one."""
    hosts = [facts["host"] for facts in ranks]
    merged: dict[str, Any] = {"ranks": len(ranks), "nodes": {host: hosts.count(host) for host in dict.fromkeys(hosts)}}
    merged["differing"] = {}
    for name in ranks[0]:
        if name in ("host", "problems"):
            continue
        values = [facts[name] for facts in ranks]
        if name in _BY_NODE and None not in values:
            merged[name] = min(values)
        elif len(groups := grouped(values)) == 1:
            merged[name] = values[0]
        else:
            merged["differing"][name] = groups
    return merged


def _report(result: Result, gpus: dict[str, str]) -> str:
    """The table, with some lines on GPUs, and the findings."""
    facts = result.facts

    def say(name: str, show: Callable[[Any], str] = str, absent: str = "unknown") -> str:
        def one(value: Any) -> str:
            return absent if value is None else show(value)

        if name in facts:
            return one(facts[name])
        parts = [f"{one(value)} on {ranks_word(who)}" for who, value in facts["differing"][name].items()]
        return "; ".join(parts[:4] + ["..."] * (len(parts) > 4))

    def size(nbytes: int) -> str:
        return f"{nbytes / 1e9:.3g} GB"

    def pairs(found: dict[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in found.items())

    nodes: dict[str, int] = facts["nodes"]
    spread = " to ".join(str(n) for n in sorted({min(nodes.values()), max(nodes.values())}))
    table = {
        "MPI": f"{say('mpi')}, mpi4py {say('mpi4py')}, {say('libmpi', ', '.join)}",
        "ranks": f"{facts['ranks']} on {len(nodes)} node{'s' * (len(nodes) > 1)} "
        f"({', '.join(list(nodes)[:4])}{', ...' * (len(nodes) > 4)}), {spread} on each",
        "cores": f"{say('machine_cores')} on a node, CPU quota {say('cpu_quota', absent='none')}, "
        f"bound to {say('cores', ranges)}",
        "threads": f"{say('threads')} per rank, OpenMP {say('openmp', lambda yes: 'yes' if yes else 'no')}, "
        f"kernels for {say('isa')}",
        "BLAS": say("blas", lambda found: ", ".join(f"{name}, threads {n}" for name, n in found.items())),
        "GPUs": say("gpus", lambda names: ", ".join(names) or "none"),
        **gpus,
        "Python": f"{say('python')}, numpy {say('numpy')}, mpihpc {say('mpihpc')}",
        "h5py": say("h5py", lambda h: f"{h['version']}, {'parallel' if h['parallel'] else 'serial'}, HDF5 {h['hdf5']}"),
        "memory": f"{say('memory_available', size)} free, limit {say('memory_limit', size, 'none')}",
        "folder": f"{say('folder')}, {say('file_system')}, {say('free_bytes', size)} free",
        "Slurm": say("slurm", lambda found: pairs(found) or "no"),
    }
    lines = [f"{name:8} {text}" for name, text in table.items()] + [""]
    for finding in result.findings:
        lines.append(f"{finding.level:8} {finding.what}")
        lines += [f"{'':11}-> {finding.fix}"] if finding.fix else []
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
