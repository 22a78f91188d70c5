"""`DistArray`: an array whose blocks lie on the ranks of a communicator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike, DTypeLike, NDArray

from mpihpc.arithmetic import Arithmetic
from mpihpc.core.decomposition import Box, Decomposition, Whole, Width, grid_text, halo_width, ranks_text
from mpihpc.core.failure import agree
from mpihpc.core.halo import Halo, boundary_modes, symmetric_width
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer
from mpihpc.dtypes import number_dtype, require_cast
from mpihpc.kernels import cpu
from mpihpc.reductions import Reductions

_LONG_ROW = 1024  # bytes; shorter ones would grow by too much


class DistArray(Arithmetic, Reductions):
    """A global array cut into one block per rank. Making it is collective.

    Made by the functions of this module (`zeros`, `asarray`, `fromfunction`, `from_local`, ...), by
    `mpihpc.io.read`, or from a decomposition as below. It wraps one local array: NumPy never sees the global one, and
    what NumPy does to `local` it does to this rank's block. Operators and NumPy's ufuncs work cell by cell
    (`mpihpc.arithmetic`), `sum` and others reduce (`mpihpc.reductions`).

    Parameters
    ----------
    decomposition : Decomposition
        How the global shape is cut; as many blocks as `comm` has ranks.
    dtype : dtype
        A number or bool dtype.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    halo : int, one int or one (before, after) pair per axis
        Cells kept around the block on each axis.

    Attributes
    ----------
    shape, ndim, size, dtype, nbytes
        Of the global array.
    decomposition : Decomposition
        Which rank owns which cells.
    comm : mpi4py.MPI.Intracomm
        The ranks.
    halo : tuple of (before, after) pairs
        Cells kept around the block on each axis.
    local : numpy.ndarray
        The rank's own block, a view; shape ``decomposition.box(comm.rank).shape``.
    padded : numpy.ndarray
        The block with its halo, whose cells mean something after `exchange`. An empty block has no halo. Its rows are
        contiguous, but may lie apart.
    memory, memory_box : numpy.ndarray, Box
        The contiguous array of which `padded` is a part, and the box that it covers.
    """

    def __init__(
        self,
        decomposition: Decomposition,
        dtype: DTypeLike = float,
        *,
        comm: MPI.Intracomm | None = None,
        halo: int | Sequence[int] | Width = 0,
    ) -> None:
        self.topology = Topology.of(comm)
        self.decomposition = decomposition
        with agree(self.topology.private):
            if decomposition.size != self.topology.size:
                raise ValueError(
                    f"grid {grid_text(decomposition.dims)} needs {ranks_text(decomposition.size)}, "
                    f"the job has {self.topology.size}"
                )
            self.halo = halo_width(halo, decomposition.ndim)
            self.box = decomposition.box(self.topology.rank)
            self.frame = self.box.grow(self.halo) if self.box.size else self.box
            self.memory, lead = _block_memory(self.frame.shape, number_dtype(dtype), self.halo[-1][0])
            self.padded = self.memory[..., lead : lead + self.frame.shape[-1]]
            corner = (*self.frame.start[:-1], self.frame.start[-1] - lead)
            self.memory_box = Box(corner, tuple(a + n for a, n in zip(corner, self.memory.shape, strict=True)))

    @property
    def comm(self) -> MPI.Intracomm:
        return self.topology.comm

    @property
    def shape(self) -> tuple[int, ...]:
        return self.decomposition.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.padded.dtype

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def local(self) -> NDArray[Any]:
        return self.padded[self.box.slices(self.frame.start)]

    def __repr__(self) -> str:
        return (
            f"DistArray(shape={self.shape}, dtype={self.dtype}, grid={grid_text(self.decomposition.dims)}, "
            f"rank {self.topology.rank} of {self.topology.size}: {self.box.slices()})"
        )

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            f"this array of shape {self.shape} lies on {self.topology.size} ranks: use .gather() for the whole of it "
            "on one rank, .gather(root=None) on all, or .local for this rank's block"
        )

    def __matmul__(self, other: Any) -> Any:
        from mpihpc.linalg import matmul  # it is above arrays

        return NotImplemented if getattr(other, "__array_ufunc__", self) is None else matmul(self, other)

    def __imatmul__(self, other: Any) -> Any:
        from mpihpc.linalg import matmul

        return matmul(self, other, out=self)

    def gather(self, root: int | None = 0) -> NDArray[Any] | None:
        """The whole array as a NumPy array. Collective.

        Parameters
        ----------
        root : int or None
            The rank that gets it; None: all ranks.

        Returns
        -------
        numpy.ndarray or None
            Global shape on the ranks that get it, None on the others.
        """
        size = self.topology.size
        with agree(self.topology.private):
            if root is not None and not 0 <= root < size:
                raise ValueError(f"root {root} is not one of the {size} ranks: use 0 to {size - 1}, or None for all")
            gets_it = root in (None, self.topology.rank)
            whole = np.empty(self.shape if gets_it else (0,) * self.ndim, self.dtype)
        self._move(Transfer(self.decomposition, Whole(self.shape, size, root)), whole)
        return whole if gets_it else None

    def redistribute(self, dims: Sequence[int] | None = None, *, halo: int | Sequence[int] | Width = 0) -> DistArray:
        """The same array cut another way, a new one. Collective.

        Parameters
        ----------
        dims : sequence of int, optional
            Ranks along each axis. Default: the balanced grid.
        halo : int, one int or one (before, after) pair per axis
            Of the new array.
        """
        with agree(self.topology.private):
            cut = Decomposition.balanced(self.shape, self.topology.size, halo=halo or 1, dims=dims)
        return self.recut(cut, halo=halo)

    def recut(self, decomposition: Decomposition, *, halo: int | Sequence[int] | Width = 0) -> DistArray:
        """The same array cut as `decomposition`, a new one. Collective."""
        new = DistArray(decomposition, self.dtype, comm=self.comm, halo=halo)
        self._move(Transfer(self.decomposition, new.decomposition), new.padded, new.frame.start)
        return new

    def exchange(self, mode: str | Sequence[str] = "reflect", cval: Any = 0.0) -> None:
        """Fill the halo. Collective.

        Before: each rank holds its block. After: `padded` also holds the cells around it, beyond the array as `mode`
        says. A loop should make one `mpihpc.core.halo.Halo` and use it again.

        Parameters
        ----------
        mode : str or sequence of str
            As in `scipy.ndimage`: one for all axes, or one per axis. On ``reflect`` and ``mirror`` axes the halo must
            be as deep before the block as after it.
        cval : scalar
            The value beyond ``constant`` axes.
        """
        with agree(self.topology.private):
            needed = symmetric_width(self.halo, boundary_modes(mode, self.ndim))
            if needed != self.halo:
                raise ValueError(f"halo {self.halo} is uneven on a mirrored axis: mode {mode!r} needs {needed}")
            cval = self.dtype.type(cval)
        Halo(self.decomposition, self.topology, self.halo, self.dtype, mode, cval).exchange(self.padded)

    def checksum(self) -> int:
        """A number that tells different arrays apart, the same however the array is cut. Collective.

        Returns
        -------
        int
            The sum modulo 2**64 over all cells of a hash of (global index, bits), on all ranks. See
            `mpihpc.kernels.cpu.checksum` for the hash. Not cryptographic.
        """
        with agree(self.topology.private):
            mine = np.array([cpu.checksum(self.local, self.box.start, self.shape)], np.uint64)
        self.topology.private.Allreduce(MPI.IN_PLACE, mine, op=MPI.SUM)
        return int(mine[0])

    def copy(self) -> DistArray:
        """A copy, halo included."""
        new = DistArray(self.decomposition, self.dtype, comm=self.comm, halo=self.halo)
        np.copyto(new.padded, self.padded)
        return new

    def astype(self, dtype: DTypeLike) -> DistArray:
        """A copy in another dtype, whose halo is as deep, and not filled.

        Raises
        ------
        TypeError
            The array is complex and `dtype` is not.
        """
        with agree(self.topology.private):
            require_cast(self.dtype, number_dtype(dtype))
        new = DistArray(self.decomposition, dtype, comm=self.comm, halo=self.halo)
        np.copyto(new.local, self.local, casting="unsafe")
        return new

    def _move(self, transfer: Transfer, target: NDArray[Any], origin: Sequence[int] | None = None) -> None:
        exchange = transfer.bind(self.topology, self.dtype, self.frame.start, origin)
        exchange(self.padded, target)
        exchange.close()


def empty(
    shape: int | Sequence[int],
    dtype: DTypeLike = float,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
) -> DistArray:
    """A new array whose cells hold anything. Collective, as all functions that make arrays.

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

    Raises
    ------
    ValueError
        `dims` does not fit the shape or the number of ranks.
    """
    topology = Topology.of(comm)
    with agree(topology.private):
        sizes = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
        cut = Decomposition.balanced(sizes, topology.size, halo=halo or 1, dims=dims)
    return DistArray(cut, dtype, comm=comm, halo=halo)


def full(shape: int | Sequence[int], fill_value: Any, dtype: DTypeLike | None = None, **where: Any) -> DistArray:
    """A new array filled with one number; `dtype` defaults to the number's. Other parameters: see `empty`."""
    with agree(Topology.of(where.get("comm")).private):
        value = np.asarray(fill_value, None if dtype is None else number_dtype(dtype))
        if value.ndim:
            raise ValueError(f"fill_value has shape {value.shape}: give one number")
    new = empty(shape, value.dtype, **where)
    new.padded[...] = value
    return new


