"""Memory that two ranks of a node share: one packs into it, the other unpacks from it, and MPI copies nothing."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

_LINE = 64  # bytes of a cache line; buffers begin at multiples of it

Rows = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Two buffers for one message, used in turn."""


class _Offer(NamedTuple):
    """Where a rank finds the buffers of a message in the memory of another rank."""

    path: str
    name: str
    first: int
    nbytes: int


def share(
    comm: MPI.Intracomm, tag: int, leaving: Mapping[int, int], arriving: Mapping[int, int]
) -> tuple[dict[int, Rows], dict[int, Rows]]:
    """Buffers for messages that this rank writes and others read, and vice versa. Collective among these ranks.

    Each message has two buffers, used in turn, which makes acknowledgements unnecessary: a peer reads a buffer before
    it starts its next turn, so hearing from it in turn n proves that it has read buffer n - 1, the next to be
    overwritten. Users of the buffers must not skip a turn, and must hear from every peer in every turn.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks.
    tag : int
        For the messages that set this up.
    leaving, arriving : mapping of int to int
        Bytes to each peer, and from each peer.

    Returns
    -------
    mine, theirs : dict of int to Rows
        By peer. A peer that cannot see this rank's memory, because it is on another node or no memory could be made, is
        missing in `mine`, and this rank is missing in the peer's `theirs`.

    Notes
    -----
    The memory is an anonymous file (``memfd_create``), which peers open through /proc. So nothing is left behind
    however a process ends, and the size of /dev/shm does not matter. All of it is reserved at once, because touching
    memory that cannot be provided would kill a process. Before Python 3.13, each mapping keeps a file descriptor open.
    """
    lengths = {peer: 2 * _rounded(nbytes, _LINE) for peer, nbytes in leaving.items()}
    ends = np.cumsum([0, *(_rounded(length, mmap.ALLOCATIONGRANULARITY) for length in lengths.values())]).tolist()
    places = dict(zip(leaving, ends[:-1], strict=True))
    file, memory, name = -1, np.empty(0, np.uint8), f"mpihpc-{secrets.token_hex(8)}"
    try:
        if leaving and hasattr(os, "memfd_create"):
            with contextlib.suppress(OSError, ValueError, MemoryError):
                file = os.memfd_create(name)
                os.posix_fallocate(file, 0, ends[-1])
                memory = _mapped(file, 0, ends[-1], mmap.PROT_READ | mmap.PROT_WRITE)
        sends, theirs = [], {}
        for peer in leaving:
            offer = _Offer(f"/proc/{os.getpid()}/fd/{file}", name, places[peer], lengths[peer])
            sends.append(comm.isend(offer if memory.size else None, peer, tag))
        for peer, nbytes in arriving.items():
            rows = _find(comm.recv(source=peer, tag=tag), nbytes)
            if rows:
                theirs[peer] = rows
            sends.append(comm.isend(rows is not None, peer, tag))
        seen = [peer for peer in leaving if comm.recv(source=peer, tag=tag)]
        MPI.Request.waitall(sends)
    finally:
        if file >= 0:
            os.close(file)
    return {peer: _rows(memory[places[peer] :][: lengths[peer]], leaving[peer]) for peer in seen}, theirs


def _find(offer: _Offer | None, nbytes: int) -> Rows | None:
    """The buffers that another process offers, if this process can open them."""
    # On another node or in another container, the path may belong to any file of another process.
    with contextlib.suppress(OSError, ValueError, MemoryError):
        if offer and os.readlink(offer.path) == f"/memfd:{offer.name} (deleted)":
            file = os.open(offer.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _rows(_mapped(file, offer.first, offer.nbytes, mmap.PROT_READ), nbytes)
            finally:
                os.close(file)
    return None


def _mapped(file: int, first: int, nbytes: int, protection: int) -> NDArray[np.uint8]:
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}  # keep no descriptor
    return np.frombuffer(mmap.mmap(file, nbytes, flags, protection, offset=first, **options), np.uint8)


def _rows(memory: NDArray[np.uint8], nbytes: int) -> Rows:
    return memory[:nbytes], memory[len(memory) // 2 :][:nbytes]


def _rounded(nbytes: int, grain: int) -> int:
    return -(-nbytes // grain) * grain
