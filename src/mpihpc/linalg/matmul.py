"""Products of distributed matrices that move the fewest words their shapes allow.

`matmul` has the meaning of `numpy.matmul`. `layouts` says how to distribute the operands so that a product moves only
what every algorithm must move on that number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import index
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from mpihpc.array import DistArray
from mpihpc.array.operands import together
from mpihpc.core.decomposition import Box, Decomposition, grid_text
from mpihpc.core.device import Device, blas_threads, product_threads
from mpihpc.core.dtypes import machine_epsilon, number_dtype
from mpihpc.core.failure import agree
from mpihpc.core.tally import received
from mpihpc.core.topology import Topology
from mpihpc.linalg.plan import Layouts, ProductPlan
from mpihpc.linalg.product import Counts, Matrix, moved, multiply

BLOCKS = 16

_planned = lru_cache(maxsize=256)(ProductPlan)


def layouts(
    m: int,
    n: int,
    k: int,
    *,
    dtype: DTypeLike = float,
    comm: MPI.Intracomm | None = None,
    grid: Sequence[int] | None = None,
    memory: int | None = None,
    reproducible: bool = False,
    blocks: int = BLOCKS,
) -> Layouts:
    """How to distribute an m x k and a k x n matrix so that their product moves the fewest words. Collective.

    Parameters
    ----------
    m, n, k : int
        Lengths.
    dtype, comm, grid, memory, reproducible, blocks
        Of the product: see `matmul`.

    Returns
    -------
    Layouts
        Decompositions `a`, `b` and, for the product, `c`. On grids of few ranks they are plain ones, like those of
        other arrays; else blocks are assigned to ranks in another order. Ranks that the plan leaves idle have empty
        blocks.

    Raises
    ------
    ValueError, TypeError
        As `matmul`. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> cut = mpihpc.linalg.layouts(4, 5, 6)
    >>> a, b = mpihpc.DistArray(cut.a), mpihpc.DistArray(cut.b)
    >>> a.local[...], b.local[...] = 2, 3
    >>> (a @ b).gather(root=None)[0]
    array([36., 36., 36., 36., 36.])
    """
    topology = Topology.of(comm)
    with agree(topology.private):
        return plan_product(
            m,
            n,
            k,
            number_dtype(dtype),
            topology.size,
            grid=grid,
            memory=memory,
            reproducible=reproducible,
            blocks=blocks,
        ).layouts


def matmul(
    a: DistArray,
    b: DistArray,
    *,
    out: DistArray | None = None,
    grid: Sequence[int] | None = None,
    memory: int | None = None,
    reproducible: bool = False,
    blocks: int = BLOCKS,
    transpose_a: bool = False,
    transpose_b: bool = False,
    threads: int | None = None,
    counts: Counts | None = None,
) -> Any:
    """The matrix product, as `numpy.matmul`. Collective.

    The multiply-adds are distributed so that the busiest rank receives the fewest words (`ProductPlan`). A rank
    receives its parts of the operands from the ranks that own them; operands distributed as `layouts` says move the
    fewest words.

    Parameters
    ----------
    a : DistArray
        m x k, or a vector of length k: a row. Not changed.
    b : DistArray
        k x n, or a vector of length k: a column. On the ranks and the device of `a`. Not changed.
    out : DistArray, optional
        Where to put the product. It may have any decomposition.
    grid : sequence of int, optional
        Ranks along m, n, k; a smaller grid leaves ranks idle. Default: the grid that moves the fewest words.
    memory : int, optional
        Bytes of workspace that a rank may use for panels and partial sums; if that is little, the product processes k
        in slices. Operands that are distributed otherwise are redistributed first; their memory does not count, nor
        does the product, nor workspace that the process keeps from before. Default: enough for one slice.
    reproducible : bool
        The same bits for any number of ranks, grid and threads: k is cut into a fixed number of `blocks`, whose
        products are added in a fixed order. In float64 the bits are the same on every processor with AVX2 or AVX-512.
        That takes little more time than any other product, and up to 48 MiB per thread in addition to the workspace, or
        as much again as `memory`. Other dtypes and processors give the bits of one kind of machine: m and n are cut
        into blocks too, and BLAS multiplies these with one thread. Grids have powers of two along k. There are no
        slices.
    blocks : int
        The number of blocks: a power of two. The bits depend on it.
    transpose_a, transpose_b : bool
        Use the transposed matrix.
    threads : int, optional
        Threads of this rank. Default: as BLAS's environment variables say, else the number of cores that this rank has
        to itself.
    counts : Counts, optional
        Receives the words and the workspace of this rank.

    Returns
    -------
    DistArray or scalar
        `out`, or a new array of shape (m, n), distributed as `layouts` says, on the device of `a`; one axis less for
        each vector; for two vectors a scalar, on all ranks. The dtype is `numpy.result_type` of both; float16 and
        bfloat16 are multiplied and summed in float32, and rounded at the end. `error_bound` says how far elements may
        be from the exact ones. Where float64 overflows the result is infinite, with or without NumPy's warning.

    Raises
    ------
    ValueError
        Shapes that do not multiply, different communicators or devices, a grid that does not fit, too little memory. On
        all ranks, with the same text.
    TypeError
        An operand that is not a DistArray, or an `out` that cannot hold the product. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> a = mpihpc.asarray([[1.0, 2], [3, 4]])
    >>> mpihpc.linalg.matmul(a, a, transpose_b=True).gather(root=None)
    array([[ 5., 11.],
           [11., 25.]])
    >>> a @ mpihpc.asarray([1.0, 1]) @ mpihpc.asarray([1.0, 10])
    np.float64(73.0)
    """
    return _product(
        "matmul",
        a,
        b,
        lambda: [
            (None, 0) if a.ndim == 1 else (1, 0) if transpose_a else (0, 1),
            (0, None) if b.ndim == 1 else (1, 0) if transpose_b else (0, 1),
        ],
        out=out,
        grid=grid,
        memory=memory,
        reproducible=reproducible,
        blocks=blocks,
        threads=threads,
        counts=counts,
    )


def outer(a: DistArray, b: DistArray, **options: Any) -> DistArray:
    """The outer product of two vectors, as `numpy.outer`. Collective.

    Parameters
    ----------
    a, b : DistArray
        Vectors of length m and n.
    **options
        `out`, `grid`, ... of `matmul`.

    Returns
    -------
    DistArray
        Shape (m, n), distributed as `layouts` says for k = 1.

    Raises
    ------
    ValueError, TypeError
        As `matmul`. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.linalg.outer(mpihpc.asarray([1, 2]), mpihpc.asarray([1, 10, 100])).gather(root=None)
    array([[  1,  10, 100],
           [  2,  20, 200]])
    """

    def axes() -> list[tuple[int | None, ...]]:
        if (a.ndim, b.ndim) != (1, 1):
            raise ValueError(f"outer works on two vectors, not on shapes {a.shape} and {b.shape}")
        return [(0, None), (None, 0)]

    return _product("outer", a, b, axes, **options)


def gram(
    a: DistArray,
    *,
    out: DistArray | None = None,
    memory: int | None = None,
    threads: int | None = None,
    counts: Counts | None = None,
) -> DistArray:
    """``a.T @ a``, with half the work of a product: each rank multiplies its rows, BLAS fills one triangle. Collective.

    This is for tall matrices. Each rank needs workspace for the whole product, and receives about as many words as the
    product has; if there are more columns than rows, ``matmul(a, a, transpose_a=True)`` moves less.

    Parameters
    ----------
    a : DistArray
        Matrix of shape (k, n). Complex numbers are not conjugated.
    out, memory, threads, counts
        See `matmul`.

    Returns
    -------
    DistArray
        Shape (n, n), symmetric to the last bit: `out`, or a new array distributed by rows.

    Raises
    ------
    ValueError, TypeError
        As `matmul`; also if `a` is not a matrix. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> mpihpc.linalg.gram(mpihpc.asarray([[1.0, 2], [3, 4], [5, 6]])).gather(root=None)
    array([[35., 44.],
           [44., 56.]])
    """
    with together("gram", {"a": a} | ({} if out is None else {"out": out})) as topology:
        if a.ndim != 2:
            raise ValueError(f"gram works on a matrix, not on shape {a.shape}")
        k, n = a.shape
        _check_out(out, (n, n), a.dtype)
        work = working_dtype(a.dtype)
        plan = plan_product(n, n, k, work, topology.size, grid=(1, 1, max(1, min(k, topology.size))), memory=memory)
        limit = product_threads(topology.cores, threads)
    counts = Counts() if counts is None else counts
    before = received.cells
    rows = moved(Matrix.of(a, (0, 1)), plan.own(1), topology, work)
    counts.words_relayout += received.cells - before
    turned = rows._replace(layout=plan.own(0), local=rows.local.T, start=rows.start[::-1])
    with blas_threads(limit):
        # The same memory twice: NumPy calls BLAS's syrk.
        return _carry_out(plan, topology, a.device, (turned, rows), a.dtype, (), out, out is a, limit, counts)


def working_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which products of a dtype are summed: float32 for two-byte floats, else the dtype itself.

    Examples
    --------
    >>> working_dtype(np.dtype(np.float16)), working_dtype(np.dtype(np.int16))
    (dtype('float32'), dtype('int16'))
    """
    return np.dtype(np.float32) if dtype.itemsize == 2 and dtype.kind not in "iu" else dtype


