// What a kernel of one instruction set offers: functions that fill rows. Shared by kernels.cpp and the drivers.
#pragma once

#include <cstdint>

namespace mpihpc {

constexpr int MOST_RADIUS = 4;  // of the shapes that kernels know
constexpr int JAM = 4;          // the most rows that such a kernel fills at once: one row each of so many planes
constexpr std::int64_t VECTOR_MOST = 64;  // bytes

// How many rows a kernel fills at once. Four of a large star read 44: too many for the nearest cache and prefetchers.
constexpr int jammed(int dims, std::int64_t radius, bool box) {
    return dims == 1 ? 1 : dims == 3 && !box && radius > 1 ? 2 : JAM;
}

// Taps of a stencil, for rows of scalars (a complex number is two scalars in a row).
template <class T>
struct Taps {
    const T *const *x;   // what each tap reads for the row's first scalar
    const T *weight;     // one scalar a tap, or (real, imaginary) pairs in the complex kernels
    std::int64_t count;  // >= 1
};

// Memory to fetch into the cache while computing: it will be read soon.
struct Ahead {
    const char *row[JAM];
    int rows = 0;            // how many of them
    std::int64_t lines = 0;  // of 64 bytes, of each row, spread over the row that is computed
};

// Fill dst[0:n]. `stream` asks for stores that bypass the caches. No alignment beyond the scalar's is needed.
template <class T>
using Row = void (*)(T *dst, const Taps<T> &taps, std::int64_t n, bool stream, const Ahead &ahead);

// Fill dst[j][0:n] of jammed(axes, radius, box) rows, n at least VECTOR_MOST bytes. x: the rows of the source that any
// tap reads for any of them, plane by plane: of a star, all rows within the radius in the planes of dst, one in those
// around them.
// Streamed rows are aligned alike.
template <class T>
using Jam = void (*)(T *const *dst, const T *const *x, const T *weight, std::int64_t n, bool stream, const Ahead &);

// What becomes of the sums of a row's taps, where they are not the result themselves. Pointers to the row's first scalar.
template <class T>
struct Update {
    const T *sum;       // of the taps
    const T *here;      // the cells as the taps find them
    const T *previous;  // a step earlier; or null
    const T *field;     // what the sums are multiplied with, one scalar a value; or null
    T *kept;            // gets a copy of `here`; or null
    int parts;          // scalars of a value
};

// Fill dst[i] = here[i] + field[i] * sum[i], or 2 here[i] - previous[i] + field[i] * sum[i], for begin <= i < end.
template <class T>
using Finish = void (*)(T *dst, const Update<T> &update, std::int64_t begin, std::int64_t end, bool stream);

template <class T>
struct Jams {
    Jam<T> of[2][3][MOST_RADIUS];  // [star, box][axes - 1][radius - 1]
    Jam<T> equal[2][2];            // [star, box][axes - 2], radius 1, equal weights; or null
};

template <class T>
struct Rows {
    Row<T> correlate;          // real weights; complex data with real weights too
    Row<T> correlate_complex;  // n is even, offsets are even
    Row<T> copy;               // ignores all taps but where the first one reads
    Finish<T> finish;
    Jams<T> jam;
};

struct Kernels {
    Rows<float> f32;
    Rows<double> f64;
};

namespace baseline { const Kernels &kernels(); }
namespace avx2 { const Kernels &kernels(); }
namespace avx512 { const Kernels &kernels(); }

}  // namespace mpihpc
