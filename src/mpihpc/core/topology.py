"""Communicators: the ranks, and which of them share a node."""

from __future__ import annotations

import atexit
import os
import warnings
from collections import Counter
from contextlib import ExitStack

from mpi4py import MPI

from mpihpc.core.device import Device, find_device
from mpihpc.core.exits import watch_exits
from mpihpc.core.failure import agree, leave
from mpihpc.core.launch import check_launch, mpi_active
from mpihpc.core.timeout import watch_script
from mpihpc.core.watchdog import phase


class Topology:
    """The ranks of a communicator. `Topology.of` returns one object per communicator.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm
        The user's communicator.
    private : mpi4py.MPI.Intracomm
        A duplicate for the package's own messages, so that they never match the user's.
    rank, size : int
        The number of this rank, and the number of ranks.
    cores : int
        Cores for this rank: those it is bound to, divided by the number of ranks bound to them. At least 1.
    node_rank : int
        The number of this rank among those on its node.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.Topology.of() is mpihpc.Topology.of()
    True
    >>> mpihpc.zeros(4).topology is mpihpc.Topology.of()
    True
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm
        self.private = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        node = self.private.Split_type(MPI.COMM_TYPE_SHARED, self.rank)
        mine = _affinity()
        others = node.allgather(mine)
        self.node_rank = node.rank
        node.Free()
        self.cores = max(1, len(mine) // max(sum(core in other for other in others) for core in mine))
        self._tags = 0
        self._devices: dict[str, Device] = {}

    @classmethod
    def of(cls, comm: MPI.Intracomm | None = None) -> Topology:
        """The topology of a communicator (None: COMM_WORLD). Collective the first time, free afterwards.

        Raises
        ------
        LaunchError
            MPI is not running, or the launcher does not belong to this MPI library, so that each process sees only
            itself.
        TypeError
            `comm` is not an intracommunicator.

        Examples
        --------
        >>> import mpihpc
        >>> topology = mpihpc.Topology.of()
        >>> topology.rank < topology.size
        True
        """
        check_launch()
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            raise TypeError(f"comm must be an mpi4py intracommunicator, not {comm!r}")
        known = comm.Get_attr(_attribute())
        if isinstance(known, Topology):
            return known
        new = cls(comm)
        comm.Set_attr(_attribute(), new)
        _in_use.append(new)
        if comm == MPI.COMM_WORLD:
            watch_exits()
            _at_end.enter_context(watch_script(new.private))
        return new

    def device(self, name: str | Device) -> Device:
        """The device of this rank, of the same kind on all ranks. Collective.

        Parameters
        ----------
        name : str or Device
            ``cpu``; ``gpu``; or ``auto``: GPUs if all ranks have one. A `Device` is returned as it is.

        Raises
        ------
        ValueError
            An unknown name, or ``gpu`` and a rank has none. On all ranks, with the same text.

        Examples
        --------
        >>> import mpihpc
        >>> mpihpc.Topology.of().device("cpu").name
        'cpu'
        """
        if not isinstance(name, str):
            return name
        if name not in self._devices:
            with agree(self.private):
                found = find_device(name, self.node_rank)
            names: list[str] = self.private.allgather(found.name)
            if set(names) != {found.name}:
                found = find_device("cpu", 0)
            if found.name == "gpu":
                self._tell_of_sharing(found)
            self._devices[name] = found
        return self._devices[name]

    def _tell_of_sharing(self, device: Device) -> None:
        """Warn, once, if several ranks share a GPU."""
        ranks = Counter(self.private.allgather(device.identity))
        most = max(ranks.values())
        if most > 1 and self.rank == 0:
            gpus = "1 GPU" if len(ranks) == 1 else f"{len(ranks)} GPUs, up to {most} each"
            advice = "start as many ranks on a node as it has GPUs"
            warnings.warn(f"{self.size} ranks share {gpus}: {advice}", RuntimeWarning, stacklevel=3)

    def next_tag(self) -> int:
        """A tag for a new plan: all ranks create plans in the same order, so they agree on the tag.

        Examples
        --------
        >>> import mpihpc
        >>> topology = mpihpc.Topology.of()
        >>> topology.next_tag() != topology.next_tag()
        True
        """
        self._tags += 1
        return self._tags % 32768  # MPI guarantees tags up to 32767


def _affinity() -> frozenset[int]:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


_in_use: list[Topology] = []  # in the order of creation, which is the same on all of their ranks
_at_end = ExitStack()
_process = os.getpid()


@atexit.register
def _leave_all() -> None:
    """At the end of the script: this rank makes no more calls, on any communicator."""
    if mpi_active() and os.getpid() == _process:  # a forked child is not a rank
        phase("end of the script")
        for topology in _in_use:
            leave(topology.private)
        _at_end.close()


_keyval: int | None = None


def _attribute() -> int:
    """The key under which a communicator carries its topology."""
    global _keyval
    if _keyval is None:
        _keyval = MPI.Comm.Create_keyval(delete_fn=_release)
    return _keyval


def _release(comm: MPI.Comm, keyval: int, topology: Topology) -> None:
    """Free the duplicate when the user frees the communicator (that of COMM_WORLD is freed by MPI_Finalize)."""
    _in_use.remove(topology)
    if comm not in (MPI.COMM_WORLD, MPI.COMM_SELF):
        topology.private.Free()
