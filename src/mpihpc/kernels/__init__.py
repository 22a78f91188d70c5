"""Kernels: what one process does to its local arrays. They know nothing of MPI, decompositions or halos.

Each room (`reference`, `cpu`, `cuda`) offers the same functions. `advance` applies a stencil several times to a block
with edges; one step of it is::

    correlate(src, dst, offsets, weights, threads=1)

    dst[i] = sum over t of weights[t] * src[i + offsets[t]]    for every cell i of dst

`src` is the region grown by the halo and `dst` the region, both usually views: equal dtypes (float32,
float64, complex64, complex128), 1 to 4 axes, the last one contiguous, no memory in common (judged by the
ranges of addresses). `offsets` is a (T, ndim) integer array of values >= 0 with
``src.shape[d] >= dst.shape[d] + offsets[:, d].max()``; `weights` has T entries of the data's dtype or of its
real counterpart. No taps give zeros. Bad input is a `ValueError` or `TypeError`, with `dst` untouched.

Every room adds the taps in the order given, ``acc = w[0]*x[0]; acc = acc + w[t]*x[t]``, without fused
multiply-add, for interior and edge cells alike: so a result does not depend on how the array was cut, and the
CPU rooms agree bit for bit. (Where the result is NaN, which NaN comes out is not promised.)
"""
