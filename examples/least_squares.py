"""Fit a curve to a million points: the tall matrix is spread over the ranks, the small equations are everywhere.

    mpirun -n 4 python examples/least_squares.py

prints the coefficients of the polynomial that the points were made from, but for their noise.
"""

import numpy as np

import mpihpc
from mpihpc.linalg import gram, matmul

POINTS, TRUTH = 1_000_000, np.array([1.5, -2.0, 0.25, 3.0])


def noise(i):
    """Between -0.5 and 0.5, and the same however the array is cut."""
    return (i * 0.6180339887498949) % 1 - 0.5


a = mpihpc.fromfunction(lambda i, j: (i / POINTS) ** j, (POINTS, len(TRUTH)), dims=(mpihpc.Topology.of().size, 1))
y = mpihpc.fromfunction(lambda i: np.polynomial.polynomial.polyval(i / POINTS, TRUTH) + noise(i), (POINTS,))

left = gram(a).gather(root=None)  # a.T @ a: 4 x 4, on all ranks
right = matmul(a, y, transpose_a=True).gather(root=None)  # a.T @ y
found = np.linalg.solve(left, right)
if a.topology.rank == 0:
    print("found", " ".join(f"{c:.3f}" for c in found), "of", " ".join(f"{c:.3f}" for c in TRUTH))
