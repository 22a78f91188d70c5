"""Floats of two bytes: float16, and bfloat16 of ml_dtypes, which NumPy itself does not know."""

import itertools
import math
import operator
from fractions import Fraction

import numpy as np
import pytest
from mpi4py import MPI

import mpihpc
from mpihpc import DistArray, _core
from mpihpc.array import exact_sums
from mpihpc.core.dtypes import is_bfloat16, number_dtype
from mpihpc.linalg import error_bound, gram, matmul

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# Of each dtype: bits of the mantissa, exponents of the least number and of what is too large.
FLOATS = {BFLOAT16: (8, -133, 128), np.dtype("f2"): (11, -24, 16), np.dtype("f4"): (24, -149, 128)}
NARROW = list(FLOATS)[:2]


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def whole(x):
    return x.gather(None) if isinstance(x, DistArray) else np.asarray(x)


def same(got, want):
    """Equal in dtype, shape and bits."""
    got, want = whole(got), np.asarray(want)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == want.tobytes()


def nearest(total, dtype):
    """An exact number rounded to the nearest of a dtype, ties to even, by integers alone."""
    digits, least, beyond = FLOATS[dtype]
    size = abs(total)
    exponent = size.numerator.bit_length() - size.denominator.bit_length() if size else least
    exponent -= size < Fraction(2) ** exponent
    place = Fraction(2) ** max(exponent - digits + 1, least)
    found = round(total / place) * place
    return float(found) if abs(found) < Fraction(2) ** beyond else math.copysign(math.inf, total)


def sums(dtype):
    """Numbers whose sums are at ties of a dtype or beside them, far beyond the bits of a float64."""
    digits, least, _ = FLOATS[dtype]
    rng = np.random.default_rng(3)
    tie, tiny = 2.0**-digits, 2.0 ** max(least, -100)
    cases = [[1, tie], [1, tie, tiny], [1, tie, -tiny], [1, 3 * tie], [1, 3 * tie, -tiny], [-1, -tie, -tiny]]
    cases += [[2.0**least] * 3, [2.0**least, tie], [1, -1, tiny], [0.0], [2.0**15, 2.0**15, -1]]
    cases += [list(np.ldexp(rng.standard_normal(40), rng.integers(-12, 12, 40))) for _ in range(9)]
    return [np.array(case).astype(dtype) for case in cases]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sums_are_the_nearest_numbers(comm, dtype):
    cases = sums(dtype)
    lines = np.zeros((600, len(cases)), dtype)
    for line, case in zip(lines.T, cases, strict=True):
        line[: len(case)] = case
    want = np.array([nearest(sum(map(Fraction, case.astype(float).tolist())), dtype) for case in cases]).astype(dtype)
    one = dtype.type(1)
    for dims in grids(comm.size, 2):  # along axes that are cut, or not, and long or short in memory
        for rows in (40, 600):
            a, b = (mpihpc.asarray(x, comm=comm, dims=dims) for x in (lines[:rows], lines[:rows].T))
            for got in (a.sum(0), b.sum(1), mpihpc.vecdot(a, lines[:rows] * 0 + one, axis=0)):
                same(got, want)
            same(a.astype(float).sum(0, dtype), want)
    for line, total in list(zip(lines.T, want, strict=True))[:12]:
        a = mpihpc.asarray(line, comm=comm)
        same(a.sum(), total)
        same(a.dot(line * 0 + one), total)


