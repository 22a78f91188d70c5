// Kernels of known shapes, several rows at once; included by kernels.cpp, once per instruction set.
//
// A star or a box of some radius has its taps where the compiler knows them, and the results of neighbouring planes
// read many of the same vectors: one row of each of several planes is computed together, each loaded vector feeding all
// that need it. Every cell still adds its taps in their order: planes, then rows, then columns.
//
// All numbers here are known to the compiler, and recursion stands for loops: it does not fold functions of a loop's
// variable.
#pragma once

#if defined(__x86_64__) && defined(__AVX512F__)
#define MPIHPC_KEEP(vector) "+v"(vector)
#elif defined(__x86_64__)
#define MPIHPC_KEEP(vector) "+x"(vector)
#else
#define MPIHPC_KEEP(vector) "+w"(vector)
#endif

// EQUAL: all weights of a box are the same, or those of a star but the one in the centre. A loaded vector is multiplied
// once by each, and shifted after that.
template <int DIMS, int RADIUS, bool BOX, bool EQUAL = false>
struct Shape {
    static constexpr int ROWS = jammed(DIMS, RADIUS, BOX);
    static constexpr int Z = DIMS > 1 ? RADIUS : 0, Y = DIMS > 2 ? RADIUS : 0;  // reach across planes and rows

    // How far taps reach in a plane of the source across rows, and in a row across columns. `z` counts from the first
    // plane of the result: those from 0 to ROWS - 1 hold the cells themselves.
    static constexpr int rows_reach(int z) { return BOX || (z >= 0 && z < ROWS) ? Y : 0; }
    static constexpr int reach(int z, int dy) { return BOX || (z >= 0 && z < ROWS && dy == 0) ? RADIUS : 0; }

    static constexpr bool has(int dz, int dy, int dx) {
        const int outside = (dz != 0) + (dy != 0) + (dx != 0);
        return -Z <= dz && dz <= Z && -Y <= dy && dy <= Y && -RADIUS <= dx && dx <= RADIUS && (BOX || outside <= 1);
    }
    // The number of the tap (dz, dy, dx): how many come before it.
    static constexpr int tap(int dz, int dy, int dx) {
        if (BOX) return ((dz + Z) * (2 * Y + 1) + dy + Y) * (2 * RADIUS + 1) + dx + RADIUS;
        int n = 0;
        for (int z = -Z; z <= dz; ++z)
            for (int y = -Y; y <= (z < dz ? Y : dy); ++y)
                for (int x = -RADIUS; x <= RADIUS; ++x) n += has(z, y, x) && (z < dz || y < dy || x < dx);
        return n;
    }
    static constexpr int TAPS = tap(Z, Y, RADIUS) + 1;

    // Where the tap finds its weight.
    static constexpr int weight(int dz, int dy, int dx) {
        return EQUAL && (BOX || dz != 0 || dy != 0 || dx != 0) ? 0 : tap(dz, dy, dx);
    }
    static constexpr bool SHARES = EQUAL;

    // Larger boxes written out would be megabytes of code. Their rows of taps look alike: loops go through them.
    static constexpr bool LOOPS = BOX && (RADIUS > 1 || DIMS > 2);
};

// What the vectors at one place of the source, or their products, add to row J of the result and those behind it.
template <class S, class T, class V, int ZZ, int DY, int DX, int J, bool PRODUCTS, int BLOCK>
MPIHPC_INLINE void add_taps(V (&acc)[S::ROWS][BLOCK], const V (&v)[BLOCK], const T *w) {
    if constexpr (S::has(ZZ - J, DY, DX)) {
        constexpr bool FIRST = S::tap(ZZ - J, DY, DX) == 0 && !S::LOOPS;
        const T weight = w[S::weight(ZZ - J, DY, DX)];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) {
            const V value = PRODUCTS ? v[b] : product(weight, v[b]);
            acc[J][b] = FIRST ? value : acc[J][b] + value;
        }
    }
    if constexpr (J + 1 < S::ROWS) add_taps<S, T, V, ZZ, DY, DX, J + 1, PRODUCTS, BLOCK>(acc, v, w);
}

// Compilers load everything early, then run out of registers and keep it on the stack: let them look at one vector of the
// source at a time.
template <class S, class T, class V, int ZZ, int BLOCK>
MPIHPC_INLINE void settle(V (&acc)[S::ROWS][BLOCK], const T *&w) {
    if constexpr (S::TAPS > 12 && !S::SHARES) asm volatile("" : "+r"(w));
#pragma GCC unroll 8
    for (int j = 0; j < S::ROWS; ++j)
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b)
            if (ZZ - j > -S::Z) asm volatile("" : MPIHPC_KEEP(acc[j][b]));
}

// The vectors at `at` + DX, from those at `at` and beside it: by shifts between registers, for a load that is
// not aligned to its 64 bytes takes two.
#if defined(__x86_64__) && defined(__AVX512F__)
template <int DX, class V>
MPIHPC_INLINE V shifted(V left, V right) {
    if constexpr (DX == 0) return right;
    constexpr int LANES = 64 / int(sizeof(left[0])), BY = DX < 0 ? LANES + DX : DX;
    if constexpr (sizeof(left[0]) == 4) return (V)_mm512_alignr_epi32((__m512i)right, (__m512i)left, BY);
    else return (V)_mm512_alignr_epi64((__m512i)right, (__m512i)left, BY);
}

