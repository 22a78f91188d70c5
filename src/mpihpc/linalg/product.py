"""Carrying out a product: panels travel while others are multiplied, and partial sums go to their owners."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Box, Decomposition, Layout
from mpihpc.core.device import Device
from mpihpc.core.tally import received
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Delivery, Transfer
from mpihpc.linalg.plan import K, ProductPlan
from mpihpc.linalg.tiling import AsMatrix, Slice

# Bytes of a share that travel at once, and of a message. Pieces this small reuse memory: in fresh memory, which the
# system clears first, 134 MB took 0.16 to 0.7 s, in reused memory 0.07 s.
_PIECE, _LEAST = 2 << 20, 64 << 10
# Rows of B in a slice, if operands are distributed otherwise: adding up the slices takes a hundredth of the time.
_THICK = 8192
# Rows and columns of a piece of a reproducible product, for one thread: in smaller ones, copying takes too much time.
_SIDE = 1024


class Matrix(NamedTuple):
    """A rank's part of a distributed matrix: layout, local cells, global index of the first one, device."""

    layout: Layout
    local: Any
    start: tuple[int, ...]
    device: Device

    @classmethod
    def of(cls, array: DistArray, axes: tuple[int | None, ...]) -> Matrix:
        """An array viewed as a matrix: see `AsMatrix`."""
        layout = AsMatrix(array.decomposition, axes)
        local = np.transpose(array.local, [d for d in axes if d is not None])
        for d in (d for d, axis in enumerate(axes) if axis is None):
            local = np.expand_dims(local, d)
        return cls(layout, local, layout.seen(array.box.start, 0), array.device)


@dataclass
class Counts:
    """What a product cost this rank: words received, and bytes of workspace.

    Attributes
    ----------
    words : int
        Elements of panels and partial sums received from other ranks.
    words_relayout : int
        Elements received because operands or `out` were not distributed as the plan wants.
    workspace : int
        The most bytes that panels and sums took at any time.

    Examples
    --------
    >>> import mpihpc
    >>> cut, counts = mpihpc.linalg.layouts(8, 8, 8), mpihpc.linalg.Counts()
    >>> a, b = mpihpc.DistArray(cut.a), mpihpc.DistArray(cut.b)
    >>> c = mpihpc.linalg.matmul(a, b, counts=counts)
    >>> counts.words_relayout
    0
    """

    words: int = 0
    words_relayout: int = 0
    workspace: int = 0


