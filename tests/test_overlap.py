"""Messages that travel while the middle of a block advances: the same bits, and chosen where it is faster."""

import itertools
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import mpihpc
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.topology import Topology
from mpihpc.stencil import Stencil, Taps, evolve, named_kernel, overlap, separable
from mpihpc.stencil.fusing import choose_fuse
from mpihpc.stencil.rates import CANDIDATES, Step, job_name, name_of
from test_stencil import PAD, grids


@st.composite
def cases(draw, size):
    """Blocks that mostly have a middle."""
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(1, (200, 40, 16)[ndim - 1])) for _ in range(ndim))
    dims = draw(st.sampled_from(grids(size, ndim)))
    lengths = tuple(draw(st.integers(1, 4)) for _ in range(ndim))
    modes = tuple(draw(st.sampled_from(sorted(PAD))) for _ in range(ndim))
    return shape, dims, lengths, modes, draw(st.sampled_from("fdFD")), draw(st.integers(0, 2**31))


def test_bits_are_the_same_with_and_without(comm, verdict, monkeypatch):
    """Any mode, grid, number of fused steps; also line by line. What has not come yet is NaN, and must not be read."""
    monkeypatch.setattr(separable, "_PASS", -1000)
    monkeypatch.setattr(overlap, "slab_count", lambda shape, *_: min(3, max(1, shape[0] // 4)))
    early = []

    @settings(max_examples=100)
    @given(cases(comm.size), st.sampled_from((1, 1, 2, 3, 5)))
    def check(case, fuse):
        shape, dims, lengths, modes, kind, seed = case
        with verdict(comm):
            rng = np.random.default_rng(seed)
            kernel = rng.standard_normal(lengths)
            if seed % 3 == 0:
                kernel = np.ones(lengths)
            cut, taps = Decomposition(shape, dims), Taps.from_kernel(kernel, len(shape))
            for exact in (True, False):
                options = {"comm": comm, "mode": modes, "cval": 2.5, "threads": 1 + seed % 2, "exact": exact}
                whole = np.random.default_rng(seed).standard_normal(shape)
                results = []
                for meanwhile in (False, True):
                    plan = Stencil(cut, taps, kind, fuse=fuse, overlap=meanwhile, **options)
                    assert plan.fusing.overlap == meanwhile
                    u = mpihpc.DistArray(cut, kind, comm=comm, halo=plan.halo.width)
                    u.padded[...] = np.nan
                    u.local[...] = whole[u.box.slices()]
                    out = np.full(u.box.shape, np.nan, kind)
                    plan.apply(u.padded, out, plan.fusing.steps)
                    results.append(out)
                    early.append(len(plan._early))
                assert results[0].tobytes() == results[1].tobytes()
                assert not np.isnan(results[1]).any()

    check()
    assert sum(comm.allgather(sum(early))) > 100
    assert max(early) <= 3


@given(cases(6), st.integers(1, 5), st.integers(0, 5))
def test_boxes_cover_the_block_once(case, steps, rank):
    shape, dims, lengths, modes, _, seed = case
    width = tuple((n // 2 * steps, (n - 1) // 2 * steps) for n in lengths)
    cut = Decomposition(shape, dims)
    block = cut.box(rank)
    early, late = overlap.early_and_late(cut, rank, width, modes, 8 << seed % 6, 0)
    count = np.zeros(shape, int)
    for box in (*early, *late):
        assert box.size or not block.size
        count[box.slices()] += 1
    expected = np.zeros(shape, int)
    expected[block.slices()] = 1
    assert np.array_equal(count, expected)
    for box in early:  # what it reads is the block's own, or lies beyond the array
        reads = box.grow(width)
        for d, mode in enumerate(modes):
            assert reads.start[d] >= block.start[d] or (mode != "wrap" and block.start[d] == 0)
            assert reads.stop[d] <= block.stop[d] or (mode != "wrap" and block.stop[d] == shape[d])


def test_large_middles_advance_in_slabs():
    cut = Decomposition((8192, 4096), (2, 1))
    early, late = overlap.early_and_late(cut, 0, ((4, 4), (1, 1)), ("reflect",) * 2, 8, 3)
    assert len(early) == 5 and [box.shape for box in late] == [(4, 4096)]
    assert all(a.stop[0] == b.start[0] for a, b in itertools.pairwise(early))
    thin = overlap.early_and_late(
        Decomposition((256, 4096, 64), (2, 1, 1)), 0, ((8, 8), (1, 1), (1, 1)), ["wrap"] * 3, 8, 7
    )
    assert len(thin[0]) == 1  # each cut would be computed twice over 7 planes


def test_evolve_with_overlap(comm):
    whole = np.random.default_rng(1).standard_normal((60, 50))
    u = mpihpc.asarray(whole, comm=comm)
    for kernel, mode in [("heat", "reflect"), ("gaussian:1", ("wrap", "constant"))]:
        wanted = evolve(u, kernel, 7, mode, 0.3, overlap=False).checksum()
        assert evolve(u, kernel, 7, mode, 0.3, overlap=True).checksum() == wanted
        assert evolve(u, kernel, 7, mode, 0.3, overlap=True, fuse=3).checksum() == wanted


def test_the_model_overlaps_where_it_pays(comm, shared_tmp_path, monkeypatch):
    """A slow network that needs no help: yes. A fast one, or messages that only move while the rank waits: no."""
    step = Step(Taps.from_kernel(named_kernel("heat", 2), 2), np.dtype(float))
    cut, width = Decomposition((2048 * comm.size, 2048), (comm.size, 1)), step.taps.width
    key = job_name(comm.size, 1)
    found = {}
    for name, network in {"slow": (1e-3, 1e-8, 0.1), "busy": (1e-3, 1e-8, 1), "fast": (1e-7, 1e-12, 0.1)}.items():
        folder = shared_tmp_path / name
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        if comm.rank == 0:
            (folder / "mpihpc").mkdir(parents=True)
            known = {
                "exchanges": network,
                name_of(step): [1.5e-10 + 5e-10 / k for k in CANDIDATES],
            }
            known = {f"{key} {name}": values for name, values in known.items()}
            (folder / "mpihpc" / "rates.json").write_text(json.dumps(known))
        comm.Barrier()
        rest = width, ("reflect",) * 2, Topology.of(comm), 1
        best = choose_fuse(cut, step, *rest, 4)
        given = [choose_fuse(cut, step, *rest, overlap=overlap) for overlap in (True, False)]
        assert best.steps == 4 and [one.overlap for one in given] == [True, False]
        if name == "slow" and comm.size > 1:
            on, off = (one.seconds for one in given)
            assert on < 0.9 * off
        found[name] = best.overlap
    assert found == {"slow": comm.size > 1, "busy": False, "fast": False}
