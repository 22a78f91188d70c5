"""The metadata of an array in a file: names of axes, coordinates, units and other attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PACKING = (
    *("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_range", "valid_min", "valid_max"),
    *("_Unsigned", "actual_range"),
)
_REFERENCES = (
    *("ancillary_variables", "bounds", "cell_measures", "climatology", "coordinates", "formula_terms"),
    *("grid_mapping", "compress", "flag_masks", "flag_meanings", "flag_values"),
)


@dataclass(frozen=True)
class Axis:
    """One axis of an array.

    Attributes
    ----------
    name : str
        "" if the file gives none.
    values : numpy.ndarray, optional
        Coordinates of the cells along the axis, one per cell.
    attrs : mapping
        Attributes of the coordinates, such as ``{"units": "m"}``.

    Examples
    --------
    >>> Axis("lat", np.linspace(-90, 90, 3), {"units": "degrees_north"}).even()
    (-90.0, 90.0)
    """

    name: str = ""
    values: NDArray[Any] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def even(self) -> tuple[float, float] | None:
        """The first of evenly spaced coordinates, and the step between them; None if there are no such.

        Examples
        --------
        >>> Axis("x", np.array([0.5, 1.0, 1.5])).even(), Axis("x", np.array([1, 2, 4])).even()
        ((0.5, 0.5), None)
        """
        if self.values is None or not len(self.values) or not np.isfinite(self.values).all():
            return None
        values = self.values.astype(float)
        if len(values) == 1:
            return float(values[0]), 1.0
        step = (values[-1] - values[0]) / (len(values) - 1)
        kept: Any = self.values.dtype if self.values.dtype.kind == "f" else np.dtype(float)
        rounding = 4 * float(np.finfo(kept.type).eps) * np.abs(values).max()
        even = np.abs(values - (values[0] + step * np.arange(len(values)))).max() <= rounding < abs(step) / 4
        return (float(values[0]), float(step)) if even else None


@dataclass(frozen=True)
class Metadata:
    """The metadata of an array.

    Attributes
    ----------
    axes : tuple of Axis
        One per axis of the array; empty if the file has no information.
    attrs : mapping
        Attributes of the array, such as ``{"units": "K", "long_name": "temperature"}``.

    Examples
    --------
    >>> Metadata((Axis("lat"), Axis("lon")), {"units": "K", "scale_factor": 0.1}).carried().attrs
    {'units': 'K'}
    """

    axes: tuple[Axis, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def carried(self) -> Metadata:
        """What is also true of an array that has been computed from this one, cell by cell.

        Left out is how stored numbers are packed, what their range is, and what refers to other arrays of the file;
        names of axes too that are not unique, as those of a covariance.

        Examples
        --------
        >>> Metadata(attrs={"units": "K", "scale_factor": 0.01}).carried().attrs
        {'units': 'K'}
        """
        names = [axis.name for axis in self.axes if axis.name]
        axes = self.axes if len(set(names)) == len(names) else ()
        return Metadata(
            tuple(replace(axis, attrs=_kept(axis.attrs, _REFERENCES)) for axis in axes),
            _kept(self.attrs, (*_REFERENCES, *_PACKING)),
        )

    @property
    def units(self) -> str:
        """The units of the cells; "" if the file gives none."""
        units = self.attrs.get("units")
        return units if isinstance(units, str) else ""


def _kept(attrs: Mapping[str, Any], without: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in attrs.items() if name not in without and value is not None}
