"""Halo exchange: every block gets the cells around it, from its neighbours and from beyond the boundary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpihpc.core.decomposition import Decomposition, Width, axes_text
from mpihpc.core.device import CPU, Device
from mpihpc.core.failure import nearest
from mpihpc.core.layouts import Grown
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Exchange, Transfer

MODES = {
    "reflect": "reflect",
    "constant": "constant",
    "nearest": "nearest",
    "mirror": "mirror",
    "wrap": "wrap",
    "grid-mirror": "reflect",
    "grid-constant": "constant",
    "grid-wrap": "wrap",
    "dirichlet": "constant",
    "neumann": "reflect",
    "periodic": "wrap",
}
"""Names of boundary modes, with SciPy's meaning, and the five modes that they stand for."""


def boundary_modes(mode: str | Sequence[str], ndim: int) -> tuple[str, ...]:
    """One canonical boundary mode per axis, from one name for all axes or one per axis.

    Raises
    ------
    ValueError
        An unknown name, or not one name per axis.

    Examples
    --------
    >>> boundary_modes("periodic", 2)
    ('wrap', 'wrap')
    """
    names = [mode] * ndim if isinstance(mode, str) else list(mode)
    if len(names) != ndim:
        raise ValueError(f"{len(names)} boundary modes for {axes_text(ndim)}: give 1, or one per axis")
    for name in names:
        if name not in MODES:
            raise ValueError(f"unknown mode {name!r}: {nearest(str(name), MODES)}")
    return tuple(MODES[name] for name in names)


def cells_beyond(index: np.ndarray, n: int, mode: str) -> np.ndarray:
    """The index inside an axis of length `n` whose cell an index beyond the axis refers to, as in `scipy.ndimage`.

    Examples
    --------
    >>> cells_beyond(np.arange(-4, 0), 3, "reflect"), cells_beyond(np.arange(-4, 0), 3, "mirror")
    (array([2, 2, 1, 0]), array([0, 1, 2, 1]))
    """
    if mode == "nearest":
        return np.clip(index, 0, n - 1)
    if mode == "reflect":  # (d c b a | a b c d | d c b a)
        index = index % (2 * n)
        return np.minimum(index, 2 * n - 1 - index)
    period = max(2 * n - 2, 1)  # mirror: (d c b | a b c d | c b a)
    index = index % period
    return np.minimum(index, period - index) if n > 1 else np.zeros_like(index)


class Halo:
    """The plan for a halo exchange of arrays of one decomposition and dtype. Making it is collective.

    Parameters
    ----------
    decomposition : Decomposition
        How the array is distributed.
    topology : Topology
        The ranks.
    width : tuple of (before, after) pairs
        Depth on each axis. It may exceed blocks, and the array.
    dtype : numpy.dtype
        Of the arrays.
    mode : str or sequence of str
        How the array continues beyond its edges, for all axes or one per axis: see `MODES`.
    cval : scalar
        The value beyond ``constant`` axes.
    corners : bool
        Whether edges and corners of the halo are needed too. If not, their cells are undefined.
    beyond : bool
        Whether to fill the cells beyond the array. The kernels make their own.
    device : Device
        Where the arrays are.

    Attributes
    ----------
    width : tuple of (before, after) pairs
        The halo that arrays must have. On ``reflect`` and ``mirror`` axes it is the larger depth on both sides, because
        mirrored cells may be beyond the smaller one.
    messages, bytes : int
        What this rank sends to others in each exchange.
    silent : bool
        Whether it neither sends nor receives.

    Raises
    ------
    ValueError
        An unknown mode, or not one per axis.

    Examples
    --------
    >>> import mpihpc
    >>> from mpi4py import MPI
    >>> u = mpihpc.asarray([1.0, 2, 3], comm=MPI.COMM_SELF, halo=1)
    >>> Halo(u.decomposition, u.topology, u.halo, u.dtype, "periodic").exchange(u.padded)
    >>> u.padded
    array([3., 1., 2., 3., 1.])
    """

    def __init__(
        self,
        decomposition: Decomposition,
        topology: Topology,
        width: Width,
        dtype: np.dtype,
        mode: str | Sequence[str] = "reflect",
        cval: Any = 0.0,
        corners: bool = True,
        beyond: bool = True,
        device: Device = CPU,
    ) -> None:
        modes = boundary_modes(mode, decomposition.ndim)
        self.width = symmetric_width(width, modes)
        periodic = tuple(m == "wrap" for m in modes)
        grown = Grown(decomposition, self.width, periodic, corners)
        box = decomposition.box(topology.rank)
        padded = box.grow(self.width) if box.size else box
        self._exchange: Exchange = Transfer(decomposition, grown, in_place=True).bind(
            topology, dtype, padded.start, padded.start, device
        )
        self.messages, self.bytes = self._exchange.messages, self._exchange.bytes
        self.silent = self._exchange.silent
        self._cval = cval
        self._fills = []
        for axis, (m, n) in enumerate(zip(modes, decomposition.shape, strict=True)):
            start, stop = padded.start[axis], padded.stop[axis]
            for lo, hi in ((start, min(0, stop)), (max(n, start), stop)):
                if m == "wrap" or lo >= hi or not box.size or not beyond:
                    continue
                target = (slice(None),) * axis + (slice(lo - start, hi - start),)
                source = None if m == "constant" else device.asarray(cells_beyond(np.arange(lo, hi), n, m) - start)
                self._fills.append((axis, target, source))

    def start(self, padded: Any) -> None:
        """Send what the neighbours need. The block must not change before `finish`."""
        self._exchange.start(padded)

    def progress(self) -> None:
        """Let messages make progress; between `start` and `finish`, any number of times."""
        self._exchange.progress()

    def finish(self, padded: Any) -> None:
        """Receive the halo and fill the cells beyond the array. Collective: in one turn it waits for the neighbours."""
        self._exchange.finish(padded, padded)
        # Axis by axis over the full width, so that corners get the composition of two modes.
        for axis, target, source in self._fills:
            padded[target] = self._cval if source is None else padded.take(source, axis)

    def exchange(self, padded: Any) -> None:
        """Fill the halo of this rank's padded block. Collective.

        Before: the interior of `padded` holds the rank's block. After: its halo holds the cells around the block too.

        Parameters
        ----------
        padded : numpy.ndarray or cupy.ndarray
            The block with a halo of ``width``, of the plan's dtype, on its device.
        """
        self.start(padded)
        self.finish(padded)


def symmetric_width(width: Width, modes: Sequence[str]) -> Width:
    """The depth needed on each axis: the larger one on both sides if the boundary mirrors.

    Examples
    --------
    >>> symmetric_width(((1, 3), (0, 2)), ("reflect", "wrap"))
    ((3, 3), (0, 2))
    """
    return tuple((max(w), max(w)) if m in ("reflect", "mirror") else w for w, m in zip(width, modes, strict=True))
