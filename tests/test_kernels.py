"""The kernels: C++ against the NumPy reference bit for bit, both against other oracles, and every refusal."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

from mpihpc import _core
from mpihpc.kernels import cpu, reference

DTYPES = ["f4", "f8", "c8", "c16"]
PAIRS = [("f4", "f4"), ("f8", "f8"), ("c8", "c8"), ("c8", "f4"), ("c16", "c16"), ("c16", "f8")]
CHECKSUMMED = ["?", "i1", "u2", "f2", "f4", "i4", "f8", "c8", "i8", "c16", "M8[s]", ">f4"]
MASK = (1 << 64) - 1


@pytest.fixture(params=_core.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with each instruction set of this machine, then go back to the one that was in use."""
    before = _core.isa()
    _core.use_isa(request.param)
    yield request.param
    _core.use_isa(before)


def numbers(rng: np.random.Generator, shape: tuple[int, ...] | int, dtype: str) -> np.ndarray:
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype[0] == "c" else x).astype(dtype)


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    """Equal bit for bit; a NaN is a NaN."""
    real = a.dtype.char.lower()
    a, b = (np.ascontiguousarray(x).view(real) for x in (a, b))
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    bits = f"u{a.dtype.itemsize}"
    np.testing.assert_array_equal(np.where(np.isnan(a), 0, a).view(bits), np.where(np.isnan(b), 0, b).view(bits))


def check(src: np.ndarray, dst: np.ndarray, offsets: np.ndarray, weights: np.ndarray, threads: int = 1) -> None:
    expected = np.empty(dst.shape, dst.dtype)
    reference.correlate(src, expected, offsets, weights)
    dst[...] = np.nan
    cpu.correlate(src, dst, offsets, weights, threads)
    assert_same_bits(dst, expected)


SHAPES = [(1,), (7,), (301,), (1, 1), (5, 37), (130, 3), (3, 4, 19), (1, 2, 1), (2, 3, 2, 23), (2, 1, 3, 1)]
# Enough work for a team of threads; cut at the first axis, at an inner one, at the last.
LARGE = [(9001,), (1, 9003), (2, 4501), (97, 93), (9001, 1), (2, 1, 4501), (1, 67, 131), (2, 3, 31, 51)]


@pytest.mark.parametrize(("dtype", "weight_dtype"), PAIRS)
def test_cpu_equals_reference(isa: str, dtype: str, weight_dtype: str) -> None:
    rng = np.random.default_rng(1)
    for shape, taps in itertools.product(SHAPES, (0, 1, 2, 5, 60)):
        offsets = rng.integers(0, 4, (taps, len(shape)))
        src = numbers(rng, tuple(n + 3 + d for d, n in enumerate(shape)), dtype)
        check(src, np.empty(shape, dtype), offsets, numbers(rng, taps, weight_dtype))


