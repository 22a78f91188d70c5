"""Heat in a plate that is half copper, half brass, through which it spreads at different speeds.

    mpirun -n 4 python examples/heat_in_metals.py

prints the temperatures in both metals, the heat (it stays) and a checksum (the same on any number of ranks), and writes
heat_in_metals.h5 and heat_in_metals.png (which needs matplotlib). The metals differ in their heat capacity: what one
cell gains, its neighbour need not lose in degrees, but does in joules.
"""

import numpy as np

import mpihpc

COPPER, BRASS = 1.17e-4, 3.4e-5  # diffusivities in m2/s
CELL, STEP = 1e-3, 2e-3  # metres, seconds

diffusivity = mpihpc.fromfunction(lambda i, j: np.where(j < 100, COPPER, BRASS), (120, 200))
field = diffusivity.copy()
field.local[...] *= STEP / CELL**2
u = mpihpc.fromfunction(lambda i, j: 100.0 * (abs(i - 59.5) < 20) * (abs(j - 99.5) < 20), (120, 200))
u = mpihpc.stencil.evolve(u, "laplace", steps=2000, mode="neumann", field=field)
mpihpc.io.write("heat_in_metals.h5", u, attrs={"units": "degC"})

checksum = u.checksum()
whole, speed = u.gather(), diffusivity.gather()  # NumPy arrays on rank 0, None on the others
if whole is not None and speed is not None:
    from matplotlib.image import imsave

    imsave("heat_in_metals.png", whole, cmap="inferno")
    heat = (whole / speed).sum() * COPPER
    print(f"copper up to {whole[:, :100].max():.4f} degC, brass up to {whole[:, 100:].max():.4f} degC")
    print(f"heat {heat:.3f}, checksum {checksum:016x}, written to heat_in_metals.h5, drawn in heat_in_metals.png")
