"""Heat spreads from the middle of a plate whose edges let nothing out.

    mpirun -n 4 python examples/heat.py

prints what is left of the hottest spot, the sum (it stays) and a checksum (the same on any number of ranks),
and writes heat.h5.
"""

import mpihpc

u = mpihpc.fromfunction(lambda i, j: 100.0 * ((abs(i - 128) < 32) & (abs(j - 128) < 32)), (256, 256))
u = mpihpc.stencil.evolve(u, "heat:0.2", steps=1000, mode="neumann")
mpihpc.io.write("heat.h5", u, attrs={"units": "degC"})

checksum = u.checksum()
whole = u.gather()  # a NumPy array on rank 0, None on the others
if whole is not None:
    print(f"hottest {whole.max():.6f}, sum {whole.sum():.3f}, checksum {checksum:016x}, written to heat.h5")
