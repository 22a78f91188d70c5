// One step. A thread owns a cell (b, c, x) of the planes and marches along z. Of each column of taps it keeps what the
// next planes need again, so that each step along z loads one new cell per column: neighbours in a plane come
// from the first-level cache, where the threads beside have put them. AHEAD planes are loaded together, before any of
// them is computed, to have enough loads under way. Too many columns for the registers: TABLE reads every tap.

// The way from a cell to another one of its plane. Away from edges it is a sum of strides, and better left one.
template <bool EDGE>
struct Way {
    typedef Offset type;
};
template <>
struct Way<false> {
    typedef Index type;
};

// EDGE: taps may be beyond an edge in the plane. EDGE_Z: planes may. From z0 to z1 it is a multiple of PLANES.
template <bool EDGE, bool EDGE_Z, int PLANES>
__device__ __forceinline__ void march(const Value *__restrict__ src, Value *__restrict__ dst,
                                      const Real *__restrict__ field, const Value *__restrict__ previous,
                                      Value *__restrict__ kept, const Geometry &g, Index z0, Index z1, Index b,
                                      Index c, Index x) {
    if (z0 >= z1) return;
    const Value constant = make_value(g.cval);
    const Value *own = src + b * g.src[1] + c * g.src[2] + x;
    // From the thread's own cell to another one of its plane, or to the one that stands for it; BEYOND: the constant.
    typedef typename Way<EDGE>::type To;
    const auto way = [&](Index db, Index dc, Index dx) {
        bool beyond = false;
        if (EDGE) {
            db = inside<MODE_B>(b + db, g.first[1], g.end[1], beyond) - b;
            dc = inside<MODE_C>(c + dc, g.first[2], g.end[2], beyond) - c;
            dx = inside<MODE_X>(x + dx, g.first[3], g.end[3], beyond) - x;
        }
        return beyond ? To(BEYOND) : To(db * g.src[1] + dc * g.src[2] + dx);
    };
    const auto cell = [&](To at, Index z) {
        bool beyond = EDGE && (MODE_B == CONSTANT || MODE_C == CONSTANT || MODE_X == CONSTANT) && at == BEYOND;
        if (EDGE_Z) z = inside<MODE_Z>(z, g.first[0], g.end[0], beyond);
        return beyond ? constant : own[z * g.src[0] + at];
    };
    Value *to = dst + b * g.dst[1] + c * g.dst[2] + x, *keep = kept + b * g.kept[1] + c * g.kept[2] + x;
    const Real *factor = field + b * g.field[1] + c * g.field[2] + x;
    const Value *earlier = previous + b * g.previous[1] + c * g.previous[2] + x;
    const auto finish = [&](Value sum, Index z) {
        Value here = sum, before = sum;
        Real f = 0;
        if (HAS_FIELD || HAS_PREVIOUS) here = own[z * g.src[0]];
        if (HAS_PREVIOUS) before = earlier[z * g.previous[0]];
        if (HAS_FIELD) f = factor[z * g.field[0]];
        to[z * g.dst[0]] = update(sum, here, before, f);
        if (HAS_PREVIOUS && kept) keep[z * g.kept[0]] = here;
    };
#if TABLE
    for (Index z = z0; z < z1; ++z)
        finish(sum([&](const Tap &tap) { return cell(way(tap.b, tap.c, tap.x), z + tap.z); }), z);
#else
    To at[COLUMNS];
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) at[n] = way(b_of(n), c_of(n), x_of(n));
    Value window[COLUMNS][DEPTH + PLANES - 1];  // of each column, from its lowest plane on
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
        for (int i = 0; i < DEPTH - 1; ++i)
            if (i < span_of(n)) window[n][i] = cell(at[n], z0 + first_of(n) + i);
    for (Index z = z0; z < z1; z += PLANES) {
#pragma unroll
        for (int u = 0; u < PLANES; ++u)
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n)
                window[n][span_of(n) + u] = cell(at[n], z + u + first_of(n) + span_of(n));
#pragma unroll
        for (int u = 0; u < PLANES; ++u)
            finish(sum([&](int n, int dz) { return window[n][u + dz - first_of(n)]; }), z + u);
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
            for (int i = 0; i < DEPTH - 1; ++i)
                if (i < span_of(n)) window[n][i] = window[n][i + PLANES];
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, BESIDE)
NAME(const Value *__restrict__ src, Value *__restrict__ dst, const Real *__restrict__ field,
     const Value *__restrict__ previous, Value *__restrict__ kept, const Geometry g) {
    Index number = blockIdx.x;
    const Index x0 = g.lo[3] + place(number, g.blocks[3]) * TILE_X, c0 = g.lo[2] + place(number, g.blocks[2]) * TILE_C;
    const Index b = g.lo[1] + place(number, g.blocks[1]), z0 = g.lo[0] + number * g.planes;
    const Index z1 = least(z0 + g.planes, g.hi[0]), c = c0 + threadIdx.x / TILE_X, x = x0 + threadIdx.x % TILE_X;
    if (c >= g.hi[2] || x >= g.hi[3]) return;
    // Planes near an edge, a multiple of AHEAD between, the others.
    const bool interior = within<MODE_B>(b - BEFORE_B, b + 1 + AFTER_B, g, 1) &&
                          within<MODE_C>(c0 - BEFORE_C, c0 + TILE_C + AFTER_C, g, 2) &&
                          within<MODE_X>(x0 - BEFORE_X, x0 + TILE_X + AFTER_X, g, 3);
    const Index cut = MODE_Z == WRAP ? z0 : least(most(g.first[0] + BEFORE_Z, z0), z1);
    const Index inner = (MODE_Z == WRAP ? z1 : most(cut, least(g.end[0] - AFTER_Z, z1))) - cut;
    const Index last = cut + inner / AHEAD * AHEAD;
#pragma unroll 1
    for (int piece = 0; piece < 2; ++piece)
        march<true, true, 1>(src, dst, field, previous, kept, g, piece ? last : z0, piece ? z1 : cut, b, c, x);
    if (interior) march<false, false, AHEAD>(src, dst, field, previous, kept, g, cut, last, b, c, x);
    else march<true, false, AHEAD>(src, dst, field, previous, kept, g, cut, last, b, c, x);
}
