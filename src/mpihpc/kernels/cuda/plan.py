"""From the arguments of `advance` to launches: kernels, numbers of blocks, geometries. No CuPy, no GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mpihpc.kernels.cuda.choice import choose, planes_of
from mpihpc.kernels.cuda.source import AXES, MODES, SIZES, Kernel, literals, on_four

GEOMETRY = np.dtype(
    [(name, "i8", 4) for name in ("lo", "hi", "first", "end", "src", "dst", "field", "previous", "kept", "blocks")]
    + [("planes", "i8"), ("cval", "f8", 2)]
)
"""`Geometry` of common.cuh."""

STRIDES = np.dtype([("of", "i8", 4)])
"""`Strides` of boxes.cuh."""

_NARROW = 1 << 30  # cells between a cell and one that it reads, for which 32 bits are enough
_MOST_PLANES = 1 << 20  # of a block, which counts them in 32 bits

NAMES = ("src", "dst", "field", "previous", "kept")
Pairs = Sequence[tuple[int, int]]


class Machine(Protocol):
    """What runs the kernels: a GPU through CuPy, or an emulation of one."""

    shared: int  # the most bytes of shared memory of a block
    processors: int  # that run blocks concurrently

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new contiguous array, in C order."""

    def address(self, array: Any) -> int:
        """The address of the first cell of an array."""

    def launch(self, kernel: Kernel, blocks: int, addresses: Sequence[int], geometry: np.ndarray) -> None:
        """Launch a kernel with src, dst, field, previous and kept, each the address of the cell at the origin."""


