"""Messages and bytes of fused steps on 1 to 64 ranks, counted, and what follows: ``python -m benchmarks.counts``.

Counts are exact however slow the machine is, so more ranks than cores do no harm. Each number of ranks is a job of its
own: every rank has a block of the same size (weak scaling), makes some steps, and tallies what it really posts. Shown
is the rank that sends most, per step, beside the least that any scheme sends: its faces, one layer to each neighbour.

The last table extrapolates to larger jobs with a latency-bandwidth model: a message takes LATENCY, and its bytes what
BANDWIDTH allows; no two ranks share a link. It says what the counts imply, not what a network does.
"""

from benchmarks import launch

if __name__ == "__main__":
    import sys

    if "--ranks" in sys.argv:
        launch("benchmarks.counts", ranks=int(sys.argv[sys.argv.index("--ranks") + 1]))  # before MPI is loaded

import argparse
import json
import math
import subprocess
import sys

RANKS = (1, 2, 4, 8, 16, 27, 32, 64)
LATENCY = 2e-6  # seconds
BANDWIDTH = 10e9  # bytes per second
RATES = {1: 17e9, 4: 34e9, 8: 36e9}  # T_eff of a rank by steps fused, as benchmarks.stencil measured it (7 points)


def count(ranks: int, block: tuple[int, ...], fuse: int) -> None:
    """Make some steps on these ranks and print what the busiest one sent, as a line of JSON. Collective."""
    import numpy as np
    from mpi4py import MPI

    from mpihpc import DistArray
    from mpihpc.core.decomposition import Decomposition
    from mpihpc.core.tally import sent
    from mpihpc.stencil import Evolution, Taps, named_kernel

    comm, ndim = MPI.COMM_WORLD, len(block)
    dims = [1] * ndim
    for prime in (3, 2):  # largest first, each to the axis with the fewest
        while ranks % (prime * math.prod(dims)) == 0:
            dims[dims.index(min(dims))] *= prime
    shape = tuple(n * p for n, p in zip(block, dims, strict=True))
    cut = Decomposition(shape, tuple(dims))
    taps = Taps.from_kernel(named_kernel("heat", ndim), ndim)
    plan = Evolution(cut, taps, np.float64, comm=comm, mode="reflect", fuse=fuse, threads=1)
    u = DistArray(cut, np.float64, comm=comm, halo=plan.stencil.halo.width)
    u.local[...] = 1.0
    before = sent.messages, sent.bytes
    plan.run(u, fuse)
    own = cut.box(comm.rank)
    least = sum(own.size // own.shape[d] * 8 * ((own.start[d] > 0) + (own.stop[d] < shape[d])) for d in range(ndim))
    rows = comm.gather((sent.bytes - before[1], sent.messages - before[0], least))
    if rows is not None:
        nbytes, messages, least = max(rows)
        print(json.dumps({"dims": dims, "messages": messages, "bytes": nbytes / fuse, "least": least}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.counts", description=__doc__)
    parser.add_argument("--block", type=int, nargs="+", default=[48, 48, 48], help="cells of a rank (48 48 48)")
    parser.add_argument("--fuse", type=int, nargs="+", default=[1, 4], help="steps per exchange (1 4)")
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)  # this process is one of them
    options = parser.parse_args()
    block = tuple(options.block)
    if options.ranks:
        return count(options.ranks, block, options.fuse[0])
    print(f"blocks of {' x '.join(map(str, block))} float64, {2 * len(block) + 1} points; per step, the busiest rank")
    print(f"{'ranks':>6} {'grid':>8} {'fused':>6} {'messages':>9} {'bytes':>10} {'least':>10} {'ratio':>6}")
    for ranks in RANKS:
        for fuse in options.fuse:
            command = [sys.executable, "-m", "benchmarks.counts", "--ranks", str(ranks), "--fuse", str(fuse)]
            command += ["--block", *map(str, block)]
            found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            ratio = f"{found['bytes'] / found['least']:6.3f}" if found["least"] else "     -"
            grid = "x".join(map(str, found["dims"]))
            print(
                f"{ranks:>6} {grid:>8} {fuse:>6} {found['messages'] / fuse:>9.2f} {found['bytes']:>10,.0f} "
                f"{found['least']:>10,} {ratio}",
                flush=True,
            )
    print(
        f"\nweak scaling of a step by the model: {LATENCY * 1e6:.0f} us a message, {BANDWIDTH / 1e9:.0f} GB/s a rank, "
    )
    print("256^3 cells a rank, at the rates of one rank by itself; from 27 on, an inner rank does the same in any job")
    print(f"{'ranks':>6} {'fused':>6} {'compute ms':>11} {'exchange ms':>12} {'efficiency':>11}")
    for ranks in (8, 64, 1000, 10000):
        for fuse, rate in RATES.items():
            sides = 1 if ranks == 8 else 2  # neighbours along each axis
            messages = sides * 3 if fuse == 1 else (sides + 1) ** 3 - 1
            halo = (256 + sides * fuse) ** 3 - 256**3 if fuse > 1 else sides * 3 * 256**2
            more = (1 + sides * (fuse - 1) / 2 / 256) ** 3  # what neighbours compute twice
            compute = 2 * 8 * 256**3 / rate
            exchange = (messages * LATENCY + halo * 8 / BANDWIDTH) / fuse
            print(
                f"{ranks:>6} {fuse:>6} {compute * more * 1e3:>11.3f} {exchange * 1e3:>12.3f} "
                f"{compute / (compute * more + exchange):>11.3f}"
            )


if __name__ == "__main__":
    main()
