"""Plans for stencils: `Stencil` for the steps after one halo exchange, `Evolution` and `Leapfrog` for many of those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Complex
from operator import index
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from mpihpc.array import DistArray
from mpihpc.array.operands import require_beside, require_distributed
from mpihpc.core.decomposition import Box, Decomposition, grid_text, ranks_text
from mpihpc.core.device import Device, thread_count
from mpihpc.core.failure import agree
from mpihpc.core.halo import Halo, boundary_modes, symmetric_width
from mpihpc.core.topology import Topology
from mpihpc.stencil.fusing import Fusing, choose_fuse, deep_width
from mpihpc.stencil.overlap import early_and_late
from mpihpc.stencil.rates import Step
from mpihpc.stencil.separable import Passes, lines_worth_it
from mpihpc.stencil.stepping import Arrays, Stepper
from mpihpc.stencil.taps import Taps, working_dtype

MOST_FUSED = 64


class Stencil:
    """The plan for one halo exchange and the fused steps of a stencil that follow it. Making it is collective.

    Parameters
    ----------
    decomposition : Decomposition
        How the arrays are distributed; 1 to 4 axes.
    taps : Taps
        What is read around each cell.
    dtype : numpy.dtype
        float32, float64, complex64 or complex128; complex if the weights are.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    mode, cval
        How the array continues beyond its edges: see `evolve`.
    threads : int, optional
        Threads of this rank. Default: OMP_NUM_THREADS, else the number of cores that this rank has to itself.
    fuse : int, optional
        Steps per exchange, made in one pass over memory: 1 to 64. Default: chosen by a model, which measures the
        machine once and keeps the rates in the user's cache folder.
    field : DistArray, optional
        Real. Each step adds ``field * (weighted sum)`` to the cell: see `evolve`. It is copied.
    levels : int
        The number of earlier steps that a new value depends on: 1, or 2 as in `leapfrog`.
    exact : bool
        False: a separable kernel may be applied one axis at a time, one step per exchange, if there is no field and
        only one level; and kernels on a GPU may use fused multiply-add.
    overlap : bool, optional
        Whether the interior of the block is computed while the halo travels. Default: chosen by the model; off for
        kernels that are applied one axis at a time.
    total : int, optional
        The total number of steps to come: no more are fused.
    device : str or Device
        Where the arrays are: see `DistArray`.

    Attributes
    ----------
    halo : Halo
        The exchange. Padded arrays must have a halo of ``halo.width``.
    threads : int
        Threads of this rank.
    lines : list of Taps
        The one-dimensional kernels that are applied in place of the kernel; empty if that would not be faster.
    fusing : Fusing
        ``fusing.steps``: the most steps per exchange. ``fusing.overlap``: whether the interior is computed while
        messages travel. ``fusing.seconds``: the predicted time of one step.

    Raises
    ------
    ValueError, TypeError
        As `evolve`. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([1.0, 2, 4, 8])
    >>> plan = Stencil(u.decomposition, Taps.from_kernel([-1, 1], ndim=1), u.dtype, fuse=1)
    >>> padded, out = padded_copy(u, u.dtype, plan.halo.width), mpihpc.zeros(u.shape)
    >>> plan.apply(padded.padded, out.local)
    >>> out.gather(root=None)
    array([0., 1., 2., 4.])
    """

    def __init__(
        self,
        decomposition: Decomposition,
        taps: Taps,
        dtype: DTypeLike,
        *,
        comm: MPI.Intracomm | None = None,
        mode: str | Sequence[str] = "reflect",
        cval: Any = 0.0,
        threads: int | None = None,
        fuse: int | None = None,
        field: DistArray | None = None,
        levels: int = 1,
        exact: bool = True,
        overlap: bool | None = None,
        total: int | None = None,
        device: str | Device = "cpu",
    ) -> None:
        topology = Topology.of(comm)
        self.device = topology.device(device)
        dtype = np.dtype(dtype)
        with agree(topology.private):
            check_axes(decomposition.ndim)
            modes = boundary_modes(mode, decomposition.ndim)
            if dtype != working_dtype(dtype, taps):
                raise TypeError(f"stencils compute in {working_dtype(dtype, taps)}, not in {dtype}")
            if not isinstance(cval, Complex) or (cval.imag and dtype.kind != "c"):
                raise TypeError(f"cval {cval!r} is not one number of dtype {dtype}")
            if decomposition.size != topology.size:
                raise ValueError(
                    f"grid {grid_text(decomposition.dims)} needs {ranks_text(decomposition.size)}, "
                    f"the job has {topology.size}"
                )
            if fuse is not None and not 1 <= index(fuse) <= MOST_FUSED:
                raise ValueError(f"fuse {fuse} is not from 1 to {MOST_FUSED}")
            real = np.empty(0, dtype).real.dtype
            if field is not None:
                check_companion("field", field, decomposition, topology, self.device)
                if field.dtype.kind == "c":
                    raise TypeError(f"field is {field.dtype}, it must be real")
            if overlap not in (None, True, False):
                raise TypeError(f"overlap {overlap!r} is not True, False or None")
            self.threads = thread_count(topology.cores, threads)
            self.lines = [] if exact or levels > 1 or field is not None else lines_worth_it(taps)
        self.dtype = dtype
        width = symmetric_width(taps.width, modes)
        most_threads = topology.private.allreduce(self.threads, op=MPI.MAX)
        step = Step(taps, dtype, field is not None, levels)
        if self.lines:
            self.fusing = Fusing(1, bool(overlap), None)
        elif (most := self.device.kernels.steps_at_once(taps.offsets)) is None:
            self.fusing = choose_fuse(decomposition, step, width, modes, topology, most_threads, fuse, overlap, total)
        else:
            # Launches return at once, so there is always something to overlap with.
            steps = fuse or min(most, max(1, total or MOST_FUSED))
            self.fusing = Fusing(steps, topology.size > 1 if overlap is None else overlap, None)
        steps = self.fusing.steps
        self.halo = Halo(
            decomposition,
            topology,
            deep_width(decomposition, width, modes, steps),
            dtype,
            modes,
            corners=not taps.star or steps > 1,
            beyond=False,
            device=self.device,
        )
        box = decomposition.box(topology.rank)
        start = box.grow(self.halo.width).start
        self._decomposition, self._block, self._start = decomposition, box, start
        self._early: list[Box] = []
        self._late = [box] if box.size else []
        if self.fusing.overlap and box.size:
            twice = max(width[0]) * (steps - 1)
            where = decomposition, topology.rank, self.halo.width, modes, dtype.itemsize
            # Slabs are for MPI to make progress in between; what is asynchronous computes meanwhile anyway.
            self._early, self._late = early_and_late(*where, twice, slabs=not self.device.asynchronous)
        edges = [(-s, n - s) for n, s in zip(decomposition.shape, start, strict=True)]
        self._beyond: dict[str, Any] = {"edges": edges, "modes": modes, "cval": complex(cval), "threads": self.threads}
        self._taps = taps.offsets, taps.weights_for(dtype)
        self._strict = exact
        self._passes = Passes(self.lines, self.halo.width, dtype, self.device, **self._beyond)
        self._field = None
        if field is not None:
            mine = padded_copy(field, real, self.halo.width)
            halo = Halo(decomposition, topology, self.halo.width, real, modes, beyond=False, device=self.device)
            halo.exchange(mine.padded)
            self._field = mine.padded

    def apply(
        self,
        padded: Any,
        out: Any,
        steps: int = 1,
        previous: Any | None = None,
        kept: Any | None = None,
    ) -> None:
        """Exchange the halo of `padded`, and write the block after `steps` steps to `out`. Collective.

        Before: `padded` holds this rank's block; its halo may hold anything. After: `out` holds the new block, and the
        halo of `padded` is overwritten.

        Parameters
        ----------
        padded : numpy.ndarray or cupy.ndarray
            This rank's block with a halo of ``halo.width``, of the plan's dtype.
        out : numpy.ndarray or cupy.ndarray
            Shape of the block; must not share memory with `padded`.
        steps : int
            1 to ``fusing.steps``.
        previous : numpy.ndarray or cupy.ndarray, optional
            Like `padded`, with the values one step earlier, if the plan has two levels.
        kept : numpy.ndarray or cupy.ndarray, optional
            Like `out`: receives the values after ``steps - 1`` steps. Needed with a `previous` and more than one step.
        """
        with self.device.lane(urgent=True):
            self.halo.start(padded)
            for box in self._early:
                with self.device.lane(urgent=False):
                    self._advance(padded, out, steps, box, previous, kept)
                self.halo.progress()  # on a GPU it waits for the messages to be packed, and not for the middle
            self.halo.finish(padded)
            if previous is not None and steps > 1:
                self.halo.exchange(previous)
            for box in self._late:
                self._advance(padded, out, steps, box, previous, kept)

    def check(self, u: DistArray) -> None:
        """Refuse an array that does not have the plan's decomposition, dtype, halo and device."""
        wanted = self._decomposition, self.dtype, self.halo.width, self.device.label
        given = u.decomposition, u.dtype, u.halo, u.device.label
        if given != wanted:
            raise ValueError(f"the plan is for {wanted}, the array has {given}")

    def _advance(
        self,
        padded: Any,
        out: Any,
        steps: int,
        box: Box,
        previous: Any | None,
        kept: Any | None,
    ) -> None:
        """Write a box of the block to its place in `out`, and its values one step before the last to `kept`."""
        here, place = box.slices(self._block.start), [(s.start, s.stop) for s in box.slices(self._start)]
        if self.lines:
            self._passes.advance(padded, out[here], place)
            return
        offsets, weights = self._taps
        update: dict[str, Any] = {"field": self._field, "previous": previous, "strict": self._strict}
        update["kept"] = None if kept is None else kept[here]
        self.device.kernels.advance(padded, out[here], offsets, weights, steps, place, **self._beyond, **update)