def zeros(shape: int | Sequence[int], dtype: DTypeLike = float, **where: Any) -> DistArray:
    """A new array of zeros. Other parameters: see `empty`."""
    return full(shape, 0, dtype, **where)


def ones(shape: int | Sequence[int], dtype: DTypeLike = float, **where: Any) -> DistArray:
    """A new array of ones. Other parameters: see `empty`."""
    return full(shape, 1, dtype, **where)


def fromfunction(
    function: Callable[..., ArrayLike], shape: int | Sequence[int], *, dtype: DTypeLike = float, **where: Any
) -> DistArray:
    """A new array made by a function of the global indices, as `numpy.fromfunction`.

    Parameters
    ----------
    function : callable
        Called once per rank with one array of global indices per axis, each of the shape of the rank's block, so it
        must work cell by cell. Its result's dtype is the array's.
    shape : int or sequence of int
        Global shape.
    dtype : dtype
        Of the index arrays.
    **where
        `comm`, `dims`, `halo` of `empty`.
    """
    new = empty(shape, **where)
    index = [i.astype(dtype) for i in np.indices(new.box.shape, sparse=True)]
    index = [i + np.asarray(start, dtype) for i, start in zip(index, new.box.start, strict=True)]
    values = np.asarray(function(*(np.broadcast_to(i, new.box.shape).copy() for i in index)))
    found = new.topology.private.allgather(values.dtype)  # they may differ, where they depend on the values
    with agree(new.topology.private):
        common = np.result_type(*map(number_dtype, found))
        np.broadcast_shapes(values.shape, new.box.shape)
    if common != new.dtype:
        new = DistArray(new.decomposition, common, comm=new.comm, halo=new.halo)
    new.local[...] = values
    return new


