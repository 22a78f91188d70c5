// Many steps of a stencil in one pass over memory.
//
// The box is cut into tiles. Of each tile a wave goes along the slowest axis, with all steps ("levels") in flight: when
// level l has got far enough for level l + 1 to fill some more planes, it does. Level 0 is src, the last one dst; of
// those between only as many planes are kept as the next one reads, in rings small enough to stay in a cache. Tiles
// overlap: level l fills (steps - l) times the reach of the taps more than the tile on each side, so that threads never
// wait for each other. Beyond the edges of the array, each level's cells are made from its own, as single steps would:
// planes by reading another plane instead, rows and columns by filling a frame around the ring's planes (and of src).
// Two tiles may write the same value to the same cell of that frame.
//
// Where cells are updated with coefficients, or from two earlier levels, a row's sums stay in the nearest cache until
// a second look at the row makes the new values of them.
//
// After Wellein et al., "Efficient temporal blocking for stencil computations by multicore-aware wavefront
// parallelization" (2009), with the overlapped tiles of Holewinski et al. (2012) in place of shared wavefronts.
#include "advance.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "driver.hpp"

namespace mpihpc {
namespace {

using std::int64_t;

constexpr int64_t LINE = 64;
constexpr int64_t DETOUR = 256;  // scalars of a row
constexpr double ROW = 600;      // bytes that could be computed in the time that it takes to begin a row

// The index inside an axis from lo to hi that stands for one beyond it; not of a constant edge.
int64_t inside(int64_t i, int64_t lo, int64_t hi, Mode mode) {
    const int64_t n = hi - lo;
    if (mode == Mode::nearest) return std::clamp(i, lo, hi - 1);
    const int64_t period = mode == Mode::reflect ? 2 * n : std::max<int64_t>(2 * n - 2, 1);
    int64_t at = (i - lo) % period;
    if (at < 0) at += period;
    if (mode == Mode::reflect) return lo + std::min(at, 2 * n - 1 - at);
    return lo + (n > 1 ? std::min(at, period - at) : 0);
}

// Planes of one level. The cell (b, c, x) of a plane is base[b * stride_b + c * stride_c + x].
template <class T>
struct Plane {
    T *base;
    int64_t stride_b, stride_c;
    T *row(int64_t b, int64_t c) const { return base + b * stride_b + c * stride_c; }
};

// The shape that a list of taps is, if the kernels know it: a pointer to its kernel, or to that for equal weights.
template <class T>
Jam<T> known_shape(const Problem<T> &p, int axes, bool share) {
    const int64_t r = p.before[3];
    if (p.parts != 1 || r < 1 || r > MOST_RADIUS || axes > 3) return nullptr;
    const int64_t count = int64_t(p.weight.size());
    for (int box = 0; box < 2; ++box) {
        int64_t t = 0;
        bool same = true;
        const int64_t most0 = axes > 2 ? r : 0, most1 = axes > 1 ? r : 0;
        for (int64_t i = -most0; same && i <= most0; ++i)
            for (int64_t j = -most1; same && j <= most1; ++j)
                for (int64_t k = -r; same && k <= r; ++k) {
                    if (!box && (i != 0) + (j != 0) + (k != 0) > 1) continue;
                    int64_t expected[MAX_AXES] = {0, 0, 0, k};
                    if (axes == 2) expected[0] = j;
                    if (axes == 3) expected[0] = i, expected[2] = j;
                    same = t < count && std::equal(expected, expected + MAX_AXES, &p.offset[t * MAX_AXES]);
                    ++t;
                }
        if (!same || t != count) continue;
        const Jams<T> &jam = rows<T>().jam;
        const Jam<T> shares = share && r == 1 && axes > 1 ? jam.equal[box][axes - 2] : nullptr;
        bool equal = true;  // to the bit: -0.0 is not 0.0
        for (t = 1; t < count; ++t)
            equal = equal && ((!box && t == count / 2) || std::memcmp(&p.weight[t], &p.weight[0], sizeof(T)) == 0);
        if (shares && equal) return shares;
        return jam.of[box][axes - 1][r - 1];
    }
    return nullptr;
}

template <class T>
class Tile {
public:
    Tile(const Problem<T> &p, Jam<T> jam, int axes, bool stream, const int64_t *lo, const int64_t *hi)
        : p(p), steps(p.steps), jam(jam), radius(p.before[3]), axes(axes), stream(stream),
          updates(p.field || p.previous), box(int64_t(p.weight.size()) > 2 * axes * radius + 1),
          batch(jam ? jammed(axes, radius, box) : axes == 2 ? JAM : 1) {
        for (int l = 0; l <= steps; ++l) {
            Region region;
            for (int d = 0; d < MAX_AXES; ++d) {
                region.lo[d] = std::max(lo[d] - (steps - l) * p.before[d], p.edge_lo[d]);
                region.hi[d] = std::min(hi[d] + (steps - l) * p.after[d], p.edge_hi[d]);
            }
            regions.push_back(region);
        }
        count = int64_t(p.offset.size()) / MAX_AXES;
        pointers.resize(std::max<int64_t>(count, 1));
        strides.resize(pointers.size());
        allocate();
    }

