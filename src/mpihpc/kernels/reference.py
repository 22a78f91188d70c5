"""The kernels in plain NumPy slices: slow, short, and the oracle for the fast ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

NOT_OFFERED = ("Boxes", "steps_at_once", "sum_add", "sum_add_products", "sum_columns")
"""Of `mpihpc.kernels.Kernels`: no device computes with this room."""


def correlate(
    src: NDArray[np.inexact],
    dst: NDArray[np.inexact],
    offsets: ArrayLike,
    weights: ArrayLike,
    threads: int = 1,
    strict: bool = True,
) -> None:
    """Fill ``dst[i] = sum_t weights[t] * src[i + offsets[t]]`` for every cell ``i`` of `dst`.

    Parameters
    ----------
    src, dst, offsets, weights
        See the contract in `mpihpc.kernels`.
    threads, strict
        Ignored: the same signature as the other kernels.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    """
    taps = np.asarray(offsets, dtype=np.int64).reshape(-1, dst.ndim)
    if taps.min(initial=0) < 0 or any(np.add(dst.shape, taps.max(axis=0, initial=0)) > src.shape):
        raise ValueError(f"src of shape {src.shape} is too small for dst of {dst.shape} and the offsets")
    dst[...] = 0
    with np.errstate(all="ignore"):
        for first, (offset, w) in enumerate(zip(taps, np.asarray(weights), strict=True)):
            x = src[tuple(slice(o, o + n) for o, n in zip(offset, dst.shape, strict=True))]
            # Real arithmetic only: NumPy's complex product may use fused multiply-add.
            if np.isrealobj(x):
                products = [(dst, w * x)]
            elif np.isrealobj(w):
                products = [(dst.real, w * x.real), (dst.imag, w * x.imag)]
            else:
                products = [
                    (dst.real, w.real * x.real - w.imag * x.imag),
                    (dst.imag, w.real * x.imag + w.imag * x.real),
                ]
            for acc, product in products:
                # The first product is stored, not added to zero: 0.0 + -0.0 would lose the sign.
                acc[...] = acc + product if first else product


def advance(
    src: NDArray[np.inexact],
    dst: NDArray[np.inexact],
    offsets: ArrayLike,
    weights: ArrayLike,
    steps: int,
    box: Sequence[tuple[int, int]],
    edges: Sequence[tuple[int, int]],
    modes: Sequence[str],
    cval: complex = 0.0,
    threads: int = 1,
    tile: Sequence[int] = (),
    field: NDArray[np.floating] | None = None,
    previous: NDArray[np.inexact] | None = None,
    kept: NDArray[np.inexact] | None = None,
    strict: bool = True,
) -> None:
    """Apply a stencil `steps` times to a box of a padded block, one step after the other.

    Parameters are those of `mpihpc.kernels.cpu.advance`; `threads`, `tile` and `strict` are
    ignored, `src` is not changed.
    """
    taps = np.asarray(offsets, dtype=np.int64).reshape(-1, dst.ndim)
    low, high = taps.min(axis=0, initial=0), taps.max(axis=0, initial=0)
    for d, mode in enumerate(modes):
        if mode in ("reflect", "mirror"):  # cells beyond an edge mirror cells as deep inside
            low[d], high[d] = -max(-low[d], high[d]), max(-low[d], high[d])
    start, level = np.zeros(dst.ndim, np.int64), src  # `level` holds the cells from `start` on
    earlier, earlier_start = previous, start
    for left in reversed(range(steps)):
        wanted = [
            np.arange(
                *(
                    (lo + left * a, hi + left * b)
                    if mode == "wrap"
                    else (max(lo + left * a, first), min(hi + left * b, end))
                )
            )
            for (lo, hi), (first, end), a, b, mode in zip(box, edges, low, high, modes, strict=True)
        ]
        padded = level
        for d, (cells, (first, end), mode) in enumerate(zip(wanted, edges, modes, strict=True)):
            read = np.arange(cells[0] + low[d], cells[-1] + high[d] + 1)
            inside = read if mode == "wrap" else np.clip(read, first, end - 1)
            n = end - first
            if mode in ("reflect", "mirror"):
                period = 2 * n if mode == "reflect" else max(2 * n - 2, 1)
                inside = (read - first) % period
                inside = first + np.minimum(inside, (2 * n - 1 if mode == "reflect" else period) - inside) * (n > 1)
            padded = padded.take(inside - start[d], axis=d)
            if mode == "constant":
                beyond = (slice(None),) * d + ((read < first) | (read >= end),)
                padded[beyond] = cval if np.iscomplexobj(src) else complex(cval).real
        new, first_cell = (
            np.empty([len(cells) for cells in wanted], dst.dtype),
            np.array([cells[0] for cells in wanted]),
        )
        correlate(padded, new, taps - low, weights)
        here = level[_part(first_cell - start, new.shape)]
        if field is not None:
            for part in (new.real, new.imag) if np.iscomplexobj(new) else (new,):  # see `correlate`
                part *= field[_part(first_cell, new.shape)]
        if earlier is not None:
            new[...] = here + here - earlier[_part(first_cell - earlier_start, new.shape)] + new
            if kept is not None and not left:
                kept[...] = here
        elif field is not None:
            new[...] = here + new
        earlier, earlier_start = (None if previous is None else level), start
        start, level = first_cell, new
    dst[...] = level


def _part(start: NDArray[np.int64], shape: Sequence[int]) -> tuple[slice, ...]:
    """The index of `shape` cells from `start` on."""
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
