"""Which writer makes a file: known by the end of its name."""

from __future__ import annotations

import os

from mpihpc.io import writing
from mpihpc.io.writing import Writer
from mpihpc.io.zarr import writing as zarr_writing
from mpihpc.io.zarr.writing import ZarrWriter


def find_writer(file: str | os.PathLike[str]) -> type[Writer] | type[ZarrWriter]:
    """The class that writes a file of this name."""
    return ZarrWriter if os.fspath(file).rstrip("/").lower().endswith(".zarr") else Writer


def check_target(file: str | os.PathLike[str], dataset: str = "data") -> None:
    """Refuse a result that cannot be written, before anything is computed. For one rank, inside `agree`."""
    module = zarr_writing if find_writer(file) is ZarrWriter else writing
    module.check_target(file, dataset)
