"""Products of matrices: right numbers, the fewest words, the same bits, and no more workspace than was said."""

import itertools
import math
import mmap
import operator
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

import mpihpc
from mpihpc import DistArray, linalg
from mpihpc.core import scratch
from mpihpc.core.decomposition import Decomposition
from mpihpc.core.tally import received, sent
from mpihpc.core.transfer import Transfer
from mpihpc.linalg import Counts, ProductPlan, error_bound, gram, layouts, matmul, outer
from mpihpc.linalg import product as product_module

SIZES = (2, 3, 4, 6, 8, 12, 16)
SHAPES = {  # m, n, k, divisible by all that these sizes can cut them into
    "square": (96, 96, 96),
    "tall": (4800, 48, 48),
    "flat": (480, 480, 48),
    "deep": (48, 48, 4800),
    "wide": (48, 4800, 96),
}
# Rows of A, columns of B, and elements of the busiest rank's part of C, in units of n^2: the table.
SQUARE = {2: 0.5, 3: Fraction(2, 3), 4: 0.5, 6: 0.5, 8: 0.375, 16: 0.3125}


def factorisations(size):
    return [g for g in itertools.product(range(1, size + 1), repeat=3) if math.prod(g) == size]


def grids(size):
    return [g for g in itertools.product(range(1, size + 1), repeat=2) if math.prod(g) == size]


def formula(m, n, k, grid, size):
    """What a rank receives when all blocks are even, and all ranks share the matrices."""
    pm, pn, pk = grid
    faces = Fraction(m * k, pm * pk) + Fraction(k * n, pk * pn) + Fraction(m * n, pm * pn)
    return faces - Fraction(m * k + k * n + m * n, size)


def made(shape, dtype, seed):
    """The same on all ranks."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind in "iu":
        return rng.integers(-5 if np.dtype(dtype).kind == "i" else 0, 50, shape).astype(dtype)
    values = rng.random(shape) - 0.5
    return (values + 1j * rng.random(shape) if np.dtype(dtype).kind == "c" else values).astype(dtype)


def wide(a):
    return a.astype(complex if a.dtype.kind == "c" else int if a.dtype.kind in "iub" else float)


def assert_close(got, a, b):
    """`got` is a @ b, as near as the bound says; integers overflow as NumPy's do."""
    if got.dtype.kind in "iu":
        assert np.array_equal(got, (wide(a) @ wide(b)).astype(got.dtype))
        return
    bound = error_bound(a.shape[-1], got.dtype) * (np.abs(wide(a)) @ np.abs(wide(b)))
    assert np.all(np.abs(got - wide(a) @ wide(b)) <= bound)


def in_layout(whole, cut, comm):
    """A global array spread as a decomposition says."""
    new = DistArray(cut, whole.dtype, comm=comm)
    new.local[...] = whole[new.box.slices()]
    return new


# ---- the plan, without messages


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHAPES)
def test_plan_is_the_exhaustive_optimum(name, size):
    m, n, k = SHAPES[name]
    fit = [g for p in range(1, size + 1) for g in factorisations(p)]
    least = min(formula(m, n, k, g, size) for g in fit)
    plan = ProductPlan(m, n, k, size)
    assert math.prod(plan.grid) == size
    assert plan.words == least == formula(m, n, k, plan.grid, size)
    if name == "square" and size in SQUARE:
        assert plan.words / Fraction(m * m) == SQUARE[size]


def test_awkward_numbers_of_ranks_leave_some_idle():
    for size, grid in ((5, (2, 2, 1)), (7, (3, 2, 1)), (11, (2, 2, 2)), (13, (3, 2, 2))):
        plan = ProductPlan(3600, 3600, 3600, size)
        all_grids = [g for p in range(1, size + 1) for g in factorisations(p)]
        least = min(formula(3600, 3600, 3600, g, size) for g in all_grids)
        assert formula(3600, 3600, 3600, plan.grid, size) == least
        assert plan.grid == grid
        assert [plan.own(0).box(rank).size for rank in range(math.prod(grid), size)] == [0] * (size - math.prod(grid))


