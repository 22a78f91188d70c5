"""The program: ``mpirun -n 8 python -m mpihpc.stencil``."""

from __future__ import annotations

import ast
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import mpihpc
from mpihpc import io
from mpihpc.array import DistArray, require_cast
from mpihpc.config import option, parse_config, stored
from mpihpc.core.decomposition import Box, Decomposition, grid_text, ranks_text
from mpihpc.core.device import blas_threads, select_device
from mpihpc.core.failure import agree, nearest
from mpihpc.core.halo import MODES, boundary_modes, symmetric_width
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import sent
from mpihpc.programs import execute, progress
from mpihpc.stencil import Evolution, Taps, check_axes, working_dtype
from mpihpc.stencil.named import named_kernel
from mpihpc.stencil.picture import check_picture, picture
from mpihpc.stencil.verify import verify

DTYPES = ("float32", "float64", "complex64", "complex128")

EXAMPLES = """
examples:
  mpirun -n 8 python -m mpihpc.stencil --shape 4096 4096 --steps 1000 --output out.h5
  mpirun -n 8 python -m mpihpc.stencil --input dem.npz:elevation --kernel gaussian:2 --steps 50 --output out.h5
  mpirun -n 8 python -m mpihpc.stencil --input ct.h5:/scan --kernel laplace:4 --mode wrap,reflect,reflect --verify
"""


def _grid(text: str) -> tuple[int, ...]:
    return tuple(int(p) for p in text.lower().split("x"))


def _number(text: str) -> complex:
    return complex(text) if text.endswith("j") else float(text)


@dataclass(frozen=True)
class Config:
    """What to do; the fields are the flags of the command line and the keys of a configuration file."""

    shape: tuple[int, ...] | None = option(
        None, "no input: a hot block in the middle of zeros", type=int, metavar="N", separator=" "
    )
    input: str | None = option(None, ".h5, .npy or .npz", metavar="FILE[:DATASET]")
    kernel: str = option(
        "heat",
        "heat[:alpha] laplace[:order] mean:SIZE gaussian:SIGMA sobel[:axis] sharpen identity, or FILE.npy, or a list "
        "such as '[[0,1,0],[1,-4,1],[0,1,0]]' (default: heat)",
        metavar="KERNEL",
    )
    steps: int | None = option(None, "default: 100 for heat, 1 for other kernels", type=int, metavar="N")
    mode: str = option(
        "reflect", f"beyond the array; one per axis with commas: {' '.join(MODES)}", metavar="MODE", separator=","
    )
    cval: complex = option(0.0, "the value beyond constant axes (default: 0)", type=_number, metavar="0.5")
    dtype: str | None = option(None, "default: the input's, integers as float64", metavar="|".join(DTYPES))
    grid: tuple[int, ...] | None = option(
        None, "ranks along each axis (default: fewest halo bytes)", type=_grid, metavar="4x2", separator="x"
    )
    threads: int | None = option(
        None, "per rank (default: OMP_NUM_THREADS, or its share of the cores)", type=int, metavar="N"
    )
    device: str = option("auto", "default: auto", metavar="auto|cpu|gpu")
    output: str | None = option(None, "the result (default dataset: data)", metavar="FILE.h5[:DATASET]")
    plot: str | None = option(
        None, "a picture of the result, of its middle slice if it has 3 axes or more", metavar="FILE.png"
    )
    verify: bool = option(False, "compute it again with SciPy on rank 0; exit 1 on a difference")
    json: bool = option(False, "one line of JSON at the end")
    quiet: bool = option(False, "errors only (and the JSON line)")