def test_rounding_to_odd_and_then_to_nearest_is_rounding_once():
    numbers = [0.0, 1, 1 + 2.0**-8, 1 + 2.0**-24, 3.4e38, 2.0**-133, 2.0**-134, 65519.9, 1e-50]
    for number, tiny, sign in itertools.product(numbers, (0, 2.0**-300, -(2.0**-300)), (1, -1)):
        x = sign * np.array([number, tiny], float)
        state = np.zeros(_core.SUM_WORDS, np.int64)
        _core.sum_add(x, state)
        out = np.empty((1, 1))
        _core.sum_columns(x[:, None], 1, out, True)
        total = sum(map(Fraction, x.tolist()))
        assert out[0, 0] == _core.sum_round(state, True)
        if total != Fraction(float(total)):
            assert out.view(np.int64)[0, 0] % 2 == 1
        for dtype in FLOATS:
            with np.errstate(over="ignore"):
                assert float(exact_sums.narrowed(out[0], dtype)[0]) == nearest(total, dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_arrays_are_made_moved_and_converted(comm, dtype):
    x = np.random.default_rng(1).standard_normal((7, 5)).astype(dtype)
    root = comm.size - 1
    for dims in grids(comm.size, 2):
        for given in (x, x if comm.rank == root else None):
            a = mpihpc.asarray(given, comm=comm, dims=dims, halo=1)
            same(a, x)
        assert a.dtype == dtype and a.nbytes == 70
        same(a.redistribute(dims[::-1]), x)
        same(mpihpc.from_local(a.local, x.shape, comm=comm, dims=dims), x)
        a.exchange("reflect")
        if a.box.size:
            same(a.padded, np.pad(x, 1, "symmetric")[a.frame.slices((-1, -1))])
        assert a.checksum() == mpihpc.asarray(x, comm=MPI.COMM_SELF).checksum()
        for kind in ("f4", "f8", "c16", "i4", dtype):
            same(a.astype(kind), x.astype(kind))
            same(a.astype(kind).astype(dtype), x.astype(kind).real.astype(dtype)) if kind != "c16" else None
    same(mpihpc.full((3, 2), 1.5, dtype, comm=comm), np.full((3, 2), 1.5).astype(dtype))
    same(
        mpihpc.fromfunction(lambda i, j: (i + j).astype(dtype), (4, 3), comm=comm),
        np.fromfunction(np.add, (4, 3)).astype(dtype),
    )
    same(mpihpc.from_chunks([x] if comm.rank == 0 else None, comm=comm), x)
    same(mpihpc.map_blocks(lambda u: u.astype(dtype), mpihpc.asarray(x.astype(float), comm=comm)), x)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_arithmetic_is_numpys(comm, dtype):
    x, y = np.random.default_rng(2).integers(1, 9, (2, 6, 5)).astype(dtype)
    for dims in grids(comm.size, 2)[::2]:
        a, b = mpihpc.asarray(x, comm=comm, dims=dims), mpihpc.asarray(y, comm=comm, dims=dims[::-1])
        for function in (operator.add, operator.mul, operator.truediv, operator.lt, np.maximum, np.hypot):
            same(function(a, b), function(x, y))
            for other in (2, 2.5, np.float32(3), np.float64(0.1), 1j):
                if other == 1j and function in (operator.lt, np.maximum, np.hypot):
                    continue
                same(function(a, other), function(x, other))
        for function in (np.sqrt, np.exp, np.isnan, operator.neg, abs, np.square):
            same(function(a), function(x))
        same(a**2, x**2)
        same(a + y[0], x + y[0])
        a += b
        same(a, x + y)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_other_reductions_are_numpys(comm, dtype):
    x = np.random.default_rng(4).integers(-6, 7, (6, 5)).astype(dtype)
    for dims, axis in itertools.product(grids(comm.size, 2)[::2], (None, 0, 1)):
        a = mpihpc.asarray(x, comm=comm, dims=dims)
        for name in ("min", "max", "argmin", "argmax", "any", "all", "count_nonzero"):
            same(getattr(mpihpc, name)(a, axis), getattr(np, name)(x, axis))
        wide, eps = x.astype(float), 2.0 ** -FLOATS[dtype][0]
        for got, want in (
            (a.mean(axis), wide.mean(axis)),
            (a.var(axis), wide.var(axis)),
            (a.std(axis), wide.std(axis)),
            (mpihpc.norm(a, axis), np.sqrt((wide**2).sum(axis))),
            (a.sum(axis, reproducible=False), wide.sum(axis)),
        ):
            np.testing.assert_allclose(whole(got).astype(float), want, rtol=2 * eps, atol=1e-30)
        assert whole(a.mean(axis)).dtype == np.mean(x, axis).dtype and whole(a.var(axis)).dtype == np.var(x, axis).dtype
        same(a.sum(axis, "f8"), wide.sum(axis))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_products_are_added_in_float32(comm, dtype):
    rng = np.random.default_rng(5)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((9, 300), (300, 11)))
    wanted, scale = (abs_(a.astype(float)) @ abs_(b.astype(float)) for abs_ in (np.asarray, np.abs))
    for dims in grids(comm.size, 2):
        x, y = mpihpc.asarray(a, comm=comm, dims=dims), mpihpc.asarray(b, comm=comm, dims=dims)
        for options in ({}, {"reproducible": True}, {"grid": (1, 1, comm.size)}):
            c = matmul(x, y, **options)
            assert c.dtype == dtype
            got = c.gather(None).astype(float)
            assert np.all(abs(got - wanted) <= 308 * 2.0**-23 * scale + 2.0 ** -FLOATS[dtype][0] * abs(wanted) * 1.001)
        np.testing.assert_array_less(abs(whole(gram(y)).astype(float) - b.astype(float).T @ b.astype(float)), 2.0)
        assert matmul(x, y, out=mpihpc.zeros((9, 11), "f4", comm=comm)).dtype == np.float32
    assert error_bound(300, dtype) == 308 * 2.0**-23 + 2.0 ** (1 - FLOATS[dtype][0])
    # What two bytes could not add up: 1 + 1 + ... stays at 256 in bfloat16, and at 2048 in float16.
    ones = mpihpc.ones((2, 4096), dtype, comm=comm)
    same(matmul(ones, ones, transpose_b=True), np.full((2, 2), 4096).astype(dtype))


def test_bfloat16_by_name_and_what_cannot_be(comm, shared_tmp_path):
    assert (
        mpihpc.zeros(3, "bfloat16", comm=comm).dtype == BFLOAT16 == mpihpc.ones(3, comm=comm).astype("bfloat16").dtype
    )
    assert is_bfloat16(BFLOAT16) and not is_bfloat16(np.dtype("V2"))
    for other in (ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, "V2"):
        with pytest.raises(TypeError, match="not numeric"):
            number_dtype(other)
    a = mpihpc.ones(4, BFLOAT16, comm=comm)
    for call, text in (
        (lambda: mpihpc.io.write(shared_tmp_path / "a.h5", a), "no type for bfloat16: write u.astype"),
        (lambda: matmul(a, mpihpc.ones(4, "f2", comm=comm)), "DType"),
    ):
        with pytest.raises(TypeError, match=text) as caught:
            call()
        assert comm.allgather(str(caught.value)) == [str(caught.value)] * comm.size
    mpihpc.io.write(shared_tmp_path / "b.h5", a.astype("f4"))
    same(mpihpc.io.read(shared_tmp_path / "b.h5", dtype=BFLOAT16, comm=comm), np.ones(4, BFLOAT16))
