"""GPUs: what a rank sees of them, whether the job can use them, and a proof that MPI takes addresses on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mpihpc.core.decomposition import ranks_text
from mpihpc.core.gpu import VARIABLE, mpi_takes_device_memory, transport, why_not
from mpihpc.doctor.findings import Facts, Finding, grouped, ranges, ranks_word

_LIMIT = 90.0  # seconds for the proof
_STAGED = f"export {VARIABLE}=staged"

# What a launcher tells its ranks, and a launcher that one of them starts must not hear; not what users set.
_LAUNCHED = r"PMIX_|PMI_|PRTE_|HYDI_|HYDRA_|SLURM_|OMPI_(?!MCA_)|OMPI_MCA_(ess|orte|pmix|shmem_RUNTIME|initial_wdir)"
_SINGLE_NODE = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


def look_gpu() -> dict[str, Any]:
    """The instrument: the GPUs of this process, and what the MPI library says. Starts nothing on a GPU."""
    seen: dict[str, Any] = {
        "why_not": why_not(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "mpi_says_direct": mpi_takes_device_memory(),
    }
    if seen["why_not"]:
        return seen
    import cupy

    runtime = cupy.cuda.runtime
    numbers = range(runtime.getDeviceCount())
    seen["devices"] = [runtime.getDeviceProperties(n)["name"].decode() for n in numbers]
    seen["buses"] = [cupy.cuda.Device(n).pci_bus_id for n in numbers]
    seen["cupy"] = cupy.__version__
    # 12080 is 12.8.
    versions = {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion()}
    return seen | {name: f"CUDA {n // 1000}.{n % 1000 // 10}" for name, n in versions.items()}


def gpu_map(ranks: Sequence[Facts]) -> list[str | None]:
    """Which GPU each rank takes, by `mpihpc.core.device.find_device`: its number, its model, and where it is."""
    found: list[str | None] = []
    for rank, facts in enumerate(ranks):
        gpu = facts["gpu"]
        if not gpu or gpu["why_not"]:
            found.append(None)
            continue
        on_node = sum(other["host"] == facts["host"] for other in ranks[:rank])
        n = on_node % len(gpu["devices"])
        found.append(f"gpu {n} of {facts['host']} ({gpu['devices'][n]}, {gpu['buses'][n]})")
    return found


def check_gpus(ranks: Sequence[Facts]) -> Iterator[Finding]:
    """All ranks have a GPU, each its own, and see those of the others."""
    for who, (models, why) in grouped(
        [(facts["gpus"], (facts["gpu"] or {}).get("why_not")) for facts in ranks]
    ).items():
        if models and why:
            yield Finding("note", f"{len(models)} x {models[0]} ({ranks_word(who)}) not used: {why}")
    mine = gpu_map(ranks)
    without = [rank for rank, gpu in enumerate(mine) if gpu is None]
    if without and len(without) < len(ranks):
        why = ranks[without[0]]["gpu"]["why_not"]
        what = f"{ranks_word(ranges(without))} have no GPU ({why}): the job runs on CPUs"
        yield Finding("warning", what, "srun --gpus-per-node=N, or start all ranks on nodes with GPUs")
    if not any(mine):
        return
    sharers = {gpu: mine.count(gpu) for gpu in mine if gpu}
    most = max(sharers, key=lambda gpu: sharers[gpu])
    if sharers[most] > 1:
        fix = "start as many ranks on a node as it has GPUs"
        yield Finding("note", f"{ranks_text(sharers[most])} share {most}", fix)
    seen = {(facts["host"], *facts["gpu"]["buses"]) for facts, gpu in zip(ranks, mine, strict=True) if gpu}
    if len(seen) > len({host for host, *_ in seen}):
        fix = "srun --gpus-per-node=N without --gpus-per-task: ranks choose their GPUs themselves"
        yield Finding(
            "note", "ranks of a node see different GPUs: no CUDA IPC between them, messages take slower paths", fix
        )
    said = {facts["gpu"]["mpi_says_direct"] for facts in ranks if facts["gpu"]}
    if len(said) > 1:
        yield Finding("warning", "only some ranks have an MPI library with CUDA support", _STAGED)


def show_gpus(ranks: Sequence[Facts]) -> dict[str, str]:
    """The lines of the report."""
    mine = gpu_map(ranks)
    first = next((facts["gpu"] for facts, gpu in zip(ranks, mine, strict=True) if gpu), None)
    if first is None:
        return {}
    says = "takes" if first["mpi_says_direct"] else "does not take"
    return {
        "CUDA": f"CuPy {first['cupy']} ({first['runtime']}), driver {first['driver']}; the MPI library says that it "
        f"{says} device memory, {VARIABLE}={os.environ.get(VARIABLE, 'auto')}: {transport()} transport",
        "GPU map": "; ".join(f"{ranks_word(who)}: {gpu or 'none'}" for who, gpu in grouped(mine).items()),
    }


def prove(ranks: Sequence[Facts], mpirun: str) -> Finding:
    """Whether MPI takes addresses on a GPU: tried by two ranks of a job beside this one, which may crash.

    Parameters
    ----------
    ranks : sequence of facts
        Of all ranks.
    mpirun : str
        The launcher of the MPI library in use; empty: there is none.
    """
    if not any(gpu_map(ranks)):
        whys = dict.fromkeys(facts["gpu"]["why_not"] for facts in ranks if facts["gpu"])
        return Finding("ok", f"no GPU: {'; '.join(whys)}")
    if not (ranks[0]["gpu"] or {}).get("mpi_says_direct"):
        what = "GPU messages go through host memory: the MPI library does not report CUDA support"
        return Finding("ok", f"{what} (staged transport)")
    if not mpirun:
        return Finding("note", "direct transport was not tried: no mpirun belongs to this MPI library", _STAGED)
    command = [mpirun, "-n", "2", sys.executable, "-m", "mpihpc.doctor.exchange"]
    said, problem = attempt(command, unlaunched(os.environ) | {VARIABLE: "direct"}, _LIMIT)
    if not problem:
        return Finding("ok", f"direct works on {ranks[0]['host']}: {', '.join(said[:-1])}")
    level = "note" if transport() == "staged" else "broken"
    return Finding(level, f"the MPI library reports CUDA support, but it fails: {problem}", _STAGED)


def attempt(command: Sequence[str], env: Mapping[str, str], limit: float) -> tuple[list[str], str]:
    """Run a program that says what it begins, line by line, and at last "done"; and what went wrong, if anything.

    It may crash or hang: it is ended after so many seconds.
    """
    process = subprocess.Popen(  # its start is a vfork, which networks bear
        command, env=dict(env), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    hung = ""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        hung = f"not finished after {limit:g} s"
        process.terminate()  # mpirun ends its ranks
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        out, err = process.communicate()
    said = [line.strip() for line in out.splitlines() if line.strip()]
    if not hung and process.returncode == 0 and said and said[-1] == "done":
        return said, ""
    errors = [line for line in err.splitlines() if re.match(r"[\w.]*Error\b", line)]
    where = said[-1] if said else "its start"
    return said, f"{where}: {hung or (errors or [f'exit code {process.returncode}'])[-1]}"


def unlaunched(env: Mapping[str, str]) -> dict[str, str]:
    """An environment for a launcher of its own, on this node alone."""
    return {name: value for name, value in env.items() if not re.match(_LAUNCHED, name)} | _SINGLE_NODE
