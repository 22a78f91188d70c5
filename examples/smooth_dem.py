"""Smooth an elevation model, each rank its own part of it.

    mpirun -n 4 python examples/smooth_dem.py [FILE[:DATASET]] [OUTPUT.h5]

Without arguments: the model that matplotlib ships, into smooth.h5. Prints the steepest step between two rows,
before and after.
"""

import sys

import numpy as np

import mpihpc


def steepest(u):
    """The largest difference between neighbouring rows, on rank 0."""
    whole = u.gather()
    return None if whole is None else np.abs(np.diff(whole.astype(float), axis=0)).max()


if len(sys.argv) > 1:
    file, dataset = mpihpc.io.split_name(sys.argv[1])
else:
    from matplotlib.cbook import get_sample_data

    file, dataset = get_sample_data("jacksboro_fault_dem.npz", asfileobj=False), "elevation"
output = sys.argv[2] if len(sys.argv) > 2 else "smooth.h5"

dem = mpihpc.io.read(file, dataset)
smooth = mpihpc.stencil.evolve(dem, "gaussian:2", steps=1)
mpihpc.io.write(output, smooth, attrs={"units": "m"})

before, after = steepest(dem), steepest(smooth)
if before is not None:
    cells = " x ".join(map(str, dem.shape))
    print(f"{cells} cells, steepest step {before:.3f} -> {after:.3f}, written to {output}")
