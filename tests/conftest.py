"""What every test under ``mpirun`` stands on: a communicator, a folder for all ranks, verdicts they agree on.

Tests adapt to any number of ranks. Under ``mpirun -n N python -m mpi4py -m pytest --with-mpi`` all ranks run
the same tests in the same order; when one rank fails, all fail, so that none waits for one that has moved on.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
from _pytest.config import create_terminal_writer
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import UnsatisfiedAssumption

from suite import REPORT

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
    ranks = None
    if config.getoption("--with-mpi"):
        # Not at the top: the plain process that starts mpirun for tests/programs is no MPI program itself.
        from mpi4py import MPI

        ranks = MPI.COMM_WORLD.Dup()
        config.pluginmanager.register(AgreedVerdicts(ranks))
    rank = ranks.rank if ranks else 0
    folder = os.environ.get(REPORT)
    if rank:
        # Rank 0 speaks for all; what the others have to say is looked at when the job breaks down.
        log = Path(folder, f"rank-{rank}.log") if folder else Path(os.devnull)
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        reporter._tw = create_terminal_writer(config, log.open("w"))
    elif folder:
        config.pluginmanager.register(Counts(Path(folder, "counts.json")))


def pytest_ignore_collect(collection_path, config):
    """Programs are started by one process, not by every rank."""
    if config.getoption("--with-mpi") and collection_path == Path(__file__).with_name("programs"):
        return True
    return None


class Counts:
    """Writes how many tests passed, failed and were skipped, for tests/suite.py."""

    def __init__(self, path):
        self.path = path
        self.outcomes = {}

    def pytest_runtest_logreport(self, report):
        # A test has three phases; it passed if its call did and none failed.
        if report.failed or (report.outcome != "passed" and report.nodeid not in self.outcomes):
            self.outcomes[report.nodeid] = report.outcome
        elif report.when == "call":
            self.outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_collectreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = "failed"

    def pytest_sessionfinish(self):
        counts = Counter(self.outcomes.values())
        self.path.write_text(json.dumps({name: counts[name] for name in ("passed", "failed", "skipped")}))


class AgreedVerdicts:
    """All ranks collect the same tests, and each phase of each test ends the same way on all of them."""

    def __init__(self, comm):
        self.comm = comm  # nobody else's: nothing a test leaves in flight can be mistaken for a verdict
        self.orderly = False

    def pytest_collection_finish(self, session):
        tests = [item.nodeid for item in session.items], session.testsfailed
        if len(set(self.comm.allgather(repr(tests)))) > 1:
            pytest.exit("the ranks did not collect the same tests")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item):
        return (yield from self.agree(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item):
        return (yield from self.agree(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item):
        return (yield from self.agree(item))

    def pytest_sessionfinish(self, exitstatus):
        self.orderly = exitstatus not in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR)

    def pytest_unconfigure(self):
        # A rank that leaves with an exit code ends the job: not before rank 0 has printed its report.
        if self.orderly:
            self.comm.Barrier()

    def agree(self, item):
        """Run the rest of the hook; raise on every rank if any rank failed or only some skipped."""
        error = result = None
        try:
            result = yield
        except (Exception, pytest.skip.Exception, pytest.fail.Exception, pytest.xfail.Exception) as caught:
            error = caught
        skipped = isinstance(error, pytest.skip.Exception)
        failed = error is not None and not skipped

        text = str(item.repr_failure(pytest.ExceptionInfo.from_exception(error))) if failed else ""
        wait_for_all(self.comm, item.config, text)
        verdicts = self.comm.allgather(("skipped" if skipped else one_line(error) if failed else "", text))
        failures = {r: line for r, (line, text) in enumerate(verdicts) if text}
        if failures:
            summary = "".join(f"\nrank {rank} of {self.comm.size}: {line}" for rank, line in failures.items())
            if failed:
                error.add_note(f"Failed on {len(failures)} of {self.comm.size} ranks:{summary}")
                raise error
            first = min(failures)
            pytest.fail(f"{summary.strip()}\n\nrank {first}:\n{verdicts[first][1]}", pytrace=False)
        skips = [rank for rank, (line, _) in enumerate(verdicts) if line]
        if 0 < len(skips) < self.comm.size:
            pytest.fail(f"skipped on ranks {skips} of {self.comm.size} only", pytrace=False)
        if error is not None:
            raise error
        return result


def wait_for_all(comm, config, text):
    """Wait until every rank is here; one that failed, and whose peers hang, says at once why it left them."""
    everyone = comm.Ibarrier()
    patience = time.monotonic() + 5 if text else float("inf")
    while not everyone.Test():
        if time.monotonic() > patience:
            patience = float("inf")
            with config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
                writer = config.get_terminal_writer()
                writer.line(f"\nrank {comm.rank} failed while others still run:\n{text}")
                writer.flush()
        time.sleep(0.0005)  # leave the core to a rank that still works


def one_line(error: BaseException) -> str:
    """The last line of a traceback, without its notes."""
    return traceback.format_exception_only(error)[0].splitlines()[0]


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
