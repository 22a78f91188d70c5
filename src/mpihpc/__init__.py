"""NumPy and SciPy names for arrays that are spread over MPI ranks."""

from mpihpc import io, linalg, ndimage, stencil
from mpihpc.array import DistArray, asarray, empty, from_local, fromfunction, full, ones, zeros
from mpihpc.core.decomposition import Box, Decomposition
from mpihpc.core.failure import agree, install_hook
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer

__version__ = "0.1.0"
__all__ = [
    "Box",
    "Decomposition",
    "DistArray",
    "Topology",
    "Transfer",
    "agree",
    "asarray",
    "empty",
    "from_local",
    "fromfunction",
    "full",
    "io",
    "linalg",
    "ndimage",
    "ones",
    "stencil",
    "zeros",
]

install_hook()
