"""What is not supported for distributed arrays, and what to use instead: refused on all ranks, with one line."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from mpihpc.array.operands import require_distributed
from mpihpc.core.failure import agree

_AS_METHOD = {"add": "sum", "multiply": "prod", "minimum": "min", "maximum": "max"}
_AS_METHOD |= {"logical_and": "all", "logical_or": "any"}
_REDUCTIONS = [
    "sum",
    "prod",
    "min",
    "max",
    "mean",
    "var",
    "std",
    "any",
    "all",
    "argmin",
    "argmax",
    "count_nonzero",
    "dot",
    "vecdot",
]
_INSTEAD = {
    "norm": "mpihpc.norm",
    "outer": "mpihpc.linalg.outer",
    "copy": "the method .copy()",
    "where": "where= of a ufunc, or mpihpc.map_blocks(numpy.where, ...)",
    "clip": "numpy.minimum and numpy.maximum",
}


class Refusals:
    """What NumPy might do to a `DistArray`, and must not."""

    __slots__ = ()

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Refuse NumPy's functions, on all ranks alike, except those that look at no cells."""
        name = {"amin": "min", "amax": "max"}.get(func.__name__, func.__name__)
        if name in ("shape", "ndim"):
            return getattr(self, name)
        module = func.__module__ or "numpy"
        with agree(self.topology.private):  # type: ignore[attr-defined]
            raise TypeError(f"{module}.{name} is not supported for distributed arrays: use {_instead(module, name)}")

    def __array__(self, dtype: Any = None, copy: Any = None) -> NoReturn:
        raise TypeError(
            f"this array of shape {self.shape} is distributed over {self.topology.size} ranks: "  # type: ignore[attr-defined]
            "use .gather() for all of it on one rank, .gather(root=None) on all ranks, or .local for this rank's block"
        )

    def __bool__(self) -> NoReturn:
        raise ValueError("an array is neither true nor false: use .any() or .all()")

    def __len__(self) -> NoReturn:
        raise TypeError("a distributed array has no len: use .shape[0], or len(u.local) for this rank's block")


def refuse_ufunc(ufunc: np.ufunc, method: str, outs: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Refuse a ufunc's methods, core dimensions and options that are not offered. For use within `agree`."""
    name: str = ufunc.__name__
    if method != "__call__":
        here = f": use .{_AS_METHOD[name]}()" if method == "reduce" and name in _AS_METHOD else ""
        raise TypeError(f"numpy.{name}.{method} is not supported for distributed arrays{here}")
    if ufunc.signature is not None:
        here = {"matmul": ": use @ between distributed arrays", "vecdot": ": use mpihpc.vecdot"}.get(name, "")
        raise TypeError(f"numpy.{name} is not elementwise, and not supported for distributed arrays{here}")
    if unknown := set(options) - {"dtype", "casting"}:
        raise TypeError(f"numpy.{name} of distributed arrays takes dtype and casting, not {', '.join(sorted(unknown))}")
    for x in outs:
        if x is not None:
            require_distributed(x, "out")


def _instead(module: str, name: str) -> str:
    """What to use instead of a function of NumPy."""
    if name in _REDUCTIONS and module == "numpy":
        return f"mpihpc.{name}"
    return _INSTEAD.get(name, "ufuncs, functions of mpihpc, or mpihpc.map_blocks for elementwise work")
