"""A picture of a distributed array, drawn by rank 0."""

from __future__ import annotations

import os
import secrets

import numpy as np
from numpy.typing import NDArray

from mpihpc.array import DistArray
from mpihpc.core.failure import agree

_PIXELS = 1500


def check_picture(file: str) -> None:
    """Refuse a picture that cannot be drawn, before anything is computed. For one rank, inside `agree`."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'mpihpc[viz]'") from None
    folder = os.path.dirname(os.path.realpath(file))
    if not file.lower().endswith((".png", ".pdf", ".svg", ".jpg")):
        raise ValueError(f"{file} is no name for a picture: end it with .png")
    if os.path.isdir(file):
        raise IsADirectoryError(f"{file} cannot be written: it is a folder")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{file} cannot be written: no permission to write to folder {folder}")


def thumbnail(u: DistArray) -> NDArray[np.floating] | None:
    """The last two axes of the array, at the middle of the others, thinned out to a picture's size. Collective.

    Returns
    -------
    numpy.ndarray or None
        At most 1500 cells per axis (magnitudes, if the array is complex) on rank 0, None on the others.
    """
    middle, shown = [n // 2 for n in u.shape[:-2]], range(max(0, u.ndim - 2), u.ndim)
    start, stop = u.box.start, u.box.stop
    thin = {d: -(-u.shape[d] // _PIXELS) for d in shown}
    # Every thin[d]-th global index; a block the middle does not cross gives nothing.
    crossed = all(a <= m < b for a, m, b in zip(start, middle, stop, strict=False))
    pick = [m - a for a, m in zip(start, middle, strict=False)] if crossed else [slice(0)] * len(middle)
    piece = u.local[(*pick, *(slice(-start[d] % t, None, t) for d, t in thin.items()))]
    corner = [-(-start[d] // t) for d, t in thin.items()]
    piece = np.abs(piece) if u.dtype.kind == "c" else piece
    pieces = u.topology.private.gather((corner, piece) if crossed and piece.size else None)
    if pieces is None:
        return None
    whole = np.zeros([-(-u.shape[d] // t) for d, t in thin.items()], u.local.real.dtype)
    for at, values in filter(None, pieces):
        whole[tuple(slice(a, a + n) for a, n in zip(at, values.shape, strict=True))] = values
    return whole


def picture(u: DistArray, file: str, title: str, units: str | None = None) -> None:
    """Draw an array into a file: a line for one axis, an image for two, the middle image for more. Collective.

    Parameters
    ----------
    u : DistArray
        1 to 4 axes.
    file : str
        The picture, for example a ``.png``.
    title, units : str
        Written into it.
    """
    image = thumbnail(u)
    with agree(u.topology.private, root=0):
        if image is not None:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(8, 6), layout="constrained")
            axes = figure.subplots()
            if image.ndim == 1:
                axes.plot(np.linspace(0, u.shape[0] - 1, len(image)), image)
                axes.set_ylabel(units or "")
            else:
                shown = axes.imshow(image, extent=(0, u.shape[-1], u.shape[-2], 0), interpolation="nearest")
                figure.colorbar(shown, label=units or "")
            axes.set_title(title)
            partial = f"{file}.{secrets.token_hex(4)}.partial{os.path.splitext(file)[1]}"
            try:
                figure.savefig(partial, dpi=120)
                os.replace(partial, file)
            except OSError as error:
                raise OSError(error.errno, error.strerror, file) from error
            finally:
                if os.path.exists(partial):
                    os.unlink(partial)