class Evolution:
    """The plan for many steps. Making it is collective.

    Parameters are those of `Stencil`, without `levels`. It holds one padded array of its own.

    Attributes
    ----------
    stencil : Stencil
        The plan for the steps after one exchange.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([0.0, 0, 8, 0, 0])
    >>> plan = Evolution(u.decomposition, Taps.from_kernel([0.25, 0.5, 0.25], ndim=1), u.dtype)
    >>> plan.run(padded_copy(u, u.dtype, plan.stencil.halo.width), 2).gather(root=None)
    array([0.5, 2. , 3. , 2. , 0.5])
    """

    def __init__(self, decomposition: Decomposition, taps: Taps, dtype: DTypeLike, **options: Any) -> None:
        self.stencil = Stencil(decomposition, taps, dtype, **options)
        place: dict[str, Any] = {"comm": options.get("comm"), "device": self.stencil.device}
        self._other = DistArray(decomposition, dtype, halo=self.stencil.halo.width, **place)
        self._other.padded.fill(0)  # the system gives memory at the first touch: now, not in the first step
        self._turns = Stepper(self.stencil)

    def run(self, u: DistArray, steps: int, callback: Callable[[int], None] | None = None) -> DistArray:
        """Advance `u`. Collective.

        Before: `u` has the plan's decomposition, dtype and halo. After: the result is returned, and `u` has become
        workspace: do not use it again.

        Parameters
        ----------
        u : DistArray
            The array to advance.
        steps : int
            Number of steps.
        callback : callable, optional
            Called on every rank after each pass over memory with the number of steps done. On a GPU these passes have
            started, and may not have finished; later ones may have started too.

        Returns
        -------
        DistArray
            With the plan's decomposition, dtype and halo.

        Raises
        ------
        ValueError
            `u` is not as the plan wants it.
        """
        self.stencil.check(u)
        u, self._other = self._turns.run(self._advance, (u, self._other), steps, callback)
        return u

    def _advance(self, arrays: Arrays, steps: int) -> Arrays:
        u, other = arrays
        self.stencil.apply(u.padded, other.local, steps)
        return other, u


