"""The program that multiplies two matrices. From Python, use `mpihpc.linalg`."""
