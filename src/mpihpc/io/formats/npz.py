"""``.npz``: a zip of ``.npy`` files, compressed or not, each of which is read from begin to end."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from mpihpc.io.formats.entry import Entry
from mpihpc.io.formats.npy import describe

NAME = ".npz"


def recognises(path: str, head: bytes) -> bool:
    """See `mpihpc.io.formats.Format`."""
    return head.startswith(b"PK") and zipfile.is_zipfile(path)


def entries(path: str, wanted: str | None) -> dict[str, Entry]:
    """See `mpihpc.io.formats.Format`."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if member.endswith(".npy") and wanted in (None, name):
                with archive.open(member) as stream:
                    found[name] = describe(name, stream)
    return found


@contextmanager
def stream(path: str, entry: Entry) -> Iterator[IO[bytes]]:
    """See `mpihpc.io.formats.Streamed`."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{entry.name}.npy") as opened:
        yield opened
