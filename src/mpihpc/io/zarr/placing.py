"""A Zarr store takes its name, or arrays take their places in one: whole, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence

from mpihpc.io.datasets import sync
from mpihpc.io.zarr.nodes import NODE, consolidate, group_node, groups_of, is_array, is_node, read_node, write_node


def install(new: str, store: str, arrays: Sequence[str] | None) -> None:
    """Give a new store its name, or its arrays their places in an old one that has more than them.

    After a failure the old store is what it was. Afterwards `new` is what was replaced, if anything.

    Parameters
    ----------
    new : str
        Folder of the new store, on the disk.
    store : str
        Where it goes.
    arrays : sequence of str, optional
        Names of its arrays, in the order in which they take their places. None: nothing of the old one stays.
    """
    if not os.path.isdir(store) or not os.listdir(store):
        os.rename(new, store)
    elif arrays is None or not _has_more(store, arrays):
        exchange(new, store)
    else:
        _add(new, store, arrays)


def _has_more(store: str, arrays: Sequence[str]) -> bool:
    """Whether there is anything in a store but groups and these arrays."""
    for folder, folders, files in os.walk(store):
        paths = {os.path.relpath(os.path.join(folder, name), store): name for name in folders}
        folders[:] = [name for path, name in paths.items() if path not in arrays]
        linked = any(os.path.islink(os.path.join(folder, name)) for name in folders)
        if linked or set(files) - {NODE} or (is_node(folder) and is_array(folder)):
            return True
    return False


def _add(new: str, store: str, arrays: Sequence[str]) -> None:
    groups = sorted({group for array in arrays for group in groups_of(array)}, reverse=True)
    moved: list[tuple[str, str, bool]] = []
    root, attrs = read_node(store), read_node(new)["attributes"]
    try:
        if attrs:
            write_node(store, root | {"attributes": root.get("attributes", {}) | attrs})
        for group in reversed(groups):
            if not os.path.exists(os.path.join(store, group, NODE)):
                write_node(os.path.join(store, group), group_node({}))
        for array in arrays:
            here, there = os.path.join(new, array), os.path.join(store, array)
            known = os.path.isdir(there)
            (exchange if known else os.rename)(here, there)
            moved.append((here, there, known))
        for group in groups:
            consolidate(os.path.join(store, group))
            sync(os.path.join(store, group))
    except BaseException:
        for here, there, known in reversed(moved):
            (exchange if known else os.rename)(there, here)
        with contextlib.suppress(OSError):
            write_node(store, root)
            for group in groups:
                consolidate(os.path.join(store, group))
        raise


def sync_folders(root: str) -> None:
    """Wait until a folder and all folders below it are on the disk. Files are, when they have been written."""
    for folder, *_ in os.walk(root):
        sync(folder)


def exchange(new: str, old: str) -> None:
    """Give a folder the name of another, and the other way around.

    At once where the system can. Else there is a moment without an `old`, which stays what it was after a failure.
    """
    if _exchanged(new, old):
        return
    aside = f"{new}.old"
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def _exchanged(new: str, old: str) -> bool:
    """Linux has a call for it, and not all file systems know it."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(new), here, os.fsencode(old), swap) == 0
