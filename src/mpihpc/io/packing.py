"""Packed values, as the CF conventions and the netCDF users' guide define them: decoding stored numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES = (
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "valid_range",
    "valid_min",
    "valid_max",
    "_Unsigned",
)
_EXACT = 1 << 53  # float64 is not exact for larger integers


@dataclass(frozen=True)
class Packing:
    """How to decode stored numbers.

    value = stored * scale + offset, and NaN where the stored number is one of `fills` or out of range.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the values: float32 for stored float32, and for integers of at most 16 bits, if the factors are float32 or
        absent; else float64. It depends only on the attributes: integers with a fill value become floats even if no
        cell has that value.
    stored : numpy.dtype
        Of the stored numbers, in native byte order; signed or unsigned according to ``_Unsigned``.
    fills : numpy.ndarray
        Stored numbers that mark missing values.
    bounds : tuple of float
        The smallest and the largest valid number, None for no bound.
    unpacked_bounds : bool
        Whether `bounds` apply to the values instead of the stored numbers.
    """

    dtype: np.dtype
    stored: np.dtype
    scale: float | None
    offset: float | None
    fills: NDArray[Any]
    bounds: tuple[Any, Any]
    unpacked_bounds: bool

    @classmethod
    def of(cls, attrs: Mapping[str, Any], stored: np.dtype) -> Packing | None:
        """The packing that attributes describe; None if the stored numbers are the values.

        Categories (``flag_values``, ``flag_masks``) without scale and offset are not decoded, even with a fill value.

        Raises
        ------
        ValueError
            An attribute that affects the values cannot be interpreted.
        """
        given = {name: attrs[name] for name in ATTRIBUTES if name in attrs}
        if "flag_values" in attrs or "flag_masks" in attrs:
            given = {name: v for name, v in given.items() if name in ("scale_factor", "add_offset")} and given
        if not given:
            return None
        if stored.kind not in "iuf":
            raise ValueError(f"{', '.join(given)}: not defined for cells of {stored}")
        native = _signed(given.pop("_Unsigned", None), stored.newbyteorder("="))
        numbers = {name: _numbers(name, value) for name, value in given.items()}
        for name, count in [
            ("scale_factor", 1),
            ("add_offset", 1),
            ("valid_min", 1),
            ("valid_max", 1),
            ("valid_range", 2),
        ]:
            if name in numbers and numbers[name].size != count:
                raise ValueError(f"attribute {name} has {numbers[name].size} numbers, not {count}")
        factors = [numbers[name] for name in ("scale_factor", "add_offset") if name in numbers]
        if not all(np.isfinite(factor).all() for factor in factors) or not all(numbers.get("scale_factor", [1])):
            raise ValueError("attribute scale_factor or add_offset is 0 or not finite")
        fills = [_as(fill, native) for name in ("_FillValue", "missing_value") for fill in numbers.get(name, ())]
        low, high = numbers.get("valid_range", (None, None))
        low = numbers["valid_min"][0] if "valid_min" in numbers else low
        high = numbers["valid_max"][0] if "valid_max" in numbers else high
        ranges = [numbers[name] for name in ("valid_range", "valid_min", "valid_max") if name in numbers]
        if native.kind == "f" or "_Unsigned" in attrs:
            low, high = (None if bound is None else _alike(bound, native) for bound in (low, high))
        if not factors and not any(name in numbers for name in ("_FillValue", "missing_value")) and not ranges:
            return cls(native, native, None, None, np.empty(0, native), (None, None), False)
        small = native.itemsize <= (2 if native.kind in "iu" else 4)
        if native.kind == "f" and not factors:
            dtype = native
        elif small and all(factor.dtype in (np.float16, np.float32) for factor in factors):
            dtype = np.dtype(np.float32)
        else:
            dtype = np.dtype(np.float64)
        return cls(
            dtype,
            native,
            float(numbers["scale_factor"][0]) if "scale_factor" in numbers else None,
            float(numbers["add_offset"][0]) if "add_offset" in numbers else None,
            np.array([fill for fill in fills if fill is not None], native),
            (low, high),
            native.kind in "iu" and bool(factors) and any(bound.dtype.kind == "f" for bound in ranges),
        )

    def decode(self, cells: NDArray[Any]) -> NDArray[Any]:
        """The values of stored numbers, in a new array.

        Raises
        ------
        ValueError
            An integer is too large for a float.
        """
        cells = cells.view(self.stored)
        if self.dtype.kind in "iu":
            return cells
        missing = np.isin(cells, self.fills)
        if not self.unpacked_bounds:
            missing |= self._out_of_bounds(cells)
        if cells.dtype.kind in "iu" and cells.dtype.itemsize == 8:
            large = ~missing & ((cells > _EXACT) | (cells < -_EXACT if cells.dtype.kind == "i" else False))
            if large.any():
                raise ValueError(
                    f"{cells[large][0]} does not fit float64, which is exact for integers up to {_EXACT} only"
                )
        with np.errstate(all="ignore"):
            values = cells.astype(self.dtype)
            if self.scale is not None:
                values *= self.dtype.type(self.scale)
            if self.offset is not None:
                values += self.dtype.type(self.offset)
        if self.unpacked_bounds:
            missing |= self._out_of_bounds(values)
        values[missing] = np.nan
        return values

    def _out_of_bounds(self, cells: NDArray[Any]) -> NDArray[np.bool_]:
        out = np.zeros(cells.shape, bool)
        low, high = self.bounds
        if low is not None:
            out |= cells < low
        if high is not None:
            out |= cells > high
        return out


def _signed(unsigned: Any, stored: np.dtype) -> np.dtype:
    """The dtype that ``_Unsigned`` asks for."""
    if unsigned is None:
        return stored
    words = {"true": "u", "1": "u", "false": "i", "0": "i"}
    kind = words.get(str(np.asarray(unsigned).ravel()[0]).lower())
    if kind is None or stored.kind == "f":
        raise ValueError(f"attribute _Unsigned is {unsigned!r} for cells of {stored}")
    return np.dtype(f"{kind}{stored.itemsize}")


def _numbers(name: str, value: Any) -> NDArray[Any]:
    """An attribute as an array of numbers; text such as "0.01" is parsed."""
    try:
        row = np.atleast_1d(np.asarray(value)).ravel()
        if row.dtype.kind in "US":
            row = np.array([float(word) for word in row])
        if row.dtype.kind not in "iuf" or not row.size or value is None:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"attribute {name} is {value!r}, which is not a number") from None
    return row


def _as(fill: Any, stored: np.dtype) -> Any:
    """A fill value as a stored number; None if no cell can have it."""
    fill = _alike(fill, stored)
    if fill.dtype == stored:
        return fill
    if stored.kind == "f" or not (np.isfinite(fill) and fill == int(fill)):
        return None
    info = np.iinfo(stored)
    return stored.type(int(fill)) if info.min <= int(fill) <= info.max else None


def _alike(number: Any, stored: np.dtype) -> Any:
    """A number of an attribute as the cells have it: rounded like them, or signed or not like them.

    It stays as it is where it does not fit a float, or is not an integer of the cells' size.
    """
    with np.errstate(all="ignore"):
        same = number.astype(stored)
    if stored.kind == "f":
        return number if np.isinf(same) and np.isfinite(number) else same
    return same if number.dtype.kind in "iu" and number.dtype.itemsize == stored.itemsize else number
