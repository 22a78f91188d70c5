"""What only a machine with a GPU can prove: ``python -m tests.gpu``. It needs CuPy, pytest and the built package."""
