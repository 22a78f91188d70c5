"""A stencil of your own, in NumPy: Conway's game of life on a torus.

    mpirun -n 4 python examples/custom_loop.py

A glider moves one cell down and right in 4 generations, so after 4 * 24 of them it is back where it began.
"""

import numpy as np

import mpihpc

N = 24


def generation(u):
    """Each rank advances its own block; `padded` holds it and one cell of its neighbours all around."""
    u.exchange(mode="wrap")
    p = u.padded
    rows, columns = u.local.shape
    near = sum(p[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) - u.local
    u.local[...] = (near == 3) | ((near == 2) & (u.local == 1))


start = np.zeros((N, N), np.int8)
start[:3, :3] = [[0, 1, 0], [0, 0, 1], [1, 1, 1]]
u = mpihpc.asarray(start, halo=1)  # on all ranks here; each keeps its block
for _ in range(4 * N):
    generation(u)

end = u.gather()
if end is not None:
    print(f"{end.sum()} cells alive; back where it began: {np.array_equal(start, end)}")
