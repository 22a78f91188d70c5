"""The command ``mpihpc PROGRAM ...``, which is also ``python -m mpihpc PROGRAM ...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mpihpc.programs.command import command


def main(argv: Sequence[str] | None = None) -> int:
    """Run a program of the package; returns its exit code."""
    return command(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
