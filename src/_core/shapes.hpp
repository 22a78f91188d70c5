// Kernels of known shapes, several rows at once; included by kernels.cpp, once per instruction set.
//
// A star or a box of some radius has its taps where the compiler knows them, and neighbouring rows of the result read
// many of the same vectors: JAM rows are computed together, each loaded vector feeding all that need it. Every cell
// still adds its taps in their order: planes, then rows, then columns.
#pragma once

template <int DIMS, int RADIUS, bool BOX>
struct Shape {
    static constexpr int PLANES = DIMS == 3 ? 2 * RADIUS + 1 : 1;
    static constexpr int ROWS = DIMS == 1 ? 1 : JAM;  // of the result at once

    // How far the taps of a plane reach along the rows, and those of a row along the columns.
    static constexpr int rows_reach(int plane) {
        return DIMS == 1 ? 0 : BOX || DIMS == 2 || plane == RADIUS ? RADIUS : 0;
    }
    static constexpr int reach(int plane, int dy) {
        return BOX || (dy == 0 && (DIMS < 3 || plane == RADIUS)) ? RADIUS : 0;
    }
    // Rows of the source that are read, and taps, in the planes before this one.
    static constexpr int rows_before(int plane) {
        int n = 0;
        for (int p = 0; p < plane; ++p) n += ROWS + 2 * rows_reach(p);
        return n;
    }
    static constexpr int first_tap(int plane) {
        int n = 0;
        for (int p = 0; p < plane; ++p)
            for (int y = -rows_reach(p); y <= rows_reach(p); ++y) n += 2 * reach(p, y) + 1;
        return n;
    }
    // The number of the tap (plane, dy, dx).
    static constexpr int tap(int plane, int dy, int dx) {
        int n = first_tap(plane);
        for (int y = -rows_reach(plane); y < dy; ++y) n += 2 * reach(plane, y) + 1;
        return n + reach(plane, dy) + dx;
    }
};

// What the vectors at one place of the source add to row J of the result and those behind it. All numbers are known to
// the compiler, recursion instead of loops, for it does not fold functions of a loop's variable. FIRST: the first plane.
template <class S, class T, class V, int PLANE, bool FIRST, int ROW, int DX, int J, int BLOCK>
MPIHPC_INLINE void add_taps(V (&acc)[S::ROWS][BLOCK], const V (&v)[BLOCK], const T *w) {
    constexpr int REACH = S::rows_reach(PLANE), DY = ROW - REACH - J;
    if constexpr (-REACH <= DY && DY <= REACH && -S::reach(PLANE, DY) <= DX && DX <= S::reach(PLANE, DY)) {
        constexpr int TAP = S::tap(PLANE, DY, DX) - S::first_tap(PLANE);
        // More weights than registers: load each when it is needed, rather than keep copies on the stack.
        if constexpr (S::first_tap(S::PLANES) > 12) asm("" : "+r"(w));
        const T weight = w[TAP];
#pragma GCC unroll 8
        for (int b = 0; b < BLOCK; ++b) acc[J][b] = FIRST && TAP == 0 ? weight * v[b] : acc[J][b] + weight * v[b];
    }
    if constexpr (J + 1 < S::ROWS) add_taps<S, T, V, PLANE, FIRST, ROW, DX, J + 1, BLOCK>(acc, v, w);
}

template <class S, class T, class V, int PLANE, bool FIRST, int ROW, int DX, int MOST, int BLOCK>
MPIHPC_INLINE void add_columns(V (&acc)[S::ROWS][BLOCK], const T *row, const T *w) {
    V v[BLOCK];
#pragma GCC unroll 8
    for (int b = 0; b < BLOCK; ++b) v[b] = load<V>(row + DX + b * int(sizeof(V) / sizeof(T)));
    add_taps<S, T, V, PLANE, FIRST, ROW, DX, 0, BLOCK>(acc, v, w);
    if constexpr (DX < MOST) add_columns<S, T, V, PLANE, FIRST, ROW, DX + 1, MOST, BLOCK>(acc, row, w);
}

template <class S, class T, class V, int PLANE, bool FIRST, int ROW, int BLOCK>
MPIHPC_INLINE void add_rows(V (&acc)[S::ROWS][BLOCK], const T *const *x, const T *w, int64_t i) {
    constexpr int REACH = S::rows_reach(PLANE);
    constexpr bool MIDDLE = ROW >= REACH && ROW - REACH < S::ROWS;  // of one of the rows of the result
    constexpr int MOST = MIDDLE ? S::reach(PLANE, 0) : S::reach(PLANE, REACH);
    add_columns<S, T, V, PLANE, FIRST, ROW, -MOST, MOST, BLOCK>(acc, x[ROW] + i, w);
    if constexpr (ROW + 1 < S::ROWS + 2 * REACH) add_rows<S, T, V, PLANE, FIRST, ROW + 1, BLOCK>(acc, x, w, i);
}

template <class S, class T, class V, int PLANE, int BLOCK>
MPIHPC_INLINE void add_planes(V (&acc)[S::ROWS][BLOCK], const T *const *x, const T *w, int64_t i) {
    add_rows<S, T, V, PLANE, PLANE == 0, 0, BLOCK>(acc, x + S::rows_before(PLANE), w + S::first_tap(PLANE), i);
    if constexpr (PLANE + 1 < S::PLANES) add_planes<S, T, V, PLANE + 1, BLOCK>(acc, x, w, i);
}

template <class S, bool BOX, class T, int BYTES, int BLOCK>
MPIHPC_INLINE void jam_block(T *const *dst, const T *const *x, const T *w, int64_t i, bool stream) {
    using V = typename Vector<T, BYTES>::type;
    constexpr int LANES = BYTES / sizeof(T);
    V acc[S::ROWS][BLOCK];
    if constexpr (BOX && S::PLANES > 1) {  // all planes are alike, and too long to unroll
        constexpr int ROWS = S::rows_before(1), TAPS = S::first_tap(1);
        add_rows<S, T, V, 0, true, 0, BLOCK>(acc, x, w, i);
        for (int p = 1; p < S::PLANES; ++p) add_rows<S, T, V, 0, false, 0, BLOCK>(acc, x + p * ROWS, w + p * TAPS, i);
    } else {
        add_planes<S, T, V, 0, BLOCK>(acc, x, w, i);
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
template <class S, bool BOX, class T, int BYTES>
void jam(T *const *dst, const T *const *x, const T *w, int64_t n, bool stream, const Ahead &ahead) {
    constexpr int64_t LANES = BYTES / sizeof(T);
    constexpr int BLOCK = S::ROWS == 1 ? 4 : 2;
    int64_t i = (-reinterpret_cast<std::uintptr_t>(dst[0]) & (BYTES - 1)) / sizeof(T), line = 0;
    if (i != 0) jam_block<S, BOX, T, BYTES, 1>(dst, x, w, 0, false);
    for (; i + BLOCK * LANES <= n; i += BLOCK * LANES) {
        fetch(ahead, line);
        jam_block<S, BOX, T, BYTES, BLOCK>(dst, x, w, i, stream);
    }
    for (; i + LANES <= n; i += LANES) jam_block<S, BOX, T, BYTES, 1>(dst, x, w, i, stream);
    if (i < n) jam_block<S, BOX, T, BYTES, 1>(dst, x, w, n - LANES, false);
}
