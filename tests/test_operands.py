"""Doors of operands: what is no DistArray, or is elsewhere, is the same error on all ranks, also if one rank alone is
wrong; what is masked or no number is refused at every entrance."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
from mpi4py import MPI

import mpihpc
from mpihpc import io, linalg, ndimage, stencil
from mpihpc.core import device, failure
from mpihpc.core.dtypes import numbers
from mpihpc.kernels import Kernels, cpu, cuda, reference

WORLD = MPI.COMM_WORLD  # a rank without a DistArray cannot know other ranks


def fails_alike(error, text, call):
    with pytest.raises(error, match=text) as caught:
        call()
    lines = WORLD.allgather(str(caught.value))
    assert len(set(lines)) == 1 and "\n" not in lines[0], lines
    assert failure.agreed(caught.value)


REDUCTIONS = ["sum", "mean", "var", "std", "norm", "prod", "min", "max", "any", "all", "count_nonzero", "argmin"]
REDUCTIONS += ["argmax"]
CALLS = {name: getattr(mpihpc, name) for name in REDUCTIONS} | {
    "sum along": lambda x: mpihpc.sum(x, 0),
    "dot": lambda x: mpihpc.dot(x, mpihpc.ones(6)),
    "vecdot": lambda x: mpihpc.vecdot(x, x),
    "vecdot of two": lambda x: mpihpc.vecdot(mpihpc.ones(6), x),
    "linalg.norm": lambda x: linalg.norm(x, 1, 0),
    "matmul left": lambda x: linalg.matmul(x, mpihpc.ones((6, 2))),
    "matmul right": lambda x: linalg.matmul(mpihpc.ones((2, 6)), x),
    "matmul both": lambda x: linalg.matmul(x, x),
    "@": lambda x: mpihpc.ones((2, 6)) @ x,
    "matmul out": lambda x: linalg.matmul(mpihpc.ones((6, 6)), mpihpc.ones(6), out=x),
    "outer": lambda x: linalg.outer(x, x),
    "gram": lambda x: linalg.gram(x),
    "evolve": lambda x: stencil.evolve(x, "heat", 1),
    "evolve field": lambda x: stencil.evolve(mpihpc.ones(6), "heat", 1, field=x),
    "leapfrog": lambda x: stencil.leapfrog(x, x, "laplace", 1),
    "leapfrog previous": lambda x: stencil.leapfrog(mpihpc.ones(6), x, "laplace", 1),
    "correlate": lambda x: ndimage.correlate(x, [1, 2]),
    "convolve": lambda x: ndimage.convolve(x, [1, 2]),
    "convolve output": lambda x: ndimage.convolve(mpihpc.ones(6), [1, 2], output=x),
    "map_blocks": lambda x: mpihpc.map_blocks(np.sqrt, x),
    "map_blocks second": lambda x: mpihpc.map_blocks(np.add, mpihpc.ones(6), x),
    "map_reduce": lambda x: mpihpc.map_reduce(np.sum, x, np.add),
    "u + x": lambda x: mpihpc.ones(6) + x,
    "out": lambda x: np.add(mpihpc.ones(6), 1, out=x),
    "where": lambda x: np.add(mpihpc.ones(6), 1, where=x),
}


@pytest.mark.parametrize("wrong", [None, [1.0] * 6], ids=["None", "list"])
@pytest.mark.parametrize("name", CALLS)
def test_one_rank_with_something_else(name, wrong):
    """The others hold a DistArray: all raise the same line, and none waits."""
    here = mpihpc.ones((6, 6) if name == "gram" else 6, bool if name == "where" else float)
    if WORLD.size > 1:
        for rank in {0, 1, WORLD.size - 1}:
            fails_alike(TypeError, r"\S", lambda rank=rank: CALLS[name](wrong if WORLD.rank == rank else here))
    if name not in ("u + x", "where", "vecdot of two", "map_blocks second", "out", "matmul out", "evolve field") and (
        name != "convolve output"
    ):
        fails_alike(TypeError, "DistArray", lambda: CALLS[name](wrong))
    assert mpihpc.ones(6).sum() == 6  # all are in step


ARGUMENTS = {
    "axis": (lambda x: mpihpc.ones((6, 6)).sum(x), 0, 1),
    "no axis": (lambda x: mpihpc.ones((6, 6)).max(x), 0, None),
    "keepdims": (lambda x: mpihpc.ones((6, 6)).sum(0, keepdims=x), False, True),
    "dtype": (lambda x: mpihpc.ones((6, 6)).sum(dtype=x), float, complex),
    "dtype along": (lambda x: mpihpc.ones((6, 6)).mean(0, dtype=x), "f8", "f4"),
    "dtype of cells": (lambda x: mpihpc.sum(x), mpihpc.ones(6), mpihpc.ones(6, "i4")),
    "shape of cells": (lambda x: mpihpc.argmin(x, 0), mpihpc.ones((6, 2)), mpihpc.ones((6, 3))),
    "shape": (mpihpc.empty, (6, 6), (5, 6)),
    "dtype of ones": (lambda x: mpihpc.ones(6, x), "f8", "i4"),
    "halo": (lambda x: mpihpc.ones(6, halo=x), 0, 1),
    "like": (lambda x: mpihpc.ones(6).like(dtype=x), "f8", "f4"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_one_rank_with_another_argument(name):
    """Each is right, but they do not belong together."""
    call, right, other = ARGUMENTS[name]
    call(right), call(other)
    if WORLD.size > 1:
        for rank in {0, WORLD.size - 1}:
            given = other if WORLD.rank == rank else right
            fails_alike(TypeError, r"but .* on rank 0", lambda given=given: call(given))
    assert mpihpc.ones(6).sum() == 6  # all are in step


@pytest.mark.parametrize("wrong", [None, [1.0] * 6], ids=["None", "list"])
def test_one_rank_writes_something_else(shared_tmp_path, wrong):
    here = mpihpc.ones(6)
    file = str(shared_tmp_path / "x.h5")
    for rank in range(min(WORLD.size, 2)):
        fails_alike(
            TypeError,
            "array must be a DistArray, not",
            lambda rank=rank: io.write(file, wrong if WORLD.rank == rank else here),
        )

        def in_a_writer(rank=rank):
            with io.Writer(file, comm=WORLD) as writer:
                writer.write("x", wrong if WORLD.rank == rank else here)

        fails_alike(TypeError, "array must be a DistArray, not", in_a_writer)
    assert WORLD.allreduce(len(list(shared_tmp_path.iterdir()))) == 0


def test_other_ranks_and_devices_are_told_in_the_same_words(comm):
    u, other = mpihpc.ones(6, comm=comm), mpihpc.ones(6, comm=MPI.COMM_SELF)
    words = (
        r"\w+: [\w ]+ is on a different communicator than \w[\w ]* \(1 and \d+ ranks\): make both with the same comm"
    )
    for call in (
        lambda: u + other,
        lambda: mpihpc.vecdot(u, other),
        lambda: linalg.outer(u, other),
        lambda: stencil.leapfrog(u, other, "laplace", 1),
        lambda: stencil.evolve(u, "heat", 1, field=other),
        lambda: ndimage.correlate(u, [1, 2], output=other),
        lambda: mpihpc.map_blocks(np.add, u, other),
    ):
        fails_alike(ValueError, words, call)


def test_agreements_of_ufuncs(monkeypatch, comm):
    u, v = mpihpc.ones((7, 5), comm=comm), mpihpc.ones((7, 5), comm=comm)
    turned = v.redistribute((1, comm.size))
    calls = []

    class Counted:
        """The communicator, which counts reductions."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            if name in ("Allreduce", "allreduce", "allgather", "Allgather", "bcast", "Barrier"):
                calls.append(name)
            return getattr(self.inner, name)

    private = u.topology.private
    monkeypatch.setattr(u.topology, "private", Counted(private))
    for work, ufuncs in (
        (lambda: np.sqrt(u) + v, 2),
        (lambda: u + turned, 1),
        (lambda: np.add(u, v, out=turned), 1),
        (lambda: u * 2, 1),
        (lambda: np.divmod(u, v), 1),
    ):
        calls.clear()
        work()
        assert calls == ["Allreduce"] * 2 * ufuncs, calls


