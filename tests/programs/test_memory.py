"""Peak memory of a rank: in the main job at most 2.3 times its padded block, and 150 MB for all else; of a file that is
reduced in chunks, two of them."""

import json

import h5py
import numpy as np
import pytest

ROWS, COLUMNS = 7240, 7240  # 419 MB of float64 per rank
HALO = 4  # of gaussian:1

# Every rank tells the most memory it ever held.
WRAPPER = """
import re, sys
from mpi4py import MPI
from mpihpc.stencil.__main__ import main
code = main(sys.argv[1:])
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
peaks = MPI.COMM_WORLD.gather(peak)
if peaks:
    print(f"\\npeaks {peaks}")
sys.exit(code)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """make(kind, rows) writes an input of real numbers in slabs, and returns its name."""

    def make(kind, rows):
        random = np.random.default_rng(1).random((100, COLUMNS))
        shape = (rows, COLUMNS)
        if kind == "h5":
            file = folder / "in.h5"
            with h5py.File(file, "w") as f:
                z = f.create_dataset("z", shape, float)
                for i in range(0, rows, 100):
                    z[i : i + 100] = random[: rows - i]
        else:
            file = folder / "in.npy"
            dtype = np.int16 if kind == "int16" else float
            z = np.lib.format.open_memmap(file, "w+", dtype, shape, fortran_order=kind == "fortran")
            for i in range(0, rows, 100):
                z[i : i + 100] = (random * 1000 if kind == "int16" else random)[: rows - i]
            z.flush()
            del z
        return file

    folder = tmp_path_factory.mktemp("inputs")
    yield make
    for file in folder.iterdir():
        file.unlink()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "n"), [("h5", 1), ("h5", 2), ("npy", 1), ("npy", 2), ("fortran", 2), ("int16", 1)])
def test_peak_memory(launch, tmp_path, inputs, record_property, kind, n):
    file = inputs(kind, n * ROWS)
    command = ("--input", file, "--kernel", "gaussian:1", "--steps", "2", "--output", "out.h5", "--json")
    done = launch(n, "-c", WRAPPER, *command, timeout=240)
    (tmp_path / "out.h5").unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr
    *_, line, _, peaks = done.stdout.splitlines()
    result, peaks = json.loads(line), json.loads(peaks.removeprefix("peaks "))
    assert result["grid"] == f"{n}x1"
    assert len(peaks) == n
    block = (ROWS + 2 * HALO) * (COLUMNS + 2 * HALO) * 8
    print(
        f"{kind}, {n} ranks: " + ", ".join(f"{(p - 2 * block) / 1e6:.0f}" for p in peaks),
        "MB above two blocks",
    )
    record_property("peaks", peaks)
    assert max(peaks) <= 2.3 * block + 150e6, [f"{p / block:.2f} blocks" for p in peaks]


# What a rank holds at most while it reduces a file, above what it held before.
REDUCE = """
import re, sys
import numpy as np
from mpi4py import MPI
import mpihpc
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
mpihpc.zeros(9).sum()
before = peak()
rows = int(sys.argv[2])
largest = mpihpc.map_reduce(np.max, sys.argv[1], max, rows=rows)
total = mpihpc.map_reduce(np.sum, sys.argv[1], np.add, rows=rows)
grown = MPI.COMM_WORLD.gather(peak() - before)
if grown:
    print(largest, total, *grown)
"""


@pytest.mark.parametrize("n", [1, 2])
def test_a_file_reduced_in_chunks(launch, inputs, n):
    rows = 200
    chunk = rows * COLUMNS * 8  # 12 MB, of a file of 419 MB
    file = inputs("npy", ROWS)
    done = launch(n, "-c", REDUCE, file, rows, timeout=120)
    assert done.returncode == 0, done.stderr
    largest, total, *grown = map(float, done.stdout.split())
    whole = np.load(file, mmap_mode="r")
    assert largest == max(whole[i : i + 100].max() for i in range(0, 200, 100))
    assert abs(total - ROWS / 100 * whole[:100].sum()) < 0.02 * total
    print(f"{n} ranks: " + ", ".join(f"{g / chunk:.2f} chunks" for g in grown))
    assert chunk < max(grown) <= 2 * chunk + 8e6


# Rings of planes of 64 steps, more than there is memory for; two threads.
TOO_LARGE = """
import resource
import numpy as np
from mpihpc.kernels import cpu
src, dst = np.ones((302, 1 << 18)), np.ones((300, 1 << 18))
box, taps = [(1, 301), (0, 1 << 18)], [[0, 0], [-1, 0], [1, 0]]
def advance(steps):
    cpu.advance(src, dst, taps, [0.5, 0.25, 0.25], steps, box, box, ["reflect"] * 2, threads=2, tile=(150, 1 << 18))
advance(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), -1))
try:
    advance(64)
except MemoryError:
    print("told")
"""


def test_no_memory_for_the_planes_of_many_steps(launch):
    done = launch(0, "-c", TOO_LARGE)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr
