"""The watchdog: a job in which no rank gets on any more says where each rank is, and ends.

Code says that it gets on with `phase` and `tick`. If no rank of the job does so for the limit, each rank that is able
to prints its Python stack, one rank reports who is missing and where the others wait, and all end with exit code 1.
A rank may take as long as it likes while another one gets on.
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

from mpihpc import _core
from mpihpc.core.failure import agree

VARIABLE = "MPIHPC_TIMEOUT"
FOLDER_VARIABLE = "MPIHPC_HEARTBEAT_DIR"

_on = False


def phase(text: str) -> None:
    """Say what this rank does from now on, which is progress too. Does nothing where no watchdog runs.

    64 bytes of the text are kept. Costs less than a microsecond, like `tick`.
    """
    _core.watchdog_phase(text)


def tick() -> None:
    """Say that this rank gets on. Does nothing where no watchdog runs."""
    _core.watchdog_tick()


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
    """End the job if no rank gets on for this long inside the block. Entering is collective.

    Leaving is not, but where the job has several nodes each rank that leaves without an error waits for the others.
    A watchdog inside another one does nothing. Standard error must be a file, a pipe or a terminal.

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
    global _on
    seconds = comm.bcast(seconds, root=0)
    if not seconds or _on:
        yield
        return
    with contextlib.ExitStack() as stack:
        job_file = _start(comm, seconds, node, stack)
        _on = True
        try:
            yield
            if job_file:  # the others still need it; and if one never comes, this is watched, too
                phase("end of the watched part")
                comm.Barrier()
        finally:
            _on = False
            _core.watchdog_stop()


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
                name = _create(_memory_folder(), _core.watchdog_node_bytes(local.size))
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
                job_file = _create(folder, _core.watchdog_job_bytes(comm.size, nodes))
                stack.callback(_remove, job_file)
        job_file = comm.bcast(job_file, root=0)
        with agree(comm):
            if job_file and not os.path.exists(job_file):
                message = f"is not seen on all nodes: set {FOLDER_VARIABLE} to a folder on a shared disk"
                raise OSError(errno.ENOENT, message, job_file)

        with agree(comm):
            # The handler runs in C without the GIL, in the main thread, whatever that is stuck in. It writes into a
            # file, so that the watching thread can print it in one piece.
            traces = stack.enter_context(_scratch())
            signal = _core.watchdog_signal()
            if signal:
                faulthandler.register(signal, traces, all_threads=True, chain=False)
                stack.callback(faulthandler.unregister, signal)
            _core.watchdog_start(
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
            stack.callback(_core.watchdog_stop)
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
