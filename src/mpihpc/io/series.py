"""Snapshots: a dataset that grows along a first axis ``t``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mpihpc.array import DistArray
from mpihpc.core.failure import agree
from mpihpc.io.attributes import storable
from mpihpc.io.datasets import chunk_grid, create_dataset, gzip_level, sync
from mpihpc.io.filling import Place, find_place
from mpihpc.io.hdf5 import open_file

if TYPE_CHECKING:
    from mpihpc.io.writing import Writer

_CHUNK_BYTES = 1 << 30  # of a snapshot that is not compressed; HDF5 allows less than 4 GiB


class Series:
    """Snapshots of an array, one after the other along a first axis ``t``. Made by `Writer.series`.

    The dataset has the axes ``(t, ...)`` with dimension scales: ``t`` beside it, which holds what `append` is told, and
    the indices of the cells along the others. The first axis can be extended. Until the file is closed it can be read
    under its temporary name; the snapshots that are whole are those that ``t`` has an entry for, also after a crash.
    """

    def __init__(
        self, writer: Writer, dataset: str, like: DistArray, attrs: Mapping[str, Any], compress: str | None
    ) -> None:
        self.writer, self.dataset = writer, dataset
        self._count = 0
        self._like = like.shape, like.dtype
        folder, _, own = dataset.rpartition("/")
        self._names = [f"{folder}/{name}".lstrip("/") for name in ("t", *"wzyx"[-like.ndim :])]
        with writer.alone(dataset, like, series=True) as rank_0:
            if not 1 <= like.ndim <= 4:
                raise ValueError(f"snapshots are of arrays with 1 to 4 axes, this one has {like.ndim}")
            level = gzip_level(compress)
            if rank_0:
                if dataset in self._names:
                    raise ValueError(f"{own!r} is the name of an axis: choose another for the snapshots")
                # A snapshot is one stretch of the file, or few equal ones; packed ones are cut as single arrays are.
                pieces = max(1, -(-like.nbytes // _CHUNK_BYTES))
                grid = (-(-like.shape[0] // pieces), *like.shape[1:])
                if level is not None:
                    grid = chunk_grid(like.shape, like.dtype.itemsize)
                chunks = (1, *(max(1, n) for n in grid))
                with open_file(writer.partial, "r+") as h5:
                    made = create_dataset(h5, dataset, (0, *like.shape), like.dtype, chunks, level, grows=True)
                    made.attrs.update(storable(attrs))
                    create_dataset(h5, self._names[0], (0,), np.dtype(np.int64), (1024,), None, grows=True)
                    for name, n in zip(self._names[1:], like.shape, strict=True):
                        h5[name] = np.arange(n)
                    for axis, name in enumerate(self._names):
                        label = name.rpartition("/")[2]
                        h5[name].make_scale(label)
                        made.dims[axis].attach_scale(h5[name])
                        made.dims[axis].label = label
                writer.describe()

    def append(self, array: DistArray, t: int) -> None:
        """Add a snapshot. Collective.

        Parameters
        ----------
        array : DistArray
            Shape and dtype as at the beginning.
        t : int
            When it was taken, for the axis ``t``.
        """
        writer = self.writer
        place: Place | None = None
        k = self._count
        try:
            with writer.alone(self.dataset, array) as rank_0:
                if (array.shape, array.dtype) != self._like:
                    raise ValueError(f"a snapshot of {(array.shape, array.dtype)} in a series of {self._like}")
                if rank_0:
                    with writer.reserved(array.nbytes) as h5:
                        h5[self.dataset].resize(k + 1, axis=0)
                        place = find_place(h5[self.dataset], (k,))
            writer.fill_in(place, array)
            with agree(writer.topology.private):
                sync(writer.partial)
            with writer.alone(self.dataset, array) as rank_0:
                if rank_0:
                    with open_file(writer.partial, "r+") as h5:
                        h5[self._names[0]].resize(k + 1, axis=0)
                        h5[self._names[0]][k] = t
        except OSError as error:
            if k:
                error.args = (f"{error}; {k} whole snapshots are in {writer.partial}",)
            raise
        self._count += 1
        writer.keep = True
