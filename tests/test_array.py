"""`DistArray`: what NumPy would do, with the data spread."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpihpc
from mpihpc import DistArray

MIX = 0xFFFFFFFFFFFFFFFF


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MIX
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MIX
    return z ^ z >> 31


def checksum(whole):
    """The documented hash, in Python integers."""
    total = 0
    for index, value in enumerate(whole.ravel()):
        h = mix(index + 0x9E3779B97F4A7C15 & MIX)
        data = value.tobytes()
        for k in range(0, len(data), 8):
            h = mix(h ^ int.from_bytes(data[k : k + 8], "little"))
        total += h
    return total & MIX


def fails_alike(comm, error, text, call):
    """`call` raises the same one line on all ranks."""
    with pytest.raises(error, match=text) as caught:
        call()
    lines = comm.allgather(str(caught.value))
    assert len(set(lines)) == 1 and "\n" not in lines[0]


def test_makers(comm):
    assert np.array_equal(mpihpc.zeros((5, 3), comm=comm).gather(None), np.zeros((5, 3)))
    assert np.array_equal(mpihpc.ones(7, "f4", comm=comm).gather(None), np.ones(7, "f4"))
    full = mpihpc.full((3, 2, 2), 1 + 2j, comm=comm, halo=1)
    assert full.dtype == complex
    assert np.array_equal(full.gather(None), np.full((3, 2, 2), 1 + 2j))
    assert mpihpc.full(4, 3, comm=comm).dtype == int
    e = mpihpc.empty((4, 6), "i2", comm=comm)
    assert (e.shape, e.ndim, e.size, e.dtype, e.nbytes) == ((4, 6), 2, 24, np.int16, 48)
    assert e.comm == comm
    for dims in grids(comm.size, 2):
        z = mpihpc.zeros((9, 4), comm=comm, dims=dims, halo=(1, 2))
        assert z.decomposition.dims == dims
        box = z.decomposition.box(comm.rank)
        assert z.local.shape == box.shape
        assert z.padded.shape == (
            tuple(n + 2 * h for n, h in zip(box.shape, (1, 2), strict=True)) if box.size else box.shape
        )
        assert z.local.base is not None  # a view of the padded block


def test_fromfunction_is_numpys(comm):
    for shape in [(7,), (5, 4), (3, 2, 5)]:
        calls = []

        def function(*index):
            calls.append(index[0].shape)  # noqa: B023
            return sum(10**d * i for d, i in enumerate(index)) + 0.5

        new = mpihpc.fromfunction(function, shape, comm=comm)
        assert calls == [new.local.shape]  # the local box only
        assert np.array_equal(new.gather(None), np.fromfunction(function, shape))
    assert mpihpc.fromfunction(lambda i: i == 2, (5,), comm=comm, dtype=int).dtype == bool
    constant = mpihpc.fromfunction(lambda i, j: 3, (4, 5), comm=comm)
    assert np.array_equal(constant.gather(None), np.full((4, 5), 3))


@st.composite
def arrays(draw, size):
    ndim = draw(st.integers(1, 4))
    shape = tuple(draw(st.integers(0, 8)) for _ in range(ndim))
    dims = st.sampled_from([None, *grids(size, ndim)])
    halo = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 3))) for _ in range(ndim))
    return (
        shape,
        draw(st.sampled_from("?bHifdFD")),
        draw(dims),
        draw(dims),
        halo,
        draw(st.integers(0, size - 1)),
    )


def test_spread_move_gather(comm, verdict):
    @settings(max_examples=60)
    @given(arrays(comm.size))
    def check(case):
        shape, kind, dims, other, halo, root = case
        with verdict(comm):
            whole = (np.arange(math.prod(shape)).reshape(shape) * 37 % 101).astype(kind)
            here = mpihpc.asarray(whole, comm=comm, dims=dims, halo=halo)
            there = mpihpc.asarray(whole if comm.rank == root else None, comm=comm, dims=dims)
            moved = here.redistribute(other, halo=1)
            assert here.checksum() == there.checksum() == moved.checksum() == checksum(whole)
            assert here.dtype == there.dtype == moved.dtype == whole.dtype
            for array in (here, there, moved, here.copy()):
                got = array.gather(root)
                assert (got is None) == (comm.rank != root)
                assert got is None or np.array_equal(got, whole)
            assert np.array_equal(moved.gather(None), whole)
            again = mpihpc.from_local(here.local, shape, comm=comm, dims=here.decomposition.dims)
            assert np.array_equal(again.gather(None), whole)
            if kind != "D":
                assert np.array_equal(here.astype("D").gather(None), whole.astype("D"))

    check()


def test_checksums_tell_arrays_apart(comm):
    a = np.arange(12.0).reshape(3, 4)
    others = [
        a.T.copy(),
        a[::-1].copy(),
        a + np.spacing(a),
        -a,
        np.zeros((3, 4)),
        np.zeros((4, 3)),
        a.astype("f4"),
    ]
    sums = [mpihpc.asarray(x, comm=comm).checksum() for x in (a, *others)]
    assert len(set(sums)) == len(sums) - 1  # zeros of two shapes have the same cells in the same order
    assert sums[5] == sums[6]


def test_copy_and_astype_do_not_share_memory(comm):
    a = mpihpc.zeros(9, comm=comm, halo=1)
    b, c = a.copy(), a.astype("f4")
    a.local[...] = 1
    assert not b.gather(None).any() and not c.gather(None).any()
    assert b.halo == c.halo == a.halo


def test_byte_order_is_native(comm):
    a = mpihpc.asarray(np.arange(5, dtype=">f8") if comm.rank == 0 else None, comm=comm)
    assert a.dtype.isnative
    assert np.array_equal(a.gather(None), np.arange(5.0))


def test_exchange_fills_the_halo(comm):
    whole = np.arange(30.0).reshape(6, 5)
    a = mpihpc.asarray(whole, comm=comm, halo=((1, 1), (2, 2)))
    a.exchange("wrap")
    if a.box.size:
        rows = np.arange(a.box.start[0] - 1, a.box.stop[0] + 1) % 6
        columns = np.arange(a.box.start[1] - 2, a.box.stop[1] + 2) % 5
        assert np.array_equal(a.padded, whole[np.ix_(rows, columns)])
    uneven = mpihpc.zeros((6, 5), comm=comm, halo=(1, (0, 2)))
    with pytest.raises(ValueError, match="uneven"):
        uneven.exchange("mirror")


def test_from_local_adds_up_the_blocks(comm):
    block = np.full((2, 3), comm.rank)
    stacked = mpihpc.from_local(block, comm=comm)
    assert stacked.shape == (2 * comm.size, 3)
    assert np.array_equal(stacked.gather(None)[:, 0], np.repeat(np.arange(comm.size), 2))
    side = mpihpc.from_local(block, comm=comm, dims=(1, comm.size))
    assert side.shape == (2, 3 * comm.size)


def test_nothing_becomes_local_by_accident(comm):
    a = mpihpc.zeros((4, 3), comm=comm)
    for call in (
        np.asarray,
        np.array,
        np.sum,
        np.sort,
        np.add.reduce,
        lambda x: np.matmul(np.ones((4, 4)), x),
        lambda x: np.ones((4, 3)).__iadd__(x),
        list,
        len,
        float,
    ):
        with pytest.raises(TypeError):
            call(a)
    with pytest.raises(TypeError, match=r"use \.gather\(\)"):
        np.asarray(a)
    with pytest.raises(TypeError, match=r"numpy.sum .* use mpihpc.sum"):
        np.sum(a)
    assert isinstance(np.ones((4, 3)) + np.sin(a), DistArray)
    assert str(a.shape) in repr(a) and f"of {comm.size}" in repr(a)


def test_bad_input_is_the_same_line_on_all_ranks(comm):
    last = comm.size - 1
    fails_alike(comm, TypeError, "dtype <U1 is not numeric", lambda: mpihpc.asarray(np.array(["a"]), comm=comm))
    fails_alike(comm, TypeError, "object", lambda: mpihpc.zeros(3, object, comm=comm))
    fails_alike(comm, TypeError, r"halo \[\(1,\)\] is not a depth", lambda: mpihpc.zeros(3, comm=comm, halo=[(1,)]))
    fails_alike(comm, ValueError, f"root {comm.size}", lambda: mpihpc.zeros(3, comm=comm).gather(comm.size))
    wrong = (comm.size + 1, 1)
    fails_alike(
        comm,
        ValueError,
        f"needs {comm.size + 1} ranks, the job has {comm.size}",
        lambda: mpihpc.zeros((3, 3), comm=comm, dims=wrong),
    )
    fails_alike(comm, ValueError, "0 axes", lambda: mpihpc.asarray(3.0, comm=comm))
    fails_alike(comm, ValueError, f"0 of {comm.size} ranks hold an array", lambda: mpihpc.asarray(None, comm=comm))
    if comm.size > 1:
        fails_alike(
            comm,
            ValueError,
            f"rank {last}: the array has shape",
            lambda: mpihpc.asarray(np.zeros(3 + (comm.rank == last)), comm=comm),
        )
        fails_alike(
            comm,
            ValueError,
            "rank 0: the block has shape",
            lambda: mpihpc.from_local(np.zeros(3 - (comm.rank == 0)), comm=comm),
        )
        fails_alike(
            comm,
            ValueError,
            f"rank {last}: the block has dtype float32, but float64",
            lambda: mpihpc.from_local(np.zeros(3, "f4" if comm.rank == last else "f8"), comm=comm),
        )
    if comm.size > 2:
        fails_alike(
            comm,
            ValueError,
            f"2 of {comm.size} ranks hold",
            lambda: mpihpc.asarray(np.zeros(3) if comm.rank < 2 else None, comm=comm),
        )


def test_arrays_on_part_of_the_ranks(comm):
    half = comm.Split(comm.rank % 2, comm.rank)
    a = mpihpc.asarray(np.arange(10.0) * (1 + comm.rank % 2), comm=half)
    assert isinstance(a, DistArray)
    assert np.array_equal(a.gather(None), np.arange(10.0) * (1 + comm.rank % 2))
    half.Free()


def test_fromfunction_whose_dtype_depends_on_the_values(comm):
    """Some blocks come out complex and some real: all ranks make the same array."""
    got = mpihpc.fromfunction(lambda i: np.emath.sqrt(i - 3), (8,), comm=comm)
    assert np.array_equal(got.gather(None), np.emath.sqrt(np.arange(8.0) - 3))


def test_full_takes_one_number(comm):
    fails_alike(comm, ValueError, "give one number", lambda: mpihpc.full((4, 4), [[1], [2]], comm=comm))
    fails_alike(comm, OverflowError, "300", lambda: mpihpc.full(4, 300, np.uint8, comm=comm))
