"""The product of two matrices from files. See `mpihpc.matmul.__main__`."""
