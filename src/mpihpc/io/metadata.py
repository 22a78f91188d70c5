"""The metadata of an array in a file: names of axes, coordinates, units and other attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


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
    """

    name: str = ""
    values: NDArray[Any] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metadata:
    """The metadata of an array.

    Attributes
    ----------
    axes : tuple of Axis
        One per axis of the array; empty if the file has no information.
    attrs : mapping
        Attributes of the array, such as ``{"units": "K", "long_name": "temperature"}``.
    """

    axes: tuple[Axis, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def units(self) -> str:
        """The units of the cells; "" if the file gives none."""
        units = self.attrs.get("units")
        return units if isinstance(units, str) else ""
