"""Two ranks send device memory to each other, in the ways that the package does: a job that may crash.

``mpirun -n 2 python -m mpihpc.doctor.exchange`` says what it begins, and at last "done".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from mpi4py import MPI

from mpihpc.core.device import Device
from mpihpc.core.failure import VerificationError

_SIZES = (1 << 10, 1 << 22)  # bytes: at once, and after the receiver has said where


def _persistent(comm: MPI.Intracomm, here: Any, there: Any, peer: int) -> None:
    """As halos travel; twice, because requests are used again."""
    requests = [comm.Recv_init([there, MPI.BYTE], peer), comm.Send_init([here, MPI.BYTE], peer)]
    for _ in range(2):
        MPI.Prequest.Startall(requests)
        MPI.Prequest.Waitall(requests)
    for request in requests:
        request.Free()


def _once(comm: MPI.Intracomm, here: Any, there: Any, peer: int) -> None:
    """As panels of matrices travel, and arrays that are cut anew."""
    MPI.Request.Waitall([comm.Irecv([there, MPI.BYTE], peer), comm.Isend([here, MPI.BYTE], peer)])


_WAYS = {"Send_init, Recv_init and Startall": _persistent, "Isend and Irecv": _once}


def exercise(comm: MPI.Intracomm, device: Device) -> Iterator[str]:
    """Yields what it begins next. Collective, on two ranks."""
    peer = 1 - comm.rank
    for name, exchange in _WAYS.items():
        for nbytes in _SIZES:
            yield f"{name} of {nbytes:,} bytes"
            # Ranks differ, and so do cells: a message of the right length from the wrong place is seen.
            mine, others = (np.arange(nbytes, dtype=np.uint32).astype(np.uint8) * 3 + r for r in (comm.rank, peer))
            here, there = device.asarray(mine), device.asarray(np.zeros(nbytes, np.uint8))
            device.wait()
            exchange(comm, here, there, peer)
            if not np.array_equal(device.to_host(there), others):
                raise VerificationError("the received bytes differ from those sent")
    yield "done"


def main() -> None:
    """The program."""
    from mpihpc.core.gpu import gpu

    comm = MPI.COMM_WORLD
    for said in exercise(comm, gpu(comm.rank)):
        if comm.rank == 0:
            print(said, flush=True)
        comm.Barrier()


if __name__ == "__main__":
    main()
