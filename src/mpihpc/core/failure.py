"""One way to fail: the same error on all ranks, or the end of the job. Never a hang.

Bad input is found before anything is communicated, inside ``with agree(comm):``, and raised on all ranks with the
same text. Anything unexpected on one rank ends the job (`install_hook`): the others may wait for it in a collective
call and cannot be told.
"""

from __future__ import annotations

import builtins
import difflib
import errno
import os
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple
from zlib import crc32

from mpi4py import MPI

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
def agree(comm: MPI.Intracomm, root: int | None = None, alike: str = "") -> Iterator[None]:
    """What fails on one rank inside this block fails on all. Collective.

    Catches `BAD_INPUT` in the block, compares the ranks, and raises the error of the lowest rank that has one on
    every rank: same type, same one line, same `errno`. Where not all ranks failed alike, the line names the rank.
    The block must not communicate.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks that run this block.
    root : int, optional
        The rank that does something for all in this block, such as looking at a file: its errors name no rank.
    alike : str
        What must be the same on all ranks, in words; if it is not, and nothing else fails, that is a TypeError.

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
    try:
        yield
    except BAD_INPUT as error:
        mine, cause = _describe(error), error
    words = crc32(alike.encode())
    least = array("q", [comm.rank if mine else comm.size, words, -words])  # a buffer: three times as fast as an object
    comm.Allreduce(MPI.IN_PLACE, least, op=MPI.MIN)
    first = least[0]
    if first == comm.size:
        if least[1] == -least[2]:
            return
        said = comm.allgather(alike)
        first = next(rank for rank, words in enumerate(said) if words != said[0])
        mine = _Report("TypeError", f"{said[first]}, but {said[0]} on rank 0", None) if comm.rank == first else None
    report: _Report = comm.bcast(mine, root=first)
    by_all: bool = comm.allreduce(mine == report, op=MPI.LAND)
    named = not by_all and first != root
    shared = _rebuild(report._replace(text=f"rank {first}: {report.text}") if named else report)
    shared.agreed_by = comm.size  # type: ignore[attr-defined]
    # In the place of what was raised here, with its traceback: told once.
    raise shared.with_traceback(cause.__traceback__ if cause else None) from (cause.__cause__ if cause else None)


def agreed(error: BaseException | None) -> bool:
    """Whether all ranks of the job raise this error."""
    return getattr(error, "agreed_by", 0) == MPI.COMM_WORLD.size


def exit_code(error: BaseException) -> int:
    """The exit code for an agreed error: 2 for bad input, 1 for a failure (no room on the disk, a wrong result)."""
    failed = isinstance(error, VerificationError | MemoryError)
    return 1 if failed or getattr(error, "errno", None) in _NO_ROOM else 2


def nearest(word: str, known: Iterable[str], most: int = 100) -> str:
    """The end of an error about an unknown word: the nearest known one if there is one, and all of them, or `most`.

    If there are very many, the nearest one is enough.

    >>> nearest("reflekt", ["reflect", "wrap"])
    "did you mean 'reflect'? (reflect, wrap)"
    """
    known = list(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if match and len(known) > _MANY:
        return f"did you mean {match[0]!r}?"
    return (f"did you mean {match[0]!r}? " if match else "use one of ") + f"({', '.join(known[:most])})"


def install_hook() -> None:
    """Make an exception that nobody catches on one rank end the whole job, with this rank's traceback.

    Called once, when the package is imported. An error that all ranks have agreed on is printed by rank 0 alone and
    ends each rank by itself.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not MPI.Is_initialized() or MPI.Is_finalized() or MPI.COMM_WORLD.size == 1:
            previous(kind, error, trace)
        elif not agreed(error):
            abort(kind, error, trace)
        elif MPI.COMM_WORLD.rank == 0:
            previous(kind, error, trace)

    sys.excepthook = hook


def abort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback with the rank, and end all ranks of the job with exit code 1."""
    world = MPI.COMM_WORLD
    print(f"mpihpc: rank {world.rank} of {world.size} failed, so the job ends:", file=sys.stderr)
    sys.__excepthook__(kind, error, trace)
    end_job()


def end_job() -> None:
    """End all ranks of the job with exit code 1, after what they have said has reached the launcher."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.2)  # MPICH's launcher forgets what it is told in its last moment
    MPI.COMM_WORLD.Abort(1)


def check_launch() -> None:
    """Stop where the launcher started several ranks but MPI sees one: they would all do the same work.

    Raises
    ------
    OSError
        The launcher and the MPI library that mpi4py loaded do not belong together.
    """
    if MPI.COMM_WORLD.size > 1:
        return
    # SLURM_NTASKS is set for serial programs in a batch script too, so it proves nothing.
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        ranks = os.environ.get(name, "")
        if ranks.isdigit():
            if int(ranks) > 1:
                library = " ".join(MPI.Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0].split())
                raise OSError(
                    f"the launcher started {ranks} ranks ({name}), but each sees only itself (1): mpirun or srun "
                    f"does not belong to the MPI library in use ({library}); use the launcher of that library"
                )
            return


def launched_first() -> bool:
    """Whether this process is the launcher's first, even if MPI does not know it."""
    names = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def _describe(error: BaseException) -> _Report:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, MemoryError):
        text = f"out of memory: {text}" if text else "out of memory"
    known = {**vars(builtins), "VerificationError": VerificationError}
    kind = next(k for k in type(error).__mro__ if known.get(k.__name__) is k)
    if issubclass(kind, UnicodeError):  # cannot be made from a text
        kind = ValueError
    return _Report(kind.__name__, " ".join(text.split()), getattr(error, "errno", None))


def _rebuild(report: _Report) -> BaseException:
    kind = VerificationError if report.kind == "VerificationError" else getattr(builtins, report.kind)
    error: BaseException = kind(report.text)
    if report.errno is not None:
        error.errno = report.errno  # type: ignore[attr-defined]
    return error
