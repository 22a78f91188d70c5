"""The program that multiplies: what it prints is what it did, on as many ranks as the optimum was worked out for."""

import contextlib
import itertools
import json
import math
from fractions import Fraction

import h5py
import numpy as np
import pytest

MATMUL = ("-m", "mpihpc.matmul")
FIELDS = {
    "shape": list,
    "dtype": str,
    "ranks": int,
    "grid": str,
    "slices": int,
    "threads": int,
    "device": str,
    "seconds": float,
    "seconds_io": float,
    "gflops": float,
    "words_received_per_rank_max": int,
    "words_optimum": int,
    "words_relayout_max": int,
    "workspace_bytes_max": int,
    "transport": str,
    "checksum": str,
}


def finished(done):
    """The JSON line of a run that went well."""
    assert (done.returncode, done.lines) == (0, []), done
    return json.loads(done.stdout.splitlines()[-1])


def least_words(m, k, n, size):
    """The least that the busiest rank receives, over all grids of up to `size` ranks with even blocks."""
    total = Fraction(m * k + k * n + m * n, size)
    return min(
        Fraction(m * k, pm * pk) + Fraction(k * n, pk * pn) + Fraction(m * n, pm * pn) - total
        for pm, pn, pk in itertools.product(range(1, size + 1), repeat=3)
        if pm * pn * pk <= size
    )


@pytest.mark.parametrize("size", [6, 12, 16])  # tests/test_linalg.py runs on the others
def test_words_received_are_the_exhaustive_optimum(launch, tmp_path, size):
    """Counted where messages are posted; square, tall, flat and deep."""
    shapes = ((96, 96, 96), (4800, 48, 48), (480, 48, 480), (48, 4800, 48))
    (tmp_path / "several.py").write_text(
        "from mpi4py import MPI\n"
        "from mpihpc.matmul.__main__ import Config, run\n"
        f"for shape in {shapes}:\n"
        "    run(MPI.COMM_WORLD, Config(shape=shape, verify=True, json=True, quiet=True))\n"
    )
    done = launch(size, "several.py")
    assert (done.returncode, done.lines) == (0, []), done
    for shape, line in zip(shapes, done.stdout.splitlines(), strict=True):
        result = json.loads(line)
        assert result["words_received_per_rank_max"] == result["words_optimum"] == least_words(*shape, size)
        assert result["words_relayout_max"] == 0
        assert math.prod(map(int, result["grid"].split("x"))) == size
        assert result["verify_error"] == 0  # small integers


@pytest.mark.parametrize("blocks", [0, 4])
def test_no_grid_receives_less_than_the_optimum(blocks):
    """Any grid of up to 6 ranks, idle ones and uneven blocks included; the optimum is that of some grid."""
    from mpihpc.linalg import ProductPlan
    from mpihpc.programs.matmul.job import optimum

    for m, n, k in itertools.product((1, 2, 5, 17), repeat=3):
        words = {}
        for grid in itertools.product(range(1, 7), repeat=3):
            if math.prod(grid) <= 6 and grid[0] <= m and grid[1] <= n and grid[2] <= k:
                with contextlib.suppress(ValueError):  # blocks do not fit every grid
                    words[grid] = ProductPlan(m, n, k, 6, grid=grid, blocks=blocks)
        for grid, plan in words.items():
            assert optimum(plan) <= plan.words
            if not blocks:
                assert optimum(plan) in {p.words for g, p in words.items() if math.prod(g) <= math.prod(grid)}


def test_idle_ranks_do_not_beat_the_optimum(launch):
    """On a grid of one rank nothing is received, and nothing need be."""
    result = finished(launch(2, *MATMUL, "--shape", "6", "7", "8", "--grid", "1,1,1", "--json"))
    assert (result["words_received_per_rank_max"], result["words_optimum"]) == (0, 0)


def test_fields(launch):
    result = finished(launch(4, *MATMUL, "--shape", "60", "70", "80", "--json", "--compare", "--verify"))
    for name, kind in FIELDS.items():
        assert isinstance(result[name], kind), name
    assert result["shape"] == [60, 70, 80]
    assert (result["dtype"], result["ranks"], result["device"], result["slices"]) == ("float64", 4, "cpu", 1)
    assert result["gflops"] == pytest.approx(2 * 60 * 70 * 80 / result["seconds"] / 1e9)
    assert result["numpy_seconds"] > 0 and result["numpy_threads"] >= 1
    # At least what arrived as panels and partial sums.
    assert result["workspace_bytes_max"] >= 8 * result["words_received_per_rank_max"]