@pytest.mark.parametrize("threads", [2, 3, 50])
@pytest.mark.parametrize(("dtype", "weight_dtype"), PAIRS)
def test_threads(dtype: str, weight_dtype: str, threads: int) -> None:
    rng = np.random.default_rng(11)
    for shape in LARGE if threads < 50 else LARGE[:4]:
        offsets = rng.integers(0, 4, (4, len(shape)))
        src = numbers(rng, tuple(n + 3 for n in shape), dtype)
        check(src, np.empty(shape, dtype), offsets, numbers(rng, 4, weight_dtype), threads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_row_length_and_alignment(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(2)
    offsets, weights = np.array([[1], [0], [2]]), numbers(rng, 3, dtype)
    src, memory = numbers(rng, 200, dtype), np.empty(200, dtype)
    for n in range(0, 150):
        memory[...] = 7
        check(src[n % 5 : n % 5 + n + 2], memory[n % 17 : n % 17 + n], offsets, weights)
        assert (memory[: n % 17] == 7).all() and (memory[n % 17 + n :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_outer_axes(isa: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    big, out = numbers(rng, (9, 12, 14, 50), dtype), np.full((8, 9, 10, 44), 7, dtype)
    offsets = np.array(list(itertools.product(range(2), range(3), range(1), range(3))))
    weights = numbers(rng, len(offsets), dtype)
    src, dst = big[::2, ::-1, ::3, 1:], out[1:8:2, ::-1, 1::2, 3:40]
    check(src, dst[:, :6], offsets, weights, 2)
    check(
        src.transpose(2, 0, 1, 3)[:4],
        dst.transpose(2, 0, 1, 3)[:3, :2, :7],
        offsets[:, [2, 0, 1, 3]],
        weights,
    )
    out[1:8:2, ::-1, 1::2, 3:40] = 7
    assert (out == 7).all()  # nothing beside the view was touched
    check(np.broadcast_to(big[0, 0, 0], (6, 50)), np.empty((5, 48), dtype), offsets[:, [0, 3]], weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40,), (9, 31), (6, 7, 8), (4, 5, 4, 6)])
def test_against_scipy_signal(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    src, kernel = numbers(rng, shape, dtype), numbers(rng, (3, 2, 4, 3)[: len(shape)], dtype)
    offsets = np.array(list(np.ndindex(kernel.shape)))
    # scipy.signal conjugates the second operand.
    expected = scipy.signal.correlate(src, kernel.conj(), mode="valid", method="direct")
    tolerance = 1e-5 if dtype in ("f4", "c8") else 1e-12
    for room in (cpu, reference):
        dst = np.empty(expected.shape, dtype)
        room.correlate(src, dst, offsets, kernel.ravel())
        np.testing.assert_allclose(dst, expected, rtol=tolerance, atol=tolerance * 10)


CODES = ("wrap", "constant", "nearest", "reflect", "mirror")
PAD = {"constant": "constant", "nearest": "edge", "reflect": "symmetric", "mirror": "reflect"}


def one_step(
    whole: np.ndarray, offsets: np.ndarray, weights: np.ndarray, modes: list[str], cval: complex
) -> np.ndarray:
    """A step of the whole array, padded by NumPy one cell at a time, which takes any depth on any length."""
    deep = [int(max(-offsets[:, d].min(initial=0), offsets[:, d].max(initial=0))) for d in range(whole.ndim)]
    padded = whole
    for d, mode in enumerate(modes):
        index = np.arange(whole.shape[d])
        if mode == "wrap":
            index = np.arange(-deep[d], whole.shape[d] + deep[d]) % whole.shape[d]
        elif mode != "constant":
            index = np.pad(index, deep[d], PAD[mode])
        padded = padded.take(index, axis=d)
        if mode == "constant":
            width = [(deep[d],) * 2 if e == d else (0, 0) for e in range(whole.ndim)]
            padded = np.pad(padded, width, constant_values=cval if np.iscomplexobj(whole) else cval.real)
    out = np.empty_like(whole)
    reference.correlate(padded, out, offsets + deep, weights)
    return out


def fused_case(rng: np.random.Generator) -> dict[str, Any]:
    """A random block of a random array with a deep halo: what `advance` is given, and what it should give."""
    ndim, dtype = int(rng.integers(1, 5)), str(rng.choice(DTYPES))
    shape = tuple(int(n) for n in rng.integers(1, {1: 300, 2: 40, 3: 20, 4: 7}[ndim] + 1, ndim))
    if rng.random() < 0.5 and ndim < 4:
        shape = (*shape[:-1], int(rng.integers(8, 80)))
    steps, kind = int(rng.choice([1, 2, 3, 4, 8])), rng.choice(["star", "box", "any"])
    if kind == "any":
        reach = int(rng.integers(-3, 1)), int(rng.integers(0, 4))
        offsets = rng.integers(reach[0], reach[1] + 1, (int(rng.integers(0, 8)), ndim))
    else:
        r = int(rng.integers(1, 5 if ndim < 3 else 4 if ndim < 4 else 2))
        offsets = np.array(list(itertools.product(range(-r, r + 1), repeat=ndim)))
        if kind == "star":
            offsets = offsets[np.count_nonzero(offsets, axis=1) <= 1]
    weights = numbers(rng, len(offsets), dtype if rng.random() < 0.5 else {"c8": "f4", "c16": "f8"}.get(dtype, dtype))
    weights /= np.array(max(1, len(offsets)), weights.real.dtype)
    modes, cval = [str(m) for m in rng.choice(CODES, ndim)], 1.5 - 2j
    width = [(max(0, -int(o.min(initial=0))), max(0, int(o.max(initial=0)))) for o in offsets.T]
    width = [(max(w),) * 2 if m in ("reflect", "mirror") else w for w, m in zip(width, modes, strict=True)]
    whole, real = numbers(rng, shape, dtype), DTYPES[DTYPES.index(dtype) % 2]
    field = numbers(rng, shape, real) if rng.random() < 0.5 else None
    previous = numbers(rng, shape, dtype) if rng.random() < 0.5 else None
    expected, kept = whole, previous
    for _ in range(steps):
        new = one_step(expected, offsets, weights, modes, cval)
        if field is not None:  # component by component: NumPy's complex products would add zeros
            new = (new.view(real).reshape(*shape, -1) * field[..., None]).view(dtype).reshape(shape)
        if kept is not None:
            new = expected + expected - kept + new
        elif field is not None:
            new = expected + new
        expected, kept = new, None if kept is None else expected
    part = [sorted(rng.choice(n + 1, 2, replace=False)) if rng.random() < 0.3 else (0, n) for n in shape]
    deep = [(steps * a + int(rng.integers(0, 2)), steps * b + int(rng.integers(0, 3))) for a, b in width]
    start = [int(lo) - a for (lo, _), (a, _) in zip(part, deep, strict=True)]
    # What an exchange of halos would bring: the array's own cells, and periodic ones.
    there, here = [], []
    lengths = [hi - lo + a + b for (lo, hi), (a, b) in zip(part, deep, strict=True)]
    for n, s, length, mode in zip(shape, start, lengths, modes, strict=True):
        cells = np.arange(s, s + length)
        known = (cells >= 0) & (cells < n) | (mode == "wrap")
        there.append(np.flatnonzero(known))
        here.append(cells[known] % n)

    def block(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        padded = np.full(lengths, np.nan, array.dtype)
        padded[np.ix_(*there)] = array[np.ix_(*here)]
        return padded

    inner = tuple(slice(lo, hi) for lo, hi in part)
    return {
        "arguments": {
            "src": block(whole),
            "field": block(field),
            "previous": block(previous),
            "offsets": offsets,
            "weights": weights,
            "steps": steps,
            "box": [(int(lo) - s, int(hi) - s) for (lo, hi), s in zip(part, start, strict=True)],
            "edges": [(-s, n - s) for n, s in zip(shape, start, strict=True)],
            "modes": modes,
            "cval": cval if dtype[0] == "c" else cval.real,
        },
        "expected": expected[inner],
        "kept": kept[inner] if kept is not None and steps > 1 else None,
    }


@pytest.mark.parametrize("room", [cpu, reference], ids=["cpu", "reference"])
def test_fused_steps_are_single_steps(isa: str, room: Any) -> None:
    """Every mode on every axis, any taps, tiles, threads and blocks of the array: the bits of one step at a time."""
    rng = np.random.default_rng(12)
    for _ in range(250):
        case = fused_case(rng)
        expected = case["expected"]
        memory = np.full([n + 2 for n in expected.shape], 7, expected.dtype)
        dst = memory[(slice(1, -1),) * memory.ndim]
        kept = None if case["kept"] is None else np.full_like(expected, 7)
        tile = [int(n) for n in (*rng.integers(0, 12, expected.ndim - 1), rng.choice([0, 5, 16, 33]))]
        tile = tile if rng.random() < 0.5 else []
        room.advance(dst=dst, threads=int(rng.integers(1, 4)), tile=tile, kept=kept, **case["arguments"])
        assert_same_bits(dst, expected)
        if kept is not None:
            assert_same_bits(kept, case["kept"])
        dst[...] = 7
        assert (memory == 7).all()  # nothing beside the view was touched


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_known_shapes(isa: str, ndim: int) -> None:
    """Stars and boxes of every radius that kernels know, and the same taps in another order, which they do not know."""
    rng = np.random.default_rng(13)
    for radius, box, dtype in itertools.product(range(1, 5), (False, True), ("f4", "f8")):
        offsets = np.array(list(itertools.product(range(-radius, radius + 1), repeat=ndim)))
        offsets = offsets if box else offsets[np.count_nonzero(offsets, axis=1) <= 1]
        weights, steps = numbers(rng, len(offsets), dtype) / len(offsets), int(rng.integers(1, 3))
        shape = (*rng.integers(1, 14, ndim - 1), int(rng.integers(8, 300 // ndim)))
        start = [int(a) for a in steps * radius + rng.integers(0, 3, ndim)]
        src = numbers(rng, tuple(n + 2 * a for n, a in zip(shape, start, strict=True)), dtype)
        given = {
            "src": src,
            "steps": steps,
            "box": [(a, a + int(n)) for n, a in zip(shape, start, strict=True)],
            "edges": [(a, a + int(n)) for n, a in zip(shape, start, strict=True)],
            "modes": [str(m) for m in rng.choice(CODES, ndim)],
        }
        for order in (slice(None), slice(None, None, -1)):
            results = np.full((2, *shape), np.nan, dtype)
            for room, dst in zip((cpu, reference), results, strict=True):
                room.advance(dst=dst, offsets=offsets[order], weights=weights[order], **given)
            assert_same_bits(*results)


def weights_alike(offsets: np.ndarray, dtype: str) -> Iterator[np.ndarray]:
    """Of boxes all weights, of stars all but the centre's: the same, or one differs by as little as can be."""
    for centre, other in ((0.4, 0.1), (1 / 7, 1 / 7), (-0.0, 0.0), (0.0, -0.0), (1, np.nan), (np.inf, 1)):
        weights = np.where((offsets == 0).all(1), centre, other).astype(dtype)
        yield weights
        for odd in (0, len(weights) // 2 + 1, len(weights) - 1):
            changed = weights.copy()
            changed[odd] = (
                -0.0 if other == 0 and not np.signbit(other) else np.nextafter(weights[odd], np.array(2, dtype))
            )
            yield changed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(301,), (10, 150), (6, 3, 75)])
def test_equal_weights(isa: str, shape: tuple[int, ...], dtype: str) -> None:
    """Kernels that share products give the bits of those that do not, and only weights that are equal are taken so."""
    rng = np.random.default_rng(14)
    real = DTYPES[DTYPES.index(dtype) % 2]
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    special = np.array([0.0, -0.0, tiny, -3 * tiny, huge, -huge, np.inf, -np.inf, np.nan], real)
    for radius, box in itertools.product((1, 2), (False, True)):
        offsets = np.array(list(itertools.product(range(-radius, radius + 1), repeat=len(shape))))
        offsets = offsets if box else offsets[np.count_nonzero(offsets, axis=1) <= 1]
        plain = numbers(rng, tuple(n + 2 * radius for n in shape), dtype)
        negative, mixed = -abs(plain.view(real)).view(dtype), plain.copy()
        values = mixed.view(real).reshape(-1)
        values[rng.integers(0, values.size, values.size // 20)] = rng.choice(special, values.size // 20)
        inner = tuple(n - 2 * radius for n in shape)
        ends = {"box": [(2 * radius, n) for n in shape], "edges": [(0, n + 2 * radius) for n in shape]}
        for src, weights in itertools.product((plain, negative, mixed), weights_alike(offsets, real)):
            check(src, np.empty(shape, dtype), offsets + radius, weights)
            if min(inner) > 0:  # planes share products in fused steps only
                results = np.empty((2, *inner), dtype)
                for room, dst in zip((cpu, reference), results, strict=True):
                    room.advance(src, dst, offsets, weights, 2, modes=["wrap"] * len(shape), **ends)
                assert_same_bits(*results)


def test_bad_arguments_of_advance() -> None:
    src, w = np.ones((9, 8)), np.ones(1)
    good = {"src": src, "dst": np.ones((5, 4)), "offsets": [[0, 1]], "weights": w, "steps": 2}
    good |= {"box": [(2, 7), (2, 6)], "edges": [(0, 9), (0, 8)], "modes": ["wrap", "wrap"]}
    cpu.advance(**good)
    for bad, text in [
        ({"steps": 0}, "steps must be 1 to 1024, got 0"),
        ({"steps": 3}, "cells 2 to 9 are read on axis 1 of 8"),
        ({"box": [(2, 7)]}, "as many entries"),
        ({"box": [(2, 10), (2, 6)]}, "box 2 to 10 does not lie in the 9 cells of axis 0"),
        ({"box": [(2, 6), (2, 6)]}, "box has 4 cells on axis 0, dst has 5"),
        ({"modes": ["reflect", "wrap"], "edges": [(3, 9), (0, 8)]}, "reaches beyond the edges 3, 9 on axis 0"),
        ({"modes": ["wrap", "mirror"], "steps": 4}, "cells -1 to 9 are read on axis 1 of 8"),
        ({"tile": [1, -1]}, "tile of -1 cells on axis 1"),
        ({"dst": src[2:7, 2:6]}, "overlap in memory"),
        ({"field": np.ones((9, 7))}, "field has 7 cells on axis 1, src has 8"),
        ({"previous": np.ones((9, 8))}, "kept is missing: 2 step.s. with previous need it"),
        ({"kept": np.ones((5, 4))}, "kept is given: 2 step.s. without previous have no use for it"),
        ({"previous": src, "kept": np.ones((5, 4))}, "previous and src overlap in memory"),
        ({"previous": np.ones((9, 8)), "kept": np.ones((4, 4))}, "kept has 4 cells on axis 0, dst has 5"),
    ]:
        with pytest.raises(ValueError, match=text):
            cpu.advance(**good | bad)
    with pytest.raises(TypeError, match="field is float32, src is float64"):
        cpu.advance(**good | {"field": np.ones((9, 8), "f4")})
    with pytest.raises(ValueError, match="read-only"):
        src.flags.writeable = False
        cpu.advance(**good)


def test_against_exact_sums() -> None:
    rng = np.random.default_rng(5)
    src, offsets, weights = numbers(rng, (7, 9), "f8"), rng.integers(0, 3, (11, 2)), numbers(rng, 11, "f8")
    dst = np.empty((5, 7))
    cpu.correlate(src, dst, offsets, weights)
    for i, j in np.ndindex(dst.shape):
        exact = math.fsum(w * src[i + a, j + b] for w, (a, b) in zip(weights, offsets, strict=True))
        assert abs(dst[i, j] - exact) < 1e-14


def test_large_result_streams(isa: str) -> None:
    # 17 MiB of result: beyond half of any last-level cache that is taken into account; rows not aligned.
    rng = np.random.default_rng(6)
    src = numbers(rng, (1502, 1503), "f8")
    offsets = np.array([[0, 1], [1, 0], [1, 1], [1, 2], [2, 1]])
    weights = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    dst = np.empty((1500, 1501))
    cpu.correlate(src, dst, offsets, weights, 2)
    np.testing.assert_allclose(
        dst[::100],
        scipy.ndimage.correlate(src, [[0, 0.1, 0], [0.2, 0.3, 0.15], [0, 0.25, 0]])[1:-1, 1:-1][::100],
        rtol=1e-12,
        atol=1e-12,
    )
    assert_same_bits(dst, slices(src, offsets, weights, dst.shape))


@pytest.mark.parametrize("shape", [(3, 3, 600_000), (2, 1600, 1000), (5, 200_000)])
def test_tiles(shape: tuple[int, ...]) -> None:
    # Rows and planes that outgrow the caches are swept in tiles.
    rng = np.random.default_rng(7)
    offsets = np.array(list(np.ndindex((2,) * len(shape))))
    src, dst = numbers(rng, tuple(n + 1 for n in shape), "f4"), np.empty(shape, "f4")
    weights = numbers(rng, len(offsets), "f4")
    for threads in (1, 2):
        dst[...] = np.nan
        cpu.correlate(src, dst, offsets, weights, threads)
        assert_same_bits(dst, slices(src, offsets, weights, shape))


def slices(src: np.ndarray, offsets: np.ndarray, weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    dst = np.empty(shape, src.dtype)
    reference.correlate(src, dst, offsets, weights)
    return dst


@pytest.mark.parametrize(("dtype", "weight_dtype"), PAIRS)
def test_special_values(isa: str, dtype: str, weight_dtype: str) -> None:
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    values = np.array([0.0, -0.0, 1.0, -1.0, tiny, -3 * tiny, huge, -huge, np.inf, -np.inf, np.nan])
    rng = np.random.default_rng(8)
    src = rng.choice(values, (13, 90)).astype(dtype)
    if dtype[0] == "c":
        src.imag = rng.choice(values, src.shape)
    weights = np.array([1, 0.5, -2, 0, -0.0], weight_dtype)
    if weight_dtype[0] == "c":
        weights.imag = [0, -1, 0.5, -0.0, 3]
    offsets = np.array([[0, 0], [1, 1], [0, 2], [2, 0], [1, 3]])
    for taps in range(1, 6):
        check(src, np.empty((11, 87), dtype), offsets[:taps], weights[:taps])


def test_no_taps_and_empty_results() -> None:
    dst = np.full((3, 4), np.nan)
    for room in (cpu, reference):
        dst[...] = np.nan
        room.correlate(np.ones((3, 4)), dst, np.empty((0, 2), np.int64), np.empty(0))
        assert (dst == 0).all() and not np.signbit(dst).any()
        dst[...] = np.nan
        room.correlate(np.ones((3, 4)), dst, [], [])
        assert (dst == 0).all()
        room.correlate(np.ones((2, 4)), np.empty((0, 4)), [[2, 0]], [1.0])
    check(np.ones((3, 4)), dst, np.array([[0, 0]], np.uint8), np.ones(1))


def test_source_may_be_read_only() -> None:
    src = np.arange(5.0)
    src.flags.writeable = False
    check(src, np.empty(4), np.array([[0], [1]]), np.array([1.0, 2.0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_copy(isa: str, dtype: str) -> None:
    src = numbers(np.random.default_rng(9), (5, 6, 6001), dtype)[1:, ::2, 3:]
    for threads in (1, 2, 3):
        dst = np.full((4, 4, 6000), 7, dtype)
        _core.copy(src, dst[:, :3, :5998], threads)
        assert_same_bits(dst[:, :3, :5998], src)
        assert (dst[:, 3] == 7).all() and (dst[..., 5998:] == 7).all()


def _bad(call: Callable[..., Any], error: type[Exception], text: str, *args: Any) -> None:
    with pytest.raises(error) as info:
        call(*args)
    assert text in str(info.value)
    assert "\n" not in str(info.value)


def test_bad_arguments_of_correlate() -> None:
    src, dst, offsets, w = np.ones((6, 7)), np.full((4, 5), 3.0), np.array([[0, 0], [2, 2]]), np.ones(2)
    call = cpu.correlate
    _bad(call, ValueError, "src has 6 cells on axis 0, dst of 4 cells", src, dst, [[0, 0], [3, 0]], w)
    _bad(call, ValueError, "src has 7 cells on axis 1, dst of 5 cells", src, dst, [[0, 0], [0, 2**63 - 1]], w)
    _bad(call, ValueError, "src has 3 cells on axis 0, dst of 4 cells", src[:3], dst, [], [])
    _bad(call, ValueError, "offset of tap 1 on axis 0 is -1, it must be >= 0", src, dst, [[0, 0], [-1, 0]], w)
    _bad(call, ValueError, "offsets has 1 columns, src has 2 axes", src, dst, [[0], [1]], w)
    _bad(call, ValueError, "offsets has 1 axes, it must have 2", src, dst, [0, 1], w)
    _bad(call, ValueError, "offsets has 2 rows, weights has 3 entries", src, dst, offsets, np.ones(3))
    _bad(call, TypeError, "offsets is float64", src, dst, [[0.0, 1.0], [0.0, 0.0]], w)
    _bad(_core.correlate, TypeError, "offsets is float64, it must be int64", src, dst, offsets * 1.0, w, 1)
    _bad(call, ValueError, "weights has 2 axes, it must have 1", src, dst, offsets, np.ones((1, 2)))
    _bad(call, TypeError, "weights is float32, src is float64", src, dst, offsets, w.astype("f4"))
    _bad(call, TypeError, "weights is complex128, src is float64", src, dst, offsets, w + 0j)
    _bad(call, TypeError, "weights is float32, src is complex128", src + 0j, dst + 0j, offsets, w.astype("f4"))
    _bad(call, TypeError, "src is float64, dst is float32", src, dst.astype("f4"), offsets, w)
    _bad(call, TypeError, "src is int64", src.astype(int), dst.astype(int), offsets, w)
    _bad(call, TypeError, "src is format '>d'", src.astype(">f8"), dst, offsets, w)
    _bad(call, TypeError, "src is format", src.astype("f2"), dst.astype("f2"), offsets, w)
    _bad(_core.correlate, TypeError, "dst is not an array", src, [1.0], offsets, w)
    _bad(call, ValueError, "src has 2 axes, dst has 1", src, dst[0], offsets, w)
    _bad(call, ValueError, "dst has 5 axes, 1 to 4", src, np.ones((1,) * 5), offsets, w)
    _bad(_core.correlate, ValueError, "src has 0 axes, 1 to 4", np.ones(()), dst, offsets, w)
    wide = np.ones((6, 14))[:, ::2]
    _bad(call, ValueError, "src has a stride of 16 bytes on its last axis, it needs 8", wide, dst, offsets, w)
    _bad(call, ValueError, "dst has a stride of -8 bytes on its last axis", src, dst[:, ::-1], offsets, w)
    memory = np.zeros(200, "u1")[1:161].view("f8").reshape(4, 5)
    _bad(call, ValueError, "dst is not aligned to 8 bytes", src, memory, offsets, w)
    _bad(call, ValueError, "src and dst overlap in memory", src, src[:4, :5], offsets, w)
    _bad(call, ValueError, "src and dst overlap in memory", src[::-1], src[:4, :5], offsets, w)
    locked = dst.copy()
    locked.flags.writeable = False
    _bad(call, ValueError, "dst is read-only", src, locked, offsets, w)
    repeated = np.lib.stride_tricks.as_strided(np.zeros(5), (4, 5), (0, 8))
    _bad(call, ValueError, "dst has stride 0 on axis 0 of length 4", src, repeated, offsets, w)
    for threads in (0, -1, 1025):
        _bad(call, ValueError, f"threads must be 1 to 1024, got {threads}", src, dst, offsets, w, threads)
    assert (dst == 3).all()


def test_bad_arguments_of_the_others() -> None:
    a = np.ones((3, 4))
    _bad(_core.copy, ValueError, "src has 4 cells on axis 1, dst has 5", a, np.ones((3, 5)))
    _bad(_core.copy, TypeError, "src is float64, dst is float32", a, a.astype("f4"))
    _bad(_core.copy, ValueError, "threads must be 1 to 1024, got 0", a, a + 1, 0)
    _bad(_core.use_isa, ValueError, "'mmx' is not one of baseline", "mmx")
    _bad(
        cpu.checksum,
        ValueError,
        "block of 4 cells at 1 on axis 1 does not lie in an array of 4",
        a,
        (0, 1),
        (3, 4),
    )
    _bad(cpu.checksum, ValueError, "block of 3 cells at -1 on axis 0", a, (-1, 0), (3, 4))
    _bad(cpu.checksum, ValueError, "array has 2 axes, start has 1 and shape has 2", a, (0,), (3, 4))
    _bad(cpu.checksum, ValueError, "array has 0 axes, 1 to 4", np.ones(()), (), ())
    _bad(cpu.checksum, TypeError, "itemsize of 3 bytes", np.zeros(2, "V3"), (0,), (2,))
    _bad(cpu.checksum, TypeError, "objects have no bits", np.array([None]), (0,), (1,))


def hash_of(index: int, value: bytes) -> int:
    """The definition, in Python's integers."""

    def mix(z: int) -> int:
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        return z ^ z >> 31

    h = mix(index + 0x9E3779B97F4A7C15 & MASK)
    for at in range(0, len(value), 8):
        h = mix(h ^ int.from_bytes(value[at : at + 8], "little"))
    return h


@pytest.mark.parametrize("dtype", CHECKSUMMED)
@pytest.mark.parametrize("shape", [(11,), (3, 5), (2, 3, 4), (2, 1, 3, 2)])
def test_checksum(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(10)
    itemsize = np.dtype(dtype).itemsize
    bits = rng.integers(0, 2 if dtype == "?" else 256, (*shape, itemsize), dtype="u1")
    a = bits.view(dtype)[..., 0]
    expected = sum(hash_of(k, bits[i].tobytes()) for k, i in enumerate(np.ndindex(shape))) & MASK
    start = (0,) * len(shape)
    assert cpu.checksum(a, start, shape) == expected
    assert cpu.checksum(np.asfortranarray(a), start, shape) == expected
    assert cpu.checksum(a[::-1].copy()[::-1], start, shape) == expected
    for axis, cut in ((d, c) for d, n in enumerate(shape) for c in range(n + 1)):
        left, right = np.split(a, [cut], axis)
        at = tuple(cut if d == axis else 0 for d in range(len(shape)))
        assert (cpu.checksum(left, start, shape) + cpu.checksum(right, at, shape)) & MASK == expected


def test_checksum_sees_places_bits_and_large_arrays() -> None:
    a = np.array([0.0, 1.0])
    sums = [cpu.checksum(x, (0,), (2,)) for x in (a, a[::-1], -a, np.array([0.0, 2.0]))]
    assert len(set(sums)) == 4
    shape = (1 << 20, 1 << 20, 1 << 20)  # 2**60 cells
    at = (shape[0] - 1, 5, 7)
    index = (at[0] * shape[1] + at[1]) * shape[2] + at[2]
    assert cpu.checksum(np.ones((1, 1, 1)), at, shape) == hash_of(index, np.float64(1).tobytes())


def test_instruction_sets_and_threads() -> None:
    assert _core.isas()[0] == "baseline"
    assert _core.isa() in _core.isas()
    assert _core.max_threads() >= 1
    assert _core.has_openmp() or _core.max_threads() == 1
