"""The kernels on a real GPU: the bits of the other rooms. Run by ``python -m tests.gpu``, on one rank."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any

import numpy as np
import pytest

from mpihpc import _core
from mpihpc.kernels import cpu, cuda
from mpihpc.kernels.cuda import choice, plan
from programs.test_cuda import SPECIAL, box, special_case, star
from test_kernels import CODES, DTYPES, assert_same_bits, fused_case, numbers

SIZES = {1: (70_000,), 2: (210, 700), 3: (40, 60, 150), 4: (7, 9, 11, 70)}  # many blocks, some of them without edges
ITEMS = {1: "u1", 2: "u2", 4: "f4", 8: "f8", 16: "c16"}


@pytest.fixture(scope="module")
def device():
    from mpihpc.core.gpu import gpu

    return gpu(0)


@pytest.fixture
def cupy(device):
    import cupy

    return cupy


def surrounded(cupy: Any, array: np.ndarray, value: Any) -> tuple[Any, Any]:
    """An array on the GPU in the middle of a larger one, and that."""
    room = cupy.full([n + 2 for n in array.shape], value, array.dtype)
    inner = room[(slice(1, -1),) * array.ndim]
    inner[...] = cupy.asarray(array)
    return inner, room


def advance(cupy: Any, case: dict[str, Any], **more: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """`dst` and `kept` of a case; nothing beside `dst` is touched, and `src` is as before."""
    given = dict(case["arguments"])
    for name in ("src", "field", "previous"):
        if given.get(name) is not None:
            given[name] = surrounded(cupy, given[name], 99)[0]
    dst, room = surrounded(cupy, np.zeros_like(case["expected"]), 7)
    kept = None if case.get("kept") is None else cupy.zeros_like(dst)
    cuda.advance(dst=dst, kept=kept, **given, **more)
    found = cupy.asnumpy(dst)
    dst[...] = 7
    assert bool((room == 7).all())
    assert cupy.asnumpy(given["src"]).tobytes() == np.ascontiguousarray(case["arguments"]["src"]).tobytes()
    return found, None if kept is None else cupy.asnumpy(kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("shape", [star, box])
def test_stars_and_boxes(cupy, shape, ndim, dtype):
    """Every mode on every axis; one step and fused ones; with and without a field and a second level."""
    rng = np.random.default_rng(31)
    real = DTYPES[DTYPES.index(dtype) % 2]
    for turn in range(len(CODES)):
        modes = [CODES[(turn + d) % len(CODES)] for d in range(ndim)]
        offsets = shape(ndim, 2 if turn == 1 and ndim < 3 else 1)
        weights = numbers(rng, len(offsets), dtype if turn % 2 else real) / np.array(len(offsets), real)
        steps = 1 if turn < 2 else max(2, choice.steps_at_once(offsets))
        lengths, start = SIZES[ndim], [int(n) for n in steps * abs(offsets).max() + rng.integers(0, 3, ndim)]
        given = {
            "src": numbers(rng, tuple(n + 2 * a for n, a in zip(lengths, start, strict=True)), dtype),
            "offsets": offsets,
            "weights": weights,
            "steps": steps,
            "box": [(a, a + n) for n, a in zip(lengths, start, strict=True)],
            "edges": [(a, a + n) for n, a in zip(lengths, start, strict=True)],
            "modes": modes,
            "cval": 1.5,
        }
        if turn in (1, 3):
            given["field"] = numbers(rng, given["src"].shape, real) / 8
        expected, kept = np.empty(lengths, dtype), None
        if turn in (1, 4):
            given["previous"] = numbers(rng, given["src"].shape, dtype)
            kept = np.empty(lengths, dtype) if steps > 1 else None
        cpu.advance(dst=expected, kept=kept, threads=4, **given)
        found = advance(cupy, {"arguments": given, "expected": expected, "kept": kept})
        assert_same_bits(found[0], expected)
        if kept is not None:
            assert_same_bits(found[1], kept)


@pytest.mark.parametrize("seed", range(12))
def test_random_cases(cupy, seed, monkeypatch):
    """Any taps, modes, tiles and blocks: the bits of single steps of the whole array in NumPy."""
    rng = np.random.default_rng(100 + seed)
    if seed % 4 == 0:  # as if cells lay further apart than 32 bits count
        monkeypatch.setattr(plan, "_NARROW", 0)
        monkeypatch.setattr(plan, "_launches", plan._launches.__wrapped__)
    for _ in range(6):
        case = fused_case(rng)
        tile = [int(n) for n in (*rng.integers(0, 12, case["expected"].ndim - 1), rng.choice([0, 5, 16, 33]))]
        found, kept = advance(cupy, case, tile=tile if rng.random() < 0.5 else ())
        assert_same_bits(found, case["expected"])
        if kept is not None:
            assert_same_bits(kept, case["kept"])


@pytest.mark.parametrize("dtype, imaginary", SPECIAL)
def test_special_numbers(cupy, dtype, imaginary):
    """Zeros of both signs, the smallest and the largest numbers, infinities and NaNs."""
    case = special_case(np.random.default_rng(5), dtype, imaginary)
    assert_same_bits(advance(cupy, case)[0], case["expected"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ndim, shape", [(2, star), (2, box), (3, box)])
def test_fast_mode(cupy, ndim, shape, dtype):
    """Without `strict`, within the bound of the module's docstring."""
    rng = np.random.default_rng(6)
    offsets = shape(ndim, 2)
    weights = numbers(rng, len(offsets), "f8").astype(DTYPES[DTYPES.index(dtype) % 2])
    src = numbers(rng, SIZES[ndim], dtype)
    expected = np.empty([n - 4 for n in src.shape], dtype)
    taps = offsets + 2
    cpu.correlate(src, expected, taps, weights)
    dst = cupy.zeros(expected.shape, dtype)
    cuda.correlate(cupy.asarray(src), dst, taps, weights, strict=False)
    eps = np.finfo(weights.dtype).eps / 2
    largest = max(abs(src.real).max(), abs(src.imag).max())
    bound = 2 * len(taps) * eps * abs(weights.astype(float)).sum() * largest
    difference = cupy.asnumpy(dst).astype(complex) - expected
    assert max(abs(difference.real).max(), abs(difference.imag).max()) <= bound
    cuda.correlate(cupy.asarray(src), dst, taps, weights)  # strict again, after the other
    assert_same_bits(cupy.asnumpy(dst), expected)


