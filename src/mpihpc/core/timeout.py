"""The time limit: a job in which no rank makes progress reports where each rank is, and ends.

Code reports progress with `phase` and `tick` (`mpihpc.core.watchdog`); every collective call of the package does. If no
rank of the job reports any for the limit, each rank that is able to prints its Python stack, one rank reports who is
missing and where the others wait, and all end with exit code 1. A rank may take as long as it likes while another one
makes progress.

Programs have ``--timeout``. In a script, MPIHPC_TIMEOUT starts the watchdog at the first collective call (see
`watch_script`).
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from mpi4py import MPI

from mpihpc.core.failure import agree
from mpihpc.core.watchdog import job_bytes, node_bytes, phase, start, stop, trace_signal

VARIABLE = "MPIHPC_TIMEOUT"
FOLDER_VARIABLE = "MPIHPC_HEARTBEAT_DIR"

_settled = False  # whether a watchdog runs, or a program has decided that none does


def timeout_from(value: str | float | None = None) -> float | None:
    """The limit in seconds for a ``--timeout`` argument, else for MPIHPC_TIMEOUT; None: no limit.

    Raises
    ------
    ValueError
        The text is not a number of seconds; 0 is one, and means no limit.

    Examples
    --------
    >>> timeout_from("2.5")
    2.5
    >>> timeout_from("-1")
    Traceback (most recent call last):
    ...
    ValueError: timeout -1 is not a positive number of seconds
    """
    name = "timeout"
    if value is None:
        name, value = VARIABLE, os.environ.get(VARIABLE, "").strip() or 0
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e9:  # nor is nan
        given = f"{value:g}" if isinstance(value, float) else value
        raise ValueError(f"{name} {given} is not a positive number of seconds")
    return seconds or None


@contextmanager
def watchdog(comm: MPI.Intracomm, seconds: float | None, *, node: int | None = None) -> Iterator[None]:
    """End the job if no rank makes progress for this long inside the block. Entering is collective.

    Leaving is not, but where the job has several nodes each rank that leaves without an error waits for the others.
    One inside another does nothing, not even where the outer one has no limit. Standard error must be a file, a pipe
    or a terminal.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All ranks of the job.
    seconds : float, optional
        The limit, that of rank 0 counts. It is no limit on the block, but on the time between two calls of `phase` or
        `tick` on whatever rank; choose it several times as long as the longest step. None or 0: none.
    node : int, optional
        Ranks with equal numbers take each other to be on one node. Default: they are if they share memory. For tests.

    Notes
    -----
    Ranks of a node share a piece of memory: a file in /dev/shm which is removed as soon as all have it open. Several
    nodes share a file of a few hundred bytes a rank in the working folder (or MPIHPC_HEARTBEAT_DIR), which must be on a
    disk that all see; it is removed in the end.
    """
    global _settled
    seconds = comm.bcast(seconds, root=0)
    if _settled:
        yield
        return
    with contextlib.ExitStack() as stack:
        job_file = _start(comm, seconds, node, stack) if seconds else ""
        _settled = True
        try:
            yield
            if job_file:  # the others still need it; and if one never comes, this is watched, too
                phase("end of the watched part")
                comm.Barrier()
        finally:
            _settled = False
            if seconds:
                stop()


def watch_script(comm: MPI.Intracomm) -> contextlib.ExitStack:
    """The watchdog of a script: from its first collective call until the returned stack is closed, at its end.

    Collective, on all ranks of the job. Does nothing where MPIHPC_TIMEOUT is not set for rank 0, and inside
    `watchdog`. Only calls of the package count as progress: choose the limit longer than whatever the script does
    between two of them (NumPy on one rank, a plot).
    """
    limit = None
    with agree(comm, root=0):
        if comm.rank == 0:
            limit = timeout_from()
    limit = comm.bcast(limit, root=0)
    stack = contextlib.ExitStack()
    if limit:
        stack.enter_context(watchdog(comm, limit))
    return stack


def _start(comm: MPI.Intracomm, seconds: float, node: int | None, stack: contextlib.ExitStack) -> str:
    """Share memory and file, and start the threads; `stack` cleans up. Returns the path of the file, if any."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank) if node is None else comm.Split(node, comm.rank)
    firsts = sorted(set(comm.allgather(local.bcast(comm.rank, root=0))))
    place, nodes = firsts.index(local.bcast(comm.rank, root=0)), len(firsts)

    memory, name = -1, ""
    opened = contextlib.ExitStack()
    with opened:
        with agree(comm):
            if local.rank == 0 and local.size > 1:
                name = _create(_memory_folder(), node_bytes(local.size))
                opened.callback(_remove, name)
        name = local.bcast(name, root=0)
        with agree(comm):
            if name:
                memory = os.open(name, os.O_RDWR | os.O_CLOEXEC)
                opened.callback(os.close, memory)

        job_file = ""
        with agree(comm, root=0):
            if comm.rank == 0 and nodes > 1:
                folder = os.path.abspath(os.environ.get(FOLDER_VARIABLE, "."))
                job_file = _create(folder, job_bytes(comm.size, nodes))
                stack.callback(_remove, job_file)
        job_file = comm.bcast(job_file, root=0)
        with agree(comm):
            if job_file and not os.path.exists(job_file):
                message = f"is not visible on all nodes: set {FOLDER_VARIABLE} to a folder on a shared disk"
                raise OSError(errno.ENOENT, message, job_file)

        with agree(comm):
            # The handler runs in C without the GIL, in the main thread, whatever that is stuck in. It writes into a
            # file, so that the watching thread can print it in one piece.
            traces = stack.enter_context(_scratch())
            signal = trace_signal()
            if signal:
                faulthandler.register(signal, traces, all_threads=True, chain=False)
                stack.callback(faulthandler.unregister, signal)
            start(
                seconds,
                comm.rank,
                comm.size,
                local.rank,
                local.size,
                place,
                nodes,
                memory,
                job_file,
                traces.fileno(),
                signal,
            )
            stack.callback(stop)
    local.Free()
    return job_file


def _scratch() -> IO[bytes]:
    """A file without a name, in memory where the system can do so."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _memory_folder() -> str:
    """Where a file is memory: a file on a disk would do, but its pages may be written back while ranks wait."""
    shared = "/dev/shm"
    return os.environ.get(FOLDER_VARIABLE) or (shared if os.access(shared, os.W_OK) else tempfile.gettempdir())


def _create(folder: str, size: int) -> str:
    """A new file of zeros, all of it reserved: memory that turns out not to be there would end a rank."""
    name = os.path.join(folder, f".mpihpc-heartbeat-{secrets.token_hex(6)}")
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        else:
            os.write(file, bytes(size))
    except OSError as error:
        _remove(name)
        raise OSError(error.errno, error.strerror, name) from error
    finally:
        os.close(file)
    return name


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)
