"""The CUDA kernels without a GPU: compiled as C++ of this machine, and run on NumPy arrays."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpihpc.kernels.cuda.source import Kernel, boxes_source, sums_source

SHIM = Path(__file__).with_name("cuda_host.hpp")
_ADVANCE = """
extern "C" void run_{name}(void *const *p, const {name}_::Geometry *g, unsigned blocks, int backwards) {{
    static void *const *args;
    static const {name}_::Geometry *geometry;
    args = p;
    geometry = g;
    launch(blocks, {threads}, {barriers}, backwards, [] {{
        {name}_::{name}(({name}_::Value *)args[0], ({name}_::Value *)args[1], ({name}_::Real *)args[2],
            ({name}_::Value *)args[3], ({name}_::Value *)args[4], *geometry);
    }});
}}
"""
_BOXES = """
extern "C" void run_{verb}_{size}(void *one, void *two, const long long *table, const long long *others,
                                  long long boxes, const boxes_{size}::Strides *strides, unsigned blocks) {{
    static void *cells[2];
    static const long long *rows[2];
    static long long count;
    static const boxes_{size}::Strides *steps;
    cells[0] = one, cells[1] = two, rows[0] = table, rows[1] = others, count = boxes, steps = strides;
    launch(blocks, boxes_{size}::THREADS, false, false, [] {{
        using namespace boxes_{size};
        {verb}_{size}((Cell *)cells[0], (Cell *)cells[1], rows[0], {arguments});
    }});
}}
"""
_ARGUMENTS = {"pack": "count, *steps", "unpack": "count, *steps", "copy": "rows[1], count, steps[0], steps[1]"}


_SUMS = """
extern "C" void run_sum_{dtype}(void *const *p, const sums_{dtype}::Columns *g, unsigned blocks) {{
    static void *const *args;
    static const sums_{dtype}::Columns *geometry;
    args = p;
    geometry = g;
    launch(blocks, sums_{dtype}::THREADS, false, false, [] {{
        using namespace sums_{dtype};
        sum_{dtype}((Cell *)args[0], (Cell *)args[1], (double *)args[2], (int *)args[3],
            (unsigned long long *)args[4], *geometry);
    }});
}}
"""


class Recorder:
    """A machine that only notes which kernels it is asked for."""

    shared, processors = 232448, 3

    def __init__(self) -> None:
        self.kernels: dict[Kernel, str] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.empty(shape, dtype)

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def launch(self, kernel: Kernel, blocks: int, addresses: Sequence[int], geometry: np.ndarray) -> None:
        self.kernels.setdefault(kernel, f"advance_{len(self.kernels)}")


class Host(Recorder):
    """A machine that runs kernels that were compiled before."""

    def __init__(self, library: Path, kernels: dict[Kernel, str]) -> None:
        self.library, self.kernels = ctypes.CDLL(str(library)), kernels
        self.launches = 0
        self.backwards = False  # in which order the threads of a block run

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return fenced(np.full(shape, np.nan, dtype), before=bool(self.launches % 2))

    def launch(self, kernel: Kernel, blocks: int, addresses: Sequence[int], geometry: np.ndarray) -> None:
        run = getattr(self.library, f"run_{self.kernels[kernel]}")
        self.launches += 1
        run((ctypes.c_void_p * 5)(*addresses), geometry.ctypes.data_as(ctypes.c_void_p), blocks, self.backwards)

    def move(
        self, verb: str, one: np.ndarray, two: np.ndarray, tables: Sequence[np.ndarray], *strides: np.ndarray
    ) -> None:
        """Pack, unpack or copy boxes."""
        run = getattr(self.library, f"run_{verb}_{two.dtype.itemsize}")
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (one, two, tables[0], tables[-1])]
        run(*pointers, ctypes.c_longlong(len(tables[0]) - 1), ctypes.c_void_p(np.concatenate(strides).ctypes.data), 3)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return np.zeros(shape, dtype)

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array)

    def to_host(self, array: np.ndarray) -> np.ndarray:
        return array

    def add_up(self, arrays: Sequence[np.ndarray | None], geometry: np.ndarray, blocks: int) -> None:
        run = getattr(self.library, f"run_sum_{arrays[0].dtype.str[1:]}")
        self.launches += 1
        pointers = (ctypes.c_void_p * 5)(*(None if a is None else a.ctypes.data for a in arrays))
        run(pointers, geometry.ctypes.data_as(ctypes.c_void_p), blocks)


def compile_host(target: Path, kernels: dict[str, tuple[Kernel, str]], sizes: Sequence[int] = ()) -> Path:
    """A library of kernels, given by names with their texts, of those that move cells of these sizes, and of sums."""
    text = [f'#include "{SHIM}"']
    for name, (kernel, code) in kernels.items():
        text.append(f"namespace {name}_ {{\n{code}\n}}")
        text.append(_ADVANCE.format(name=name, threads=kernel.threads, barriers=str(kernel.steps > 1).lower()))
    for size in sizes:
        text.append(f"namespace boxes_{size} {{\n{boxes_source(size, f'_{size}')}\n}}")
        text += [_BOXES.format(verb=verb, size=size, arguments=_ARGUMENTS[verb]) for verb in _ARGUMENTS]
    for dtype in ("f4", "f8") if sizes else ():
        text.append(f"namespace sums_{dtype} {{\n{sums_source(dtype, f'_{dtype}')}\n}}")
        text.append(_SUMS.format(dtype=dtype))
    file = target.with_suffix(".cpp")
    file.write_text("\n".join(text))
    command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-o", target, file]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ failed:\n{done.stderr[:2000]}")
    return target


def fenced(array: np.ndarray, before: bool = False) -> np.ndarray:
    """A copy that begins or ends at memory that nobody may touch: a read beyond it ends the process."""
    page = mmap.PAGESIZE
    room = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    libc = ctypes.CDLL(None, use_errno=True)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (start, start + page + room):
        if libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page if before else page + room - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy
