"""Operators and ufuncs: NumPy on the whole array, wherever the operands lie."""

import itertools
import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpihpc
from mpihpc import DistArray
from mpihpc.core.tally import sent
from mpihpc.core.transfer import Transfer


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def same(got, want):
    """Equal in dtype, shape and bits; a NaN is a NaN."""
    assert isinstance(got, DistArray)
    whole = got.gather(None)
    assert (whole.dtype, whole.shape) == (want.dtype, want.shape)
    np.testing.assert_array_equal(whole, want)


def fails_alike(comm, error, text, call):
    """`call` raises the same one line on all ranks."""
    with pytest.raises(error, match=text) as caught:
        call()
    lines = comm.allgather(str(caught.value))
    assert len(set(lines)) == 1 and "\n" not in lines[0]


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, divmod]
BINARY += [
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
    operator.gt,
    operator.ge,
    np.maximum,
    np.hypot,
    np.arctan2,
]
BITWISE = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift, np.gcd]
UNARY = [
    operator.neg,
    operator.pos,
    operator.abs,
    np.sqrt,
    np.exp,
    np.isnan,
    np.modf,
    np.frexp,
    np.conj,
    np.sign,
    np.square,
]
INPLACE = [
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.ifloordiv,
    operator.imod,
    operator.ipow,
]


@st.composite
def operands(draw, size):
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(0, 6)) for _ in range(ndim))
    thinner = tuple(draw(st.sampled_from([1, n])) for n in shape)[draw(st.integers(0, ndim - 1)) :]
    return {
        "shape": shape,
        "kinds": draw(st.tuples(*[st.sampled_from("?bHifdD")] * 2)),
        "dims": draw(st.tuples(*[st.sampled_from([None, *grids(size, ndim)])] * 2)),
        "halo": draw(st.integers(0, 1)),
        "other": draw(st.sampled_from(["array", "replicated", "thinner", "thinner array", "number", "scalar"])),
        "thinner": thinner,
        "seed": draw(st.integers(0, 9)),
    }


def make(case, comm):
    """Two operands, and what NumPy would work with."""
    rng = np.random.default_rng(case["seed"])
    x = rng.integers(0, 5, case["shape"]).astype(case["kinds"][0])
    shape = case["thinner"] if "thinner" in case["other"] else case["shape"]
    y = rng.integers(0, 5, shape).astype(case["kinds"][1])
    a = mpihpc.asarray(x, comm=comm, dims=case["dims"][0], halo=case["halo"])
    if case["other"] == "number":
        return x, a, 3, 3
    if case["other"] == "scalar":
        return x, a, y.dtype.type(1), y.dtype.type(1)
    if case["other"] == "thinner array":
        return x, a, y, mpihpc.asarray(y, comm=comm)
    return x, a, y, mpihpc.asarray(y, comm=comm, dims=case["dims"][1]) if case["other"] == "array" else y


def outcome(function, *args):
    """The result, or the kind of error."""
    try:
        return function(*args)
    except TypeError as error:
        return error


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_operators_are_numpys(comm, verdict):
    @settings(max_examples=100)
    @given(operands(comm.size), st.sampled_from(BINARY + BITWISE + UNARY), st.booleans())
    def check(case, function, swapped):
        with verdict(comm):
            x, a, y, b = make(case, comm)
            if function in UNARY:
                want, got = outcome(function, x), outcome(function, a)
            elif swapped:
                want, got = outcome(function, y, x), outcome(function, b, a)
            else:
                want, got = outcome(function, x, y), outcome(function, a, b)
            if isinstance(want, TypeError):
                assert isinstance(got, TypeError)
                return
            many = want if isinstance(want, tuple) else (want,)
            for g, w in zip(got if isinstance(got, tuple) else (got,), many, strict=True):
                same(g, w)
                if a.decomposition == g.decomposition and not swapped:
                    assert g.halo == a.halo

    check()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_in_place_is_numpys(comm, verdict):
    @settings(max_examples=50)
    @given(operands(comm.size), st.sampled_from(INPLACE))
    def check(case, function):
        with verdict(comm):
            x, a, y, b = make(case, comm)
            want = outcome(function, x.copy(), y)
            got = outcome(function, a, b)
            if isinstance(want, TypeError):
                assert isinstance(got, TypeError)
                same(a, x)
            else:
                assert got is a
                same(a, want)

    check()


