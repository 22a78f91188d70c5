"""HDF5, and so netCDF 4 and MATLAB 7.3: files as they are found, in which one odd object harms no other."""

from __future__ import annotations

import builtins
import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc.io.formats.entry import Entry
from mpihpc.io.hdf5 import h5py, open_file
from mpihpc.io.metadata import Axis, Metadata

NAME = "HDF5"

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OBJECTS, _DEPTH, _SECONDS = 10_000, 32, 10.0  # of a listing
_THINNED = 1 << 25  # bytes that are read to take every n-th cell of them
_LINKS = 64  # that lead from one to the next
_STORAGE = {"DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "DIMENSION_LABELS"}
_FILTERS = {  # those that HDF5 itself has not, and the package that brings them
    32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32017: "SZ", 32023: "SPERR",
    32026: "Blosc2", 307: "BZip2", 257: "FCIDECOMP", 32018: "FCIDECOMP", 32024: "SZ3",
}  # fmt: skip


def recognises(path: str, head: bytes) -> bool:
    """See `mpihpc.io.formats.Format`. The signature is at 0, or at 512, 1024, 2048, ... behind a user block."""
    if not head:
        return False
    at, size = 0, os.path.getsize(path)
    with builtins.open(path, "rb") as stream:
        while at < size:
            stream.seek(at)
            if stream.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            at = 2 * at or 512
    return False


def entries(path: str, wanted: str | None) -> dict[str, Entry]:
    """See `mpihpc.io.formats.Format`."""
    with _Tree(path) as tree:
        if wanted is None:
            return {entry.name: entry for entry in tree.list()}
        found = tree.find(wanted)
        return {} if found is None else {wanted: _describe(wanted, *found)}


def open(path: str) -> _Reading:
    """See `mpihpc.io.formats.Boxed`."""
    return _Reading(path)


def axes(path: str, entry: Entry) -> tuple[Axis, ...]:
    """See `mpihpc.io.formats.Boxed`."""
    with _Tree(path) as tree:
        found = tree.find(entry.name)
        return () if found is None else _axes(h5py.Dataset(found[0]), coordinates=True)


class _Reading:
    """See `mpihpc.io.formats.Opened`."""

    def __init__(self, path: str) -> None:
        self._tree = _Tree(path)
        self._datasets: dict[str, Any] = {}

    def read(self, entry: Entry, index: tuple[slice, ...], out: NDArray[Any]) -> None:
        if not out.size:  # h5py does not take it
            return
        if entry.name not in self._datasets:
            found = self._tree.find(entry.name)
            if found is None:
                raise OSError("it is no longer there")
            self._datasets[entry.name] = h5py.Dataset(found[0])
        dataset = self._datasets[entry.name]
        last = index[-1]
        thin = last.step if last.step * out.nbytes <= _THINNED else 1
        if thin > 1:  # HDF5 takes cells in a row together, and others one by one
            index = (*index[:-1], slice(last.start, last.stop))
        if thin > 1 or dataset.dtype.metadata:  # of an enumeration HDF5 makes no integers
            np.copyto(out, dataset[index][..., ::thin])
        else:
            dataset.read_direct(out, index)

    def close(self) -> None:
        self._tree.close()


class _Tree:
    """The objects of a file, and of those that its links lead to."""

    def __init__(self, path: str) -> None:
        _load_filters()
        self._files: dict[str, Any] = {}
        self._root = self._open(path)

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def find(self, name: str) -> tuple[Any, str] | None:
        """The dataset of this name, and the file that it is in; None if there is none."""
        spellings = [name.encode("utf-8", "surrogateescape")]
        with contextlib.suppress(UnicodeEncodeError):
            spellings.append(name.encode("latin-1"))
        for spelling in spellings:
            with contextlib.suppress(KeyError):
                found, path = self._follow(self._root, self._first, spelling, _LINKS)
                return (found, path) if isinstance(found, h5py.h5d.DatasetID) else None
        return None

    def list(self) -> Iterator[Entry]:
        """All datasets under one name each, and what follows when there are too many to look at.

        Links are followed when all that is in the file itself is known, so that a dataset goes by its own name.
        """
        seen: set[tuple[int, Any]] = set()
        end = time.monotonic() + _SECONDS
        own: deque[tuple[bytes, Any, str]] = deque([(b"", self._root, self._first)])
        links: deque[tuple[bytes, Any, str, bytes]] = deque()
        while own or links:
            if len(seen) > _OBJECTS or time.monotonic() > end:
                yield Entry("...", (), np.dtype("V1"), refused=f"a listing ends after {len(seen)} objects: name one")
                return
            if own:
                path, item, file = own.popleft()
            else:
                path, group, file, name = links.popleft()
                try:
                    item, file = self._follow(group, file, name, _LINKS)
                except (KeyError, OSError, RuntimeError, ValueError):
                    continue  # it leads nowhere
            info = h5py.h5o.get_info(item)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            if isinstance(item, h5py.h5d.DatasetID):
                yield _describe(_text(path), item, file)
            elif isinstance(item, h5py.h5g.GroupID) and path.count(b"/") < _DEPTH and path != b"VTKHDF":
                for name in item:
                    inner = path + b"/" + name if path else name
                    if item.links.get_info(name).type == h5py.h5l.TYPE_HARD:
                        with contextlib.suppress(KeyError, RuntimeError, OSError, ValueError):
                            own.append((inner, h5py.h5o.open(item, name), file))
                    else:
                        links.append((inner, item, file, name))

    def _open(self, path: str) -> Any:
        """The root group of a file; it stays open."""
        self._first = getattr(self, "_first", path)
        real = os.path.realpath(path)
        if real not in self._files:
            if os.path.exists(path) and not os.path.isfile(path):
                raise OSError(f"a link leads to {path}, which is no regular file")
            self._files[real] = open_file(path)
        return h5py.h5o.open(self._files[real].id, b"/")

    def _follow(self, group: Any, file: str, path: bytes, left: int) -> tuple[Any, str]:
        """What is at a path: the object, and the file that it is in.

        By hand, because HDF5 would open whatever an external link names, a FIFO too, and wait.
        """
        if not left:
            raise OSError(f"more than {_LINKS} links lead from one to the next")
        here = h5py.h5o.open(group, b"/") if path.startswith(b"/") else group
        for part in path.split(b"/"):
            if part in (b"", b"."):
                continue
            if not isinstance(here, h5py.h5g.GroupID) or not here.links.exists(part):
                raise KeyError(part)
            kind = here.links.get_info(part).type
            if kind == h5py.h5l.TYPE_HARD:
                here = h5py.h5o.open(here, part)
            elif kind == h5py.h5l.TYPE_SOFT:
                here, file = self._follow(here, file, here.links.get_val(part), left - 1)
            elif kind == h5py.h5l.TYPE_EXTERNAL:
                there, inner = here.links.get_val(part)
                file = _beside(file, os.fsdecode(there))
                here, file = self._follow(self._open(file), file, b"/" + inner, left - 1)
            else:
                raise KeyError(part)
        return here, file


def _beside(file: str, named: str) -> str:
    """Where HDF5 looks for a file that another one names."""
    places = [os.path.join(folder, named) for folder in os.environ.get("HDF5_EXT_PREFIX", "").split(":") if folder]
    folder = os.path.dirname(os.path.realpath(file))
    places += [os.path.join(folder, named), named, os.path.join(folder, os.path.basename(named))]
    return next((place for place in places if os.path.exists(place)), places[0])


def _describe(name: str, item: Any, file: str) -> Entry:
    """The entry of a dataset, whatever it is."""
    dataset = h5py.Dataset(item)
    try:
        shape, dtype = item.shape if item.get_space().get_simple_extent_type() != h5py.h5s.NULL else None, item.dtype
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        why = f"its type is not one of numbers, and NumPy has none for it ({error})"
        return Entry(name, (), np.dtype("V1"), refused=why)
    layout = item.get_create_plist()
    chunks = layout.get_chunk() if layout.get_layout() == h5py.h5d.CHUNKED else None
    # What is packed, or small enough for HDF5's cache, is best read by whole chunks.
    whole = chunks and (layout.get_nfilters() or math.prod(chunks) * dtype.itemsize <= 1 << 20)
    named = _axes(dataset, coordinates=False)
    series = len(named) > 1 and named[0].name == "t" and dataset.maxshape[0] is None
    if series and shape:  # those that `t` has an entry for are whole
        shape = (min(shape[0], len(dataset.dims[0][0])), *shape[1:])
    return Entry(
        name,
        shape or (),
        dtype if dtype.kind in "biufc" else np.dtype("V1"),  # others may not travel to other ranks
        Metadata(named, attributes(dataset)),
        step=chunks if whole else None,
        scale=bool(h5py.h5ds.is_scale(item)),
        series=series,
        refused="it is empty: it has a type, but no cells"
        if shape is None
        else _unreadable(dataset, dtype, layout, file),
    )


def _unreadable(dataset: Any, dtype: np.dtype, layout: Any, file: str) -> str:
    """Why the cells of a dataset cannot be read, or would not be what they should; "" if all is well."""
    kind = dataset.id.get_type().get_class()
    if kind == h5py.h5t.COMPOUND and dtype.names:
        fields = ", ".join(f"{name} ({dtype[name]})" for name in dtype.names)
        return f"a compound is not one of numbers; its fields are {fields}: write one of them as a dataset of its own"
    other = {
        h5py.h5t.STRING: "text",
        h5py.h5t.REFERENCE: "references",
        h5py.h5t.VLEN: "lists of different lengths",
        h5py.h5t.OPAQUE: "opaque bytes",
        h5py.h5t.ARRAY: "an array in each cell",
        h5py.h5t.TIME: "times of HDF5",
    }.get(kind)
    if other:
        return f"it holds {other} ({dtype}), which is not one of numbers: name another dataset"
    if dataset.attrs.get("MATLAB_empty"):
        return "it is an empty array of MATLAB: its cells are the shape"
    if "MATLAB_class" in dataset.attrs and _plain(dataset.attrs["MATLAB_class"]) in ("char", "cell", "struct"):
        return f"it is a {_plain(dataset.attrs['MATLAB_class'])} array of MATLAB, which is not one of numbers"
    for k in range(layout.get_nfilters()):
        code, _, _, label = layout.get_filter(k)
        if not h5py.h5z.filter_avail(code):
            title = _FILTERS.get(code) or label.decode("latin-1").rstrip("\0") or "a filter"
            way = "pip install hdf5plugin" if code in _FILTERS else "install its plugin, and set HDF5_PLUGIN_PATH"
            return f"it is compressed with {title} (HDF5 filter {code}), which is not installed: {way}"
    for k in range(layout.get_external_count()):
        raw = os.path.join(os.path.dirname(os.path.realpath(file)), os.fsdecode(layout.get_external(k)[0]))
        return f"its cells are in another file, {raw}, as raw bytes: copy it with h5repack"
    if layout.get_layout() == h5py.h5d.VIRTUAL:
        for source in sorted({layout.get_virtual_filename(k) for k in range(layout.get_virtual_count())} - {"."}):
            there = _beside(file, source)
            if "%b" not in source and not os.path.isfile(there):
                return f"it is a virtual dataset, and its source {there} is missing: its cells would be fill values"
    return ""


def _axes(dataset: Any, coordinates: bool) -> tuple[Axis, ...]:
    """Names of the axes, from dimension scales or labels; with coordinates and their attributes if wanted."""
    found = []
    try:
        for d, n in enumerate(dataset.shape or ()):
            name, values, attrs = _label(dataset, d), None, {}
            scales = list(dataset.dims[d].values()) if "DIMENSION_LIST" in dataset.attrs else []
            if scales:
                scale = scales[0]
                name = name or (scale.name or "").rpartition("/")[2]
                hidden = b"but not a netCDF variable" in bytes(scale.attrs.get("NAME", b""))
                lengths = (n, len(scale)) if d == 0 and name == "t" else (n,)  # of a growing series
                if (
                    coordinates
                    and not hidden
                    and scale.ndim == 1
                    and len(scale) in lengths
                    and scale.dtype.kind in "iuf"
                ):
                    values, attrs = scale[:n], attributes(scale)
            elif coordinates and dataset.ndim == 1 and h5py.h5ds.is_scale(dataset.id):
                name = name or (dataset.name or "").rpartition("/")[2]
            found.append(Axis(name, values, attrs))
    except (KeyError, RuntimeError, ValueError, TypeError, OSError):  # references to what is no longer there
        return ()
    return tuple(found) if any(axis.name for axis in found) else ()


def _label(dataset: Any, d: int) -> str:
    return _text(h5py.h5ds.get_label(dataset.id, d))


def attributes(dataset: Any) -> dict[str, Any]:
    """The attributes of a dataset but those of HDF5 and netCDF themselves; None stands for one that cannot be read."""
    found: dict[str, Any] = {}
    for k in range(h5py.h5a.get_num_attrs(dataset.id)):
        raw = h5py.h5a.open(dataset.id, index=k).name
        name = _text(raw)
        if name in _STORAGE or name.startswith(("_Netcdf4", "_NCProperties", "_nc3_")):
            continue
        try:
            found[name] = _plain(dataset.attrs[raw])
        except Exception:  # of any odd type: it is one attribute, which is asked for where it changes the values
            found[name] = None
    return found


def _plain(value: Any) -> Any:
    """Numbers, and text as str, whatever its encoding; None for anything else."""
    if isinstance(value, bytes | str):
        return _text(value)
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "SO"
        and all(isinstance(v, bytes | str) for v in value.flat)
    ):
        return np.array([_text(item) for item in value.ravel()]).reshape(value.shape)
    return value if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc" else None


def _text(raw: bytes | str) -> str:
    """UTF-8, or else Latin-1, which is never wrong about a byte."""
    raw = raw.encode("utf-8", "surrogateescape") if isinstance(raw, str) else raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _load_filters() -> None:
    """The filters of the package hdf5plugin, if it is there."""
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401
