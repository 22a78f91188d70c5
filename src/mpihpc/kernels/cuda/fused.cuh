// STEPS steps in one pass, as in AN5D (Matsumura et al., CGO 2020), with rings of planes in shared memory. A block owns
// a tile of the planes and marches along z with all steps ("levels") in flight. Level 0 is src, level STEPS is dst; of
// each level before the last, as many planes are kept as the next one reads. Level l is LAG planes behind level l - 1,
// one more than it looks ahead, so that in one round no level reads what another writes: one barrier per round. Tiles
// overlap: around its cells a block computes those that the next levels need, fewer with each level (its frame).
//
// A thread owns cells of the frame. HOLD: if there are registers for it, it keeps what it has computed of them itself,
// so that taps along z cost no reads. At the edges of the array it reads the cells that stand for those beyond, of the
// same level; their places are found once. Arrays have no axis b.

constexpr int CELLS = FRAME_C * FRAME_X, EACH = (CELLS + THREADS - 1) / THREADS, WINDOW = BEFORE_Z + 1 + AFTER_Z;
static_assert(STEPS * SLOTS * CELLS * sizeof(Value) <= SHARED, "the rings do not fit");

constexpr Index FAR = 1 << 30;  // planes

extern "C" {
extern __shared__ __align__(16) unsigned char shared_memory[];
}

// The number of levels with a cell this far before and behind the tile on one axis.
__device__ __forceinline__ int levels(Index cell, Index lo, Index hi, int before, int after) {
    if (cell < lo) return before ? STEPS - int((lo - cell + before - 1) / before) : -1;
    if (cell >= hi) return after ? STEPS - int((cell - hi + after) / after) : -1;
    return STEPS;
}