template <class V, class T>
MPIHPC_INLINE V load_lanes(const T *p, unsigned lanes) {  // the others are not touched
    if constexpr (sizeof(T) == 4) return (V)_mm512_maskz_loadu_ps(__mmask16(lanes), p);
    else return (V)_mm512_maskz_loadu_pd(__mmask8(lanes), p);
}

template <class S, class T, class V, int ZZ, int DY, int DX, int BLOCK>
MPIHPC_INLINE void add_shifted(V (&acc)[S::ROWS][BLOCK], const V (&all)[BLOCK + 2], const T *w) {
    settle<S, T, V, ZZ>(acc, w);
    constexpr bool PRODUCTS = S::SHARES && DX != 0;
    V from[BLOCK + 2], v[BLOCK];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK + 2; ++b) from[b] = PRODUCTS ? product(w[S::weight(0, 0, DX)], all[b]) : all[b];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) v[b] = shifted<DX>(from[b + (DX > 0)], from[b + 1 + (DX > 0)]);
    add_taps<S, T, V, ZZ, DY, DX, 0, PRODUCTS, BLOCK>(acc, v, w);
    if constexpr (DX < S::reach(ZZ, DY)) add_shifted<S, T, V, ZZ, DY, DX + 1, BLOCK>(acc, all, w);
}
#endif

template <class S, class T, class V, int ZZ, int DY, int DX, int BLOCK>
MPIHPC_INLINE void add_columns(V (&acc)[S::ROWS][BLOCK], const T *row, const T *w) {
    if constexpr (S::TAPS > 12) asm volatile("" : "+r"(row));
    settle<S, T, V, ZZ>(acc, w);
    V v[BLOCK];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) v[b] = load<V>(row + DX + b * int(sizeof(V) / sizeof(T)));
    add_taps<S, T, V, ZZ, DY, DX, 0, false, BLOCK>(acc, v, w);
    if constexpr (DX < S::reach(ZZ, DY)) add_columns<S, T, V, ZZ, DY, DX + 1, BLOCK>(acc, row, w);
}

// One row of the source: row DY of plane ZZ.
template <class S, class T, class V, int ZZ, int DY, int BLOCK>
MPIHPC_INLINE void add_row(V (&acc)[S::ROWS][BLOCK], const T *row, const T *w) {
    constexpr int REACH = S::reach(ZZ, DY);
#if defined(__x86_64__) && defined(__AVX512F__)
    if constexpr (sizeof(V) == 64 && REACH > 0) {
        constexpr int LANES = int(sizeof(V) / sizeof(T));
        V all[BLOCK + 2];
        all[0] = load_lanes<V>(row - LANES, ((1u << REACH) - 1) << (LANES - REACH));
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) all[b + 1] = load<V>(row + b * LANES);
        all[BLOCK + 1] = load_lanes<V>(row + BLOCK * LANES, (1u << REACH) - 1);
        add_shifted<S, T, V, ZZ, DY, -REACH, BLOCK>(acc, all, w);
    } else
#endif
        add_columns<S, T, V, ZZ, DY, -REACH, BLOCK>(acc, row, w);
}

// The rows of the source one after the other, from row DY of plane ZZ on; x points to them in this order.
template <class S, class T, class V, int ZZ, int DY, int BLOCK>
MPIHPC_INLINE void add_rows(V (&acc)[S::ROWS][BLOCK], const T *const *x, const T *w, int64_t i) {
    add_row<S, T, V, ZZ, DY, BLOCK>(acc, *x + i, w);
    if constexpr (DY < S::rows_reach(ZZ)) add_rows<S, T, V, ZZ, DY + 1, BLOCK>(acc, x + 1, w, i);
    else if constexpr (ZZ < S::Z + S::ROWS - 1) add_rows<S, T, V, ZZ + 1, -S::rows_reach(ZZ + 1), BLOCK>(acc, x + 1, w, i);
}

// The same for a box, from plane ZZ on. Planes that all rows of the result read are taken together: they differ only in
// where their weights are, in the order of the source's rows.
template <class S, class T, class V, int ZZ, int BLOCK>
MPIHPC_INLINE void add_planes(V (&acc)[S::ROWS][BLOCK], const T *const *x, const T *w, int64_t i) {
    constexpr int ALIKE = S::Z > 1 && ZZ == S::ROWS - 1 - S::Z ? 2 * S::Z - S::ROWS + 2 : 1;
    constexpr int ROWS = ALIKE * (2 * S::Y + 1);
    const T *at = w - S::weight(-S::Z, 0, -S::reach(0, 0));  // so that the first row's weights are where row 0 has its own
#pragma GCC unroll 1
    for (const T *const *end = x + ROWS; x != end; ++x, at += S::SHARES ? 0 : 2 * S::reach(0, 0) + 1)
        add_row<S, T, V, ZZ, 0, BLOCK>(acc, *x + i, at);
    if constexpr (ZZ + ALIKE < S::Z + S::ROWS) add_planes<S, T, V, ZZ + ALIKE, BLOCK>(acc, x, w, i);
}

