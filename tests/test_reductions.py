"""Reductions: NumPy on the whole array, and sums whose bits nothing but the data decides."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import mpihpc
from mpihpc import DistArray, _core
from mpihpc.array import exact_sums
from mpihpc.core.tally import sent

UNIT = 2.0**-53


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def bits(x):
    """What two results must share; a NaN is a NaN."""
    x = np.asarray(x)
    return x.shape, x.dtype, np.where(x == x, x, np.nan).tobytes()


def whole(x):
    return x.gather(None) if isinstance(x, DistArray) else x


def nearest(numbers):
    """The exact sum of floats, rounded once, by integers of any length."""
    if not all(map(math.isfinite, numbers)):
        return np.float64(np.sum(numbers))
    total = sum(map(Fraction, numbers), Fraction(0))
    try:
        return np.float64(float(total))
    except OverflowError:
        return np.float64(math.inf if total > 0 else -math.inf)


def data_sets(n):
    """Five data sets that punish sums whose order changes; `fsum` is their judge."""
    rng = np.random.default_rng(5)
    spread = np.ldexp(rng.standard_normal(n), rng.integers(-80, 80, n))
    half = np.ldexp(rng.standard_normal(n // 2), rng.integers(0, 50, n // 2))
    tiny = np.ldexp(rng.standard_normal(n - 2 * (n // 2)), -60)
    return {
        "normal": rng.standard_normal(n),
        "spread": spread,
        "cancelling": rng.permutation(np.concatenate([half, -half, tiny])),
        "nearly cancelling": rng.permutation(np.concatenate([half, -half * (1 + 2.0**-50), tiny])),
        "all exponents": np.ldexp(rng.standard_normal(n), rng.integers(-1074, 960, n)),
    }


@pytest.fixture(params=_core.isas())
def isa(request):
    """Run with each instruction set of this machine, then go back to the one that was in use."""
    before = _core.isa()
    _core.use_isa(request.param)
    yield request.param
    _core.use_isa(before)


# ---- the state that travels: one process, any partition


@pytest.mark.parametrize("name", data_sets(1))
def test_64_layouts_of_5_data_sets_have_the_same_bits(comm, isa, name):
    """Each rank tries its share of the layouts, with a state for each of their blocks, in any order."""
    shape = (60, 36, 2)
    x = data_sets(math.prod(shape))[name].reshape(shape)
    expected = math.fsum(x.ravel())
    assert abs(Fraction(expected) - sum(map(Fraction, x.ravel().tolist()))) <= UNIT * abs(Fraction(expected))
    squares = nearest((x[abs(x) < 1e100] ** 2).tolist())
    layouts = [(size, grid) for size in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 64) for grid in grids(size, 3)]
    chosen = layouts[:: max(1, len(layouts) // 64)][:64]
    assert len(chosen) == 64 and len({size for size, _ in chosen}) > 8
    rng = np.random.default_rng(1)
    for size, grid in chosen[comm.rank :: comm.size]:
        cut = mpihpc.Decomposition(shape, grid)
        states = []
        for rank in rng.permutation(size):
            block = x[cut.box(int(rank)).slices()]
            small = block[abs(block) < 1e100]
            states.append(
                [
                    exact_sums.total(lambda at, b=block: [[b[at]]], block.shape, True)[0],
                    exact_sums.total(lambda at, b=small: [[(b[at], b[at])]], small.shape, False)[0],
                ]
            )
        total, total2 = np.sum(states, axis=0)
        assert bits(_core.sum_round(total)) == bits(expected), (size, grid)
        assert bits(_core.sum_round(total2)) == bits(squares), (size, grid)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_length_and_stride(isa, dtype):
    rng = np.random.default_rng(2)
    for n in [*range(70), 2047, 2048, 2049, 4095, 4097, 6200]:
        x = np.ldexp(rng.standard_normal(2 * n), rng.integers(-30, 30, 2 * n)).astype(dtype)
        for part in (x[:n], x[::2], x[1::2][::-1], x[: n // 6 * 12].reshape(2, 3, -1)[:, ::-1, 1:]):
            state = np.zeros(_core.SUM_WORDS, np.int64)
            _core.sum_add(part, state)
            assert bits(_core.sum_round(state)) == bits(math.fsum(part.ravel()))
            products = np.multiply(part, part[..., ::-1], dtype=float).ravel()
            state[:] = 0
            _core.sum_add_products(part, part[..., ::-1], state)
            assert bits(_core.sum_round(state)) == bits(math.fsum(products))


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (3, 7), (5, 130), (64, 2), (128, 9), (129, 5), (260, 3)])
def test_columns(isa, rows, columns):
    for x in data_sets(rows * columns).values():
        x = x.reshape(rows, columns)
        x[: rows // 2, :1] = 0
        for y in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
            exactly = [sum(map(Fraction, column.tolist()), Fraction(0)) for column in x.T]
            one = np.empty((1, columns))
            needed = _core.sum_columns(y, 1, one)
            assert bits(one[0]) == bits([float(f) for f in exactly])
            more = np.empty((max(2, _core.sum_columns(y, 1, np.empty((60, columns)))), columns))
            assert 1 <= needed <= _core.sum_columns(y, 1, more) <= len(more)
            assert [sum(map(Fraction, column.tolist()), Fraction(0)) for column in more.T] == exactly
            assert bits(more[0]) == bits(one[0])


def test_tall_columns(isa):
    """More tiles than the parts of tiles fill one: parts of parts."""
    rng = np.random.default_rng(6)
    for spread in (0, 30, 500):
        x = np.ldexp(rng.standard_normal((5000, 3)), rng.integers(-spread, spread + 1, (5000, 3)))
        out = np.empty((1, 3))
        _core.sum_columns(x, 1, out)
        assert bits(out[0]) == bits([math.fsum(column) for column in x.T])
        single = np.asfortranarray(x[:400].clip(-1e30, 1e30).astype("f4"))
        _core.sum_columns(single, 1, out)
        assert bits(out[0]) == bits([math.fsum(column) for column in single.T])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_panels_of_columns_and_lines(isa, dtype):
    """Several panels beside and below each other, and numbers of which the first rows know nothing."""
    rng = np.random.default_rng(9)
    for rows, columns in ((1000, 9), (40, 1030), (257, 515), (600, 64)):
        x = rng.standard_normal((rows, columns))
        x[rows // 2 :, ::3] *= 1e9  # larger than the rows before
        x[:300, 1::3] *= 2.0**-40
        x[:20, 2::5] = 0
        x[rows - 1, 3] = math.inf
        x[7, 4], x[rows - 1, 5] = 1e-30, 1e30
        x = x.astype(dtype)
        for y, a, b in (
            (x, x, None),
            (np.multiply(x, x[::-1], dtype=float), x, x[::-1]),
            (np.square(x, dtype=float), x, x),
        ):
            want = [math.fsum(column) for column in y.T]
            three = [None if w is None else np.repeat(w[:, None], 2, 1)[:, 1] for w in (a, b)]
            for left, right in ((a, b), [None if w is None else np.asfortranarray(w) for w in (a, b)], three):
                out, more = np.empty((1, columns)), np.empty((30, columns))
                _core.sum_columns(left, 1, out, False, right)
                assert bits(out[0]) == bits(want)
                assert _core.sum_columns(left, 1, more, False, right) <= 30
                assert bits([math.fsum(terms) for terms in more.T]) == bits(want)
    x = rng.standard_normal((5, 70, 40)).astype(dtype)
    out = np.empty((1, 5 * 40))
    _core.sum_columns(x.transpose(1, 0, 2), 1, out)
    assert bits(out[0]) == bits([math.fsum(line) for line in x.transpose(0, 2, 1).reshape(-1, 70)])
    out = np.empty((1, 40))
    _core.sum_columns(x, 2, out)
    assert bits(out[0]) == bits([math.fsum(line) for line in x.reshape(-1, 40).T])


def test_numbers_that_are_none():
    inf, nan, huge, least = math.inf, math.nan, np.finfo(float).max, 5e-324
    cases = [
        [],
        [-0.0, -0.0],
        [0.0, -0.0],
        [inf, 1],
        [inf, -inf],
        [nan, inf],
        [huge, huge],
        [huge, huge, -huge],
        [-inf, huge],
    ]
    cases += [
        [least] * 3,
        [least, -least],
        [2.0**-1022, -least],
        [huge, 2.0**970],
        [huge, 2.0**969],
        [-huge, -(2.0**970)],
    ]
    for case in cases:
        for fill in (0, 3000):
            x = np.concatenate([case, np.zeros(fill)])
            with np.errstate(all="ignore"):
                want = nearest(x.tolist())
            state = np.zeros(_core.SUM_WORDS, np.int64)
            _core.sum_add(x[:1], state)
            _core.sum_add(x[1:], state)
            out = np.empty((1, 2))
            _core.sum_columns(np.stack([x, x], axis=1), 1, out)
            assert bits(_core.sum_round(state)) == bits(want) == bits(out[0, 0]) == bits(out[0, 1]), case
    x = np.array([[huge], [huge], [huge], [1.0]])
    out = np.empty((4, 1))  # no term is infinite where the total may come out finite
    assert _core.sum_columns(x, 1, out) == 4 and sorted(out[:, 0]) == [1, huge, huge, huge]


def test_the_core_refuses_what_it_cannot_sum():
    state = np.zeros(_core.SUM_WORDS, np.int64)
    for x in (np.zeros(3, "f2"), np.zeros(3, int), np.zeros(3, ">f8"), np.zeros(3, complex), "text"):
        with pytest.raises(TypeError):
            _core.sum_add(x, state)
    with pytest.raises(ValueError, match="not aligned"):
        _core.sum_add(np.frombuffer(bytes(17), np.uint8)[1:].view("f8"), state)
    with pytest.raises(ValueError, match="words"):
        _core.sum_add(np.zeros(3), state[1:])
    with pytest.raises(TypeError, match="int64"):
        _core.sum_add(np.zeros(3), np.zeros(_core.SUM_WORDS))
    with pytest.raises(ValueError, match="differ in shape"):
        _core.sum_add_products(np.zeros(3), np.zeros(4), state)
    with pytest.raises(TypeError, match="differ in dtype"):
        _core.sum_add_products(np.zeros(3), np.zeros(3, "f4"), state)
    with pytest.raises(ValueError, match=r"shape \(terms, 4\)"):
        _core.sum_columns(np.zeros((3, 4)), 1, np.zeros((1, 3)))
    with pytest.raises(ValueError, match="contiguous"):
        _core.sum_columns(np.zeros((3, 4)), 1, np.zeros((1, 8))[:, ::2])
    with pytest.raises(ValueError, match="differ in shape"):
        _core.sum_columns(np.zeros((3, 4)), 1, np.zeros((1, 4)), y=np.zeros((4, 3)))
    with pytest.raises(ValueError, match="of pairs"):
        _core.sum_add_complex(np.zeros(3), None, False, state, state.copy())
    with pytest.raises(ValueError, match="of pairs"):
        _core.sum_add_complex(np.zeros((4, 4))[:, ::2], None, False, state, state.copy())
    with pytest.raises(TypeError, match="differ in dtype"):
        _core.sum_add_complex(np.zeros(4), np.zeros(4, "f4"), False, state, state.copy())
    with pytest.raises(ValueError, match="lead"):
        _core.sum_columns(np.zeros((3, 4)), 3, np.zeros((1, 1)))


# ---- arrays on all ranks


@st.composite
def cases(draw, size):
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(0, 7)) for _ in range(ndim))
    axis = draw(
        st.sampled_from([None, *itertools.chain(*(itertools.combinations(range(ndim), k) for k in range(ndim + 1)))])
    )
    if axis and len(axis) == 1:
        axis = draw(st.sampled_from([axis, axis[0], axis[0] - ndim]))
    return {
        "shape": shape,
        "kind": draw(st.sampled_from("?bHifdFDe")),
        "dims": draw(st.sampled_from([None, *grids(size, ndim)])),
        "halo": draw(st.integers(0, 1)),
        "axis": axis,
        "keepdims": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
        "special": draw(st.sampled_from([None, None, None, math.nan, math.inf])),
    }


def make(case, comm):
    rng = np.random.default_rng(case["seed"])
    x = rng.integers(-3, 3, case["shape"]) + (rng.standard_normal(case["shape"]) if case["kind"] in "efdFD" else 0)
    if case["kind"] in "FD":
        x = x + 1j * rng.integers(-2, 2, case["shape"])
    with np.errstate(all="ignore"):
        x = np.asarray(x).astype(case["kind"])
    if case["special"] is not None and case["kind"] in "efdFD" and x.size:
        x.flat[rng.integers(x.size)] = case["special"]
    return x, mpihpc.asarray(x, comm=comm, dims=case["dims"], halo=case["halo"])


def close(got, want, terms=1):
    """Equal in shape and dtype, and as near as `terms` additions in the dtype may bring them."""
    got, want = np.asarray(whole(got)), np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if want.dtype.kind in "biu":
        assert np.array_equal(got, want)
    else:
        rtol = max(terms, 1) * 4 * np.finfo(want.dtype).eps
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * 10)


def numpys_norm(x, **over):
    kind = np.linalg.norm(np.zeros(1, x.dtype)).dtype
    return np.sqrt(np.sum(abs(x.astype(np.promote_types(x.dtype, kind))).astype(float) ** 2, **over)).astype(kind)


def numpys(name):
    return (getattr(mpihpc, name), getattr(np, name))


# name: this package's function, NumPy's, and whether the bits must be NumPy's.
REDUCTIONS = {name: (*numpys(name), False) for name in ("sum", "mean", "var", "std", "prod")}
REDUCTIONS |= {
    name: (*numpys(name), True) for name in ("any", "all", "count_nonzero", "min", "max", "argmin", "argmax")
}
REDUCTIONS |= {"norm": (mpihpc.norm, numpys_norm, False)}
for name in ("sum", "mean", "var", "std", "norm"):
    mine, theirs, _ = REDUCTIONS[name]
    REDUCTIONS[f"fast {name}"] = (functools.partial(mine, reproducible=False), theirs, False)
for name in ("var", "std"):
    REDUCTIONS[f"{name} of a sample"] = (*(functools.partial(f, ddof=1) for f in numpys(name)), False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_reductions_are_numpys(comm, verdict):
    @settings(max_examples=100)
    @given(cases(comm.size), st.lists(st.sampled_from(list(REDUCTIONS)), min_size=2, max_size=4, unique=True))
    def check(case, names):
        with verdict(comm):
            x, a = make(case, comm)
            over = {"axis": case["axis"], "keepdims": case["keepdims"]}
            for name in names:
                mine, theirs, same = REDUCTIONS[name]
                axes = range(x.ndim) if case["axis"] is None else np.atleast_1d(np.array(case["axis"], int))
                if name in ("min", "max", "argmin", "argmax") and not math.prod(x.shape[d] for d in axes):
                    continue
                if name in ("argmin", "argmax") and not isinstance(case["axis"], int | None):
                    continue
                if same:
                    assert bits(whole(mine(a, **over))) == bits(theirs(x, **over)), name
                else:
                    close(mine(a, **over), theirs(x, **over), x.size)

    check()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_sums_along_axes_are_rounded_once(comm, verdict):
    @settings(max_examples=40)
    @given(cases(comm.size), st.booleans())
    def check(case, wild):
        with verdict(comm):
            x, a = make(case | {"kind": "d"}, comm)
            if wild and x.size:
                rng = np.random.default_rng(case["seed"])
                x = np.ldexp(x, rng.integers(-1000, 1000, x.shape))
                a = mpihpc.asarray(x, comm=comm, dims=case["dims"])
            axes = case["axis"]
            axes = tuple(range(x.ndim)) if axes is None else (axes,) if isinstance(axes, int) else axes
            front = np.moveaxis(x, axes, range(len(axes)))
            lines = front.reshape(
                math.prod(front.shape[: len(axes)]), -1 if front.size else math.prod(front.shape[len(axes) :])
            )
            want = np.array([nearest(line.tolist()) for line in lines.T]).reshape(front.shape[len(axes) :])
            got = np.asarray(whole(a.sum(case["axis"])))
            assert bits(got) == bits(want + 0.0)

    check()


@pytest.mark.filterwarnings("ignore:overflow")
def test_same_bits_on_many_grids(comm):
    shape = (23, 8, 6)
    rng = np.random.default_rng(8)
    other = rng.standard_normal(shape)
    for name, flat in data_sets(math.prod(shape)).items():
        x = flat.reshape(shape) if name != "all exponents" else np.clip(flat.reshape(shape), -1e150, 1e150)
        found = {}
        for dims in grids(comm.size, 3)[:: 1 + comm.size // 4]:
            a = mpihpc.asarray(x, comm=comm, dims=dims, halo=1)
            results = [
                a.sum(),
                a.mean(),
                a.std(),
                mpihpc.norm(a),
                mpihpc.vecdot(a, other, axis=0),
                (a + 1j * other).sum(),
            ]
            results += [a.sum(axis) for axis in (0, 2, (0, 2), (1, 2))] + [
                a.var(1),
                a.astype("f4").sum(),
                a.sum(dtype="f4"),
            ]
            found[dims] = [bits(whole(r)) for r in results]
            assert bits(a.sum()) == bits(math.fsum(x.ravel()))
        alone = mpihpc.asarray(x, comm=MPI.COMM_SELF)
        same = [alone.sum(), alone.mean(), alone.std(), mpihpc.norm(alone), mpihpc.vecdot(alone, other, axis=0)]
        assert all(f == next(iter(found.values())) for f in found.values()), name
        assert [bits(whole(r)) for r in same] == next(iter(found.values()))[: len(same)], name


def test_long_lines_are_added_in_pieces(comm):
    rng = np.random.default_rng(7)
    for shape in ((700, 3), (3, 700), (90, 600), (8, 90, 40)):
        x = np.ldexp(rng.standard_normal(shape), rng.integers(-40, 40, shape))
        for dims in grids(comm.size, len(shape))[:3]:
            a = mpihpc.asarray(x, comm=comm, dims=dims)
            for axis in range(len(shape)):
                lines = np.moveaxis(x, axis, -1).reshape(-1, shape[axis])
                rest = shape[:axis] + shape[axis + 1 :]
                want = np.array([math.fsum(line * line[::-1]) for line in lines]).reshape(rest)
                assert bits(whole(mpihpc.vecdot(a, np.flip(x, axis), axis=axis))) == bits(want)
                want = np.sqrt([math.fsum(line * line) for line in lines]).reshape(rest)
                assert bits(whole(mpihpc.norm(a, axis))) == bits(want)


def test_bounds_against_fsum(comm):
    """The bounds that `mpihpc.array.reductions` states, with exact arithmetic as the judge."""
    rng = np.random.default_rng(3)
    x, y = np.ldexp(rng.standard_normal((2, 500)), rng.integers(-20, 20, (2, 500)))
    a, b = mpihpc.asarray(x, comm=comm), mpihpc.asarray(y, comm=comm)
    fx, fy = [Fraction(v) for v in x.tolist()], [Fraction(v) for v in y.tolist()]
    total, product = sum(fx), sum(p * q for p, q in zip(fx, fy, strict=True))
    assert abs(Fraction(float(a.sum())) - total) <= UNIT * abs(total)
    assert abs(Fraction(float(a.mean())) - total / 500) <= 2 * UNIT * abs(total / 500)
    sizes = sum(abs(p * q) for p, q in zip(fx, fy, strict=True))
    assert abs(Fraction(float(mpihpc.dot(a, b))) - product) <= UNIT * (abs(product) + sizes)
    assert bits(mpihpc.dot(a, b)) == bits(math.fsum(x * y))
    square = sum(p * p for p in fx)
    assert abs(Fraction(float(mpihpc.norm(a))) ** 2 - square) <= (4 * UNIT + 8 * UNIT**2) * square
    x4, y4 = x.astype("f4"), y.astype("f4")
    exact4 = math.fsum((x4.astype(float) * y4).tolist())
    assert bits(mpihpc.dot(a.astype("f4"), y4)) == bits(np.float32(exact4))


def test_products_of_vectors(comm):
    rng = np.random.default_rng(4)
    for kind in "?ifdFDe":
        x, y = (rng.integers(-4, 4, (2, 9, 5)) + (1j if kind in "FD" else 0) * rng.integers(-4, 4, (2, 9, 5))).astype(
            kind
        )
        for dims in grids(comm.size, 2)[:2]:
            a = mpihpc.asarray(x, comm=comm, dims=dims)
            b = mpihpc.asarray(y, comm=comm, dims=dims[::-1])
            for reproducible in (True, False):
                for axis in (0, 1, -1):
                    got = mpihpc.vecdot(a, b, axis=axis, reproducible=reproducible)
                    assert bits(whole(got)) == bits(np.vecdot(x, y, axis=axis))
        u, v = mpihpc.asarray(x[:, 0], comm=comm), mpihpc.asarray(y[:, 0], comm=comm)
        for reproducible in (True, False):
            assert bits(u.dot(v, reproducible=reproducible)) == bits(np.dot(x[:, 0], y[:, 0]))
            assert bits(u.dot(y[:, 0], reproducible=reproducible)) == bits(np.dot(x[:, 0], y[:, 0]))


@pytest.mark.parametrize("kind", "FD")
def test_complex_sums_are_rounded_once(comm, isa, kind):
    rng = np.random.default_rng(11)
    real = np.dtype(kind).type().real.dtype
    for n, spread in ((7, 3), (700, 9), (5000, 30)):
        x, y = np.ldexp(rng.standard_normal((2, 2, n)), rng.integers(-spread, spread, (2, 2, n))).astype(real)
        u, v = (np.ascontiguousarray(z.T).view(kind)[:, 0] for z in (x, y))
        p = [np.multiply(x[i], y[j], dtype=float).tolist() for i in (0, 1) for j in (0, 1)]
        minus = [[-t for t in part] for part in p]
        want = {False: (p[0] + minus[3], p[1] + p[2]), True: (p[0] + p[3], p[1] + minus[2])}
        apart = np.repeat(v, 2)[::2]  # no neighbours in memory
        a, b = (mpihpc.asarray(w, comm=comm, halo=1) for w in (u, v))
        for other in (b, v, apart):
            for conjugate, function in ((False, mpihpc.dot), (True, mpihpc.vecdot)):
                assert bits(function(a, other)) == bits(np.dtype(kind).type(complex(*map(math.fsum, want[conjugate]))))
        assert bits(a.sum()) == bits(np.dtype(kind).type(complex(*map(math.fsum, x.tolist()))))
        squares = np.square(x, dtype=float).ravel()
        assert bits(mpihpc.norm(a)) == bits(real.type(math.sqrt(math.fsum(squares))))
    for bad in (math.inf, math.nan, -math.inf):
        u[3] = complex(bad, 1)
        with np.errstate(all="ignore"):
            assert bits(mpihpc.asarray(u, comm=comm).sum()) == bits(
                np.dtype(kind).type(complex(bad, math.fsum(u.imag)))
            )


def test_dtypes_are_numpys(comm):
    pairs = itertools.product("?bBhHiIlLefdFD", (None, "i4", "u1", "f4", "f8", "c8", "c16"))
    for i, (source, target) in enumerate(pairs):
        if source in "FD" and target is not None and target[0] != "c":
            continue
        a, x = mpihpc.ones((4, 3), source, comm=comm), np.ones((4, 3), source)
        for name in ("sum", "mean") if i % 3 else ("prod",):
            want = getattr(np, name)(x, axis=(None, 0)[i % 2], dtype=target)
            assert bits(whole(getattr(a, name)((None, 0)[i % 2], target))) == bits(want), (source, target, name)
    small = np.full(300, 200, np.uint8)
    assert mpihpc.asarray(small, comm=comm).sum() == 60000
    wraps = np.full(3, 2**62)
    assert mpihpc.asarray(wraps, comm=comm).sum() == wraps.sum()


def test_first_of_equals_and_nan(comm):
    x = np.zeros((6, 5))
    for dims in grids(comm.size, 2):
        a = mpihpc.asarray(x, comm=comm, dims=dims)
        assert a.argmin() == a.argmax() == 0
        assert not whole(a.argmax(0)).any() and not whole(a.argmin(1)).any()
        for place in ((5, 4), (3, 2), (0, 1)):
            x[place] = np.nan
            a = mpihpc.asarray(x, comm=comm, dims=dims)
            assert a.argmin() == np.argmin(x) and a.argmax() == np.argmax(x)
            assert np.isnan(a.min()) and np.isnan(a.max())
            assert bits(whole(a.max(1))) == bits(x.max(1))
        x[:] = 0


def test_axes_that_are_whole_move_nothing(comm):
    a = mpihpc.asarray(np.arange(48.0).reshape(8, 6), comm=comm, dims=(comm.size, 1))
    before = sent.bytes
    rows = a.sum(axis=1)
    assert sent.bytes == before
    assert rows.decomposition.dims == (comm.size,)
    columns = a.sum(axis=0)
    assert comm.allreduce(sent.bytes - before) <= comm.size * 6 * 16  # two numbers for each partial sum
    assert np.array_equal(whole(columns), np.arange(48.0).reshape(8, 6).sum(0))
    assert sum(comm.allgather(columns.local.size)) == 6


def test_bad_input_is_the_same_line_on_all_ranks(comm):
    a = mpihpc.zeros((4, 3), comm=comm)
    for error, text, call in [
        (ValueError, "axis 2 is out of bounds", lambda: a.sum(2)),
        (ValueError, "repeated axis", lambda: a.sum((0, 0))),
        (TypeError, "complex input", lambda: mpihpc.ones(3, complex, comm=comm).sum(dtype=float)),
        (TypeError, "not numeric", lambda: a.sum(dtype=object)),
        (ValueError, "no cells to choose from", lambda: mpihpc.zeros((0, 3), comm=comm).min()),
        (ValueError, r"argmax of an array of shape \(0, 3\)", lambda: mpihpc.zeros((0, 3), comm=comm).argmax(0)),
        (TypeError, r"axis 1.5 is not a whole number, nor a tuple", lambda: a.sum(1.5)),
        (TypeError, "axis 1.5 is not a whole number: give one", lambda: a.argmax(axis=1.5)),
        (TypeError, r"axis \(0, 1\) is not a whole number: give one", lambda: a.argmin(axis=(0, 1))),
        (TypeError, r"axis \(0, 1\) is not", lambda: mpihpc.vecdot(a, a, axis=(0, 1))),
        (TypeError, "ddof 'x' is not a number", lambda: a.var(ddof="x")),
        (TypeError, "ddof None is not a number", lambda: a.std(ddof=None)),
        (ValueError, r"a has shape \(4, 3\) and b \(3, 4\)", lambda: mpihpc.vecdot(a, np.zeros((3, 4)))),
        (ValueError, "dot takes vectors", lambda: a.dot(a)),
    ]:
        with pytest.raises(error, match=text) as caught:
            call()
        lines = comm.allgather(str(caught.value))
        assert len(set(lines)) == 1 and "\n" not in lines[0]
