"""`DistArray`: an array whose blocks live on the ranks of a communicator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from mpihpc.array.elementwise import Arithmetic
from mpihpc.array.indexing import Indexing
from mpihpc.array.operands import Distributed
from mpihpc.array.reductions import Reductions
from mpihpc.array.refusals import Refusals
from mpihpc.core.decomposition import Box, Decomposition, Width, grid_text, halo_width, ranks_text
from mpihpc.core.device import Device
from mpihpc.core.dtypes import number_dtype, require_cast
from mpihpc.core.failure import agree
from mpihpc.core.halo import Halo, boundary_modes, symmetric_width
from mpihpc.core.layouts import Whole
from mpihpc.core.staging import download, slab_cells
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer
from mpihpc.kernels import cpu

_LONG_ROW = 1024  # bytes; shorter ones would grow by too much


class DistArray(Distributed, Arithmetic, Reductions, Indexing, Refusals):
    """A global array cut into one block per rank. Creating one is collective.

    Use the functions of `mpihpc.array.creation` (`zeros`, `asarray`, `fromfunction`, `from_local`, ...) or
    `mpihpc.io.read`, or pass a decomposition as below. Each rank holds one local array; NumPy never sees the global
    one, and NumPy functions of `local` work on this rank's block. Operators and NumPy ufuncs apply elementwise
    (`mpihpc.array.elementwise`); `sum` and other methods reduce (`mpihpc.array.reductions`).

    Parameters
    ----------
    decomposition : Decomposition
        How the global shape is cut: one block for each rank of `comm`.
    dtype : dtype
        A number or bool dtype.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks. Default: COMM_WORLD.
    halo : int, one int or one (before, after) pair per axis
        Cells kept around the block on each axis.
    device : str or Device
        Where the blocks are: ``cpu``; ``gpu``, each rank's on a GPU; or ``auto``: on GPUs if all ranks have one.

    Attributes
    ----------
    shape, ndim, size, dtype, nbytes
        Of the global array.
    decomposition : Decomposition
        Which rank owns which cells.
    box : Box
        The global indices of this rank's block.
    comm : mpi4py.MPI.Intracomm
        The ranks.
    halo : tuple of (before, after) pairs
        Cells kept around the block on each axis.
    device : Device
        Where the blocks are: ``device.name`` is ``cpu`` or ``gpu``.
    local : numpy.ndarray or cupy.ndarray
        The rank's own block, a view; shape ``decomposition.box(comm.rank).shape``.
    padded : numpy.ndarray or cupy.ndarray
        The block with its halo; the halo is valid after `exchange`. An empty block has no halo. Each row is contiguous,
        with possible gaps between rows.
    memory, memory_box : numpy.ndarray or cupy.ndarray, Box
        The contiguous array of which `padded` is a view, and the box that it covers.

    Examples
    --------
    >>> import mpihpc
    >>> size = mpihpc.Topology.of().size
    >>> u = mpihpc.DistArray(mpihpc.Decomposition.balanced((4, 3), size), halo=1)
    >>> u.local[...] = 2
    >>> u.shape, u.sum()
    ((4, 3), np.float64(24.0))
    """

    def __init__(
        self,
        decomposition: Decomposition,
        dtype: DTypeLike = float,
        *,
        comm: MPI.Intracomm | None = None,
        halo: int | Sequence[int] | Width = 0,
        device: str | Device = "cpu",
    ) -> None:
        self.topology = Topology.of(comm)
        self.decomposition = decomposition
        self.device = self.topology.device(device)
        with agree(self.topology.private) as alike:
            self._allocate(number_dtype(dtype), halo_width(halo, decomposition.ndim))
            alike.append(self._words())

    def _allocate(self, dtype: np.dtype, halo: Width) -> None:
        cut, size = self.decomposition, self.topology.size
        if cut.size != size:
            raise ValueError(f"grid {grid_text(cut.dims)} needs {ranks_text(cut.size)}, the job has {size}")
        self.halo = halo
        self.box = self.decomposition.box(self.topology.rank)
        self.frame = self.box.grow(halo) if self.box.size else self.box
        self.memory, lead = _block_memory(self.frame.shape, dtype, halo[-1][0], self.device)
        self.padded = self.memory[..., lead : lead + self.frame.shape[-1]]
        corner = (*self.frame.start[:-1], self.frame.start[-1] - lead)
        self.memory_box = Box(corner, tuple(a + n for a, n in zip(corner, self.memory.shape, strict=True)))

    def like(
        self,
        decomposition: Decomposition | None = None,
        dtype: DTypeLike | None = None,
        *,
        halo: int | Sequence[int] | Width | None = None,
        device: Device | None = None,
    ) -> DistArray:
        """A new, uninitialised array on the same ranks. Collective.

        Parameters
        ----------
        decomposition : Decomposition, optional
            Default: that of this array.
        dtype : dtype, optional
            Default: that of this array.
        halo : int, one int or one (before, after) pair per axis, optional
            Default: that of this array if the decomposition is the same, else none.
        device : Device, optional
            Default: that of this array.

        Examples
        --------
        >>> import mpihpc
        >>> mpihpc.zeros((4, 3)).like(dtype="int32").dtype
        dtype('int32')
        """
        with agree(self.topology.private) as alike:
            new = self.allocate_like(decomposition, dtype, halo=halo, device=device)
            alike.append(new._words())
        return new

    def allocate_like(
        self,
        decomposition: Decomposition | None = None,
        dtype: DTypeLike | None = None,
        *,
        halo: int | Sequence[int] | Width | None = None,
        device: Device | None = None,
    ) -> DistArray:
        """As `like`, for use within `agree`: one rank may run out of memory.

        Examples
        --------
        >>> import mpihpc
        >>> u = mpihpc.zeros((4, 3))
        >>> with mpihpc.agree(u.comm):
        ...     v = u.allocate_like(dtype="int32")
        >>> v.dtype
        dtype('int32')
        """
        new = object.__new__(type(self))
        new.topology, new.device = self.topology, self.device if device is None else device
        new.decomposition = self.decomposition if decomposition is None else decomposition
        if halo is None:
            width = self.halo if new.decomposition == self.decomposition else ((0, 0),) * new.ndim
        else:
            width = halo_width(halo, new.ndim)
        new._allocate(self.dtype if dtype is None else number_dtype(dtype), width)
        return new

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
    def local(self) -> Any:
        return self.padded[self.box.slices(self.frame.start)]

    def __repr__(self) -> str:
        return (
            f"DistArray(shape={self.shape}, dtype={self.dtype}, grid={grid_text(self.decomposition.dims)}, "
            f"rank {self.topology.rank} of {self.topology.size}: {self.box.slices()})"
        )

    def _words(self) -> str:
        """What must be the same on all ranks."""
        return f"{self.dtype} of shape {self.shape}, grid {grid_text(self.decomposition.dims)}, halo {self.halo}"

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
            An array of the global shape on the ranks that get it, None on the others.

        Raises
        ------
        ValueError
            There is no rank `root`. On all ranks, with the same text.

        Examples
        --------
        >>> import mpihpc
        >>> mpihpc.ones((2, 3)).gather(root=None)
        array([[1., 1., 1.],
               [1., 1., 1.]])
        """
        size = self.topology.size
        with agree(self.topology.private):
            if root is not None and not 0 <= root < size:
                raise ValueError(f"root {root} is not one of the {size} ranks: use 0 to {size - 1}, or None for all")
            gets_it = root in (None, self.topology.rank)
            whole = np.empty(self.shape if gets_it else (0,) * self.ndim, self.dtype)
        self.to_device("cpu")._move(Transfer(self.decomposition, Whole(self.shape, size, root)), whole)
        return whole if gets_it else None

    def redistribute(self, dims: Sequence[int] | None = None, *, halo: int | Sequence[int] | Width = 0) -> DistArray:
        """A copy on another grid of ranks. Collective.

        Before: each rank holds its block. After: each rank also holds its block of the copy.

        Parameters
        ----------
        dims : sequence of int, optional
            Ranks along each axis. Default: the balanced grid.
        halo : int, one int or one (before, after) pair per axis
            Of the copy, not filled.

        Raises
        ------
        ValueError
            `dims` does not fit the shape or the number of ranks.

        Examples
        --------
        >>> import mpihpc
        >>> u = mpihpc.ones((6, 4))
        >>> rows = u.redistribute((u.topology.size, 1))
        >>> (rows == u).all()
        np.True_
        """
        with agree(self.topology.private):
            cut = Decomposition.balanced(self.shape, self.topology.size, halo=halo or 1, dims=dims)
        return self.recut(cut, halo=halo)

    def recut(self, decomposition: Decomposition, *, halo: int | Sequence[int] | Width = 0) -> DistArray:
        """A copy with another decomposition of the same shape. Collective.

        Examples
        --------
        >>> import mpihpc
        >>> u, v = mpihpc.ones((6, 4)), mpihpc.zeros((6, 4), dims=(1, mpihpc.Topology.of().size))
        >>> u.recut(v.decomposition).decomposition == v.decomposition
        True
        """
        new = self.like(decomposition, halo=halo)
        self._move(Transfer(self.decomposition, new.decomposition), new.padded, new.frame.start)
        return new

    def exchange(self, mode: str | Sequence[str] = "reflect", cval: Any = 0.0) -> None:
        """Fill the halo. Collective.

        Before: each rank holds its block. After: `padded` also holds the cells around it; those beyond the edges of the
        array follow from `mode`. To exchange many times, create one `mpihpc.core.halo.Halo` and reuse it.

        Parameters
        ----------
        mode : str or sequence of str
            As in `scipy.ndimage`: one for all axes, or one per axis. On ``reflect`` and ``mirror`` axes the halo must
            be as deep before the block as after it.
        cval : scalar
            The value beyond ``constant`` axes.

        Raises
        ------
        ValueError
            An unknown mode, or an uneven halo on a ``reflect`` or ``mirror`` axis.

        Examples
        --------
        >>> import mpihpc
        >>> u = mpihpc.ones(5, halo=1)
        >>> u.exchange("wrap")
        >>> u.padded[[0, -1]]
        array([1., 1.])
        """
        with agree(self.topology.private):
            needed = symmetric_width(self.halo, boundary_modes(mode, self.ndim))
            if needed != self.halo:
                raise ValueError(f"halo {self.halo} is uneven on a mirrored axis: mode {mode!r} needs {needed}")
            cval = self.dtype.type(cval)
        halo = Halo(self.decomposition, self.topology, self.halo, self.dtype, mode, cval, device=self.device)
        halo.exchange(self.padded)

    def checksum(self) -> int:
        """A hash of the array that does not depend on its decomposition. Collective.

        Returns
        -------
        int
            The sum modulo 2**64 over all cells of a hash of (global index, bits), on all ranks. See
            `mpihpc.kernels.cpu.checksum` for the hash. Not cryptographic.

        Examples
        --------
        >>> import mpihpc
        >>> u = mpihpc.ones((4, 3))
        >>> u.checksum() == u.copy().checksum(), u.checksum() == (2 * u).checksum()
        (True, False)
        """
        with agree(self.topology.private):
            mine = np.zeros(1, np.uint64)
            for box, cells in host_slabs(self):
                mine += np.uint64(cpu.checksum(cells, box.start, self.shape))
        self.topology.private.Allreduce(MPI.IN_PLACE, mine, op=MPI.SUM)
        return int(mine[0])

    def copy(self) -> DistArray:
        """A copy, halo included. Collective.

        Examples
        --------
        >>> import mpihpc
        >>> u = mpihpc.ones((4, 3))
        >>> v = u.copy()
        >>> v += 1
        >>> u.max(), v.max()
        (np.float64(1.0), np.float64(2.0))
        """
        new = self.like()
        new.padded[...] = self.padded
        return new

    def to_device(self, device: str | Device) -> DistArray:
        """The array on a device: a copy, halo included, or the array itself if it is there already. Collective.

        Parameters
        ----------
        device : str or Device
            As for new arrays.

        Raises
        ------
        ValueError
            An unknown device, or one that a rank does not have.

        Examples
        --------
        >>> import mpihpc
        >>> u = mpihpc.ones((4, 3))
        >>> u.to_device("cpu") is u
        True
        """
        there = self.topology.device(device)
        if there is self.device:
            return self
        new = self.like(device=there)
        new.padded[...] = there.asarray(self.device.to_host(self.padded))
        return new

    def astype(self, dtype: DTypeLike) -> DistArray:
        """A copy in another dtype, with a halo of the same depth, not filled. Collective.

        Raises
        ------
        TypeError
            The array is complex and `dtype` is not.

        Examples
        --------
        >>> import mpihpc
        >>> mpihpc.asarray([1.7, -2.3]).astype("int64").gather(root=None)
        array([ 1, -2])
        """
        with agree(self.topology.private):
            require_cast(self.dtype, number_dtype(dtype))
            new = self.allocate_like(dtype=dtype)
        new.local[...] = self.local.astype(new.dtype, copy=False)
        return new

    def _move(self, transfer: Transfer, target: Any, origin: Sequence[int] | None = None) -> None:
        transfer.move(self.topology, self.padded, target, self.frame.start, origin, self.device)