@pytest.mark.parametrize("ndim", SIZES)
@pytest.mark.parametrize("size", ITEMS)
def test_boxes(cupy, size, ndim):
    """All boxes of an exchange go into one buffer and back, and to other places; what lies between them stays."""
    rng = np.random.default_rng(2)
    dtype, shape = np.dtype(ITEMS[size]), [int(n) + 1 for n in rng.integers(1, 40 if ndim < 4 else 9, ndim)]
    bits = rng.integers(0, 256, (*shape, size), np.uint8)
    whole = bits.view(dtype)[..., 0]
    ends = [np.sort(rng.integers(0, n + 1, (26, 2)), axis=1).tolist() for n in shape]
    boxes = [[(lo, hi) for lo, hi in corner] for corner in zip(*ends, strict=True)]
    where = [tuple(slice(lo, hi) for lo, hi in each) for each in boxes]
    expected = b"".join(np.ascontiguousarray(whole[each]).tobytes() for each in where)
    array = surrounded(cupy, whole, 0)[0]
    if ndim > 1:  # rows the other way round
        array = surrounded(cupy, np.ascontiguousarray(whole[:, ::-1]), 0)[0][:, ::-1]
    mover = cuda.Boxes(boxes, ndim, dtype)
    buffer = cupy.zeros(len(expected) + 5, cupy.uint8)
    for _ in range(2):
        mover.pack(array, buffer)
    assert cupy.asnumpy(buffer).tobytes() == expected + bytes(5)
    target, wanted = cupy.zeros(shape, dtype), np.zeros(shape, dtype)
    mover.unpack(buffer, target)
    for each in where:
        wanted[each] = whole[each]
    assert cupy.asnumpy(target).tobytes() == wanted.tobytes()
    # To the end of an array whose axes run the other way: one box, for several would overlap.
    moved = [(n + 3 - (hi - lo), n + 3) for (lo, hi), n in zip(boxes[0], shape, strict=True)]
    room = cupy.zeros([n + 3 for n in reversed(shape)], dtype).transpose()
    cuda.Boxes(boxes[:1], ndim, dtype).copy(array, cuda.Boxes([moved], ndim, dtype), room)
    wanted = np.zeros(room.shape, dtype)
    wanted[tuple(slice(lo, hi) for lo, hi in moved)] = whole[where[0]]
    assert cupy.asnumpy(room).tobytes() == wanted.tobytes()


def test_refusals(cupy):
    """Nothing is launched with what lies elsewhere, or in the way."""
    src, dst, w = cupy.zeros((9, 8)), cupy.ones((5, 4)), np.ones(1)
    given = {"offsets": [[0, 1]], "weights": w, "steps": 2, "box": [(2, 7), (2, 6)], "edges": [(0, 9), (0, 8)]}
    given["modes"] = ["wrap", "wrap"]
    with pytest.raises(TypeError, match=r"dst is numpy.ndarray, it must be cupy.ndarray"):
        cuda.advance(src, np.ones((5, 4)), **given)
    with pytest.raises(ValueError, match="overlap in memory"):
        cuda.advance(src, src[2:7, 2:6], **given)
    assert bool((dst == 1).all())
    cuda.advance(src, dst, **given)
    assert bool((dst == 0).all())


