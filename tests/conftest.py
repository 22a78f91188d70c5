"""What every test under ``mpirun`` stands on: a communicator, a folder for all ranks, verdicts they agree on.

Tests adapt to any number of ranks. Under ``mpirun -n N python -m mpi4py -m pytest --with-mpi`` all ranks run
the same tests in the same order; when one rank fails, all fail, so that none waits for one that has moved on.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import UnsatisfiedAssumption

from verdicts import configure, one_line, wait_for_all

# Every rank must draw the same examples, and as many. So nothing may depend on a clock, on a database that
# ranks read and write at different times, or on how a rank's own failure looks (the explain phase).
settings.register_profile(
    "mpi",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=30,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mpi")


@pytest.hookimpl(trylast=True)  # once there is a reporter to silence
def pytest_configure(config):
    configure(config, config.getoption("--with-mpi"))


def pytest_ignore_collect(collection_path, config):
    """Programs, and what other libraries read, are started by one process, not by every rank."""
    alone = [Path(__file__).with_name(name) for name in ("programs", "interop")]
    if config.getoption("--with-mpi") and collection_path in alone:
        return True
    return None


class RankError(AssertionError):
    """An example failed on some rank; raised on every rank, from the same line."""


@pytest.fixture(scope="session")
def verdict(pytestconfig):
    """``with verdict(comm):`` around the body of a hypothesis example. Collective.

    All ranks agree on the outcome of each example; else they would shrink different ones, and hang.
    """
    return functools.partial(agreed_example, pytestconfig)


@contextlib.contextmanager
def agreed_example(config, comm):
    error = None
    try:
        yield
    except UnsatisfiedAssumption:  # every rank drew the same example, so every rank rejects it
        raise
    except (Exception, pytest.fail.Exception) as caught:
        error = caught
    wait_for_all(comm, config, "".join(traceback.format_exception(error)) if error else "")
    lines = comm.allgather(one_line(error) if error else None)
    failures = [f"rank {rank}: {line}" for rank, line in enumerate(lines) if line]
    if failures:
        if error:
            traceback.print_exception(error)  # pytest shows it as captured output
        try:
            raise RankError("; ".join(failures))
        except RankError as agreed:
            # Hypothesis tells failures apart by their origin, context included: it must not differ by rank.
            agreed.__context__ = None
            raise


@pytest.fixture(scope="session")
def comm():
    """A duplicate of COMM_WORLD."""
    from mpi4py import MPI

    duplicate = MPI.COMM_WORLD.Dup()
    yield duplicate
    duplicate.Free()


@pytest.fixture
def shared_tmp_path(comm):
    """A folder made by rank 0 and known to all, removed when all are through."""
    made = tempfile.mkdtemp(prefix="mpihpc-test-") if comm.rank == 0 else None
    path = Path(comm.bcast(made))
    yield path
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(path)