def moved(matrix: Matrix, need: Decomposition, topology: Topology, dtype: np.dtype) -> Matrix:
    """A matrix redistributed and in another dtype; without a copy if the rank already has its share. Collective.

    It travels in pieces, one of them while the one before is copied into place.
    """
    box = need.box(topology.rank)
    stays = [part.box for part in matrix.layout.parts(topology.rank)] == [box]
    if stays:
        share = matrix.local[box.slices(matrix.start)].astype(dtype, copy=False)
    else:
        share = matrix.device.scratch(box.shape, dtype)
    nbytes = math.prod(need.shape) * matrix.local.dtype.itemsize // topology.size
    steps = min(nbytes // _PIECE, nbytes // (topology.size * _LEAST)) or 1
    longest = need.shape.index(max(need.shape))

    def travel(step: int) -> Delivery:
        piece = Slice(need, longest, step, steps)
        return Transfer(matrix.layout, piece).deliver(topology, matrix.local, matrix.start, matrix.device)

    coming = travel(0)
    for step in range(1, steps + 1):
        delivery = coming
        if step < steps:
            coming = travel(step)
        for part, cells in delivery:
            if not stays:
                share[part.slices(box.start)] = cells.astype(dtype, copy=False)
        delivery.finish()
    return Matrix(need, share, box.start, matrix.device)


def multiply(
    plan: ProductPlan,
    topology: Topology,
    device: Device,
    operands: Sequence[Matrix],
    c: Any,
    dtype: np.dtype,
    work: np.dtype,
    threads: int,
    counts: Counts,
) -> None:
    """Multiply. Collective.

    Panels come from the owners of the operands. If these are distributed as ``plan.own`` says, a rank receives the
    fewest words, and needs the workspace that the plan states.

    Parameters
    ----------
    plan : ProductPlan
        Who multiplies what.
    topology : Topology
        The ranks.
    device : Device
        Where the operands are.
    operands : pair of Matrix
        Distributed in any way, of any dtype. For a plan with `memory` or `blocks` they must be distributed as it says.
    c : numpy.ndarray or cupy.ndarray
        This rank's strip of the product, as ``plan.own(2)`` cuts it; overwritten.
    dtype, work : numpy.dtype
        Of the product, and to multiply and add in.
    threads : int
        Of this rank.
    counts : Counts
        Where to count.
    """
    rank, before = topology.rank, received.cells
    own = [plan.own(side).box(rank) for side in (0, 1)]
    planned = [
        matrix.local.dtype in (dtype, work) and [p.box for p in matrix.layout.parts(rank)] == [box] * bool(box.size)
        for matrix, box in zip(operands, own, strict=True)
    ]
    # What one rank has decides how others get it, and all go through k in as many slices.
    agreed = topology.private.allreduce(planned[0] | planned[1] << 1, op=MPI.BAND)
    planned = [bool(agreed & 1), bool(agreed & 2)]
    slices = plan.slices if all(planned) else max(plan.slices, plan.k // plan.grid[K] // _THICK)
    mine = plan.partial().box(rank)
    in_place = plan.grid[K] == 1 and c.dtype == work
    sums = c if in_place else device.scratch(mine.shape[1:], work)
    held = 0 if in_place else sums.nbytes
    if not plan.panel(0, 0).tiling.box(rank).shape[1]:
        sums[...] = 0  # nothing to add

    def travel(step: int) -> list[Delivery]:
        if step == slices:
            return []
        return [
            Transfer(matrix.layout, plan.panel(side, step, slices)).deliver(
                topology, matrix.local, matrix.start, device
            )
            for side, matrix in enumerate(operands)
        ]

    panels = travel(0)
    for step in range(slices):
        coming = travel(step + 1)
        extra = _multiply_panels(plan, device, panels, planned, sums, mine.start[1:], dtype, work, step > 0, threads)
        counts.workspace = max(counts.workspace, held + extra + sum(p.nbytes for p in (*panels, *coming)))
        while panels:
            panels.pop().finish()  # and give its memory back before the next one begins to travel
        panels = coming
    arrived, before = received.cells - before, received.cells
    fewest = sum(plan.face(side, rank) - box.size for side, box in enumerate(own))
    counts.words += min(arrived, fewest)
    counts.words_relayout += max(0, arrived - fewest)
    if plan.grid[K] > 1:
        delivery = Transfer(plan.partial(), plan.to_add()).deliver(topology, sums[np.newaxis], mine.start, device)
        counts.workspace = max(counts.workspace, held + delivery.nbytes)
        parts = [cells[0] for _, cells in sorted(delivery, key=lambda part: part[0].start)]
        if parts:
            _add_up(parts, c)
        delivery.finish()
    elif not in_place and c.size:
        c[...] = sums.astype(c.dtype, copy=False)
    counts.words += received.cells - before


def _multiply_panels(
    plan: ProductPlan,
    device: Device,
    panels: Sequence[Delivery],
    planned: Sequence[bool],
    sums: Any,
    start: Sequence[int],
    dtype: np.dtype,
    work: np.dtype,
    add: bool,
    threads: int,
) -> int:
    """Multiply the parts of two panels as they arrive: first the own ones. Returns the bytes that it took."""
    extra = 0

    def converted(parts: Iterable[tuple[Box, Any]], kind: np.dtype) -> list[tuple[Box, Any]]:
        nonlocal extra
        before = list(parts)
        after = [(box, cells.astype(kind, copy=False)) for box, cells in before]
        extra += sum(new.nbytes for (_, new), (_, old) in zip(after, before, strict=True) if new is not old)
        return after

    sides: list[Iterable[tuple[Box, Any]]] = []
    for side, (panel, as_planned) in enumerate(zip(panels, planned, strict=True)):
        parts: Iterable[tuple[Box, Any]] = panel if as_planned else converted(panel, dtype)
        together = plan.joined[side]
        if not as_planned:
            together = len({(box.start[1 - side], box.stop[1 - side]) for box, _ in parts}) > 1  # cut along k
        if together:
            parts = _together(device, parts)
            extra += sum(cells.nbytes for _, cells in parts)
        sides.append(parts if work == dtype else converted(parts, work))
    left, right = sides
    room = device.scratch(0, work)
    for rows, x in left:
        for columns, y in right:
            box = Box((rows.start[0], columns.start[1]), (rows.stop[0], columns.stop[1]))
            target = sums[box.slices(start)]
            if plan.blocks:
                _multiply_blocks(plan, device, box, rows.start[1], x, y, target, threads)
            elif device.multiply(x, y, target, add, threads):
                continue
            elif add:
                if room.size < target.size:
                    room = device.scratch(target.size, work)
                product = room[: target.size].reshape(target.shape)
                np.matmul(x, y, out=product)
                target += product
            else:
                np.matmul(x, y, out=target)
    return extra + room.nbytes


def _together(device: Device, parts: Iterable[tuple[Box, Any]]) -> list[tuple[Box, Any]]:
    """The parts of a panel as one."""
    parts = list(parts)
    if not parts:
        return []
    starts, stops = zip(*(box for box, _ in parts), strict=True)
    box = Box(tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True))))
    panel = device.scratch(box.shape, parts[0][1].dtype)
    for part, cells in parts:
        panel[part.slices(box.start)] = cells
    return [(box, panel)]


