"""Zarr v3 stores on the disk: what they consist of, how they are written, and how they take their names.

Reading them is `mpihpc.io.formats.zarr`.
"""
