"""Where a rank computes: which device, how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Integral

from threadpoolctl import ThreadpoolController

from mpihpc.core.failure import nearest

MAX_THREADS = 1024
DEVICES = ("auto", "cpu", "gpu")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def select_device(name: str) -> str:
    """The device for a ``--device`` argument: "cpu", the only one so far.

    Raises
    ------
    ValueError
        An unknown device, or "gpu".
    """
    if name not in DEVICES:
        raise ValueError(f"unknown device {name!r}: {nearest(name, DEVICES)}")
    if name == "gpu":
        raise ValueError("device 'gpu' is not available in this version: use --device cpu (or auto)")
    return "cpu"


def thread_count(cores: int, threads: int | None = None) -> int:
    """Threads of a rank: as asked for, else OMP_NUM_THREADS, else the cores it may call its own."""
    if threads is not None:
        if not isinstance(threads, Integral) or not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"threads {threads} is not a whole number from 1 to {MAX_THREADS}")
        return threads
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdigit() and 1 <= int(wanted) <= MAX_THREADS else min(cores, MAX_THREADS)


@contextmanager
def blas_threads(threads: int, *, force: bool = False) -> Iterator[None]:
    """Cap BLAS at this many threads, unless the user has set one of the variables that do so (or `force`)."""
    if not force and any(name in os.environ for name in _THREAD_VARIABLES):
        yield
    else:
        with _pools().limit(limits=threads, user_api="blas"):
            yield


@cache
def _pools() -> ThreadpoolController:
    """The BLAS that are loaded; to look for them takes milliseconds."""
    return ThreadpoolController()
