"""Memory that two ranks of a node see: what one of them packs, the other takes out of it, and MPI copies nothing."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

_LINE = 64  # bytes; rows begin at multiples of it

Rows = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Two rows of bytes for one message, which take turns."""


class _Offer(NamedTuple):
    """Where a rank finds the memory of another one, and in it the rows of a message."""

    path: str
    name: str
    nbytes: int
    places: tuple[int, int]


def share(
    comm: MPI.Intracomm, tag: int, leaving: Mapping[int, int], arriving: Mapping[int, int]
) -> tuple[dict[int, Rows], dict[int, Rows]]:
    """Rows for messages that this rank writes and others read, and the other way round. Collective among these ranks.

    Two rows for each message, so that nobody need say when it has read one: who has heard of a peer in the turn after
    the one in which it wrote to a row knows that the peer has read it, for it reads before it begins anew.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks.
    tag : int
        For the messages that this takes.
    leaving, arriving : mapping of int to int
        Bytes to each peer, and from each.

    Returns
    -------
    mine, theirs : dict of int to Rows
        By peer. Peers that do not see this rank's memory, as they are on another node, or whose memory it does not see,
        are missing on both sides, and so are all if there is no memory.

    Notes
    -----
    The memory is a file without a name (``memfd_create``), which peers find among the open files of the process in
    /proc; so nothing is left behind however a process ends, and the size of /dev/shm does not matter. All of it is
    reserved at once: to touch what is not there would end a process.
    """
    file, memory, name = -1, np.empty(0, np.uint8), f"mpihpc-{secrets.token_hex(8)}"
    ends = np.cumsum([0, *(-(-n // _LINE) * _LINE for n in leaving.values() for _ in range(2))]).tolist()
    places = {peer: (ends[2 * n], ends[2 * n + 1]) for n, peer in enumerate(leaving)}
    if leaving and hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
            file = os.memfd_create(name)
            os.posix_fallocate(file, 0, ends[-1])
            memory = _mapped(file, ends[-1], mmap.PROT_READ | mmap.PROT_WRITE)
    sends = []
    for peer in leaving:
        offer = _Offer(f"/proc/{os.getpid()}/fd/{file}", name, ends[-1], places[peer]) if memory.size else None
        sends.append(comm.isend(offer, peer, tag))
    theirs = {}
    for peer, nbytes in arriving.items():
        offer = comm.recv(source=peer, tag=tag)
        if offer and (rows := _find(offer, nbytes)):
            theirs[peer] = rows
        sends.append(comm.isend(peer in theirs, peer, tag))
    seen = [peer for peer in leaving if comm.recv(source=peer, tag=tag)]
    MPI.Request.waitall(sends)
    if file >= 0:
        os.close(file)
    return {peer: _rows(memory, places[peer], leaving[peer]) for peer in seen}, theirs


def _find(offer: _Offer, nbytes: int) -> Rows | None:
    """The rows that another process offers, if this one sees them."""
    try:
        # On another node, or beyond the walls of a container, it may be any file of another process.
        if os.readlink(offer.path) != f"/memfd:{offer.name} (deleted)":
            return None
        file = os.open(offer.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _rows(_mapped(file, offer.nbytes, mmap.PROT_READ), offer.places, nbytes)
        finally:
            os.close(file)
    except OSError:
        return None


def _mapped(file: int, nbytes: int, access: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(file, nbytes, mmap.MAP_SHARED | mmap.MAP_POPULATE, access), np.uint8)


def _rows(memory: NDArray[np.uint8], places: tuple[int, int], nbytes: int) -> Rows:
    first, second = (memory[at : at + nbytes] for at in places)
    return first, second