    void run() {
        std::vector<int64_t> &front = fronts;  // of each level: the first plane that is not there yet
        front.clear();
        for (const Region &region : regions) front.push_back(region.lo[0]);
        while (front[steps] < regions[steps].hi[0]) {
            const int64_t begin = front[0];
            front[0] = std::min(regions[0].hi[0], front[0] + batch);
            for (int64_t z = begin; z < front[0]; ++z) fill_frame(0, z);
            for (int l = 1; l <= steps; ++l) {
                const int64_t may = front[l - 1] == regions[l - 1].hi[0] ? regions[l].hi[0] : front[l - 1] - p.after[0];
                const int64_t end = std::min({regions[l].hi[0], may, front[l] + batch});
                if (end > front[l]) fill(l, front[l], end);
                front[l] = std::max(front[l], end);
            }
        }
#if defined(__x86_64__)
        if (stream) _mm_sfence();  // streaming stores are weakly ordered: seen by all before the call returns
#endif
    }

private:
    struct Region {
        int64_t lo[MAX_AXES], hi[MAX_AXES];
    };

    void allocate() {
        const Region &largest = regions[1];
        int64_t length[MAX_AXES];
        for (int d = 0; d < MAX_AXES; ++d) {
            origin[d] = largest.lo[d] - p.before[d];
            length[d] = largest.hi[d] + p.after[d] - origin[d];
        }
        const int64_t line = LINE / int64_t(sizeof(T));
        // An odd number of cache lines: rows a power of two apart would compete for the same few sets of a cache.
        row_stride = ((length[3] + 2 * line - 1) / line | 1) * line;
        plane_b = length[2] * row_stride;
        plane = length[1] * plane_b;
        // The next level reads as far as its taps reach, the one after it the cells themselves, that far behind.
        slots = batch + p.after[0] + (p.previous ? std::max(p.before[0], p.after[0]) : p.before[0]);
        const int64_t levels = steps - 1, cells = levels * slots * plane + (1 + JAM) * row_stride + 2 * line;
        static thread_local std::vector<T> memory;  // of this thread, for its next tiles too
        if (int64_t(memory.size()) < cells) memory.resize(cells);
        // Rows of the rings begin where those of dst do, relative to cache lines.
        const std::uintptr_t wanted = reinterpret_cast<std::uintptr_t>(p.dst + p.lo[0] * p.dst_stride[0] + origin[3]);
        const std::uintptr_t found = reinterpret_cast<std::uintptr_t>(memory.data());
        T *begin = memory.data() + (wanted - found) % LINE / sizeof(T);
        constant = begin;
        for (int64_t i = 0; i < row_stride; ++i) constant[i] = p.cval[i % p.parts];
        spare = constant + row_stride;
        rings = spare + JAM * row_stride;
    }

    // The plane z of a level, which may be beyond the edges.
    Plane<T> plane_of(int level, int64_t z) const {
        if (z < p.edge_lo[0] || z >= p.edge_hi[0]) {
            if (p.mode[0] == Mode::constant) return {constant - origin[3], 0, 0};
            z = inside(z, p.edge_lo[0], p.edge_hi[0], p.mode[0]);
        }
        if (level == 0) return {p.src + z * p.src_stride[0], p.src_stride[1], p.src_stride[2]};
        if (level == steps) return {p.dst + z * p.dst_stride[0], p.dst_stride[1], p.dst_stride[2]};
        T *base = rings + ((level - 1) * slots + (z - origin[0]) % slots) * plane;
        return {base - origin[1] * plane_b - origin[2] * row_stride - origin[3], plane_b, row_stride};
    }

