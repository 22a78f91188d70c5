// Row kernels, compiled once per instruction set: MPIHPC_ISA is the namespace, MPIHPC_VECTOR_BYTES the vector's width.
//
// Nothing from std:: is called here: an inline function compiled for AVX-512 in this file could be the copy that the
// linker keeps for all others, and then run on a machine without AVX-512.
//
// Every cell is computed as acc = w[0]*x[0]; acc = acc + w[t]*x[t], t = 1, 2, ..., whether it falls into a block of
// vectors, a single vector or the scalar tail: so its bits depend on neither its place nor the instruction set. (Which
// of several NaN bit patterns comes out is left to the hardware.)
#include "kernels.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MPIHPC_INLINE __attribute__((always_inline)) inline

namespace mpihpc::MPIHPC_ISA {
namespace {

using std::int64_t;

template <class T, int BYTES>
struct Vector {
    typedef T type __attribute__((vector_size(BYTES)));
};

template <class V, class T>
inline V load(const T *p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <bool STREAM, class V, class T>
inline void store(T *p, V v) {
#if defined(__x86_64__)
    if constexpr (STREAM && sizeof(V) == 16) {
        _mm_stream_ps(reinterpret_cast<float *>(p), reinterpret_cast<__m128>(v));
        return;
    }
#if defined(__AVX__)
    if constexpr (STREAM && sizeof(V) == 32) {
        _mm256_stream_ps(reinterpret_cast<float *>(p), reinterpret_cast<__m256>(v));
        return;
    }
#endif
#if defined(__AVX512F__)
    if constexpr (STREAM && sizeof(V) == 64) {
        _mm512_stream_ps(reinterpret_cast<float *>(p), reinterpret_cast<__m512>(v));
        return;
    }
#endif
#endif
    __builtin_memcpy(p, &v, sizeof v);
}

// An operation knows a tap's product with a vector (and, for the tail, with one value of STEP scalars).

template <class T>
struct Real {
    using scalar = T;
    static constexpr int STEP = 1;
    // Every unaligned load of 64 bytes takes two cache lines. A few taps wait for memory, not for arithmetic, and run
    // better with 32 (5 points: 57 against 51 GB/s).
    static constexpr bool HALVE_FOR_FEW_TAPS = true;

    template <class V>
    struct Weight {
        T w;
        Weight(const T *weight, int64_t t) : w(weight[t]) {}
        V times(V x) const { return w * x; }
    };
};

template <class V, class T>
inline V swap_pairs(V x) {
    constexpr int LANES = sizeof(V) / sizeof(T);
#if defined(__clang__)
    if constexpr (LANES == 2) return __builtin_shufflevector(x, x, 1, 0);
    else if constexpr (LANES == 4) return __builtin_shufflevector(x, x, 1, 0, 3, 2);
    else if constexpr (LANES == 8) return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
    else return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#else
    if constexpr (sizeof(T) == 8) {
        typename Vector<long long, sizeof(V)>::type m;
        for (int i = 0; i < LANES; ++i) m[i] = i ^ 1;
        return __builtin_shuffle(x, m);
    } else {
        typename Vector<int, sizeof(V)>::type m;
        for (int i = 0; i < LANES; ++i) m[i] = i ^ 1;
        return __builtin_shuffle(x, m);
    }
#endif
}

template <class T>
struct Complex {
    using scalar = T;
    static constexpr int STEP = 2;
    static constexpr bool HALVE_FOR_FEW_TAPS = false;

    // (wr*xr - wi*xi, wr*xi + wi*xr): a - b is a + (-b) to the bit, so the imaginary weight carries the sign.
    template <class V>
    struct Weight {
        T wr;
        V wi;
        Weight(const T *weight, int64_t t) : wr(weight[2 * t]) {
            const T w = weight[2 * t + 1];
            for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i) wi[i] = i % 2 ? w : -w;
        }
        V times(V x) const { return wr * x + wi * swap_pairs<V, T>(x); }
    };
};

// Fetch what the leading tap will read 8 KiB further on: past the end of a row that is the next row, near enough. Of the
// rows that a stencil reads only the leading one comes from memory, and the hardware's prefetchers, busy with the
// others, fetch it too late: without this a 5-point stencil runs at 0.65 of the speed of a copy, with it at 1.2.
template <int BYTES, class T>
inline void prefetch(const T *x) {
    constexpr std::uintptr_t DISTANCE = 8192;
    const std::uintptr_t p = reinterpret_cast<std::uintptr_t>(x) + DISTANCE;
    for (int b = 0; b < BYTES; b += 64) __builtin_prefetch(reinterpret_cast<const void *>(p + b), 0, 3);
}

// Vectors in the largest block: enough sums in flight to hide the latency of the additions, yet at most 256 bytes, so
// that prefetches and streaming stores come evenly (8 of 64 bytes measured 0.9 of the speed of 4).
constexpr int most_vectors(int bytes) { return bytes == 64 ? 4 : 8; }

// BLOCK neighbouring vectors of one row: the accumulators stay in registers while the taps pass by.
template <class Op, int BYTES, int BLOCK, bool STREAM>
MPIHPC_INLINE void block(typename Op::scalar *dst, const typename Op::scalar *src, const Taps<typename Op::scalar> &taps) {
    using T = typename Op::scalar;
    using V = typename Vector<T, BYTES>::type;
    constexpr int LANES = BYTES / sizeof(T);
    if constexpr (BLOCK == most_vectors(BYTES)) prefetch<BLOCK * BYTES>(src + taps.leading);
    V acc[BLOCK];
    {
        const typename Op::template Weight<V> w(taps.weight, 0);
        const T *x = src + taps.offset[0];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) acc[b] = w.times(load<V>(x + b * LANES));
    }
    for (int64_t t = 1; t < taps.count; ++t) {
        const typename Op::template Weight<V> w(taps.weight, t);
        const T *x = src + taps.offset[t];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) acc[b] = acc[b] + w.times(load<V>(x + b * LANES));
    }
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) store<STREAM>(dst + b * LANES, acc[b]);
}

