"""Operands of functions of distributed arrays: what they are, whether they belong together, what a rank needs of them.

Every such function asks `together` first: it makes a wrong operand on one rank the same error on all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from mpihpc.core.decomposition import Decomposition
from mpihpc.core.device import Device
from mpihpc.core.failure import agree
from mpihpc.core.projection import Spread
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer

if TYPE_CHECKING:
    from mpihpc.array import DistArray


class Distributed:
    """Marks `DistArray`, which modules below it cannot import."""

    __slots__ = ()


def is_distributed(x: Any) -> TypeGuard[DistArray]:
    """Whether it is a `DistArray`."""
    return isinstance(x, Distributed)


@contextmanager
def together(function: str, needed: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> Iterator[Topology]:
    """`agree` on the ranks of some operands, beginning with the question whether they belong together. Collective.

    Parameters
    ----------
    function : str
        What they are the operands of, for errors.
    needed : mapping of names to objects
        They must be DistArrays.
    others : mapping of names to objects, optional
        They may be anything, but those that are DistArrays must be on the same ranks and the same device.

    Yields
    ------
    Topology
        The ranks of the first that is a DistArray. If a rank has none, it cannot know them, and takes COMM_WORLD.

    Raises
    ------
    TypeError
        One of `needed` is no DistArray, or one of `others` is one on some ranks only.
    ValueError
        Not all are on the same ranks and the same device.
    """
    operands = {**needed, **(others or {})}
    first = next((x for x in operands.values() if is_distributed(x)), None)
    topology = Topology.of() if first is None else first.topology
    spread = ", ".join(name for name, x in operands.items() if is_distributed(x))
    with agree(topology.private, alike=f"{function}: DistArrays are {spread}"):
        like = next((name for name, x in operands.items() if x is first), "")
        for name, x in operands.items():
            if not is_distributed(x) and name not in needed:
                continue
            require_distributed(x, f"{function}: {name}")
            require_beside(x, f"{function}: {name}", topology, x.device if first is None else first.device, like)
        yield topology


def require_distributed(x: Any, name: str) -> None:
    """Refuse what is no `DistArray`. For use within `agree`.

    Raises
    ------
    TypeError
        It is something else.
    """
    if not is_distributed(x):
        raise TypeError(f"{name} must be a DistArray, not {type(x).__name__}: use mpihpc.asarray first")


def require_beside(
    x: DistArray, name: str, topology: Topology, device: Device | None = None, like: str = "the others"
) -> None:
    """Refuse an array on other ranks, or on another device if one is given. For use within `agree`.

    Raises
    ------
    ValueError
        It is elsewhere.
    """
    if x.topology is not topology:
        raise ValueError(
            f"{name} is on a different communicator than {like} ({x.topology.size} and {topology.size} ranks): "
            "make both with the same comm"
        )
    if device is not None and x.device is not device:
        raise ValueError(f"{name} is on {x.device.label}, {like} on {device.label}: use .to_device")


def plain(a: DistArray) -> DistArray:
    """The array, cut as `Decomposition` cuts: products may be cut otherwise. Collective."""
    return a if type(a.decomposition) is Decomposition else a.redistribute()


def local_part(x: Any, frame: DistArray) -> Any:
    """What this rank needs of an operand for its block of `frame`. Collective.

    A number stays as it is, and of an array that all ranks hold it is a view. A distributed array, of the shape of
    `frame` or one that can be broadcast to it, is moved where it is not cut alike.
    """
    if not is_distributed(x) or x.decomposition == frame.decomposition:
        return Part(x, frame).cells
    with agree(frame.topology.private):
        part = Part(x, frame)
    return part.fetched()


class Part:
    """What a rank needs of an operand for its block of a frame: see `local_part`, which is enough for most.

    Making it is not collective and may fail on one rank: it finds the memory. `fetched` is collective, and communicates
    if the operand is cut otherwise.
    """

    def __init__(self, x: Any, frame: DistArray) -> None:
        self.frame = frame
        self._transfer: Transfer | None = None
        self._before: Part | None = None
        if not is_distributed(x):
            alone = np.ndim(x) == 0
            self.cells: Any = x if alone else frame.device.asarray(np.broadcast_to(x, frame.shape)[frame.box.slices()])
            return
        if x.decomposition == frame.decomposition:
            self.cells = x.local
            return
        need: Any
        more, have, need = (0,) * (frame.ndim - x.ndim), x.decomposition, frame.decomposition
        if x.shape != frame.shape:
            if type(have) is not Decomposition:  # of a product
                self._before = Part(x, x.allocate_like(Decomposition.balanced(x.shape, x.topology.size)))
                x = self._before.frame
            shape = (1,) * len(more) + x.shape
            have = Decomposition(shape, (1,) * len(more) + x.decomposition.dims)
            need = Spread(frame.decomposition, tuple(d for d, n in enumerate(shape) if n == 1))
        box = need.box(frame.topology.rank)
        self._transfer = Transfer(have, need)
        self._source = x.local[(None,) * len(more)]
        self._origins = more + x.box.start, box.start
        self.cells = frame.device.empty(box.shape, x.dtype)

    def fetched(self) -> Any:
        """The cells. Collective."""
        if self._before:
            self._before.frame.local[...] = self._before.fetched()
        if self._transfer:
            frame = self.frame
            self._transfer.move(frame.topology, self._source, self.cells, *self._origins, frame.device)
        return self.cells
