"""A picture of a distributed array, drawn by rank 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpihpc.array import DistArray
from mpihpc.core.failure import agree
from mpihpc.io import Metadata
from mpihpc.view import PIXELS, Drawing, replacing


def thumbnail(u: DistArray) -> NDArray[np.floating] | None:
    """The last two axes of the array, at the middle of the others, thinned out to a picture's size. Collective.

    Returns
    -------
    numpy.ndarray or None
        At most 1500 cells per axis (magnitudes, if the array is complex) on rank 0, None on the others.
    """
    middle, shown = [n // 2 for n in u.shape[:-2]], range(max(0, u.ndim - 2), u.ndim)
    start, stop = u.box.start, u.box.stop
    thin = {d: -(-u.shape[d] // PIXELS) for d in shown}
    # Every thin[d]-th global index; a block the middle does not cross gives nothing.
    crossed = all(a <= m < b for a, m, b in zip(start, middle, stop, strict=False))
    pick = [m - a for a, m in zip(start, middle, strict=False)] if crossed else [slice(0)] * len(middle)
    piece = u.device.to_host(u.local[(*pick, *(slice(-start[d] % t, None, t) for d, t in thin.items()))])
    corner = [-(-start[d] // t) for d, t in thin.items()]
    piece = np.abs(piece) if u.dtype.kind == "c" else piece
    pieces = u.topology.private.gather((corner, piece) if crossed and piece.size else None)
    if pieces is None:
        return None
    whole = np.zeros([-(-u.shape[d] // t) for d, t in thin.items()], np.empty(0, u.dtype).real.dtype)
    for at, values in filter(None, pieces):
        whole[tuple(slice(a, a + n) for a, n in zip(at, values.shape, strict=True))] = values
    return whole


def picture(u: DistArray, file: str, title: str, metadata: Metadata) -> None:
    """Draw an array into a file: a line for one axis, an image for two, the middle image for more. Collective.

    Parameters
    ----------
    u : DistArray
        1 to 4 axes.
    file : str
        The picture, for example a ``.png``.
    title : str
        Written into it.
    metadata : Metadata
        Of the array: its axes and units are drawn.
    """
    image = thumbnail(u)
    with agree(u.topology.private, root=0):
        if image is not None:
            drawing = Drawing(u.shape[-2:], metadata.axes[-2:], metadata.units)
            drawing.show(image, title)
            with replacing(file) as partial:
                drawing.figure.savefig(partial, dpi=120)
