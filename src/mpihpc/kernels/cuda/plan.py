"""From the arguments of `advance` to launches: which kernels, how many blocks, which numbers. No CuPy, no GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from mpihpc.kernels.cuda.source import MODES, SIZES, Kernel, literals

GEOMETRY = np.dtype(
    [(name, "i8", 4) for name in ("lo", "hi", "first", "end", "src", "dst", "field", "previous", "kept", "blocks")]
    + [("planes", "i8"), ("cval", "f8", 2)]
)
"""`Geometry` of common.cuh."""

STRIDES = np.dtype([("of", "i8", 4)])
"""`Strides` of boxes.cuh."""

_AXES = {1: (3,), 2: (0, 3), 3: (0, 2, 3), 4: (0, 1, 2, 3)}  # where the axes of an array lie among z, b, c, x
_STREAMED = {1: (1, 256), 2: (1, 256), 3: (8, 32), 4: (8, 32)}  # tile of a kernel with one step
_MOST_CELLS = 2048  # of a fused tile's frame
_NARROW = 1 << 30  # cells between a cell and one that it reads, for which 32 bits are enough
_MOST_PLANES = 1 << 20  # of a block, which counts them in 32 bits
_MOST_TAPS = 64  # of a fused kernel, or it takes long to compile
_FEW = 4  # steps that are enough to hide how slow memory is
_USEFUL = 0.4  # of the cells of a fused tile's frame, those that are result: at least
# The most steps worth while, by number of axes, for taps that reach 1, 2, ... cells (further: as the last).
_MOST_ON_AXES = {1: (16, 8, 5, 4), 2: (10, 5, 3, 2), 3: (4, 3, 2, 1)}
_MOST_IN_BOX = {1: (16, 8, 5, 4), 2: (8, 3, 2, 1), 3: (2, 1)}

NAMES = ("src", "dst", "field", "previous", "kept")
Pairs = Sequence[tuple[int, int]]


class Machine(Protocol):
    """What runs the kernels: a GPU through CuPy, or a program that stands in for one."""

    shared: int  # bytes of shared memory that a block may have
    processors: int  # that run blocks side by side

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A new array, rows one behind the other."""

    def address(self, array: Any) -> int:
        """Where the first cell of an array lies."""

    def launch(self, kernel: Kernel, blocks: int, addresses: Sequence[int], geometry: np.ndarray) -> None:
        """Start a kernel with src, dst, field, previous and kept, each the address of the cell at the origin."""


class Layout(NamedTuple):
    """An array, but for where it lies."""

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
        """Rows one behind the other."""
        strides = [dtype.itemsize * math.prod(shape[d + 1 :]) for d in range(len(shape))]
        return cls(shape, tuple(strides), dtype)


class Placed(NamedTuple):
    """An array, and the coordinates of its first cell."""

    array: Layout | None
    start: Sequence[int]


class Launch(NamedTuple):
    """One launch, but for where its arrays lie.

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

    Between launches the values lie in new arrays, as large as the steps that are left need them.
    """
    numbers, arrays = np.asarray(weights), (src, dst, field, previous, kept)
    # All but the addresses is the same from step to step, and planned once. Bytes tell -0.0 from 0.0.
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
    reach = [stencil.reach[axis] for axis in _AXES[src.ndim]]
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