def test_numbers_are_weak_as_in_numpy_2(comm):
    a = mpihpc.ones((3, 2), np.float32, comm=comm)
    assert (a + 1.5).dtype == np.float32 and (a + np.float64(1.5)).dtype == np.float64
    small = mpihpc.ones(3, np.uint8, comm=comm)
    assert (small + 1).dtype == np.uint8 and (small / 2).dtype == np.float64
    fails_alike(comm, OverflowError, "300", lambda: small + 300)
    assert (2**a).dtype == np.float32 and (1j * a).dtype == np.complex64


@pytest.mark.filterwarnings("ignore:invalid value")
def test_powers_are_numpys(comm):
    """NumPy takes other ufuncs for some exponents: their dtypes and bits."""
    for kind, exponent in itertools.product("?bidD", (2, 2.0, 1, 0.5, 3, True, np.float64(2))):
        x = np.array([0, 1, 3, 0.1, 1e-3]).astype(kind)
        a = mpihpc.asarray(x, comm=comm)
        same(a**exponent, x**exponent)
        want = outcome(operator.ipow, x.copy(), exponent)
        if isinstance(want, TypeError):
            fails_alike(comm, TypeError, "casting", lambda: operator.ipow(a, exponent))  # noqa: B023
        else:
            assert operator.ipow(a, exponent) is a
            same(a, want)
    same(mpihpc.asarray([-np.inf, 2.0], comm=comm) ** 0.5, np.array([-np.inf, 2.0]) ** 0.5)
    same(mpihpc.asarray([4.0, 0.1], comm=comm) ** -1, np.array([4.0, 0.1]) ** -1)


def test_what_is_known_everywhere_is_told(comm):
    a = mpihpc.zeros((4, 3), comm=comm)
    assert (np.shape(a), np.ndim(a)) == ((4, 3), 2)


def test_the_move_is_counted_and_no_more(comm):
    x = np.arange(24.0).reshape(4, 6)
    for one, two in itertools.product(grids(comm.size, 2), repeat=2):
        a, b = (mpihpc.asarray(x, comm=comm, dims=dims) for dims in (one, two))
        before = sent.bytes
        c = a * b
        assert sent.bytes - before == Transfer(b.decomposition, a.decomposition).schedule(comm.rank).cells_sent * 8
        assert c.decomposition == a.decomposition
        before = sent.bytes
        c += 2 * a - np.arange(6)
        assert sent.bytes == before
        same(c, x * x + 2 * x - np.arange(6))


def test_a_mean_along_an_axis_is_taken_away(comm):
    x = np.random.default_rng(1).standard_normal((5, 4, 3))
    for dims in grids(comm.size, 3):
        a = mpihpc.asarray(x, comm=comm, dims=dims)
        for axis in (0, 1, (0, 2)):
            centred = a - a.mean(axis, keepdims=True)
            np.testing.assert_allclose(centred.gather(None), x - x.mean(axis, keepdims=True), rtol=1e-13, atol=1e-15)
        same(a + a.sum(0) * 0, x + 0)


def test_out_and_where(comm, verdict):
    x = np.arange(30.0).reshape(5, 6)
    mask = x % 3 == 0
    for one, two, three in zip(grids(comm.size, 2), grids(comm.size, 2)[::-1], itertools.cycle(grids(comm.size, 2))):
        a = mpihpc.asarray(x, comm=comm, dims=one)
        for where in (mask, mpihpc.asarray(mask, comm=comm, dims=two), mask[0]):
            for kind in ("f8", "f4", "c16"):
                out = mpihpc.full((5, 6), -1, kind, comm=comm, dims=three)
                want = np.full((5, 6), -1, kind)
                np.add(x, 1, out=want, where=where if isinstance(where, np.ndarray) else mask)
                assert np.add(a, 1, out=out, where=where) is out
                same(out, want)
        got = np.add(a, 1, where=mpihpc.asarray(mask, comm=comm, dims=two)).gather(None)
        assert np.array_equal(got[mask], x[mask] + 1)
        first, second = (mpihpc.zeros((5, 6), comm=comm, dims=dims) for dims in (two, three))
        assert np.modf(a / 4, out=(first, second))[1] is second
        for got, want in zip((first, second), np.modf(x / 4), strict=True):
            same(got, want)
        same(np.sqrt(a, dtype="f4"), np.sqrt(x, dtype="f4"))
        same(np.add(a, 1.5, dtype=int, casting="unsafe"), np.add(x, 1.5, dtype=int, casting="unsafe"))


