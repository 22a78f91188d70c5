"""`python -m mpihpc.view`: pictures and animations of files made by hand."""

import os

import h5py
import numpy as np
import pytest

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


def make(file, data, t=None, name="data", **options):
    """A file as a stencil run leaves it; with `t`, a series."""
    axes = "zyx"[-(data.ndim - (t is not None)) :]
    with h5py.File(file, "w") as h5:
        made = h5.create_dataset(name, data=data, **options)
        made.attrs["units"] = "m"
        if t is None:
            return
        scales = {"t": t, **{axis: np.arange(n) for axis, n in zip(axes, data.shape[1:], strict=True)}}
        for d, (axis, values) in enumerate(scales.items()):
            h5[axis] = values
            h5[axis].make_scale(axis)
            made.dims[d].attach_scale(h5[axis])
            made.dims[d].label = axis


def waves(frames, *shape):
    """Snapshots that all differ."""
    cells = np.arange(np.prod(shape)).reshape(shape)
    return np.stack([np.sin(cells / 7 + k) for k in range(frames)])


@pytest.fixture
def view(launch, tmp_path):
    """``view(*args)`` runs the program; what it says goes wrong is one line, and leaves no file behind."""

    def run(*args, code=0, n=0, env=None):
        before = set(tmp_path.iterdir())
        done = launch(n, "-m", "mpihpc.view", *args, env=env)
        assert done.returncode == code, done.stderr
        if code:
            assert len(done.lines) == 1, done.stderr
            assert done.lines[0].startswith("mpihpc.view: error: ")
            assert set(tmp_path.iterdir()) == before
        assert not list(tmp_path.glob("*.png.*")) + list(tmp_path.glob("*.gif.*"))
        return done.lines[0] if code else done.stdout

    return run


def colours(file, box=(150, 150, 500, 450)):
    """The middle of a picture."""
    return np.asarray(Image.open(file).convert("RGB").crop(box))