class Leapfrog:
    """The plan for many steps that depend on two earlier ones, as in `leapfrog`. Making it is collective.

    Parameters are those of `Stencil`, without `levels`. It holds one padded array of its own, or two if steps are
    fused.

    Attributes
    ----------
    stencil : Stencil
        The plan for the steps after one exchange.

    Examples
    --------
    >>> import mpihpc
    >>> u, previous = mpihpc.asarray([0.0, 0, 4, 0, 0]), mpihpc.asarray([0.0, 2, 0, 2, 0])
    >>> plan = Leapfrog(u.decomposition, Taps.from_kernel([1, -2, 1], ndim=1), u.dtype, mode="constant")
    >>> given = [padded_copy(a, a.dtype, plan.stencil.halo.width) for a in (u, previous)]
    >>> plan.run(*given, steps=1)[0].gather(root=None)
    array([0., 2., 0., 2., 0.])
    """

    def __init__(self, decomposition: Decomposition, taps: Taps, dtype: DTypeLike, **options: Any) -> None:
        self.stencil = Stencil(decomposition, taps, dtype, levels=2, **options)
        place: dict[str, Any] = {"comm": options.get("comm"), "device": self.stencil.device}
        self._others = [
            DistArray(decomposition, dtype, halo=self.stencil.halo.width, **place)
            for _ in range(min(2, self.stencil.fusing.steps))
        ]
        self._turns = Stepper(self.stencil)

    def run(
        self, u: DistArray, previous: DistArray, steps: int, callback: Callable[[int], None] | None = None
    ) -> tuple[DistArray, DistArray]:
        """Advance `u` and `previous`, the values one step earlier. Collective.

        Before: both have the plan's decomposition, dtype and halo. After: two arrays are returned, and the given ones
        have become workspace: do not use them again. Parameters and errors are those of `Evolution.run`.
        """
        self.stencil.check(u)
        self.stencil.check(previous)
        arrays = u, previous, *self._others
        u, previous, *self._others = self._turns.run(self._advance, arrays, steps, callback)
        return u, previous

    def _advance(self, arrays: Arrays, steps: int) -> Arrays:
        u, previous, new, *more = arrays
        if steps == 1:
            self.stencil.apply(u.padded, new.local, 1, previous.padded)
            return new, u, previous, *more
        (kept,) = more
        self.stencil.apply(u.padded, new.local, steps, previous.padded, kept.local)
        return new, kept, u, previous


