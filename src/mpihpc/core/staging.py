"""Between files and devices: slabs of arrays in two rows of host memory that take turns.

A device reads and writes pinned memory by itself. So while this process reads a slab from a file, the last one travels
to the device, and while it writes one, the next one comes: a rank never has more than two of them in its own memory.
Where arrays are in host memory anyway, nothing is copied that would not be copied without a device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mpihpc.core.device import Device

SLAB_BYTES = 1 << 24


def slab_cells(*dtypes: np.dtype) -> int:
    """Number of cells in a slab, in whichever of these dtypes it is."""
    return max(1, SLAB_BYTES // max(dtype.itemsize for dtype in dtypes))


def download(device: Device, pieces: Sequence[Any]) -> Iterator[NDArray[Any]]:
    """Arrays on a device, one after the other in host memory; the next one comes while the caller has one.

    Parameters
    ----------
    device : Device
        Where they are.
    pieces : sequence of numpy.ndarray or cupy.ndarray
        They must not change before the last has come.

    Yields
    ------
    numpy.ndarray
        C order, and the caller's until it asks for the next; on the CPU the piece itself, in its own order.
    """
    if device.host:
        yield from pieces
        return
    rows = [device.pinned(max((piece.nbytes for piece in pieces), default=0)) for _ in pieces[:2]]

    def begin(k: int) -> NDArray[Any]:
        row = rows[k % 2][: pieces[k].nbytes]
        device.post(pieces[k].ravel().view(np.uint8), row)
        return row.view(pieces[k].dtype).reshape(pieces[k].shape)

    coming = [begin(0)] if pieces else []
    try:
        for k in range(1, len(pieces) + 1):
            device.wait()
            here = coming.pop()
            if k < len(pieces):
                coming.append(begin(k))
            yield here
    finally:
        device.wait()  # before the rows become somebody else's


class Upload:
    """Arrays on their way to a device, one after the other; one travels while the next is read.

    Use it in a ``with`` statement, at whose end all have left host memory.

    Parameters
    ----------
    device : Device
        Where they go.
    nbytes : int
        Of the largest.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        self._device = device
        self._rows = [device.pinned(nbytes) for _ in range(1 if device.host else 2)]

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._device.wait()

    def room(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """An array in host memory, C order, to be filled and sent before the next is asked for."""
        self._rows.reverse()
        dtype = np.dtype(dtype)
        return self._rows[0][: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def send(self, cells: NDArray[Any], target: Any) -> None:
        """Copy what `room` gave into an array on the device. Waits until the one before is there."""
        if self._device.host:
            target[...] = cells
            return
        self._device.wait()
        here = self._device.empty(cells.nbytes, np.uint8)
        self._device.fetch(cells.reshape(-1).view(np.uint8), here)
        target[...] = here.view(cells.dtype).reshape(cells.shape)
