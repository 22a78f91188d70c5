"""The examples keep their promises, and the commands and scripts of README and docs/ work as they are written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from suite import environment

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = (
    "make",
    "sbatch",
    "srun",
    "git",
    "cd",
    "module",
    "apt-get",
    "sudo",
)  # they need another machine, or a clone


def elevation_file():
    """The elevation model that matplotlib ships."""
    from matplotlib.cbook import get_sample_data

    return Path(get_sample_data("jacksboro_fault_dem.npz", asfileobj=False))


def steepest(a):
    return np.abs(np.diff(a.astype(float), axis=0)).max()


def test_every_example_is_tested():
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        "heat.py",
        "heat_in_metals.py",
        "wave.py",
        "smooth_dem.py",
        "custom_loop.py",
        "least_squares.py",
    }


def test_heat(launch, tmp_path):
    said = []
    for n in (1, 3):
        done = launch(n, EXAMPLES / "heat.py")
        assert (done.returncode, done.lines) == (0, [])
        said.append(done.stdout)
    assert said[0] == said[1]  # the checksum too
    u = np.zeros((256, 256))
    u[97:160, 97:160] = 100
    heat = [[0, 0.2, 0], [0.2, 0.2, 0.2], [0, 0.2, 0]]
    for _ in range(1000):
        u = ndimage.correlate(u, heat, mode="reflect")
    with h5py.File(tmp_path / "heat.h5") as f:
        np.testing.assert_allclose(f["data"], u, rtol=0, atol=1e-10)
        assert f["data"].attrs["units"] == "degC"
    hottest, total = re.match(r"hottest ([\d.]+), sum ([\d.]+), checksum [0-9a-f]{16}, ", said[0]).groups()
    assert float(hottest) == pytest.approx(u.max(), abs=1e-6)
    assert total == f"{63 * 63 * 100:.3f}"


def image(file):
    from matplotlib.image import imread

    return imread(file)


def test_heat_in_metals(launch, tmp_path):
    said = []
    for n in (1, 3):
        done = launch(n, EXAMPLES / "heat_in_metals.py")
        assert (done.returncode, done.lines) == (0, [])
        said.append(done.stdout)
    assert said[0] == said[1]
    i, j = np.indices((120, 200))
    speed = np.where(j < 100, 1.17e-4, 3.4e-5)
    u = 100.0 * ((i >= 40) & (i < 80) & (j >= 80) & (j < 120))
    heat = (u / speed).sum() * 1.17e-4
    for _ in range(2000):
        u = u + speed * 2e3 * ndimage.laplace(u, mode="reflect")
    with h5py.File(tmp_path / "heat_in_metals.h5") as f:
        np.testing.assert_allclose(f["data"], u, rtol=0, atol=1e-9)
    assert f"copper up to {u[:, :100].max():.4f} degC, brass up to {u[:, 100:].max():.4f} degC" in said[0]
    assert f"heat {heat:.3f}, checksum" in said[0]
    picture = image(tmp_path / "heat_in_metals.png")
    assert picture.shape[:2] == u.shape
    hottest = np.unravel_index(u.argmax(), u.shape)
    assert picture[..., :3].sum(-1)[hottest] == picture[..., :3].sum(-1).max()


def test_wave(launch, tmp_path):
    said = []
    for n in (1, 3):
        done = launch(n, EXAMPLES / "wave.py")
        assert (done.returncode, done.lines) == (0, [])
        said.append(done.stdout)
    assert said[0] == said[1]
    found = re.findall(r"^order (\d): error .*: order ([\d.]+)$", said[0], re.MULTILINE)
    assert [int(order) for order, _ in found] == [2, 4, 8]
    assert all(abs(float(seen) - int(order)) < 0.2 for order, seen in found)
    i, j = np.indices((300, 300))
    field = np.where((i - 150) ** 2 + (j - 190) ** 2 < 3600, 0.25, 0.5) ** 2
    second = np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560])

    def change(u):
        return field * sum(ndimage.correlate1d(u, second, axis, mode="reflect") for axis in (0, 1))

    u = np.exp(-((i - 150) ** 2 + (j - 60) ** 2) / 40)
    last = u + change(u) / 2
    for _ in range(320):
        u, last = 2 * u - last + change(u), u
    with h5py.File(tmp_path / "wave.h5") as f:
        np.testing.assert_allclose(f["data"], u, rtol=0, atol=1e-11)
    picture = image(tmp_path / "wave.png")[..., :3]
    assert picture.shape[:2] == u.shape
    assert (picture[u > 0.1][:, 2] > picture[u > 0.1][:, 0]).all() and (u > 0.1).sum() > 100  # blue


@pytest.mark.parametrize("n", [1, 3])
def test_smooth_dem(launch, tmp_path, n):
    done = launch(n, EXAMPLES / "smooth_dem.py")
    assert (done.returncode, done.lines) == (0, [])
    dem = np.load(elevation_file())["elevation"].astype(float)
    smooth = ndimage.gaussian_filter(dem, 2)
    with h5py.File(tmp_path / "smooth.h5") as f:
        np.testing.assert_allclose(f["data"], smooth, rtol=1e-12)
    before, after = f"{steepest(dem):.3f}", f"{steepest(smooth):.3f}"
    assert done.stdout == f"344 x 403 cells, steepest step {before} -> {after}, written to smooth.h5\n"


def test_smooth_dem_with_arguments(launch, tmp_path):
    np.save(tmp_path / "mine.npy", np.arange(600).reshape(20, 30) % 7)
    done = launch(2, EXAMPLES / "smooth_dem.py", "mine.npy", "mine.h5")
    assert (done.returncode, done.lines) == (0, [])
    assert "20 x 30 cells" in done.stdout and "written to mine.h5" in done.stdout
    assert (tmp_path / "mine.h5").exists()


@pytest.mark.parametrize("n", [1, 3])
def test_custom_loop(launch, n):
    done = launch(n, EXAMPLES / "custom_loop.py")
    assert (done.returncode, done.lines) == (0, [])
    assert done.stdout == "5 cells alive; back where it began: True\n"


@pytest.mark.parametrize("n", [1, 3])
def test_least_squares(launch, n):
    done = launch(n, EXAMPLES / "least_squares.py")
    assert (done.returncode, done.lines) == (0, [])
    x = np.arange(1_000_000) / 1_000_000
    noise = (np.arange(1_000_000) * 0.6180339887498949) % 1 - 0.5
    truth = [1.5, -2.0, 0.25, 3.0]
    fitted = np.polynomial.polynomial.polyfit(x, np.polynomial.polynomial.polyval(x, truth) + noise, 3)
    assert done.stdout == f"found {' '.join(f'{c:.3f}' for c in fitted)} of 1.500 -2.000 0.250 3.000\n"


def blocks(page, language):
    """The code blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(block):
    """The commands of a console block, without their prompts; a line that ends with a backslash goes on."""
    lines = re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)
    return [line for line in lines if line.split()[0] not in NOT_RUN]


