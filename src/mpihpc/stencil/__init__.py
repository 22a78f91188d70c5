"""Stencils: many steps of ``new[i] = sum_t weight[t] * old[i + offset[t]]`` on a distributed array.

With a field, a step instead adds ``field * sum`` to the old value; `leapfrog` does the same for waves, which depend on
two earlier steps.
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

    With a `field`, each step adds ``field * (weighted sum)`` to the cell: ``u[i] <- u[i] + field[i] * sum_k ...``.

    The bits of the result do not depend on the number of ranks, the grid, the threads or the number of fused steps.

    Parameters
    ----------
    u : DistArray
        1 to 4 axes; integers, floats or complex numbers. Not changed.
    kernel : array_like or str
        Weights of any shape, with at most as many axes as `u` (fewer: its last axes). Complex weights are not
        conjugated. Or a name, see `named_kernel`: ``heat[:alpha] laplace[:order] mean:SIZE gaussian:SIGMA sobel[:axis]
        sharpen identity``.
    steps : int
        Number of applications, 0 or more. 0 returns a copy in the dtype of the result.
    mode : str or sequence of str
        How the array continues beyond its edges, for all axes or one per axis, as in `scipy.ndimage`: ``reflect`` (or
        ``grid-mirror``, ``neumann``), ``constant`` (``grid-constant``, ``dirichlet``), ``nearest``, ``mirror``,
        ``wrap`` (``grid-wrap``, ``periodic``).
    cval : scalar
        The value beyond ``constant`` axes.
    origin : int or sequence of int
        Shifts the kernel, as in `scipy.ndimage.correlate`.
    dtype : dtype, optional
        float32, float64, complex64 or complex128, to compute in. Default: that of `u`, with integers promoted to
        float64. float32 is summed in float32: with T weights that are not zero, the error per step is at most
        ``g * sum(abs(kernel)) * max(abs(u))`` with ``g = (T + 1) * u / (1 - (T + 1) * u)`` and ``u = 2**-24``, beside
        what underflows: 6e-7 for 9 weights, 6e-4 for 10,000.
    threads : int, optional
        Threads of this rank. Default: OMP_NUM_THREADS, else the number of cores that this rank has to itself.
    fuse : int, optional
        Steps per halo exchange, made in one pass over memory: 1 to 64. Default: chosen by a model of this machine, or 1
        with a `callback`.
    field : DistArray, optional
        Real, with the decomposition of `u`. With the kernel ``laplace``, for example, ``du/dt = D laplace(u)`` has
        ``field = D * dt / dx**2``: diffusivity, time step and grid spacing.
    exact : bool
        False: a kernel that is separable up to rounding (``gaussian``, ``mean``) is applied one axis at a time where
        that is faster. It then has fewer taps and other rounding errors, and its steps are not fused; its bits still do
        not depend on ranks, grid and threads. Other kernels on a GPU may use fused multiply-add: `mpihpc.kernels.cuda`
        says how far that is from the exact mode.
    overlap : bool, optional
        Whether the interior of each block is computed while messages travel; the bits are the same. Default: chosen by
        the model; off for kernels that are applied one axis at a time.
    callback : callable, optional
        Called on every rank after each pass over memory (after each step, if `fuse` is 1) with the number of steps
        done. On a GPU these passes have started, and may not have finished; later ones may have started too.

    Returns
    -------
    DistArray
        Shape, decomposition and device of `u`; its halo is as deep as the fused steps need.

    Raises
    ------
    ValueError
        An unknown kernel or mode, a kernel with more axes than `u`, a negative number of steps, `fuse` or `threads` out
        of range, or a `field` that is distributed otherwise. On all ranks, with the same text.
    TypeError
        A dtype that stencils do not compute in, or a complex `field`. On all ranks, with the same text.

    Examples
    --------
    >>> import mpihpc
    >>> u = mpihpc.asarray([0.0, 0, 8, 0, 0])
    >>> mpihpc.stencil.evolve(u, [0.25, 0.5, 0.25], 2, "constant").gather(root=None)
    array([0.5, 2. , 3. , 2. , 0.5])
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

    With the kernel ``laplace:ORDER`` and ``field = (c * dt / dx)**2`` this is the second-order scheme in time for
    ``d2u/dt2 = c**2 laplace(u)``. It is stable if the field is at most ``4 / s``, where ``s`` is the sum of the
    kernel's magnitudes (Courant, Friedrichs, Lewy, 1928). To start from rest, let `previous` be ``evolve(u, kernel, 1,
    field=half)`` with half the field.

    Parameters
    ----------
    u, previous : DistArray
        The values now and one step earlier, of the same shape and decomposition. Not changed.
    field : DistArray, optional
        Real, with the decomposition of `u`. Default: 1 everywhere.
    kernel, steps, mode, cval, origin, dtype, threads, fuse, overlap, callback
        As in `evolve`.

    Returns
    -------
    (DistArray, DistArray)
        The values after the last step, and one step earlier; shape, decomposition and device of `u`.

    Raises
    ------
    ValueError, TypeError
        As `evolve`; also if `previous` is distributed otherwise than `u`. On all ranks, with the same text.

    Examples
    --------
    A pulse at rest between fixed ends splits into two.

    >>> import mpihpc
    >>> u = mpihpc.asarray([0.0, 0, 0, 4, 0, 0, 0])
    >>> previous = mpihpc.asarray([0.0, 0, 2, 0, 2, 0, 0])
    >>> u, previous = mpihpc.stencil.leapfrog(u, previous, "laplace", 2, "constant")
    >>> u.gather(root=None)
    array([0., 2., 0., 0., 0., 2., 0.])
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
    """Check the arguments that `evolve` and `leapfrog` share; returns the taps, the dtype to compute in, the steps."""
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