@pytest.mark.parametrize("shape", [(50,), (30, 40), (7, 30, 40), (1,), (1, 1), (2, 2000)])
@pytest.mark.parametrize("series", [False, True])
def test_a_picture_of_any_shape(view, tmp_path, shape, series):
    data = waves(3, *shape)
    make(tmp_path / "in.h5", data if series else data[0], [0, 10, 20] if series else None)
    out = view("in.h5", "--output", "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert Image.open(tmp_path / "out.png").size == (800, 600)
    assert str(shape) in out


@pytest.mark.parametrize("shape", [(50,), (30, 40), (7, 30, 40)])
def test_an_animation_shows_all_snapshots(view, tmp_path, shape):
    make(tmp_path / "in.h5", waves(5, *shape), range(0, 50, 10))
    out = view("in.h5", "data", "--output", "out.gif", "--fps", "5")
    gif = Image.open(tmp_path / "out.gif")
    assert (gif.n_frames, gif.size, gif.info["duration"]) == (5, (800, 600), 200)
    assert "5 frames" in out and "steps 0 to 40" in out
    assert view("in.h5:data", "--output", "few.gif", "--every", "2", "--quiet") == ""
    assert Image.open(tmp_path / "few.gif").n_frames == 3


def test_an_array_that_is_no_series_is_an_animation_of_one_frame(view, tmp_path):
    make(tmp_path / "in.h5", waves(5, 30))
    view("in.h5", "--output", "out.gif")
    assert Image.open(tmp_path / "out.gif").n_frames == 1


def test_frames_are_chosen_and_share_a_range(view, tmp_path):
    data = np.stack([np.full((20, 20), k) for k in range(3)])
    make(tmp_path / "in.h5", data, [0, 1, 2])
    middle = {}
    for name, *words in (["first", "--frame", 0], ["second", "--frame", 1], ["last"], ["end", "--frame", -1]):
        view("in.h5", "--output", f"{name}.png", "--range", 0, 2, "--cmap", "gray", *words)
        middle[name] = tuple(colours(tmp_path / f"{name}.png")[100, 100])
    assert middle["first"] == (0, 0, 0)
    assert middle["second"] == (128, 128, 128)
    assert middle["last"] == middle["end"] == (255, 255, 255)
    view("in.h5", "--output", "out.gif", "--cmap", "gray")
    gif, seen = Image.open(tmp_path / "out.gif"), []
    for k in range(3):
        gif.seek(k)
        seen.append(gif.convert("RGB").getpixel((250, 250))[0])
    assert np.allclose(seen, [0, 128, 255], atol=5)


@pytest.mark.parametrize("output", ["out.png", "out.gif"])
def test_of_an_incomplete_file_whole_snapshots_are_shown(view, tmp_path, output):
    data = waves(4, 30, 40)
    data[3] = 1e30  # half-written: must not be seen, nor move the range
    make(tmp_path / "in.h5.1a2b3c4d.partial", data, [0, 10, 20])
    make(tmp_path / "whole.h5", data[:3], [0, 10, 20])
    view("in.h5.1a2b3c4d.partial", "--output", output)
    view("whole.h5", "--output", f"whole-{output}")
    assert (tmp_path / output).read_bytes() == (tmp_path / f"whole-{output}").read_bytes()
    said = view("in.h5.1a2b3c4d.partial", "--output", "no.png", "--frame", 3, code=2)
    assert "--frame 3" in said and "3 snapshots (0 to 2)" in said


def test_an_incomplete_file_without_a_whole_snapshot(view, tmp_path):
    make(tmp_path / "in.h5.1a2b3c4d.partial", waves(1, 30, 40), np.zeros(0, int))
    assert "no complete snapshot" in view("in.h5.1a2b3c4d.partial", "--output", "out.png", code=2)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32", ">f8", "complex64"])
def test_all_numbers_are_shown(view, tmp_path, dtype):
    make(tmp_path / "in.h5", (waves(2, 20, 30) > 0).astype(dtype), [0, 1])
    view("in.h5", "--output", "out.png")
    assert len(np.unique(colours(tmp_path / "out.png").reshape(-1, 3), axis=0)) >= 2


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e300])
def test_cells_that_are_all_alike_or_no_numbers(view, tmp_path, value):
    make(tmp_path / "in.h5", np.full((2, 20, 30), value), [0, 1])
    view("in.h5", "--output", "out.gif")
    make(tmp_path / "line.h5", np.full(20, value))
    view("line.h5", "--output", "line.png")


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 1700, 4), "compression": "gzip"}])
def test_large_arrays_are_thinned_out(view, tmp_path, options):
    data = np.zeros((1, 3400, 3100), np.float32)
    data[0, 1700:] = 1
    make(tmp_path / "in.h5", data, [0], **options)
    view("in.h5", "--output", "out.png", "--cmap", "gray")
    middle = colours(tmp_path / "out.png", (300, 0, 301, 600))[:, 0, 0]
    dark, light = np.flatnonzero(middle == 0), np.flatnonzero(middle == 255)
    assert 200 < len(dark) < 300 and len(light) > 200 and (np.diff(dark) == 1)[5:-5].all()


def test_memory_is_bounded(launch, tmp_path):
    """2 GiB of a file without data in it, which takes no room on the disk."""
    with h5py.File(tmp_path / "in.h5", "w") as h5:
        h5.create_dataset("data", (1 << 14, 1 << 14), "f8")
        h5.create_dataset("line", (1 << 28,), "f8")
    script = (
        "import sys\nfrom mpihpc.view.__main__ import main\n"
        "code = main(sys.argv[1:])\n"  # (ru_maxrss would remember the process that started this one)
        "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)\nsys.exit(code)"
    )
    for name in ("data", "line"):
        done = launch(0, "-c", script, "in.h5", name, "--output", "out.png", "--quiet")
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 400  # MiB; Python with matplotlib takes half of it


def test_npy_and_npz(view, tmp_path):
    np.save(tmp_path / "in.npy", waves(1, 20, 30)[0])
    np.savez(tmp_path / "in.npz", a=np.eye(5), b=np.eye(3))
    view("in.npy", "--output", "npy.png")
    view("in.npz:a", "--output", "npz.png")


def test_the_only_dataset_that_is_no_scale_in_a_group(view, tmp_path):
    make(tmp_path / "in.h5", waves(2, 20, 30), [0, 1], name="run/height")
    assert "run/height" in view("in.h5", "--output", "out.png")


