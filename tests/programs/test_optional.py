"""CuPy is imported by a call of the GPU's kernels, ml_dtypes for bfloat16, and by nothing else."""

CODE = """
import importlib, pkgutil, sys
sys.modules["cupy"] = sys.modules["ml_dtypes"] = None  # whoever imports them gets an ImportError
before = set(sys.modules)
import mpihpc
for module in pkgutil.walk_packages(mpihpc.__path__, "mpihpc."):
    if not module.name.endswith("__main__") and module.name != "mpihpc.programs.stencil.picture":
        importlib.import_module(module.name)
import numpy as np
from mpihpc.kernels import cuda
u = mpihpc.stencil.evolve(mpihpc.asarray(np.ones((8, 9))), "heat", 3)
assert u.shape == (8, 9)
assert not [name for name in sys.modules if name.split(".")[0] == "cupy" and sys.modules[name]]
try:
    box = [(0, 3)]
    cuda.advance(np.ones(3), np.ones(3), [[0]], [1.0], 1, box, box, ["wrap"])
except ImportError as error:
    print(error)
try:
    mpihpc.zeros(3, "bfloat16")
except TypeError as error:
    print(error)
"""


def test_cupy_and_ml_dtypes_are_imported_by_calls_only(launch):
    found = launch(0, "-c", CODE)
    assert found.returncode == 0, found.stderr
    assert "the kernels on a GPU need CuPy: pip install 'mpihpc[gpu]'" in found.stdout
    assert "dtype bfloat16 needs the package ml_dtypes: pip install 'mpihpc[bfloat16]'" in found.stdout
