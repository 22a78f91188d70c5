"""Compiles CUDA C++ without a GPU: with NVRTC, of the wheel or the system, or with nvcc."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")


def find_compiler() -> Callable[[str, str], str] | None:
    """A function of source text and architecture (``sm_90``) that gives what ptxas says of the code, or fails.

    None: there is no compiler. NVRTC comes first because it is what CuPy calls, and refuses things that nvcc allows.
    """
    spec = importlib.util.find_spec("nvidia")  # the folder of NVIDIA's wheels
    folders = list(spec.submodule_search_locations or ()) if spec else []
    wheels = sorted(
        file for folder in folders for file in Path(folder).glob("**/libnvrtc.so.*") if "alt" not in file.name
    )
    if wheels or ctypes.util.find_library("nvrtc"):
        library = ctypes.CDLL(str(wheels[-1]) if wheels else ctypes.util.find_library("nvrtc"))
        return lambda text, arch: _nvrtc(library, text, arch)
    return _nvcc if shutil.which("nvcc") else None


def _nvrtc(library: ctypes.CDLL, text: str, arch: str) -> str:
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(name: str, *args: object) -> None:
        code = getattr(library, name)(*args)
        assert code == 0, f"{name}: {library.nvrtcGetErrorString(code).decode()}"

    call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={arch}")]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    call("nvrtcGetProgramLogSize", program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    call("nvrtcGetProgramLog", program, log)
    assert not failed, f"NVRTC for {arch}:\n{log.value.decode()[:4000]}"
    call("nvrtcGetCUBINSize", program, ctypes.byref(size))
    assert size.value > 0, "NVRTC made no machine code"
    call("nvrtcDestroyProgram", ctypes.byref(program))
    return log.value.decode()


def _nvcc(text: str, arch: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        source.write_text(text)
        command = ["nvcc", *OPTIONS, f"-arch={arch}", "-cubin", "-o", target, source]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"nvcc for {arch}:\n{done.stderr[:4000]}"
        return done.stderr
