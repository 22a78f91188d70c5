// Kernels of rows, compiled once per instruction set: MPIHPC_ISA is the namespace, MPIHPC_VECTOR_BYTES the vector's width.
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

// w * x, by an instruction that adds -0.0 to it, which changes no bit. On AMD additions have to wait for the denormal
// products of plain multiplications (vectors of them take twice, if they come from normal numbers three times as long),
// for those of fused ones they do not. Where nothing is denormal, both take the same time to 3 %.
template <class W, class V>
MPIHPC_INLINE V product(W w, V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) {
        const V weight = w - V{}, zero = -V{};
        if constexpr (sizeof(x[0]) == 4) return (V)_mm512_fmadd_ps((__m512)weight, (__m512)x, (__m512)zero);
        else return (V)_mm512_fmadd_pd((__m512d)weight, (__m512d)x, (__m512d)zero);
    }
#endif
#if defined(__FMA__)
    if constexpr (sizeof(V) == 32) {
        const V weight = w - V{}, zero = -V{};
        if constexpr (sizeof(x[0]) == 4) return (V)_mm256_fmadd_ps((__m256)weight, (__m256)x, (__m256)zero);
        else return (V)_mm256_fmadd_pd((__m256d)weight, (__m256d)x, (__m256d)zero);
    }
#endif
    return w * x;
}

// An operation knows a tap's product with a vector (and, for the tail, with one value of STEP scalars).

template <class T>
struct Real {
    using scalar = T;
    static constexpr int STEP = 1;

    template <class V>
    struct Weight {
        T w;
        Weight(const T *weight, int64_t t) : w(weight[t]) {}
        V times(V x) const { return product(w, x); }
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

    // (wr*xr - wi*xi, wr*xi + wi*xr): a - b is a + (-b) to the bit, so the imaginary weight carries the sign.
    template <class V>
    struct Weight {
        T wr;
        V wi;
        Weight(const T *weight, int64_t t) : wr(weight[2 * t]) {
            const T w = weight[2 * t + 1];
            for (unsigned i = 0; i < sizeof(V) / sizeof(T); ++i) wi[i] = i % 2 ? w : -w;
        }
        V times(V x) const { return product(wr, x) + product(wi, swap_pairs<V, T>(x)); }
    };
};

// Fetches as much with each block of a row as makes the whole with all of them.
struct Fetch {
    const Ahead &ahead;
    const int64_t each;
    int64_t line = 0;
    Fetch(const Ahead &ahead, int64_t block, int64_t n) : ahead(ahead), each(ahead.lines * block / n + 1) {}

    MPIHPC_INLINE void next() {
        if (line >= ahead.lines) return;
        for (int r = 0; r < ahead.rows; ++r)
            for (int64_t q = line; q < line + each; ++q) __builtin_prefetch(ahead.row[r] + 64 * q, 0, 3);
        line += each;
    }
};

constexpr int MOST = 8;  // vectors in the largest block: enough sums in flight to hide the latency of the additions

// BLOCK neighbouring vectors of one row: the accumulators stay in registers while the taps pass by.
template <class Op, int BYTES, int BLOCK, bool STREAM, class T>
MPIHPC_INLINE void block(T *dst, const Taps<T> &taps, int64_t i, Op) {
    using V = typename Vector<T, BYTES>::type;
    constexpr int LANES = BYTES / sizeof(T);
    V acc[BLOCK];
    {
        const typename Op::template Weight<V> w(taps.weight, 0);
        const T *x = taps.x[0] + i;
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) acc[b] = w.times(load<V>(x + b * LANES));
    }
    for (int64_t t = 1; t < taps.count; ++t) {
        const typename Op::template Weight<V> w(taps.weight, t);
        const T *x = taps.x[t] + i;
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) acc[b] = acc[b] + w.times(load<V>(x + b * LANES));
    }
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) store<STREAM>(dst + i + b * LANES, acc[b]);
}