def test_checksum_is_the_same_on_any_ranks_and_grid(launch):
    command = (*MATMUL, "--shape", "45", "130", "37", "--json", "--quiet", "--dtype", "complex64")
    results = [finished(launch(n, *command)) for n in (1, 3)]
    results += [finished(launch(4, *command, "--grid", grid)) for grid in ("1,2,2", "1,1,4", "2,1,1")]
    results += [finished(launch(4, *command, "--memory", "20K"))]
    assert len({result["checksum"] for result in results}) == 1
    assert results[-1]["slices"] > 1 and results[-1]["workspace_bytes_max"] <= 20 * 1024
    assert results[0]["words_received_per_rank_max"] == 0
    assert [r["grid"] for r in results[2:5]] == ["1x2x2", "1x1x4", "2x1x1"]


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_files(launch, tmp_path, ranks):
    """Operands from files, the product into one; reproducible bits of numbers that do not add up exactly."""
    rng = np.random.default_rng(5)
    a, b = rng.random((41, 300)) - 0.5, (rng.random((300, 23)) - 0.5).astype(np.float32)
    with h5py.File(tmp_path / "in.h5", "w") as f:
        f["left"] = a
    np.savez(tmp_path / "in.npz", right=b, other=a)
    files = ("--a", "in.h5:left", "--b", "in.npz:right")
    options = ("--output", "out.h5:product", "--reproducible", "--json", "--verify")
    result = finished(launch(ranks, *MATMUL, *files, *options))
    assert (result["dtype"], result["shape"]) == ("float64", [41, 300, 23])
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["product"].shape == (41, 23)
        np.testing.assert_allclose(f["product"], a @ b, rtol=0, atol=1e-13)
        assert json.loads(f.attrs["config"])["b"] == "in.npz:right"
    alone = finished(launch(1, *MATMUL, *files, "--reproducible", "--json"))
    assert alone["checksum"] == result["checksum"]
    again = finished(launch(ranks, *MATMUL, "--config", "out.h5", "--output", "again.h5"))
    assert again["checksum"] == result["checksum"]


def test_relayout_is_told_apart(launch, tmp_path):
    """An .npz file is read by rank 0 and dealt out in rows, which is not how a grid that cuts k wants A."""
    np.savez(tmp_path / "in.npz", a=np.ones((40, 40)))
    files = "--a", "in.npz", "--b", "in.npz", "--json"
    result = finished(launch(2, *MATMUL, *files))
    # B is wanted in columns, but what comes of its rows is no more than what would have come of columns.
    assert result["words_received_per_rank_max"] == result["words_optimum"] == 800
    assert result["words_relayout_max"] == 0
    for options in (), ("--memory", "64K"):
        result = finished(launch(2, *MATMUL, *files, "--grid", "1,1,2", *options))
        assert (result["words_received_per_rank_max"], result["words_relayout_max"]) == (800, 400), options


BAD = {
    "two lengths": ("--shape 3 4", "--shape takes 3 lengths, m k n, not 2"),
    "one operand": ("--a a.npy", "give both --a and --b"),
    "both": ("--a a.npy --b a.npy --shape 1 1 1", "excludes --a and --b"),
    "no product": ("--a a.npy --b a.npy", "4x6 and 4x6 cannot be multiplied: 6 columns, but 4 rows"),
    "cube": ("--a cube.npy --b a.npy", "cube.npy has shape (2, 2, 2): a matrix has 2 axes"),
    "objects": ("--a objects.npy --b a.npy", "objects.npy"),
    "no file": ("--a none.npy --b a.npy", "none.npy: No such file"),
    "complex": ("--a waves.npy --b a.npy --dtype float64", "complex input"),
    "grid": ("--grid 3,3,3", "grid 3x3x3 needs 27 ranks, the job has 3"),
    "flat grid": ("--grid 2,2", "grid 2x2 is not three numbers of ranks"),
    "words": ("--grid two", "like 2,2,1"),
    "memory": ("--memory 1K", "memory 1024 is too small"),
    "unit": ("--memory 1Q", "like 64M"),
    "gpu": ("--device gpu", "no GPU is available"),
    "dtype": ("--dtype object", "unknown dtype 'object'"),
    "blocks": ("--reproducible --blocks 5", "blocks 5 is not a power of two"),
    "folder": ("--output no/out.h5", "no"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(launch, tmp_path, name):
    np.save(tmp_path / "a.npy", np.ones((4, 6)))
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "waves.npy", np.ones((4, 4)) * 1j)
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    before = {p.name for p in tmp_path.iterdir()}
    options, words = BAD[name]
    done = launch(3, *MATMUL, *options.split())
    assert done.returncode == 2, done
    assert len(done.lines) == 1 and done.lines[0].startswith("mpihpc.matmul: error: "), done.lines
    assert words in done.lines[0]
    assert {p.name for p in tmp_path.iterdir()} == before


def test_verify_refuses_a_wrong_product():
    from mpihpc.core.failure import VerificationError
    from mpihpc.programs.matmul.job import verify

    a, b = np.random.default_rng(1).random((2, 9, 9))
    assert verify(a, b, a @ b) < 1e-15
    wrong = a @ b
    wrong[3, 4] *= 1 + 1e-12
    with pytest.raises(VerificationError, match=r"differs from NumPy's by .* at \(3, 4\)"):
        verify(a, b, wrong)
    wrong[3, 4] = np.nan
    with pytest.raises(VerificationError, match=r"at \(3, 4\)"):
        verify(a, b, wrong)