@pytest.fixture
def reader_folder(tmp_path):
    """What a reader has at hand: the examples and an elevation model."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(elevation_file(), tmp_path / "dem.npz")
    return tmp_path


def test_commands_are_found():
    block = "$ make demo\n$ mpirun -n 8 python -m x \\\n    --steps 3\noutput\n$ h5ls out.h5\n$ srun x\n"
    assert commands(block) == ["mpirun -n 8 python -m x \\\n    --steps 3", "h5ls out.h5"]


def pages(find):
    """The pages on which a function finds something to run."""
    return [pytest.param(page, id=page.name) for page in PAGES if find(page)]


def all_commands(page):
    return [command for block in blocks(page, "console") for command in commands(block)]


def all_scripts(page):
    return blocks(page, "python")


def test_pages_show_what_can_be_run():
    assert {"README.md", "command-line.md"} <= {page.name for page in PAGES if all_commands(page)}
    assert {"README.md", "python.md"} <= {page.name for page in PAGES if all_scripts(page)}


class TestPages:
    @pytest.mark.parametrize("page", pages(all_commands))
    def test_console(self, reader_folder, page):
        """All commands of a page, one after the other, as a reader would type them."""
        env = environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        for command in all_commands(page):
            if command.split()[0] in ("h5ls", "h5diff", "h5dump") and not shutil.which(command.split()[0]):
                continue  # of hdf5-tools
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=reader_folder,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("page", pages(all_scripts))
    def test_python(self, launch, reader_folder, page):
        """Every script of a page runs, and says the same on one rank and on two."""
        for number, block in enumerate(all_scripts(page)):
            script = reader_folder / f"block{number}.py"
            script.write_text(block)
            said = []
            for n in (1, 2):
                done = launch(n, script.name)
                assert done.returncode == 0, f"{block}\n{done.stderr}"
                assert "Traceback" not in done.stderr
                said.append(done.stdout)
            assert said[0] == said[1], f"the number of ranks shows in what this prints:\n{block}"
