"""One way to fail: the same error on all ranks, or the end of the job. Never a hang.

Bad input is found before anything is communicated, inside ``with agree(comm):``, and raised on all ranks with the
same text. Anything unexpected on one rank ends the job (`mpihpc.core.exits`): the others may wait for it in a
collective call and cannot be told.
"""

from __future__ import annotations

import builtins
import difflib
import errno
import os
import sys
import time
import traceback
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NamedTuple, NoReturn
from zlib import crc32

from mpi4py import MPI

from mpihpc.core.watchdog import tick

BAD_INPUT = (ValueError, TypeError, OverflowError, OSError, MemoryError)
"""What `agree` brings to all ranks. Other exceptions are defects, and end the job."""

_MANY = 20  # words: more are not listed where one is near
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class VerificationError(ValueError):
    """A result is not what it should be."""


class _Report(NamedTuple):
    kind: str
    text: str
    errno: int | None


@contextmanager
def agree(comm: MPI.Intracomm, root: int | None = None, alike: str = "") -> Iterator[list[str]]:
    """An error on one rank inside this block is raised on all. Collective.

    Catches `BAD_INPUT` in the block, compares the ranks, and raises the error of the lowest rank that has one on
    every rank: same type, same one line, same `errno`. Where not all ranks failed alike, the line names the rank.
    The block must not communicate.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks that run this block.
    root : int, optional
        The rank that works for all in this block, for instance looks at a file: its errors name no rank.
    alike : str
        What must be the same on all ranks, in words; if it is not, and nothing else fails, that is a TypeError.

    Yields
    ------
    list of str
        `alike`, to which the block adds what it finds and must be the same too.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> with agree(MPI.COMM_SELF):
    ...     raise ValueError("steps -1 is negative: use 0 or more")
    Traceback (most recent call last):
    ...
    ValueError: steps -1 is negative: use 0 or more
    """
    mine: _Report | None = None
    cause: BaseException | None = None
    said = [alike] if alike else []
    tick()
    try:
        yield said
    except BAD_INPUT as error:
        mine, cause = _describe(error), error
    found = ", ".join(said)
    words = crc32(found.encode())
    least = array("q", [comm.rank if mine else comm.size, words, -words])  # a buffer: three times as fast as an object
    comm.Allreduce(MPI.IN_PLACE, least, op=MPI.MIN)
    first = least[0]
    if first == comm.size:
        if least[1] == -least[2]:
            return
        every = comm.allgather(found)
        first = next(rank for rank, words in enumerate(every) if words != every[0])
        mine = _Report("TypeError", f"{every[first]}, but {every[0]} on rank 0", None) if comm.rank == first else None
    if first < 0:
        _left_behind(comm, -1 - first)
    report: _Report = comm.bcast(mine, root=first)
    by_all: bool = comm.allreduce(mine == report, op=MPI.LAND)
    named = not by_all and first != root
    shared = _rebuild(report._replace(text=f"rank {first}: {report.text}") if named else report)
    shared.agreed_by = comm.size  # type: ignore[attr-defined]
    # It replaces what was raised here, and keeps the traceback: told once.
    raise shared.with_traceback(cause.__traceback__ if cause else None) from (cause.__cause__ if cause else None)


def agreed(error: BaseException | None) -> bool:
    """Whether all ranks of the job raise this error."""
    return getattr(error, "agreed_by", 0) == MPI.COMM_WORLD.size


def exit_code(error: BaseException) -> int:
    """The exit code for an agreed error: 2 for bad input, 1 for a failure (no room on the disk, a wrong result)."""
    failed = isinstance(error, VerificationError | MemoryError)
    return 1 if failed or getattr(error, "errno", None) in _NO_ROOM else 2


def nearest(word: str, known: Iterable[str], most: int = 100) -> str:
    """The end of an error about an unknown word: the nearest known word, if any is near, and all of them, or `most`.

    Where many are known, the nearest one is enough.

    >>> nearest("reflekt", ["reflect", "wrap"])
    "did you mean 'reflect'? (reflect, wrap)"
    """
    known = list(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if match and len(known) > _MANY:
        return f"did you mean {match[0]!r}?"
    return (f"did you mean {match[0]!r}? " if match else "use one of ") + f"({', '.join(known[:most])})"


def leave(comm: MPI.Intracomm) -> None:
    """The last agreement of a rank: it makes no more calls on this communicator.

    Where all ranks leave, nothing happens. Where others are in `agree`, they learn that this rank will not come, and
    end the job instead of waiting for it.
    """
    comm.Allreduce(MPI.IN_PLACE, array("q", [-1 - comm.rank, 0, 0]), op=MPI.MIN)  # as in `agree`
    comm.Allreduce(MPI.IN_PLACE, array("i", [comm.size]), op=MPI.MIN)


def _left_behind(comm: MPI.Intracomm, gone: int) -> NoReturn:
    """Another rank has called `leave`: the lowest rank that waits says so, and ends the job."""
    lowest = array("i", [comm.rank])
    comm.Allreduce(MPI.IN_PLACE, lowest, op=MPI.MIN)
    if comm.rank == lowest[0]:
        what = f"rank {gone} of {comm.size} has ended, but rank {comm.rank} waits for it here, so the job ends:"
        print(f"mpihpc: {what}", file=sys.stderr)
        traceback.print_stack(sys._getframe(3))  # who entered the block
    else:
        time.sleep(5)  # the other one speaks, and ends this rank too
    end_job()


def abort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """Print the traceback with the rank, and end all ranks of the job with exit code 1 (interrupted: 130)."""
    world, interrupted = MPI.COMM_WORLD, issubclass(kind, KeyboardInterrupt)
    what = "was interrupted" if interrupted else "failed"
    print(f"mpihpc: rank {world.rank} of {world.size} {what}, so the job ends:", file=sys.stderr)
    sys.__excepthook__(kind, error, trace)
    end_job(130 if interrupted else 1)


def end_job(code: int = 1) -> NoReturn:
    """End all ranks of the job with this exit code, after their output has reached the launcher."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # it may be closed, or missing
            stream.flush()
    time.sleep(0.2)  # MPICH's launcher forgets what it is told in its last moment
    MPI.COMM_WORLD.Abort(code)
    os._exit(code)


def one_line(error: BaseException) -> str:
    """What an error says, on one line; of the system's errors the file and the reason.

    >>> one_line(FileNotFoundError(2, "No such file or directory", "a.h5"))
    'a.h5: No such file or directory'
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError) and not text.startswith("out of memory"):
        text = f"out of memory: {text}" if text else "out of memory"
    return " ".join(text.split())


def _describe(error: BaseException) -> _Report:
    known = {**vars(builtins), "VerificationError": VerificationError}
    kind = next(k for k in type(error).__mro__ if known.get(k.__name__) is k)
    if issubclass(kind, UnicodeError):  # cannot be made from a text
        kind = ValueError
    return _Report(kind.__name__, one_line(error), getattr(error, "errno", None))


def _rebuild(report: _Report) -> BaseException:
    kind = VerificationError if report.kind == "VerificationError" else getattr(builtins, report.kind)
    error: BaseException = kind(report.text)
    if report.errno is not None:
        error.errno = report.errno  # type: ignore[attr-defined]
    return error
