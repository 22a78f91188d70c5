"""What all programs share: a frame for the run, exit codes, progress on the screen."""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any, TypeVar

from mpi4py import MPI
from tqdm import tqdm

from mpihpc.core.failure import BAD_INPUT, abort, agree, agreed, exit_code, one_line
from mpihpc.core.launch import check_launch, is_first, job_size
from mpihpc.core.timeout import timeout_from, watchdog

Config = TypeVar("Config")

_LINE_SECONDS = 5.0


def execute(
    name: str,
    parse: Callable[[Sequence[str] | None], Config],
    run: Callable[[MPI.Intracomm, Config], Any],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a program on all ranks of COMM_WORLD.

    Parameters
    ----------
    name : str
        As it is called, for messages.
    parse : callable
        Makes the configuration from the arguments; called on rank 0 alone. ``--help`` and ``--version`` need no MPI.
    run : callable
        Does the work, collectively, under the watchdog if the configuration has a `timeout` or MPIHPC_TIMEOUT is set.
    argv : sequence of str, optional
        Arguments. Default: those of the command line.

    Returns
    -------
    int
        The exit code, on all ranks: 0, 2 for bad input, 1 for a failure. Anything unexpected ends the job with 1 and a
        traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        if not MPI.Is_initialized():
            config, code = _parsed(parse, argv)
            if config is None:
                return code
        check_launch()
    except BAD_INPUT as error:
        return _refused(name, error)
    comm = MPI.COMM_WORLD
    try:
        outcome: tuple[Config | None, int] = (None, 0)
        with agree(comm, root=0):
            if comm.rank == 0:
                outcome = _parsed(parse, argv)
        config, code = comm.bcast(outcome, root=0)
        if config is None:
            return code
        limit = None
        with agree(comm, root=0):
            if comm.rank == 0:  # it alone: other ranks may have another environment
                limit = timeout_from(getattr(config, "timeout", None))
        with watchdog(comm, limit), _plain_warnings(name):
            run(comm, config)
        return 0
    except Exception as error:
        if not agreed(error):
            if comm.size == 1:
                raise
            abort(type(error), error, error.__traceback__)
        # The rank of an error matters to those who call the library; here all ranks speak as one program.
        return _refused(name, error)


def execute_serial(
    name: str,
    parse: Callable[[Sequence[str] | None], Config],
    run: Callable[[Config], Any],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a program in one process, which needs no MPI.

    The parameters and the exit code are those of `execute`; `run` gets the configuration alone.
    """
    try:
        config, code = _parsed(parse, argv)
        if config is None:
            return code
        if (size := job_size()) > 1:
            raise ValueError(f"{name} runs in 1 process, the job has {size}: start it without mpirun")
        with _plain_warnings(name):
            run(config)
        return 0
    except BAD_INPUT as error:
        return _refused(name, error)


def _parsed(parse: Callable[[Sequence[str] | None], Config], argv: Sequence[str] | None) -> tuple[Config | None, int]:
    """The configuration, or None and an exit code after ``--help`` and ``--version``, which one process prints."""
    try:
        with nullcontext() if is_first() else redirect_stdout(StringIO()):
            return parse(argv), 0
    except SystemExit as stop:
        return None, int(stop.code or 0)


def _refused(name: str, error: BaseException) -> int:
    """Print an error once for the whole job, as a line; the exit code."""
    if is_first():
        sys.stdout.flush()
        print(f"{name}: error: {one_line(error)}", file=sys.stderr, flush=True)
    return exit_code(error)


@contextmanager
def _plain_warnings(name: str) -> Iterator[None]:
    """Print warnings as one line each, as errors are, without a place in our code."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{name}: warning: {message}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def progress(total: int, shown: bool, what: str = "step") -> Iterator[Callable[[int], None]]:
    """Report how far the work is: a bar on a terminal, a line every few seconds elsewhere.

    Yields a function of the number of steps done. `shown` should be false on all ranks but one.
    """
    if not shown:
        yield lambda done: None
    elif sys.stderr.isatty():
        with tqdm(total=total, unit=what, leave=False) as bar:
            yield lambda done: bar.update(done - bar.n) and None
    else:
        begin = last = time.monotonic()

        def tell(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _LINE_SECONDS:
                last = now
                left = (now - begin) * (total - done) / done
                print(f"{what} {done} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield tell
