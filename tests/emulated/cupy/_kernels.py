"""Kernels, compiled by g++ and begun in the current stream."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cupy._streams import now

_SHIM = Path(__file__).resolve().parents[2] / "cuda_host.hpp"
_PARAMETERS = re.compile(r"__launch_bounds__\([^)]*\)\s+(\w+)\((.*?)\) \{", re.DOTALL)


class RawModule:
    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        assert "--std=c++17" in options
        self._code = code

    def get_function(self, name: str) -> Function:
        return Function(self._code, name)


class Function:
    def __init__(self, code: str, name: str) -> None:
        self.max_dynamic_shared_size_bytes = 48 << 10
        parameters = next(text for found, text in _PARAMETERS.findall(code) if found == name)
        self._types = [re.sub(r"\w+$", "", parameter.strip()).strip() for parameter in parameters.split(",")]
        given = ", ".join(f"*({kind} *)args[{n}]" for n, kind in enumerate(self._types))
        barriers = "true" if "__syncthreads()" in code else "false"
        run = f"""
            static void *const *args;
            extern "C" void run(void *const *given, unsigned blocks, unsigned threads) {{
                args = given;
                launch(blocks, threads, {barriers}, false, [] {{ {name}({given}); }});
            }}"""
        self._run = _compiled(f'#include "{_SHIM}"\n{code}\n{run}').run

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_mem: int = 0
    ) -> None:
        assert len(args) == len(self._types) and shared_mem <= self.max_dynamic_shared_size_bytes
        assert 0 < grid[0] < 1 << 31 and 0 < block[0] <= 1024
        # By value: what the caller does with his own later does not matter.
        given = [np.array(a, np.int64 if isinstance(a, int) else None) for a in args]
        pointers = (ctypes.c_void_p * len(given))(*(a.ctypes.data for a in given))
        now.stream.begin(lambda: (self._run(pointers, grid[0], block[0]), given))


def _compiled(text: str) -> ctypes.CDLL:
    folder = Path(tempfile.gettempdir(), f"mpihpc-emulated-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{hashlib.sha256((text + _SHIM.read_text()).encode()).hexdigest()[:32]}.so"
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            source, target = Path(work, "kernel.cpp"), Path(work, "kernel.so")
            source.write_text(text)
            flags = "-std=c++17 -O1 -ffp-contract=off -w -shared -fPIC -Wl,-Bsymbolic"  # libc has an `advance` too
            subprocess.run(["g++", *flags.split(), "-o", target, source], check=True)
            target.replace(file)
    return ctypes.CDLL(str(file))