MASKED = np.ma.masked_array([1.0, 2, -9999, 4, 5, 6], [0, 0, 1, 0, 0, 0])


def entrances(comm):
    u = mpihpc.ones(6, comm=comm)

    def masked_block(x):
        return np.ma.masked_array(np.asarray(x), np.arange(x.size) == 0)

    return {
        "asarray": lambda x: mpihpc.asarray(x, comm=comm),
        "asarray of rank 0": lambda x: mpihpc.asarray(x if comm.rank == 0 else None, comm=comm),
        "from_local": lambda x: mpihpc.from_local(x, comm=comm),
        "from_chunks": lambda x: mpihpc.from_chunks([x], comm=comm),
        "full": lambda x: mpihpc.full((6,), x[2:3].reshape(()), comm=comm),
        "fromfunction": lambda x: mpihpc.fromfunction(masked_block, (6,), comm=comm),
        "operand": lambda x: u + x,
        "operand of a list": lambda x: np.add(mpihpc.ones((1, 6), comm=comm), [x]),
        "where": lambda x: np.add(u, 1, where=np.ma.masked_array(np.ones(6, bool), x.mask)),
        "kernel": lambda x: stencil.evolve(u, x, 1),
        "weights": lambda x: ndimage.correlate(u, x),
        "convolve": lambda x: ndimage.convolve(u, x),
        "map_blocks": lambda x: mpihpc.map_blocks(np.add, u, x),
        "map_blocks result": lambda x: mpihpc.map_blocks(masked_block, u),
        "dot": lambda x: mpihpc.dot(u, x),
        "vecdot": lambda x: mpihpc.vecdot(u, x),
    }


