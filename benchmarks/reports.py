"""What programs that measure cases, one after the other, have in common: what they tell, and what they save."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpi4py import MPI
from threadpoolctl import threadpool_info

from benchmarks import machine
from mpihpc import _core
from mpihpc.core.failure import agree
from mpihpc.io.writing import versions

RESULTS = Path(__file__).with_name("results")


def parse_common(parser: argparse.ArgumentParser, argv: Sequence[str] | None, name: str, rounds: int) -> dict[str, Any]:
    """What was given for the options of `parser`, and for those that all programs have: `rounds`, `json`, `save`."""
    add = parser.add_argument
    add("--rounds", type=int, default=rounds, metavar="N", help=f"default: {rounds}")
    add("--json", action="store_true", help="one line of JSON instead of tables")
    add("--save", action="store_true", help=f"write {RESULTS.name}/{name}-DATE.json beside this program")
    options = vars(parser.parse_args(argv))
    if options["rounds"] < 1:
        raise ValueError(f"rounds {options['rounds']} is less than 1")
    return options


def run_cases(
    comm: MPI.Intracomm,
    config: Any,
    name: str,
    measure: Callable[[MPI.Intracomm, Any, int], Any],
    table: Callable[[Any], str],
    peers: Mapping[str, str],
) -> list[Any]:
    """Measure every case, tell on rank 0, and save if asked for. Collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks.
    config : dataclass
        With `cases`, `rounds`, `json` and `save`.
    name : str
        Of the file in results/.
    measure, table : callable
        Gives a dataclass for a case, and a text for that.
    peers : dict
        Versions of other libraries.
    """
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z",
        "machine": machine() | {"instruction_set": _core.isa(), "blas": blas()},
        "versions": versions() | dict(peers) | {"python": platform.python_version()},
        "ranks": comm.size,
        "rounds": config.rounds,
    }
    results = []
    for case in config.cases:
        results.append(measure(comm, case, config.rounds))
        if comm.rank == 0 and not config.json:
            print(table(results[-1]), flush=True)
    tell(comm, config, report | {"results": [asdict(result) for result in results]}, f"{name}-{report['date'][:10]}")
    return results


def blas() -> str:
    """The kernels that NumPy's BLAS has chosen: its environment variables may have it take slower ones."""
    found = [pool for pool in threadpool_info() if pool.get("user_api") == "blas" and "numpy" in pool["filepath"]]
    return ", ".join(f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}" for pool in found)


def tell(comm: MPI.Intracomm, config: Any, report: Mapping[str, Any], name: str) -> None:
    """One line of JSON, and a file in results/, each if asked for. Collective."""
    with agree(comm, root=0):
        if comm.rank == 0 and config.json:
            print(json.dumps(report), flush=True)
        if comm.rank == 0 and config.save:
            RESULTS.mkdir(exist_ok=True)
            Path(RESULTS, f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
