"""Drawing arrays: what pictures and animations of results have in common. Needs the extra ``viz``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS = 1500
"""The most cells that are drawn along an axis; longer ones are thinned out."""

_SLENDER = 4  # images more slender than this are stretched


def check_picture(file: str, suffixes: Sequence[str]) -> None:
    """Refuse a picture that cannot be drawn, before anything is computed. For one rank, inside `agree`.

    Raises
    ------
    ValueError
        matplotlib is missing, or the name ends otherwise.
    OSError
        The folder does not exist or is not writable, or the name is taken by a folder or a read-only file.
    """
    folder = os.path.dirname(os.path.realpath(file))
    if not file.lower().endswith(tuple(suffixes)):
        raise ValueError(f"{file} is not the name of a picture: end it with {' or '.join(suffixes)}")
    if os.path.isdir(file):
        raise IsADirectoryError(f"{file} cannot be written: it is a folder")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{file} cannot be written: no permission to write to folder {folder}")
    if os.path.exists(file) and not os.access(file, os.W_OK):
        raise PermissionError(f"{file} cannot be replaced: it is read-only")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ValueError("pictures need matplotlib: pip install 'mpihpc[viz]'") from None


@contextmanager
def replacing(file: str) -> Iterator[str]:
    """A temporary name beside `file`, whose suffix it has; at the end of the block it becomes `file`, or goes away."""
    target = os.path.realpath(file)
    partial = f"{target}.{secrets.token_hex(4)}.partial{os.path.splitext(target)[1]}"
    try:
        yield partial
        os.replace(partial, target)
    except OSError as error:
        if error.errno is None:  # not the system's word on this file
            raise
        raise OSError(error.errno, error.strerror or str(error), file) from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


class Drawing:
    """A line for one axis, an image for two, of cells that may have been thinned out.

    Parameters
    ----------
    shape : sequence of int
        Lengths of the axes that are drawn, one or two, before they were thinned out.
    labels : sequence of str
        Names of these axes.
    units : str
        For the colour bar or the axis of values.
    limits : (float, float), optional
        Of the values. Default: those of the first values that are drawn.
    cmap : str, optional
        A matplotlib colour map.

    Attributes
    ----------
    figure : matplotlib.figure.Figure
        To be saved after `show`. Its size is always the same.
    """

    def __init__(
        self,
        shape: Sequence[int],
        labels: Sequence[str] = (),
        units: str = "",
        limits: tuple[float, float] | None = None,
        cmap: str | None = None,
    ) -> None:
        from matplotlib.figure import Figure

        self.shape, self.units, self.limits, self.cmap = tuple(shape), units, limits, cmap
        self.figure = Figure(figsize=(8, 6), layout="constrained")
        self.axes: Any = self.figure.subplots()
        self.axes.set_xlabel(labels[-1] if labels else "")
        if len(self.shape) > 1:
            self.axes.set_ylabel(labels[-2] if len(labels) > 1 else "")
        self._artist: Any = None

    def show(self, values: NDArray[Any], title: str) -> None:
        """Draw values, in place of the last ones: shape (n,) or (n, m), numbers or bools that are not complex."""
        self.axes.set_title(title, wrap=True)
        values = values.astype(np.float64 if values.dtype.kind in "fiu" else np.uint8, copy=False)
        if self._artist is not None:
            self._artist.set_data(values) if values.ndim > 1 else self._artist.set_ydata(values)
            return
        low, high = limits_of(values) if self.limits is None else self.limits
        if values.ndim == 1:
            # Cell k of the thinned line is cell k * step of the array.
            step = -(-self.shape[0] // max(1, len(values)))
            alone = len(values) == 1
            self._artist = self.axes.plot(np.arange(len(values)) * step, values, marker="o" if alone else None)[0]
            self.axes.set_ylabel(self.units)
            room = 0.05 * (high - low) or 0.05 * abs(high) or 1
            self.axes.set_ylim(low - room, high + room)
            self.axes.grid(alpha=0.3)
            return
        rows, columns = self.shape
        slender = max(rows, columns) > _SLENDER * min(rows, columns)
        self._artist = self.axes.imshow(
            values,
            extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
            aspect="auto" if slender else "equal",
            interpolation="nearest",
            cmap=self.cmap,
            vmin=low,
            vmax=high,
        )
        self.axes.set_facecolor("lightgrey")  # cells that are no number
        self.figure.colorbar(self._artist, label=self.units)


def limits_of(values: NDArray[Any]) -> tuple[float, float]:
    """The least and the greatest finite value; (inf, -inf) if there is none.

    >>> limits_of(np.array([1.0, np.nan, 3.0]))
    (1.0, 3.0)
    """
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
