"""Writing and reading one dataset from several ranks, beside plain system calls: ``python -m benchmarks.io``.

Written are a new HDF5 file by `mpihpc.io.write`, contiguous or in chunks, and a new plain file by `os.pwrite`, each
rank its own part, as many bytes by as many ranks into one file. Both count until the data are on the disk (``fsync``).
Read are the same files, by `mpihpc.io.read` and by `os.preadv`, into new memory; the system's page cache is asked to
forget the files before. The two take turns in pairs, and in turn one or the other begins, because disks that take
a burst quickly and then slow down would favour the first. The ratio is the median over the pairs. Before each, memory
is touched and freed again: in a virtual machine, pages that its host must find first cost more than the disk.
"""

from benchmarks import launch, machine, on_all

if __name__ == "__main__":
    launch("benchmarks.io", ranks=2)  # before MPI is loaded

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import h5py
import numpy as np
from mpi4py import MPI

import mpihpc
from benchmarks.reports import RESULTS, tell
from mpihpc import DistArray, io
from mpihpc.core.decomposition import Decomposition, grid_text
from mpihpc.core.failure import VerificationError, agree
from mpihpc.io.writing import versions
from mpihpc.programs.config import option, parse_config
from mpihpc.programs.frame import execute

COLUMNS = 8192
CALL = 1 << 30  # the most that Linux takes in one call is a little below 2 GiB
LAYOUTS = {"contiguous": False, "chunked": True}


def _grid(text: str) -> tuple[int, ...]:
    return tuple(int(p) for p in text.lower().split("x"))


@dataclass(frozen=True)
class Config:
    """What to measure; the fields are the flags of the command line."""

    size: float = option(2.0, "GiB of float64 in the dataset (default: 2)", type=float, metavar="GIB")
    rounds: int = option(5, "pairs of each kind (default: 5)", type=int, metavar="N")
    grid: tuple[int, ...] | None = option(
        None, "ranks along each axis: 1x2 cuts every row (default: whole rows)", type=_grid, metavar="2x1"
    )
    folder: str = option(".", "where the files lie, three times the size (default: here)", metavar="FOLDER")
    json: bool = option(False, "one line of JSON instead of tables")
    save: bool = option(False, f"write {RESULTS.name}/io-DATE-HDF5.json beside this program")


@dataclass(frozen=True)
class Result:
    """One kind of pair. Times are those of the slowest rank, one per pair."""

    what: str
    layout: str
    seconds: dict[str, float]
    GB_per_s: dict[str, float]
    ratio: float  # rate of mpihpc over that of plain calls, median over the pairs
    pairs: dict[str, list[float]]
    calls: dict[str, list[int]]  # write or read calls of each rank in the last pair, whatever they were for
    moved_to_payload: dict[str, float]  # bytes in these calls, of all ranks
    file_to_payload: float = 0.0
    blocks_to_payload: float = 0.0  # what the file takes on the disk


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    config = parse_config(
        Config,
        argv,
        prog="benchmarks.io",
        description=str(__doc__),
        epilog="",
        version=f"mpihpc {mpihpc.__version__}",
    )
    if config.rounds < 1:
        raise ValueError(f"rounds {config.rounds} is less than 1")
    rows = rows_for(config.size)
    if rows < 1:
        raise ValueError(f"size {config.size} GiB is less than one row of {COLUMNS} cells ({COLUMNS * 8 / 2**30:.2g})")
    if not os.path.isdir(config.folder):
        raise FileNotFoundError(f"there is no folder {config.folder}")
    needed, free = 3.1 * rows * COLUMNS * 8, shutil.disk_usage(config.folder).free
    if free < needed:
        raise ValueError(f"{config.folder} has {free / 2**30:.1f} GiB free, the files need {needed / 2**30:.1f}")
    return config


def rows_for(size: float) -> int:
    """How many rows of an array of so many GiB."""
    return int(size * 2**30) // (8 * COLUMNS)


