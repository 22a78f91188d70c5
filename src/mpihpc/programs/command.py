"""One command for all programs: ``mpihpc stencil ...`` is ``python -m mpihpc.stencil ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mpihpc._version import __version__
from mpihpc.core.failure import nearest
from mpihpc.core.launch import is_first

PROGRAMS = {
    "stencil": "apply a stencil many times to an array, from a file to a file",
    "matmul": "multiply two matrices",
    "view": "draw a result: a picture, or an animation of its snapshots (no mpirun)",
    "doctor": "check MPI, cores, memory, HDF5 and GPUs, and say what to do",
}

HELP = """usage: mpihpc PROGRAM [OPTIONS]
       mpirun -n 8 mpihpc PROGRAM [OPTIONS]

programs:
{programs}

mpihpc PROGRAM --help lists the options of a program, mpihpc --version prints the version."""


def command(argv: Sequence[str]) -> int:
    """Run the program that the first argument names; its exit code, on all ranks."""
    name = argv[0] if argv else "--help"
    if name in PROGRAMS:
        # Each door is imported alone: view, for one, needs matplotlib, which others can do without.
        code: int = import_module(f"mpihpc.{name}.__main__").main(argv[1:])
        return code
    if name in ("-h", "--help"):
        programs = "\n".join(f"  {program:9}{what}" for program, what in PROGRAMS.items())
        return _say(HELP.format(programs=programs), 0)
    if name == "--version":
        return _say(f"mpihpc {__version__}", 0)
    return _say(f"mpihpc: error: unknown program {name!r}: {nearest(name, PROGRAMS)}", 2)


def _say(text: str, code: int) -> int:
    if is_first():
        print(text, file=sys.stderr if code else sys.stdout, flush=True)
    return code
