"""The options of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpihpc._version import __version__
from mpihpc.core.halo import MODES
from mpihpc.programs.config import option, parse_config

OVERLAP = {"auto": None, "on": True, "off": False}
DTYPES = ("float32", "float64", "complex64", "complex128")

EXAMPLES = """
examples:
  mpirun -n 8 python -m mpihpc.stencil --shape 4096 4096 --steps 1000 --output out.h5
  mpirun -n 8 python -m mpihpc.stencil --input dem.npz:elevation --kernel gaussian:2 --steps 50 --output out.h5
  mpirun -n 8 python -m mpihpc.stencil --input ct.h5:/scan --kernel laplace:4 --mode wrap,reflect,reflect --verify
"""


def _grid(text: str) -> tuple[int, ...]:
    return tuple(int(p) for p in text.lower().split("x"))


def _fuse(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _overlap(text: str) -> str:
    if text not in OVERLAP:
        raise ValueError(text)
    return text


def _number(text: str) -> complex:
    return complex(text) if "j" in text else float(text)


@dataclass(frozen=True)
class Config:
    """What to do; the fields are the flags of the command line and the keys of a configuration file."""

    shape: tuple[int, ...] | None = option(
        None, "without --input: a hot block in the middle of zeros", type=int, metavar="N", separator=" "
    )
    input: str | None = option(
        None, "the array to start from: HDF5, netCDF 4, Zarr, .npy or .npz", metavar="FILE[:DATASET]"
    )
    slice: str | None = option(
        None,
        "a part of the input, as NumPy writes it, such as one snapshot of a series",
        metavar="-1,:,::2",
        separator=",",
    )
    raw: bool = option(False, "read packed input (scale_factor, _FillValue, ...) as stored")
    kernel: str = option(
        "heat",
        "heat[:alpha] laplace[:order] mean:SIZE gaussian:SIGMA sobel[:axis] sharpen identity, or FILE.npy, or a list "
        "such as '[[0,1,0],[1,-4,1],[0,1,0]]' (default: heat)",
        metavar="KERNEL",
    )
    steps: int | None = option(None, "default: 100 for heat, 1 for other kernels", type=int, metavar="N")
    mode: str = option(
        "reflect",
        f"boundary mode, one for all axes or one per axis with commas: {' '.join(MODES)}",
        metavar="MODE",
        separator=",",
    )
    cval: complex = option(0.0, "the value beyond constant axes (default: 0)", type=_number, metavar="0.5")
    dtype: str | None = option(None, "default: the input's, integers as float64", metavar="|".join(DTYPES))
    grid: tuple[int, ...] | None = option(
        None, "ranks along each axis (default: fewest halo bytes)", type=_grid, metavar="4x2", separator="x"
    )
    threads: int | None = option(
        None, "threads per rank (default: OMP_NUM_THREADS, or its share of the cores)", type=int, metavar="N"
    )
    fuse: int | None = option(
        None,
        "steps per halo exchange and pass over memory (default: auto, chosen by a model)",
        type=_fuse,
        metavar="8|auto",
    )
    overlap: str = option(
        "auto",
        "compute the interior of a block while messages travel (default: chosen by a model)",
        type=_overlap,
        metavar="auto|on|off",
    )
    exact: bool = option(True, "--no-exact: apply separable kernels one axis at a time where that is faster")
    device: str = option("auto", "default: auto", metavar="auto|cpu|gpu")
    output: str | None = option(None, "the result (default dataset: data)", metavar="FILE.h5[:DATASET]")
    every: int | None = option(None, "write each Nth step, along a first axis t of the dataset", type=int, metavar="N")
    compress: str | None = option(None, "smaller files: gzip, or gzip:1 (fast) to gzip:9", metavar="gzip[:LEVEL]")
    plot: str | None = option(
        None, "a picture of the result, of its middle slice if it has 3 axes or more", metavar="FILE.png"
    )
    timeout: float | None = option(
        None,
        "abort if no rank makes progress for SECONDS, and report where each rank is (default: MPIHPC_TIMEOUT)",
        type=float,
        metavar="SECONDS",
    )
    verify: bool = option(False, "compute the result again with NumPy on rank 0; exit 1 on a difference")
    json: bool = option(False, "print one line of JSON at the end")
    quiet: bool = option(False, "print errors only (and the JSON line)")


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    return parse_config(
        Config,
        argv,
        prog="mpihpc.stencil",
        description="Apply a stencil many times to an array that is spread over MPI ranks.",
        epilog=EXAMPLES,
        version=f"mpihpc {__version__}",
    )
