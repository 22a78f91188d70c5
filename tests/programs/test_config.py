"""Options from files: the keys are the flags, flags win, and a result repeats the run that made it."""

import json

import h5py
import pytest

STENCIL = ("-m", "mpihpc.stencil")


def run(launch, ranks, *args):
    done = launch(ranks, *STENCIL, "--quiet", "--json", *args)
    assert (done.returncode, done.lines) == (0, []), done
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_a_file_says_what_flags_say(launch, tmp_path, ranks):
    (tmp_path / "run.toml").write_text(
        'shape = [40, 30]\nkernel = [[0, 1, 0], [1, -3.5, 1], [0, 1, 0]]\nsteps = 4\nmode = ["wrap", "constant"]\n'
        f'cval = 0.25\ndtype = "float32"\ngrid = [1, {ranks}]\noutput = "out.h5"\nverify = true\n'
    )
    flags = ["--shape", "40", "30", "--kernel", "[[0,1,0],[1,-3.5,1],[0,1,0]]", "--steps", "4", "--cval", "0.25"]
    flags += ["--mode", "wrap,constant", "--dtype", "float32", "--grid", f"1x{ranks}"]
    by_file = run(launch, ranks, "--config", "run.toml")
    by_flags = run(launch, ranks, *flags)
    assert by_file["checksum"] == by_flags["checksum"]
    assert (by_file["grid"], by_file["dtype"], by_file["steps"]) == (f"1x{ranks}", "float32", 4)
    assert by_file["verify_error"] is not None and by_flags["verify_error"] is None
    assert run(launch, ranks, "--config", "run.toml", "--steps", "7", "--no-verify")["steps"] == 7  # flags win


def test_a_result_repeats_its_run(launch, tmp_path):
    options = ("--shape", "20", "30", "--kernel", "gaussian:1", "--mode", "constant", "--every", "2", "--steps", "5")
    options += ("--cval", "-1e-3+2j", "--dtype", "complex128")  # a value with all that texts of numbers may have
    first = run(launch, 3, *options, "--output", "out.h5")
    with h5py.File(tmp_path / "out.h5") as h5:
        content = json.loads(h5.attrs["config"])
    assert content["kernel"] == "gaussian:1" and content["steps"] == 5 and content["every"] == 2
    again = run(launch, 1, "--config", "out.h5", "--output", "again.h5")
    assert again["checksum"] == first["checksum"]
    with h5py.File(tmp_path / "out.h5") as a, h5py.File(tmp_path / "again.h5") as b:
        assert (a["data"][:] == b["data"][:]).all() and list(b["t"]) == [0, 2, 4, 5]


@pytest.mark.parametrize(
    "content, words",
    [
        ("stepz = 3", ["unknown key 'stepz'", "did you mean 'steps'"]),
        ("[stencil]\nsteps = 3", ["unknown key 'stencil'"]),
        ("steps = 3 3", ["cannot be read", "line 1"]),
        ("steps = 'x'", ["steps", "'x'", "integer"]),
        ("steps = true", ["steps", "True"]),
        ("verify = 1", ["verify", "neither true nor false"]),
        ("grid = '4y2'", ["grid", "4x2"]),
        ("input = ''", ["input", "empty"]),
        ("shape = []", ["shape", "empty"]),
        ("every = 0\noutput = 'a.h5'", ["every 0"]),
        ("every = 2", ["--output"]),
        ("compress = 'lzf'\noutput = 'a.h5'", ["unknown compression 'lzf'"]),
        ("timeout = -1", ["timeout -1"]),
    ],
)
def test_bad_files(launch, tmp_path, content, words):
    (tmp_path / "run.toml").write_text(content)
    done = launch(3 if "stepz" in content else 1, *STENCIL, "--config", "run.toml")
    assert done.returncode == 2 and len(done.lines) == 1, done
    assert done.lines[0].startswith("mpihpc.stencil: error: ")
    assert all(word in done.lines[0] for word in words), done.lines
    assert [p.name for p in tmp_path.iterdir()] == ["run.toml"]


def test_files_that_hold_no_configuration(launch, tmp_path):
    with h5py.File(tmp_path / "plain.h5", "w") as h5:
        h5["data"] = [1.0]
    for name, words in [("plain.h5", "holds no configuration"), ("none.toml", "No such file")]:
        done = launch(1, *STENCIL, "--config", name)
        assert done.returncode == 2 and len(done.lines) == 1 and words in done.lines[0], done
