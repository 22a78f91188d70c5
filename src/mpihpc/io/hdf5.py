"""h5py, or one clear error where it is missing; and the one door to HDF5 files.

Arrays and ``.npy`` files need no h5py.
"""

from __future__ import annotations

import os
from typing import Any

try:
    import h5py
except ImportError as _error:
    _why = str(_error)

    class _Missing:
        def __getattr__(self, name: str) -> Any:
            raise OSError(f"HDF5 files need h5py, which cannot be imported ({_why}): pip install h5py")

    h5py: Any = _Missing()  # type: ignore[no-redef]

__all__ = ["h5py", "open_file"]


def open_file(file: str | os.PathLike[str], mode: str = "r", **options: Any) -> h5py.File:
    """Open an HDF5 file without locks, as `h5py.File` does with them.

    A reader with locks makes the next open of the writer fail, and a writer that of its readers. Nobody needs them: a
    reader believes the entries of ``t`` alone, and there is one writer, under a name of its own.

    Parameters
    ----------
    file : path
        The file.
    mode : str
        See `h5py.File`.
    **options
        For `h5py.File`: its ``driver``, ``libver``, and so on.
    """
    try:
        return h5py.File(file, mode, locking=False, **options)
    except (TypeError, ValueError):  # this h5py cannot say so to its HDF5, which looks here at every opening
        os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE")
        return h5py.File(file, mode, **options)
    except OSError as error:
        if "locking flag" not in str(error):  # this process has it open, with locks
            raise
        return h5py.File(file, mode, **options)
