"""Memory for messages and workspace that is used over and over.

The system clears fresh memory before a process gets it, which may take longer than what is done there: a product of
4096² matrices on two ranks that were cut into rows took 1.4 times as long with it.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref

import numpy as np
from numpy.typing import NDArray

# Bytes of a huge page. Where MPI is the first to write to those it takes ten times as long, so they are touched here.
HUGE = 1 << 21


class Scratch:
    """Rows of bytes; the memory of those that are gone is kept for the next ones.

    Parameters
    ----------
    most : int
        Bytes to keep at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._free: list[mmap.mmap] = []

    @property
    def kept(self) -> int:
        """Bytes that no row uses."""
        return sum(map(len, self._free))

    def row(self, nbytes: int) -> NDArray[np.uint8]:
        """A row of bytes, whatever they are. Its memory is its own while there are arrays that view it."""
        if nbytes < HUGE:
            return np.empty(nbytes, np.uint8)
        fits = [memory for memory in self._free if nbytes <= len(memory) <= nbytes + max(nbytes // 4, HUGE)]
        if fits:
            memory = min(fits, key=len)
            self._free.remove(memory)
        else:
            del self._free[:1]  # nothing that is kept has been of use
            try:
                memory = mmap.mmap(-1, math.ceil(nbytes / HUGE) * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise MemoryError(f"no memory for {nbytes} bytes of workspace: {error.strerror}") from None
            with contextlib.suppress(OSError, AttributeError):  # a kernel or a C library that knows no huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
            np.frombuffer(memory, np.uint8)[::HUGE] = 0
        # Views of an array that another object gave memory to keep that array, and do not go to the object itself.
        row = np.frombuffer(memory, np.uint8, nbytes)
        weakref.finalize(row, self._take_back, memory).atexit = False
        return row

    def clear(self) -> None:
        """Give back what is kept."""
        self._free.clear()

    def _take_back(self, memory: mmap.mmap) -> None:
        if self.kept + len(memory) <= self.most:
            self._free.append(memory)