def test_current_stream(cupy):
    """Kernels start on CuPy's current stream, between what is begun there before and after."""
    src, offsets, weights = np.random.default_rng(7).standard_normal((2000, 2000)), box(2, 1) + 1, np.ones(9)
    expected = np.empty((1998, 1998))
    cpu.correlate(src, expected, offsets, weights)
    cpu.correlate(2 * src, doubled := np.empty_like(expected), offsets, weights)
    there, dst = cupy.asarray(src), cupy.empty((1998, 1998))
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(20):
            there *= 2
            there /= 2
        there *= 2
        cuda.correlate(there, dst, offsets, weights)
        result = dst.copy()
        dst.fill(0)
    stream.synchronize()
    assert_same_bits(cupy.asnumpy(result), doubled)


def test_lanes(device, cupy):
    """What follows lanes finds what was done in them; what is urgent does not wait for what is not."""
    x, y = cupy.zeros(1 << 26), cupy.zeros(1 << 10)
    for _ in range(2):  # the first time compiles
        x.fill(0)
        with device.lane(urgent=True):
            y += 1
            with device.lane(urgent=False):
                for _ in range(100):
                    x += 1
                background = cupy.cuda.get_current_stream().record()
            y += 1
            begin = time.perf_counter()
            device.wait()
            waited, through = time.perf_counter() - begin, background.done
        total = float(x.sum())
    assert total == 100 * x.size and float(y.sum()) == 4 * y.size
    assert not through, f"waited {waited:.6f} s for another lane"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sums(cupy, dtype):
    """The bits of the CPU: of few columns and many, lines, a block within a halo; of ordinary numbers and of others."""
    rng = np.random.default_rng(9)
    for shape, axes in (((3_000_000,), (0,)), ((300, 70_000), (0,)), ((70_000, 300), (1,)), ((90, 80, 70), (0, 2))):
        kept = [d for d in range(len(shape)) if d not in axes]
        for spread in (0, 26):  # the tails of a Gaussian are very small
            tail = np.exp(-(np.linspace(0, spread, shape[-1] + 2) ** 2))
            room = (rng.standard_normal([n + 2 for n in shape]) * tail).astype(dtype)
            if spread:
                room[tuple(n // 2 for n in shape)] = np.nan
            here, there = (a[(slice(1, -1),) * len(shape)].transpose(*axes, *kept) for a in (room, cupy.asarray(room)))
            for products in (False, True):
                wanted, found = np.empty((2, 1, math.prod(here.shape[len(axes) :])))
                _core.sum_columns(here, len(axes), wanted, False, here if products else None)
                cuda.sum_columns(there, len(axes), found, False, there if products else None)
                assert wanted.tobytes() == found.tobytes()
            states = np.zeros((2, _core.SUM_WORDS), np.int64)
            for _ in range(2):
                _core.sum_add(here, states[0])
                cuda.sum_add(there, states[1])
            np.testing.assert_equal(*map(_core.sum_round, states))


@pytest.mark.parametrize("transport", ["direct", "staged"])
def test_mail(device, cupy, transport):
    """What was posted is there after `wait`; what was fetched stays, though its mail is given to others."""
    from mpihpc.core.gpu import Gpu
    from mpihpc.core.tally import copied

    other, nbytes, before = Gpu(device.number, transport), 1 << 22, (copied.to_host, copied.to_device)
    rows = []
    for k in range(30):
        here, mail = other.mailbox(nbytes)
        if transport == "staged":
            mail[...] = k
        else:
            mail.fill(k)
        other.fetch(mail, here)
        rows.append(here)
        del mail
    assert [int(row.min()) for row in rows] == [int(row.max()) for row in rows] == list(range(30))
    out = []
    for row in rows:
        here, mail = other.mailbox(nbytes)
        here[...] = row + 1
        other.post(here, mail)
        out += [mail, other.outgoing(here)]
    other.wait()
    ends = [int(mail[0]) + int(mail[-1]) for mail in out]
    assert ends == [2 * (k + 1) for k in range(30) for _ in range(2)]
    moved = copied.to_host - before[0], copied.to_device - before[1]
    assert moved == ((60 * nbytes, 30 * nbytes) if transport == "staged" else (0, 0))


def test_every_launch_has_its_own_numbers(cupy):
    """Geometries are kept and used again: launches that follow each other at once do not get into each other's way."""
    rng = np.random.default_rng(8)
    src, offsets, weights = rng.standard_normal((300, 400)), star(2, 1), np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    there = cupy.asarray(src)
    boxes = [[(a, a + 40 + b), (b + 1, 300 + a)] for a, b in itertools.product((1, 50, 99), (0, 7, 33))]
    given = {"offsets": offsets, "weights": weights, "steps": 1, "edges": [(0, 300), (0, 400)], "modes": ["wrap"] * 2}
    for _ in range(3):
        outs = [cupy.zeros([hi - lo for lo, hi in each]) for each in boxes]
        for each, out in zip(boxes, outs, strict=True):
            cuda.advance(there, out, box=each, **given)
        for each, out in zip(boxes, outs, strict=True):
            expected = np.empty(out.shape)
            cpu.advance(src, expected, box=each, **given)
            assert_same_bits(cupy.asnumpy(out), expected)
