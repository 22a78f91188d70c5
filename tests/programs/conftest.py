"""Starts programs the way a user does: ``mpirun -n N python -m ...`` from a plain process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from suite import end, environment, mpirun


@dataclass
class Finished:
    """What a program left: its exit code and what it said."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """What the program itself wrote on stderr, line by line."""
        return without_noise(self.stderr)


# Open MPI's remarks, those of its libevent, and MPICH's at every abort.
NOISE = r"\[[^\]\s]+:\d+\] |\[warn\] Epoll |Abort\(\d+\) on node \d+ \(rank \d+ in comm \d+\): "


def without_noise(text: str) -> list[str]:
    """The lines that are not mpirun's (notices between dashes or after ``[host:pid]``) or libevent's (``[warn]``)."""
    own: list[str] = []
    notice = False
    for line in text.replace("\0", "").splitlines():  # Open MPI 5 ends its notices with one
        if re.fullmatch(r"-{60,}", line.strip()):
            notice = not notice
        elif not notice and line.strip() and not re.match(NOISE, line):
            own.append(line)
    return own


# What a root without these may do with files is what their modes say. Unlike another user it still reaches
# the interpreter and the package, wherever they are installed.
AS_ORDINARY_USER = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]


@pytest.fixture
def launch(tmp_path):
    """``launch(n, *args)`` runs ``mpirun -n n python args`` in ``tmp_path`` and returns what it left.

    ``n`` is the number of ranks; 0 runs without mpirun. ``env`` adds to the environment; a value of None
    removes a name. ``unprivileged`` respects file modes even when the tests run as root. A program that is
    not finished after ``timeout`` seconds is ended, and the test fails.
    """

    def run(n, *args, env=None, timeout=60, unprivileged=False, cwd=None) -> Finished:
        command = [sys.executable, *map(str, args)]
        if n:
            command = [mpirun(), "-n", str(n), *command]
        if unprivileged and os.geteuid() == 0:
            command = [*AS_ORDINARY_USER, *command]
        variables = environment() | (env or {})
        process = subprocess.Popen(
            command,
            cwd=cwd or tmp_path,
            env={name: value for name, value in variables.items() if value is not None},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            end(process)
            stdout, stderr = process.communicate()
            pytest.fail(f"not finished after {timeout} s: {' '.join(command)}\n{stdout}\n{stderr}")
        return Finished(process.returncode, stdout, stderr)

    return run
