"""What can be known about an array of a file without reading its cells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpihpc.io.metadata import Metadata


@dataclass(frozen=True)
class Entry:
    """One array of a file.

    Attributes
    ----------
    name : str
        In the file; "" for formats that hold one array without a name.
    shape : tuple of int
        Of the whole array.
    dtype : numpy.dtype
        As a format reports it: of the stored cells, in their byte order. As `Reader` reports it: of the values.
    metadata : Metadata
        As a format reports it: attributes as they are stored, packing included, and axes without coordinates.
    step : tuple of int, optional
        Reads should begin at multiples of this: the shape of a chunk that is decompressed as a whole.
    fortran : bool
        The first axis varies fastest in the file.
    scale : bool
        It describes an axis of another array, so nobody means it who names none.
    series : bool
        Snapshots along a first axis that grows.
    refused : str
        Why its cells cannot be read, and what to do; "" if they can.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    metadata: Metadata = field(default_factory=Metadata)
    step: tuple[int, ...] | None = None
    fortran: bool = False
    scale: bool = False
    series: bool = False
    refused: str = ""

    @property
    def units(self) -> str:
        """The units of the cells; "" if the file gives none."""
        return self.metadata.units