template <bool EDGE>
__device__ __forceinline__ void sweep(const Value *__restrict__ src, Value *__restrict__ dst,
                                      const Real *__restrict__ field, const Value *__restrict__ previous,
                                      Value *__restrict__ kept, const Geometry &g, const Index *lo, const Index *hi) {
    Value *ring = reinterpret_cast<Value *>(shared_memory);
    const Value constant = make_value(g.cval);
    const Index frame_c = lo[2] - STEPS * BEFORE_C, frame_x = lo[3] - STEPS * BEFORE_X;
    int top[EACH];                     // the last level that has the thread's cell
    int at[EACH][EDGE ? COLUMNS : 1];  // at edges: the cell of each column in a plane of a ring, -1: the constant
    Index in_src[EACH], in_dst[EACH], in_field[EACH], in_previous[EACH], in_kept[EACH];
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const int own = int(threadIdx.x) + j * THREADS;
        const Index x = frame_x + own % FRAME_X, c = frame_c + own / FRAME_X;
        top[j] = levels(x, lo[3], hi[3], BEFORE_X, AFTER_X);
        top[j] = int(least(top[j], levels(c, lo[2], hi[2], BEFORE_C, AFTER_C)));
        if (own >= CELLS) top[j] = -1;
        if (EDGE && !(within<MODE_C>(c, c + 1, g, 2) && within<MODE_X>(x, x + 1, g, 3))) top[j] = -1;
        in_src[j] = c * g.src[2] + x;
        in_dst[j] = c * g.dst[2] + x;
        in_field[j] = c * g.field[2] + x;
        in_previous[j] = c * g.previous[2] + x;
        in_kept[j] = c * g.kept[2] + x;
        if (EDGE)
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) {
                bool out = false;
                const Index at_c = inside<MODE_C>(c + c_of(n), g.first[2], g.end[2], out) - frame_c;
                const Index at_x = inside<MODE_X>(x + x_of(n), g.first[3], g.end[3], out) - frame_x;
                at[j][n] = out ? -1 : int(at_c * FRAME_X + at_x);
            }
    }
    // Planes are counted from the first one of level 0, in short integers. Level l has those from low(l) to high(l).
    const Index start = MODE_Z == WRAP ? lo[0] - STEPS * BEFORE_Z : most(lo[0] - STEPS * BEFORE_Z, g.first[0]);
    const int edge = MODE_Z == WRAP ? 0 : int(most(g.first[0] - start, -FAR)), from = int(lo[0] - start);
    const int far_edge = MODE_Z == WRAP ? 0 : int(least(g.end[0] - start, FAR)), to = int(hi[0] - start);
    const auto low = [&](int l) {
        const int p = from - (STEPS - l) * BEFORE_Z;
        return MODE_Z != WRAP && p < edge ? edge : p;
    };
    const auto high = [&](int l) {
        const int p = to + (STEPS - l) * AFTER_Z;
        return MODE_Z != WRAP && p > far_edge ? far_edge : p;
    };
    const auto slot = [&](int l, int p) { return (l * SLOTS + int(unsigned(p) % SLOTS)) * CELLS; };
    Value held[HOLD ? STEPS : 1][HOLD ? WINDOW : 1][EACH];  // of each level, the planes that the next one reads
    const auto hold = [&](int l, int j, Value newest) {
        if constexpr (HOLD) {
#pragma unroll
            for (int i = 0; i < WINDOW - 1; ++i) held[l][i][j] = held[l][i + 1][j];
            held[l][WINDOW - 1][j] = newest;
        }
    };
    const int rounds = to + STEPS * LAG, stop = high(0);
    for (int round = 0; round < rounds; ++round) {
        Value fetched[EACH];  // on its way while the levels compute
#pragma unroll
        for (int j = 0; j < EACH; ++j)
            if (round < stop && top[j] >= 0) fetched[j] = src[(start + round) * g.src[0] + in_src[j]];
#pragma unroll
        for (int l = STEPS; l >= 1; --l) {  // a level reads what is held of the one before it, and then that moves on
            const int p = round - l * LAG;
            if (p < low(l) || p >= high(l)) continue;
            const bool beside_edge = MODE_Z != WRAP && (p - BEFORE_Z < edge || p + AFTER_Z >= far_edge);
#pragma unroll
            for (int apart = 1; apart >= 0; --apart) {  // unrolled: most planes go through code that knows of no edge
                if (beside_edge == bool(apart)) continue;
                const bool inner = MODE_Z == WRAP || apart;
                const Index z = start + p;
                int plane[WINDOW];  // the places of the planes that it reads, -1: the constant
#pragma unroll
                for (int dz = -BEFORE_Z; dz <= AFTER_Z; ++dz) {
                    bool out = false;
                    const int read = inner ? p + dz : int(inside<MODE_Z>(p + dz, edge, far_edge, out));
                    plane[dz + BEFORE_Z] = out ? -1 : slot(l - 1, read);
                }
#pragma unroll
                for (int j = 0; j < EACH; ++j) {
                    if (top[j] < l) continue;
                    const int own = int(threadIdx.x) + j * THREADS;
                    const auto held_at = [&](int dz) { return held[HOLD ? l - 1 : 0][HOLD ? dz + BEFORE_Z : 0][j]; };
                    const Value total = sum([&](int n, int dz) {
                        const int first = plane[dz + BEFORE_Z];
                        if (HOLD && inner && c_of(n) == 0 && x_of(n) == 0) return held_at(dz);
                        if (!inner && MODE_Z == CONSTANT && first < 0) return constant;
                        if (!EDGE) return ring[first + own + c_of(n) * FRAME_X + x_of(n)];
                        return at[j][EDGE ? n : 0] < 0 ? constant : ring[first + at[j][EDGE ? n : 0]];
                    });
                    Value here = total, before = total;
                    Real factor = 0;
                    if (HAS_FIELD || HAS_PREVIOUS) here = HOLD && inner ? held_at(0) : ring[plane[BEFORE_Z] + own];
                    if (HAS_PREVIOUS && l == 1) before = previous[z * g.previous[0] + in_previous[j]];
                    if (HAS_PREVIOUS && l > 1) before = ring[slot(l - 2, p) + own];
                    if (HAS_FIELD) factor = field[z * g.field[0] + in_field[j]];
                    const Value result = update(total, here, before, factor);
                    if (l < STEPS) ring[slot(l, p) + own] = result, hold(l, j, result);
                    else dst[z * g.dst[0] + in_dst[j]] = result;
                    if (HAS_PREVIOUS && l == STEPS) kept[z * g.kept[0] + in_kept[j]] = here;
                }
            }
        }
#pragma unroll
        for (int j = 0; j < EACH; ++j)
            if (round < stop && top[j] >= 0) {
                ring[slot(0, round) + int(threadIdx.x) + j * THREADS] = fetched[j];
                hold(0, j, fetched[j]);
            }
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BESIDE)
NAME(const Value *__restrict__ src, Value *__restrict__ dst, const Real *__restrict__ field,
     const Value *__restrict__ previous, Value *__restrict__ kept, const Geometry g) {
    Index number = blockIdx.x, lo[4], hi[4];
    lo[3] = g.lo[3] + place(number, g.blocks[3]) * TILE_X;
    lo[2] = g.lo[2] + place(number, g.blocks[2]) * TILE_C;
    lo[0] = g.lo[0] + number * g.planes;
    hi[3] = least(lo[3] + TILE_X, g.hi[3]);
    hi[2] = least(lo[2] + TILE_C, g.hi[2]);
    hi[0] = least(lo[0] + g.planes, g.hi[0]);
    const bool interior = within<MODE_C>(lo[2] - STEPS * BEFORE_C, hi[2] + STEPS * AFTER_C, g, 2) &&
                          within<MODE_X>(lo[3] - STEPS * BEFORE_X, hi[3] + STEPS * AFTER_X, g, 3);
    if (interior) sweep<false>(src, dst, field, previous, kept, g, lo, hi);
    else sweep<true>(src, dst, field, previous, kept, g, lo, hi);
}
