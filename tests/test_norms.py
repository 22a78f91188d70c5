"""Norms, held against numpy.linalg.norm of the whole array."""

import itertools

import numpy as np
import pytest

import mpihpc
from mpihpc import DistArray
from mpihpc.linalg import norm, vecdot

VECTOR = (None, 2, 1, 0, np.inf, -np.inf, 3, 0.5, -1, -2)
MATRIX = (None, "fro", "f", 1, -1, np.inf, -np.inf)
KINDS = ("f8", "f4", "c16", "i4")
rng = np.random.default_rng(5)


def numbers(shape, kind):
    cells = rng.integers(-9, 10, shape).astype(float) + rng.random(shape) / 8
    cells = cells + 1j * rng.random(shape) if kind == "c16" else cells
    return cells.astype(kind)


def check(a, comm, *arguments, **options):
    found, wanted = (
        f(x, *arguments, **options) for f, x in ((norm, mpihpc.asarray(a, comm=comm)), (np.linalg.norm, a))
    )
    assert found.dtype == wanted.dtype
    found = found.gather(None) if isinstance(found, DistArray) else found
    assert np.shape(found) == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=2e-6 if wanted.dtype == np.float32 else 1e-14)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("kind", KINDS)
def test_norms_are_numpys(comm, kind):
    for ord in VECTOR:
        check(numbers(23, kind), comm, ord)
        for axis, keepdims in ((0, False), (1, True), (-1, False)):
            check(numbers((5, 7, 6), kind), comm, ord, axis, keepdims)
    for ord, keepdims in itertools.product(MATRIX, (False, True)):
        check(numbers((9, 4), kind), comm, ord, keepdims=keepdims)
        for axis in ((0, 1), (2, 1), (-1, 0)):
            check(numbers((5, 7, 6), kind), comm, ord, axis, keepdims)
    check(numbers((3, 4, 5), kind), comm)
    check(numbers((3, 4, 5), kind), comm, keepdims=True)


def test_bits_of_norms_do_not_depend_on_the_cut(comm):
    a = numbers((40, 50), "f8")
    for ord, axis in ((None, None), (1, None), (np.inf, None), (3, 1), (None, 0)):
        found = {
            whole.tobytes()
            for dims in ((comm.size, 1), (1, comm.size))
            for whole in [norm(mpihpc.asarray(a, comm=comm, dims=dims), ord, axis)]
            for whole in [whole.gather(None) if isinstance(whole, DistArray) else whole]
        }
        assert len(found) == 1


def test_vecdot_is_numpys(comm):
    a, b = numbers((6, 11), "c16"), numbers((6, 11), "c16")
    found = vecdot(mpihpc.asarray(a, comm=comm), mpihpc.asarray(b, comm=comm)).gather(None)
    np.testing.assert_allclose(found, np.linalg.vecdot(a, b), rtol=1e-14)


@pytest.mark.parametrize(
    "shape, arguments, words",
    [
        ((3, 4), (2,), "ord 2 of matrices needs singular values"),
        ((3, 4), ("nuc",), "singular values"),
        ((3, 4), (3,), "ord 3 is not a norm of matrices"),
        ((3,), ("fro",), "ord 'fro' is not a norm of vectors"),
        ((3, 4, 5), (1,), "one or two axes, not 3"),
        ((3, 4), (1, 2), "axis 2 does not name"),
        ((3, 4), (1, (0, 0)), "does not name different axes"),
    ],
)
def test_norms_that_there_are_not(comm, shape, arguments, words):
    with pytest.raises(ValueError, match=words.replace("(", "\\(")):
        norm(mpihpc.ones(shape, comm=comm), *arguments)
    with pytest.raises(TypeError, match="norm: x must be a DistArray, not ndarray"):
        norm(np.ones(3))
