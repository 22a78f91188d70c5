"""The plans of stencils: of some steps after one exchange, and of many steps one after the other."""

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
    """The plan of some steps of a stencil after one exchange. Making it is collective.

    Parameters
    ----------
    decomposition : Decomposition
        How the arrays are cut; 1 to 4 axes.
    taps : Taps
        What is read around each cell.
    dtype : numpy.dtype
        float32, float64, complex64 or complex128; complex where the weights are.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    mode, cval
        What lies beyond the array: see `evolve`.
    threads : int, optional
        Threads of this rank. Default: OMP_NUM_THREADS, else the cores it may call its own.
    fuse : int, optional
        Steps after one exchange, in one pass over memory: 1 to 64. Default: as many as a model of this machine finds
        best; it measures the machine once, and keeps what it finds in the user's cache folder.
    field : DistArray, optional
        What the sum is multiplied with before it is added to the old value: see `evolve`. It is copied.
    levels : int
        How many steps a new value depends on: 1, or 2 as in `leapfrog`.
    exact : bool
        False: a kernel that is a product of lines may be applied line by line, one step after each exchange, if there
        are neither a field nor two levels; and kernels on a GPU may fuse multiplications with additions.
    overlap : bool, optional
        Whether the middle of the block advances while the halo travels. Default: if the model finds it faster; not with
        lines.
    total : int, optional
        How many steps there will be: no more are fused.
    device : str or Device
        Where the arrays are: see `DistArray`.

    Attributes
    ----------
    halo : Halo
        The exchange. ``halo.width`` is the depth that padded arrays must have.
    threads : int
        Threads of this rank.
    lines : list of Taps
        What is applied in place of the kernel, one line after the other; none if that is not worth while.
    fusing : Fusing
        ``fusing.steps``: the most steps after one exchange. ``fusing.overlap``: whether the middle advances meanwhile.
        ``fusing.seconds``: what the model expects of one step.
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
        """Exchange the halo of `padded`, and write the block after some steps to `out`. Collective.

        Parameters
        ----------
        padded : numpy.ndarray
            This rank's block with a halo of ``halo.width``; the halo is overwritten.
        out : numpy.ndarray
            Shape of the block; must not share memory with `padded`.
        steps : int
            1 to ``fusing.steps``.
        previous : numpy.ndarray, optional
            Like `padded`, with the values a step earlier, if the plan has two levels.
        kept : numpy.ndarray, optional
            Like `out`, for the values after ``steps - 1`` steps, if there is a `previous` and more than one step.
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
        """Refuse an array that is not cut, padded and typed as the plan wants it."""
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
        """Write a box of the block after some steps to its place in `out`, and that of one step less to `kept`."""
        here, place = box.slices(self._block.start), [(s.start, s.stop) for s in box.slices(self._start)]
        if self.lines:
            self._passes.advance(padded, out[here], place)
            return
        offsets, weights = self._taps
        update: dict[str, Any] = {"field": self._field, "previous": previous, "strict": self._strict}
        update["kept"] = None if kept is None else kept[here]
        self.device.kernels.advance(padded, out[here], offsets, weights, steps, place, **self._beyond, **update)


class Evolution:
    """The plan of many steps, one after the other. Making it is collective.

    Parameters are those of `Stencil` but `levels`. Holds one padded array of its own.
    """

    def __init__(self, decomposition: Decomposition, taps: Taps, dtype: DTypeLike, **options: Any) -> None:
        self.stencil = Stencil(decomposition, taps, dtype, **options)
        place: dict[str, Any] = {"comm": options.get("comm"), "device": self.stencil.device}
        self._other = DistArray(decomposition, dtype, halo=self.stencil.halo.width, **place)
        self._other.padded.fill(0)  # the system gives memory at the first touch: now, not in the first step
        self._turns = Stepper(self.stencil)

    def run(self, u: DistArray, steps: int, callback: Callable[[int], None] | None = None) -> DistArray:
        """Advance `u`. Collective.

        Before: `u` has the plan's decomposition, dtype and halo. After: the result is returned, and `u` is
        workspace: do not use it again.

        Parameters
        ----------
        u : DistArray
            The array to advance.
        steps : int
            Number of steps.
        callback : callable, optional
            Called on every rank after each pass over memory with the number of steps done. On a GPU, passes have begun
            by then, and so may have some of the next ones.
        """
        self.stencil.check(u)
        u, self._other = self._turns.run(self._advance, (u, self._other), steps, callback)
        return u

    def _advance(self, arrays: Arrays, steps: int) -> Arrays:
        u, other = arrays
        self.stencil.apply(u.padded, other.local, steps)
        return other, u


class Leapfrog:
    """The plan of many steps from two levels, as `leapfrog` makes them. Making it is collective.

    Parameters are those of `Stencil` but `levels`. Holds one padded array of its own, or two if steps are fused.
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
        """Advance `u` and `previous`, the values a step earlier. Collective.

        Before: both have the plan's decomposition, dtype and halo. After: the new two are returned, and the old ones
        are workspace: do not use them again.
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
    """Refuse an array that is not cut like the one it belongs to, or is elsewhere."""
    require_distributed(array, name)
    require_beside(array, name, topology, device, "u")
    if array.decomposition != decomposition:
        raise ValueError(f"{name} must have the decomposition of u: {array.decomposition} is not {decomposition}")


def padded_copy(u: DistArray, dtype: np.dtype, width: Any) -> DistArray:
    """The array in another dtype and with another halo, whose cells are not filled yet."""
    new = u.like(dtype=dtype, halo=width)
    new.local[...] = u.local
    return new


def check_axes(ndim: int) -> None:
    """Refuse arrays that the kernels do not know."""
    if not 1 <= ndim <= 4:
        raise ValueError(f"stencils work on 1 to 4 axes, the input has {ndim}")