def check_companion(
    name: str, array: DistArray, decomposition: Decomposition, topology: Topology, device: Device
) -> None:
    """Refuse an array that is not distributed like the one it belongs to, or is elsewhere."""
    require_distributed(array, name)
    require_beside(array, name, topology, device, "u")
    if array.decomposition != decomposition:
        raise ValueError(f"{name} must have the decomposition of u: {array.decomposition} is not {decomposition}")


def padded_copy(u: DistArray, dtype: np.dtype, width: Any) -> DistArray:
    """A copy of the array in another dtype and with another halo, which is not filled yet.

    Parameters
    ----------
    u : DistArray
        Not changed.
    dtype : numpy.dtype
        Of the copy.
    width : tuple of (before, after) pairs
        The halo of the copy.

    Examples
    --------
    >>> import mpihpc
    >>> padded_copy(mpihpc.asarray([1, 2, 3]), np.dtype(float), ((1, 1),)).gather(root=None)
    array([1., 2., 3.])
    """
    new = u.like(dtype=dtype, halo=width)
    new.local[...] = u.local
    return new


def check_axes(ndim: int) -> None:
    """Refuse arrays with more axes than the kernels support."""
    if not 1 <= ndim <= 4:
        raise ValueError(f"stencils work on 1 to 4 axes, the input has {ndim}")
