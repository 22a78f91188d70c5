"""Carrying a product out: panels travel while others are multiplied, partial sums go to those who own them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Box, Decomposition, Layout
from mpihpc.core.device import Device
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Delivery, Transfer, received
from mpihpc.linalg.plan import K, ProductPlan
from mpihpc.linalg.tiling import AsMatrix


class Matrix(NamedTuple):
    """A rank's part of a distributed matrix: how it is cut, the local cells, the place of the first of them."""

    layout: Layout
    local: Any
    start: tuple[int, ...]
    device: Device

    @classmethod
    def of(cls, array: DistArray, axes: tuple[int | None, ...]) -> Matrix:
        """An array seen as a matrix: see `AsMatrix`."""
        layout = AsMatrix(array.decomposition, axes)
        local = np.transpose(array.local, [d for d in axes if d is not None])
        for d in (d for d, axis in enumerate(axes) if axis is None):
            local = np.expand_dims(local, d)
        return cls(layout, local, layout.seen(array.box.start, 0), array.device)


@dataclass
class Counts:
    """What a rank did for a product: words that arrived, and bytes of workspace.

    Attributes
    ----------
    words : int
        Elements of panels and partial sums that other ranks have sent.
    words_relayout : int
        Elements that came because operands or `out` were not cut as the plan wants it.
    workspace : int
        The most bytes that panels and sums took at a time.
    """

    words: int = 0
    words_relayout: int = 0
    workspace: int = 0


def move(matrix: Matrix, need: Decomposition, topology: Topology, dtype: np.dtype) -> Any:
    """A rank's share of a matrix in another layout and dtype; its own memory, if that is the share. Collective."""
    box = need.box(topology.rank)
    delivery = Transfer(matrix.layout, need).deliver(topology, matrix.local, matrix.start, matrix.device)
    parts = list(delivery)
    if len(parts) == 1 and parts[0][0] == box:
        share = parts[0][1].astype(dtype, copy=False)
    else:
        share = matrix.device.empty(box.shape, dtype)
        for part, cells in parts:
            share[part.slices(box.start)] = cells.astype(dtype, copy=False)
    delivery.finish()
    return share


def multiply(
    plan: ProductPlan,
    topology: Topology,
    device: Device,
    a: Any,
    b: Any,
    c: Any,
    work: np.dtype,
    counts: Counts,
) -> None:
    """Multiply. Collective.

    Parameters
    ----------
    plan : ProductPlan
        Who multiplies what.
    topology : Topology
        The ranks.
    device : Device
        Where the strips are.
    a, b : numpy.ndarray or cupy.ndarray
        This rank's strips, as ``plan.own(0)`` and ``plan.own(1)`` cut the operands.
    c : numpy.ndarray or cupy.ndarray
        This rank's strip of the product, as ``plan.own(2)`` cuts it; overwritten.
    work : numpy.dtype
        To multiply and add in.
    counts : Counts
        Where to count.
    """
    rank, before = topology.rank, received.cells
    mine = plan.partial().box(rank)
    in_place = plan.grid[K] == 1 and c.dtype == work
    sums = c if in_place else device.empty(mine.shape[1:], work)
    held = 0 if in_place else sums.nbytes
    if not plan.panel(0, 0).tiling.box(rank).shape[1]:
        sums[...] = 0  # nothing to add

    def travel(step: int) -> list[Delivery]:
        if step == plan.slices:
            return []
        return [
            Transfer(plan.own(matrix), plan.panel(matrix, step)).deliver(
                topology, strip, plan.own(matrix).box(rank).start, device
            )
            for matrix, strip in enumerate((a, b))
        ]

    panels = travel(0)
    for step in range(plan.slices):
        coming = travel(step + 1)
        extra = _multiply_panels(plan, device, panels, sums, mine.start[1:], work, add=step > 0)
        counts.workspace = max(counts.workspace, held + extra + sum(p.nbytes for p in (*panels, *coming)))
        while panels:
            panels.pop().finish()  # and give its memory back before the next one begins to travel
        panels = coming
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
    sums: Any,
    start: Sequence[int],
    work: np.dtype,
    add: bool,
) -> int:
    """Multiply the parts of two panels as they arrive: first the own ones. Returns the bytes that it took."""
    left: Iterable[tuple[Box, Any]] = panels[0]
    right: Iterable[tuple[Box, Any]] = panels[1]
    extra = 0
    if plan.strips.a[1] > 1:
        left = _together(device, left)
        extra += sum(cells.nbytes for _, cells in left)
    if plan.strips.b[0] > 1:
        right = _together(device, right)
        extra += sum(cells.nbytes for _, cells in right)
    if plan.worksize != plan.itemsize:
        left, right = ([(box, cells.astype(work)) for box, cells in panel] for panel in (left, right))
        extra += sum(cells.nbytes for panel in (left, right) for _, cells in panel)
    room = device.empty(0, work)
    for rows, x in left:
        for columns, y in right:
            box = Box((rows.start[0], columns.start[1]), (rows.stop[0], columns.stop[1]))
            target = sums[box.slices(start)]
            if plan.blocks:
                _multiply_tiles(plan, box, rows.start[1], x, y, target)
            elif add:
                if room.size < target.size:
                    room = device.empty(target.size, work)
                product = room[: target.size].reshape(target.shape)
                np.matmul(x, y, out=product)
                target += product
            else:
                np.matmul(x, y, out=target)
    return extra + room.nbytes


def _together(device: Device, parts: Iterable[tuple[Box, Any]]) -> list[tuple[Box, Any]]:
    """The parts of a panel as one, where they are cut along k."""
    parts = list(parts)
    if not parts:
        return []
    starts, stops = zip(*(box for box, _ in parts), strict=True)
    box = Box(tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True))))
    panel = device.empty(box.shape, parts[0][1].dtype)
    for part, cells in parts:
        panel[part.slices(box.start)] = cells
    return [(box, panel)]


def _multiply_tiles(plan: ProductPlan, box: Box, first: int, x: Any, y: Any, target: Any) -> None:
    """Products of tiles that are the same for any number of ranks, added up in the same tree."""
    lines = [Decomposition((n,), (plan.blocks,)) for n in (plan.m, plan.n, plan.k)]

    def atoms(axis: int, start: int, stop: int) -> list[slice]:
        line = lines[axis]
        return [slice(line.cut(0, t) - start, line.cut(0, t + 1) - start) for t in line.blocks(0, start, stop)]

    depth = atoms(K, first, first + x.shape[1])
    depth += [slice(0, 0)] * (plan.blocks // plan.grid[K] - len(depth))  # fewer cells than blocks
    for i in atoms(0, box.start[0], box.stop[0]):
        for j in atoms(1, box.start[1], box.stop[1]):
            tiles = [x[i, t].copy() @ y[t, j].copy() for t in depth]
            _add_up(tiles, target[i, j])


def _add_up(parts: list[Any], out: Any) -> None:
    """The sum of some arrays, in pairs, and of these in pairs. The arrays are workspace."""
    while len(parts) > 2:
        pairs = [np.add(x, y, out=x) for x, y in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    if len(parts) == 1:
        out[...] = parts[0].astype(out.dtype, copy=False)
    else:
        np.add(parts[0], parts[1], out=out, casting="same_kind")