    void fill(int level, int64_t z0, int64_t z1) {
        const Region &region = regions[level];
        const int64_t n = region.hi[3] - region.lo[3];
        const bool jams = jam && n * int64_t(sizeof(T)) >= VECTOR_MOST;
        for (int64_t z = z0; z < z1;) {
            const bool all = jams && z + batch <= z1;
            if (all) fill_planes(level, z, n);
            else fill_row(level, z, n);
            z += all ? batch : 1;
        }
        if (level < steps)
            for (int64_t z = z0; z < z1; ++z) fill_frame(level, z);
    }

    // What to fetch while a level fills the row c of some planes of its batch: its share of what level 0 needs next.
    Ahead ahead_of(int level, int64_t first, int64_t planes, int64_t c) const {
        Ahead ahead;
        const Region &region = regions[0];
        const int64_t bytes = (region.hi[3] - region.lo[3]) * int64_t(sizeof(T)), share = bytes / steps;
        for (int64_t r = 0; r < planes; ++r) {
            const int64_t z = fronts[0] + first + r;
            if (z >= region.hi[0]) break;
            const T *x = p.src + z * p.src_stride[0] + region.lo[1] * p.src_stride[1] + c * p.src_stride[2] + region.lo[3];
            ahead.row[ahead.rows++] = reinterpret_cast<const char *>(x) + share * (level - 1);
        }
        ahead.lines = share / LINE + 1;
        return ahead;
    }

    // A known shape: the same row of some planes, then the next.
    void fill_planes(int level, int64_t z, int64_t n) {
        const Region &region = regions[level];
        constexpr int MOST = (2 * MOST_RADIUS + 1) * (JAM + 2 * MOST_RADIUS);
        const T *x[MOST];
        int64_t stride[MOST], strides_out[JAM];
        T *out[JAM];
        int reads = 0;
        const int64_t across = axes > 1 ? radius : 0;
        for (int64_t q = -across; q < batch + across; ++q) {
            const Plane<T> from = plane_of(level - 1, z + q);
            const int64_t reach = axes > 2 && (box || (q >= 0 && q < batch)) ? radius : 0;
            for (int64_t s = -reach; s <= reach; ++s, ++reads) {
                x[reads] = from.row(0, region.lo[2] + s) + region.lo[3];
                stride[reads] = from.stride_c;
            }
        }
        Update<T> update[JAM];
        for (int j = 0; j < batch; ++j) {
            const Plane<T> to = plane_of(level, z + j);
            out[j] = to.row(0, region.lo[2]) + region.lo[3];
            strides_out[j] = to.stride_c;
            update[j] = updates ? update_of(level, z + j, 0, j) : Update<T>{};
        }
        for (int64_t c = region.lo[2]; c < region.hi[2]; ++c) {
            fill_jam(level, out, x, update, reads, n, ahead_of(level, 0, batch, c));
            for (int i = 0; i < reads; ++i) x[i] += stride[i];
            for (int j = 0; j < batch; ++j) {
                out[j] += strides_out[j];
                if (updates) next_row(level, update[j]);
            }
        }
    }

    // Where a row of a level can be kept for a while. Like those of the rings, relative to cache lines.
    T *spare_row(int level, int number) const { return spare + number * row_stride + regions[level].lo[3] - origin[3]; }

    // For the first row b of the plane z, whose sums are in the spare row of this number.
    Update<T> update_of(int level, int64_t z, int64_t b, int number) const {
        const int64_t c = regions[level].lo[2], x = regions[level].lo[3];
        Update<T> update{};
        update.parts = p.parts;
        update.sum = spare_row(level, number);
        update.here = plane_of(level - 1, z).row(b, c) + x;
        const auto first = [&](auto *array, const int64_t *stride, int parts) {
            return array + z * stride[0] + b * stride[1] + c * stride[2] + x / parts;
        };
        if (p.previous && level == 1) update.previous = first(p.previous, p.previous_stride, 1);
        else if (p.previous) update.previous = plane_of(level - 2, z).row(b, c) + x;
        if (p.field) update.field = first(p.field, p.field_stride, p.parts);
        if (p.kept && level == steps) update.kept = first(p.kept, p.kept_stride, 1);
        return update;
    }

