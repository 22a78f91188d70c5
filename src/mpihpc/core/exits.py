"""The end of a script: one rank that leaves alone does not let the others wait for ever.

Python tells `sys.excepthook` of exceptions that nobody catches, but not of `SystemExit`; and a rank that ends waits in
MPI_Finalize for the others, which may wait for it. So this module is told of both, and ends the job where the ranks do
not end together.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn

from mpi4py import MPI

from mpihpc.core.failure import abort, agreed, end_job
from mpihpc.core.launch import LaunchError, is_first, mpi_active

GRACE = 3.0
"""Seconds within which ranks that leave with an exit code must all do so."""

_watched: int | None = None  # the process whose exits are watched: a forked child is none of the ranks


def install_hook() -> None:
    """Make an exception that nobody catches on one rank end the whole job, with this rank's traceback.

    Called once, when the package is imported. An error that all ranks have agreed on is printed by rank 0 alone and
    ends each rank by itself. A `LaunchError` is a line of the first process, and exit code 2.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, LaunchError):
            if is_first():
                print(f"mpihpc: error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2)
        if not mpi_active() or MPI.COMM_WORLD.size == 1:
            previous(kind, error, trace)
        elif not agreed(error):
            abort(kind, error, trace)
        elif MPI.COMM_WORLD.rank == 0:
            previous(kind, error, trace)

    sys.excepthook = hook
    watch_exits()


def watch_exits() -> None:
    """Notice when this rank leaves with an exit code that is not 0, where there are other ranks.

    Neither `sys.excepthook` nor `atexit` learns the code. But the interpreter reads the attribute `code` of a
    `SystemExit` that nobody has caught, and is then alone in doing so with no Python function below it on the stack; so
    we read along. Before Python 3.12 there is no object to be read where `sys.exit` was called, so there it gets one.
    """
    global _watched
    if _watched is not None or not mpi_active() or MPI.COMM_WORLD.size == 1:
        return
    _watched = os.getpid()
    (members,) = gc.get_referents(SystemExit.__dict__)  # a built-in type's own dictionary
    code = members["code"]

    def read(stop: SystemExit) -> Any:
        if sys._getframe().f_back is None and os.getpid() == _watched:
            _leave(code.__get__(stop))
        return code.__get__(stop)

    members["code"] = property(read, code.__set__, code.__delete__)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(SystemExit))
    if sys.version_info < (3, 12):

        def exit(status: Any = None, /) -> NoReturn:
            """Exit the interpreter by raising SystemExit(status)."""
            raise SystemExit(*status) if isinstance(status, tuple) else SystemExit(status)

        sys.exit = exit


def _leave(status: Any) -> None:
    """Wait for the other ranks to leave with an exit code too; end the job if they do not."""
    code = status & 0xFF if isinstance(status, int) else 0 if status is None else 1
    if code == 0 or not mpi_active():
        return
    world = MPI.COMM_WORLD
    # Only ranks that leave come here. Others may have collective calls of their own under way on this communicator,
    # but those do not match a non-blocking barrier.
    others, deadline = world.Ibarrier(), time.monotonic() + GRACE
    while not others.Test():
        if time.monotonic() > deadline:
            with suppress(Exception):
                if not isinstance(status, int):
                    print(status, file=sys.stderr)
                what = f"rank {world.rank} of {world.size} exited with code {code}, other ranks did not"
                print(f"mpihpc: {what}, so the job ends", file=sys.stderr)
            end_job(code)
        time.sleep(0.005)
