"""Memory for messages and workspace that is reused.

The system clears fresh memory before a process gets it, which can take longer than the work on it: with fresh memory, a
product of 4096² matrices distributed by rows over two ranks took 1.4 times as long.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref

import numpy as np
from numpy.typing import NDArray

# Bytes of a huge page. When MPI is the first to write to huge pages it takes ten times as long, so they are touched
# here.
HUGE = 1 << 21


class Scratch:
    """Buffers of bytes; the memory of deleted ones is kept for the next ones.

    Parameters
    ----------
    most : int
        The most bytes to keep.

    Examples
    --------
    >>> scratch = Scratch(most=1 << 24)
    >>> buffer = scratch.row(3 << 20)
    >>> scratch.kept
    0
    >>> del buffer
    >>> scratch.kept >> 20
    4
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._free: list[mmap.mmap] = []

    @property
    def kept(self) -> int:
        """The bytes that are kept and not in use."""
        return sum(map(len, self._free))

    def row(self, nbytes: int) -> NDArray[np.uint8]:
        """A buffer of bytes, not initialized. Its memory is not reused while any array views it."""
        if nbytes < HUGE:
            return np.empty(nbytes, np.uint8)
        fits = [memory for memory in self._free if nbytes <= len(memory) <= nbytes + max(nbytes // 4, HUGE)]
        if fits:
            memory = min(fits, key=len)
            self._free.remove(memory)
        else:
            del self._free[:1]  # nothing that is kept fits
            try:
                memory = mmap.mmap(-1, math.ceil(nbytes / HUGE) * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise MemoryError(f"no memory for {nbytes} bytes of workspace: {error.strerror}") from None
            with contextlib.suppress(OSError, AttributeError):  # a kernel or a C library without huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
            np.frombuffer(memory, np.uint8)[::HUGE] = 0
        # Views keep `row` alive: it is their base, and not the memory behind it.
        row = np.frombuffer(memory, np.uint8, nbytes)
        weakref.finalize(row, self._take_back, memory).atexit = False
        return row

    def clear(self) -> None:
        """Give the kept memory back to the system."""
        self._free.clear()

    def _take_back(self, memory: mmap.mmap) -> None:
        if self.kept + len(memory) <= self.most:
            self._free.append(memory)