def asarray(
    a: ArrayLike | None,
    dtype: DTypeLike | None = None,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
) -> DistArray:
    """Spread a global array that is present on one rank or on all. Collective.

    Before: either one rank holds the global array and the others pass None, or every rank holds all of it. After:
    each rank holds its block.

    Parameters
    ----------
    a : array_like or None
        The global array.
    dtype : dtype, optional
        Default: that of `a`.
    comm, dims, halo
        See `empty`.

    Raises
    ------
    ValueError
        Some ranks but not all hold an array, or they hold arrays of different shape or dtype.
    TypeError
        `a` is no array of numbers.
    """
    topology = Topology.of(comm)
    private = topology.private
    with agree(private):
        whole = None if a is None else np.asarray(a)
        if whole is not None:
            whole = whole.astype(number_dtype(whole.dtype), copy=False)
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
    new = empty(shape, source_dtype if dtype is None else dtype, comm=comm, dims=dims, halo=halo)
    if holders == topology.size and whole is not None:
        new.local[...] = whole[new.box.slices()]
        return new
    moved = new if new.dtype == source_dtype else DistArray(new.decomposition, source_dtype, comm=comm, halo=halo)
    exchange = Transfer(Whole(shape, topology.size, root), new.decomposition).bind(
        topology, source_dtype, None, moved.frame.start
    )
    exchange(whole if whole is not None else np.empty((0,) * len(shape), source_dtype), moved.padded)
    exchange.close()
    if moved is not new:
        new.local[...] = moved.local
    return new


def from_local(
    local: ArrayLike,
    shape: Sequence[int] | None = None,
    *,
    comm: MPI.Intracomm | None = None,
    dims: Sequence[int] | None = None,
    halo: int | Sequence[int] | Width = 0,
) -> DistArray:
    """An array from the blocks that the ranks already hold. Collective. The blocks are copied.

    Parameters
    ----------
    local : array_like
        This rank's block. It must be the block that `numpy.array_split` gives it: the first ``n % p`` of the ``p``
        blocks of an axis have one cell more.
    shape : sequence of int, optional
        Global shape. Default: the blocks' lengths added up along each axis of the grid.
    dims : sequence of int, optional
        Ranks along each axis. Default: the balanced grid if `shape` is given, else all ranks along the first axis.
    comm, halo
        See `empty`.

    Raises
    ------
    ValueError
        The blocks do not fit together, or are cut at other places. The line names the first such rank.
    """
    topology = Topology.of(comm)
    block = np.asarray(local)
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
    new = empty(shape, block.dtype, comm=comm, dims=dims, halo=halo)
    with agree(topology.private):
        if block.shape != new.box.shape:
            raise ValueError(
                f"the block has shape {block.shape}, but {new.box.shape} is this rank's share of shape {new.shape} "
                f"on grid {grid_text(new.decomposition.dims)}"
            )
    new.local[...] = block
    return new


def _block_memory(shape: Sequence[int], dtype: np.dtype, before: int) -> tuple[NDArray[Any], int]:
    """The memory for a block's padded array, and how many cells into its rows the block's rows begin.

    The rows of a block with a halo begin at a cache line, after `before` cells: streaming stores want it so.
    They are an odd number of lines apart: at a power of two they would get into each other's way in a cache.
    """
    line, length = 64 // math.gcd(64, dtype.itemsize), shape[-1]
    if not before or len(shape) == 1 or length * dtype.itemsize < _LONG_ROW or not math.prod(shape):
        return np.empty(shape, dtype), 0
    lead = -before % line
    row = (-(-(lead + length) // line) | 1) * line
    size = math.prod(shape[:-1]) * row
    raw = np.empty(size + line, dtype)
    first = -(raw.ctypes.data // dtype.itemsize) % line
    return raw[first : first + size].reshape(*shape[:-1], row), lead
