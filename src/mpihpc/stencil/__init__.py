"""Stencils: many steps of ``new[i] = sum_t weight[t] * old[i + offset[t]]`` on a distributed array.

The sum may also be what is added to the old value, times a field, or to the two old values of a wave (`leapfrog`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from mpihpc.array import DistArray
from mpihpc.array.operands import together
from mpihpc.core.dtypes import require_cast
from mpihpc.core.failure import agree
from mpihpc.stencil.named import named_kernel
from mpihpc.stencil.plans import Evolution, Leapfrog, Stencil, check_companion, padded_copy
from mpihpc.stencil.taps import Taps, working_dtype

__all__ = ["Evolution", "Leapfrog", "Stencil", "Taps", "evolve", "leapfrog", "named_kernel", "padded_copy"]


def evolve(
    u: DistArray,
    kernel: ArrayLike | str,
    steps: int,
    mode: str | Sequence[str] = "reflect",
    cval: Any = 0.0,
    *,
    origin: int | Sequence[int] = 0,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
    fuse: int | None = None,
    field: DistArray | None = None,
    exact: bool = True,
    overlap: bool | None = None,
    callback: Callable[[int], None] | None = None,
) -> DistArray:
    """Apply a stencil many times: ``u[i] <- sum_k kernel[k] * u[i + k - kernel.shape // 2 - origin]``. Collective.

    With a `field` the sum is what changes a cell: ``u[i] <- u[i] + field[i] * sum_k ...``.

    The bits of the result do not depend on the number of ranks, the grid, the threads or the steps that are fused.

    Parameters
    ----------
    u : DistArray
        1 to 4 axes. Not changed.
    kernel : array_like or str
        Weights of any shape, at most as many axes as `u` (fewer: the last axes), complex ones as they are; or a name:
        ``heat[:alpha] laplace[:order] mean:SIZE gaussian:SIGMA sobel[:axis] sharpen identity``.
    steps : int
        How many times. 0 gives a copy in the dtype of the result.
    mode : str or sequence of str
        What lies beyond the array, one for all axes or one per axis, as in `scipy.ndimage`: ``reflect`` (or
        ``grid-mirror``, ``neumann``), ``constant`` (``grid-constant``, ``dirichlet``), ``nearest``, ``mirror``,
        ``wrap`` (``grid-wrap``, ``periodic``).
    cval : scalar
        The value beyond ``constant`` axes.
    origin : int or sequence of int
        Shifts the kernel, as in `scipy.ndimage.correlate`.
    dtype : dtype, optional
        float32, float64, complex64 or complex128, to compute in. Default: that of `u`, with integers promoted to
        float64. float32 is summed in float32: the error per step is at most 1e-6 * sum|kernel| * max|u|.
    threads : int, optional
        Threads of this rank. Default: OMP_NUM_THREADS, else the cores it may call its own.
    fuse : int, optional
        Steps after one exchange, in one pass over memory: 1 to 64. Default: as many as a model of this machine finds
        best, but 1 with a `callback`.
    field : DistArray, optional
        Real, of the decomposition of `u`: with the kernel ``laplace``, for example, the diffusivity times the time step
        over the square of the grid's spacing, in ``du/dt = field * laplace(u)``.
    exact : bool
        False: a kernel that is a product of one line per axis, to rounding (``gaussian``, ``mean``), is applied line
        by line where that is faster: fewer taps, other rounding. Its steps are not fused, and the bits are still those
        of any number of ranks, grid and threads. Other kernels on a GPU may fuse multiplications with additions: how
        far that is from the exact mode says `mpihpc.kernels.cuda`.
    overlap : bool, optional
        Whether the middle of each block advances while messages travel; the bits are the same. Default: if the model
        finds it faster; not with lines.
    callback : callable, optional
        Called on every rank after each pass over memory (each step, if `fuse` is 1) with the number of steps done. On a
        GPU, passes have begun by then, and so may have some of the next ones.

    Returns
    -------
    DistArray
        Shape and decomposition of `u`; its halo is as deep as the fused steps need.

    Raises
    ------
    ValueError, TypeError
        On all ranks, with the same text.
    """
    taps, work, count = _read("evolve", {"u": u, "field": field}, kernel, steps, origin, dtype)
    options: dict[str, Any] = {"comm": u.comm, "device": u.device, "mode": mode, "cval": cval, "threads": threads}
    options |= {"field": field, "exact": exact, "overlap": overlap, "total": count}
    plan = Evolution(u.decomposition, taps, work, fuse=1 if fuse is None and callback else fuse, **options)
    result = plan.run(padded_copy(u, work, plan.stencil.halo.width), count, callback)
    del plan
    u.device.release()
    return result


def leapfrog(
    u: DistArray,
    previous: DistArray,
    kernel: ArrayLike | str,
    steps: int,
    mode: str | Sequence[str] = "reflect",
    cval: Any = 0.0,
    *,
    origin: int | Sequence[int] = 0,
    dtype: DTypeLike | None = None,
    threads: int | None = None,
    fuse: int | None = None,
    field: DistArray | None = None,
    overlap: bool | None = None,
    callback: Callable[[int], None] | None = None,
) -> tuple[DistArray, DistArray]:
    """Many steps of a wave: ``new[i] = 2 u[i] - previous[i] + field[i] * sum_k ...``, as in `evolve`. Collective.

    The scheme of second order in time for ``d2u/dt2 = c**2 laplace(u)``, with the kernel ``laplace:ORDER`` and
    ``field = (c * dt / dx)**2``; stable if that is at most ``4 / s``, with ``s`` the sum of the kernel's magnitudes
    (Courant, Friedrichs, Lewy, 1928). From rest, `previous` is ``evolve(u, kernel, 1, field=half)``, half the field.

    Parameters
    ----------
    u, previous : DistArray
        The values now, and a step earlier: shape and decomposition alike. Not changed.
    field : DistArray, optional
        Real, of the decomposition of `u`. Default: 1 everywhere.
    kernel, steps, mode, cval, origin, dtype, threads, fuse, overlap, callback
        As in `evolve`.

    Returns
    -------
    (DistArray, DistArray)
        The values after the last step, and a step earlier.

    Raises
    ------
    ValueError, TypeError
        On all ranks, with the same text.
    """
    arrays = {"u": u, "previous": previous, "field": field}
    taps, work, count = _read("leapfrog", arrays, kernel, steps, origin, dtype)
    with agree(u.topology.private):
        check_companion("previous", previous, u.decomposition, u.topology, u.device)
        require_cast(previous.dtype, work)
    options: dict[str, Any] = {"comm": u.comm, "device": u.device, "mode": mode, "cval": cval, "threads": threads}
    options |= {"field": field, "overlap": overlap, "total": count}
    plan = Leapfrog(u.decomposition, taps, work, fuse=1 if fuse is None and callback else fuse, **options)
    width = plan.stencil.halo.width
    result = plan.run(padded_copy(u, work, width), padded_copy(previous, work, width), count, callback)
    del plan
    u.device.release()
    return result


def _read(
    function: str,
    arrays: dict[str, Any],
    kernel: ArrayLike | str,
    steps: int,
    origin: int | Sequence[int],
    dtype: DTypeLike | None,
) -> tuple[Taps, np.dtype, int]:
    """The arguments that `evolve` and `leapfrog` share: taps, dtype to compute in, number of steps."""
    with together(function, {name: x for name, x in arrays.items() if x is not None or name != "field"}):
        u: DistArray = arrays["u"]
        count = index(steps)
        if count < 0:
            raise ValueError(f"steps {count} is negative: use 0 or more")
        weights = named_kernel(kernel, u.ndim) if isinstance(kernel, str) else kernel
        taps = Taps.from_kernel(weights, u.ndim, origin)
        work = working_dtype(u.dtype if dtype is None else np.dtype(dtype), taps)
        if dtype is not None and work != dtype:
            raise TypeError(f"stencils compute in {work}, not in {np.dtype(dtype)}")
        require_cast(u.dtype, work)
    return taps, work, count
