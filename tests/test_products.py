"""The kernels of products: against integers, which are exact, and against themselves with other cuts, bit for bit."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpihpc import _core
from mpihpc.core.device import product_threads
from mpihpc.kernels import cpu

ABLE = [name for name in _core.isas() if name != "baseline"]


@pytest.fixture(params=ABLE, autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run with each instruction set that multiplies and adds in one go, then go back to the one that was in use."""
    before = _core.isa()
    _core.use_isa(request.param)
    yield
    _core.use_isa(before)


def whole(rng: np.random.Generator, rows: int, columns: int, how: str) -> np.ndarray:
    """Small whole numbers, in memory as `how` says."""
    values = rng.integers(-9, 10, (rows, columns)).astype(float)
    if how == "columns":
        return np.asfortranarray(values)
    if how == "gaps":
        room = np.full((2 * rows, 3 * columns), np.nan)
        room[::2, ::3] = values
        return room[::2, ::3]
    if how == "backwards":
        return values[::-1, ::-1].copy()[::-1, ::-1]
    if how == "one row":
        return np.broadcast_to(values[:1], values.shape)
    return values


HOW = st.sampled_from(["rows", "columns", "gaps", "backwards", "one row"])


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(0, 120),
    n=st.integers(0, 80),
    k=st.one_of(st.integers(0, 30), st.integers(380, 390), st.integers(760, 780)),
    hows=st.tuples(HOW, HOW),
    add=st.booleans(),
    threads=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_products_of_whole_numbers_are_exact(
    m: int, n: int, k: int, hows: tuple[str, str], add: bool, threads: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = whole(rng, m, k, hows[0]), whole(rng, k, n, hows[1])
    room = np.full((m, n + 3), 7.0)
    out = room[:, 1 : n + 1]
    assert _core.multiply(a, b, out, add, threads)
    np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int) + 7 * add)
    assert (room[:, 0] == 7).all()
    assert (room[:, n + 1 :] == 7).all()


@pytest.mark.parametrize("shape", [(97, 300, 1030), (200, 1100, 40), (385, 129, 768)])
def test_wide_tall_and_deep(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    rng = np.random.default_rng(3)
    a, b, out = whole(rng, m, k, "rows"), whole(rng, k, n, "rows"), np.empty((m, n))
    assert _core.multiply(a, b, out, False, 2)
    np.testing.assert_array_equal(out, a.astype(int) @ b.astype(int))


def test_bits_of_a_cell_depend_on_its_row_and_column_only() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((150, 900)), rng.standard_normal((900, 210))
    out = np.empty((150, 210))
    assert _core.multiply(a, b, out)
    for threads in (2, 3, 4, 7):
        other = np.empty_like(out)
        assert _core.multiply(a, b, other, False, threads)
        np.testing.assert_array_equal(other, out)
    for i, j in itertools.product((0, 3, 100), (0, 33, 77)):
        rows, columns = slice(i, i + 50), slice(j, j + 1 + 11 * i)
        part = np.empty(out[rows, columns].shape)
        assert _core.multiply(np.asfortranarray(a[rows]), b[:, columns], part)
        np.testing.assert_array_equal(part, out[rows, columns])
    # From one instruction set to the next, too: the order of additions is the same.
    for name in ABLE:
        _core.use_isa(name)
        assert _core.multiply(a, b, other)
        np.testing.assert_array_equal(other, out)


def test_error_is_bounded() -> None:
    rng = np.random.default_rng(5)
    a, b, out = rng.standard_normal((130, 2000)), rng.standard_normal((2000, 140)), np.empty((130, 140))
    assert cpu.multiply(a, b, out)
    exact = a.astype(np.longdouble) @ b.astype(np.longdouble)
    assert (np.abs(out - exact) <= 2000 * np.finfo(float).eps / 2 * (np.abs(a) @ np.abs(b))).all()


def test_nan_and_infinity_stay_in_their_rows_and_columns() -> None:
    a, b, out = np.ones((130, 400)), np.ones((400, 131)), np.empty((130, 131))
    a[129, 17], b[3, 130] = np.inf, np.nan
    assert _core.multiply(a, b, out)
    assert np.isnan(out[:, 130]).all()
    assert np.isposinf(out[129, :130]).all()
    assert (out[:129, :130] == 400).all()


def test_what_they_cannot_do_is_left_alone() -> None:
    a, b = np.ones((140, 9)), np.ones((9, 150))
    out = np.full((140, 150), 5.0)
    packed = np.frombuffer(bytes(8 * 9 * 140 + 1), np.uint8)[1:].view(float).reshape(140, 9)
    narrow = np.ones((100, 9))
    for x, y, z in (
        (a.astype("f4"), b, out),
        (a, b.astype("c16"), out),
        (a, b.astype(">f8"), out),
        (packed, b, out),
        (a, b, np.full((140, 300), 5.0)[:, ::2]),
        (a, b, np.full((140, 150), 5, int)),
        (narrow, b, out[:100]),  # BLAS is faster
        (a, a.T, np.full((140, 140), 5.0)),  # BLAS does half of it
        (out[:, :140], np.ones((140, 150)), out),  # NumPy copies what would be overwritten
    ):
        assert not cpu.multiply(x, y, z)
        assert (z == 5).all()
    _core.use_isa("baseline")
    assert not cpu.multiply(a, b, out)


def test_bad_input() -> None:
    a, b, out = np.ones((140, 9)), np.ones((9, 150)), np.ones((140, 150))
    for arguments, said in (
        ((a, b[1:], out), "a has 9 columns, b has 8 rows"),
        ((a, b, out[:130]), "c is 130 x 150, the product is 140 x 150"),
        ((a, b, out, False, 0), "threads must be 1 to 1024, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            cpu.multiply(*arguments)


def test_threads_are_what_the_variables_of_blas_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert product_threads(6) == 6
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert product_threads(6) == 2
    assert product_threads(6, 3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1,4")
    assert product_threads(6) == 1