@dataclass(frozen=True)
class Result:
    """What was done; the fields are those of the ``--json`` line. Sent bytes and messages are those of all steps."""

    shape: tuple[int, ...]
    dtype: str
    steps: int
    ranks: int
    grid: str
    threads: int
    device: str
    seconds: float
    seconds_io: float
    t_eff_GBps: float
    gcells_per_s: float
    bytes_sent_per_rank_max: int
    messages_per_rank_max: int
    checksum: str
    verify_error: float | None = None


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    return parse_config(
        Config,
        argv,
        prog="mpihpc.stencil",
        description="Apply a stencil many times to an array that is spread over MPI ranks.",
        epilog=EXAMPLES,
        version=f"mpihpc {mpihpc.__version__}",
    )


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
    topology = Topology.of(comm)
    begin = time.perf_counter()
    with agree(comm, root=0):
        if config.input is not None and config.shape is not None:
            raise ValueError("--input and --shape exclude each other: give one of them")
        steps = (100 if config.kernel.partition(":")[0] == "heat" else 1) if config.steps is None else config.steps
        if steps < 0:
            raise ValueError(f"steps {steps} is negative: use 0 or more")
        device = select_device(config.device)
        if config.dtype not in (None, *DTYPES):
            raise ValueError(f"unknown dtype {config.dtype!r}: {nearest(str(config.dtype), DTYPES)}")
        if topology.rank == 0:  # ranks on other nodes may see other folders
            if config.output:
                file, name = io.split_name(config.output)
                io.check_target(file, "data" if name is None else name)
            if config.plot:
                check_picture(config.plot)
    reader, dataset, units = None, None, None
    shape, dtype = config.shape if config.shape is not None else (1024, 1024), np.dtype(config.dtype or float)
    if config.input:
        file, dataset = io.split_name(config.input)
        reader = io.Reader(file, comm=comm)
    kernel = _kernel(comm, config.kernel, shape, reader, dataset)
    with agree(comm):
        if reader is not None:
            entry = reader.entry(dataset)
            shape, units, dtype = entry.shape, entry.units, np.dtype(config.dtype or entry.dtype)
            require_cast(entry.dtype, dtype)
        if config.plot and 0 in shape:
            raise ValueError(f"there is nothing to plot in an array of shape {tuple(shape)}")
        taps = Taps.from_kernel(kernel, len(shape))
        dtype = _dtype(config, dtype, taps)
        modes = boundary_modes(config.mode.split(",") if "," in config.mode else config.mode, len(shape))
        cut = Decomposition.balanced(
            shape,
            topology.size,
            halo=symmetric_width(taps.width, modes),
            periodic=[m == "wrap" for m in modes],
            dims=config.grid,
        )
    plan = Evolution(cut, taps, dtype, comm=comm, mode=modes, cval=config.cval, threads=config.threads)
    threads, width = plan.stencil.threads, plan.stencil.halo.width
    shown = topology.rank == 0 and not config.quiet
    if shown:
        print(
            f"mpihpc {mpihpc.__version__} stencil: {grid_text(shape)} {dtype} from "
            f"{config.input or 'a hot block in the middle'}, {steps} x {config.kernel} ({len(taps.weights)} taps), "
            f"mode {config.mode}\n{ranks_text(topology.size)} as {grid_text(cut.dims)}, {threads} thread"
            f"{'s' if threads > 1 else ''} each, on {device}, halo {', '.join(f'{a}+{b}' for a, b in width)}; rank 0 "
            f"sends {plan.stencil.halo.bytes:,} bytes in {plan.stencil.halo.messages} messages per step",
            flush=True,
        )
    if reader is not None:
        with reader:
            u = reader.read(dataset, dtype=dtype, halo=width, decomposition=cut)
    else:
        u = _hot_block(cut, dtype, comm, width)
    first = u.gather() if config.verify else None
    comm.Barrier()
    seconds_io = time.perf_counter() - begin
    counted = (sent.messages, sent.bytes)
    begin = time.perf_counter()
    with progress(steps, shown) as tell, blas_threads(threads):
        u = plan.run(u, steps, tell)
    seconds = comm.allreduce(time.perf_counter() - begin, op=MPI.MAX)
    messages = comm.allreduce(sent.messages - counted[0], op=MPI.MAX)
    sent_bytes = comm.allreduce(sent.bytes - counted[1], op=MPI.MAX)
    del plan  # and its array

    error = None
    if config.verify:
        last = u.gather()
        with agree(comm, root=0):
            if first is not None and last is not None:
                error = verify(first, last, kernel, steps, modes, config.cval)
        error = comm.bcast(error, root=0)
    begin = time.perf_counter()
    if config.output:
        file, name = io.split_name(config.output)
        with io.Writer(file, comm=comm) as writer:
            writer.attrs["config"] = stored(replace(config, steps=steps))
            writer.write("data" if name is None else name, u, attrs={"units": units} if units else None)
    seconds_io += time.perf_counter() - begin
    if config.plot:
        picture(u, config.plot, f"{config.kernel}, {steps} steps, {config.mode}", units)
    rate = u.size * steps / seconds / 1e9
    result = Result(
        shape=tuple(shape),
        dtype=str(dtype),
        steps=steps,
        ranks=topology.size,
        grid=grid_text(cut.dims),
        threads=threads,
        device=device,
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
    if config.json and topology.rank == 0:
        print(json.dumps(asdict(result)), flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("mpihpc.stencil", parse_args, run, argv)


def _kernel(
    comm: MPI.Intracomm, text: str, shape: Sequence[int], reader: io.Reader | None, dataset: str | None
) -> NDArray[Any]:
    """The weights for a ``--kernel`` argument. Rank 0 reads the file, if it is one."""
    weights = None
    with agree(comm, root=0):
        ndim = len(reader.entry(dataset).shape if reader else shape)
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
                except (ValueError, EOFError) as error:
                    why = "it holds objects, not numbers" if "allow_pickle" in str(error) else error
                    raise ValueError(f"kernel {text} cannot be read: {why}") from error
            elif os.sep in text or os.path.isfile(text):
                raise ValueError(f"kernel file {text} is not a .npy file")
            else:
                weights = named_kernel(text, ndim)
    return np.asarray(comm.bcast(weights, root=0))


def _dtype(config: Config, dtype: np.dtype, taps: Taps) -> np.dtype:
    """The dtype to compute in; an explicit one must hold the kernel's weights."""
    work = working_dtype(dtype, taps)
    if config.dtype and work != dtype:
        raise TypeError(f"dtype {config.dtype} does not hold a complex kernel: use {work}")
    return work


def _hot_block(cut: Decomposition, dtype: np.dtype, comm: MPI.Intracomm, halo: Any) -> DistArray:
    """Ones in the middle half of each axis, zeros around."""
    u = DistArray(cut, dtype, comm=comm, halo=halo)
    u.padded.fill(0)
    hot = Box(tuple(n // 4 for n in cut.shape), tuple(n - n // 4 for n in cut.shape))
    u.local[(u.box & hot).slices(u.box.start)] = 1
    return u


def _summary(config: Config, result: Result) -> str:
    """What was done, for a reader."""
    lines = [
        f"{result.steps} steps in {result.seconds:.3g} s: {result.gcells_per_s:.3g} Gcells/s, "
        f"T_eff {result.t_eff_GBps:.3g} GB/s; a rank sent at most {result.bytes_sent_per_rank_max:,} bytes in "
        f"{result.messages_per_rank_max:,} messages",
        f"checksum {result.checksum}, {result.seconds_io:.3g} s for input and output",
    ]
    if result.verify_error is not None:
        lines.append(f"verified against SciPy: relative difference {result.verify_error:.2g}")
    if config.output:
        lines.append(f"result: {config.output}")
    if config.plot:
        lines.append(f"picture: {config.plot}")
    if config == Config():
        lines.append("more: --shape 4096 4096 --steps 1000, or --input FILE --kernel gaussian:2; --help tells all")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