lengths = st.integers(0, 40)


@settings(max_examples=40)
@given(lengths, lengths, lengths, st.integers(1, 12), st.booleans(), st.data())
def test_words_of_a_plan_are_those_of_its_schedules(m, n, k, size, chosen, data):
    """For any lengths and any grid, the busiest rank by closed form is that of the transfers."""
    fit = [
        g
        for p in range(1, size + 1)
        for g in factorisations(p)
        if all(q <= max(length, 1) for q, length in zip(g, (m, n, k), strict=True))
    ]
    plan = ProductPlan(m, n, k, size) if chosen else ProductPlan(m, n, k, size, grid=data.draw(st.sampled_from(fit)))
    words = []
    for rank in range(size):
        moves = [Transfer(plan.own(x), plan.panel(x, 0)) for x in (0, 1)]
        moves += [Transfer(plan.partial(), plan.to_add())] if plan.grid[2] > 1 else []
        words.append(sum(move.schedule(rank).cells_received for move in moves))
        assert words[-1] == plan.words_of(rank)
    assert max(words) == plan.words
    total = m * k + k * n + m * n

    def cost(g):
        return ProductPlan(m, n, k, size, grid=g).words + Fraction(total, math.prod(g)) - Fraction(total, size)

    if chosen:
        assert float(cost(plan.grid)) == pytest.approx(float(min(map(cost, fit))), abs=1e-6)
    for x, shape in enumerate(((m, k), (k, n), (m, n))):
        held = np.zeros(shape, int)
        for rank in range(size):
            box = plan.own(x).box(rank)
            held[box.slices()] += 1
            assert plan.layouts[x].box(rank) == box or not box.size
            assert not box.size or plan.layouts[x].owners(box) == [rank]
        assert np.all(held == 1)


def test_uneven_blocks_receive_little_more_than_even_ones():
    """Ceil-sized blocks, and strips that are one row longer than others, are all that is lost."""
    for size in SIZES:
        for m, n, k in ((97, 89, 101), (1000, 47, 53), (50, 51, 2003)):
            plan = ProductPlan(m, n, k, size)
            pm, pn, pk = plan.grid
            rows, columns, depth = -(-m // pm), -(-n // pn), -(-k // pk)
            ceil = rows * depth + depth * columns + rows * columns - Fraction(m * k + k * n + m * n, size)
            assert plan.words <= ceil + 2 * depth + (pk - 1) * min(rows, columns)


def test_plan_of_many_ranks_is_near_the_bound():
    plan = ProductPlan(10**5, 10**5, 10**5, 1000)
    assert plan.grid == (10, 10, 10)
    least = linalg.plan.lower_bound(10**5, 10**5, 10**5, 1000) - 3 * 10**10 / 1000
    assert plan.words == pytest.approx(least)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": (3, 3, 1)}, "grid 3x3x1 needs 9 ranks, the job has 8"),
        ({"grid": (0, 1, 1)}, "grid 0x1x1 has an axis with no ranks"),
        ({"grid": (1, 1, 5)}, "grid 1x1x5 does not fit a product of 10x4 by 4x6"),
        ({"memory": 10}, "memory 10 is too small for a product of 10x4 by 4x6 on 8 ranks: it needs [1-9][0-9]* bytes"),
        ({"memory": 10, "grid": (2, 2, 2)}, "memory 10 is too small"),
        ({"blocks": 12}, "blocks 12 is not a power of two"),
    ],
)
def test_plans_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        ProductPlan(10, 6, 4, 8, **options)


def test_the_memory_that_the_error_names_is_enough():
    for size in (1, 4, 6):
        with pytest.raises(ValueError, match="needs") as caught:
            ProductPlan(50, 60, 70, size, memory=-1)
        least = int(str(caught.value).partition("needs ")[2].split()[0])
        assert ProductPlan(50, 60, 70, size, memory=least).workspace <= least
        if least:
            with pytest.raises(ValueError, match="too small"):
                ProductPlan(50, 60, 70, size, memory=least - 1)