def host_slabs(array: DistArray) -> Iterator[tuple[Box, NDArray[Any]]]:
    """This rank's block in host memory, as boxes and their cells: in place, or copied slab by slab.

    A slab's cells are valid until the next one is requested: see `mpihpc.core.staging.download`.
    """
    slabs = [array.box] if array.device.host else list(array.box.slabs(slab_cells(array.dtype)))
    pieces = [array.local[slab.slices(array.box.start)] for slab in slabs]
    yield from zip(slabs, download(array.device, pieces), strict=True)


def _block_memory(shape: Sequence[int], dtype: np.dtype, before: int, device: Device) -> tuple[Any, int]:
    """The memory for a block's padded array, and the number of unused cells before the first halo cell of a row.

    After its `before` halo cells, each row of a block begins at a cache line, as streaming stores require. Rows are an
    odd number of lines apart: at a power of two they would compete for the same sets of a cache.
    """
    line, length = device.line // math.gcd(device.line, dtype.itemsize), shape[-1]
    if not before or len(shape) == 1 or length * dtype.itemsize < _LONG_ROW or not math.prod(shape):
        return device.empty(shape, dtype), 0
    lead = -before % line
    row = (-(-(lead + length) // line) | 1) * line
    size = math.prod(shape[:-1]) * row
    raw = device.empty(size + line, dtype)
    first = -(device.address(raw) // dtype.itemsize) % line
    return raw[first : first + size].reshape(*shape[:-1], row), lead