@lru_cache(maxsize=256)
def choose(stencil: Kernel, ndim: int, steps: int, shared: int, tile: Sequence[int] = ()) -> Kernel:
    """The kernel for the next of so many steps, alike for all launches if they are divided evenly.

    Parameters
    ----------
    stencil : Kernel
        With the data's dtype, taps and modes.
    ndim : int
        Axes of the arrays.
    steps : int
        Steps to do.
    shared : int
        Bytes of shared memory that a block may have.
    tile : sequence of int
        Cells of a tile on each axis. 0, or more than fit: chosen here.
    """
    wish = on_four(tile or (0,) * ndim, 0)[2:]
    most = min(steps, steps_at_once(np.array(stencil.offsets, np.int64).reshape(-1, 4)[:, list(_AXES[ndim])]))
    counts = sorted({-(-steps // -(-steps // limit)) for limit in range(2, most + 1)}, reverse=True)
    fused = [found for count in counts if (found := _fused(replace(stencil, steps=count), ndim, shared, wish))]
    if ndim == 2:
        # Steps without reads along z are worth more than some more steps. Planes of 3 axes need too many registers.
        fused.sort(key=lambda kernel: not (kernel.hold and kernel.steps >= _FEW))
    if fused:
        return fused[0]
    x = min(wish[1] or _STREAMED[ndim][1], 1024)
    c = min(wish[0] or _STREAMED[ndim][0], 1024 // x)
    return replace(stencil, tile=(c, x), threads=c * x)


def steps_at_once(offsets: np.ndarray) -> int:
    """How many steps of taps with these (taps, axes) offsets are worth while in one pass over memory, at most."""
    taps, ndim = offsets.shape
    if taps > _MOST_TAPS:
        return 1
    on_axes = not taps or np.count_nonzero(offsets, axis=1).max() <= 1
    limits = (_MOST_ON_AXES if on_axes else _MOST_IN_BOX).get(ndim, (1,))
    furthest = max(1, int(np.abs(offsets).max(initial=0)))
    return limits[min(furthest, len(limits)) - 1]


def _fused(kernel: Kernel, ndim: int, shared: int, wish: Sequence[int]) -> Kernel | None:
    """The kernel with the tile that is the largest part of its frame; None: too small a part, or it does not fit."""
    around = [kernel.steps * sum(reach) for reach in kernel.reach[2:]]
    most = min(_MOST_CELLS, shared // (kernel.steps * kernel.slots * SIZES[kernel.dtype]))
    frames = list(product(range(8, 65), (32, 48, 64))) if ndim > 2 else [(1, x) for x in (256, 512, 1024)]
    if wish[1] and (wish[0] or ndim < 3):
        frames.insert(0, ((wish[0] or 1) + around[0], wish[1] + around[1]))
    best, best_part = (0, 0), _USEFUL
    for frame in frames:
        tile = frame[0] - around[0], frame[1] - around[1]
        part = math.prod(tile) / math.prod(frame)
        wished = tile == (wish[0] or tile[0], wish[1])
        if min(tile) > 0 and math.prod(frame) <= most and (part > best_part or wished):
            best, best_part = tile, part
            if wished or (ndim < 3 and part > 0.85):
                break  # of rows, longer ones would leave a processor fewer blocks
    if not any(best):
        return None
    cells = math.prod(n + a for n, a in zip(best, around, strict=True))
    return replace(kernel, tile=best, threads=min(256 if ndim < 3 else 512, -(-cells // 32) * 32))


@lru_cache(maxsize=256)
def planes_of(planes: int, tiles: int, extra: int, at_once: int) -> int:
    """How many planes a block marches over, so that the last blocks do not run alone.

    Parameters
    ----------
    planes : int
        Of the region.
    tiles : int
        Blocks that a plane is cut into.
    extra : int
        Planes that each block goes through in addition.
    at_once : int
        Blocks that the machine runs at the same time.

    33 pieces of 32 tiles fill a machine of 528 blocks twice:

    >>> planes_of(8192, 32, 2, 528)
    249
    """

    def time(pieces: int) -> int:
        return -(-tiles * pieces // at_once) * (-(-planes // pieces) + extra)

    pieces = min(range(1, min(planes, 256) + 1), key=time)
    return -(-planes // pieces)


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
    for d, axis in enumerate(_AXES[len(region)]):
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
    """Refuse what a kernel would fall over, in the words of the other rooms."""
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
    """Refuse arrays, named as in `NAMES`, whose cells lie askew or in the way of others."""
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
        In the array's own coordinates; their cells lie one behind the other in the buffer, each box in C order.

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
    """The strides of `array` on four axes, in cells, if these boxes lie in it and in a `buffer` of bytes."""
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


def on_four(values: Sequence[Any], missing: Any) -> tuple[Any, Any, Any, Any]:
    """Values of the axes of an array as those of z, b, c, x."""
    four = [missing] * 4
    for axis, value in zip(_AXES[len(values)], values, strict=True):
        four[axis] = value
    return tuple(four)
