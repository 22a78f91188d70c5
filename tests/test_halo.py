"""Halos: every cell around a block holds what the whole padded array holds there."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpihpc.core import transfer
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.halo import MODES, Halo, boundary_modes
from mpihpc.core.topology import Topology

PAD = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def pad(whole, width, modes, cval):
    """NumPy's padding, axis by axis."""
    for axis, mode in enumerate(modes):
        only = [w if d == axis else (0, 0) for d, w in enumerate(width)]
        constant = {"constant_values": cval} if mode == "constant" else {}
        whole = np.pad(whole, only, PAD[mode], **constant)
    return whole


@st.composite
def halos(draw, size):
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 8 if ndim < 3 else 5)) for _ in range(ndim))
    dims = draw(st.sampled_from(grids(size, ndim)))
    deep = st.integers(0, 11 if ndim < 3 else 3)  # deeper than a block and than the array
    width = tuple((draw(deep), draw(deep)) for _ in range(ndim))
    modes = tuple(draw(st.sampled_from(sorted(PAD))) for _ in range(ndim))
    return shape, dims, width, modes, draw(st.sampled_from("fdFDi")), draw(st.booleans())


@pytest.mark.parametrize("shared", [False, True])
def test_halos_hold_what_numpy_pads(comm, verdict, shared, monkeypatch):
    if shared:  # from the second turn on, all messages lie in memory that both sides see
        monkeypatch.setattr(transfer, "_LARGE", 1)
        monkeypatch.setattr(transfer, "_OFTEN", 2)

    @settings(max_examples=100 if shared else 150)
    @given(halos(comm.size))
    def check(case):
        shape, dims, width, modes, kind, corners = case
        with verdict(comm):
            cut = Decomposition(shape, dims)
            halo = Halo(cut, Topology.of(comm), width, np.dtype(kind), modes, 7, corners)
            whole = (np.arange(math.prod(shape)).reshape(shape) + 1).astype(kind)
            if kind in "FD":
                whole = whole * (1 - 2j)
            box = cut.box(comm.rank)
            padded = np.full(box.grow(halo.width).shape if box.size else box.shape, -1, kind)
            for _ in range(4 if shared else 0):  # others of these numbers are what the last turn must not bring
                padded[...] = -2
                halo.exchange(padded)
            padded[...] = -1
            if not box.size:
                halo.exchange(padded)
                assert padded.size == 0
                return
            inner = tuple(slice(b, b + n) for (b, _), n in zip(halo.width, box.shape, strict=True))
            padded[inner] = whole[box.slices()]
            halo.exchange(padded)
            # The padded whole array begins at -before, where this rank's padded block begins at start - before.
            oracle = pad(whole, halo.width, modes, 7)[
                tuple(slice(a, b + sum(w)) for a, b, w in zip(*box, halo.width, strict=True))
            ]
            differs = padded != oracle
            if not corners:
                outside = np.zeros(padded.shape, int)
                for d, (n, (before, after)) in enumerate(zip(padded.shape, halo.width, strict=True)):
                    i = np.arange(n).reshape([-1 if e == d else 1 for e in range(padded.ndim)])
                    outside += (i < before) | (i >= n - after)
                differs &= outside <= 1
            assert not differs.any()
            for mode, asked, got in zip(modes, width, halo.width, strict=True):
                assert got == (max(asked), max(asked)) if mode in ("reflect", "mirror") else asked == got

    check()


def test_progress_completes_nothing_by_itself(comm):
    """However often it is called, `finish` finds all messages; and the plan can be used again."""
    cut = Decomposition((4 * comm.size, 100_000), (comm.size, 1))
    halo = Halo(cut, Topology.of(comm), ((2, 2), (1, 1)), np.dtype(float), "wrap")
    for turn in range(3):
        padded = np.full((8, 100_002), np.nan)
        padded[2:-2, 1:-1] = whole = np.arange(400_000).reshape(4, -1) + (comm.rank + turn) * 1e6
        expected = np.pad(whole, ((2, 2), (1, 1)), "wrap")
        expected[:2] += ((comm.rank - 1) % comm.size - comm.rank) * 1e6
        expected[-2:] += ((comm.rank + 1) % comm.size - comm.rank) * 1e6
        halo.start(padded)
        for _ in range(1 + 300 * (comm.rank % 2)):
            halo.progress()
        halo.finish(padded)
        assert np.array_equal(padded, expected)


def test_scipy_names():
    assert boundary_modes("reflect", 2) == boundary_modes(["grid-mirror", "neumann"], 2) == ("reflect", "reflect")
    assert boundary_modes(["grid-wrap", "periodic"], 2) == ("wrap", "wrap")
    assert boundary_modes(["grid-constant", "dirichlet"], 2) == ("constant", "constant")
    assert set(MODES.values()) == set(PAD)


@pytest.mark.parametrize(
    "mode, text",
    [
        ("reflekt", r"unknown mode 'reflekt': did you mean 'reflect'\?"),
        ("zzz", "use one of"),
        (["wrap"], "1 boundary modes for 2 axes"),
    ],
)
def test_unknown_modes(mode, text):
    with pytest.raises(ValueError, match=text):
        boundary_modes(mode, 2)
