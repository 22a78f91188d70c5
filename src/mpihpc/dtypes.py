"""The dtypes that arrays may have."""

import numpy as np
from numpy.typing import DTypeLike


def number_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype in native byte order, if it is one of numbers or bools."""
    found = np.dtype(dtype)
    if found.kind not in "biufc":
        raise TypeError(f"dtype {found} is not one of numbers: use integers, floats or complex numbers")
    if found.char in "gG":  # its cells have bytes without a meaning: no checksum, no files others can read
        raise TypeError(f"dtype {found} is wider than {'complex128' if found.kind == 'c' else 'float64'}: use that")
    return found.newbyteorder("=")


def require_cast(source: np.dtype, target: np.dtype) -> None:
    """Refuse to drop imaginary parts.

    Raises
    ------
    TypeError
        `source` is complex and `target` is not.
    """
    if source.kind == "c" and target.kind != "c":
        raise TypeError(f"complex input ({source}) does not fit dtype {target}: use complex64 or complex128")