def _multiply_blocks(
    plan: ProductPlan, device: Device, box: Box, first: int, x: Any, y: Any, target: Any, threads: int
) -> None:
    """Products of blocks of k that are the same for any number of ranks, added up in the same tree."""
    lines = [Decomposition((n,), (plan.blocks,)) for n in (plan.m, plan.n, plan.k)]

    def atoms(axis: int, start: int, stop: int) -> list[slice]:
        line = lines[axis]
        return [slice(line.cut(0, t) - start, line.cut(0, t + 1) - start) for t in line.blocks(0, start, stop)]

    def own(i: slice, j: slice, t: slice) -> Any:
        product = device.scratch((i.stop - i.start, j.stop - j.start), target.dtype)
        if not device.multiply(x[i, t], y[t, j], product, False, threads, always=True):
            raise TypeError(f"operands with strides {x.strides} and {y.strides} bytes are not cells of {x.dtype}")
        return product

    def by_blas(i: slice, j: slice, t: slice) -> Any:
        return x[i, t].copy() @ y[t, j].copy()

    depth = atoms(K, first, first + x.shape[1])
    depth += [slice(0, 0)] * (plan.blocks // plan.grid[K] - len(depth))  # fewer cells than blocks
    if device.multiplies(target.dtype):
        side = _SIDE * math.isqrt(threads)
        if plan.memory is not None:  # this many of its products exist at a time
            held = plan.blocks.bit_length() + 1
            side = max(64, min(side, math.isqrt(plan.memory // (held * target.dtype.itemsize))))
        pieces = [[slice(i, min(i + side, n)) for i in range(0, n, side)] for n in target.shape]
        product = own
    else:  # the bits of BLAS depend on the size and the strides of a matrix, and on the number of threads
        pieces = [atoms(axis, box.start[axis], box.stop[axis]) for axis in (0, 1)]
        product = by_blas
    for i, j in itertools.product(*pieces):
        _add_up((product(i, j, t) for t in depth), target[i, j])


def _add_up(parts: Iterable[Any], out: Any) -> None:
    """The sum of some arrays, in pairs, pairs of pairs, and so on. The arrays are workspace."""
    sums: list[tuple[int, Any]] = []  # number of arrays in each sum: powers of two, decreasing
    for part in parts:
        while len(sums) > 1 and sums[-2][0] == sums[-1][0]:
            count, last = sums.pop()
            np.add(sums[-1][1], last, out=sums[-1][1])
            sums[-1] = 2 * count, sums[-1][1]
        sums.append((1, part))
    while len(sums) > 2:
        _, last = sums.pop()
        np.add(sums[-1][1], last, out=sums[-1][1])
    if len(sums) == 1:
        out[...] = sums[0][1].astype(out.dtype, copy=False)
    else:
        np.add(sums[0][1], sums[1][1], out=out, casting="same_kind")