def test_an_old_picture_is_replaced(view, tmp_path):
    make(tmp_path / "in.h5", np.eye(9))
    (tmp_path / "out.png").write_text("old")
    view("in.h5", "--output", "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


BAD = {
    "no file": (["none.h5", "--output", "a.png"], "none.h5: No such file"),
    "a folder": (["folder", "--output", "a.png"], "folder"),
    "no HDF5": (["text.h5", "--output", "a.png"], "neither HDF5 nor"),
    "damaged": (["cut.h5", "--output", "a.png"], "cut.h5"),
    "damaged cells": (["packed.h5", "--output", "a.gif", "--range", "0", "1"], "packed.h5: dataset 'data' cannot"),
    "no such dataset": (["in.h5", "dta", "--output", "a.png"], "did you mean 'data'? (data, empty, other, text)"),
    "several": (["in.h5", "--output", "a.png"], "4 datasets (data, empty, other, text)"),
    "no dataset": (["nothing.h5", "--output", "a.png"], "holds 0 datasets"),
    "two datasets": (["in.h5:data", "other", "--output", "a.png"], "leave out 'other'"),
    "frame": (["in.h5", "data", "--output", "a.png", "--frame", "7"], "--frame 7 is out of range"),
    "frame before": (["in.h5", "data", "--output", "a.png", "--frame", "-4"], "has 3 snapshots (0 to 2)"),
    "frame of one": (["in.h5", "other", "--output", "a.png", "--frame", "1"], "has 1 snapshot (0)"),
    "frame of a gif": (["in.h5", "data", "--output", "a.gif", "--frame", "1"], "--frame"),
    "every of a png": (["in.h5", "data", "--output", "a.png", "--every", "2"], "--every"),
    "every 0": (["in.h5", "data", "--output", "a.gif", "--every", "0"], "--every 0"),
    "fps 0": (["in.h5", "data", "--output", "a.gif", "--fps", "0"], "--fps 0"),
    "fps nan": (["in.h5", "data", "--output", "a.gif", "--fps", "nan"], "--fps nan"),
    "range": (["in.h5", "data", "--output", "a.png", "--range", "2", "1"], "--range 2 1"),
    "cmap": (["in.h5", "data", "--output", "a.png", "--cmap", "viridos"], "did you mean 'viridis'?"),
    "suffix": (["in.h5", "data", "--output", "a.txt"], "end it with .png or .gif"),
    "no output": (["in.h5", "data"], "--output"),
    "output folder": (["in.h5", "data", "--output", "no/a.png"], "there is no folder"),
    "output is a folder": (["in.h5", "data", "--output", "folder.png"], "it is a folder"),
    "empty": (["in.h5", "empty", "--output", "a.png"], "(0, 5): nothing to show"),
    "text": (["in.h5", "text", "--output", "a.png"], "not numeric"),
    "unknown": (["in.h5", "data", "--outptu", "a.png"], "did you mean '--output'?"),
    "no arguments": ([], "FILE"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(view, tmp_path, case):
    arguments, words = BAD[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.h5").write_text("neither one nor the other")
    h5py.File(tmp_path / "nothing.h5", "w").close()
    make(tmp_path / "in.h5", waves(3, 20, 30), [0, 1, 2])
    (tmp_path / "cut.h5").write_bytes((tmp_path / "in.h5").read_bytes()[:3000])
    make(tmp_path / "packed.h5", waves(2, 20, 30), [0, 1], chunks=(1, 20, 30), compression="gzip")
    with h5py.File(tmp_path / "packed.h5") as h5:
        chunk = h5["data"].id.get_chunk_info(1)
    with open(tmp_path / "packed.h5", "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with h5py.File(tmp_path / "in.h5", "a") as h5:
        h5["other"], h5["empty"], h5["text"] = np.eye(3), np.zeros((0, 5)), ["a", "b"]
    assert words in view(*arguments, code=2)


def test_without_matplotlib(view, tmp_path):
    make(tmp_path / "in.h5", np.eye(3))
    (tmp_path / "hidden" / "matplotlib").mkdir(parents=True)
    (tmp_path / "hidden" / "matplotlib" / "__init__.py").write_text("raise ImportError('hidden')")
    path = os.pathsep.join(filter(None, [str(tmp_path / "hidden"), os.environ.get("PYTHONPATH")]))
    said = view("in.h5", "--output", "a.png", code=2, env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
    assert "pip install 'mpihpc[viz]'" in said


def test_several_ranks_are_refused(view, tmp_path):
    make(tmp_path / "in.h5", np.eye(3))
    assert "1 process, the job has 2" in view("in.h5", "--output", "a.png", code=2, n=2)