@pytest.mark.parametrize("name", entrances(MPI.COMM_SELF))
def test_masked_cells_are_refused(comm, name):
    fails_alike(TypeError, r"masked: give \.filled\(value\)", lambda: entrances(comm)[name](MASKED))


@pytest.mark.parametrize("name", ["asarray", "operand", "kernel", "map_blocks", "vecdot"])
def test_masked_arrays_without_masked_cells_are_arrays(comm, name):
    clean = np.ma.masked_array(np.arange(6.0), False)
    got, want = (entrances(comm)[name](x) for x in (clean, clean.data))
    if isinstance(got, mpihpc.DistArray):
        got, want = got.gather(None), want.gather(None)
    assert type(got) is type(want)
    np.testing.assert_array_equal(got, want)


def test_products_refuse_masked_arrays(comm):
    u = mpihpc.ones((6, 6), comm=comm)
    for call in (lambda: u @ MASKED, lambda: linalg.matmul(u, MASKED)):
        fails_alike(TypeError, "b must be a DistArray, not MaskedArray", call)
    with pytest.raises(TypeError):
        _ = MASKED + mpihpc.ones(6, comm=comm)


OTHERS = {
    "str": np.array(["a"] * 6),
    "datetime64": np.zeros(6, "datetime64[s]"),
    "object": np.array([None] * 6),
    "void": np.zeros(6, [("x", "f8")]),
    "longdouble": np.zeros(6, "g"),
}


