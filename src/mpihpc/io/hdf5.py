"""h5py, or one clear error where it is missing: arrays and ``.npy`` files need none."""

from __future__ import annotations

from typing import Any

try:
    import h5py
except ImportError as _error:
    _why = str(_error)

    class _Missing:
        def __getattr__(self, name: str) -> Any:
            raise OSError(f"HDF5 files need h5py, which cannot be imported ({_why}): pip install h5py")

    h5py: Any = _Missing()  # type: ignore[no-redef]

__all__ = ["h5py"]