class Layout(NamedTuple):
    """Everything about an array but its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @classmethod
    def of(cls, array: Any) -> Layout | None:
        return None if array is None else cls(array.shape, array.strides, array.dtype)

    @classmethod
    def contiguous(cls, shape: tuple[int, ...], dtype: np.dtype) -> Layout:
        """A contiguous array, in C order."""
        strides = [dtype.itemsize * math.prod(shape[d + 1 :]) for d in range(len(shape))]
        return cls(shape, tuple(strides), dtype)


class Placed(NamedTuple):
    """An array, and the coordinates of its first cell."""

    array: Layout | None
    start: Sequence[int]


class Launch(NamedTuple):
    """Everything about a launch but the addresses of its arrays.

    Parameters
    ----------
    kernel : Kernel
        What runs.
    blocks : int
        How many of them.
    geometry : array of one `GEOMETRY`
        Its numbers.
    behind : 5 int
        Bytes from the cell at the origin to the first cell, of src, dst, field, previous and kept.
    shape : tuple of int
        Of what it writes.
    last : bool
        Whether it writes `dst`, and not an array in between.
    keeps : bool
        Whether it writes the values of one step less too.
    """

    kernel: Kernel
    blocks: int
    geometry: np.ndarray
    behind: tuple[int, ...]
    shape: tuple[int, ...]
    last: bool
    keeps: bool


def advance(
    machine: Machine,
    src: Any,
    dst: Any,
    offsets: ArrayLike,
    weights: ArrayLike,
    steps: int,
    box: Pairs,
    edges: Pairs,
    modes: Sequence[str],
    cval: complex = 0.0,
    tile: Sequence[int] = (),
    field: Any = None,
    previous: Any = None,
    kept: Any = None,
) -> None:
    """`mpihpc.kernels.cpu.advance` on a machine: as many launches as the steps need. `src` is not changed.

    Between launches the values are in new arrays, as large as the remaining steps need.
    """
    numbers, arrays = np.asarray(weights), (src, dst, field, previous, kept)
    # Everything but the addresses is the same from step to step, and planned once. Bytes distinguish -0.0 from 0.0.
    launches = _launches(
        machine.shared,
        machine.processors,
        tuple(map(Layout.of, arrays)),
        np.asarray(offsets, np.int64).tobytes(),
        (numbers.tobytes(), numbers.dtype, numbers.shape),
        steps,
        tuple(map(tuple, box)),
        tuple(map(tuple, edges)),
        tuple(modes),
        np.complex128(cval).tobytes(),
        tuple(tile),
    )
    if not launches:
        return
    check_addresses(machine, arrays)
    now, before = src, previous
    for launch in launches:
        new, old = dst, kept
        if not launch.last:
            new = machine.empty(launch.shape, src.dtype)
            old = machine.empty(launch.shape, src.dtype) if launch.keeps else None
        given = zip((now, new, field, before, old), launch.behind, strict=True)
        addresses = [0 if array is None else machine.address(array) - behind for array, behind in given]
        machine.launch(launch.kernel, launch.blocks, addresses, launch.geometry)
        before = now if previous is not None and old is None else old
        now = new


@lru_cache(maxsize=1024)
def _launches(
    shared: int,
    processors: int,
    arrays: tuple[Layout | None, ...],
    offsets: bytes,
    weights: tuple[bytes, np.dtype, tuple[int, ...]],
    steps: int,
    box: Pairs,
    edges: Pairs,
    modes: Sequence[str],
    cval: bytes,
    tile: Sequence[int],
) -> list[Launch]:
    """The launches of `advance`."""
    src, dst, field, previous, kept = arrays
    assert src and dst
    taps = np.frombuffer(offsets, np.int64).reshape(-1, src.ndim)
    numbers = np.frombuffer(weights[0], weights[1]).reshape(weights[2])
    check(src, dst, taps, numbers, steps, box, edges, modes, tile, field, previous, kept)
    if 0 in dst.shape:
        return []
    stencil = Kernel(
        dtype=_code(src.dtype),
        offsets=tuple(on_four(tap, 0) for tap in taps.tolist()),
        weights=literals(numbers),
        modes=on_four(modes, "wrap"),
        steps=1,
        field=field is not None,
        previous=previous is not None,
        tile=(1, 1),
        threads=1,
        flat=src.ndim == 1,
    )
    reach = [stencil.reach[axis] for axis in AXES[src.ndim]]
    origin = (0,) * src.ndim
    now, before, left, launches = Placed(src, origin), Placed(previous, origin), steps, []
    while left:
        kernel = choose(stencil, src.ndim, left, shared, tile)
        assert now.array
        away = sum(max(pair) * abs(stride) for pair, stride in zip(reach, now.array.strides, strict=True))
        if away >= _NARROW * src.dtype.itemsize:
            kernel = replace(kernel, wide=True)
        left -= kernel.steps
        # The next launch reads this much; at the end, the box.
        region = [
            (lo - left * a, hi + left * b) if mode == "wrap" else (max(lo - left * a, first), min(hi + left * b, end))
            for (lo, hi), (first, end), (a, b), mode in zip(box, edges, reach, modes, strict=True)
        ]
        start, shape = [lo for lo, _ in region], tuple(hi - lo for lo, hi in region)
        between = Layout.contiguous(shape, src.dtype)
        new = Placed(between if left else dst, start)
        old = Placed(None, start)
        if previous is not None and not left:
            old = Placed(kept, start)
        elif previous is not None and kernel.steps > 1:
            old = Placed(between, start)
        each = (now, new, Placed(field, origin), before, old)
        planes = on_four(tile or origin, 0)[0]
        geometry = _geometry(
            kernel, region, edges, each, complex(np.frombuffer(cval, complex)[0]), planes, shared, processors
        )
        blocks = math.prod(geometry["blocks"][0].tolist())
        behind = tuple(map(_behind, each))
        launches.append(Launch(kernel, blocks, geometry, behind, shape, not left, old.array is not None))
        before = now if old.array is None else old
        now = new
    return launches


def _geometry(
    kernel: Kernel,
    region: Pairs,
    edges: Pairs,
    arrays: Sequence[Placed],
    cval: complex,
    planes: int,
    shared: int,
    processors: int,
) -> np.ndarray:
    """The numbers of a launch, as an array of one `GEOMETRY`."""
    geometry = np.zeros(1, GEOMETRY)
    geometry["hi"] = 1
    for d, axis in enumerate(AXES[len(region)]):
        geometry["lo"][0, axis], geometry["hi"][0, axis] = region[d]
        geometry["first"][0, axis], geometry["end"][0, axis] = edges[d]
        for name, (array, _) in zip(NAMES, arrays, strict=True):
            if array is not None:
                geometry[name][0, axis] = array.strides[d] // array.dtype.itemsize
    lengths = (geometry["hi"] - geometry["lo"])[0].tolist()
    blocks = [-(-n // cells) for n, cells in zip(lengths[1:], (1, *kernel.tile), strict=True)]
    rounds = sum(kernel.reach[0]) if kernel.steps == 1 else kernel.steps * (kernel.reach[0][0] + kernel.lag)
    beside = kernel.beside if kernel.steps == 1 else min(kernel.beside, shared // kernel.shared)
    planes = planes or planes_of(lengths[0], math.prod(blocks), rounds, processors * beside)
    planes = min(planes, _MOST_PLANES)
    geometry["blocks"] = [-(-lengths[0] // planes), *blocks]
    geometry["planes"] = planes
    geometry["cval"] = complex(cval).real, complex(cval).imag
    return geometry


def _behind(placed: Placed) -> int:
    """Bytes from the cell at the origin of coordinates, there or not, to the first cell of an array."""
    strides = placed.array.strides if placed.array else (0,) * len(placed.start)
    return sum(start * stride for start, stride in zip(placed.start, strides, strict=True))


def check(
    src: Layout,
    dst: Layout,
    taps: np.ndarray,
    weights: np.ndarray,
    steps: int,
    box: Pairs,
    edges: Pairs,
    modes: Sequence[str],
    tile: Sequence[int],
    field: Layout | None,
    previous: Layout | None,
    kept: Layout | None,
) -> None:
    """Refuse input that a kernel cannot handle, with the same messages as the other backends."""
    code = _code(src.dtype)
    if code not in SIZES:
        raise TypeError(f"src is {src.dtype}, it must be float32, float64, complex64 or complex128")
    real = np.empty(0, src.dtype).real.dtype
    if not 1 <= src.ndim <= 4:
        raise ValueError(f"src has {src.ndim} axes, 1 to 4 are possible")
    if dst.ndim != src.ndim:
        raise ValueError(f"src has {src.ndim} axes, dst has {dst.ndim}")
    if weights.dtype not in (src.dtype, real):
        raise TypeError(f"weights is {weights.dtype}, src is {src.dtype}: equal, or weights its real counterpart")
    if weights.shape != (len(taps),):
        raise ValueError(f"offsets has {len(taps)} rows, weights has {weights.size} entries")
    if not 1 <= steps <= 1024:
        raise ValueError(f"steps must be 1 to 1024, got {steps}")
    if {len(box), len(edges), len(modes), len(tile) or src.ndim} != {src.ndim}:
        raise ValueError(f"src has {src.ndim} axes: box, edges, modes and tile must have as many entries")
    for name, array, like, like_name, dtype in (
        ("dst", dst, dst, "dst", src.dtype),
        ("field", field, src, "src", real),
        ("previous", previous, src, "src", src.dtype),
        ("kept", kept, dst, "dst", src.dtype),
    ):
        if array is not None and array.dtype != dtype:
            raise TypeError(f"{name} is {array.dtype}, src is {src.dtype}")
        if array is not None and array.shape != like.shape:
            raise ValueError(f"{name} must have the shape of {like_name}")
    if (kept is not None) != (previous is not None and steps > 1):
        raise ValueError(
            f"kept is needed for {steps} steps {'with' if previous is not None else 'without'} previous: "
            f"{'no' if kept is not None else 'yes'}"
        )
    for d, ((lo, hi), (first, end), mode) in enumerate(zip(box, edges, modes, strict=True)):
        n = src.shape[d]
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {' '.join(MODES)}")
        if tile and tile[d] < 0:
            raise ValueError(f"tile of {tile[d]} cells on axis {d}")
        if not 0 <= lo <= hi <= n:
            raise ValueError(f"box {lo} to {hi} does not lie in the {n} cells of axis {d}")
        if dst.shape[d] != hi - lo:
            raise ValueError(f"box has {hi - lo} cells on axis {d}, dst has {dst.shape[d]}")
        if lo == hi:
            return
        before, after = -int(taps[:, d].min(initial=0)), int(taps[:, d].max(initial=0))
        if mode in ("reflect", "mirror"):
            before = after = max(before, after)
        read = lo - steps * before, hi + steps * after
        if mode != "wrap":
            if not first <= lo <= hi <= end:
                raise ValueError(f"box {lo} to {hi} reaches beyond the edges {first}, {end} on axis {d}")
            read = max(read[0], first), min(read[1], end)
        if read[0] < 0 or read[1] > n:
            raise ValueError(f"cells {read[0]} to {read[1]} are read on axis {d} of {n}")
    for name, array in zip(NAMES, (src, dst, field, previous, kept), strict=True):
        if array is not None and array.strides[-1] != array.dtype.itemsize and array.shape[-1] > 1:
            size = array.dtype.itemsize
            raise ValueError(f"{name} has a stride of {array.strides[-1]} bytes on its last axis, it needs {size}")


def check_addresses(machine: Machine, arrays: Sequence[Any]) -> None:
    """Refuse arrays, named as in `NAMES`, that are not aligned, or share memory with one that is written."""
    spans = {}
    for name, array in zip(NAMES, arrays, strict=True):
        if array is not None:
            address = machine.address(array)
            before, after, aligned = _span(array.shape, array.strides, array.dtype)
            if address % array.dtype.itemsize or not aligned:
                raise ValueError(f"{name} is not aligned to {array.dtype.itemsize} bytes")
            spans[name] = address - before, address + after
    for written in ("dst", "kept"):
        for name in spans:
            if written in spans and name != written:
                (lo, hi), (first, end) = spans[written], spans[name]
                if lo < end and first < hi:
                    raise ValueError(f"{name} and {written} overlap in memory")


@lru_cache(maxsize=1024)
def _span(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, bool]:
    """Bytes that an array reaches before and behind its first cell's address; whether its strides are whole cells."""
    reach = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    after = sum(max(r, 0) for r in reach) + dtype.itemsize
    return -sum(min(r, 0) for r in reach), after, not any(stride % dtype.itemsize for stride in strides)


