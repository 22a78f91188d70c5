"""One run of the program: look at the problem, advance it, say what was done."""

from __future__ import annotations

import ast
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import mpihpc
from mpihpc import io
from mpihpc.array import DistArray
from mpihpc.core.decomposition import Box, Decomposition, grid_text, ranks_text
from mpihpc.core.device import Device, blas_threads, check_device
from mpihpc.core.dtypes import require_cast
from mpihpc.core.failure import agree, nearest
from mpihpc.core.halo import boundary_modes, symmetric_width
from mpihpc.core.tally import sent
from mpihpc.core.topology import Topology
from mpihpc.core.watchdog import phase
from mpihpc.programs.config import stored
from mpihpc.programs.frame import progress
from mpihpc.programs.stencil.options import DTYPES, OVERLAP, Config
from mpihpc.programs.stencil.picture import picture
from mpihpc.programs.stencil.verify import verify
from mpihpc.stencil import Evolution, Taps
from mpihpc.stencil.named import named_kernel
from mpihpc.stencil.plans import check_axes
from mpihpc.stencil.taps import working_dtype
from mpihpc.view import check_picture


@dataclass(frozen=True)
class Result:
    """What was done; the fields are those of the ``--json`` line. Sent bytes and messages are those of all steps."""

    shape: tuple[int, ...]
    dtype: str
    steps: int
    ranks: int
    grid: str
    threads: int
    fuse: int
    device: str
    seconds: float
    seconds_io: float
    t_eff_GBps: float
    gcells_per_s: float
    bytes_sent_per_rank_max: int
    messages_per_rank_max: int
    checksum: str
    verify_error: float | None = None


