"""The same stencil in other people's libraries, as their users would write it; what is not installed is left out.

Each maker gives a function ``advance(steps)`` that goes on from the initial array, with all threads, and returns the
array. Cells nearer to the edge than the stencil reaches, times the steps, are not compared: peers differ in what they
do there, and the cheapest is chosen for each.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
Advance = Callable[[int], Array]


def numpy_slices(u: Array, kernel: Array, threads: int) -> Advance:
    """A product and a sum of slices for each tap."""
    a, b, product = u.copy(), u.copy(), np.empty_like(u)
    inner = tuple(slice(n // 2, m - n // 2) for n, m in zip(kernel.shape, u.shape, strict=True))

    def advance(steps: int) -> Array:
        nonlocal a, b
        for _ in range(steps):
            out, term = b[inner], product[inner]
            first = True
            for place in np.argwhere(kernel):
                x = a[tuple(slice(p, p + n) for p, n in zip(place, out.shape, strict=True))]
                np.multiply(x, u.dtype.type(kernel[tuple(place)]), out=out if first else term)
                if not first:
                    out += term
                first = False
            a, b = b, a
        return a

    return advance


def scipy_correlate(u: Array, kernel: Array, threads: int) -> Advance:
    """`scipy.ndimage.correlate`, which has one thread."""
    a, b = u.copy(), u.copy()

    def advance(steps: int) -> Array:
        nonlocal a, b
        for _ in range(steps):
            ndimage.correlate(a, kernel, b)
            a, b = b, a
        return a

    return advance


def numba_prange(u: Array, kernel: Array, threads: int) -> Advance:
    """A loop nest with its taps written out, the outer loop parallel, fast-math allowed."""
    numba = import_module("numba")
    names, reach = "ijkl"[: u.ndim], [n // 2 for n in kernel.shape]
    terms = []
    for place in np.argwhere(kernel):
        index = ", ".join(f"{name}{p - r:+d}" for name, p, r in zip(names, place, reach, strict=True))
        terms.append(f"w({float(kernel[tuple(place)])!r}) * a[{index}]")
    lines = ["def step(a, b):"]
    for d, name in enumerate(names):
        loop = "prange" if d == 0 else "range"
        lines.append(f"{'    ' * (d + 1)}for {name} in {loop}({reach[d]}, a.shape[{d}] - {reach[d]}):")
    lines.append(f"{'    ' * (u.ndim + 1)}b[{', '.join(names)}] = {' + '.join(terms)}")
    scope = {"prange": numba.prange, "w": getattr(numba, str(u.dtype))}
    exec("\n".join(lines), scope)  # loops of as many axes, and as many taps, as there are
    step = numba.njit(parallel=True, fastmath=True)(scope["step"])
    numba.set_num_threads(threads)
    a, b = u.copy(), u.copy()

    def advance(steps: int) -> Array:
        nonlocal a, b
        for _ in range(steps):
            step(a, b)
            a, b = b, a
        return a

    return advance


def devito_operator(u: Array, kernel: Array, threads: int) -> Advance:
    """One operator with its default optimisations, and OpenMP."""
    devito = import_module("devito")
    devito.configuration["log-level"] = "ERROR"
    devito.configuration["language"] = "openmp"
    grid = devito.Grid(shape=u.shape, dtype=u.dtype.type)
    order = max(kernel.shape) // 2 * 2
    f = devito.TimeFunction(name="f", grid=grid, space_order=order, time_order=1)
    t, axes = grid.stepping_dim, grid.dimensions
    terms = []
    for place in np.argwhere(kernel):
        at = [x + int(p) - n // 2 for x, p, n in zip(axes, place, kernel.shape, strict=True)]
        terms.append(float(kernel[tuple(place)]) * f[(t, *at)])
    operator = devito.Operator([devito.Eq(f[(t + 1, *axes)], sum(terms))])
    f.data[0] = u
    f.data[1] = u
    done = 0

    def advance(steps: int) -> Array:
        nonlocal done
        operator.apply(time_m=done, time_M=done + steps - 1, nthreads=threads)
        done += steps
        return np.asarray(f.data[done % 2])

    return advance


def jax_jit(u: Array, kernel: Array, threads: int) -> Advance:
    """Slices, jitted together in a loop on the device."""
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    reach = [n // 2 for n in kernel.shape]
    places = [(tuple(int(p) for p in place), float(kernel[tuple(place)])) for place in np.argwhere(kernel)]

    def step(_: int, a: Any) -> Any:
        inner = [m - 2 * r for m, r in zip(a.shape, reach, strict=True)]
        total = sum(
            w * jax.lax.slice(a, place, [p + n for p, n in zip(place, inner, strict=True)]) for place, w in places
        )
        return jax.lax.dynamic_update_slice(a, total.astype(a.dtype), reach)

    run = jax.jit(lambda a, steps: jax.lax.fori_loop(0, steps, step, a), donate_argnums=0)
    state = jax.numpy.asarray(u)

    def advance(steps: int) -> Array:
        nonlocal state
        state = run(state, steps).block_until_ready()
        return np.asarray(state)

    return advance


def opencv_filter(u: Array, kernel: Array, threads: int) -> Advance:
    """`cv2.filter2D`, of two axes only."""
    if u.ndim != 2:
        raise ImportError("OpenCV filters images")
    cv2 = import_module("cv2")
    cv2.setNumThreads(threads)
    a, b = u.copy(), u.copy()

    def advance(steps: int) -> Array:
        nonlocal a, b
        for _ in range(steps):
            cv2.filter2D(a, -1, kernel, b)
            a, b = b, a
        return a

    return advance


PEERS: dict[str, tuple[str, Callable[[Array, Array, int], Advance]]] = {
    "NumPy slices": ("numpy", numpy_slices),
    "SciPy": ("scipy", scipy_correlate),
    "OpenCV": ("opencv-python-headless", opencv_filter),
    "JAX": ("jax", jax_jit),
    "Numba": ("numba", numba_prange),
    "Devito": ("devito", devito_operator),
}


def make(u: Array, kernel: Array, threads: int) -> dict[str, Advance]:
    """What is installed and can do it."""
    made = {}
    for name, (_, maker) in PEERS.items():
        try:
            made[name] = maker(u, kernel, threads)
        except ImportError:
            continue
    return made


def versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    found = {}
    for package, _ in PEERS.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
