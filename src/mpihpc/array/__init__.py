"""Distributed arrays: a file per chapter of what NumPy would do to an array."""

from mpihpc.array.distarray import DistArray

__all__ = ["DistArray"]
