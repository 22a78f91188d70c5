"""The text of a kernel: constants and a sum made for one stencil, in front of code that is the same for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MODES = ("wrap", "constant", "nearest", "reflect", "mirror")
SIZES = {"f4": 4, "f8": 8, "c8": 8, "c16": 16}
AXES = {1: (3,), 2: (0, 3), 3: (0, 2, 3), 4: (0, 1, 2, 3)}  # the positions of the axes of an array among z, b, c, x
_AHEAD = (4, 2, 1)  # planes that a thread with one step may load together
_MOST = 120  # registers (of 4 bytes) that it may then need
_HELD = 32  # registers in which a thread with several steps may keep rows: more leave too few threads to a processor
_REGISTERS = 65536  # of a processor
_FOLDER = Path(__file__).parent


class Column(NamedTuple):
    """Taps that differ along z only: where in a plane, from where along z, and how much further."""

    b: int
    c: int
    x: int
    first: int
    span: int


@dataclass(frozen=True)
class Kernel:
    """All that the compiler knows of a launch. Axes are z, b, c, x: see `common.cuh`.

    Parameters
    ----------
    dtype : str
        ``f4 f8 c8 c16``.
    offsets : tuple of 4 int, for each tap
        In the order in which they are added.
    weights : tuple of str, one for each tap
        As C++ reads them: see `literals`. (As numbers, -0.0 would be equal to 0.0, and no NaN to itself.)
    modes : 4 str
        The boundary mode of each axis; ``wrap`` for axes that the array does not have.
    steps : int
        1: the streaming kernel; more: the fused one.
    field, previous : bool
        Whether the update has them, as in `mpihpc.kernels.cpu.advance`.
    tile : 2 int
        Cells of a block's tile along c and x; along b it has one.
    threads : int
        Of a block. With one step: one for each cell of the tile.
    wide : bool
        Whether the cell of a tap may be 2**31 cells away.
    flat : bool
        Whether arrays have one plane only, since they have one axis.
    """

    dtype: str
    offsets: tuple[tuple[int, int, int, int], ...]
    weights: tuple[str, ...]
    modes: tuple[str, str, str, str]
    steps: int
    field: bool
    previous: bool
    tile: tuple[int, int]
    threads: int
    wide: bool = False
    flat: bool = False

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Kept, because every launch asks for it."""
        return hash((self.dtype, self.offsets, self.weights, self.modes, self.steps, self.tile, self.wide))

    @cached_property
    def reach(self) -> tuple[tuple[int, int], ...]:
        """How far the taps reach before and behind a cell on each axis; alike where the boundary mirrors."""
        pairs = []
        for axis, mode in enumerate(self.modes):
            along = [0, *(offset[axis] for offset in self.offsets)]
            before, after = -min(along), max(along)
            pairs.append((max(before, after),) * 2 if mode in ("reflect", "mirror") else (before, after))
        return tuple(pairs)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of taps, in the order of their first taps."""
        found: dict[tuple[int, int, int], list[int]] = {}
        for z, b, c, x in self.offsets or ((0, 0, 0, 0),):
            found.setdefault((b, c, x), []).append(z)
        return tuple(Column(*at, min(planes), max(planes) - min(planes)) for at, planes in found.items())

    @property
    def ahead(self) -> int:
        """Planes that a thread with one step loads together; 0: too many columns, so taps are read when added."""
        return next((ahead for ahead in _AHEAD[2 * self.flat :] if self._registers(ahead) <= _MOST), 0)

    @property
    def table(self) -> bool:
        """Whether the kernel goes through a table of taps."""
        return self.steps == 1 and not self.ahead

    @property
    def beside(self) -> int:
        """Blocks that a processor shall run at the same time: the compiler saves registers for it."""
        registers = self._registers(self.ahead) if self.steps == 1 and self.ahead else 60 + 4 * self.steps
        return max(1, min(_REGISTERS // (registers * self.threads), 1536 // self.threads, 8))

    def _registers(self, ahead: int) -> int:
        """What a thread with one step needs: for the planes that it keeps, for addresses, and for the rest."""
        cells = sum(column.span + ahead for column in self.columns)
        return cells * SIZES[self.dtype] // 4 + 2 * len(self.columns) + 20

    @property
    def hold(self) -> bool:
        """Whether a thread with several steps keeps what it computes in registers too."""
        each = -(-math.prod(self.frame) // self.threads)
        return self.steps * each * (sum(self.reach[0]) + 1) * SIZES[self.dtype] // 4 <= _HELD

    @property
    def lag(self) -> int:
        """Planes that a fused level is behind the one before it."""
        return self.reach[0][1] + 1

    @property
    def slots(self) -> int:
        """Planes of a fused level that are kept: what the next one reads, and the one that is being written."""
        return max(sum(self.reach[0]) + 2, 2 * self.lag + 1 if self.previous else 0)

    @property
    def frame(self) -> tuple[int, ...]:
        """Cells of a fused tile along c and x, with those around it that the steps need."""
        return tuple(n + self.steps * sum(reach) for n, reach in zip(self.tile, self.reach[2:], strict=True))

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return 0 if self.steps == 1 else self.steps * self.slots * math.prod(self.frame) * SIZES[self.dtype]


def source(kernel: Kernel, name: str = "advance") -> str:
    """CUDA C++ of one kernel. It needs C++17, no headers, and ``--fmad=false`` for the same bits as on CPUs."""
    columns = kernel.columns
    constants = {"THREADS": kernel.threads, "BESIDE": kernel.beside, "COLUMNS": len(columns)}
    flags = {"HAS_FIELD": kernel.field, "HAS_PREVIOUS": kernel.previous}
    for axis, (before, after), mode in zip("ZBCX", kernel.reach, kernel.modes, strict=True):
        constants |= {f"BEFORE_{axis}": before, f"AFTER_{axis}": after, f"MODE_{axis}": MODES.index(mode)}
    constants |= {"TILE_C": kernel.tile[0], "TILE_X": kernel.tile[1]}
    if kernel.steps == 1:
        constants |= {"AHEAD": max(kernel.ahead, 1), "DEPTH": max(column.span for column in columns) + 1}
    else:
        flags["HOLD"] = kernel.hold
        constants |= {f"FRAME_{axis}": cells for axis, cells in zip("CX", kernel.frame, strict=True)}
        constants |= {"STEPS": kernel.steps, "LAG": kernel.lag, "SLOTS": kernel.slots, "SHARED": kernel.shared}
    lines = [f"constexpr int {key} = {value};" for key, value in constants.items()]
    lines += [f"constexpr bool {key} = {str(bool(value)).lower()};" for key, value in flags.items()]
    offset = ("long long", "(-0x7fffffffffffffffLL)") if kernel.wide else ("int", "(-0x7fffffff)")
    lines += [f"typedef {offset[0]} Offset;", f"constexpr Offset BEYOND = {offset[1]};"]
    lines += _arithmetic(kernel.dtype)
    lines += ["#undef TABLE", f"#define TABLE {int(kernel.table)}"]
    for field in () if kernel.table else Column._fields:
        cases = " ".join(f"case {n}: return {getattr(column, field)};" for n, column in enumerate(columns))
        lines.append(f"__device__ constexpr int {field}_of(int n) {{ switch (n) {{ {cases} }} return 0; }}")
    lines += _sum(kernel)
    body = "streaming.cuh" if kernel.steps == 1 else "fused.cuh"
    shared = [(_FOLDER / file).read_text().replace("NAME(", f"{name}(") for file in ("common.cuh", body)]
    return "\n".join([*lines, "", *shared])


def boxes_source(itemsize: int, name: str = "") -> str:
    """CUDA C++ of ``pack``, ``unpack`` and ``copy``, with `name` behind, for cells of 1, 2, 4, 8 or 16 bytes."""
    cell = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}.get(itemsize)
    wide = "struct __align__(16) Cell { unsigned long long a, b; };"
    text = (_FOLDER / "boxes.cuh").read_text()
    for verb in ("unpack", "pack", "copy"):
        text = text.replace(f"{verb.upper()}(", f"{verb}{name}(")
    return "\n".join([f"typedef {cell} Cell;" if cell else wide, f"constexpr int THREADS = {BOX_THREADS};", "", text])


def sums_source(dtype: str, name: str = "") -> str:
    """CUDA C++ of ``sum``, with `name` behind, for float32 (``f4``) or float64 (``f8``). It must not fuse additions."""
    cell = {"f4": "float", "f8": "double"}[dtype]
    text = (_FOLDER / "sums.cuh").read_text().replace("SUM(", f"sum{name}(")
    constants = f"constexpr int THREADS = {BOX_THREADS}, TERMS = {SUM_TERMS};"
    return "\n".join([f"typedef {cell} Cell;", constants, "", text])


BOX_THREADS = 256
SUM_TERMS = 3
"""Numbers that hold a sum: enough where the largest number is 2**100 times the last place of the least, or less."""


def _arithmetic(dtype: str) -> list[str]:
    """The types, and the operations on cells: complex ones component by component, as in the reference."""
    real = "float" if dtype in ("f4", "c8") else "double"
    heads = {
        "times": "Value times(Value v, Real w)",
        "plus": "Value plus(Value a, Value b)",
        "minus": "Value minus(Value a, Value b)",
        "make_value": "Value make_value(const double *parts)",
    }
    if dtype[0] == "f":
        types = [f"typedef {real} Real;", "typedef Real Value;"]
        bodies = {"times": "w * v", "plus": "a + b", "minus": "a - b", "make_value": "Real(parts[0])"}
    else:
        types = [f"typedef {real} Real;", f"struct __align__({SIZES[dtype]}) Value {{ Real re, im; }};"]
        heads["product"] = "Value times(Value v, Real re, Real im)"
        bodies = {
            "times": "Value{w * v.re, w * v.im}",
            "product": "Value{re * v.re - im * v.im, re * v.im + im * v.re}",
            "plus": "Value{a.re + b.re, a.im + b.im}",
            "minus": "Value{a.re - b.re, a.im - b.im}",
            "make_value": "Value{Real(parts[0]), Real(parts[1])}",
        }
    return types + [f"__device__ __forceinline__ {heads[key]} {{ return {bodies[key]}; }}" for key in heads]


def _sum(kernel: Kernel) -> list[str]:
    """The sum of the taps: a line for each, or a table, for compilers take minutes for a thousand lines.

    The first product is not added to zero: 0.0 + -0.0 would lose the sign.
    """
    words = kernel.weights
    head = "template <class At> __device__ __forceinline__ Value sum(const At &at) {"
    if kernel.table:
        rows = (f"{{{', '.join(map(str, tap))}, {word}}}" for tap, word in zip(kernel.offsets, words, strict=True))
        complex_weights = "," in words[0]
        return [
            f"struct Tap {{ int z, b, c, x; Real {'re, im' if complex_weights else 're'}; }};",
            f"__device__ const Tap TAPS[] = {{{', '.join(rows)}}};",
            "__device__ __forceinline__ Value times(Value v, const Tap &tap) {",
            f"    return times(v, tap.re{', tap.im' if complex_weights else ''});",
            "}",
            head,
            "    Value acc = times(at(TAPS[0]), TAPS[0]);",
            f"    for (int t = 1; t < {len(words)}; ++t) acc = plus(acc, times(at(TAPS[t]), TAPS[t]));",
            "    return acc;",
            "}",
        ]
    number = {(column.b, column.c, column.x): n for n, column in enumerate(kernel.columns)}
    terms = [
        f"times(at({number[b, c, x]}, {z}), {word})" for (z, b, c, x), word in zip(kernel.offsets, words, strict=True)
    ]
    lines = [f"    acc = plus(acc, {term});" if n else f"    Value acc = {term};" for n, term in enumerate(terms)]
    return [head, *(lines or ["    Value acc{};"]), "    return acc;", "}"]


def literals(weights: np.ndarray) -> tuple[str, ...]:
    """Weights as C++ reads them, exactly; complex ones as two numbers.

    >>> literals(np.array([0.5, -0.0], np.float32)), literals(np.array([1 - 2j]))
    (('0x1.0000000000000p-1f', '-0x0.0p+0f'), ('0x1.0000000000000p+0, -0x1.0000000000000p+1',))
    """
    suffix = "f" if weights.dtype.char in "fF" else ""
    huge = f"(0x1p+127{suffix} * 0x1p+127{suffix})" if suffix else "(0x1p+1023 * 0x1p+1023)"

    def one(number: float) -> str:
        if math.isfinite(number):
            return number.hex() + suffix
        return f"({huge} - {huge})" if math.isnan(number) else f"{'-' if number < 0 else ''}{huge}"

    if weights.dtype.kind == "c":
        return tuple(f"{one(w.real)}, {one(w.imag)}" for w in weights.tolist())
    return tuple(one(w) for w in weights.tolist())


def on_four(values: Sequence[Any], missing: Any) -> tuple[Any, Any, Any, Any]:
    """Values of the axes of an array as those of z, b, c, x."""
    four = [missing] * 4
    for axis, value in zip(AXES[len(values)], values, strict=True):
        four[axis] = value
    return tuple(four)
