"""Snapshots: a dataset that grows along a first axis ``t``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mpihpc.array import DistArray
from mpihpc.core.failure import agree
from mpihpc.io import vtkhdf
from mpihpc.io.datasets import chunk_grid, create_dataset, gzip_level, sync
from mpihpc.io.describing import attach, coordinates_nbytes, describe, share_axes
from mpihpc.io.filling import Place, find_place
from mpihpc.io.hdf5 import open_file
from mpihpc.io.metadata import Axis, Metadata

if TYPE_CHECKING:
    from mpihpc.io.writing import Writer

_CHUNK_BYTES = 1 << 30  # of a snapshot that is not compressed; HDF5 allows less than 4 GiB


class Series:
    """Snapshots of an array, one after the other along a first axis ``t``. Made by `Writer.series`.

    The dataset has the axes ``(t, ...)`` with dimension scales: ``t`` beside it, which holds what `append` is told, and
    coordinates along the others, the indices of the cells if no others are given. The first axis can be extended.
    Until the file is closed it can be read under its temporary name; the snapshots that are complete are those that
    ``t`` has an entry for, also after a crash.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.zeros((4, 3))
    >>> with mpihpc.io.Writer("run.h5") as file:
    ...     series = file.series("u", u)
    ...     for step in range(3):
    ...         series.append(u, t=0.5 * step)
    ...         u += 1
    >>> mpihpc.io.read("run.h5", "u").shape
    (3, 4, 3)
    """

    def __init__(
        self,
        writer: Writer,
        dataset: str,
        like: DistArray,
        attrs: Mapping[str, Any] | None,
        axes: Mapping[str, ArrayLike | None] | Sequence[str] | None,
        metadata: Metadata | None,
        compress: str | None,
    ) -> None:
        self.writer, self.dataset = writer, dataset
        self._count = 0
        self._like = like.shape, like.dtype
        group, _, own = dataset.rpartition("/")
        self._times = f"{group}/t".lstrip("/")
        with writer.alone(dataset, like, series=True) as rank_0:
            if not 1 <= like.ndim <= 4:
                raise ValueError(f"snapshots are of arrays with 1 to 4 axes, this one has {like.ndim}")
            level = gzip_level(compress)
            if rank_0:
                vtkhdf.check_shown(writer.file, like.shape, like.dtype)
                about = describe(like.shape, metadata, axes, attrs)
                indexed = tuple(
                    axis if axis.values is not None else replace(axis, values=np.arange(n))
                    for axis, n in zip(about.axes, like.shape, strict=True)
                )
                names = ["t", *(axis.name for axis in about.axes)]
                if own in names:
                    raise ValueError(f"{own!r} is the name of an axis: choose another for the snapshots")
                if "t" in names[1:]:
                    raise ValueError("'t' is the axis of the snapshots: choose another name for one of the array's own")
                # A snapshot is one stretch of the file, or few equal ones; packed ones are cut as single arrays are.
                pieces = max(1, -(-like.nbytes // _CHUNK_BYTES))
                grid = (-(-like.shape[0] // pieces), *like.shape[1:])
                if level is not None:
                    grid = chunk_grid(like.shape, like.dtype.itemsize)
                chunks = (1, *(max(1, n) for n in grid))
                with writer.reserved(coordinates_nbytes(indexed)) as h5:
                    if self._times in h5:
                        raise ValueError(f"{self._times!r} is there: begin the series in a group, as GROUP/{own}")
                    named = share_axes(h5, dataset, indexed, like.shape)
                    made = create_dataset(h5, dataset, (0, *like.shape), like.dtype, chunks, level, grows=True)
                    create_dataset(h5, self._times, (0,), np.dtype(np.float64), (1024,), None, grows=True)
                    h5[self._times].make_scale("t")
                    attach(made, (Axis("t"), *named), about.attrs)
                    vtkhdf.show(h5, dataset, like.shape, named, self._times)
                writer.describe()

    def append(self, array: DistArray, t: float) -> None:
        """Add a snapshot. Collective.

        Parameters
        ----------
        array : DistArray
            Shape and dtype as at the beginning.
        t : float
            When it was taken, for the axis ``t``: kept as a float64.
        """
        writer = self.writer
        place: Place | None = None
        k = self._count
        try:
            with writer.alone(self.dataset, array) as rank_0:
                if (array.shape, array.dtype) != self._like:
                    raise ValueError(f"a snapshot of {(array.shape, array.dtype)} in a series of {self._like}")
                time = float(t)
                if not math.isfinite(time) or time != t:
                    raise ValueError(f"t={t!r} is no time that a float64 holds: give a finite number")
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
                        h5[self._times].resize(k + 1, axis=0)
                        h5[self._times][k] = time
                        vtkhdf.count_steps(h5, self.dataset, k + 1)
        except OSError as error:
            if k:
                error.args = (f"{error}; {k} whole snapshots are in {writer.partial}",)
            raise
        self._count += 1
        writer.keep = True
