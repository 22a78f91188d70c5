"""Drawing arrays: what pictures and animations of results have in common. Needs the extra ``viz``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.io.metadata import Axis

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
    axes : sequence of Axis
        What is known about them: names, coordinates and units. An image has the cells where their coordinates are, if
        those are evenly spaced; the first row is at the top, or at the bottom if the coordinates grow with the rows.
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
        axes: Sequence[Axis] = (),
        units: str = "",
        limits: tuple[float, float] | None = None,
        cmap: str | None = None,
    ) -> None:
        from matplotlib.figure import Figure

        self.shape, self.units, self.limits, self.cmap = tuple(shape), units, limits, cmap
        self.figure = Figure(figsize=(8, 6), layout="constrained")
        self.axes: Any = self.figure.subplots()
        known = [*axes] or [Axis()] * len(self.shape)
        self._ends = [_ends(axis, n) for axis, n in zip(known, self.shape, strict=True)]
        labels = [_label(axis) if axis.values is None or axis.even() else f"{axis.name} (index)" for axis in known]
        self.axes.set_xlabel(labels[-1])
        if len(self.shape) > 1:
            self.axes.set_ylabel(labels[-2])
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
            places: NDArray[Any] = np.arange(len(values)) * step
            if self._ends[0] is not None:
                low_end, high_end = self._ends[0]
                places = low_end + (places + 0.5) * (high_end - low_end) / self.shape[0]
            self._artist = self.axes.plot(places, values, marker="o" if alone else None)[0]
            self.axes.set_ylabel(self.units)
            room = 0.05 * (high - low) or 0.05 * abs(high) or 1
            self.axes.set_ylim(low - room, high + room)
            self.axes.grid(alpha=0.3)
            return
        (top, bottom), (left, right) = (
            (-0.5, n - 0.5) if ends is None else ends for ends, n in zip(self._ends, self.shape, strict=True)
        )
        width, height = abs(right - left), abs(bottom - top)
        slender = max(width, height) > _SLENDER * min(width, height)
        upwards = self._ends[0] is not None and bottom > top
        self._artist = self.axes.imshow(
            values,
            origin="lower" if upwards else "upper",
            extent=(left, right, *((top, bottom) if upwards else (bottom, top))),
            aspect="auto" if slender else "equal",
            interpolation="nearest",
            cmap=self.cmap,
            vmin=low,
            vmax=high,
        )
        self.axes.set_facecolor("lightgrey")  # cells that are no number
        self.figure.colorbar(self._artist, label=self.units)


def _ends(axis: Axis, n: int) -> tuple[float, float] | None:
    """Where the first cell along an axis begins and the last one ends; None without evenly spaced coordinates."""
    place = axis.even()
    if place is None or (place == (0.0, 1.0) and not axis.attrs):  # the indices of the cells: as without any
        return None
    origin, spacing = place
    return origin - spacing / 2, origin + (n - 0.5) * spacing


def _label(axis: Axis) -> str:
    """The name of an axis, with the units of its coordinates."""
    units = axis.attrs.get("units")
    return f"{axis.name} [{units}]" if isinstance(units, str) and units else axis.name


def limits_of(values: NDArray[Any]) -> tuple[float, float]:
    """The least and the greatest finite value; (inf, -inf) if there is none.

    >>> limits_of(np.array([1.0, np.nan, 3.0]))
    (1.0, 3.0)
    """
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)
