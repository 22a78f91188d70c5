"""The nodes of a Zarr store: folders, each with JSON that says what it is.

By the specification (https://zarr-specs.readthedocs.io, v3 core). Nothing here depends on the number of ranks.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

NODE = "zarr.json"
_MARKERS = (NODE, ".zgroup", ".zarray")


def is_node(folder: str) -> bool:
    """Whether a folder is an array or a group of a Zarr store, v2 or v3."""
    return any(os.path.isfile(os.path.join(folder, marker)) for marker in _MARKERS)


def is_array(folder: str) -> bool:
    """Whether a node is an array. One that cannot be read is taken for one: who opens it hears why."""
    try:
        return bool(read_node(folder)["node_type"] != "group")
    except FileNotFoundError:  # v2
        return os.path.isfile(os.path.join(folder, ".zarray"))
    except (OSError, ValueError, LookupError, TypeError):
        return True


def walk(folder: str, path: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The nodes at and below a folder, by name: their paths in it, groups before what they hold.

    What is no node may have nodes below it; an array has none. Links are followed, but not in circles.
    """
    here, real = os.path.join(folder, path), os.path.realpath(os.path.join(folder, path))
    if is_node(here):
        yield path
        if is_array(here):
            return
    if real in above:
        return
    try:
        names = sorted(entry.name for entry in os.scandir(here) if entry.is_dir())
    except PermissionError:  # it may be one
        names = []
        yield path
    for name in names:
        yield from walk(folder, f"{path}/{name}".lstrip("/"), (*above, real))


def arrays_in(group: str) -> dict[str, dict[str, Any]]:
    """Name -> ``zarr.json`` of the arrays right in a group, as far as they can be read; none if there is no group."""
    found = {}
    for entry in sorted(os.scandir(group), key=lambda entry: entry.name) if os.path.isdir(group) else ():
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            node = read_node(entry.path)
            if node["node_type"] == "array":
                found[entry.name] = node
    return found


def read_node(folder: str) -> dict[str, Any]:
    """The ``zarr.json`` of a node."""
    with open(os.path.join(folder, NODE), "rb") as file:
        return json.load(file)


def write_node(folder: str, node: Mapping[str, Any]) -> None:
    """Write a node's ``zarr.json`` to the disk; an old one is replaced by the whole new one."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, NODE)
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        json.dump(node, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.partial", path)


def array_node(
    shape: Sequence[int],
    dtype: np.dtype,
    chunk: Sequence[int],
    level: int | None,
    names: Sequence[str],
    attrs: Mapping[str, Any],
) -> dict[str, Any]:
    """The ``zarr.json`` of an array.

    Parameters
    ----------
    shape, dtype
        Of the array.
    chunk : sequence of int
        Shape of a chunk; each is a file.
    level : int, optional
        Of gzip. Default: not compressed.
    names : sequence of str
        Of the axes.
    attrs : mapping
        Attributes, as JSON has them.
    """
    zero = np.zeros((), dtype).item()
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if level is not None:
        codecs.append({"name": "gzip", "configuration": {"level": level}})
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": [zero.real, zero.imag] if dtype.kind == "c" else zero,
        "codecs": codecs,
        "attributes": _as_json(attrs),
        "dimension_names": list(names),
    }


def group_node(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The ``zarr.json`` of a group, before `consolidate`."""
    return {"zarr_format": 3, "node_type": "group", "attributes": _as_json(attrs), "consolidated_metadata": _below({})}


def consolidate(folder: str) -> None:
    """Tell a group of what is below it, if it is one that says so: xarray warns of groups that do not."""
    group = read_node(folder)
    if group.get("consolidated_metadata"):
        below = {path: read_node(os.path.join(folder, path)) for path in walk(folder) if path}
        for node in below.values():
            if node["node_type"] == "group":
                node["consolidated_metadata"] = _below({})
        write_node(folder, group | {"consolidated_metadata": _below(below)})


def _below(nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": "inline", "must_understand": False, "metadata": nodes}


def groups_of(array: str) -> list[str]:
    """The groups that an array is in, the root first.

    >>> groups_of("a/b/c")
    ['', 'a', 'a/b']
    """
    parts = array.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(len(parts) + 1)]


def _as_json(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as JSON can have them.

    Raises
    ------
    ValueError
        One has a value that is neither text nor numbers, nor lists of them.
    """
    found = {}
    for name, value in attrs.items():
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"attribute {name!r} is {value!r}: Zarr attributes are text, numbers, or lists of them"
            ) from None
        found[name] = value
    return found