template <class T>
inline void scalars(T *dst, const Taps<T> &taps, int64_t n, Real<T>) {
    for (int64_t i = 0; i < n; ++i) {
        T acc = taps.weight[0] * taps.x[0][i];
        for (int64_t t = 1; t < taps.count; ++t) acc = acc + taps.weight[t] * taps.x[t][i];
        dst[i] = acc;
    }
}

template <class T>
inline void scalars(T *dst, const Taps<T> &taps, int64_t n, Complex<T>) {
    for (int64_t i = 0; i < n; i += 2) {
        T re = 0, im = 0;
        for (int64_t t = 0; t < taps.count; ++t) {
            const T wr = taps.weight[2 * t], wi = taps.weight[2 * t + 1];
            const T xr = taps.x[t][i], xi = taps.x[t][i + 1];
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
};

template <class T>
inline void scalars(T *dst, const Taps<T> &taps, int64_t n, Copy<T>) {
    for (int64_t i = 0; i < n; ++i) dst[i] = taps.x[0][i];
}

template <class Op, int BYTES, int BLOCK, bool STREAM, class T>
MPIHPC_INLINE void block(T *dst, const Taps<T> &taps, int64_t i, Copy<T>) {
    using V = typename Vector<T, BYTES>::type;
    constexpr int LANES = BYTES / sizeof(T);
    V value[BLOCK];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) value[b] = load<V>(taps.x[0] + i + b * LANES);
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) store<STREAM>(dst + i + b * LANES, value[b]);
}

// The vectors of a row from `i` on, in blocks of 8, 4, 2, 1; returns where the last whole vector ends.
template <class Op, int BYTES, bool STREAM, class T>
inline int64_t vectors(T *dst, const Taps<T> &taps, int64_t i, int64_t n, const Ahead &ahead) {
    constexpr int64_t LANES = BYTES / sizeof(T);
    Fetch fetch(ahead, MOST * LANES, n);
    for (; i + MOST * LANES <= n; i += MOST * LANES) {
        fetch.next();
        block<Op, BYTES, MOST, STREAM>(dst, taps, i, Op());
    }
    if (i + 4 * LANES <= n) {
        block<Op, BYTES, 4, STREAM>(dst, taps, i, Op());
        i += 4 * LANES;
    }
    if (i + 2 * LANES <= n) {
        block<Op, BYTES, 2, STREAM>(dst, taps, i, Op());
        i += 2 * LANES;
    }
    if (i + LANES <= n) {
        block<Op, BYTES, 1, STREAM>(dst, taps, i, Op());
        i += LANES;
    }
    return i;
}

template <class Op, int BYTES>
void row(typename Op::scalar *dst, const Taps<typename Op::scalar> &taps, int64_t n, bool stream, const Ahead &ahead) {
    using T = typename Op::scalar;
    constexpr int64_t LANES = BYTES / sizeof(T);
    if (n < LANES) {
        if constexpr (BYTES > 16) row<Op, BYTES / 2>(dst, taps, n, false, ahead);
        else scalars(dst, taps, n, Op());
        return;
    }
    // One unaligned vector up to the first aligned cell of dst; the next vectors overlap it. The last one overlaps
    // too. A cell computed twice gets the same bits twice. But no cache line is written both ways: that makes it travel
    // three times.
    const auto end = [&](int64_t at, int64_t from, int64_t to) {
        if (!stream) return block<Op, BYTES, 1, false>(dst, taps, at, Op());
        alignas(BYTES) T some[LANES];
        block<Op, BYTES, 1, false>(some - at, taps, at, Op());
        for (int64_t k = from; k < to; ++k) dst[k] = some[k - at];
    };
    int64_t i = (-reinterpret_cast<std::uintptr_t>(dst) & (BYTES - 1)) / sizeof(T);
    if (i % Op::STEP != 0) {  // complex numbers aligned to half their size: no vector can begin at the boundary
        i = 0;
        stream = false;
    }
    if (i != 0) end(0, 0, i);
    i = stream ? vectors<Op, BYTES, true>(dst, taps, i, n, ahead) : vectors<Op, BYTES, false>(dst, taps, i, n, ahead);
    if (i < n) end(n - LANES, i, n);
}