def _check_out(out: DistArray | None, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if out is None:
        return
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, the product {shape}")
    if not np.can_cast(dtype, out.dtype, "same_kind"):
        raise TypeError(f"out of dtype {out.dtype} cannot hold a product of dtype {dtype}")


def error_bound(k: int, dtype: DTypeLike) -> float:
    """How far an element of a product may be from the exact one, relative to the same element of ``abs(a) @ abs(b)``.

    The bound is ``(k + 8) * eps``, with the eps of the dtype of the sums, plus the eps of the result's dtype if it is
    rounded at the end; twice the former for complex numbers. Integers are exact.

    Parameters
    ----------
    k : int
        The length that is summed over.
    dtype : dtype
        Of the product.

    Examples
    --------
    >>> error_bound(1000, float)
    2.2382096176443156e-13
    >>> error_bound(1000, int)
    0.0
    """
    dtype = number_dtype(dtype)
    if dtype.kind in "biu":
        return 0.0
    rounding = machine_epsilon(dtype) if working_dtype(dtype) != dtype else 0.0
    return (2 if dtype.kind == "c" else 1) * (k + 8) * machine_epsilon(working_dtype(dtype)) + rounding


def plan_product(
    m: int,
    n: int,
    k: int,
    dtype: np.dtype,
    size: int,
    *,
    grid: Sequence[int] | None = None,
    memory: int | None = None,
    reproducible: bool = False,
    blocks: int = BLOCKS,
) -> ProductPlan:
    """The plan for the options of a product: see `matmul`. For each rank on its own; `size` is the number of ranks.

    Examples
    --------
    >>> plan_product(4096, 4096, 4096, np.dtype(float), 4).grid
    (2, 2, 1)
    """
    if grid is not None and len(grid) != 3:
        raise ValueError(f"grid {grid_text(grid)} is not three numbers of ranks, along m, n and k")
    if memory is not None and index(memory) < 0:
        raise ValueError(f"memory {memory} is negative: give bytes per rank")
    if reproducible and not 1 <= index(blocks) <= 1 << 20:
        raise ValueError(f"blocks {blocks} is not a power of two: use {BLOCKS}, for example")
    return _planned(
        m,
        n,
        k,
        size,
        memory,
        dtype.itemsize,
        tuple(map(index, grid)) if grid is not None else (),
        working_dtype(dtype).itemsize,
        blocks if reproducible else 0,
    )


def _product(
    name: str,
    a: DistArray,
    b: DistArray,
    seen_as: Callable[[], Sequence[tuple[int | None, ...]]],
    *,
    out: DistArray | None = None,
    grid: Sequence[int] | None = None,
    memory: int | None = None,
    reproducible: bool = False,
    blocks: int = BLOCKS,
    threads: int | None = None,
    counts: Counts | None = None,
) -> Any:
    """The product of two arrays seen as matrices: see `matmul`, and `AsMatrix` for what `seen_as` gives."""
    operands = a, b
    with together(name, {"a": a, "b": b} | ({} if out is None else {"out": out})) as topology:
        axes = seen_as()
        if not (1 <= a.ndim <= 2 and 1 <= b.ndim <= 2):
            raise ValueError(f"matmul takes matrices and vectors, not shapes {a.shape} and {b.shape}")
        (m, k), (depth, n) = (
            tuple(1 if d is None else x.shape[d] for d in seen) for x, seen in zip(operands, axes, strict=True)
        )
        if k != depth:
            raise ValueError(f"{m}x{k} and {depth}x{n} cannot be multiplied: {k} columns, but {depth} rows")
        dtype = np.result_type(a.dtype, b.dtype)
        # The missing axis of a vector is missing in the product too, unless it is the one that is summed over.
        missing = [d for d, (seen, axis) in enumerate(((axes[0], 0), (axes[1], 1))) if seen[axis] is None]
        shape = tuple(length for d, length in enumerate((m, n)) if d not in missing)
        _check_out(out, shape, dtype)
        plan = plan_product(
            m, n, k, dtype, topology.size, grid=grid, memory=memory, reproducible=reproducible, blocks=blocks
        )
        limit = product_threads(topology.cores, threads)
    counts = Counts() if counts is None else counts
    matrices = [Matrix.of(x, seen) for x, seen in zip(operands, axes, strict=True)]
    if memory is not None or reproducible:  # slices and tiles are cut out of the plan's strips
        before = received.cells
        matrices = [moved(matrix, plan.own(side), topology, dtype) for side, matrix in enumerate(matrices)]
        counts.words_relayout += received.cells - before
    with blas_threads(1 if reproducible else limit, force=reproducible):
        return _carry_out(plan, topology, a.device, matrices, dtype, missing, out, out is a or out is b, limit, counts)


def _carry_out(
    plan: ProductPlan,
    topology: Topology,
    device: Device,
    operands: Sequence[Matrix],
    dtype: np.dtype,
    missing: Sequence[int],
    out: DistArray | None,
    out_is_operand: bool,
    threads: int,
    counts: Counts,
) -> Any:
    """Multiply, and bring the product into `out` if there is one."""
    cut = plan.layouts.c
    if len(missing) == 1:
        # A vector of one cell is on the first rank.
        cut = Decomposition((1,), (topology.size,)) if plan.m == plan.n == 1 else plan.own(2).without(*missing).plain()
    fits = out is not None and (out.decomposition, out.dtype) == (cut, dtype) and not out_is_operand
    c = out if out is not None and fits else DistArray(cut, dtype, comm=topology.comm, device=device)
    target = np.expand_dims(c.local, missing[0]) if len(missing) == 1 else c.local
    multiply(plan, topology, device, operands, target, dtype, working_dtype(dtype), threads, counts)
    if len(missing) == 2:
        [owner] = cut.owners(Box((0, 0), (1, 1)))
        return topology.private.bcast(device.to_host(target)[0, 0] if topology.rank == owner else None, root=owner)
    if out is None or c is out:
        return c
    before = received.cells
    out.local[...] = moved(Matrix.of(c, tuple(range(c.ndim))), out.decomposition, topology, out.dtype).local
    counts.words_relayout += received.cells - before
    return out
