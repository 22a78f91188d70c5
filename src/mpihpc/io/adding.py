"""Adding to an HDF5 file: what is in it already stays.

The file is copied to the temporary name, the new dataset is made there, and the copy takes the name of the file: so the
file is the old one or the new one at any moment, also after a crash.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

from mpihpc.core.watchdog import tick
from mpihpc.io.hdf5 import h5py, open_file

try:
    import fcntl
except ImportError:  # no such locks here
    fcntl = None  # type: ignore[assignment]

_AXES = ("t", "w", "z", "y", "x")  # of a series
_OURS = {"command", "ranks", "versions", "decomposition", "config"}  # attributes of a file that holds one result
_COPIED = 1 << 26  # bytes at a time


def present(target: str) -> bool:
    """Whether there is something that can be lost: an empty file is as good as none."""
    return os.path.exists(target) and os.path.getsize(target) > 0


def check_adding(file: str, target: str, dataset: str, series: bool) -> None:
    """Refuse a dataset that an existing file cannot take. For one rank.

    Raises
    ------
    OSError
        It is not an HDF5 file, or a damaged one; another program writes it; there is no room for a copy.
    ValueError
        The name is that of a group, leads through a dataset or to another file, or is an axis of other datasets.
    """
    with _opened(file, target) as h5:
        if h5.userblock_size:
            raise OSError(f"{file} cannot be added to: it begins with a user block: choose another file")
        _check_name(h5, file, dataset)
        taken = sorted(_axes_in_the_way(h5, dataset) if series else [])
        if taken:
            raise ValueError(
                f"{file} cannot take snapshots as {dataset!r}: {taken[0]!r}, the name of an axis, is there: "
                f"use another GROUP/NAME"
            )
        if not holds_only(h5, dataset):
            free, needed = shutil.disk_usage(os.path.dirname(target)).free, os.path.getsize(target)
            if free < needed:
                raise OSError(f"{file} cannot be added to: a copy has {needed} bytes, and {free} are free: free some")


def _check_name(h5: h5py.File, file: str, dataset: str) -> None:
    parts = dataset.strip("/").split("/")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        link = h5.get(path, getlink=True)
        if link is None:
            return
        if depth == len(parts) and not isinstance(link, h5py.HardLink):
            return  # the link is replaced, and what it leads to stays
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{file} cannot take {dataset!r}: {path!r} leads to another file: write to that one")
        item = h5.get(path)
        if depth < len(parts) and not isinstance(item, h5py.Group):
            raise ValueError(f"{file} cannot take {dataset!r}: {path!r} is no group there: choose another name")
    if not isinstance(item, h5py.Dataset):
        what = "a group" if isinstance(item, h5py.Group) else "no dataset"
        raise ValueError(f"{file} cannot take {dataset!r}: it is {what} there: choose another name, or {dataset}/NAME")
    if h5py.h5ds.is_scale(item.id) and "REFERENCE_LIST" in item.attrs:
        raise ValueError(f"{file} cannot take {dataset!r}: it is an axis of other datasets there: choose another name")


def holds_only(h5: h5py.File, dataset: str) -> bool:
    """Whether a file is a result of ours, of this name, and nothing else: it can be replaced."""
    if "versions" not in h5.attrs or not set(h5.attrs) <= _OURS:
        return False
    dataset = dataset.strip("/")
    own = {dataset, "VTKHDF", *(scale.name.strip("/") for scale in _own_axes(h5, dataset))}

    def within(group: h5py.Group, above: str) -> bool:
        for name in group:
            path = above + name
            if path in own and isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            item = group.get(name) if f"{dataset}/".startswith(f"{path}/") else None
            if not isinstance(item, h5py.Group) or item.attrs or not within(item, f"{path}/"):
                return False
        return True

    return within(h5, "")


def copy(file: str, target: str, partial: str) -> tuple[int, ...]:
    """Copy a file over one that is there; returns the `state` that was copied."""
    with _locked(file, target) as source, open(partial, "r+b") as sink:
        before, left = state(target), os.path.getsize(target)
        while left:
            count = 0
            with contextlib.suppress(OSError, AttributeError):  # the system's way, which may share the blocks
                count = os.copy_file_range(source.fileno(), sink.fileno(), min(left, _COPIED))
            if not count:
                count = sink.write(source.read(min(left, _COPIED)))
                sink.flush()
            if not count:
                raise OSError(f"{file} became shorter while it was copied: try again")
            left -= count
            tick()
    shutil.copymode(target, partial)
    return before


def state(target: str) -> tuple[int, ...]:
    """What changes when somebody writes a file; empty if there is none."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def remove(h5: h5py.File, dataset: str, series: bool) -> bool:
    """Remove the dataset of a name, and say whether there was one; if `series`, its axes whose names are needed, too.

    Its other axes stay, as datasets of their own.
    """
    link = h5.get(dataset, getlink=True)
    if link is None:
        return False
    if isinstance(link, h5py.HardLink) and h5py.h5o.get_info(h5[dataset].id).rc == 1:  # else it stays, by another name
        found, own = h5[dataset], [scale.name for scale in _own_axes(h5, dataset)]
        for axis in found.dims:
            for scale in axis.values():
                axis.detach_scale(scale)
        in_the_way = {f"{found.parent.name.rstrip('/')}/{name}" for name in _AXES} if series else set()
        for name in in_the_way.intersection(own):
            del h5[name]
    del h5[dataset]
    return True


def _own_axes(h5: h5py.File, dataset: str) -> list[h5py.Dataset]:
    """The dimension scales of a dataset that no other dataset has."""
    found = h5.get(dataset)
    if not isinstance(found, h5py.Dataset) or not found.shape:
        return []
    scales = [scale for axis in found.dims for scale in axis.values()]
    users = {s.name: [h5[user] for user, *_ in s.attrs["REFERENCE_LIST"]] for s in scales}
    return [scale for scale in scales if all(user == found for user in users[scale.name])]


def _axes_in_the_way(h5: h5py.File, dataset: str) -> set[str]:
    """Names for the axes of a series that are taken, and not by the series that it replaces."""
    folder, _, _ = dataset.strip("/").rpartition("/")
    names = {f"{folder}/{name}".lstrip("/") for name in _AXES}
    taken = {name for name in names if h5.get(name, getlink=True) is not None}
    return taken - {scale.name.strip("/") for scale in _own_axes(h5, dataset)}


@contextlib.contextmanager
def _opened(file: str, target: str) -> Iterator[h5py.File]:
    """The file, for reading; what cannot be opened is refused."""
    with _locked(file, target):
        try:
            h5 = open_file(target)
        except OSError as error:
            what = "it cannot be opened" if h5py.is_hdf5(target) else "it is no HDF5 file"
            raise OSError(f"{file} cannot be added to: {what} ({error}): move it, or choose another file") from error
        with h5:
            yield h5


@contextlib.contextmanager
def _locked(file: str, target: str) -> Iterator[Any]:
    """The file, while no program with an HDF5 that uses locks writes it: half of what it does would be copied."""
    with open(target, "rb") as stream:
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OSError(
                    f"{file} cannot be added to: a program has it open for writing: close it there"
                ) from error
            except OSError:  # not all file systems can
                pass
        yield stream