// The vector of a row at i, or its scalar.
template <bool FIELD, bool PREVIOUS, class V, class T>
MPIHPC_INLINE V finished(const Update<T> &u, int64_t i) {
    V sum = load<V>(u.sum + i);
    if constexpr (FIELD) {
        if (u.parts == 1) {
            sum = product(load<V>(u.field + i), sum);
        } else {
            T field[sizeof(V) / sizeof(T)];
            for (int64_t k = 0; k < int64_t(sizeof(V) / sizeof(T)); ++k) field[k] = u.field[(i + k) / 2];
            sum = product(load<V>(field), sum);
        }
    }
    const V here = load<V>(u.here + i);
    if constexpr (PREVIOUS) return here + here - load<V>(u.previous + i) + sum;
    else return here + sum;
}

template <bool FIELD, bool PREVIOUS, bool STREAM, class T, int BYTES>
MPIHPC_INLINE int64_t finish_vectors(T *dst, const Update<T> &u, int64_t i, int64_t end) {
    using V = typename Vector<T, BYTES>::type;
    constexpr int64_t LANES = BYTES / sizeof(T), BLOCK = STREAM ? 64 / BYTES : 4;
    for (; i + BLOCK * LANES <= end; i += BLOCK * LANES) {
        V value[BLOCK];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) value[b] = finished<FIELD, PREVIOUS, V>(u, i + b * LANES);
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) store<STREAM>(dst + i + b * LANES, value[b]);
    }
    return i;
}

template <bool FIELD, bool PREVIOUS, class T, int BYTES>
MPIHPC_INLINE void finish_row(T *dst, const Update<T> &u, int64_t i, int64_t end, bool stream) {
    const auto scalars_to = [&](int64_t stop) {
        for (; i < stop; ++i) dst[i] = finished<FIELD, PREVIOUS, T>(u, i);
    };
    if (stream) {  // by whole cache lines: none is written both ways
        const int64_t lead = int64_t((-reinterpret_cast<std::uintptr_t>(dst + i) & 63) / sizeof(T));
        scalars_to(i + lead < end ? i + lead : end);
        i = finish_vectors<FIELD, PREVIOUS, true, T, BYTES>(dst, u, i, end);
    } else {
        i = finish_vectors<FIELD, PREVIOUS, false, T, BYTES>(dst, u, i, end);
    }
    scalars_to(end);
}

template <class T, int BYTES>
void finish(T *dst, const Update<T> &update, int64_t begin, int64_t end, bool stream) {
    const Update<T> u = update;
    if (u.field && u.previous) finish_row<true, true, T, BYTES>(dst, u, begin, end, stream);
    else if (u.field) finish_row<true, false, T, BYTES>(dst, u, begin, end, stream);
    else finish_row<false, true, T, BYTES>(dst, u, begin, end, stream);
    if (u.kept) {
        const T *here = u.here + begin;
        row<Copy<T>, BYTES>(u.kept + begin, {&here, nullptr, 1}, end - begin, stream, Ahead());
    }
}

#include "shapes.hpp"

constexpr Kernels table = {
    {row<Real<float>, MPIHPC_VECTOR_BYTES>, row<Complex<float>, MPIHPC_VECTOR_BYTES>,
     row<Copy<float>, MPIHPC_VECTOR_BYTES>, finish<float, MPIHPC_VECTOR_BYTES>, jams<float, MPIHPC_VECTOR_BYTES>()},
    {row<Real<double>, MPIHPC_VECTOR_BYTES>, row<Complex<double>, MPIHPC_VECTOR_BYTES>,
     row<Copy<double>, MPIHPC_VECTOR_BYTES>, finish<double, MPIHPC_VECTOR_BYTES>, jams<double, MPIHPC_VECTOR_BYTES>()},
};

}  // namespace

const Kernels &kernels() { return table; }

}  // namespace mpihpc::MPIHPC_ISA