    void next_row(int level, Update<T> &update) const {
        update.here += level > 1 ? row_stride : p.src_stride[2];
        if (update.previous) update.previous += level > 2 ? row_stride : level == 2 ? p.src_stride[2] : p.previous_stride[2];
        if (update.field) update.field += p.field_stride[2];
        if (update.kept) update.kept += p.kept_stride[2];
    }

    void fill_jam(int level, T **out, const T *const *x, const Update<T> *update, int reads, int64_t n, const Ahead &ahead) {
        const bool last = level == steps && stream;
        bool alike = true;
        for (int j = 1; j < batch; ++j) alike = alike && (out[j] - out[0]) * int64_t(sizeof(T)) % LINE == 0;
        if (!updates && (!last || alike)) {
            jam(out, x, p.weight.data(), n, last, ahead);
            return;
        }
        // By a detour through the nearest cache: streaming stores want aligned rows, and an update wants whole sums.
        int64_t done[JAM] = {0, 0, 0, 0};
        for (int64_t begin = 0, end = 0; begin < n; begin = end) {
            end = n - begin < 2 * DETOUR ? n : begin + DETOUR;
            const T *from[(2 * MOST_RADIUS + 1) * (JAM + 2 * MOST_RADIUS)];
            T *memory[JAM];
            for (int i = 0; i < reads; ++i) from[i] = x[i] + begin;
            for (int j = 0; j < batch; ++j) memory[j] = spare_row(level, j) + begin;
            Ahead part = ahead;
            for (int r = 0; r < part.rows; ++r) part.row[r] += ahead.lines * LINE * begin / n;
            part.lines = ahead.lines * (end - begin) / n + 1;
            jam(memory, from, p.weight.data(), end - begin, false, part);
            for (int j = 0; j < batch; ++j) {
                const int64_t beyond = reinterpret_cast<std::uintptr_t>(out[j] + end) % LINE / sizeof(T);
                const int64_t stop = end < n ? end - beyond : n;
                if (updates) {
                    rows<T>().finish(out[j], update[j], done[j], stop, last);
                } else {
                    const T *row = spare_row(level, j) + done[j];
                    rows<T>().copy(out[j] + done[j], {&row, nullptr, 1}, stop - done[j], true, Ahead());
                }
                done[j] = stop;
            }
        }
    }

    // Any taps: every row of a plane by itself.
    void fill_row(int level, int64_t z, int64_t n) {
        const Region &region = regions[level];
        const Plane<T> to = plane_of(level, z);
        Row<T> row = p.complex_weights ? rows<T>().correlate_complex : rows<T>().correlate;
        const bool last = level == steps && stream;
        int64_t plane_read = -1;
        Plane<T> from{};
        for (int64_t b = region.lo[1]; b < region.hi[1]; ++b) {
            for (int64_t t = 0; t < count; ++t) {
                const int64_t *o = &p.offset[t * MAX_AXES];
                if (t == 0 || o[0] != plane_read) from = plane_of(level - 1, z + o[0]), plane_read = o[0];
                pointers[t] = from.row(b + o[1], region.lo[2] + o[2]) + region.lo[3] + o[3];
                strides[t] = from.stride_c;
            }
            Update<T> update = updates ? update_of(level, z, b, 0) : Update<T>{};
            for (int64_t c = region.lo[2]; c < region.hi[2]; ++c) {
                T *out = to.row(b, c) + region.lo[3], *sums = updates ? spare_row(level, 0) : out;
                if (count == 0) std::memset(static_cast<void *>(sums), 0, std::size_t(n) * sizeof(T));
                else
                    row(sums, {pointers.data(), p.weight.data(), count}, n, last && !updates,
                        ahead_of(level, z - fronts[level], 1, c));
                if (updates) {
                    rows<T>().finish(out, update, 0, n, last);
                    next_row(level, update);
                }
                for (int64_t t = 0; t < count; ++t) pointers[t] += strides[t];
            }
        }
    }