template <class T>
inline void scalars(T *dst, const T *src, const Taps<T> &taps, int64_t n, Real<T>) {
    for (int64_t i = 0; i < n; ++i) {
        T acc = taps.weight[0] * src[i + taps.offset[0]];
        for (int64_t t = 1; t < taps.count; ++t) acc = acc + taps.weight[t] * src[i + taps.offset[t]];
        dst[i] = acc;
    }
}

template <class T>
inline void scalars(T *dst, const T *src, const Taps<T> &taps, int64_t n, Complex<T>) {
    for (int64_t i = 0; i < n; i += 2) {
        T re = 0, im = 0;
        for (int64_t t = 0; t < taps.count; ++t) {
            const T wr = taps.weight[2 * t], wi = taps.weight[2 * t + 1];
            const T xr = src[i + taps.offset[t]], xi = src[i + taps.offset[t] + 1];
            const T pr = wr * xr - wi * xi, pi = wr * xi + wi * xr;
            re = t ? re + pr : pr;
            im = t ? im + pi : pi;
        }
        dst[i] = re;
        dst[i + 1] = im;
    }
}

template <class T>
struct Copy {
    using scalar = T;
    static constexpr int STEP = 1;
    static constexpr bool HALVE_FOR_FEW_TAPS = false;
};

template <class T>
inline void scalars(T *dst, const T *src, const Taps<T> &, int64_t n, Copy<T>) {
    for (int64_t i = 0; i < n; ++i) dst[i] = src[i];
}

template <class Op, int BYTES, int BLOCK, bool STREAM, class T>
MPIHPC_INLINE void step(T *dst, const T *src, const Taps<T> &taps, Op) {
    block<Op, BYTES, BLOCK, STREAM>(dst, src, taps);
}