def describe(boxes: Sequence[Pairs]) -> np.ndarray:
    """The table with which the kernels of boxes.cuh find their cells.

    Parameters
    ----------
    boxes : sequence of boxes, each a sequence of (first, end)
        In the array's own coordinates; the buffer holds their cells one box after the other, each box in C order.

    Returns
    -------
    (len(boxes) + 1, 9) int64 array
        Of each box: its first cell in the buffer, and on four axes its first cell in the array and its length. The last
        row ends the buffer.

    >>> describe([[(1, 3)], [(5, 6)]])[:, [0, 4, 8]]
    array([[0, 1, 2],
           [2, 5, 1],
           [3, 0, 1]])
    """
    table = np.tile(np.array([0] * 5 + [1] * 4, np.int64), (len(boxes) + 1, 1))
    for n, box in enumerate(boxes):
        firsts, ends = np.array(box, np.int64).T
        table[n, 5 - len(box) : 5], table[n, 9 - len(box) :] = firsts, ends - firsts
        table[n + 1, 0] = table[n, 0] + np.prod(table[n, 5:])
    return table


def check_boxes(boxes: Sequence[Pairs], dtype: np.dtype, array: Any, buffer: Any = None) -> np.ndarray:
    """The strides of `array` on four axes, in cells; refuses boxes that are outside it, or too large for `buffer`."""
    if array.dtype.itemsize != dtype.itemsize:
        raise TypeError(f"array is {array.dtype}, the boxes are {dtype}")
    if buffer is not None:
        nbytes = sum(math.prod(hi - lo for lo, hi in box) for box in boxes) * dtype.itemsize
        if buffer.dtype != np.uint8 or buffer.ndim != 1 or buffer.size < nbytes or buffer.strides[0] != 1:
            raise ValueError(f"buffer has {buffer.size} cells of {buffer.dtype}, {nbytes} bytes in a row are needed")
    for box in boxes:
        if len(box) != array.ndim or any(not 0 <= lo <= hi <= n for (lo, hi), n in zip(box, array.shape, strict=True)):
            raise ValueError(f"box {list(box)} does not lie in an array of shape {array.shape}")
    strides = np.zeros(1, STRIDES)
    strides["of"][0, 4 - array.ndim :] = [stride // dtype.itemsize for stride in array.strides]
    return strides


def _code(dtype: np.dtype) -> str:
    """``f8`` for float64 in the machine's byte order."""
    return dtype.str.lstrip("<=|")
