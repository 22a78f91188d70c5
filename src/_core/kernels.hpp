// What a kernel of one instruction set offers: functions that fill one row. Shared by kernels.cpp and driver.cpp.
#pragma once

#include <cstdint>

namespace mpihpc {

// Taps of a stencil, for rows of scalars (a complex number is two scalars in a row).
template <class T>
struct Taps {
    const std::int64_t *offset;  // distance in scalars from the row's first source scalar
    const T *weight;             // one scalar a tap, or (real, imaginary) pairs in the complex kernels
    std::int64_t count;          // >= 1
    std::int64_t leading;        // the offset that the sweep over the rows reaches last: the one not yet in a cache
};

// Fill dst[0:n] from src. `stream` asks for stores that bypass the caches. No alignment beyond the scalar's is needed.
template <class T>
using Row = void (*)(T *dst, const T *src, const Taps<T> &taps, std::int64_t n, bool stream);

template <class T>
struct Rows {
    Row<T> correlate;          // real weights; complex data with real weights too
    Row<T> correlate_complex;  // n is even, offsets are even
    Row<T> copy;               // ignores the taps
};

struct Kernels {
    const char *name;
    Rows<float> f32;
    Rows<double> f64;
};

namespace baseline { const Kernels &kernels(); }
namespace avx2 { const Kernels &kernels(); }
namespace avx512 { const Kernels &kernels(); }

}  // namespace mpihpc
