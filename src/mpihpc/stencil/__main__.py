"""The program: ``mpirun -n 8 python -m mpihpc.stencil``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mpihpc.programs.frame import execute
from mpihpc.programs.stencil.job import Result, run
from mpihpc.programs.stencil.options import Config, parse_args

__all__ = ["Config", "Result", "main", "parse_args", "run"]


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("mpihpc.stencil", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
