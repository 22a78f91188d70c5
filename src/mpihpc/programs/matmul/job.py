"""One run of the program: look at the problem, multiply, say what was done."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import mpihpc
from mpihpc import io
from mpihpc.array import DistArray
from mpihpc.core.decomposition import Decomposition, grid_text, ranks_text
from mpihpc.core.device import Device, blas_threads, check_device, product_threads
from mpihpc.core.dtypes import number_dtype, require_cast
from mpihpc.core.failure import VerificationError, agree, nearest
from mpihpc.core.topology import Topology
from mpihpc.core.watchdog import phase
from mpihpc.linalg import Counts, Layouts, error_bound, layouts, matmul, plan_product
from mpihpc.linalg.plan import ProductPlan
from mpihpc.programs.config import stored
from mpihpc.programs.matmul.options import DTYPES, Config


@dataclass(frozen=True)
class Result:
    """What was done; the fields are those of the ``--json`` line. Words are elements of the matrices.

    ``words_optimum`` is the least that the busiest rank of any grid of as many ranks as `grid` has receives, with even
    blocks or those of this run (reproducible ones are uneven): ranks without a block neither receive nor own anything.
    ``words_relayout_max`` counts what came beyond because the operands were not cut as the product wants them;
    ``slices`` of k are for the sake of memory.
    """

    shape: tuple[int, int, int]  # m, k, n
    dtype: str
    ranks: int
    grid: str
    slices: int
    threads: int
    device: str
    seconds: float
    seconds_io: float
    gflops: float
    words_received_per_rank_max: int
    words_optimum: int
    words_relayout_max: int
    workspace_bytes_max: int
    transport: str
    checksum: str
    numpy_seconds: float | None = None
    numpy_threads: int | None = None
    verify_error: float | None = None


@dataclass(frozen=True)
class Problem:
    """What a configuration means, after all of it has been looked at and found good."""

    readers: tuple[tuple[io.Reader, str | None, Any], ...]  # with the dataset, and the part of it
    metadata: io.Metadata  # of the product
    plan: ProductPlan
    cut: Layouts
    dtype: np.dtype
    device: Device
    threads: int


def run(comm: MPI.Intracomm, config: Config) -> Result:
    """Do the work. Collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks.
    config : Config
        The same on all ranks.

    Returns
    -------
    Result
        On all ranks.

    Raises
    ------
    ValueError, TypeError, OSError
        Bad input or a failure, on all ranks with the same text; nothing has been written.
    """
    shown = comm.rank == 0 and not config.quiet
    begin = time.perf_counter()
    problem = look(comm, config)
    plan, cut, dtype = problem.plan, problem.cut, problem.dtype
    if shown:
        print(_header(config, problem), flush=True)
    phase("make the operands")
    if problem.readers:
        operands = []
        for (reader, dataset, part), decomposition in zip(problem.readers, cut, strict=False):
            with reader:
                wanted = None if reader.streamed else decomposition  # rank 0 reads those, and deals them out
                operands.append(
                    reader.read(dataset, dtype=dtype, slices=part, decomposition=wanted, device=problem.device)
                )
        a, b = operands
    else:
        a, b = (_integers(decomposition, dtype, comm).to_device(problem.device) for decomposition in cut[:2])
    c = DistArray(cut.c, dtype, comm=comm, device=problem.device)
    c.local.fill(0)  # the system gives memory at the first touch: now, not in the product
    comm.Barrier()
    seconds_io = time.perf_counter() - begin

    phase("multiply")
    options = {name: getattr(config, name) for name in ("grid", "memory", "reproducible", "blocks", "threads")}
    if not problem.device.host:
        matmul(a, b, out=c, **options)  # what a GPU loads at the first call is not the product's time
        problem.device.wait()
    counts = Counts()
    begin = time.perf_counter()
    matmul(a, b, out=c, counts=counts, **options)
    problem.device.wait()
    seconds = comm.allreduce(time.perf_counter() - begin, op=MPI.MAX)

    numpy_seconds = numpy_threads = error = None
    if config.compare or config.verify:
        phase("NumPy")
        left, right, product = (x.gather() for x in (a, b, c))
        if config.compare:
            numpy_threads = _all_threads(comm, problem.threads)
            numpy_seconds = _alone(comm, left, right, numpy_threads)
        if config.verify:
            with agree(comm, root=0):
                if left is not None and right is not None and product is not None:
                    error = verify(left, right, product)
            error = comm.bcast(error, root=0)
        del left, right, product
    begin = time.perf_counter()
    if config.output:
        file, dataset = io.split_name(config.output)
        with io.create(file, "a", comm=comm) as writer:
            writer.provenance["config"] = stored(config)
            writer.write("data" if dataset is None else dataset, c, metadata=problem.metadata)
    seconds_io += time.perf_counter() - begin
    words, relayout, workspace = (
        comm.allreduce(n, op=MPI.MAX) for n in (counts.words, counts.words_relayout, counts.workspace)
    )
    operations = (8 if dtype.kind == "c" else 2) * plan.m * plan.n * plan.k
    result = Result(
        shape=(plan.m, plan.k, plan.n),
        dtype=str(dtype),
        ranks=comm.size,
        grid=grid_text(plan.grid),
        slices=plan.slices,
        threads=problem.threads,
        device=problem.device.name,
        seconds=seconds,
        seconds_io=comm.allreduce(seconds_io, op=MPI.MAX),
        gflops=operations / seconds / 1e9,
        words_received_per_rank_max=words,
        words_optimum=optimum(plan),
        words_relayout_max=relayout,
        workspace_bytes_max=workspace,
        transport="MPI from host memory" if problem.device.host else problem.device.label,
        checksum=f"{c.checksum():016x}",
        numpy_seconds=numpy_seconds,
        numpy_threads=numpy_threads,
        verify_error=error,
    )
    if shown:
        print(_summary(config, result), flush=True)
    if config.json and comm.rank == 0:
        print(json.dumps(asdict(result)), flush=True)
    return result


def look(comm: MPI.Intracomm, config: Config) -> Problem:
    """Look at everything that may be wrong, before anything is read, computed or written. Collective.

    Raises
    ------
    ValueError, TypeError, OSError
        Bad input, on all ranks with the same text.
    """
    topology = Topology.of(comm)
    with agree(comm, root=0):
        files = [name for name in (config.a, config.b) if name]
        if files and config.shape is not None:
            raise ValueError("--shape excludes --a and --b: give one or the other")
        if len(files) == 1:
            raise ValueError("a product has two operands: give both --a and --b")
        if not files and (config.slice_a or config.slice_b or config.raw):
            raise ValueError("--slice-a, --slice-b and --raw need files: give --a and --b")
        if config.shape is not None and len(config.shape) != 3:
            raise ValueError(f"--shape takes 3 lengths, m k n, not {len(config.shape)}")
        check_device(config.device)
        if config.dtype not in (None, *DTYPES):
            raise ValueError(f"unknown dtype {config.dtype!r}: {nearest(str(config.dtype), DTYPES)}")
        if comm.rank == 0 and config.output:  # ranks on other nodes may see other folders
            file, name = io.split_name(config.output)
            io.check_target(file, "data" if name is None else name)
        own_threads = product_threads(topology.cores, config.threads)
    device = topology.device(config.device)
    threads = topology.private.allreduce(own_threads, op=MPI.MAX)
    names = comm.bcast([io.split_name(file) for file in files])  # what rank 0 sees on its disk
    readers, entries, axes = [], [], []
    for (file, dataset), text in zip(names, (config.slice_a, config.slice_b), strict=False):
        reader = io.Reader(file, dataset, comm=comm, decode=not config.raw)
        entry, part = reader.array(dataset, text)
        readers.append((reader, dataset, part))
        entries.append(entry)
        axes.append(reader.metadata(dataset, slices=part).axes)
    with agree(comm):
        m, k, n = config.shape or (1024, 1024, 1024)
        dtype = number_dtype(config.dtype or float)
        if readers:
            for name, entry in zip(files, entries, strict=True):
                if len(entry.shape) != 2:
                    raise ValueError(f"{name} has shape {entry.shape}: a matrix has 2 axes")
            (m, k), (depth, n) = (entry.shape for entry in entries)
            if k != depth:
                raise ValueError(f"{m}x{k} and {depth}x{n} cannot be multiplied: {k} columns, but {depth} rows")
            dtype = number_dtype(config.dtype or np.result_type(*(entry.dtype for entry in entries)))
            for entry in entries:
                require_cast(entry.dtype, dtype)
        options: dict[str, Any] = {"grid": config.grid, "memory": config.memory, "reproducible": config.reproducible}
        plan = plan_product(m, n, k, dtype, comm.size, blocks=config.blocks, **options)
    cut = layouts(m, n, k, dtype=dtype, comm=comm, blocks=config.blocks, **options)
    named: tuple[io.Axis, ...] = ()
    if any(axes):  # rows of the product are those of A, columns those of B
        rows, columns = axes[0] or (io.Axis(), io.Axis()), axes[1] or (io.Axis(), io.Axis())
        named = rows[0], columns[1]
    metadata = io.Metadata(named).carried()
    with agree(comm):
        if config.output:
            io.check_content(io.split_name(config.output)[0], (m, n), dtype, metadata)
    return Problem(tuple(readers), metadata, plan, cut, dtype, device, threads)


def optimum(plan: ProductPlan) -> int:
    """The fewest words that the busiest rank of any grid of as many ranks receives, as `Result` has it."""
    return min(plan.words, ProductPlan(plan.m, plan.n, plan.k, math.prod(plan.grid)).words)


def verify(a: NDArray[np.number], b: NDArray[np.number], c: NDArray[np.number]) -> float:
    """Multiply with NumPy, in double precision (integers and bools: in their dtype), and compare.

    Returns
    -------
    float
        The largest difference, relative to the largest element of ``abs(a) @ abs(b)``.

    Raises
    ------
    VerificationError
        Some difference exceeds what `mpihpc.linalg.error_bound` allows.
    """
    whole = c.dtype.kind in "biu"
    wide = c.dtype if whole else np.complex128 if c.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        wanted = a.astype(wide) @ b.astype(wide)
        same = (c == wanted) | (np.isnan(c) & np.isnan(wanted))
        difference = np.where(same, 0, np.abs(np.subtract(c, wanted, dtype=np.result_type(wide, float))))
        scale = np.zeros(c.shape) if whole else np.nan_to_num(np.abs(a).astype(float) @ np.abs(b).astype(float))
    if np.any(~(difference <= error_bound(a.shape[1], c.dtype) * scale)):
        where = np.unravel_index(int(np.argmax(np.nan_to_num(difference, nan=np.inf))), difference.shape)
        raise VerificationError(
            f"the product differs from NumPy's by {difference[where]:.3g} at {tuple(map(int, where))}: it is "
            f"{c[where]}, not {wanted[where]}"
        )
    return float(np.max(difference, initial=0) / (np.max(scale, initial=0) or 1))


def _integers(decomposition: Decomposition, dtype: np.dtype, comm: MPI.Intracomm) -> DistArray:
    """A matrix of integers from -4 to 4: their products are exact, so the checksum is the same on any ranks."""
    new = DistArray(decomposition, dtype, comm=comm)
    rows, columns = (np.arange(a, b) for a, b in zip(*new.box, strict=True))
    with np.errstate(all="ignore"):
        new.local[...] = ((31 * rows)[:, None] + 17 * columns + rows[:, None] * columns % 7) % 9 - 4
        if dtype.kind == "c":
            new.local.imag = ((5 * rows)[:, None] + 3 * columns) % 7 - 3
    return new


def _all_threads(comm: MPI.Intracomm, threads: int) -> int:
    """The threads of all ranks, or as many as rank 0 has cores for."""
    return int(comm.bcast(min(comm.size * threads, len(os.sched_getaffinity(0)))))


def _alone(comm: MPI.Intracomm, a: NDArray[np.number] | None, b: NDArray[np.number] | None, threads: int) -> float:
    """Seconds that NumPy takes on rank 0 while the others sleep: the better of two runs. Collective."""
    seconds = float("inf")
    if a is not None and b is not None:
        for _ in range(2):
            begin = time.perf_counter()
            with blas_threads(threads, force=True):
                np.matmul(a, b)
            seconds = min(seconds, time.perf_counter() - begin)
    through = comm.Ibarrier()
    while not through.Test():
        time.sleep(0.01)
    return float(comm.bcast(seconds))


def _header(config: Config, problem: Problem) -> str:
    """What is going to be done, for a reader."""
    plan = problem.plan
    what = f"{config.a} by {config.b}" if config.a else "small integers"
    return (
        f"mpihpc {mpihpc.__version__} matmul: {plan.m}x{plan.k} by {plan.k}x{plan.n} {problem.dtype}, {what}\n"
        f"{ranks_text(plan.size)} as {grid_text(plan.grid)}, {problem.threads} "
        f"thread{'s' if problem.threads > 1 else ''} each, on {problem.device.label}"
        f"{f'; for memory, k in {plan.slices} slices' if plan.slices > 1 else ''}; "
        f"the busiest receives {plan.words:,} words"
    )


def _summary(config: Config, result: Result) -> str:
    """What was done, for a reader."""
    lines = [
        f"{result.seconds:.3g} s: {result.gflops:.3g} GFLOP/s; a rank received at most "
        f"{result.words_received_per_rank_max:,} words (optimum {result.words_optimum:,}), and "
        f"{result.words_relayout_max:,} to lay operands out; workspace {result.workspace_bytes_max:,} bytes",
        f"checksum {result.checksum}, {result.seconds_io:.3g} s for input and output",
    ]
    if result.numpy_seconds is not None:
        lines.append(
            f"NumPy alone, {result.numpy_threads} thread{'s' if result.numpy_threads != 1 else ''}: "
            f"{result.numpy_seconds:.3g} s; this is {result.numpy_seconds / result.seconds:.2f} times as fast"
        )
    if result.verify_error is not None:
        lines.append(f"verified against NumPy: relative difference {result.verify_error:.2g}")
    if config.output:
        lines.append(f"product: {config.output}")
    return "\n".join(lines)
