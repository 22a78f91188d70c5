"""Writing Zarr: a folder that is whole or not there, and the same for any number of ranks.

Rank 0 makes the folders under a temporary name beside the target. Chunks depend on the shape alone; each rank writes
whole ones, after one `Transfer`, so no two ranks write to one file. At the end rank 0 gives the folder its name.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from mpi4py import MPI

from mpihpc.array import DistArray
from mpihpc.core.failure import agree
from mpihpc.core.staging import SLAB_BYTES
from mpihpc.core.topology import Topology
from mpihpc.core.watchdog import phase
from mpihpc.io.datasets import chunk_grid, gzip_level
from mpihpc.io.filling import whole_chunks
from mpihpc.io import zarr_store


class ZarrWriter:
    def __init__(self, file: str | os.PathLike[str], *, comm: MPI.Intracomm | None = None) -> None:
        self.topology = Topology.of(comm)
        self.file = os.fspath(file)
        self.attrs: dict[str, Any] = {}
        name: str = self.topology.private.bcast(secrets.token_hex(4), root=0)
        self._target = os.path.realpath(self.file)
        self.partial = f"{self._target}.{name}.partial"
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                zarr_store.write_node(self.partial, zarr_store.group_node({}))

    def __enter__(self): return self
    def __exit__(self, kind, *_):
        try:
            if kind is None: self.close()
        finally:
            self.discard()

    def write(self, dataset, array, *, attrs=None, compress=None, chunks=False):
        made = None
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                level = gzip_level(compress)
                chunk = chunk_grid([max(1, n) for n in array.shape], array.dtype.itemsize, None if chunks else SLAB_BYTES)
                node = zarr_store.array_node(array.shape, array.dtype, chunk, level, "wzyx"[-array.ndim:], attrs or {})
                zarr_store.write_node(os.path.join(self.partial, dataset), node)
                made = chunk, level
        chunk, level = self.topology.private.bcast(made, root=0)
        phase(f"write {self.file}")
        with array.device.lane(urgent=True):
            block = whole_chunks(array, chunk)
            with agree(self.topology.private):
                zarr_store.write_chunks(os.path.join(self.partial, dataset), chunk, level, block)

    def close(self):
        with agree(self.topology.private, root=0):
            if self.topology.rank == 0:
                zarr_store.consolidate(self.partial)
                zarr_store.sync_folders(self.partial)
                os.rename(self.partial, self._target)

    def discard(self):
        if self.topology.rank == 0: shutil.rmtree(self.partial, ignore_errors=True)
