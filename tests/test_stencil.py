"""Stencils and filters against SciPy and NumPy on the whole array, and the same bits however it is cut."""

import itertools
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import mpihpc
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.layouts import Grown
from mpihpc.core.tally import sent
from mpihpc.core.topology import Topology
from mpihpc.core.transfer import Transfer
from mpihpc.stencil import Evolution, Leapfrog, Taps, evolve, fusing, leapfrog, named_kernel, rates
from mpihpc.stencil.fusing import choose_fuse
from mpihpc.stencil.rates import Step

PAD = {"reflect": "symmetric", "mirror": "reflect", "nearest": "edge", "wrap": "wrap", "constant": "constant"}


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def correlate(whole, kernel, modes, cval, origin):
    """Padded by NumPy, added up tap by tap over the whole array, in the order of the kernel."""
    width = [(n // 2 + o, n - 1 - n // 2 - o) for n, o in zip(kernel.shape, origin, strict=True)]
    # Both sides as deep as the deeper one, so that NumPy never has to mirror a pad it has made itself.
    deep = [max(0, *w) for w in width]
    padded = whole
    for axis, mode in enumerate(modes):
        only = [(deep[d],) * 2 if d == axis else (0, 0) for d in range(whole.ndim)]
        constant = {"constant_values": cval} if mode == "constant" else {}
        padded = np.pad(padded, only, PAD[mode], **constant)
    out = np.zeros(whole.shape, np.result_type(whole, kernel))
    for place in itertools.product(*map(range, kernel.shape)):
        if kernel[place]:
            at = [d + p - w[0] for d, p, w in zip(deep, place, width, strict=True)]
            out += kernel[place] * padded[tuple(slice(a, a + n) for a, n in zip(at, whole.shape, strict=True))]
    return out


def close(got, wanted, kernel, whole, steps=1):
    """Equal to a small multiple of the rounding of the working precision."""
    scale = np.abs(kernel).sum() * max(np.abs(whole).max(initial=0), np.abs(wanted).max(initial=0), 1)
    unit = 1e-6 if got.dtype.char in "fF" else 1e-14
    assert np.abs(got - wanted).max(initial=0) <= steps * unit * scale


@st.composite
def cases(draw, size):
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(1, 9 if ndim < 3 else 5)) for _ in range(ndim))
    dims = draw(st.sampled_from(grids(size, ndim)))
    lengths = tuple(draw(st.integers(1, 8 if ndim < 3 else 4)) for _ in range(ndim))  # even, odd, longer than the axis
    origin = tuple(draw(st.integers(-(n // 2), (n - 1) // 2)) for n in lengths)
    modes = tuple(draw(st.sampled_from(sorted(PAD))) for _ in range(ndim))
    kind = draw(st.sampled_from("ifdFD"))
    return shape, dims, lengths, origin, modes, kind, draw(st.integers(0, 2**31))


def test_every_mode_agrees_with_its_oracle(comm, verdict):
    @settings(max_examples=150)
    @given(cases(comm.size))
    def check(case):
        shape, dims, lengths, origin, modes, kind, seed = case
        with verdict(comm):
            rng = np.random.default_rng(seed)
            whole = (rng.standard_normal(shape) * 9).astype(kind if kind not in "FD" else float)
            kernel = rng.standard_normal(lengths) * (rng.random(lengths) < 0.7)
            if kind in "FD":
                whole = (whole + 1j * rng.standard_normal(shape)).astype(kind)
                kernel = kernel + 1j * rng.standard_normal(lengths) if seed % 2 else kernel
            u = mpihpc.asarray(whole, comm=comm, dims=dims)
            wanted = correlate(
                whole.astype(np.promote_types(kind, "f4" if kind in "fF" else "f8")),
                kernel,
                modes,
                2.5,
                origin,
            )
            got = evolve(u, kernel, 1, modes, 2.5, origin=origin).gather(None)
            close(got, wanted, kernel, whole)
            filtered = mpihpc.ndimage.correlate(u, kernel.conj(), mode=modes, cval=2.5, origin=origin)
            assert np.array_equal(filtered.gather(None), got)
            twice = evolve(u, kernel, 2, modes, 2.5, origin=origin).gather(None)
            close(twice, correlate(wanted, kernel, modes, 2.5, origin), kernel, wanted, 2 + np.abs(kernel).sum())

    check()


def test_bits_do_not_depend_on_fused_steps(comm, verdict):
    """Any number of steps per exchange, grid, mode, thread count: what single steps give."""

    @settings(max_examples=60)
    @given(cases(comm.size), st.integers(1, 9), st.integers(1, 3))
    def check(case, steps, threads):
        shape, dims, lengths, origin, modes, kind, seed = case
        with verdict(comm):
            rng = np.random.default_rng(seed)
            whole = rng.standard_normal(shape).astype(kind)
            kernel = rng.standard_normal(lengths) / math.prod(lengths)
            u = mpihpc.asarray(whole, comm=comm, dims=dims)
            options = {"mode": modes, "cval": 2.5, "origin": origin, "threads": threads}
            single = evolve(u, kernel, steps, fuse=1, **options).checksum()
            for fuse in (2, 3, 4, 8, None):
                assert evolve(u, kernel, steps, fuse=fuse, **options).checksum() == single

    check()


def test_fields_and_two_levels(comm, verdict):
    """`evolve` with a field and `leapfrog` against NumPy on the whole array; the same bits for any fused steps."""

    @settings(max_examples=80)
    @given(cases(comm.size), st.integers(0, 5), st.booleans(), st.integers(1, 3))
    def check(case, steps, two, threads):
        shape, dims, lengths, origin, modes, kind, seed = case
        with verdict(comm):
            rng = np.random.default_rng(seed)
            whole, before = ((rng.standard_normal(shape) * 9).astype(kind) for _ in range(2))
            kernel = rng.standard_normal(lengths) / math.prod(lengths)
            factor = rng.random(shape)
            u, previous, field = (mpihpc.asarray(a, comm=comm, dims=dims) for a in (whole, before, factor))
            options = {"mode": modes, "cval": 2.5, "origin": origin, "threads": threads}
            work = np.result_type(whole.dtype, "f4" if kind in "fF" else "f8")
            now, last, size = whole.astype(work), before.astype(work), 1.0
            for _ in range(steps):
                change = factor * correlate(now, kernel, modes, 2.5, origin)
                now, last = (2 * now - last + change if two else now + change), now
                size = max(size, np.abs(now).max(initial=0))
            sums = set()
            for fuse, overlap in ((1, None), (2, True), (4, None), (3, True), (None, None)):
                options["overlap"] = overlap
                if two:
                    got, kept = leapfrog(u, previous, kernel, steps, fuse=fuse, field=field, **options)
                    sums.add((got.checksum(), kept.checksum()))
                else:
                    got = kept = evolve(u, kernel, steps, fuse=fuse, field=field, **options)
                    sums.add(got.checksum())
            assert len(sums) == 1
            unit = (1e-6 if kind in "fF" else 1e-14) * size * 4**steps * (1 + np.abs(kernel).sum())
            assert np.abs(got.gather(None) - now).max(initial=0) <= unit
            if two:
                assert np.abs(kept.gather(None) - last).max(initial=0) <= unit

    check()


@pytest.mark.parametrize("order", [2, 4, 8])
def test_a_standing_wave_converges_with_its_order(comm, order):
    """``cos(pi k t) cos(pi k x)`` between mirrors; the time step is so small that space decides the error."""
    k, end, errors = 3, 0.25, []
    for n in (16, 32):  # cells; cell i lies at (i + 1/2) / n
        steps = {2: 8, 4: 40, 8: 700}[order] * (n // 16) ** (order // 2)
        courant = (end / steps * n) ** 2
        u = mpihpc.fromfunction(lambda i, n=n: np.cos(np.pi * k * (i + 0.5) / n), n, comm=comm)
        half, field = (mpihpc.full(n, value, comm=comm) for value in (courant / 2, courant))
        kernel = f"laplace:{order}"
        last = evolve(u, kernel, 1, "reflect", field=half)
        # From rest, the value at dt is that at -dt too.
        new, _ = leapfrog(u, last, kernel, steps, "reflect", field=field)
        exact = np.cos(np.pi * k * end) * np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
        errors.append(np.abs(new.gather(None) - exact).max())
    assert order - 0.3 < math.log2(errors[0] / errors[1]) < order + 0.3, errors


def test_plans_refuse_other_arrays(comm):
    taps = Taps.from_kernel(named_kernel("laplace", 2), 2)
    u = mpihpc.zeros((12, 9), comm=comm, halo=3)
    plan = Leapfrog(u.decomposition, taps, np.dtype(float), comm=comm, fuse=1)
    with pytest.raises(ValueError, match="the plan is for"):
        plan.run(u, u, 2)
    with pytest.raises(TypeError, match="overlap 'off' is not True, False or None"):
        evolve(u, "heat", 1, overlap="off")
    with pytest.raises(ValueError, match=r"field is on a different communicator than u \(1 and"):
        alone = mpihpc.zeros((12, 9), comm=MPI.COMM_SELF)
        evolve(u, "heat", 1, field=alone)


def test_plain_waves_need_no_field(comm):
    u = mpihpc.fromfunction(lambda i, j: np.sin(i) + j, (12, 9), comm=comm)
    kernel = named_kernel("laplace", 2) / 4
    ones = mpihpc.full((12, 9), 1.0, comm=comm)
    a, b = leapfrog(u, u, kernel, 5), leapfrog(u, u, kernel, 5, field=ones)
    assert [x.checksum() for x in a] == [x.checksum() for x in b]


def kept_rates(folder, comm):
    """The user's file of rates, and how its keys begin."""
    return folder / "mpihpc" / "rates.json", rates.job_name(comm.size, 1)


NO_RATES = [None, "", "[1, 2]", "[[1, 2]]", '{"%s exchanges": 1}', '{"%s exchanges": [0]}', '{"%s exchanges": [NaN]}']
NO_RATES += ['{"%s exchanges": [1e-11], "x": "y"}', '{"%s exchanges": [1e-6]}']


@pytest.mark.parametrize("content", NO_RATES)
def test_rates_are_measured_where_none_are_kept(comm, shared_tmp_path, monkeypatch, content):
    """Nothing, or rubbish, in the user's cache folder does no harm; what is measured is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_tmp_path))
    monkeypatch.setattr(rates, "SAMPLE", {2: (64, 512)})  # what it measures does not matter here
    file, key = kept_rates(shared_tmp_path, comm)
    if comm.rank == 0 and content is not None:
        file.parent.mkdir()
        file.write_text(content.replace("%s", key))
    step = Step(Taps.from_kernel(named_kernel("heat", 2), 2), np.dtype("f4"), field=True, levels=2)
    found = rates.measured(Topology.of(comm), 1, step)
    assert len(set(comm.allgather(found))) == 1
    assert len(found.seconds_per_cell) == len(rates.CANDIDATES) and all(0 < s < 1e-4 for s in found.seconds_per_cell)
    assert 0 < found.latency < 1 and 0 <= found.seconds_per_byte < 1e-4 and 0 <= found.exposed <= 1
    if comm.rank == 0:
        kept = json.loads(file.read_text())
        assert sum(name.startswith(key) for name in kept) == 2 and kept[f"{key} exchanges"][0] == found.latency
    assert rates.measured(Topology.of(comm), 1, step) == found


def test_ranks_on_unlike_machines_choose_alike(comm, shared_tmp_path, monkeypatch):
    """Names, caches' sizes and kept rates differ from rank to rank: they measure together, and fuse as many steps."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_tmp_path))
    monkeypatch.setattr(rates, "SAMPLE", {2: (64, 512)})
    monkeypatch.setattr(rates.platform, "node", lambda: f"node{comm.rank}")
    monkeypatch.setattr(fusing, "_LARGE", 1)
    cost = fusing.cpu.tile_cost
    monkeypatch.setattr(
        fusing, "cpu", SimpleNamespace(tile_cost=lambda *args: cost(*args) * (args[3] ** 3 if comm.rank else 1))
    )
    cut = Decomposition.balanced((64, 512), comm.size)
    for alpha in ("heat:0.1", "heat:0.2", "mean:3"):  # the second finds the rates of the first
        taps = Taps.from_kernel(named_kernel(alpha, 2), 2)
        step = Step(taps, np.dtype(float))
        found = choose_fuse(cut, step, taps.width, ("wrap",) * 2, Topology.of(comm), 1)
        assert found.seconds and len(set(comm.allgather(found))) == 1


def test_nothing_is_measured_where_nothing_is_chosen(comm, monkeypatch):
    monkeypatch.setattr(fusing, "_LARGE", 1)
    monkeypatch.setattr(fusing, "measured", None)  # would fail
    u = mpihpc.fromfunction(lambda i, j: i * j, (30, 20), comm=comm)
    wanted = evolve(u, "heat", 6, fuse=1, overlap=False).checksum()
    assert evolve(u, "heat", 6, fuse=3, overlap=False).checksum() == wanted
    one = evolve(u, "heat", 1, overlap=False)
    assert all(max(width) <= 1 for width in one.halo)  # not deeper than one step needs
    mpihpc.ndimage.correlate(u, np.ones((3, 3)))


def test_the_model_fuses_steps_of_large_blocks(comm, shared_tmp_path, monkeypatch):
    """By rates like those of a real machine: more than one step where memory is what a step waits for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_tmp_path))
    file, key = kept_rates(shared_tmp_path, comm)
    step = Step(Taps.from_kernel(named_kernel("heat", 2), 2), np.dtype(float))
    width = step.taps.width
    if comm.rank == 0:
        file.parent.mkdir()
        known = {
            "exchanges": [5e-6, 2e-10, 1],
            rates.name_of(step): [1.5e-10 + 5e-10 / k for k in rates.CANDIDATES],
        }
        file.write_text(json.dumps({f"{key} {name}": values for name, values in known.items()}))
    cut = Decomposition((2048 * comm.size, 2048), (comm.size, 1))
    choose = partial(choose_fuse, cut, step, width, ("reflect",) * 2, Topology.of(comm), 1)
    best = choose()
    if comm.rank == 0:
        assert len(json.loads(file.read_text())) == len(known)  # nothing was measured
    assert best.steps > 4 and 0 < best.seconds < 2048 * 2048 * 6.5e-10  # that of single steps
    assert choose(total=3).steps == 3
    few = Decomposition((8 * comm.size, 8), (comm.size, 1))
    small = choose_fuse(few, step, width, ("wrap",) * 2, Topology.of(comm), 1)
    assert small.seconds is None  # nothing is measured, nothing predicted
    # What is computed twice costs more with many taps: then fewer steps at once.
    many = Step(Taps.from_kernel(named_kernel("gaussian:2", 2), 2), np.dtype(float))
    cut = Decomposition((100 * comm.size, 100), (comm.size, 1))
    few, more = (choose_fuse(cut, s, s.taps.width, ("wrap",) * 2, Topology.of(comm), 1).steps for s in (many, step))
    assert few < more


def test_messages_and_bytes_of_fused_steps(comm):
    """One exchange for several steps: at most 3^D - 1 messages, and little more than the bytes of single layers."""
    u = mpihpc.zeros((32, 32, 64), "f4", comm=comm)
    taps = Taps.from_kernel(named_kernel("heat", 3), 3)
    for fuse in (1, 2, 4, 8):
        plan = Evolution(u.decomposition, taps, np.float32, comm=comm, fuse=fuse, mode="wrap")
        v = mpihpc.zeros(u.shape, "f4", comm=comm, halo=plan.stencil.halo.width, dims=u.decomposition.dims)
        before = sent.messages, sent.bytes
        plan.run(v, 8)
        exchanges = 8 // fuse
        assert sent.messages - before[0] == exchanges * plan.stencil.halo.messages
        assert sent.bytes - before[1] == exchanges * plan.stencil.halo.bytes
        cut = sum(p > 1 for p in u.decomposition.dims)
        assert plan.stencil.halo.messages <= (2 * cut if fuse == 1 else 3**cut - 1)
        n = u.decomposition.box(comm.rank).shape
        own = [k + 2 * fuse * (p == 1) for k, p in zip(n, u.decomposition.dims, strict=True)]  # also around the ring
        assert plan.stencil.halo.bytes <= 4 * (math.prod(k + 2 * fuse for k in n) - math.prod(own))


def test_deep_halos_of_a_large_block_cost_few_bytes():
    """256^3 cells on the inner rank of 27: at most 1.07 times the bytes of one layer of faces for each step."""
    cut = Decomposition((768,) * 3, (3, 3, 3))
    faces = 6 * 256**2
    for fuse in range(1, 9):
        grown = Grown(cut, ((fuse, fuse),) * 3, (False,) * 3, corners=fuse > 1)
        schedule = Transfer(cut, grown, in_place=True).schedule(13)
        assert schedule.cells_sent <= 1.07 * fuse * faces
        assert len(schedule.sends) == (6 if fuse == 1 else 26)


@pytest.mark.parametrize("function", ["correlate", "convolve"])
def test_filters_are_scipys(comm, function):
    """One mode for all axes, as SciPy has it, under all its names; kernels of even and odd size, all origins."""
    rng = np.random.default_rng(1)
    scipys, ours = getattr(scipy.ndimage, function), getattr(mpihpc.ndimage, function)
    modes = [*PAD, "grid-mirror", "grid-constant", "grid-wrap"]
    for shape, lengths in [((11, 9), (3, 4)), ((10,), (5,)), ((9,), (4,)), ((7, 6, 5), (2, 3, 1))]:
        whole, kernel = rng.random(shape), rng.random(lengths)
        u = mpihpc.asarray(whole, comm=comm)
        for mode in modes:
            for origin in itertools.product(*(range(-(n // 2), (n - 1) // 2 + 1) for n in lengths)):
                wanted = scipys(whole, kernel, mode=mode, cval=0.7, origin=origin)
                got = ours(u, kernel, mode=mode, cval=0.7, origin=origin).gather(None)
                assert np.allclose(got, wanted, rtol=1e-14, atol=1e-14), (mode, origin)


def test_filter_arguments_are_scipys(comm):
    rng = np.random.default_rng(2)
    whole = rng.random((9, 8, 7))
    u = mpihpc.asarray(whole, comm=comm)
    kernel = rng.random((3, 2))
    for axes in [(0, 1), (2, 0), (-1, 1)]:
        wanted = scipy.ndimage.correlate(
            whole, kernel if axes[0] % 3 < axes[1] % 3 else kernel.T, axes=tuple(sorted(a % 3 for a in axes))
        )
        got = mpihpc.ndimage.correlate(u, kernel, axes=axes)
        assert np.allclose(got.gather(None), wanted, rtol=1e-14)
    line = rng.random(4)
    assert np.allclose(
        mpihpc.ndimage.convolve(u, line, axes=1, origin=1).gather(None),
        scipy.ndimage.convolve1d(whole, line, axis=1, origin=1),
    )
    complex_kernel = rng.random((3, 3)) + 1j * rng.random((3, 3))
    plane = rng.random((6, 5)) + 1j
    v = mpihpc.asarray(plane, comm=comm)
    for ours, scipys in [
        (mpihpc.ndimage.correlate, scipy.ndimage.correlate),
        (mpihpc.ndimage.convolve, scipy.ndimage.convolve),
    ]:
        assert np.allclose(ours(v, complex_kernel).gather(None), scipys(plane, complex_kernel))


def test_output(comm):
    whole = np.arange(30).reshape(6, 5)
    u = mpihpc.asarray(whole, comm=comm)
    kernel = np.full((3, 3), 1 / 9)
    assert mpihpc.ndimage.correlate(u, kernel).dtype == np.float64
    wanted = scipy.ndimage.correlate(whole.astype(float), kernel)
    for dtype in ("f4", "f8", "i4", complex):
        got = mpihpc.ndimage.correlate(u, kernel, output=dtype)
        assert got.dtype == dtype
        assert np.allclose(got.gather(None), wanted.astype(dtype), atol=1e-5)
        given_array = mpihpc.zeros(u.shape, dtype, comm=comm)
        assert mpihpc.ndimage.correlate(u, kernel, output=given_array) is given_array
        assert np.array_equal(given_array.gather(None), got.gather(None))
    assert np.array_equal(u.gather(None), whole)


def test_bits_do_not_depend_on_the_cut(comm):
    """At least 30 grids in 1-D to 3-D, against the checksum of the array on one rank of its own."""
    from mpi4py import MPI

    rng = np.random.default_rng(3)
    count = 0
    sizes = range(1, comm.size + 1)
    for shape in [(61,), (23, 17), (9, 10, 11)]:
        whole = rng.standard_normal(shape)
        for kernel, mode in [("gaussian:1", "reflect"), ("laplace:4", "wrap"), ("heat:0.07", "constant")]:
            alone = evolve(mpihpc.asarray(whole, comm=MPI.COMM_SELF), kernel, 4, mode, 0.3).checksum()
            for size in sizes:
                part = comm.Split(0 if comm.rank < size else MPI.UNDEFINED, comm.rank)
                for dims in grids(size, len(shape)):
                    if part != MPI.COMM_NULL:
                        u = mpihpc.asarray(whole, comm=part, dims=dims)
                        assert evolve(u, kernel, 4, mode, 0.3, threads=1 + count % 2).checksum() == alone
                    count += 1
                if part != MPI.COMM_NULL:
                    part.Free()
    assert count >= (30 if comm.size >= 3 else 9)


def test_float32_accumulates_in_float32_within_its_bound(comm):
    whole = np.random.default_rng(4).standard_normal((30, 20)).astype("f4")
    kernel = named_kernel("gaussian:1.5", 2)
    got = evolve(mpihpc.asarray(whole, comm=comm), kernel, 1)
    assert got.dtype == np.float32
    exact = scipy.ndimage.correlate(whole.astype(float), kernel)
    assert np.abs(got.gather(None) - exact).max() <= 1e-6 * np.abs(kernel).sum() * np.abs(whole).max()


def test_a_sine_decays_as_theory_says(comm):
    """The discrete heat equation on a ring multiplies a sine by 1 - 4 alpha sin(pi k / n)**2 each step."""
    n, k, alpha, steps = 48, 3, 0.2, 100
    u = mpihpc.fromfunction(lambda i: np.sin(2 * np.pi * k * i / n), (n,), comm=comm)
    got = evolve(u, f"heat:{alpha}", steps, "periodic").gather(None)
    factor = (1 - 4 * alpha * math.sin(math.pi * k / n) ** 2) ** steps
    assert np.allclose(got, factor * np.sin(2 * np.pi * k * np.arange(n) / n), atol=1e-13)


def test_named_kernels_do_what_they_say(comm):
    rng = np.random.default_rng(5)
    whole = rng.random((40, 30))
    u = mpihpc.asarray(whole, comm=comm)
    assert np.allclose(evolve(u, "gaussian:2", 1).gather(None), scipy.ndimage.gaussian_filter(whole, 2), rtol=1e-12)
    assert np.allclose(evolve(u, "mean:5", 1).gather(None), scipy.ndimage.uniform_filter(whole, 5), rtol=1e-12)
    for axis in (0, 1, -1):
        wanted = scipy.ndimage.sobel(whole, axis)
        assert np.allclose(evolve(u, f"sobel:{axis}", 1).gather(None), wanted, atol=1e-13)
    assert np.array_equal(evolve(u, "identity", 3).gather(None), whole)
    laplace = scipy.ndimage.laplace(whole)
    assert np.allclose(evolve(u, "laplace", 1).gather(None), laplace, atol=1e-13)
    assert np.allclose(evolve(u, "sharpen", 1).gather(None), whole - laplace, atol=1e-13)
    assert np.allclose(evolve(u, "heat:0.2", 1).gather(None), whole + 0.2 * laplace, atol=1e-13)
    # An order-p Laplacian is exact on polynomials up to degree p + 1.
    x = np.arange(-12.0, 13)
    for order in (2, 4, 6, 8):
        p = mpihpc.asarray(x**order, comm=comm)
        got = evolve(p, f"laplace:{order}", 1).gather(None)[order:-order]
        exact = (order * (order - 1) * x ** (order - 2))[order:-order]
        assert np.allclose(got, exact, rtol=1e-9, atol=1e-9 * 12**order)


def test_halo_bytes_of_a_star_are_those_of_its_faces(comm):
    """Faces only, one layer: the bytes that must move, and not one more."""
    shape = (24, 24)
    u = mpihpc.zeros(shape, "f4", comm=comm)
    before = sent.messages, sent.bytes
    evolve(u, "heat", 5, "constant", fuse=1)
    box = u.decomposition.box(comm.rank)
    faces = [box.shape[1 - d] for d in (0, 1) for edge in (box.start[d] > 0, box.stop[d] < shape[d]) if edge]
    assert sent.messages - before[0] == 5 * len(faces)
    assert sent.bytes - before[1] == 5 * 4 * sum(faces)


def test_input_is_not_changed_and_steps_0_copies(comm):
    whole = np.random.default_rng(6).random((12, 7))
    u = mpihpc.asarray(whole, comm=comm, halo=1)
    same = evolve(u, "heat", 0)
    evolve(u, "heat", 3)
    assert np.array_equal(u.gather(None), whole) and np.array_equal(same.gather(None), whole)
    assert same is not u
    assert evolve(mpihpc.ones(5, int, comm=comm), "heat", 0).dtype == float


def test_the_plan_is_used_again(comm):
    whole = np.random.default_rng(7).random((12, 7))
    u = mpihpc.asarray(whole, comm=comm)
    plan = Evolution(u.decomposition, Taps.from_kernel(named_kernel("mean:3", 2), 2), float, comm=comm, fuse=2)
    seen = []
    for _ in range(2):
        v = mpihpc.asarray(whole, comm=comm, halo=plan.stencil.halo.width, dims=u.decomposition.dims)
        wanted = evolve(u, "mean:3", 3).checksum()
        assert plan.run(v, 3, seen.append).checksum() == wanted
    assert seen == [2, 3] * 2
    evolve(u, "heat", 3, callback=seen.append)
    assert seen[4:] == [1, 2, 3]
    with pytest.raises(ValueError, match="the plan is for"):
        plan.run(mpihpc.asarray(whole, comm=comm), 1)


def test_fewer_kernel_axes_work_on_each_slice(comm):
    whole = np.random.default_rng(8).random((4, 9, 8))
    got = evolve(mpihpc.asarray(whole, comm=comm), np.ones((3, 3)), 1).gather(None)
    for plane, result in zip(whole, got, strict=True):
        assert np.allclose(result, scipy.ndimage.correlate(plane, np.ones((3, 3))))


def test_more_ranks_than_cells_and_no_cells(comm):
    for shape in [(1,), (2, 1), (0,), (0, 4), (1, 1, 1)]:
        whole = np.arange(math.prod(shape), dtype=float).reshape(shape) + 1
        u = mpihpc.asarray(whole, comm=comm)
        for mode in PAD:
            got = evolve(u, np.ones((3,) * len(shape)), 2, mode).gather(None)
            assert got.shape == shape
            if whole.size:
                kernel = np.ones((3,) * len(shape))
                once = correlate(whole, kernel, [mode] * len(shape), 0.0, (0,) * len(shape))
                assert np.allclose(got, correlate(once, kernel, [mode] * len(shape), 0.0, (0,) * len(shape)))


@pytest.mark.parametrize(
    "error, text, options",
    [
        (ValueError, "steps -1 is negative", {"steps": -1}),
        (TypeError, "integer", {"steps": 1.5}),
        (ValueError, r"did you mean 'gaussian'\?", {"kernel": "gausian:2"}),
        (ValueError, "needs an argument", {"kernel": "mean"}),
        (ValueError, "not 'x'", {"kernel": "heat:x"}),
        (ValueError, "takes no argument", {"kernel": "sharpen:2"}),
        (ValueError, "order 3", {"kernel": "laplace:3"}),
        (ValueError, "sigma -1", {"kernel": "gaussian:-1"}),
        (ValueError, "size 0", {"kernel": "mean:0"}),
        (ValueError, "sobel axis 2", {"kernel": "sobel:2"}),
        (ValueError, "the kernel has 3 axes, the input has 2", {"kernel": np.ones((3, 3, 3))}),
        (ValueError, "1 of the kernel's 3 weights", {"kernel": [1, np.nan, 1]}),
        (ValueError, "holds no weights", {"kernel": np.ones((0, 3))}),
        (TypeError, "the kernel is .*not numeric", {"kernel": np.array(["a"])}),
        (ValueError, r"did you mean 'wrap'\?", {"mode": "wrapp"}),
        (ValueError, "3 boundary modes for 2 axes", {"mode": ["wrap"] * 3}),
        (ValueError, "origin 2 is outside a kernel of length 3", {"origin": 2}),
        (TypeError, "cval", {"cval": 1j, "mode": "constant"}),
        (TypeError, "int32", {"dtype": "i4"}),
        (ValueError, "threads 0", {"threads": 0}),
        (ValueError, "fuse 0 is not from 1 to 64", {"fuse": 0}),
    ],
)
def test_bad_input_is_the_same_line_on_all_ranks(comm, error, text, options):
    arguments = {"kernel": "heat", "steps": 1} | options
    with pytest.raises(error, match=text) as caught:
        evolve(mpihpc.zeros((5, 4), comm=comm), **arguments)
    assert len(set(comm.allgather(str(caught.value)))) == 1


def test_more_bad_input(comm):
    with pytest.raises(ValueError, match="1 to 4 axes, the input has 5"):
        evolve(mpihpc.zeros((2,) * 5, comm=comm), np.ones(3), 1)
    with pytest.raises(TypeError, match=r"mpihpc\.asarray"):
        evolve(np.zeros(3), "heat", 1)
    with pytest.raises(TypeError, match="complex"):
        evolve(mpihpc.zeros(3, complex, comm=comm), "heat", 1, dtype="f8")
    u = mpihpc.zeros((4, 4), comm=comm)
    for wrong, text in [
        ({"field": 2.0}, "field must be a DistArray, not float"),
        ({"field": mpihpc.zeros((4, 5), comm=comm)}, "field must have the decomposition of u"),
        ({"field": mpihpc.zeros((4, 4), complex, comm=comm)}, "field is complex128, it must be real"),
        ({"previous": np.zeros((4, 4))}, "previous must be a DistArray, not ndarray"),
        ({"previous": mpihpc.zeros((3, 4), comm=comm)}, "previous must have the decomposition of u"),
    ]:
        with pytest.raises((ValueError, TypeError), match=text) as caught:
            leapfrog(u, **{"previous": u, "kernel": "laplace", "steps": 1} | wrong)
        assert len(set(comm.allgather(str(caught.value)))) == 1
    for arguments, text in [
        ({"weights": np.ones(3)}, "weights have 1 axis, the input has 2"),
        ({"weights": np.ones((3, 3)), "output": u}, "input itself"),
        ({"weights": np.ones((3, 3)), "output": mpihpc.zeros((4, 5), comm=comm)}, "decomposition"),
        ({"weights": np.ones((3, 3)), "axes": (0, 0)}, "not distinct"),
        ({"weights": np.ones((3, 3)), "axes": (0, 2)}, "not distinct axes"),
    ]:
        with pytest.raises(ValueError, match=text):
            mpihpc.ndimage.correlate(u, **arguments)


def test_one_libmpi_in_the_process():
    maps = Path("/proc/self/maps").read_text().splitlines()
    files = {line.split()[-1] for line in maps if "/libmpi.so" in line}
    assert len({Path(f).resolve() for f in files}) == 1
