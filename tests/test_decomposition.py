"""Cutting arrays: exhaustive on small cases, and one rank of a million."""

import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest

from mpihpc.core.decomposition import Box, Decomposition, halo_width
from mpihpc.core.layouts import Grown
from mpihpc.core.transfer import Transfer

SHAPES = [(0,), (1,), (5,), (7,), (3, 4), (1, 6), (0, 3), (5, 5), (2, 3, 4), (3, 1, 2, 2)]


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def cells(box):
    return set(itertools.product(*(range(a, b) for a, b in zip(*box, strict=True))))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 9])
def test_blocks_are_disjoint_cover_and_are_owned(shape, size):
    for dims in grids(size, len(shape)):
        cut = Decomposition(shape, dims)
        owned = [cells(cut.box(rank)) for rank in range(size)]
        assert sum(map(len, owned)) == math.prod(shape)
        assert set().union(*owned) == cells(Box.whole(shape))
        for rank in range(size):
            assert cut.rank(cut.coords(rank)) == rank
            assert len(owned[rank]) == cut.box(rank).size
        for start in itertools.product(*(range(n + 1) for n in shape)):
            for extent in (1, 2, max(shape)):
                box = Box(start, tuple(min(a + extent, n) for a, n in zip(start, shape, strict=True)))
                wanted = [r for r in range(size) if owned[r] & cells(box)]
                assert cut.owners(box) == wanted


@pytest.mark.parametrize("n", range(12))
@pytest.mark.parametrize("p", range(1, 9))
def test_axes_are_cut_as_array_split_cuts_them(n, p):
    cut = Decomposition((n,), (p,))
    blocks = np.array_split(np.arange(n), p)
    for rank, block in enumerate(blocks):
        assert list(range(*cut.box(rank).slices()[0].indices(n))) == list(block)
    assert [cut.block(0, i) for i in range(n)] == [r for r, block in enumerate(blocks) for _ in block]


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4), (1, 6), (2, 3, 4)])
@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_grown_blocks_against_brute_force(shape, size, corners):
    widths = [tuple((i % 3, (i + k) % 4) for i in range(len(shape))) for k in range(1, 4)]
    for dims, width in itertools.product(grids(size, len(shape)), widths):
        for periodic in itertools.product([False, True], repeat=len(shape)):
            grown = Grown(Decomposition(shape, dims), width, periodic, corners)
            seen = {}
            for rank in range(size):
                box = grown.decomposition.box(rank)
                wanted = {}  # place -> global cell
                for at in cells(box.grow(width)) if box.size else ():
                    outside = sum(not a <= i < b for i, a, b in zip(at, *box, strict=True))
                    where = tuple(i % n if p else i for i, n, p in zip(at, shape, periodic, strict=True))
                    inside = all(0 <= i < n for i, n in zip(where, shape, strict=True))
                    if inside and (corners or outside <= 1):
                        wanted[at] = where
                found = {
                    tuple(i + s for i, s in zip(cell, part.shift, strict=True)): cell
                    for part in grown.parts(rank)
                    for cell in cells(part.box)
                }
                assert found == wanted
                seen[rank] = set(wanted.values())
            for cell in cells(Box.whole(shape)):
                owners = grown.owners(Box(cell, tuple(i + 1 for i in cell)))
                assert owners == sorted(owners)
                assert {r for r in range(size) if cell in seen[r]} <= set(owners)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(64, 64), (100, 10), (10, 100), (16, 16, 16), (40, 8, 8), (500,)])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 12])
def test_the_balanced_grid_sends_the_fewest_bytes(shape, size, periodic):
    def sent(dims):
        cut = Decomposition(shape, dims)
        plan = Transfer(cut, Grown(cut, ((1, 1),) * len(shape), (periodic,) * len(shape)), in_place=True)
        return sum(plan.schedule(rank).cells_sent for rank in range(size))

    chosen = Decomposition.balanced(shape, size, periodic=periodic)
    # An undivided periodic axis wraps inside each block, but its corners travel along: a few cells that do not count.
    corners = 2 ** len(shape) * sum(chosen.dims) * len(shape) * size if periodic else 0
    assert sent(chosen.dims) <= min(sent(dims) for dims in grids(size, len(shape))) + corners
    assert chosen.size == size


def test_ties_keep_the_last_axes_whole():
    assert Decomposition.balanced((64, 64), 2).dims == (2, 1)
    assert Decomposition.balanced((64, 64), 6).dims == (3, 2)
    assert Decomposition.balanced((64, 64, 64), 2).dims == (1, 2, 1)
    assert Decomposition.balanced((64, 64, 64), 8).dims == (2, 2, 2)


def test_no_rank_is_left_without_cells_where_that_can_be():
    assert Decomposition.balanced((3, 1000), 4).dims == (1, 4)
    assert Decomposition.balanced((4, 3), 8).dims == (4, 2)
    assert Decomposition.balanced((3,), 8).dims == (8,)


def test_a_halo_plan_for_one_rank_of_a_million_is_small_and_quick():
    cut = Decomposition.balanced((100_000, 100_000), 1_000_000)
    grown = Grown(cut, ((2, 2), (2, 2)), (True, False))
    plan = Transfer(cut, grown, in_place=True)
    plan.schedule(1)  # nothing is imported or compiled later
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        schedule = plan.schedule(500_000)
        seconds.append(time.perf_counter() - begin)
    tracemalloc.start()
    plan.schedule(500_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 5 <= len(schedule.sends) <= 8
    assert min(seconds) < 0.010
    assert peak < 10e6


def test_the_grid_for_a_million_ranks_is_chosen_quickly():
    begin = time.perf_counter()
    assert Decomposition.balanced((1000, 1000, 1000), 1_000_000).dims == (100, 100, 100)
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: Decomposition((4, 4), (2,)), "grid 2 has 1 axis, the array has 2"),
        (lambda: Decomposition((), ()), "0 axes"),
        (lambda: Decomposition((-1,), (1,)), "negative"),
        (lambda: Decomposition((4,), (0,)), "no ranks"),
        (lambda: Decomposition.balanced((9, 9), 8, dims=(3, 3)), "grid 3x3 needs 9 ranks, the job has 8"),
        (lambda: Decomposition((4,), (2,)).coords(2), "rank 2 is not one of the 2"),
        (lambda: halo_width((1, 2, 3), 2), "3 axes, the array has 2"),
        (lambda: halo_width(-1, 2), "negative"),
    ],
)
def test_errors_name_both_numbers(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("halo", [[(1,)], [(1, 2, 3)], 1.5, "x", [1.5], None])
def test_what_is_no_halo(halo):
    with pytest.raises(TypeError, match="is not a depth, one per axis, or one"):
        halo_width(halo, 1)
