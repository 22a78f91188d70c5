"""Kernels applied line by line: what the whole kernel gives, to rounding, and the same bits however it is cut."""

import itertools
import math
from functools import reduce

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import mpihpc
from mpihpc.stencil import Stencil, Taps, evolve, named_kernel, separable
from test_stencil import PAD, close, correlate, grids


@pytest.fixture
def always(monkeypatch):
    """Line by line wherever there are lines, in slabs of one plane and of all."""
    monkeypatch.setattr(separable, "_PASS", -1000)
    return lambda thin: monkeypatch.setattr(separable, "_SLAB", 1 if thin else 1 << 30)


def outer(lines):
    return reduce(np.multiply.outer, lines)


@st.composite
def cases(draw, size):
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, 9 if ndim < 3 else 6)) for _ in range(ndim))
    dims = draw(st.sampled_from(grids(size, ndim)))
    lengths = tuple(draw(st.integers(1, 8 if ndim < 3 else 5)) for _ in range(ndim))  # even, odd, longer than the axis
    origin = tuple(draw(st.integers(-(n // 2), (n - 1) // 2)) for n in lengths)
    modes = tuple(draw(st.sampled_from(sorted(PAD))) for _ in range(ndim))
    return shape, dims, lengths, origin, modes, draw(st.sampled_from("fdFD")), draw(st.integers(0, 2**31))


def test_lines_agree_with_the_kernel_in_every_mode(comm, verdict, always):
    """A mode per axis, any origin and length; against the padded whole array, and the same on a grid as alone."""

    @settings(max_examples=80)
    @given(cases(comm.size))
    def check(case):
        shape, dims, lengths, origin, modes, kind, seed = case
        always(seed % 2)
        with verdict(comm):
            rng = np.random.default_rng(seed)
            whole = (rng.standard_normal(shape) * 9).astype(kind.lower())
            lines = [rng.standard_normal(n) for n in lengths]
            if kind in "FD":
                whole = (whole + 1j * rng.standard_normal(shape)).astype(kind)
                lines = [line + 1j * rng.standard_normal(len(line)) for line in lines] if seed % 3 else lines
            kernel = outer(lines)
            u = mpihpc.asarray(whole, comm=comm, dims=dims)
            taps = Taps.from_kernel(kernel, whole.ndim, origin)
            plan = Stencil(u.decomposition, taps, whole.dtype, comm=comm, mode=modes, exact=False, fuse=3)
            assert len(plan.lines) == taps.offsets.any(0).sum()
            options = {"origin": origin, "exact": False, "threads": 1 + seed % 3}
            got = evolve(u, kernel, 1, modes, 2.5, **options)
            wanted = correlate(whole, kernel, modes, 2.5, origin)
            close(got.gather(None), wanted, kernel, whole, whole.ndim)
            alone = mpihpc.asarray(whole, comm=MPI.COMM_SELF)
            for steps in (1, 3):
                mine = evolve(alone, kernel, steps, modes, 2.5, origin=origin, exact=False).checksum()
                assert evolve(u, kernel, steps, modes, 2.5, **options).checksum() == mine

    check()


@pytest.mark.parametrize("mode", sorted(PAD))
def test_lines_agree_with_scipy(comm, mode):
    """Kernels for which lines are worth while, as the user gets them."""
    rng = np.random.default_rng(1)
    for shape, kernel in [
        ((40, 33), "gaussian:2"),
        ((40, 33), outer([rng.random(8), rng.random(11)])),
        ((21, 22, 23), "gaussian:1"),
        ((9, 22, 23), outer([[1.0], rng.random(9), rng.random(10)])),
        ((5, 21, 23), "mean:5"),
        ((12, 10, 11), outer([rng.random(4) + 1j, rng.random(5) - 2j, rng.random(4)])),
    ]:
        whole = rng.standard_normal(shape)
        weights = named_kernel(kernel, len(shape)) if isinstance(kernel, str) else kernel
        taps = Taps.from_kernel(weights, len(shape))
        assert len(separable.lines_worth_it(taps)) == sum(n > 1 for n in weights.shape)
        complex_kernel = weights.dtype.kind == "c"
        u = mpihpc.asarray(whole.astype(complex) if complex_kernel else whole, comm=comm)
        wanted = scipy.ndimage.correlate(whole, weights.conj() if complex_kernel else weights, mode=mode, cval=-1.5)
        got = evolve(u, kernel, 1, mode, -1.5, exact=False).gather(None)
        assert np.abs(got - wanted).max() <= 1e-14 * np.abs(weights).sum() * np.abs(whole).max()
        assert not np.array_equal(got, evolve(u, kernel, 1, mode, -1.5).gather(None))  # it was asked for


def test_bits_of_lines_do_not_depend_on_the_cut(comm):
    rng = np.random.default_rng(2)
    for shape, kernel in [((37, 29), "gaussian:2"), ((13, 14, 15), "mean:5")]:
        whole = rng.standard_normal(shape)
        modes = ("constant", "reflect", "wrap")[-len(shape) :]
        alone = evolve(mpihpc.asarray(whole, comm=MPI.COMM_SELF), kernel, 3, modes, exact=False).checksum()
        for count, dims in enumerate(grids(comm.size, len(shape))):
            u = mpihpc.asarray(whole, comm=comm, dims=dims)
            assert evolve(u, kernel, 3, modes, exact=False, threads=1 + count % 2).checksum() == alone


def test_lines_are_recognised():
    rng = np.random.default_rng(3)
    for kernel, count in [
        (named_kernel("gaussian:2", 2), 2),
        (named_kernel("gaussian:0.7", 3), 3),
        (named_kernel("mean:6", 4), 4),
        (named_kernel("sobel", 2), 2),
        (named_kernel("sobel:1", 3), 3),
        (outer([rng.standard_normal(5) * 1e-200, rng.standard_normal(4)]), 2),
        (outer([rng.standard_normal(3) * 1j, rng.standard_normal(4), [2.0]]), 2),
        (named_kernel("identity", 3), 0),
        (np.zeros((3, 3)), 0),
        (named_kernel("heat", 2), 0),
        (named_kernel("laplace:4", 3), 0),
        (named_kernel("sharpen", 2), 0),
        (rng.random((3, 3)), 0),
        (named_kernel("gaussian:1", 2) + 1e-9 * rng.random((9, 9)), 0),
        (np.eye(5), 0),
    ]:
        taps = Taps.from_kernel(kernel, kernel.ndim)
        lines = separable.separate(taps)
        assert len(lines) == count
        if lines:
            # Every tap of the kernel is the product of a tap of each line, at the sum of their offsets.
            products = {
                tuple(sum(line.offsets[i] for line, i in zip(lines, place, strict=True))): math.prod(
                    line.weights[i] for line, i in zip(lines, place, strict=True)
                )
                for place in itertools.product(*(range(len(line.weights)) for line in lines))
            }
            weights = [products.pop(tuple(o)) for o in taps.offsets]
            assert not products
            assert np.abs(weights - taps.weights).max() <= 1e-14 * np.abs(taps.weights).max()


def test_lines_are_used_only_where_they_pay(comm):
    u = mpihpc.zeros((20, 20, 20), comm=comm)
    for kernel, by_lines in [("gaussian:1", True), ("mean:5", True), ("mean:3", False), ("sobel", False)]:
        taps = Taps.from_kernel(named_kernel(kernel, 3), 3)
        plan = Stencil(u.decomposition, taps, float, comm=comm, exact=False)
        assert bool(plan.lines) == by_lines
        assert plan.fusing.steps == 1 or not by_lines
        assert not Stencil(u.decomposition, taps, float, comm=comm).lines


def test_sums_of_integers_stay_exact(comm, always):
    """The factor of a kernel is shared between its lines by powers of two."""
    always(False)
    whole = np.random.default_rng(4).integers(-9, 9, (11, 12)).astype(float)
    got = evolve(mpihpc.asarray(whole, comm=comm), "sobel", 2, exact=False)
    assert got.checksum() == evolve(mpihpc.asarray(whole, comm=comm), "sobel", 2).checksum()