def run(comm: MPI.Intracomm, config: Config) -> list[Result]:
    """Measure writing, then reading, and tell on rank 0. Collective."""
    with agree(comm):
        cut = Decomposition.balanced((rows_for(config.size), COLUMNS), comm.size, dims=config.grid or (comm.size, 1))
    u = DistArray(cut, comm=comm)
    u.local[...] = np.random.default_rng(comm.rank).random(u.local.shape)
    report = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z",
        "machine": machine() | {"file_system": file_system(config.folder), "load": os.getloadavg()},
        "versions": versions() | {"python": platform.python_version()},
        "parallel_hdf5": bool(h5py.get_config().mpi),
        "ranks": comm.size,
        "grid": grid_text(cut.dims),
        "shape": cut.shape,
        "bytes": u.nbytes,
        "rounds": config.rounds,
    }
    if comm.rank == 0 and not config.json:
        kind = "parallel" if report["parallel_hdf5"] else "serial"
        print(
            f"{grid_text(cut.shape)} float64, {u.nbytes / 2**30:.3g} GiB; ranks {report['grid']}, {kind} HDF5, "
            f"{report['machine']['file_system']}, load {report['machine']['load'][0]:.1f}\n"
            f"{'':20}{'seconds':>9}{'GB/s':>7}{'plain s':>9}{'GB/s':>7}{'ratio':>7}{'least':>7}{'most':>7}"
            f"  calls per rank (plain)",
            flush=True,
        )
    folder: str = comm.bcast(tempfile.mkdtemp(prefix="io-", dir=config.folder) if comm.rank == 0 else "")
    results = []
    try:
        for what, measure in (("write", measure_write), ("read", measure_read)):
            for layout in LAYOUTS:
                results.append(measure(u, folder, layout, config.rounds))
                if comm.rank == 0 and not config.json:
                    print(table(what, results[-1]), flush=True)
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder)
    report["machine"]["load_after"] = os.getloadavg()
    report["results"] = [asdict(result) for result in results]
    kind = "parallel" if report["parallel_hdf5"] else "serial"
    tell(comm, config, report, f"io-{report['date'][:10]}-{kind}")
    return results


def measure_write(u: DistArray, folder: str, layout: str, rounds: int) -> Result:
    """Pairs of new files. Collective."""
    plain, own = os.path.join(folder, "plain"), os.path.join(folder, f"{layout}.h5")

    def prepare(name: str) -> None:
        if u.comm.rank == 0:
            if os.path.exists(name):
                os.unlink(name)
            os.sync()  # nobody else's pages wait when the clock starts
            if name == plain:
                Path(name).touch()
            touch(u.nbytes)

    def chunks() -> None:
        io.write(own, u, chunks=LAYOUTS[layout])

    result = pairs(
        "write",
        layout,
        u,
        rounds,
        {plain: prepare, own: prepare},
        {plain: lambda: write_plain(plain, u), own: chunks},
    )
    found = u.comm.bcast(os.stat(own) if u.comm.rank == 0 else None)
    return Result(
        **result, file_to_payload=found.st_size / u.nbytes, blocks_to_payload=found.st_blocks * 512 / u.nbytes
    )


