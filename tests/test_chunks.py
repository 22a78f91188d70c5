"""Functions of blocks and chunks, and arrays that arrive in pieces."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mpihpc
from mpihpc.core.tally import sent


def grids(size, ndim):
    return [g for g in itertools.product(range(1, size + 1), repeat=ndim) if math.prod(g) == size]


def fails_alike(comm, error, text, call):
    """`call` raises the same one line on all ranks."""
    with pytest.raises(error, match=text) as caught:
        call()
    lines = comm.allgather(str(caught.value))
    assert len(set(lines)) == 1 and "\n" not in lines[0]


def test_map_blocks(comm):
    x = np.arange(35.0).reshape(7, 5)
    for one, two in itertools.product(grids(comm.size, 2), repeat=2):
        a, b = mpihpc.asarray(x, comm=comm, dims=one, halo=1), mpihpc.asarray(x + 1, comm=comm, dims=two)
        calls = []

        def function(u, v, w, factor):
            calls.append(u.shape)  # noqa: B023
            return np.where(u > 3, u * v, w) * factor

        got = mpihpc.map_blocks(function, a, b, x[0], 2j)
        assert calls == ([a.local.shape] if a.local.size else [])
        assert got.decomposition == a.decomposition and got.dtype == complex
        assert np.array_equal(got.gather(None), np.where(x > 3, x * (x + 1), x[0]) * 2j)
    none = mpihpc.map_blocks(lambda u: 1 / 0, mpihpc.zeros((0, 3), comm=comm))
    assert none.shape == (0, 3)
    first = mpihpc.asarray(np.arange(12), comm=comm)
    mixed = mpihpc.map_blocks(lambda u: np.emath.sqrt(u - 5), first)
    assert np.array_equal(mixed.gather(None), np.emath.sqrt(np.arange(12) - 5))


@st.composite
def pieces(draw, size):
    tail = tuple(draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 2))))
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=9))
    ndim = 1 + len(tail)
    return {
        "tail": tail,
        "lengths": lengths,
        "kind": draw(st.sampled_from("?ifD")),
        "dims": draw(st.sampled_from([None, *grids(size, ndim)])),
        "halo": draw(st.integers(0, 1)),
        "root": draw(st.one_of(st.none(), st.integers(0, size - 1))),
        "splits": sorted(draw(st.lists(st.integers(0, len(lengths)), min_size=size - 1, max_size=size - 1))),
        "rows": draw(st.integers(1, 9)),
    }


def test_pieces_become_an_array_and_chunks_a_value(comm, verdict):
    @settings(max_examples=60)
    @given(pieces(comm.size))
    def check(case):
        with verdict(comm):
            n = sum(case["lengths"])
            whole = (np.arange(n * math.prod(case["tail"])) % 7).astype(case["kind"]).reshape(n, *case["tail"])
            parts = np.split(whole, np.cumsum(case["lengths"])[:-1])
            if case["root"] is None:
                ends = [0, *case["splits"], len(parts)]
                mine = iter(parts[ends[comm.rank] : ends[comm.rank + 1]])
            else:
                mine = iter(parts) if comm.rank == case["root"] else None
            a = mpihpc.from_chunks(mine, comm=comm, dims=case["dims"], halo=case["halo"])
            got = a.gather(None)
            assert got.dtype == whole.dtype and np.array_equal(got, whole)
            assert a.halo == ((case["halo"],) * 2,) * whole.ndim
            # A combination that is not associative tells the order, and the rows that a chunk had.
            chunks = [whole[i : i + case["rows"]] for i in range(0, n, case["rows"])]
            texts = [f"{c.shape}{c.sum()}" for c in chunks if c.size]
            if texts:
                got = mpihpc.map_reduce(
                    lambda c: f"{c.shape}{c.sum()}", a, lambda p, q: f"({p},{q})", rows=case["rows"]
                )
                want = texts[0]
                for text in texts[1:]:
                    want = f"({want},{text})"
                assert got == want
                blocks = mpihpc.map_reduce(lambda c: [c.sum()], a, lambda p, q: p + q)
                assert blocks == [c.sum() for c in comm.allgather(a.local) if c.size]

    check()


def test_the_same_bits_on_any_number_of_ranks(comm):
    """Floating-point sums of fixed chunks, in a fixed order: what one process gets."""
    x = np.random.default_rng(1).standard_normal((50, 3))
    want = 0.0
    for i in range(0, 50, 8):
        want += np.sum(np.ascontiguousarray(x[i : i + 8]))
    for dims in grids(comm.size, 2):
        a = mpihpc.asarray(x, comm=comm, dims=dims)
        assert mpihpc.map_reduce(lambda c: np.sum(np.ascontiguousarray(c)), a, np.add, rows=8) == 0.0 + want
    before = sent.bytes
    mpihpc.map_reduce(np.sum, mpihpc.asarray(x, comm=comm), np.add)
    assert sent.bytes == before


def test_files_in_chunks(comm, shared_tmp_path):
    x = np.random.default_rng(2).standard_normal((41, 6))
    if comm.rank == 0:
        np.save(shared_tmp_path / "x.npy", x)
        np.save(shared_tmp_path / "f.npy", np.asfortranarray(x))
        np.save(shared_tmp_path / "swapped.npy", x.astype(">f8"))
        np.savez(shared_tmp_path / "x.npz", x)
    comm.Barrier()
    mpihpc.io.write(shared_tmp_path / "x.h5", mpihpc.asarray(x, comm=comm))
    for name in ("x.npy", "f.npy", "swapped.npy", "x.h5", "x.h5:data"):
        for rows in (1, 5, 41, 100, None):
            got = mpihpc.map_reduce(
                lambda c: [(c.shape, c.dtype.str, c[0, 0])],
                f"{shared_tmp_path}/{name}",
                lambda p, q: p + q,
                rows=rows,
                comm=comm,
            )
            step = rows or 41
            assert got == [(x[i : i + step].shape, x.dtype.str, x[i, 0]) for i in range(0, 41, step)]
    fails_alike(
        comm,
        ValueError,
        "x.npz is compressed as a whole",
        lambda: mpihpc.map_reduce(np.sum, shared_tmp_path / "x.npz", np.add, comm=comm),
    )
    fails_alike(
        comm,
        OSError,
        "nowhere.npy",
        lambda: mpihpc.map_reduce(np.sum, shared_tmp_path / "nowhere.npy", np.add, comm=comm),
    )


def test_bad_input_is_the_same_line_on_all_ranks(comm):
    a = mpihpc.asarray(np.arange(20), comm=comm)

    def refuses(block):
        if 19 in block:
            raise ValueError("cell 19 is not wanted")
        return block

    def stream(*shapes):
        yield from (np.zeros(shape) for shape in shapes)
        raise OSError("the stream broke off")

    root = comm.rank == 0
    for error, text, call in [
        (ValueError, "cell 19", lambda: mpihpc.map_blocks(refuses, a)),
        (ValueError, "cell 19", lambda: mpihpc.map_reduce(refuses, a, np.add)),
        (ValueError, r"returned shape \(1, ", lambda: mpihpc.map_blocks(lambda u: u[None], a)),
        (TypeError, "not numeric", lambda: mpihpc.map_blocks(lambda u: u.astype(str), a)),
        (TypeError, "map_blocks: array 0 must be a DistArray", lambda: mpihpc.map_blocks(abs, np.zeros(3))),
        (ValueError, "broadcast", lambda: mpihpc.map_blocks(np.add, a, np.zeros((2, 20)))),
        (ValueError, "0 values", lambda: mpihpc.map_reduce(np.sum, mpihpc.zeros(0, comm=comm), np.add)),
        (TypeError, "map_blocks: array 0 must be a DistArray", lambda: mpihpc.map_blocks(abs)),
        (TypeError, "map_blocks: array 0 must be a DistArray", lambda: mpihpc.map_blocks(np.add, 1, a)),
        (ValueError, "rows 0 is", lambda: mpihpc.map_reduce(np.sum, a, np.add, rows=0)),
        (ValueError, "rows 2.5 is", lambda: mpihpc.map_reduce(np.sum, a, np.add, rows=2.5)),
        (ValueError, "rows x is", lambda: mpihpc.map_reduce(np.sum, a, np.add, rows="x")),
        (TypeError, "not iterable", lambda: mpihpc.from_chunks(3, comm=comm)),
        (TypeError, "not ndarray", lambda: mpihpc.map_reduce(np.sum, np.zeros(3), np.add)),
        (OSError, "broke off", lambda: mpihpc.from_chunks(stream(3, 4) if root else None, comm=comm)),
        (OSError, "broke off", lambda: mpihpc.from_chunks(stream(3, 4), comm=comm)),
        (
            ValueError,
            "chunk has shape",
            lambda: mpihpc.from_chunks(stream((3, 2), (3, 3)) if root else None, comm=comm),
        ),
        (ValueError, "no chunk", lambda: mpihpc.from_chunks([] if root else None, comm=comm)),
        (ValueError, "0 of", lambda: mpihpc.from_chunks(None, comm=comm)),
    ]:
        fails_alike(comm, error, text, call)
    if comm.size > 1:
        uneven = [np.zeros((2, 3 - (comm.rank == 1)))]
        fails_alike(comm, ValueError, "do not fit", lambda: mpihpc.from_chunks(uneven, comm=comm))
    if comm.size > 2:
        fails_alike(
            comm, ValueError, f"2 of {comm.size}", lambda: mpihpc.from_chunks([] if comm.rank < 2 else None, comm=comm)
        )
