"""The dtypes that arrays may have: NumPy's numbers, and bfloat16 of the package ml_dtypes, if it is there."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_COMMON = "?bBhHiIlLqQefdFD"


def numbers(x: Any, name: str = "an array", dtype: DTypeLike | None = None) -> NDArray[Any]:
    """A plain NumPy array of what a user gives as numbers: the door for all of it.

    Parameters
    ----------
    x : array_like
        A number, an array, or a sequence of them. Masked arrays are taken if no cell is masked.
    name : str
        What it is, for errors.
    dtype : dtype, optional
        Default: NumPy's choice.

    Returns
    -------
    numpy.ndarray
        In native byte order; `x` itself if it is such an array.

    Raises
    ------
    TypeError
        Cells are masked, the matrix is sparse, or NumPy makes something else of it than numbers.

    Examples
    --------
    >>> numbers(np.ma.masked_array([1, 2], [False, True]), "the kernel")
    Traceback (most recent call last):
    ...
    TypeError: 1 of 2 cells of the kernel are masked: give .filled(value), such as .filled(numpy.nan)
    """
    if type(x) is np.ndarray and dtype is None and x.dtype.isbuiltin == 1 and x.dtype.char in _COMMON:
        return x
    if type(x) is not np.ndarray:
        if hits := _masked(x):
            raise TypeError(
                f"{hits} of {np.size(x)} cells of {name} are masked: give .filled(value), such as .filled(numpy.nan)"
            )
        if hasattr(x, "toarray") and not hasattr(x, "__array__"):
            raise TypeError(f"{name} is a sparse {type(x).__name__}: give .toarray()")
    array = np.asarray(x, None if dtype is None else number_dtype(dtype))
    try:
        kind = number_dtype(array.dtype)
    except TypeError as error:
        raise TypeError(f"{name} is {type(x).__name__}: {error}") from None
    return array.astype(kind, copy=False)


def _masked(x: Any) -> int:
    """How many cells are masked, also in sequences of masked arrays."""
    if isinstance(x, np.ma.MaskedArray):
        return int(np.ma.count_masked(x))
    return sum(map(_masked, x)) if isinstance(x, list | tuple) else 0


def number_dtype(dtype: DTypeLike) -> np.dtype:
    """The dtype in native byte order, if it is one of numbers or bools."""
    found = _bfloat16() if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)
    if kind_of(found) not in "biufc":
        raise TypeError(f"dtype {found} is not numeric: use integers, floats or complex numbers")
    if found.char in "gG":  # its cells have bytes without a meaning: no checksum, no files others can read
        raise TypeError(f"dtype {found} is wider than {'complex128' if found.kind == 'c' else 'float64'}: use that")
    return found.newbyteorder("=")


def is_bfloat16(dtype: np.dtype) -> bool:
    """Whether it is ml_dtypes' bfloat16."""
    return dtype.isbuiltin == 2 and (dtype.type.__module__, dtype.name) == ("ml_dtypes", "bfloat16")


def kind_of(dtype: np.dtype) -> str:
    """`numpy.dtype.kind`, and "f" for bfloat16, which NumPy takes for bytes, as all others that are not its own."""
    return "f" if is_bfloat16(dtype) else "V" if dtype.isbuiltin == 2 else dtype.kind


def machine_epsilon(dtype: np.dtype) -> float:
    """The distance from 1 to the next number."""
    return 2.0**-7 if is_bfloat16(dtype) else float(np.finfo(dtype).eps)


def require_cast(source: np.dtype, target: np.dtype) -> None:
    """Refuse to drop imaginary parts.

    Raises
    ------
    TypeError
        `source` is complex and `target` is not.
    """
    if source.kind == "c" and target.kind != "c":
        raise TypeError(f"complex input ({source}) does not fit dtype {target}: use complex64 or complex128")


def require_storable(dtype: np.dtype) -> None:
    """Refuse what HDF5 files have no type for.

    Raises
    ------
    TypeError
        It is bfloat16.
    """
    if is_bfloat16(dtype):
        raise TypeError("HDF5 has no type for bfloat16: write u.astype('float32'), which holds the same numbers")


def _bfloat16() -> np.dtype:
    try:
        import ml_dtypes  # many do without
    except ImportError:
        raise TypeError("dtype bfloat16 needs the package ml_dtypes: pip install 'mpihpc[bfloat16]'") from None
    return np.dtype(ml_dtypes.bfloat16)