def measure_read(u: DistArray, folder: str, layout: str, rounds: int) -> Result:
    """Pairs of reads of the files that were written. Collective."""
    plain, own = os.path.join(folder, "plain"), os.path.join(folder, f"{layout}.h5")
    got: list[DistArray] = []

    def forget(name: str) -> None:
        got.clear()
        with open(name, "rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        u.comm.Barrier()
        if u.comm.rank == 0:
            touch(2 * u.nbytes)  # for the file's pages and for the array

    result = pairs(
        "read",
        layout,
        u,
        rounds,
        {plain: forget, own: forget},
        {
            plain: lambda: read_plain(plain, u),
            own: lambda: got.append(io.read(own, comm=u.comm, decomposition=u.decomposition)),
        },
    )
    with agree(u.comm):  # a rate of wrong numbers is worth nothing
        if got and not np.array_equal(got[0].local, u.local):
            raise VerificationError(f"what was read from the {layout} dataset is not what was written")
    return Result(**result)


def pairs(
    what: str,
    layout: str,
    u: DistArray,
    rounds: int,
    prepare: dict[str, Callable[[str], None]],
    work: dict[str, Callable[[], object]],
) -> dict[str, object]:
    """Time two files in turn, after a first pair that warms up; the fields of a `Result`. Collective."""
    comm, labels = u.comm, dict(zip(work, ("plain", "mpihpc"), strict=True))
    seconds: dict[str, list[float]] = {"plain": [], "mpihpc": []}
    calls: dict[str, list[int]] = {}
    moved: dict[str, float] = {}
    for turn in range(-1, rounds):
        for name in list(work) if turn % 2 else list(work)[::-1]:
            prepare[name](name)
            comm.Barrier()
            before = counts(what)
            taken = on_all(comm, work[name])
            after = counts(what)
            all_counts = comm.allgather([b - a for a, b in zip(before, after, strict=True)])
            calls[labels[name]] = [count for count, _ in all_counts]
            moved[labels[name]] = sum(nbytes for _, nbytes in all_counts) / u.nbytes
            if turn >= 0:
                seconds[labels[name]].append(taken)
    return {
        "what": what,
        "layout": layout,
        "seconds": {name: median(values) for name, values in seconds.items()},
        "GB_per_s": {name: u.nbytes / median(values) / 1e9 for name, values in seconds.items()},
        "ratio": median(p / m for p, m in zip(seconds["plain"], seconds["mpihpc"], strict=True)),
        "pairs": seconds,
        "calls": calls,
        "moved_to_payload": moved,
    }


def part(u: DistArray) -> tuple[int, int]:
    """Where this rank's part of a plain file begins, and its length; in bytes."""
    first = sum(u.decomposition.box(rank).size for rank in range(u.comm.rank))
    return first * u.dtype.itemsize, u.local.nbytes


def write_plain(name: str, u: DistArray) -> None:
    """This rank's bytes into its part of a plain file, and onto the disk."""
    start, size = part(u)
    data, done = memoryview(u.padded).cast("B"), 0
    handle = os.open(name, os.O_WRONLY)
    while done < size:
        done += os.pwrite(handle, data[done : done + CALL], start + done)
    os.fsync(handle)
    os.close(handle)


def read_plain(name: str, u: DistArray) -> None:
    """This rank's part of a plain file into new memory."""
    start, size = part(u)
    data, done = memoryview(np.empty(size, np.uint8)), 0
    handle = os.open(name, os.O_RDONLY)
    while done < size:
        done += os.preadv(handle, [data[done : done + CALL]], start + done)
    os.close(handle)


def touch(nbytes: int) -> None:
    """Have so many bytes of free memory, half of what there is at most, backed by real memory."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    np.ones(min(nbytes, free // 2), np.uint8)


def counts(what: str) -> tuple[int, int]:
    """Write or read calls of this process so far, and the bytes in them; zeros where the system does not tell."""
    calls, nbytes = ("syscw", "wchar") if what == "write" else ("syscr", "rchar")
    try:
        found = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0, 0
    return int(found[calls]), int(found[nbytes])


def file_system(folder: str) -> str:
    """The kind of file system a folder is on, where the system tells."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    path = os.path.join(os.path.realpath(folder), "")
    fits = [(len(where), kind) for where, kind in mounts if path.startswith(os.path.join(where, ""))]
    return max(fits)[1] if fits else "unknown"


def table(what: str, result: Result) -> str:
    """A result for a reader."""
    own, plain = (f"{result.seconds[name]:9.2f}{result.GB_per_s[name]:7.2f}" for name in ("mpihpc", "plain"))
    ratios = [p / m for p, m in zip(result.pairs["plain"], result.pairs["mpihpc"], strict=True)]
    calls = f"{'/'.join(map(str, result.calls['mpihpc']))} ({'/'.join(map(str, result.calls['plain']))})"
    line = (
        f"{what + ' ' + result.layout:20}{own}{plain}{result.ratio:7.2f}{min(ratios):7.2f}{max(ratios):7.2f}  {calls}"
    )
    if result.file_to_payload:
        line += (
            f"\n{'':20} over the payload: file {result.file_to_payload:.5f}, blocks {result.blocks_to_payload:.5f}, "
            f"written {result.moved_to_payload['mpihpc']:.5f}"
        )
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute("benchmarks.io", parse_args, run, argv)


if __name__ == "__main__":
    sys.exit(main())
