"""NumPy and SciPy names for arrays that are spread over MPI ranks."""

from mpihpc import io, linalg, ndimage, stencil
from mpihpc._version import __version__
from mpihpc.array import DistArray
from mpihpc.array.creation import asarray, empty, from_local, fromfunction, full, ones, zeros
from mpihpc.array.reductions import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    dot,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
    vecdot,
)
from mpihpc.blocks import from_chunks, map_blocks, map_reduce
from mpihpc.core.decomposition import Box, Decomposition
from mpihpc.core.exits import install_hook
from mpihpc.core.failure import agree
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer

__all__ = [
    "Box",
    "Decomposition",
    "DistArray",
    "Topology",
    "Transfer",
    "__version__",
    "agree",
    "all",
    "any",
    "argmax",
    "argmin",
    "asarray",
    "count_nonzero",
    "dot",
    "empty",
    "from_chunks",
    "from_local",
    "fromfunction",
    "full",
    "io",
    "linalg",
    "map_blocks",
    "map_reduce",
    "max",
    "mean",
    "min",
    "ndimage",
    "norm",
    "ones",
    "prod",
    "std",
    "stencil",
    "sum",
    "var",
    "vecdot",
    "zeros",
]

install_hook()
