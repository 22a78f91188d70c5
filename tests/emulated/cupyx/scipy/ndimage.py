"""`scipy.ndimage.convolve` on emulated arrays."""

from typing import Any

import cupy
import scipy.ndimage


def convolve(source: cupy.ndarray, kernel: cupy.ndarray, output: cupy.ndarray, mode: str) -> Any:
    output[...] = cupy.asarray(scipy.ndimage.convolve(source.get(), kernel.get(), mode=mode))
