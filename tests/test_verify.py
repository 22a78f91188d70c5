"""--verify: a right run is never called wrong, and one wrong tap or cell is found."""

import numpy as np
import pytest

import mpihpc
from mpihpc import stencil
from mpihpc.core.failure import VerificationError
from mpihpc.programs.stencil.verify import verify
from mpihpc.stencil.named import named_kernel
from mpihpc.stencil.separable import lines_worth_it

RNG = np.random.default_rng(5)
NOISE = RNG.standard_normal((31, 17))
FAR = np.where(RNG.random((31, 17)) < 0.1, 1e30, NOISE)
HOLES = NOISE.copy()
HOLES[3, 4], HOLES[20, 1], HOLES[20, 2], HOLES[11, 9] = np.inf, -np.inf, np.inf, np.nan
WAVES = NOISE + 1j * NOISE[::-1]
UNEVEN = RNG.standard_normal((3, 4)) * 10.0 ** RNG.integers(-20, 8, (3, 4))
TINY = np.full((3, 3), 1e-17)


def kernel_of(kernel, ndim):
    return np.asarray(named_kernel(kernel, ndim) if isinstance(kernel, str) else kernel)


@pytest.mark.parametrize("mode", ["reflect", "wrap", ("constant", "mirror")], ids=str)
@pytest.mark.parametrize(
    ("data", "dtype", "kernel", "steps"),
    [
        pytest.param(np.ones((60, 50)), "f4", "mean:41", 1, id="wide"),
        pytest.param(NOISE, "f4", "gaussian:0.5", 100, id="many steps"),
        pytest.param(NOISE, "f4", "laplace", 40, id="growing"),
        pytest.param(NOISE, "f8", "sharpen", 60, id="growing in double"),
        pytest.param(WAVES, "c8", "gaussian:2", 9, id="complex"),
        pytest.param(WAVES, "c16", np.array([[0, 1 - 2j, 0.1], [1j, 0, 3]]), 9, id="complex weights"),
        pytest.param((99 * NOISE).astype("i4"), "f4", UNEVEN, 3, id="integers, uneven weights"),
        pytest.param(FAR, "f4", UNEVEN, 1, id="far apart"),
        pytest.param(NOISE, "f8", TINY, 2, id="tiny weights"),
        pytest.param(NOISE, "f4", TINY, 3, id="to denormals"),
        pytest.param(HOLES, "f8", "mean:3", 2, id="infinities"),
        pytest.param(HOLES, "f4", "heat", 3, id="infinities in float32"),
        pytest.param(HOLES + 0j, "c8", "mean:3", 1, id="complex infinities"),
        pytest.param(HOLES, "f4", np.array([[1.0, 1e-60, 2.0]]), 1, id="infinities times nothing"),
        pytest.param(np.where(NOISE > 2, 3e38, NOISE), "f4", "mean:3", 1, id="overflow in some cells"),
    ],
)
def test_right_runs(comm, data, dtype, kernel, steps, mode):
    """Whatever evolve makes is found right, as a whole and line by line; the error it reports is a rounding."""
    first = data.astype(dtype)
    weights = kernel_of(kernel, 2)
    u = mpihpc.asarray(first, comm=comm)
    modes = (mode, mode) if isinstance(mode, str) else mode
    with np.errstate(all="ignore"):
        for exact in True, False:
            last = stencil.evolve(u, weights, steps, mode=mode, cval=0.3, dtype=dtype, exact=exact).gather()
            taps = stencil.Taps.from_kernel(weights, 2)
            lines = [] if exact else [len(line.weights) for line in lines_worth_it(taps)]
            if last is not None:
                error = verify(first, last, weights, steps, modes, 0.3, lines)
                assert 0 <= error <= (1e-4 if np.dtype(dtype).char in "fF" else 1e-13)


def test_right_run_in_3d(comm):
    u = RNG.random((20, 21, 22)).astype("f4")
    weights = kernel_of("mean:11", 3)
    last = stencil.evolve(mpihpc.asarray(u, comm=comm), weights, 2, mode="wrap").gather()
    if last is not None:
        assert verify(u, last, weights, 2, ["wrap"] * 3, 0) < 1e-5


def swapped(u):
    u[[4, 5], 3] = u[[5, 4], 3]


def off(u):
    u[7, 2] *= 1 + 200 * np.finfo(u.dtype).eps


def not_there(u):
    u[0, 0] = np.nan


def too_large(u):
    u[0, 0] = np.inf


@pytest.mark.parametrize("damage", [swapped, off, not_there, too_large])
@pytest.mark.parametrize(("dtype", "steps"), [("f4", 1), ("f4", 9), ("f8", 1), ("f8", 20), ("c8", 3)])
def test_wrong_cells_are_found(damage, dtype, steps):
    first = (10 + NOISE).astype(dtype)
    weights = kernel_of("heat", 2)
    last = right(first, weights, steps)
    damage(last)
    with pytest.raises(VerificationError, match="differs from NumPy's by"):
        verify(first, last, weights, steps, ("wrap", "wrap"), 0)


@pytest.mark.parametrize(("dtype", "kernel"), [("f4", "mean:7"), ("f4", "gaussian:1"), ("f8", "mean:31"), ("f8", TINY)])
def test_a_dropped_tap_is_found(dtype, kernel):
    """The last in the kernel's order; of a Gaussian, one in the middle."""
    weights = kernel_of(kernel, 2)
    less = weights.copy()
    less[(-1, -1) if weights[0, 0] == weights.max() else tuple(n // 2 for n in weights.shape)] = 0
    first = (10 + NOISE).astype(dtype)
    assert verify(first, right(first, weights, 1), weights, 1, ("wrap", "wrap"), 0) < 1e-5
    with pytest.raises(VerificationError):
        verify(first, right(first, less, 1), weights, 1, ("wrap", "wrap"), 0)


def test_infinities_must_be_where_they_belong():
    """Neither lost, nor of the other sign, nor NaN."""
    weights = kernel_of("mean:3", 2)
    for value in 0.0, -np.inf, np.nan:
        last = right(np.where(np.isnan(HOLES), 0, HOLES), weights, 1)
        assert last[2, 3] == np.inf
        last[2, 3] = value
        with pytest.raises(VerificationError, match=r"cell \(2, 3\)"):
            verify(np.where(np.isnan(HOLES), 0, HOLES), last, weights, 1, ("wrap", "wrap"), 0)


def test_nothing_to_compare():
    first = np.full((5, 5), 3e38, "f4")
    with pytest.raises(VerificationError, match="nothing can be verified"):
        verify(first, np.full((5, 5), np.inf, "f4"), np.full((3, 3), 1.0), 1, ("wrap", "wrap"), 0)


def right(first, weights, steps):
    """Rolled copies, added in double precision; rounded to the dtype of the input."""
    u = first.astype(np.result_type(first, float))
    with np.errstate(all="ignore"):
        for _ in range(steps):
            u = sum(
                w * np.roll(u, [n // 2 - i for n, i in zip(weights.shape, at, strict=True)], (0, 1))
                for at, w in np.ndenumerate(weights)
                if w
            )
        return u.astype(first.dtype)