@pytest.mark.skipif(np.dtype("g").itemsize == 8, reason="there is no longdouble")
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["asarray", "from_local", "from_chunks", "operand", "kernel", "map_blocks", "vecdot"])
def test_what_are_no_numbers_is_refused(comm, name, kind):
    fails_alike(TypeError, "is not numeric|is wider", lambda: entrances(comm)[name](OTHERS[kind]))


def test_neighbours_of_arrays(comm):
    sparse = scipy.sparse.csr_array(np.eye(6))
    for name in ("asarray", "from_local", "from_chunks", "map_blocks"):
        fails_alike(TypeError, r"sparse csr_array: give \.toarray\(\)", lambda name=name: entrances(comm)[name](sparse))
    fails_alike(TypeError, "numpy.matrix", lambda: mpihpc.ones((1, 6), comm=comm) * np.matrix(np.ones(6)))
    assert type(numbers(np.matrix([[1, 2]]))) is np.ndarray
    big = numbers(np.arange(3, dtype=">f8"))
    assert big.dtype.isnative and big.tolist() == [0, 1, 2]
    plain = np.ones(3)
    assert numbers(plain) is plain


@pytest.mark.parametrize("shape", [(3,), (4,), (5,), (2, 3)])
def test_origins_are_scipys(comm, shape):
    """For all origins near the kernel: SciPy's result, or an error that names what was given."""
    rng = np.random.default_rng(5)
    a, kernel = rng.random((9, 8)[: len(shape)]), rng.random(shape)
    u = mpihpc.asarray(a, comm=comm)
    for name in ("correlate", "convolve"):
        ours, theirs = getattr(ndimage, name), getattr(scipy.ndimage, name)
        for origin in range(-4, 5):
            try:
                want = theirs(a, kernel, mode="nearest", origin=origin)
            except ValueError:
                fails_alike(
                    ValueError,
                    f"origin {origin} is outside a kernel",
                    lambda origin=origin, ours=ours: ours(u, kernel, mode="nearest", origin=origin),
                )
                continue
            np.testing.assert_allclose(ours(u, kernel, mode="nearest", origin=origin).gather(None), want, rtol=1e-13)


FUNCTIONS = [name for name in vars(Kernels) if not name.startswith("_")]


@pytest.mark.parametrize("room", [reference, cpu, cuda], ids=["reference", "cpu", "cuda"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rooms_offer_what_the_protocol_says(room, name):
    """Every function with the names and defaults of its parameters, or a word that it is not supported."""
    if name in getattr(room, "NOT_OFFERED", ()):
        assert not hasattr(room, name)
        return
    wanted = list(inspect.signature(getattr(Kernels, name)).parameters.values())[1:]
    given = list(inspect.signature(getattr(room, name)).parameters.values())
    assert [(p.name, p.kind, p.default) for p in given] == [(p.name, p.kind, p.default) for p in wanted]


def test_rooms_name_only_what_there_is():
    assert set(reference.NOT_OFFERED) < set(FUNCTIONS)
    assert not hasattr(cpu, "NOT_OFFERED") and not hasattr(cuda, "NOT_OFFERED")


def test_devices_say_what_is_asked_of_them():
    asked = [name for name, x in vars(device.Device).items() if isinstance(x, property)]
    from mpihpc.core.gpu import Gpu

    for name in asked:
        assert hasattr(device.CPU, name), name
    assert {"host", "asynchronous", "piece", "rows", "line"} <= set(vars(Gpu))
    assert device.CPU.host and not device.CPU.asynchronous and Gpu.asynchronous and not Gpu.host


def test_one_module_of_kernels_imports_the_extension():
    root = Path(mpihpc.__file__).parent
    found = {
        str(p.relative_to(root)) for p in root.rglob("*.py") if re.search(r"import _core|_core import", p.read_text())
    }
    assert found == {"kernels/cpu.py", "core/watchdog.py"}
    asked = [p.name for p in root.rglob("*.py") if re.search(r"is (not )?CPU\b", p.read_text())]
    assert not asked, "what is asked of a device is a property of it"