template <class Op, int BYTES, int BLOCK, bool STREAM, class T>
MPIHPC_INLINE void step(T *dst, const T *src, const Taps<T> &, Copy<T>) {
    using V = typename Vector<T, BYTES>::type;
    constexpr int LANES = BYTES / sizeof(T);
    V value[BLOCK];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) value[b] = load<V>(src + b * LANES);
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) store<STREAM>(dst + b * LANES, value[b]);
}

// The vectors of a row from `i` on, in blocks of 8 (or 4), 2, 1; returns where the last whole vector ends.
template <class Op, int BYTES, bool STREAM, class T>
inline int64_t vectors(T *dst, const T *src, const Taps<T> &taps, int64_t i, int64_t n) {
    constexpr int64_t LANES = BYTES / sizeof(T);
    constexpr int MOST = most_vectors(BYTES);
    for (; i + MOST * LANES <= n; i += MOST * LANES) step<Op, BYTES, MOST, STREAM>(dst + i, src + i, taps, Op());
    if (MOST > 4 && i + 4 * LANES <= n) {
        step<Op, BYTES, 4, STREAM>(dst + i, src + i, taps, Op());
        i += 4 * LANES;
    }
    if (i + 2 * LANES <= n) {
        step<Op, BYTES, 2, STREAM>(dst + i, src + i, taps, Op());
        i += 2 * LANES;
    }
    if (i + LANES <= n) {
        step<Op, BYTES, 1, STREAM>(dst + i, src + i, taps, Op());
        i += LANES;
    }
    return i;
}

template <class Op, int BYTES>
void row(typename Op::scalar *dst, const typename Op::scalar *src, const Taps<typename Op::scalar> &taps, int64_t n,
         bool stream) {
    using T = typename Op::scalar;
    constexpr int64_t LANES = BYTES / sizeof(T);
    if constexpr (BYTES == 64 && Op::HALVE_FOR_FEW_TAPS) {
        if (taps.count <= 8) return row<Op, 32>(dst, src, taps, n, stream);
    }
    if (n < LANES) {
        if constexpr (BYTES > 16) row<Op, BYTES / 2>(dst, src, taps, n, false);
        else scalars(dst, src, taps, n, Op());
        return;
    }
    // One unaligned vector up to the first aligned cell of dst; the next vectors overlap it. The last one overlaps
    // too. A cell computed twice gets the same bits twice.
    int64_t i = (-reinterpret_cast<std::uintptr_t>(dst) & (BYTES - 1)) / sizeof(T);
    if (i % Op::STEP != 0) {  // complex numbers aligned to half their size: no vector can begin at the boundary
        i = 0;
        stream = false;
    }
    if (i != 0) step<Op, BYTES, 1, false>(dst, src, taps, Op());
    i = stream ? vectors<Op, BYTES, true>(dst, src, taps, i, n) : vectors<Op, BYTES, false>(dst, src, taps, i, n);
    if (i < n) step<Op, BYTES, 1, false>(dst + n - LANES, src + n - LANES, taps, Op());
}

#define MPIHPC_STRING2(x) #x
#define MPIHPC_STRING(x) MPIHPC_STRING2(x)

constexpr Kernels table = {
    MPIHPC_STRING(MPIHPC_ISA),
    {row<Real<float>, MPIHPC_VECTOR_BYTES>, row<Complex<float>, MPIHPC_VECTOR_BYTES>,
     row<Copy<float>, MPIHPC_VECTOR_BYTES>},
    {row<Real<double>, MPIHPC_VECTOR_BYTES>, row<Complex<double>, MPIHPC_VECTOR_BYTES>,
     row<Copy<double>, MPIHPC_VECTOR_BYTES>},
};

}  // namespace

const Kernels &kernels() { return table; }

}  // namespace mpihpc::MPIHPC_ISA