# ---- products


@pytest.mark.parametrize("name", SHAPES)
def test_words_received_are_the_optimum(comm, name):
    m, n, k = (n * (comm.size // math.gcd(comm.size, 48)) for n in SHAPES[name])  # even blocks on any number of ranks
    cut = layouts(m, n, k, comm=comm)
    a, b = (in_layout(made(shape, float, i), cut[i], comm) for i, shape in enumerate(((m, k), (k, n))))
    counts = Counts()
    before = received.cells, received.bytes, sent.cells
    c = matmul(a, b, counts=counts)
    here = received.cells - before[0]
    assert received.bytes - before[1] == 8 * here
    assert (counts.words, counts.words_relayout) == (here, 0)
    assert comm.allreduce(sent.cells - before[2]) == comm.allreduce(here)
    assert c.decomposition == cut.c
    fit = [g for p in range(1, comm.size + 1) for g in factorisations(p)]
    least = min(formula(m, n, k, g, comm.size) for g in fit)
    best = [g for g in fit if formula(m, n, k, g, comm.size) == least]
    # What idle ranks might have held counts when a grid is chosen, but they hold nothing, and so it is not sent.
    assert comm.allreduce(here, op=MPI.MAX) in [formula(m, n, k, g, math.prod(g)) for g in best]
    assert_close(c.gather(None), a.gather(None), b.gather(None))


@st.composite
def products(draw, size):
    length = st.one_of(st.integers(0, 4), st.integers(5, 30))
    m, n, k = draw(length), draw(length), draw(length)
    kinds = [draw(st.sampled_from("efdFD") | st.sampled_from("ibH")) for _ in range(2)]
    if draw(st.booleans()):
        kinds[1] = kinds[0]
    turned = [draw(st.booleans()) for _ in range(2)]
    dims = [draw(st.sampled_from(grids(size))) for _ in range(3)]
    halo = [draw(st.sampled_from([0, 0, 1, ((0, 1), (2, 0))])) for _ in range(2)]
    return (m, n, k), kinds, turned, dims, halo, draw(st.booleans()), draw(st.integers(0, 3))


def test_any_product(comm, verdict, monkeypatch):
    """Dtypes, uneven and empty blocks, any decomposition, turned operands, rows that lie apart, little memory."""

    # As with large matrices: many slices, many pieces, workspace in which something else was.
    monkeypatch.setattr(product_module, "_THICK", 4)
    monkeypatch.setattr(product_module, "_PIECE", 64)
    monkeypatch.setattr(product_module, "_LEAST", 8)
    monkeypatch.setattr(scratch, "HUGE", mmap.PAGESIZE)
    monkeypatch.setattr(
        scratch.Scratch, "row", lambda self, nbytes, row=scratch.Scratch.row: row(self, max(nbytes, 4097))[:nbytes]
    )

    @settings(max_examples=60)
    @given(products(comm.size))
    def check(case):
        (m, n, k), kinds, turned, dims, halo, with_out, thin = case
        with verdict(comm):
            a, b = made((m, k), kinds[0], 1), made((k, n), kinds[1], 2)
            x, y = (
                mpihpc.asarray(w.T if turn else w, comm=comm, dims=d, halo=h)
                for w, turn, d, h in zip((a, b), turned, dims[:2], halo, strict=True)
            )
            dtype = np.result_type(a, b)
            out = mpihpc.empty((m, n), dtype, comm=comm, dims=dims[2]) if with_out else None
            work = linalg.working_dtype(dtype).itemsize
            roomy = ProductPlan(m, n, k, comm.size, itemsize=dtype.itemsize, worksize=work)
            least = roomy.least_memory(roomy.grid)
            memory = max(least, roomy.workspace * thin // 4) if thin else None
            counts, before = Counts(), received.cells
            c = matmul(x, y, out=out, memory=memory, counts=counts, transpose_a=turned[0], transpose_b=turned[1])
            assert counts.words + counts.words_relayout == received.cells - before
            assert c.dtype == dtype and (c is out) == with_out
            assert_close(c.gather(None), a, b)
            assert np.array_equal(x.gather(None), a.T if turned[0] else a)
            assert memory is None or counts.workspace <= memory

    check()


@pytest.mark.parametrize("shape", [(3, 2, 2), (2, 3, 2), (3, 3, 2), (3, 3, 3), (1, 5, 2), (2, 1, 9)])
def test_ranks_without_a_strip_take_panels_as_the_others_do(comm, shape):
    """Where there are more ranks than rows, those that own nothing own it in every layout."""
    m, n, k = shape
    a, b = made((m, k), float, 1), made((k, n), float, 2)
    for x_dims, y_dims in itertools.product(grids(comm.size), repeat=2):
        x, y = mpihpc.asarray(a, comm=comm, dims=x_dims), mpihpc.asarray(b, comm=comm, dims=y_dims)
        assert_close(matmul(x, y).gather(None), a, b)


def test_every_grid(comm):
    a, b = made((23, 31), float, 1), made((31, 19), float, 2)
    x, y = mpihpc.asarray(a, comm=comm), mpihpc.asarray(b, comm=comm)
    for p in range(1, comm.size + 1):
        for grid in factorisations(p):
            assert_close(matmul(x, y, grid=grid).gather(None), a, b)
            cut = layouts(23, 19, 31, comm=comm, grid=grid)
            counts = Counts()
            c = matmul(in_layout(a, cut.a, comm), in_layout(b, cut.b, comm), grid=grid, counts=counts)
            assert counts.words_relayout == 0
            assert counts.words == ProductPlan(23, 19, 31, comm.size, grid=grid).words_of(comm.rank)
            assert c.decomposition == cut.c
            assert_close(c.gather(None), a, b)


def test_arrays_in_the_layout_of_a_product_are_arrays_as_others(comm):
    """On grids that cut all axes, ranks and places are related in another way, and nothing minds."""
    whole = made((37, 29), float, 1)
    for grid in factorisations(comm.size):
        cut = layouts(37, 29, 23, comm=comm, grid=grid).c
        u = in_layout(whole, cut, comm)
        assert u.checksum() == mpihpc.asarray(whole, comm=comm).checksum()
        assert np.array_equal(u.gather(None), whole)
        assert np.array_equal(u.redistribute().gather(None), whole)
        grown = DistArray(cut, comm=comm, halo=1)
        grown.local[...] = u.local
        grown.exchange("reflect")
        if grown.box.size:
            padded = np.pad(whole, 1, "symmetric")
            assert np.array_equal(grown.padded, padded[grown.frame.slices((-1, -1))])


def test_workspace_is_what_was_said(comm):
    """What NumPy allocates at a time, as Python's own tracer sees it."""
    m, n, k = 160, 144, 1200
    cases = [((comm.size, 1, 1), 8), ((1, comm.size, 1), 8), ((1, 1, comm.size), 8)]
    if comm.size % 4 == 0:
        cases += [((2, 2, comm.size // 4), 8), ((2, 2, comm.size // 4), 2)]
    for grid, itemsize in cases:
        dtype = {8: np.float64, 2: np.float16}[itemsize]
        work = linalg.working_dtype(np.dtype(dtype)).itemsize
        roomy = ProductPlan(m, n, k, comm.size, itemsize=itemsize, grid=grid, worksize=work)
        least = roomy.least_memory(grid)
        for memory in (None, (roomy.workspace + 3 * least) // 4):
            cut = layouts(m, n, k, comm=comm, dtype=dtype, grid=grid, memory=memory)
            a, b, c = (DistArray(d, dtype, comm=comm) for d in cut)
            a.local[...], b.local[...] = 1, 2
            counts = Counts()
            tracemalloc.start()
            matmul(a, b, out=c, grid=grid, memory=memory, counts=counts)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            plan = ProductPlan(m, n, k, comm.size, memory, itemsize, grid, work)
            assert (plan.slices > 1) == (memory is not None and memory < roomy.workspace)
            assert counts.workspace <= plan.workspace <= (memory or plan.workspace)
            assert peak <= plan.workspace + 100_000, (grid, memory)
            assert np.all(c.local == 2 * k)
            assert counts.words_relayout == 0
            assert comm.allreduce(counts.words, op=MPI.MAX) == plan.words  # slices move no more


def test_reproducible_products_have_the_same_bits_on_any_ranks(comm):
    for (m, n, k), blocks, kind in (
        ((40, 36, 1000), 16, "d"),
        ((5, 7, 3), 4, "f"),
        ((64, 64, 64), 8, "D"),
        ((33, 1, 70), 8, "d"),
        ((20, 30, 50), 2, "e"),
    ):
        a, b = made((m, k), kind, 1), made((k, n), kind, 2)
        a *= np.array(10.0 ** np.arange(k % 7 - 3, k % 7 + 4, 1)[np.arange(k) % 7], a.real.dtype)  # order matters
        x, y = (mpihpc.asarray(w, comm=MPI.COMM_SELF) for w in (a, b))
        alone = matmul(x, y, reproducible=True, blocks=blocks).gather()
        assert_close(alone, a, b)
        fit = [
            g
            for p in range(1, comm.size + 1)
            for g in factorisations(p)
            if all(q <= min(n, blocks) for q, n in zip(g, (m, n, k), strict=True)) and g[2] & (g[2] - 1) == 0
        ]
        for grid in [None, *fit]:
            x, y = mpihpc.asarray(a, comm=comm), mpihpc.asarray(b, comm=comm, dims=(1, comm.size))
            c = matmul(x, y, grid=grid, reproducible=True, blocks=blocks, threads=2)
            assert c.gather(None).tobytes() == alone.tobytes(), grid


def test_reproducible_products_go_in_pieces(comm, monkeypatch):
    """Of any size, with any number of threads, also of a matrix with its own transpose."""
    a = made((61, 700), float, 1) * 10.0 ** np.arange(-3, 4).repeat(100)
    wanted = matmul(*(mpihpc.asarray(w, comm=MPI.COMM_SELF) for w in (a, a.T.copy())), reproducible=True).gather()
    for side, threads, memory in ((7, 1, None), (70, 3, 1 << 20), (1024, 2, None)):
        monkeypatch.setattr(product_module, "_SIDE", side)
        x = mpihpc.asarray(a, comm=comm)
        for y in (x, mpihpc.asarray(a, comm=comm, dims=(1, comm.size))):
            c = matmul(x, y, transpose_b=True, reproducible=True, threads=threads, memory=memory)
            assert c.gather(None).tobytes() == wanted.tobytes(), (side, threads)


def test_vectors(comm):
    a, v, w = made((12, 17), float, 1), made((17,), float, 2), made((12,), float, 3)
    x, p, q = (mpihpc.asarray(u, comm=comm) for u in (a, v, w))
    for got, left, right in ((x @ p, a, v), (q @ x, w, a), (matmul(p, x, transpose_b=True), v, a.T)):
        assert isinstance(got, DistArray) and got.ndim == 1
        assert_close(got.gather(None), left, right)
    inner = p @ p
    assert isinstance(inner, np.float64)
    assert inner == pytest.approx(v @ v)
    assert comm.allgather(float(inner)) == [float(inner)] * comm.size
    assert np.array_equal(outer(p, q).gather(None), np.outer(v, w))
    assert np.array_equal(outer(p, p, out=mpihpc.zeros((17, 17), comm=comm)).gather(None), np.outer(v, v))
    for m, k, n in ((1, 9, 1), (1, 9, 2), (2, 9, 1), (1, 1, 1), (0, 3, 2), (2, 0, 1), (1, 40, 6)):
        a, b = made((m, k), "e", 1), made((k, n), "e", 2)
        x, y = mpihpc.asarray(a, comm=comm), mpihpc.asarray(b, comm=comm)
        assert_close((x @ y).gather(None), a, b)
        for p in range(1, comm.size + 1):
            for grid in factorisations(p):
                if all(g <= max(length, 1) for g, length in zip(grid, (m, n, k), strict=True)):
                    row = matmul(mpihpc.asarray(made((k,), "e", 3), comm=comm), y, grid=grid) if m == 1 else None
                    column = matmul(x, mpihpc.asarray(made((k,), "e", 3), comm=comm), grid=grid) if n == 1 else None
                    for got, left, right in ((row, made((k,), "e", 3), b), (column, a, made((k,), "e", 3))):
                        if got is not None:
                            assert_close(got.gather(None), left, right)


def test_out_may_be_an_operand_or_have_another_dtype(comm):
    a, b = made((14, 14), float, 1), made((14, 14), float, 2)
    for make in (mpihpc.asarray, lambda w, comm: in_layout(w, layouts(14, 14, 14, comm=comm).c, comm)):
        x, y = make(a, comm=comm), make(b, comm=comm)
        assert matmul(x, y, out=x) is x
        assert_close(x.gather(None), a, b)
        x = make(a, comm=comm)
        assert matmul(x, x, out=x) is x
        assert_close(x.gather(None), a, a)
    x = same = mpihpc.asarray(a, comm=comm)
    x @= mpihpc.asarray(b, comm=comm)
    assert x is same
    assert_close(x.gather(None), a, b)
    single = mpihpc.zeros((14, 14), np.float32, comm=comm, halo=2)
    matmul(mpihpc.asarray(a, comm=comm), mpihpc.asarray(b, comm=comm), out=single)
    assert np.array_equal(single.gather(None), (a @ b).astype("f")) or np.allclose(single.gather(None), a @ b, 1e-6)


@pytest.mark.parametrize("kind", "efdFDi")
def test_gram(comm, kind):
    for k, n in ((90, 11), (5, 8), (1, 3), (0, 2), (30, 1)):
        a = made((k, n), kind, k)
        counts = Counts()
        g = gram(mpihpc.asarray(a, comm=comm), counts=counts)
        whole = g.gather(None)
        assert g.dtype == a.dtype
        assert np.array_equal(whole, whole.T)
        assert_close(whole, a.T, a)
        out = mpihpc.zeros((n, n), kind, comm=comm, dims=(1, comm.size))
        assert gram(mpihpc.asarray(a, comm=comm, dims=(1, comm.size)), out=out) is out
        assert np.array_equal(out.gather(None), whole)


def test_gram_hands_blas_the_same_memory_twice(comm, monkeypatch):
    """That is when NumPy calls syrk, which does half the work."""
    seen = []

    def matmul(x, y, out):
        seen.append(x.T.__array_interface__["data"] == y.__array_interface__["data"] and x.T.strides == y.strides)
        out[...] = np.dot(x, y)

    a = made((64, 6), float, 1)
    x = mpihpc.asarray(a, comm=comm, dims=(1, comm.size))
    monkeypatch.setattr(linalg.product.np, "matmul", matmul)
    g = gram(x)
    monkeypatch.undo()
    assert seen == [True]
    assert_close(g.gather(None), a.T, a)


# ---- bad input


def refused(comm, call, error, words):
    """The same one line on all ranks, and nothing was sent."""
    before = received.messages
    with pytest.raises(error, match=words) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert comm.allgather(text) == [text] * comm.size
    assert received.messages == before


def test_bad_input(comm):
    a, b = mpihpc.zeros((6, 4), comm=comm), mpihpc.zeros((5, 3), comm=comm)
    square = mpihpc.zeros((4, 4), comm=comm)
    elsewhere = mpihpc.zeros((4, 4), comm=MPI.COMM_SELF)
    many = comm.size + 1
    vector, cube = mpihpc.zeros(4, comm=comm), mpihpc.zeros((4, 4, 4), comm=comm)
    for call, error, words in (
        (lambda: matmul(a, b), ValueError, "6x4 and 5x3 cannot be multiplied: 4 columns, but 5 rows"),
        (lambda: a @ b, ValueError, "cannot be multiplied"),
        (lambda: matmul(a, b, transpose_a=True), ValueError, "4x6 and 5x3 cannot be multiplied"),
        (lambda: matmul(vector, b), ValueError, "1x4 and 5x3 cannot be multiplied"),
        (lambda: matmul(a, square, grid=(many, 1, 1)), ValueError, f"needs {many} ranks, the job has {comm.size}"),
        (lambda: matmul(a, square, grid=(1, 1)), ValueError, "grid 1x1 is not three numbers of ranks"),
        (lambda: matmul(a, square, grid=()), ValueError, "is not three numbers of ranks"),
        (lambda: matmul(a, square, grid=(1, 1, 0)), ValueError, "an axis with no ranks"),
        (lambda: matmul(a, square, grid="nonsense"), ValueError, "grid"),
        (lambda: matmul(a, square, grid=(1.5, 1, 1)), TypeError, "float"),
        (lambda: matmul(a, square, memory=-5), ValueError, "memory -5 is negative"),
        (lambda: matmul(a, elsewhere), ValueError, "is on a different communicator than a"),
        (lambda: matmul(a, square, out=elsewhere), ValueError, "is on a different communicator than a"),
        (lambda: matmul(a, square, out=square), ValueError, r"out has shape \(4, 4\), the product \(6, 4\)"),
        (lambda: gram(a, out=a), ValueError, "out has shape"),
        (lambda: gram(vector), ValueError, "gram works on a matrix"),
        (lambda: matmul(cube, square), ValueError, r"not shapes \(4, 4, 4\) and \(4, 4\)"),
        (lambda: outer(a, vector), ValueError, "outer works on two vectors"),
        (lambda: matmul(a, np.ones((4, 4))), TypeError, "b must be a DistArray, not ndarray: use mpihpc.asarray"),
        (lambda: matmul([[1]], a), TypeError, "must be a DistArray, not list"),
        (lambda: matmul(a, square, out=np.ones((6, 4))), TypeError, "out must be a DistArray"),
        (lambda: matmul(a, square, out=mpihpc.zeros((6, 4), int, comm=comm)), TypeError, "cannot hold a product"),
        (lambda: matmul(a, square, threads=0), ValueError, "threads 0"),
        (lambda: matmul(a, square, threads=2.5), ValueError, "threads 2.5 is not a whole number"),
        (lambda: matmul(a, square, threads=2.5, reproducible=True), ValueError, "threads 2.5"),
        (lambda: gram(a, threads=2.5), ValueError, "threads 2.5"),
        (lambda: outer(vector, [1]), TypeError, "outer: b must be a DistArray, not list"),
        (lambda: gram(np.ones((2, 2))), TypeError, "gram: a must be a DistArray, not ndarray"),
        (lambda: a @ np.ones((4, 4)), TypeError, "b must be a DistArray, not ndarray: use mpihpc.asarray"),
        (lambda: a @ [1, 2], TypeError, "must be a DistArray, not list"),
        (lambda: np.ones((4, 6)) @ a, TypeError, "is not elementwise"),
        (lambda: [1, 2] @ a, TypeError, "is not elementwise"),
        (lambda: operator.imatmul(a, b), ValueError, "6x4 and 5x3 cannot be multiplied"),
        (lambda: operator.imatmul(a, np.ones((4, 4))), TypeError, "matmul: b must be a DistArray, not ndarray"),
        (lambda: matmul(a, square, reproducible=True, blocks=3), ValueError, "blocks 3 is not a power of two"),
        (lambda: matmul(a, square, reproducible=True, blocks=0), ValueError, "blocks 0 is not a power of two"),
        (lambda: layouts(-1, 2, 2, comm=comm), ValueError, "negative length"),
        (lambda: mpihpc.asarray(np.full((4, 4), None), comm=comm), TypeError, "object"),
    ):
        refused(comm, call, error, words)
    if comm.size > 1:
        cut = layouts(6, 4, 4, comm=comm)
        x, y = DistArray(cut.a, comm=comm), DistArray(cut.b, comm=comm)
        refused(comm, lambda: matmul(x, y, memory=1), ValueError, "memory 1 is too small .* needs [0-9]+ bytes")


def test_a_mistake_on_one_rank_is_told_on_all(comm):
    a, b = mpihpc.zeros((6, 4), comm=comm), mpihpc.zeros((4, 3), comm=comm)
    memory = -1 if comm.rank == comm.size - 1 else None
    refused(comm, lambda: matmul(a, b, memory=memory), ValueError, "memory -1 is negative")


def test_plain_layouts_on_few_ranks():
    """Where they can be, the layouts are those that other arrays have."""
    assert tuple(ProductPlan(64, 64, 64, 2).layouts) == (
        Decomposition((64, 64), (2, 1)),
        Decomposition((64, 64), (1, 2)),
        Decomposition((64, 64), (2, 1)),
    )
    deep = ProductPlan(16, 16, 4096, 4).layouts
    assert deep[:2] == (Decomposition((16, 4096), (1, 4)), Decomposition((4096, 16), (4, 1)))


@pytest.mark.parametrize("shape", [(64, 64, 64), (8, 64, 64), (40, 30, 20), (3, 5, 2)])
@pytest.mark.parametrize("options", [{}, {"reproducible": True}, {"grid": (2, 1, 1)}, {"grid": (1, 1, 2)}])
def test_products_are_arrays_like_others(comm, shared_tmp_path, shape, options):
    """However a product lies: operators, reductions and packed files find each cell where it is."""
    if math.prod(options.get("grid", (1,))) > comm.size:
        options = {}
    m, k, n = shape
    rng = np.random.default_rng(7)
    a, b, c = (rng.integers(-4, 5, size).astype(float) for size in ((m, k), (k, n), (m, n)))
    p = matmul(mpihpc.asarray(a, comm=comm), mpihpc.asarray(b, comm=comm), **options)
    d, wanted = mpihpc.asarray(c, comm=comm), a @ b
    row = mpihpc.asarray(c[0], comm=comm)
    for got, right in [
        (p + d, wanted + c),
        (d - p, c - wanted),
        (p + row, wanted + c[0]),
        (row + p, wanted + c[0]),
        (p > 0, wanted > 0),
        (p.sum(axis=0), wanted.sum(0)),
        (p.sum(axis=1), wanted.sum(1)),
        (p.max(axis=1), wanted.max(1)),
        (p.mean(axis=0, keepdims=True), wanted.mean(0, keepdims=True)),
        (mpihpc.vecdot(p, d), (wanted * c).sum(-1)),
        (mpihpc.map_blocks(lambda x, y: x + y, p, row), wanted + c[0]),
        (mpihpc.map_blocks(lambda x, y: x - y, d, p), c - wanted),
        (mpihpc.vecdot(d, p), (wanted * c).sum(-1)),
    ]:
        assert np.array_equal(got.gather(None), right)
    assert (p.max(), p.min(), p.argmin(), p.sum()) == (wanted.max(), wanted.min(), wanted.argmin(), wanted.sum())
    assert np.isclose(p.var(), wanted.var())
    p += d
    assert np.array_equal(p.gather(None), wanted + c)
    d *= p
    assert np.array_equal(d.gather(None), c * (wanted + c))
    mpihpc.io.write(str(shared_tmp_path / "p.h5"), p, compress="gzip")
    assert mpihpc.io.read(str(shared_tmp_path / "p.h5"), comm=comm).checksum() == p.checksum()
