"""The options of the program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpihpc._version import __version__
from mpihpc.programs.config import option, parse_config

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")

EXAMPLES = """
examples:
  mpirun -n 8 python -m mpihpc.matmul --shape 4096 4096 4096 --verify
  mpirun -n 4 python -m mpihpc.matmul --a data.h5:/left --b data.h5:/right --output product.h5
  mpirun -n 8 python -m mpihpc.matmul --shape 256 1000000 256 --memory 64M --json
"""

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _grid(text: str) -> tuple[int, ...]:
    return tuple(int(p) for p in text.lower().replace("x", ",").split(","))


def _bytes(text: str) -> int:
    unit = _UNITS.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


@dataclass(frozen=True)
class Config:
    """What to do; the fields are the flags of the command line and the keys of a configuration file."""

    shape: tuple[int, ...] | None = option(
        None, "m k n, of matrices of small integers (default: 1024 1024 1024)", type=int, metavar="N", separator=" "
    )
    a: str | None = option(None, "the first matrix, m x k: HDF5, .npy or .npz", metavar="FILE[:DATASET]")
    b: str | None = option(None, "the second matrix, k x n", metavar="FILE[:DATASET]")
    slice_a: str | None = option(None, "the part of --a, as NumPy writes it", metavar="0,:,::2", separator=",")
    slice_b: str | None = option(None, "the part of --b", metavar="0,:,::2", separator=",")
    raw: bool = option(False, "read packed matrices (scale_factor, _FillValue, ...) as stored")
    dtype: str | None = option(None, "default: float64, or that of the files", metavar="|".join(DTYPES))
    grid: tuple[int, ...] | None = option(
        None, "ranks along m, n, k (default: fewest words received)", type=_grid, metavar="2,2,1", separator=","
    )
    memory: int | None = option(
        None,
        "workspace per rank for panels and partial sums (default: as much as it takes)",
        type=_bytes,
        metavar="64M",
    )
    reproducible: bool = option(False, "the same bits for any number of ranks")
    blocks: int = option(
        16, "blocks per axis for --reproducible; the bits depend on it (default: 16)", type=int, metavar="N"
    )
    threads: int | None = option(
        None, "threads per rank (default: OMP_NUM_THREADS, or its share of the cores)", type=int, metavar="N"
    )
    device: str = option("auto", "default: auto", metavar="auto|cpu|gpu")
    output: str | None = option(None, "the product (default dataset: data)", metavar="FILE.h5[:DATASET]")
    timeout: float | None = option(
        None,
        "abort if no rank makes progress for SECONDS, and report where each rank is (default: MPIHPC_TIMEOUT)",
        type=float,
        metavar="SECONDS",
    )
    compare: bool = option(False, "also time NumPy on rank 0 alone, with the threads of all ranks")
    verify: bool = option(False, "compute the result again with NumPy on rank 0; exit 1 on a difference")
    json: bool = option(False, "print one line of JSON at the end")
    quiet: bool = option(False, "print errors only (and the JSON line)")


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    return parse_config(
        Config,
        argv,
        prog="mpihpc.matmul",
        description="Multiply two matrices that are spread over MPI ranks.",
        epilog=EXAMPLES,
        version=f"mpihpc {__version__}",
    )
