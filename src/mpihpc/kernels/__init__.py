"""Kernels: what one process does to its local arrays. They know nothing of MPI, decompositions or halos.

Each room (`reference`, `cpu`, `cuda`) offers the same functions. `advance` applies a stencil several times to a block
with edges; one step of it is::

    correlate(src, dst, offsets, weights, threads=1)

    dst[i] = sum over t of weights[t] * src[i + offsets[t]]    for every cell i of dst

`dst` is a region and `src` the same region with a halo, both usually views. They have equal dtypes (float32, float64,
complex64, complex128), 1 to 4 axes, the last one contiguous, and no memory in common (judged by the ranges of
addresses). `offsets` is a (T, ndim) integer array of values >= 0 with
``src.shape[d] >= dst.shape[d] + offsets[:, d].max()``; `weights` has T entries of the data's dtype or of its real
counterpart. Without taps the result is zero. Bad input raises `ValueError` or `TypeError`, and leaves `dst` untouched.

All of them add the taps in the order given, ``acc = w[0]*x[0]; acc = acc + w[t]*x[t]``, without fused multiply-add, for
interior and edge cells alike. So a result does not depend on how the array is distributed, and all of them agree bit
for bit. (If a result is NaN, its payload is not specified.)
"""
