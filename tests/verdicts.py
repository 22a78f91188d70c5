"""Tests under ``mpirun``: one rank speaks, and all agree on each verdict. Needs pytest, and no plugin of it."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
from _pytest.config import create_terminal_writer

from suite import REPORT


def configure(config, with_mpi):
    """Make a session of pytest one of several ranks, or of a plain process."""
    ranks = None
    if with_mpi:
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


def said(report):
    """The line of a failure that says what is wrong."""
    lines = report.longreprtext.splitlines()
    return [line[1:].strip() for line in lines if line.startswith("E ")][:1] or lines[-1:]


class Counts:
    """Writes how many tests passed, failed and were skipped, and which failed, for those who started the job."""

    def __init__(self, path):
        self.path = path
        self.outcomes = {}
        self.failures = {}

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failures[report.nodeid] = said(report)
        # A test has three phases; it passed if its call did and none failed.
        if report.failed or (report.outcome != "passed" and report.nodeid not in self.outcomes):
            self.outcomes[report.nodeid] = report.outcome
        elif report.when == "call":
            self.outcomes.setdefault(report.nodeid, report.outcome)

    def pytest_collectreport(self, report):
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
            self.failures[report.nodeid] = said(report)

    def pytest_sessionfinish(self):
        counts = Counter(self.outcomes.values())
        report = {name: counts[name] for name in ("passed", "failed", "skipped")}
        self.path.write_text(json.dumps(report | {"failures": self.failures}))


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
