"""Sound: a standing wave against its formula, and a pulse that meets a slower material.

    mpirun -n 4 python examples/wave.py

prints the error of a wave between four mirrors on two grids, whose ratio shows the order of the scheme; then lets a
pulse run into a lens in which sound has half the speed, and writes wave.h5 and wave.png (which needs matplotlib).
"""

import numpy as np

import mpihpc
from mpihpc.stencil import evolve, leapfrog


def standing_wave(n: int, order: int, steps: int) -> float:
    """The largest error of ``cos(a t) cos(pi x) cos(pi y)``, ``a = pi sqrt(2)``, at t = 1/4 on n x n cells."""

    def exact(t: float) -> mpihpc.DistArray:
        return mpihpc.fromfunction(
            lambda i, j: np.cos(np.pi * 2**0.5 * t) * np.cos(np.pi * (i + 0.5) / n) * np.cos(np.pi * (j + 0.5) / n),
            (n, n),
        )

    dt = 0.25 / steps
    u, _ = leapfrog(exact(0), exact(-dt), f"laplace:{order}", steps, field=mpihpc.full((n, n), (dt * n) ** 2))
    return u.comm.allreduce(np.abs(u.local - exact(0.25).local).max(initial=0), op=max)


lines = []
for order, steps in ((2, 20), (4, 80), (8, 2000)):
    coarse, fine = standing_wave(8, order, steps), standing_wave(16, order, steps * 2 ** (order // 2))
    lines.append(
        f"order {order}: error {coarse:.1e} on 8 x 8 cells, {fine:.1e} on 16 x 16: order {np.log2(coarse / fine):.2f}"
    )


def courant(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Speed times time step over cell, squared: half a cell a step, a quarter inside the lens."""
    return np.where((i - 150) ** 2 + (j - 190) ** 2 < 60**2, 0.25, 0.5) ** 2


field = mpihpc.fromfunction(courant, (300, 300))
half = mpihpc.fromfunction(lambda i, j: courant(i, j) / 2, (300, 300))
pulse = mpihpc.fromfunction(lambda i, j: np.exp(-((i - 150) ** 2 + (j - 60) ** 2) / 40), (300, 300))
before = evolve(pulse, "laplace:8", 1, field=half)  # it starts from rest
u, _ = leapfrog(pulse, before, "laplace:8", 320, field=field)
mpihpc.io.write("wave.h5", u)

checksum = u.checksum()
whole = u.gather()  # a NumPy array on rank 0, None on the others
if whole is not None:
    from matplotlib.image import imsave

    imsave("wave.png", whole, cmap="RdBu", vmin=-0.1, vmax=0.1)
    print(*lines, f"pulse: checksum {checksum:016x}, written to wave.h5, drawn in wave.png", sep="\n")
