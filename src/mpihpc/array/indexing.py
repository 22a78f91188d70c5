"""``u[...]`` of distributed arrays: refused for now, with what to use instead."""

from __future__ import annotations

from typing import Any, NoReturn


class Indexing:
    """What indexing does to a `DistArray`."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> NoReturn:
        raise TypeError("distributed arrays do not support indexing: use .local for this rank's block, or .gather()")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("distributed arrays do not support indexing: write to .local, this rank's block")
