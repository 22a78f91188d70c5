"""One way to fail: the same error on all ranks."""

import doctest
import errno
import os

import pytest

from mpihpc.core import failure as module
from mpihpc.core.failure import VerificationError, agree, agreed, exit_code, nearest


def raised(comm, fail, root=None):
    """What `agree` raises where `fail(rank)` raises."""
    try:
        with agree(comm, root):
            fail(comm.rank)
    except Exception as error:
        texts = comm.allgather((type(error), str(error), getattr(error, "errno", None)))
        assert len(set(texts)) == 1
        return error
    assert comm.allreduce(1) == comm.size
    return None


def test_success_is_silent(comm):
    assert raised(comm, lambda rank: None) is None


def test_what_fails_on_one_rank_fails_on_all(comm):
    last = comm.size - 1

    def fail(rank):
        if rank == last:
            raise ValueError(f"steps {-rank}\nis  bad")

    error = raised(comm, fail)
    assert type(error) is ValueError
    assert str(error) == f"{'' if comm.size == 1 else f'rank {last}: '}steps {-last} is bad"
    assert agreed(error) and not agreed(ValueError())


def test_an_error_of_all_ranks_names_none(comm):
    def fail(rank):
        raise TypeError("no numbers")

    assert str(raised(comm, fail)) == "no numbers"


def test_the_lowest_rank_speaks(comm):
    def fail(rank):
        raise ValueError(f"from {rank}")

    assert str(raised(comm, fail)) == ("from 0" if comm.size == 1 else "rank 0: from 0")


def test_the_rank_that_works_for_all_is_not_named(comm):
    def fail(rank):
        if rank == 0:
            os.stat("/nonexistent/file")

    error = raised(comm, fail, root=0)
    assert type(error) is FileNotFoundError
    assert error.errno == errno.ENOENT
    assert str(error) == "/nonexistent/file: No such file or directory"


def test_subclasses_arrive_as_what_can_be_made_anywhere(comm):
    class Odd(ValueError):
        def __init__(self, a, b):
            super().__init__(a, b)

    def odd(rank):
        raise Odd(1, 2)

    def unicode_error(rank):
        b"\xff".decode()

    def memory(rank):
        raise MemoryError

    assert type(raised(comm, odd)) is ValueError
    assert type(raised(comm, unicode_error)) is ValueError
    assert str(raised(comm, memory)) == "out of memory"


def test_defects_are_not_agreed_on():
    from mpi4py import MPI

    with pytest.raises(KeyError), agree(MPI.COMM_SELF):
        {}["x"]


def test_exit_codes():
    full = OSError("no room")
    full.errno = errno.ENOSPC
    assert [exit_code(e) for e in (ValueError(), FileNotFoundError(), full, VerificationError(), MemoryError())] == [
        2,
        2,
        1,
        1,
        1,
    ]


def test_nearest():
    assert nearest("gausian", ["heat", "gaussian"]) == "did you mean 'gaussian'? (heat, gaussian)"
    assert nearest("zz", ["heat"]) == "use one of (heat)"


def test_doctests():
    assert doctest.testmod(module).failed == 0
