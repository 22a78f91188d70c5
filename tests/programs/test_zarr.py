"""Zarr stores as results of programs."""

import json
import subprocess

SMALL = ["-m", "mpihpc.stencil", "--shape", "40", "30", "--steps", "2", "--compress", "gzip:1"]


def test_the_result_does_not_depend_on_the_number_of_ranks(launch, tmp_path):
    for ranks in (1, 3):
        done = launch(ranks, *SMALL, "--output", f"{ranks}.zarr")
        assert done.returncode == 0, done.stderr
    subprocess.run(["diff", "-r", "1.zarr", "3.zarr"], cwd=tmp_path, check=True)


def test_a_second_array_is_added(launch, tmp_path):
    for name in ("first", "group/second"):
        done = launch(2, *SMALL, "--output", f"out.zarr:{name}")
        assert done.returncode == 0, done.stderr
    root = json.loads((tmp_path / "out.zarr/zarr.json").read_text())
    assert sorted(root["consolidated_metadata"]["metadata"]) == ["first", "group", "group/second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_refused_before_any_work(launch, tmp_path):
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr" / "a.txt").write_text("")
    for options, text in [
        (["--output", "a.zarr", "--every", "1"], "snapshots go to HDF5 files"),
        (["--output", "notes.zarr"], "it is a folder, and not a Zarr store"),
        (["--output", "no/a.zarr"], "there is no folder"),
    ]:
        done = launch(2, *SMALL, *options)
        assert done.returncode == 2 and len(done.lines) == 1 and text in done.lines[0], done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["notes.zarr"]
