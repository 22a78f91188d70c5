"""Functions that make distributed arrays, as NumPy's array creation routines do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike, DTypeLike

from mpihpc.array import DistArray
from mpihpc.core.decomposition import Decomposition, Width, grid_text
from mpihpc.core.device import CPU, Device
from mpihpc.core.dtypes import number_dtype, numbers, require_cast
from mpihpc.core.failure import agree
from mpihpc.core.layouts import Whole
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer


def empty(
    shape: int | Sequence[int],
    dtype: DTypeLike = float,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
    device: str | Device = "cpu",
) -> DistArray:
    """A new, uninitialised array. Collective, as are all functions that create arrays.

    Parameters
    ----------
    shape : int or sequence of int
        Global shape.
    dtype : dtype
        A number or bool dtype.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    dims : sequence of int, optional
        Ranks along each axis. Default: the grid with the fewest halo bytes.
    halo : int, one int or one (before, after) pair per axis
        Cells kept around each block.
    device : str or Device
        Where the blocks are: ``cpu``, ``gpu``, or ``auto`` (see `DistArray`).

    Raises
    ------
    ValueError
        `dims` does not fit the shape or the number of ranks.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.empty((4, 3), "int32").shape
    (4, 3)
    """
    topology = Topology.of(comm)
    with agree(topology.private):
        sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        cut = Decomposition.balanced(sizes, topology.size, halo=halo or 1, dims=dims)
    return DistArray(cut, dtype, comm=comm, halo=halo, device=device)


def full(shape: int | Sequence[int], fill_value: Any, dtype: DTypeLike | None = None, **where: Any) -> DistArray:
    """A new array filled with one number. Collective.

    Parameters
    ----------
    shape : int or sequence of int
        Global shape.
    fill_value : scalar
        The number.
    dtype : dtype, optional
        Default: that of the number.
    **where
        `comm`, `dims`, `halo`, `device` of `empty`.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.full((2, 2), 7).gather(root=None)
    array([[7, 7],
           [7, 7]])
    """
    with agree(Topology.of(where.get("comm")).private):
        value = numbers(fill_value, "fill_value", dtype)
        if value.ndim:
            raise ValueError(f"fill_value has shape {value.shape}: give one number")
    new = empty(shape, value.dtype, **where)
    new.padded[...] = value
    return new


def zeros(shape: int | Sequence[int], dtype: DTypeLike = float, **where: Any) -> DistArray:
    """A new array of zeros. Collective. Parameters: see `empty`.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.zeros(3).gather(root=None)
    array([0., 0., 0.])
    """
    return full(shape, 0, dtype, **where)


def ones(shape: int | Sequence[int], dtype: DTypeLike = float, **where: Any) -> DistArray:
    """A new array of ones. Collective. Parameters: see `empty`.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.ones(3).gather(root=None)
    array([1., 1., 1.])
    """
    return full(shape, 1, dtype, **where)


def fromfunction(
    function: Callable[..., ArrayLike], shape: int | Sequence[int], *, dtype: DTypeLike = float, **where: Any
) -> DistArray:
    """A new array computed from the global indices, as `numpy.fromfunction`. Collective.

    Parameters
    ----------
    function : callable
        Called once per rank with one array of global indices per axis, each of the shape of the rank's block and on the
        device of the new array. It must work elementwise. The new array has the dtype of its result.
    shape : int or sequence of int
        Global shape.
    dtype : dtype
        Of the index arrays.
    **where
        `comm`, `dims`, `halo`, `device` of `empty`.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.fromfunction(lambda i, j: 10 * i + j, (2, 3)).gather(root=None)
    array([[ 0.,  1.,  2.],
           [10., 11., 12.]])
    """
    new = empty(shape, **where)
    device = new.device
    index = [np.arange(a, b).astype(dtype) for a, b in zip(*new.box, strict=True)]
    grid = np.meshgrid(*(device.asarray(i) for i in index), indexing="ij")
    with agree(new.topology.private):
        values = device.asarray(function(*grid))
        np.broadcast_shapes(values.shape, new.box.shape)
    found = new.topology.private.allgather(values.dtype)  # they may differ, where they depend on the values
    common = np.result_type(*map(number_dtype, found))
    if common != new.dtype:
        new = new.like(dtype=common)
    new.local[...] = values
    return new


def asarray(
    a: ArrayLike | None,
    dtype: DTypeLike | None = None,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
    device: str | Device = "cpu",
) -> DistArray:
    """Distribute a global array that one rank holds, or all ranks. Collective.

    Before: either one rank holds the global array and the others pass None, or every rank holds all of it. After:
    each rank holds its block.

    Parameters
    ----------
    a : array_like or None
        The global array.
    dtype : dtype, optional
        Default: that of `a`.
    comm, dims, halo, device
        See `empty`.

    Raises
    ------
    ValueError
        Some ranks but not all hold an array, or they hold arrays of different shape or dtype.
    TypeError
        `a` is not an array of numbers.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([[1, 2], [3, 4]])
    >>> u.sum()
    np.int64(10)

    If only rank 0 has the array, the others pass None:

    >>> comm = mpihpc.Topology.of().comm
    >>> mpihpc.asarray([1, 2, 3] if comm.rank == 0 else None).sum()
    np.int64(6)
    """
    topology = Topology.of(comm)
    private = topology.private
    with agree(private):
        whole = None if a is None else numbers(a)
    holders: int = private.allreduce(0 if whole is None else 1)
    with agree(private):
        if holders not in (1, topology.size):
            raise ValueError(f"{holders} of {topology.size} ranks hold an array: it must be on 1 of them or on all")
    root: int = private.allreduce(topology.size if whole is None else topology.rank, op=MPI.MIN)
    shape, source_dtype = private.bcast(None if whole is None else (whole.shape, whole.dtype), root=root)
    with agree(private):
        if whole is not None and (whole.shape, whole.dtype) != (shape, source_dtype):
            raise ValueError(
                f"the array has shape {whole.shape} and dtype {whole.dtype}, "
                f"but {shape} and {source_dtype} on rank {root}"
            )
        require_cast(source_dtype, number_dtype(source_dtype if dtype is None else dtype))
    new = empty(shape, source_dtype if dtype is None else dtype, comm=comm, dims=dims, halo=halo, device=device)
    if holders == topology.size and whole is not None:
        new.local[...] = new.device.asarray(whole[new.box.slices()].astype(new.dtype, copy=False))
        return new
    here = new.dtype == source_dtype and new.device.host
    moved = new if here else new.like(dtype=source_dtype, device=CPU)
    source = whole if whole is not None else np.empty((0,) * len(shape), source_dtype)
    Transfer(Whole(shape, topology.size, root), new.decomposition).move(
        topology, source, moved.padded, None, moved.frame.start
    )
    if moved is not new:
        new.local[...] = new.device.asarray(moved.local.astype(new.dtype, copy=False))
    return new


def from_local(
    local: ArrayLike,
    shape: Sequence[int] | None = None,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
    device: str | Device = "cpu",
) -> DistArray:
    """An array from the blocks that the ranks hold, which are copied. Collective.

    Parameters
    ----------
    local : array_like
        This rank's block, in host memory or on the device. It must be the block that `numpy.array_split` gives it: the
        first ``n % p`` of the ``p`` blocks of an axis have one cell more.
    shape : sequence of int, optional
        Global shape. Default: the blocks' lengths added up along each axis of the grid.
    dims : sequence of int, optional
        Ranks along each axis. Default: the balanced grid if `shape` is given, else all ranks along the first axis.
    comm, halo, device
        See `empty`.

    Raises
    ------
    ValueError
        The blocks do not fit together, or are not those of `numpy.array_split`. The message names the first such rank.

    Examples
    --------
    >>> import mpihpc
    >>> comm = mpihpc.Topology.of().comm
    >>> u = mpihpc.from_local([1.0, 2.0])  # two cells of each rank
    >>> u.shape == (2 * comm.size,)
    True
    """
    topology = Topology.of(comm)
    there = topology.device(device)
    with agree(topology.private):
        block = there.asarray(local)
    shapes = topology.private.allgather((block.shape, block.dtype))
    with agree(topology.private):
        if len({len(s) for s, _ in shapes}) > 1 or block.ndim == 0:
            raise ValueError(f"blocks must have the same number of axes, at least 1, this one has {block.ndim}")
        if block.dtype != shapes[0][1]:
            raise ValueError(f"the block has dtype {block.dtype}, but {shapes[0][1]} on rank 0")
        if shape is None:
            grid = tuple(dims) if dims is not None else (topology.size,) + (1,) * (block.ndim - 1)
            place = Decomposition.balanced((0,) * block.ndim, topology.size, dims=grid)
            lines = (
                [place.rank([c if e == d else 0 for e in range(block.ndim)]) for c in range(p)]
                for d, p in enumerate(grid)
            )
            shape = tuple(sum(shapes[r][0][d] for r in line) for d, line in enumerate(lines))
            dims = grid
    new = empty(shape, block.dtype, comm=comm, dims=dims, halo=halo, device=there)
    with agree(topology.private):
        if block.shape != new.box.shape:
            raise ValueError(
                f"the block has shape {block.shape}, but {new.box.shape} is this rank's share of shape {new.shape} "
                f"on grid {grid_text(new.decomposition.dims)}"
            )
    new.local[...] = block
    return new