template <class S, class T, int BYTES, int BLOCK>
MPIHPC_INLINE void jam_block(T *const *dst, const T *const *x, const T *w, int64_t i, bool stream) {
    using V = typename Vector<T, BYTES>::type;
    constexpr int LANES = BYTES / sizeof(T);
    V acc[S::ROWS][BLOCK];
    if constexpr (S::LOOPS) {
#pragma GCC unroll 8
        for (int j = 0; j < S::ROWS; ++j)
#pragma GCC unroll 8
            for (int b = 0; b < BLOCK; ++b) acc[j][b] = -V{};  // -0.0 + x is x to the bit
        add_planes<S, T, V, -S::Z, BLOCK>(acc, x, w, i);
    } else {
        add_rows<S, T, V, -S::Z, -S::rows_reach(-S::Z), BLOCK>(acc, x, w, i);
    }
#pragma GCC unroll 8
    for (int j = 0; j < S::ROWS; ++j)
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) {
            if (stream) store<true>(dst[j] + i + b * LANES, acc[j][b]);
            else store<false>(dst[j] + i + b * LANES, acc[j][b]);
        }
}

// n cells of S::ROWS rows, which must be at least a vector long. Streaming rows are aligned alike.
template <class S, class T, int BYTES>
void jam(T *const *dst, const T *const *x, const T *w, int64_t n, bool stream, const Ahead &ahead) {
    constexpr int64_t LANES = BYTES / sizeof(T);
    // Small: larger blocks wait for more lines of one row at a time (25 points took 1.1 times as long). The 3-D boxes go
    // through loops, whose cost more vectors share.
    constexpr int BLOCK = S::ROWS == 1 || (BYTES == 64 && S::LOOPS && S::Y > 0) ? 4 : 2;
    // A vector at the beginning or the end of the rows, which others overlap.
    const auto end = [&](int64_t at, int64_t from, int64_t to) {
        if (!stream) return jam_block<S, T, BYTES, 1>(dst, x, w, at, false);
        alignas(BYTES) T some[S::ROWS][LANES];
        T *rows[S::ROWS];
        for (int j = 0; j < S::ROWS; ++j) rows[j] = some[j] - at;
        jam_block<S, T, BYTES, 1>(rows, x, w, at, false);
        for (int j = 0; j < S::ROWS; ++j)
            for (int64_t i = from; i < to; ++i) dst[j][i] = some[j][i - at];
    };
    int64_t i = (-reinterpret_cast<std::uintptr_t>(dst[0]) & (BYTES - 1)) / sizeof(T);
    Fetch fetch(ahead, BLOCK * LANES, n);
    T own[S::TAPS];  // out of reach of the stores: few weights stay in registers
    for (int t = 0; S::TAPS <= 12 && t < S::TAPS; ++t) own[t] = w[t];
    if (i != 0) end(0, 0, i);
    for (; i + BLOCK * LANES <= n; i += BLOCK * LANES) {
        fetch.next();
        jam_block<S, T, BYTES, BLOCK>(dst, x, S::TAPS <= 12 ? own : w, i, stream);
    }
    for (; i + LANES <= n; i += LANES) jam_block<S, T, BYTES, 1>(dst, x, w, i, stream);
    if (i < n) end(n - LANES, i, n);
}

template <class T, int BYTES, int DIMS, bool BOX>
constexpr Jam<T> jam_of(int radius) {
    if constexpr (DIMS == 1 && BOX)
        return nullptr;  // a star
    else
        return radius == 1   ? jam<Shape<DIMS, 1, BOX>, T, BYTES>
               : radius == 2 ? jam<Shape<DIMS, 2, BOX>, T, BYTES>
               : radius == 3 ? jam<Shape<DIMS, 3, BOX>, T, BYTES>
                             : jam<Shape<DIMS, 4, BOX>, T, BYTES>;
}

template <class T, int BYTES>
constexpr Jams<T> jams() {
    Jams<T> all{};
    for (int r = 1; r <= MOST_RADIUS; ++r) {
        all.of[0][0][r - 1] = jam_of<T, BYTES, 1, false>(r);
        all.of[0][1][r - 1] = jam_of<T, BYTES, 2, false>(r);
        all.of[0][2][r - 1] = jam_of<T, BYTES, 3, false>(r);
        all.of[1][1][r - 1] = jam_of<T, BYTES, 2, true>(r);
        all.of[1][2][r - 1] = jam_of<T, BYTES, 3, true>(r);
    }
    if constexpr (BYTES == VECTOR_MOST) {  // narrower ones do not shift
        all.equal[0][0] = jam<Shape<2, 1, false, true>, T, BYTES>;
        all.equal[0][1] = jam<Shape<3, 1, false, true>, T, BYTES>;
        all.equal[1][0] = jam<Shape<2, 1, true, true>, T, BYTES>;
        all.equal[1][1] = jam<Shape<3, 1, true, true>, T, BYTES>;
    }
    return all;
}
