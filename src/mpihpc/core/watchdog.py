"""Heartbeats: code says that it makes progress, and threads of `_core` watch. `mpihpc.core.timeout` starts them."""

from __future__ import annotations

from mpihpc import _core
from mpihpc._core import watchdog_job_bytes as job_bytes
from mpihpc._core import watchdog_node_bytes as node_bytes
from mpihpc._core import watchdog_signal as trace_signal
from mpihpc._core import watchdog_start as start
from mpihpc._core import watchdog_stop as stop

__all__ = ["job_bytes", "node_bytes", "phase", "start", "stop", "tick", "trace_signal"]


def phase(text: str) -> None:
    """Say what this rank does from now on, which is progress too. Does nothing where no watchdog runs.

    64 bytes of the text are kept. Costs less than a microsecond, like `tick`.
    """
    _core.watchdog_phase(text)


def tick() -> None:
    """Say that this rank makes progress. Does nothing where no watchdog runs."""
    _core.watchdog_tick()