    // The cells beyond the edges on the axes of a plane, for the next level to read.
    void fill_frame(int level, int64_t z) {
        const Region &region = regions[level], &next = regions[level + 1];
        const Plane<T> at = plane_of(level, z);
        int64_t lo[MAX_AXES], hi[MAX_AXES];  // with the frame so far
        std::copy(region.lo, region.lo + MAX_AXES, lo);
        std::copy(region.hi, region.hi + MAX_AXES, hi);
        for (int d = 3; d >= 1; --d) {
            if (p.mode[d] == Mode::open) continue;
            lo[d] = std::min(lo[d], next.lo[d] - p.before[d]);
            hi[d] = std::max(hi[d], next.hi[d] + p.after[d]);
            for (int64_t i = lo[d]; i < hi[d]; ++i) {
                if (i == region.lo[d]) i = region.hi[d];  // on to the other side
                if (i == hi[d]) break;
                const bool value = p.mode[d] == Mode::constant;
                if (d == 3) {
                    const int64_t from = value ? 0 : source_of(i);
                    for (int64_t b = lo[1]; b < hi[1]; ++b)
                        for (int64_t c = lo[2]; c < hi[2]; ++c) {
                            T *row = at.row(b, c);
                            row[i] = value ? p.cval[(i - p.edge_lo[3] + p.parts * p.before[3]) % p.parts] : row[from];
                        }
                    continue;
                }
                const int64_t from = value ? 0 : inside(i, p.edge_lo[d], p.edge_hi[d], p.mode[d]);
                const std::size_t bytes = std::size_t(hi[3] - lo[3]) * sizeof(T);
                for (int64_t o = d == 2 ? lo[1] : lo[2]; o < (d == 2 ? hi[1] : hi[2]); ++o) {
                    T *to = d == 2 ? at.row(o, i) : at.row(i, o);
                    const T *row = value ? constant - origin[3] : d == 2 ? at.row(o, from) : at.row(from, o);
                    std::memcpy(to + lo[3], row + lo[3], bytes);
                }
            }
        }
    }

    // The scalar inside the last axis that stands for one beyond it.
    int64_t source_of(int64_t i) const {
        const int64_t lo = p.edge_lo[3], parts = p.parts, n = (p.edge_hi[3] - lo) / parts;
        const int64_t cell = i - lo >= 0 ? (i - lo) / parts : -((lo - i + parts - 1) / parts);
        return lo + inside(cell, 0, n, p.mode[3]) * parts + (i - lo - cell * parts);
    }

