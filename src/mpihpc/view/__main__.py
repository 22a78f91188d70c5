"""The program: ``mpihpc view out.h5 --output out.png``. One process, which needs no MPI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpihpc import io
from mpihpc._version import __version__
from mpihpc.core.decomposition import Box
from mpihpc.core.failure import nearest
from mpihpc.io.reading import Alone, Reader
from mpihpc.programs.config import Parser
from mpihpc.programs.frame import execute_serial, progress
from mpihpc.view import PIXELS, Drawing, check_picture, limits_of, replacing

EXAMPLES = """
examples:
  python -m mpihpc.view out.h5 --output out.png
  python -m mpihpc.view heat.h5 data --output heat.gif --every 10 --fps 20
"""

_SLAB_BYTES = 1 << 24
_DPI = 100


@dataclass(frozen=True)
class Config:
    """What to draw; the fields are the arguments of the command line."""

    file: str
    output: str
    dataset: str | None = None
    frame: int | None = None
    every: int | None = None
    fps: float | None = None
    cmap: str | None = None
    range: tuple[float, float] | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Result:
    """What was drawn: the dataset, the whole shape of one frame, the frames, and what `t` says about them."""

    dataset: str
    shape: tuple[int, ...]
    frames: tuple[int, ...]
    steps: tuple[float, ...]
    limits: tuple[float, float]


class Source:
    """An array of a file, and whether it is a series of snapshots. Use it in a ``with`` statement.

    Attributes
    ----------
    name : str
        Of the dataset.
    shape : tuple of int
        Of one snapshot, or of the array.
    steps : numpy.ndarray or None
        What the scale ``t`` says about each whole snapshot; None: no series.
    axes : list of Axis
        Those of `shape`.
    units : str
        Of the values.
    """

    def __init__(self, file: str, dataset: str | None) -> None:
        self.file = file
        self._stack = ExitStack()
        with self._stack:
            self._reader = self._stack.enter_context(Reader(file, dataset, comm=Alone()))
            self._entry = self._reader.entry(dataset)
            self.name, self.dtype, self.units = self._entry.name, self._entry.dtype, self._entry.units
            # What can only be read from begin to end is read as a whole.
            self._whole = self._reader.load(self._entry) if self._reader.streamed else None
            axes = list(self._reader.metadata(self.name).axes) or [io.Axis()] * len(self._entry.shape)
            self.steps: NDArray[Any] | None = None
            if len(self._entry.shape) > 1 and axes[0].name == "t":  # numbers over time are a line
                self.steps = axes[0].values
            first = 0 if self.steps is None else 1
            self.shape, self.axes = self._entry.shape[first:], axes[first:]
            self._stack = self._stack.pop_all()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def frame(self, k: int) -> NDArray[Any]:
        """One or two axes of a snapshot, at the middle of the others, thinned out to a picture's size.

        Read in slabs of 16 MiB, so that a snapshot may be larger than the memory.
        """
        shown = self.shape[-2:]
        lead: tuple[int, ...] = (*(() if self.steps is None else (k,)), *(n // 2 for n in self.shape[:-2]))
        thin = [-(-n // PIXELS) for n in shown]
        image = np.empty([-(-n // t) for n, t in zip(shown, thin, strict=True)], self.dtype.newbyteorder("="))
        step = (
            None
            if self._entry.step is None
            else [min(c, n) for c, n in zip(self._entry.step[-len(shown) :], shown, strict=True)]
        )
        for box in Box.whole(shown).slabs(max(1, _SLAB_BYTES // self.dtype.itemsize), step=step):
            corner = [-(-a // t) for a, t in zip(box.start, thin, strict=True)]
            taken = [slice(c * t, b, t) for c, t, b in zip(corner, thin, box.stop, strict=True)]
            if any(s.start >= s.stop for s in taken):
                continue
            index = (*(slice(k, k + 1, 1) for k in lead), *taken)
            piece: NDArray[Any] = (
                self._reader.read_part(self._entry, index) if self._whole is None else self._whole[index]
            )
            piece = piece.reshape(piece.shape[len(lead) :])
            image[tuple(slice(c, c + piece.shape[d]) for d, c in enumerate(corner))] = piece
        return np.abs(image) if image.dtype.kind == "c" else image

    def title(self, k: int) -> str:
        """What a frame shows."""
        words = [self.name or os.fsencode(os.path.basename(self.file)).decode(errors="replace")]
        if self.dtype.kind == "c":
            words[0] = f"|{words[0]}|"
        if self.steps is not None:
            t = self.steps[k].item()
            words.append(f"step {int(t)}" if t == int(t) else f"t = {t:g}")
        hidden = self.shape[:-2]
        for d, (axis, size) in enumerate(zip(self.axes, hidden, strict=False)):
            units = axis.attrs.get("units")
            where = size // 2 if axis.values is None else f"{axis.values[size // 2]:g}{f' {units}' if units else ''}"
            words.append(f"{axis.name or f'axis {d}'} = {where}")
        return ", ".join(words)


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """The configuration for a command line."""
    parser = Parser(
        prog="mpihpc.view",
        description="Make a picture or an animation of an array in a file, such as mpihpc.stencil writes it.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help=".h5, .npy or .npz, or the .partial file of a run that was interrupted")
    add("dataset", metavar="DATASET", nargs="?", help="default: the only one; FILE:DATASET works too")
    add("--output", metavar="FILE.png|.gif", help="the picture, or the animation of all snapshots")
    add("--frame", type=int, metavar="K", help="which snapshot a .png shows, from 0 (default: the last)")
    add("--every", type=int, metavar="K", help="every K-th snapshot in a .gif (default: all)")
    add("--fps", type=float, metavar="N", help="frames per second of a .gif (default: 10)")
    add("--cmap", metavar="NAME", help="a matplotlib colour map (default: viridis)")
    add(
        "--range",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="limits of the values (default: those shown)",
    )
    add("--quiet", action="store_true", help="errors only")
    add("--version", action="version", version=f"mpihpc {__version__}")
    given = vars(parser.parse_args(argv))
    if "output" not in given:
        raise ValueError("nothing to write: add --output FILE.png or FILE.gif")
    if not os.path.exists(given["file"]):
        file, dataset = io.split_name(given["file"])
        if dataset is not None:
            if "dataset" in given:
                raise ValueError(f"{given['file']} already names a dataset: leave out {given['dataset']!r}")
            given |= {"file": file, "dataset": dataset}
    if "range" in given:
        given["range"] = tuple(given["range"])
    return Config(**given)


def run(config: Config) -> Result:
    """Draw, in this process alone.

    Parameters
    ----------
    config : Config
        What to draw.

    Returns
    -------
    Result

    Raises
    ------
    ValueError, TypeError, OSError
        No picture was written, and an old one is as it was.
    """
    _check(config)
    with Source(config.file, config.dataset) as source:
        frames = _frames(config, source)
        result = _draw(config, source, frames)
    if not config.quiet:
        several = f"{len(frames)} frames" if len(frames) > 1 else "1 frame"
        steps = f", steps {result.steps[0]:g} to {result.steps[-1]:g}" if len(result.steps) > 1 else ""
        print(f"{config.output}: {several} of {result.dataset or config.file}, shape {result.shape}{steps}", flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    return execute_serial("mpihpc.view", parse_args, run, argv)


def _check(config: Config) -> None:
    """Refuse what is wrong whatever the file holds."""
    check_picture(config.output, (".png", ".gif"))
    import matplotlib

    animated = config.output.lower().endswith(".gif")
    if animated and config.frame is not None:
        raise ValueError("--frame chooses one snapshot for a .png: leave it out for a .gif, which shows them all")
    if not animated and (config.every is not None or config.fps is not None):
        raise ValueError("--every and --fps are for a .gif: leave them out for a .png, or choose its --frame")
    if config.every is not None and config.every < 1:
        raise ValueError(f"--every {config.every} is less than 1")
    if config.fps is not None and not 0.01 <= config.fps <= 100:  # a GIF counts in 1/100 s
        raise ValueError(f"--fps {config.fps:g} is not between 0.01 and 100")
    if config.range and not (np.isfinite(config.range).all() and config.range[0] < config.range[1]):
        raise ValueError(f"--range {config.range[0]:g} {config.range[1]:g}: the first must be below the second")
    if config.cmap is not None and config.cmap not in matplotlib.colormaps:
        known = get_close_matches(config.cmap, matplotlib.colormaps, n=5, cutoff=0.5)
        raise ValueError(f"unknown colour map {config.cmap!r}: {nearest(config.cmap, known or ['viridis', 'gray'])}")


def _frames(config: Config, source: Source) -> list[int]:
    """The snapshots to show; [0] for an array that is no series."""
    what = f"{config.file}: dataset {source.name!r}"
    if not np.prod(source.shape):
        raise ValueError(f"{what} has shape {source.shape}: nothing to show")
    count = 1 if source.steps is None else len(source.steps)
    if not count:
        raise ValueError(f"{what} holds no complete snapshot: nothing to show")
    if config.output.lower().endswith(".gif"):
        return list(range(0, count, config.every or 1))
    frame = -1 if config.frame is None else config.frame
    if not -count <= frame < count:
        have = f"{count} snapshots (0 to {count - 1})" if count > 1 else "1 snapshot (0)"
        raise ValueError(f"--frame {frame} is out of range: {what} has {have}")
    return [frame % count]


def _draw(config: Config, source: Source, frames: list[int]) -> Result:
    """Read and draw the frames one by one."""
    from PIL import Image

    passes = 1 if len(frames) == 1 or config.range else 2
    with progress(passes * len(frames), not config.quiet and len(frames) > 1, "frame") as tell:
        limits = config.range
        if limits is None:
            found = []
            for done, k in enumerate(frames):
                found.append(limits_of(source.frame(k)))
                if passes == 2:
                    tell(done + 1)
            limits = (min(low for low, _ in found), max(high for _, high in found))
            if limits[0] > limits[1]:
                limits = (0.0, 1.0)  # nothing is finite
        drawing = Drawing(source.shape[-2:], source.axes[-2:], source.units, limits, config.cmap)

        def images() -> Iterator[Any]:
            for done, k in enumerate(frames):
                drawing.show(source.frame(k), source.title(k))
                yield _image(drawing, fixed=done > 0)
                tell((passes - 1) * len(frames) + done + 1)

        with replacing(config.output) as partial:
            if not config.output.lower().endswith(".gif"):
                next(images()).save(partial)
            else:
                palette = _palette(drawing)
                frames_of_gif = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images())
                next(frames_of_gif).save(
                    partial,
                    save_all=True,
                    append_images=frames_of_gif,
                    duration=max(10, 10 * round(100 / (config.fps or 10))),
                    loop=0,
                )
    steps = () if source.steps is None else tuple(source.steps[k].item() for k in frames)
    return Result(source.name, source.shape, tuple(frames), steps, limits)


def _image(drawing: Drawing, fixed: bool) -> Any:
    """The figure as an image for Pillow; `fixed`: nothing moves but the values and the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    drawing.figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(drawing.figure)
    if fixed:
        drawing.figure.set_layout_engine("none")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _palette(drawing: Drawing) -> Any:
    """256 colours for all frames of an animation: those of the map, greys for letters, the line and its edges."""
    import matplotlib
    from PIL import Image

    fade = np.linspace(0, 1, 24)[:, None]
    colours = [
        matplotlib.colormaps[drawing.cmap or matplotlib.rcParams["image.cmap"]](np.linspace(0, 1, 192))[:, :3],
        np.repeat(np.linspace(0, 1, 40)[:, None], 3, axis=1),
        fade * 1 + (1 - fade) * np.array(matplotlib.colors.to_rgb("C0")),
    ]
    image = Image.new("P", (1, 1))
    image.putpalette(np.round(255 * np.concatenate(colours)).astype(np.uint8).tobytes())
    return image


if __name__ == "__main__":
    sys.exit(main())