@dataclass(frozen=True)
class Problem:
    """What a configuration means, after all of it has been looked at and found good."""

    reader: io.Reader | None
    dataset: str | None
    part: Any  # of the dataset
    metadata: io.Metadata  # of the result
    cut: Decomposition
    dtype: np.dtype
    kernel: NDArray[Any]
    taps: Taps
    modes: tuple[str, ...]
    steps: int
    device: Device


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
        Bad input or a failure, on all ranks with the same text; nothing has been written, but whole snapshots.
    """
    shown = comm.rank == 0 and not config.quiet
    begin = time.perf_counter()
    problem = look(comm, config)
    cut, dtype, steps = problem.cut, problem.dtype, problem.steps
    options = {
        "comm": comm,
        "device": problem.device,
        "mode": problem.modes,
        "cval": config.cval,
        "threads": config.threads,
    }
    choices = {"fuse": config.fuse, "exact": config.exact, "overlap": OVERLAP[config.overlap], "total": steps}
    plan = Evolution(cut, problem.taps, dtype, **choices, **options)
    threads, width, fuse = plan.stencil.threads, plan.stencil.halo.width, plan.stencil.fusing.steps
    if shown:
        print(_header(config, problem, plan), flush=True)
    if problem.reader is not None:
        with problem.reader as reader:
            u = reader.read(
                problem.dataset,
                dtype=dtype,
                slices=problem.part,
                halo=width,
                decomposition=cut,
                device=problem.device,
            )
    else:
        u = _hot_block(cut, dtype, comm, width, problem.device)
    first = u.gather() if config.verify else None
    file, dataset = io.split_name(config.output) if config.output else ("", None)
    dataset = "data" if dataset is None else dataset
    comm.Barrier()
    seconds, seconds_io = 0.0, time.perf_counter() - begin
    messages = sent_bytes = 0

    with ExitStack() as opened:
        series = None
        if config.every:
            begin = time.perf_counter()
            writer = opened.enter_context(io.create(file, "a", comm=comm))
            writer.provenance["config"] = stored(replace(config, steps=steps))
            series = writer.series(dataset, u, metadata=problem.metadata, compress=config.compress)
            series.append(u, 0)
            seconds_io += time.perf_counter() - begin
        done = 0
        with progress(steps, shown) as tell, blas_threads(threads):
            while done < steps:
                begin, before = time.perf_counter(), replace(sent)
                count = min(config.every or steps, steps - done)
                u = plan.run(u, count, partial(_told, tell, done))
                problem.device.wait()
                done += count
                comm.Barrier()
                seconds += time.perf_counter() - begin
                messages += sent.messages - before.messages
                sent_bytes += sent.bytes - before.bytes
                if series is not None:
                    begin = time.perf_counter()
                    series.append(u, done)
                    seconds_io += time.perf_counter() - begin
        messages, sent_bytes = comm.allreduce(messages, op=MPI.MAX), comm.allreduce(sent_bytes, op=MPI.MAX)
        lines = [len(line.weights) for line in plan.stencil.lines]
        del plan  # and its array
        error = None
        if config.verify:
            phase("verify")
            last = u.gather()
            with agree(comm, root=0):
                if first is not None and last is not None:
                    error = verify(first, last, problem.kernel, steps, problem.modes, config.cval, lines)
            error = comm.bcast(error, root=0)
        begin = time.perf_counter()
        if config.output and series is None:
            writer = opened.enter_context(io.create(file, "a", comm=comm))
            writer.provenance["config"] = stored(replace(config, steps=steps))
            writer.write(dataset, u, metadata=problem.metadata, compress=config.compress)
    seconds_io += time.perf_counter() - begin
    if config.plot:
        phase(f"draw {config.plot}")
        picture(u, config.plot, f"{config.kernel}, {steps} steps, {config.mode}", problem.metadata)
    seconds = comm.allreduce(seconds, op=MPI.MAX)
    rate = u.size * steps / seconds / 1e9 if steps else 0.0
    result = Result(
        shape=cut.shape,
        dtype=str(dtype),
        steps=steps,
        ranks=cut.size,
        grid=grid_text(cut.dims),
        threads=threads,
        fuse=fuse,
        device=problem.device.name,
        seconds=seconds,
        seconds_io=comm.allreduce(seconds_io, op=MPI.MAX),
        t_eff_GBps=2 * rate * dtype.itemsize,
        gcells_per_s=rate,
        bytes_sent_per_rank_max=sent_bytes,
        messages_per_rank_max=messages,
        checksum=f"{u.checksum():016x}",
        verify_error=error,
    )
    if shown:
        print(_summary(config, result), flush=True)
    if config.json and comm.rank == 0:
        print(json.dumps(asdict(result)), flush=True)
    return result


def _told(tell: Callable[[int], None], before: int, step: int) -> None:
    """After each pass: tell the user, and the watchdog."""
    phase(f"after step {before + step}")
    tell(before + step)


def look(comm: MPI.Intracomm, config: Config) -> Problem:
    """Look at everything that may be wrong, before anything is read, computed or written. Collective.

    Raises
    ------
    ValueError, TypeError, OSError
        Bad input, on all ranks with the same text.
    """
    with agree(comm, root=0):
        if config.input is not None and config.shape is not None:
            raise ValueError("--input and --shape exclude each other: give one of them")
        if config.input is None and (config.slice or config.raw):
            raise ValueError("--slice and --raw are about a file: say which, with --input FILE")
        steps = (100 if config.kernel.partition(":")[0] == "heat" else 1) if config.steps is None else config.steps
        if steps < 0:
            raise ValueError(f"steps {steps} is negative: use 0 or more")
        if config.every is not None and config.every < 1:
            raise ValueError(f"every {config.every} is less than 1: use 1 or more")
        if (config.every or config.compress) and not config.output:
            raise ValueError("--every and --compress are about a file: say which, with --output FILE.h5")
        io.gzip_level(config.compress)
        check_device(config.device)
        if config.dtype not in (None, *DTYPES):
            raise ValueError(f"unknown dtype {config.dtype!r}: {nearest(str(config.dtype), DTYPES)}")
        if comm.rank == 0:  # ranks on other nodes may see other folders
            if config.output:
                file, name = io.split_name(config.output)
                io.check_target(file, "data" if name is None else name, series=config.every is not None)
            if config.plot:
                check_picture(config.plot, (".png", ".pdf", ".svg", ".jpg"))
    device = Topology.of(comm).device(config.device)
    reader, dataset, part, metadata = None, None, None, io.Metadata()
    shape = (1024, 1024) if config.shape is None else config.shape
    dtype = np.dtype(config.dtype or float)
    if config.input:
        file, dataset = comm.bcast(io.split_name(config.input))  # what rank 0 sees on its disk
        reader = io.Reader(file, dataset, comm=comm, decode=not config.raw)
        entry, part = reader.array(dataset, config.slice)
        shape = entry.shape
        metadata = reader.metadata(dataset, slices=part).carried()
    kernel = _kernel(comm, config.kernel, shape)
    with agree(comm):
        if reader is not None:
            dtype = np.dtype(config.dtype or entry.dtype)
            require_cast(entry.dtype, dtype)
        if config.plot and 0 in shape:
            raise ValueError(f"there is nothing to plot in an array of shape {tuple(shape)}")
        taps = Taps.from_kernel(kernel, len(shape))
        work = working_dtype(dtype, taps)
        if config.dtype and work != dtype:
            raise TypeError(f"dtype {config.dtype} does not hold a complex kernel: use {work}")
        modes = boundary_modes(config.mode.split(",") if "," in config.mode else config.mode, len(shape))
        cut = Decomposition.balanced(
            shape,
            comm.size,
            halo=symmetric_width(taps.width, modes),
            periodic=[m == "wrap" for m in modes],
            dims=config.grid,
        )
        if config.output:
            io.check_content(io.split_name(config.output)[0], shape, work, metadata)
    return Problem(reader, dataset, part, metadata, cut, work, kernel, taps, modes, steps, device)


def _kernel(comm: MPI.Intracomm, text: str, shape: Sequence[int]) -> NDArray[Any]:
    """The weights for a ``--kernel`` argument. Rank 0 reads the file, if it is one."""
    weights = None
    with agree(comm, root=0):
        ndim = len(shape)
        check_axes(ndim)
        if comm.rank == 0:
            if text.lstrip().startswith("["):
                try:
                    weights = np.array(ast.literal_eval(text))
                except (ValueError, SyntaxError):
                    raise ValueError(f"kernel {text!r} is not a list of numbers, rows of equal length") from None
            elif text.endswith(".npy"):
                try:
                    weights = np.load(text, allow_pickle=False)
                    if not isinstance(weights, np.ndarray):
                        raise ValueError("it is no .npy file, whatever its name says")
                except (ValueError, EOFError) as error:
                    why = "it holds objects, not numbers" if "allow_pickle" in str(error) else error
                    raise ValueError(f"kernel {text} cannot be read: {why}") from error
            elif os.sep in text or os.path.isfile(text):
                raise ValueError(f"kernel file {text} is not a .npy file")
            else:
                weights = named_kernel(text, ndim)
    return np.asarray(comm.bcast(weights, root=0))


def _hot_block(cut: Decomposition, dtype: np.dtype, comm: MPI.Intracomm, halo: Any, device: Device) -> DistArray:
    """Ones in the middle half of each axis, zeros around."""
    u = DistArray(cut, dtype, comm=comm, halo=halo, device=device)
    u.padded.fill(0)
    hot = Box(tuple(n // 4 for n in cut.shape), tuple(n - n // 4 for n in cut.shape))
    u.local[(u.box & hot).slices(u.box.start)] = 1
    return u


def _header(config: Config, problem: Problem, plan: Evolution) -> str:
    """What is going to be done, for a reader."""
    halo, threads, fusing = plan.stencil.halo, plan.stencil.threads, plan.stencil.fusing
    predicted = f"; predicted: {problem.steps * fusing.seconds:.2g} s" if fusing.seconds else ""
    taps, lines = len(problem.taps.weights), [len(line.weights) for line in plan.stencil.lines]
    as_lines = f", as lines of {' + '.join(map(str, lines))}: not exact" if lines else ""
    return (
        f"mpihpc {mpihpc.__version__} stencil: {grid_text(problem.cut.shape)} {problem.dtype} from "
        f"{config.input or 'a hot block in the middle'}, {problem.steps} x {config.kernel} "
        f"({taps} taps{as_lines}), mode {config.mode}\n"
        f"{ranks_text(problem.cut.size)} as {grid_text(problem.cut.dims)}, {threads} thread"
        f"{'s' if threads > 1 else ''} each, on {problem.device.label}, halo "
        f"{', '.join(f'{a}+{b}' for a, b in halo.width)}\n"
        f"{fusing.steps} step{'s' if fusing.steps > 1 else ''} per exchange, in which rank 0 sends {halo.bytes:,} "
        f"bytes in {halo.messages} message{'s' if halo.messages != 1 else ''}"
        f"{' while it computes' if fusing.overlap else ''}{predicted}"
    )


def _summary(config: Config, result: Result) -> str:
    """What was done, for a reader."""
    lines = [
        f"{result.steps} steps in {result.seconds:.3g} s: {result.gcells_per_s:.3g} Gcells/s, "
        f"T_eff {result.t_eff_GBps:.3g} GB/s; a rank sent at most {result.bytes_sent_per_rank_max:,} bytes in "
        f"{result.messages_per_rank_max:,} messages",
        f"checksum {result.checksum}, {result.seconds_io:.3g} s for input and output",
    ]
    if result.verify_error is not None:
        lines.append(f"verified against NumPy: relative difference {result.verify_error:.2g}")
    if config.output:
        lines.append(f"result: {config.output}")
    if config.plot:
        lines.append(f"picture: {config.plot}")
    if config == Config():
        lines.append("more: --shape 4096 4096 --steps 1000, or --input FILE --kernel gaussian:2; --help tells all")
    return "\n".join(lines)
