"""The CUDA kernels without a GPU: their text compiled for this machine and run against the reference, and for GPUs."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from cuda_compile import find_compiler
from cuda_host import Host, Recorder, compile_host, fenced
from mpihpc import _core
from mpihpc.kernels import reference
from mpihpc.kernels.cuda import choice, plan, sums
from mpihpc.kernels.cuda.source import MODES, Kernel, boxes_source, literals, on_four, source, sums_source
from test_kernels import assert_same_bits, fused_case, one_step

SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448}  # bytes that a block may have
SCALARS = {"f4": "f4", "f8": "f8", "c8": "f4", "c16": "f8"}
ITEMSIZES = (1, 2, 4, 8, 16)
CASES = 40
SPECIAL = [("f4", False), ("f8", False), ("c8", False), ("c16", True)]


def star(ndim: int, radius: int) -> np.ndarray:
    offsets = box(ndim, radius)
    return offsets[np.count_nonzero(offsets, axis=1) <= 1]


def box(ndim: int, radius: int) -> np.ndarray:
    return np.array(list(itertools.product(range(-radius, radius + 1), repeat=ndim)))


def stencil(dtype: str, offsets: np.ndarray, modes: str, imaginary: bool = False, **more: bool) -> Kernel:
    """Taps with weights that differ, before a kernel is chosen. Modes: first letters, one per axis."""
    weights = (np.arange(len(offsets)) - 2.5) / 16
    four = on_four([next(m for m in MODES if m[0] == letter) for letter in modes], "wrap")
    return Kernel(
        dtype,
        tuple(on_four(offset, 0) for offset in offsets.tolist()),
        literals((weights * 1j if imaginary else weights).astype(dtype if imaginary else SCALARS[dtype])),
        four,
        steps=1,
        field=more.get("field", False),
        previous=more.get("previous", False),
        tile=(1, 1),
        threads=1,
        flat=len(modes) == 1,
    )


# Every kind of kernel: its taps, number of axes, the steps that are asked for, and those that are fused.
KINDS = {
    "3 points": (stencil("f8", star(1, 1), "r"), 1, 16, 16),
    "7 in a row": (stencil("c8", box(1, 3), "n"), 1, 1, 1),
    "5 points": (stencil("f8", star(2, 1), "rr"), 2, 1, 1),
    "5 points, 10 steps": (stencil("f4", star(2, 1), "cw"), 2, 10, 10),
    "5 points, 5 steps": (stencil("f8", star(2, 1), "rw"), 2, 10, 5),
    "5 points, wave": (stencil("f4", star(2, 1), "mm", field=True, previous=True), 2, 8, 8),
    "9 points, complex": (stencil("c16", box(2, 1), "nm", True, field=True), 2, 4, 4),
    "81 points": (stencil("f8", box(2, 4), "rc"), 2, 1, 1),
    "81 points, single": (stencil("f4", box(2, 4), "rc"), 2, 1, 1),
    "1000 points": (stencil("c8", box(3, 4)[:1000], "rcn", True), 3, 2, 1),
    "7 points": (stencil("f8", star(3, 1), "rrr"), 3, 1, 1),
    "27 points": (stencil("f4", box(3, 1), "nnn"), 3, 1, 1),
    "13 points, complex": (stencil("c16", star(3, 2), "wcm", True, previous=True), 3, 1, 1),
    "7 points, 4 steps": (stencil("f8", star(3, 1), "rrr"), 3, 4, 4),
    "13 points, 3 steps": (stencil("f8", star(3, 2), "cmn", field=True), 3, 3, 3),
    "19 points, 2 steps": (stencil("f4", star(3, 3), "www"), 3, 2, 2),
    "9 points, 4 axes": (stencil("f8", star(4, 1), "rcnm"), 4, 3, 1),
}


def run(machine: Recorder, case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """`dst` and `kept` of a case; what is read lies at the end of memory, and nothing beside `dst` is touched."""
    arguments = dict(case["arguments"])
    for name in ("src", "field", "previous"):
        if arguments[name] is not None:
            arguments[name] = fenced(arguments[name], before=bool(case["fence"]))
    memory = np.full([n + 2 for n in case["expected"].shape], 7, case["expected"].dtype)
    dst = memory[(slice(1, -1),) * memory.ndim]
    kept = None if case["kept"] is None else np.full_like(dst, 7)
    with pytest.MonkeyPatch.context() as patch:
        if case["wide"]:
            patch.setattr(plan, "_NARROW", 0)
            patch.setattr(plan, "_launches", plan._launches.__wrapped__)  # nothing of this is kept
        plan.advance(machine, dst=dst, kept=kept, **arguments)
    result = dst.copy()
    dst[...] = 7
    assert (memory == 7).all()
    return result, kept


def special_case(rng: np.random.Generator, dtype: str, imaginary: bool) -> dict[str, Any]:
    """Zeros of both signs, the smallest and the largest numbers, infinities and NaNs, in cells and weights."""
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    values = np.array([0.0, -0.0, 1.0, -1.0, tiny, -3 * tiny, huge, -huge, np.inf, -np.inf, np.nan])
    src = rng.choice(values, (30, 60)).astype(dtype)
    weights = np.array([-0.0, 0.5, tiny, -np.inf, np.nan], dtype if imaginary else src.real.dtype)
    if dtype[0] == "c":
        src.imag = rng.choice(values, src.shape)
    if imaginary:
        weights.imag = [np.inf, -0.0, -huge, 2, 0]
    offsets = np.array([[0, 0], [1, 1], [0, 2], [2, 0], [1, 3]])[: int(rng.integers(1, 6))]
    expected = np.empty((28, 57), dtype)
    reference.correlate(src, expected, offsets, weights[: len(offsets)])
    arguments = {"src": src, "field": None, "previous": None, "offsets": offsets, "weights": weights[: len(offsets)]}
    arguments |= {"steps": 1, "box": [(0, 28), (0, 57)], "edges": [(0, 30), (0, 60)], "modes": ["wrap", "wrap"]}
    return {"arguments": arguments, "expected": expected, "kept": None}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """Random cases, and a machine that knows their kernels and those of all boxes."""
    if not shutil.which("g++"):
        pytest.skip("no g++ to compile the kernels for this machine")
    rng = np.random.default_rng(21)
    cases = [special_case(rng, dtype, imaginary) for dtype, imaginary in SPECIAL]
    cases += [fused_case(rng) for _ in range(CASES)]
    recorder = Recorder()
    for number, case in enumerate(cases):
        ndim, tile = case["expected"].ndim, []
        if rng.random() < 0.6:
            tile = [int(n) for n in (*rng.integers(0, 12, ndim - 1), rng.choice([0, 5, 16, 33]))]
        case["arguments"]["tile"] = tile
        case |= {"wide": number % 8 == 0, "fence": number % 2}
        run(recorder, case)
    texts = {name: (kernel, source(kernel, name)) for kernel, name in recorder.kernels.items()}
    library = compile_host(tmp_path_factory.mktemp("cuda") / "kernels.so", texts, ITEMSIZES)
    return cases, Host(library, recorder.kernels)


def test_kernels_on_the_host(host) -> None:
    """Every mode on every axis, any taps, tiles and blocks of the array, in one launch or several: the same bits."""
    cases, machine = host
    kinds = {(kernel.steps > 1, kernel.table, kernel.wide, kernel.hold) for kernel in machine.kernels}
    for one in range(4):
        assert {kind[one] for kind in kinds} == {False, True}
    for number, case in enumerate(cases):
        machine.backwards = number % 4 > 1
        dst, kept = run(machine, case)
        assert_same_bits(dst, case["expected"])
        if kept is not None:
            assert_same_bits(kept, case["kept"])
    assert machine.launches >= CASES


def test_the_host_sees_races(tmp_path) -> None:
    """Kernels with a barrier less, or levels too close behind each other, give other results in one of the orders."""
    if not shutil.which("g++"):
        pytest.skip("no g++ to compile the kernels for this machine")
    base = stencil("f8", box(2, 1), "rw")
    kernel = replace(base, steps=3, tile=(1, 26), threads=32)
    assert (kernel.lag, kernel.slots) == (2, 4)
    text = source(kernel, "whole")
    texts = {
        "whole": text,
        "unfenced": re.sub("__syncthreads\\(\\);", "", text).replace("whole(", "unfenced("),
        "close": text.replace("LAG = 2", "LAG = 1").replace("whole(", "close("),
        "few": text.replace("SLOTS = 4", "SLOTS = 3").replace("whole(", "few("),
    }
    assert len(set(texts.values())) == len(texts)
    library = compile_host(tmp_path / "kernels.so", {name: (kernel, code) for name, code in texts.items()}, ())
    whole = np.random.default_rng(1).standard_normal((20, 50))
    expected = whole
    offsets, modes = box(2, 1), ["reflect", "wrap"]
    weights = (np.arange(9) - 2.5) / 16  # those of `stencil`
    for _ in range(3):
        expected = one_step(expected, offsets, weights, modes, 1.5)
    src = np.pad(whole, ((0, 0), (3, 3)), mode="wrap")
    right = {}
    for name in texts:
        for backwards in (False, True):
            machine = Host(library, {kernel: name})
            machine.backwards = backwards
            dst, box_ = np.empty_like(whole), [(0, 20), (3, 53)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(plan, "choose", lambda *_: kernel)
                patch.setattr(plan, "_launches", plan._launches.__wrapped__)
                plan.advance(machine, src, dst, offsets, weights, 3, box_, box_, modes, 1.5)
            right[name, backwards] = np.array_equal(dst, expected)
    assert [name for name in texts if right[name, False] and right[name, True]] == ["whole"]


def test_boxes(host) -> None:
    """All boxes of an exchange go into one buffer and back; what lies between them stays."""
    _, machine = host
    rng = np.random.default_rng(2)
    for size, ndim in itertools.product(ITEMSIZES, range(1, 5)):
        shape = rng.integers(1, {1: 400, 2: 40, 3: 12, 4: 7}[ndim], ndim)
        array = rng.integers(0, 256, (*shape, size), np.uint8).view(f"V{size}")[..., 0]
        ends = [np.sort(rng.integers(0, n + 1, (3, 2)), axis=1).tolist() for n in shape]
        boxes = [[(lo, hi) for lo, hi in corner] for corner in zip(*ends, strict=True)]
        if ndim > 1:
            array = array[:, ::-1]
        parts = [array[tuple(slice(lo, hi) for lo, hi in each)] for each in boxes]
        expected = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        table = plan.describe(boxes)
        buffer = np.zeros(max(1, int(table[-1, 0])) * size, np.uint8)
        strides = plan.check_boxes(boxes, array.dtype, array, buffer)
        machine.move("pack", buffer, array, [table], strides)
        assert buffer.tobytes()[: len(expected)] == expected
        wanted = np.zeros_like(array)
        for each in boxes:
            inner = tuple(slice(lo, hi) for lo, hi in each)
            wanted[inner] = array[inner]
        target = np.zeros(array.shape, array.dtype)
        there = plan.check_boxes(boxes, array.dtype, target, buffer)
        machine.move("unpack", buffer, target, [table], there)
        assert target.tobytes() == wanted.tobytes()
        # To other places of an array whose axes run the other way.
        moved = [[(7, 7 + hi - lo) for lo, hi in each] for each in boxes]
        for each, other in zip(boxes, moved, strict=True):
            room = np.zeros([n + 9 for n in shape], array.dtype).T.copy().T
            tables = plan.describe([each]), plan.describe([other])
            places = plan.check_boxes([each], array.dtype, array), plan.check_boxes([other], array.dtype, room)
            machine.move("copy", array, room, tables, *places)
            inner, outer = (tuple(slice(lo, hi) for lo, hi in one) for one in (each, other))
            assert room[outer].tobytes() == array[inner].tobytes()
            room[outer] = np.zeros((), array.dtype)
            assert not any(room.tobytes())


def test_sums(host) -> None:
    """Sums and sums of products are those of `math.fsum`, and are states of the other rooms."""
    _, machine = host
    rng = np.random.default_rng(3)
    for dtype, n, spread in itertools.product(("f4", "f8"), (1, 500, 9001), (0, 8, 300)):
        x, y = numbers_of(rng, (n,), spread, dtype), numbers_of(rng, (n,), spread, dtype)
        with np.errstate(all="ignore"):
            products = x.astype(float) * y
        for right, numbers in ((None, x), (y, products)):
            words = np.zeros(_core.SUM_WORDS, np.int64)
            for _ in range(2):  # states add up
                sums.add(machine, x, right, words)
            if np.isfinite(numbers).all():
                assert _core.sum_round(words) == math.fsum(np.repeat(numbers.astype(float), 2)), (dtype, n, spread)
            mine = np.zeros(_core.SUM_WORDS, np.int64)
            for _ in range(2):
                _core.sum_add(np.ascontiguousarray(numbers), mine)
            np.testing.assert_equal(_core.sum_round(mine), _core.sum_round(words))
    for special, total in (([np.nan, 1], np.nan), ([np.inf, -1e308], np.inf), ([np.inf, -np.inf], np.nan)):
        words = np.zeros(_core.SUM_WORDS, np.int64)
        sums.add(machine, np.array([0.5, *special, 2]), None, words)
        np.testing.assert_equal(_core.sum_round(words), total)


def numbers_of(rng: np.random.Generator, shape: tuple[int, ...], spread: int, dtype: str) -> np.ndarray:
    """Numbers of very different sizes, one of them the smallest."""
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-spread, spread + 1, shape)
    x = x.clip(-1e300, 1e300) if dtype == "f8" else x.clip(-1e38, 1e38).astype("f4")
    x.flat[rng.integers(x.size)] = 5e-324 if dtype == "f8" else 1e-45
    return x


# Shapes, which axes are summed over, and what is done to the array before.
COLUMNS = {
    "side by side": ((70, 41), (0,), lambda x: x),
    "lines": ((41, 700), (1,), lambda x: x),
    "short lines": ((50, 3), (1,), lambda x: x),
    "within a halo": ((12, 90, 17), (1,), lambda x: np.pad(x, 1, constant_values=np.nan)[1:-1, 1:-1, 1:-1]),
    "planes within a halo": ((12, 40, 7), (0, 2), lambda x: np.pad(x, 2)[2:-2, 2:-2, 2:-2]),
    "backwards, every second": ((60, 5, 8), (0, 1), lambda x: np.repeat(x, 2, 2)[::-1, :, ::2]),
    "ten axes": ((2, 3) * 5, (0, 2, 4, 6, 9), lambda x: np.pad(x, 1)[(slice(1, -1),) * 10]),
    "one": ((1, 1), (0,), lambda x: x),
    "none of some": ((0, 4), (0,), lambda x: x),
    "some of none": ((4, 0), (0,), lambda x: x),
}


@pytest.mark.parametrize("layout", COLUMNS)
def test_sums_of_columns(host, monkeypatch, layout) -> None:
    """Sums along axes are those of exact fractions, rounded, or numbers that add up to them."""
    _, machine = host
    shape, axes, change = COLUMNS[layout]
    kept = [d for d in range(len(shape)) if d not in axes]
    rng = np.random.default_rng(5)
    for turn, (dtype, spread, products) in enumerate(itertools.product(("f4", "f8"), (1, 18, 300), (False, True))):
        # Several threads of a column or one; ranges of columns that need words, and others.
        monkeypatch.setattr(sums, "_THREADS", (1, 100, 1 << 17)[turn % 3])
        monkeypatch.setattr(sums, "_RANGE", (7, 1 << 16)[turn % 2])
        monkeypatch.setattr(sums, "_PIECE", (14, 1 << 20)[turn % 4 == 1])
        spread = min(spread, 150) if products else spread
        x, y = (numbers_of(rng, shape, spread, dtype) if math.prod(shape) else np.zeros(shape, dtype) for _ in "xy")
        if x.size > 100:
            x.flat[[3, x.size // 2]] = np.inf, np.nan
        x, y = (change(a).transpose(*axes, *kept) for a in (x, y))
        with np.errstate(all="ignore"):
            flat = np.multiply(x, y, dtype=float) if products else x.astype(float)
            flat = np.ascontiguousarray(flat).reshape(math.prod(x.shape[: len(axes)]), math.prod(x.shape[len(axes) :]))
            wanted = [math.fsum(column) for column in flat.T]
        for terms, odd in ((1, False), (1, True), (2, False), (40, False)):
            out, mine = np.full((2, terms, flat.shape[1]), 7.0)
            needed = sums.add_columns(machine, x, len(axes), out, odd, y if products else None)
            assert (needed > terms) == (_core.sum_columns(flat, 1, mine, odd) > terms)
            if needed > terms:
                continue
            np.testing.assert_array_equal(out[0], mine[0] if odd else wanted)
            if terms == 40:
                finite = np.isfinite(wanted)
                assert added(out[:, finite]) == added(flat[:, finite])


def added(rows: np.ndarray) -> list[Fraction]:
    """The sums of columns, exactly."""
    return [sum(map(Fraction, column), Fraction(0)) for column in rows.T.tolist()]


def test_ordinary_sums_need_no_words(host, monkeypatch) -> None:
    """What is not large and small at the same time is summed in doubles, by one thread of a column or by several."""
    _, machine = host
    monkeypatch.setattr(sums._Columns, "words", None)
    for (rows, columns), dtype in itertools.product(((700, 41), (5, 300), (9001, 1)), ("f4", "f8")):
        x = np.random.default_rng(6).standard_normal((rows, columns)).astype(dtype)
        for array in (x, np.asfortranarray(x)):
            before, out = machine.launches, np.empty((2, columns))
            assert sums.add_columns(machine, array, 1, out) <= 2
            assert added(out) == added(x)
            assert machine.launches - before == {700: 3, 5: 1, 9001: 5}[rows]


@pytest.mark.parametrize("arch", SHARED)
def test_kernels_compile_for_gpus(arch: str) -> None:
    """Every kind of kernel becomes machine code, and threads keep their planes in registers."""
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("neither NVRTC (pip install 'mpihpc[cuda-compile]') nor nvcc")
    texts = {f"boxes_{size}": boxes_source(size, f"_{size}") for size in ITEMSIZES}
    texts |= {f"sum_{dtype}": sums_source(dtype, f"_{dtype}") for dtype in ("f4", "f8")}
    for name, (base, ndim, steps, fused) in KINDS.items():
        kernel = choice.choose(base, ndim, steps, SHARED[arch])
        assert kernel.steps == fused, name
        symbol = re.sub(r"\W+", "_", f"of_{name}")
        texts[symbol] = source(kernel, symbol)
        if name == "5 points":
            texts["wide"] = source(replace(kernel, wide=True), "wide")
        if steps == fused == 1:  # without edges: what most blocks go through
            texts[f"inner_{symbol}"] = source(replace(kernel, modes=("wrap",) * 4), f"inner_{symbol}")
    # In one text, because compilers need longer to start than for a kernel.
    said = compiler("\n".join(f"namespace in_{name} {{\n{text}\n}}" for name, text in texts.items()), arch)
    found = re.findall(r"entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores", said, re.DOTALL)
    assert len(found) == sum(1 + 2 * name.startswith("boxes") for name in texts)
    for name, frame, stores in found:
        assert int(frame) <= 128 and int(stores) <= (0 if name.startswith("inner") else 128), said


def test_what_a_kernel_is() -> None:
    """The numbers of a Kernel, on one that is small enough to count."""
    kernel = replace(KINDS["5 points, wave"][0], steps=3, tile=(1, 10))
    assert kernel.reach == ((1, 1), (0, 0), (0, 0), (1, 1))
    assert [tuple(column) for column in kernel.columns] == [(0, 0, 0, -1, 2), (0, 0, -1, 0, 0), (0, 0, 1, 0, 0)]
    assert (kernel.lag, kernel.slots, kernel.frame) == (2, 5, (1, 16))  # two levels behind, nothing is overwritten
    assert kernel.shared == 3 * 5 * 16 * 4
    lopsided = stencil("f8", np.array([[0, -3], [2, 1]]), "cm")
    assert lopsided.reach == ((0, 2), (0, 0), (0, 0), (3, 3))  # what mirrors is as deep on both sides
    assert [KINDS[name][0].ahead for name in ("5 points", "27 points", "81 points, single", "81 points")] == [
        4,
        4,
        1,
        0,
    ]


def test_weights_are_written_exactly() -> None:
    rng = np.random.default_rng(3)
    for dtype in ("f4", "f8"):
        numbers = np.array([0.1, 0.0, -0.0, 1e-310, *rng.standard_normal(50)], dtype)
        read = [float.fromhex(text.removesuffix("f")) for text in literals(numbers)]
        assert np.array(read, dtype).tobytes() == numbers.tobytes()
        assert all(text.endswith("f") == (dtype == "f4") for text in literals(numbers))
    pair = literals(np.array([0.1 - 0.2j]))[0].split(", ")
    assert [float.fromhex(part) for part in pair] == [0.1, -0.2]
    assert literals(np.array([-math.inf])) == ("-(0x1p+1023 * 0x1p+1023)",)
    zeros = [stencil("f8", star(1, 1), "r"), stencil("f8", star(1, 1), "r")]
    zeros = [replace(kernel, weights=literals(np.array([z] * 3))) for kernel, z in zip(zeros, (0.0, -0.0), strict=True)]
    assert zeros[0] != zeros[1]  # else one would be taken for the other


def test_choice_of_kernels() -> None:
    """Tiles fit the machine and leave most of their frame to the result; steps are divided evenly."""
    for (base, ndim, steps, fused), shared in itertools.product(KINDS.values(), (48 << 10, *SHARED.values())):
        kernel = choice.choose(base, ndim, steps, shared)
        assert kernel.shared <= shared and kernel.threads <= 1024 and kernel.threads % 32 == 0
        assert kernel.steps <= fused
        if kernel.steps > 1:
            assert math.prod(kernel.tile) > 0.4 * math.prod(kernel.frame)
        else:
            assert math.prod(kernel.tile) == kernel.threads
    seven = KINDS["7 points, 4 steps"][0]
    left, counts = 10, []
    while left:
        counts.append(choice.choose(seven, 3, left, SHARED["sm_90"]).steps)
        left -= counts[-1]
    assert counts == [4, 3, 3]
    assert choice.choose(seven, 3, 4, SHARED["sm_90"], (0, 20, 24)).tile == (20, 24)
    assert choice.choose(seven, 3, 1, SHARED["sm_90"], (0, 5, 24)).tile == (5, 24)
    assert choice.choose(seven, 3, 1, SHARED["sm_90"], (0, 5000, 5000)).tile == (1, 1024)


def test_what_is_kept_of_a_call() -> None:
    """The same call is planned once; taps, weights and constants are told apart by their bits, wherever they lie."""
    offsets, weights = np.array([[0, -1], [0, 1]]), np.array([0.5, 0.0])
    src, dst = np.ones((9, 80)), np.ones((5, 70))
    box = [(2, 7), (2, 72)]
    given = {"steps": 2, "box": box, "edges": [(0, 9), (0, 80)], "modes": ["wrap", "constant"]}
    machine, planned = Recorder(), plan._launches.cache_info

    def call(cval: float = 0.0) -> int:
        before = planned().misses
        plan.advance(machine, src, dst, offsets, weights, cval=cval, **given)
        return planned().misses - before

    assert [call(), call(), call(-0.0), call(), call(1.0)] == [1, 0, 1, 0, 1]
    weights[1] = -0.0
    assert [call(), call()] == [1, 0]
    offsets[1, 1] = 0
    assert [call(), call()] == [1, 0]
    assert len(machine.kernels) == 3
    with pytest.raises(ValueError, match="src and dst overlap in memory"):
        plan.advance(machine, src, src[:5, :70], offsets, weights, **given)


def test_planes_of_a_block() -> None:
    for planes, tiles, extra, at_once in itertools.product((1, 7, 512, 8192), (1, 32, 1024), (0, 2, 40), (3, 528)):
        each = choice.planes_of(planes, tiles, extra, at_once)
        assert 1 <= each <= planes
    assert choice.planes_of(8192, 32, 2, 528) == 249  # 33 pieces of 32 tiles: 528 blocks, twice
    assert choice.planes_of(512, 528, 40, 528) == 512  # more would only have more in common


def test_bad_arguments() -> None:
    """Refused before anything is launched, in the words of the other rooms."""
    src, w = np.ones((9, 8)), np.ones(1)
    good = {"src": src, "dst": np.ones((5, 4)), "offsets": [[0, 1]], "weights": w, "steps": 2}
    good |= {"box": [(2, 7), (2, 6)], "edges": [(0, 9), (0, 8)], "modes": ["wrap", "wrap"]}
    machine = Recorder()
    plan.advance(machine, **good)
    assert len(machine.kernels) == 1
    for bad, text in [
        ({"steps": 0}, "steps must be 1 to 1024, got 0"),
        ({"steps": 3}, "cells 2 to 9 are read on axis 1 of 8"),
        ({"box": [(2, 7)]}, "as many entries"),
        ({"box": [(2, 10), (2, 6)]}, "box 2 to 10 does not lie in the 9 cells of axis 0"),
        ({"box": [(2, 6), (2, 6)]}, "box has 4 cells on axis 0, dst has 5"),
        ({"modes": ["reflect", "wrap"], "edges": [(3, 9), (0, 8)]}, "reaches beyond the edges 3, 9 on axis 0"),
        ({"modes": ["wrap", "mirrored"]}, "mode 'mirrored' is none of wrap constant"),
        (
            {"modes": ["wrap", "mirror"], "steps": 4, "edges": [(0, 9), (-9, 9)]},
            "cells -2 to 9 are read on axis 1 of 8",
        ),
        ({"tile": [1, -1]}, "tile of -1 cells on axis 1"),
        ({"dst": src[2:7, 2:6]}, "src and dst overlap in memory"),
        ({"dst": np.ones((5, 4, 1))}, "src has 2 axes, dst has 3"),
        ({"weights": np.ones(2)}, "offsets has 1 rows, weights has 2 entries"),
        ({"field": np.ones((9, 7))}, "field must have the shape of src"),
        ({"previous": np.ones((9, 8))}, "kept is needed for 2 steps with previous: yes"),
        ({"kept": np.ones((5, 4))}, "kept is needed for 2 steps without previous: no"),
        ({"previous": np.ones((9, 8)), "kept": np.ones((4, 4))}, "kept must have the shape of dst"),
        ({"src": np.ones((9, 16))[:, ::2]}, "src has a stride of 16 bytes on its last axis, it needs 8"),
        ({"src": np.zeros(580, "u1")[1:577].view("f8").reshape(9, 8)}, "src is not aligned to 8 bytes"),
    ]:
        with pytest.raises(ValueError, match=text):
            plan.advance(machine, **good | bad)
    for bad, text in [
        ({"field": np.ones((9, 8), "f4")}, "field is float32, src is float64"),
        ({"dst": np.ones((5, 4), "f4")}, "dst is float32, src is float64"),
        ({"weights": w + 0j}, "weights is complex128, src is float64"),
        ({"src": src.astype(int), "dst": np.ones((5, 4), int)}, "src is int64, it must be"),
        ({"src": src.astype(">f8")}, "src is >f8, it must be"),
    ]:
        with pytest.raises(TypeError, match=text):
            plan.advance(machine, **good | bad)
    boxes, buffer = [[(0, 3), (2, 4)]], np.empty(48, np.uint8)
    for array, given, text in [
        (src, buffer[:5], "buffer has 5 cells of uint8, 48 bytes in a row are needed"),
        (src, np.empty(96, np.uint8)[::2], "48 bytes in a row are needed"),
        (src, np.empty(48), "buffer has 48 cells of float64"),
        (src[:2], buffer, "does not lie in an array of shape"),
    ]:
        with pytest.raises(ValueError, match=text):
            plan.check_boxes(boxes, np.dtype("f8"), array, given)
    with pytest.raises(TypeError, match="array is float32, the boxes are float64"):
        plan.check_boxes(boxes, np.dtype("f8"), src.astype("f4"), buffer)