def test_what_is_not_offered_raises_and_gathers_nothing(comm):
    a = mpihpc.ones((4, 3), comm=comm)
    other = comm.Dup()
    before = sent.bytes
    for error, text, call in [
        (TypeError, r"numpy.add.reduce is not supported .* use .sum\(\)", lambda: np.add.reduce(a)),
        (TypeError, "numpy.multiply.accumulate is not supported", lambda: np.multiply.accumulate(a)),
        (TypeError, "numpy.add.outer is not supported", lambda: np.add.outer(a, a)),
        (TypeError, "numpy.add.at is not supported", lambda: np.add.at(a, 0, 1)),
        (TypeError, "matmul is not elementwise", lambda: np.matmul(a, np.ones((3, 3)))),
        (TypeError, "use mpihpc.vecdot", lambda: np.vecdot(a, a)),
        (TypeError, "numpy.sum is not supported .* use mpihpc.sum", lambda: np.sum(a)),
        (TypeError, "numpy.max is not supported .* use mpihpc.max", lambda: np.amax(a)),
        (TypeError, "numpy.concatenate is not supported .* use ufuncs", lambda: np.concatenate([a, a])),
        (TypeError, "numpy.linalg.norm is not supported .* use mpihpc.norm", lambda: np.linalg.norm(a)),
        (TypeError, "numpy.linalg.det is not supported .* use ufuncs", lambda: np.linalg.det(a)),
        (TypeError, "numpy.outer is not supported .* use mpihpc.linalg.outer", lambda: np.outer(a, a)),
        (TypeError, r"numpy.where is not supported .* use where=", lambda: np.where(a, 1, 0)),
        (TypeError, "numpy.clip is not supported .* use numpy.minimum and", lambda: np.clip(a, 0, 1)),
        (TypeError, "'typo' not understood", lambda: a.astype("typo")),
        (TypeError, "takes dtype and casting, not order", lambda: np.add(a, 1, order="F")),
        (TypeError, "out must be a DistArray, not ndarray", lambda: np.add(a, 1, out=np.ones((4, 3)))),
        (TypeError, "out must be a DistArray, not ndarray", lambda: operator.iadd(np.ones((4, 3)), a)),
        (TypeError, "an operand is str: dtype <U4 is not numeric", lambda: a + "text"),
        (TypeError, "an operand is NoneType: dtype object is not numeric", lambda: a + None),
        (TypeError, "an operand is NoneType", lambda: a == None),  # noqa: E711
        (TypeError, "do not support indexing: use .local for", lambda: a[0]),
        (TypeError, "do not support indexing: write to .local", lambda: operator.setitem(a, 0, 1)),
        (TypeError, r"do not support indexing", lambda: list(a)),
        (TypeError, r"no len: use .shape\[0\]", lambda: len(a)),
        (TypeError, "where has dtype int64", lambda: np.add(a, 1, where=np.ones((4, 3), int))),
        (TypeError, "complex128.*float64", lambda: operator.iadd(a, 1j)),
        (ValueError, r"\(4, 3\)|\(4,\)", lambda: a + np.ones(4)),
        (
            ValueError,
            r"\(2, 4, 3\), which no distributed operand has: they have \(4, 3\)",
            lambda: a + np.ones((2, 4, 3)),
        ),
        (
            ValueError,
            r"out has shape \(4, 3\), the result has \(4, 1\)",
            lambda: np.add(mpihpc.ones((4, 1), comm=comm), 1, out=a),
        ),
        (
            ValueError,
            "add: operand 1 is on a different communicator",
            lambda: a + mpihpc.ones((4, 3), comm=other),
        ),
        (ValueError, "neither true nor false", lambda: bool(a == a)),
    ]:
        fails_alike(comm, error, text, call)
    powers = np.where(np.arange(4) < 3, 1, -1)  # refused by one rank
    fails_alike(comm, ValueError, "negative integer powers", lambda: mpihpc.ones(4, int, comm=comm) ** powers)
    if comm.size > 1:
        fails_alike(comm, ValueError, "rank 1", lambda: a + np.ones(3 + (comm.rank == 1)))
    assert sent.bytes == before
    assert np.array_equal(a.gather(None), np.ones((4, 3)))
    other.Free()