    const Problem<T> &p;
    const int steps;
    const Jam<T> jam;
    const int64_t radius;
    const int axes;
    const bool stream, updates, box;  // box: of the known shapes
    const int64_t batch;  // planes that a level fills at once
    std::vector<Region> regions;
    std::vector<int64_t> fronts, strides;
    std::vector<const T *> pointers;
    int64_t count, origin[MAX_AXES], row_stride, plane_b, plane, slots;
    T *constant, *spare, *rings;
};

// Parts of the first axis, so that there are as many tiles as threads, or a multiple.
int64_t cuts_for(int threads, int64_t tiles) {
    int64_t cuts = 1;
    while (cuts * tiles % threads != 0) ++cuts;
    return cuts;
}

}  // namespace

double choose_tile(const int64_t shape[MAX_AXES], const int64_t before[MAX_AXES], const int64_t after[MAX_AXES], int steps,
                   int64_t scalar, int threads, int64_t tile[MAX_AXES]) {
    const int64_t slots = (shape[0] > 1 ? JAM : 1) + before[0] + after[0];
    // What a thread may have of the last cache: others share it, on clouds also strangers, and to have guessed too much
    // costs more than too little.
    const double nearest = double(cache_bytes(2));
    const double share = std::max(4 * nearest, double(cache_bytes(3)) / 2 / std::max(threads, cores()));
    double best = 0;
    const auto smaller = [&](int d, int64_t n) {  // the next tile to try, 0: none
        const int64_t least = d == 3 ? 1024 / scalar : 4 * (before[d] + after[d]) + 4;
        int64_t half = 1;
        while (2 * half < n) half *= 2;
        return half >= least && half < n ? half : 0;
    };
    for (int64_t b = shape[1]; b > 0; b = smaller(1, b))
        for (int64_t c = shape[2]; c > 0; c = smaller(2, c))
            for (int64_t x = shape[3]; x > 0; x = smaller(3, x)) {
                const int64_t own[MAX_AXES] = {1, b, c, x};
                double cost = 1, cells = 1;
                int64_t tiles = 1;
                for (int d = 1; d < MAX_AXES; ++d) {
                    tiles *= (shape[d] + own[d] - 1) / own[d];
                    // Level l computes (steps - l) times the reach more; the rings are as wide as the first level.
                    const double reach = double(before[d] + after[d]);
                    if (own[d] < shape[d]) cost *= 1 + reach * (steps - 1) / 2 / double(own[d]);
                    cells *= double(own[d]) + (own[d] < shape[d] ? reach * (steps - 1) : 0) + reach;
                }
                const double across = double(before[0] + after[0]) * (steps - 1) / 2;
                cost *= 1 + across * double(cuts_for(threads, tiles) - 1) / double(shape[0]);
                const double bytes = cells * double(slots * steps * scalar);
                // As measured (AMD Zen 5, 10 stencils): rings are best in half of the nearest cache.
                if (bytes > nearest) cost *= 1.13;
                else if (bytes > nearest / 2) cost *= 1 + 0.04 * std::log2(2 * bytes / nearest);
                if (bytes > share) cost *= 1 + 0.6 * std::log2(bytes / share);
                cost *= 1 + ROW / double(x * scalar);
                if (best == 0 || cost < best) {
                    best = cost;
                    for (int d = 1; d < MAX_AXES; ++d) tile[d] = own[d];
                }
            }
    return best;
}

template <class T>
void advance(const Problem<T> &p) {
    int64_t cells = 1, shape[MAX_AXES];
    for (int d = 0; d < MAX_AXES; ++d) cells *= shape[d] = p.hi[d] - p.lo[d];
    if (cells <= 0) return;
    const int axes = shape[1] > 1 || p.before[1] + p.after[1] > 0   ? 4
                     : shape[2] > 1 || p.before[2] + p.after[2] > 0 ? 3
                     : shape[0] > 1 || p.before[0] + p.after[0] > 0 ? 2
                                                                    : 1;
    // A result that will not be found in the cache again is not written through it: that saves reading it first.
    const bool stream = 2 * cells * int64_t(sizeof(T)) > cache_bytes(3);
    // Single steps of planes wait for memory: fewer products gain nothing there (9 points of float32 lost 3 to 14 %).
    const Jam<T> jam = known_shape(p, axes, axes > 2 || p.steps > 1);
    const int64_t count = std::max<int64_t>(1, int64_t(p.offset.size()) / MAX_AXES);
    // A team of threads costs microseconds to start (milliseconds where processes share the cores): too much for less.
    const int threads = cells * count * p.steps < 32768 ? 1 : p.threads;
    int64_t tile[MAX_AXES], tiles[MAX_AXES], total = 1;
    choose_tile(shape, p.before, p.after, p.steps, sizeof(T), threads, tile);
    for (int d = MAX_AXES - 1; d >= 0; --d) {
        if (p.tile[d] > 0) tile[d] = std::min(p.tile[d], shape[d]);
        if (d == 0 && p.tile[0] <= 0) {
            const int64_t cuts = cuts_for(threads, total);
            tile[0] = (shape[0] + cuts - 1) / cuts;
        }
        tiles[d] = (shape[d] + tile[d] - 1) / tile[d];
        total *= tiles[d];
    }
    std::atomic<bool> failed{false};
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(int(std::min<int64_t>(threads, total))) if (threads > 1)
#endif
    for (int64_t k = 0; k < total; ++k) {
        int64_t lo[MAX_AXES], hi[MAX_AXES], rest = k;
        for (int d = MAX_AXES - 1; d >= 0; --d) {
            lo[d] = p.lo[d] + rest % tiles[d] * tile[d];
            hi[d] = std::min(lo[d] + tile[d], p.hi[d]);
            rest /= tiles[d];
        }
        try {
            Tile<T>(p, jam, axes, stream, lo, hi).run();
        } catch (const std::bad_alloc &) {  // which must not leave the region
            failed = true;
        }
    }
    if (failed) throw std::bad_alloc();
}

template void advance<float>(const Problem<float> &);
template void advance<double>(const Problem<double> &);

}  // namespace mpihpc
