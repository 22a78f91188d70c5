#include "driver.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <unistd.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mpihpc {
namespace {

using std::int64_t;

// Usable instruction sets, best last.
const std::vector<const Kernels *> &usable() {
    static const std::vector<const Kernels *> list = [] {
        std::vector<const Kernels *> found{&baseline::kernels()};
#if defined(MPIHPC_X86_ISAS)
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2")) found.push_back(&avx2::kernels());
        if (__builtin_cpu_supports("avx512f")) found.push_back(&avx512::kernels());
#endif
        return found;
    }();
    return list;
}

std::atomic<const Kernels *> &current() {
    static std::atomic<const Kernels *> kernels{usable().back()};
    return kernels;
}

template <class T>
const Rows<T> &rows();
template <>
const Rows<float> &rows<float>() { return current().load()->f32; }
template <>
const Rows<double> &rows<double>() { return current().load()->f64; }

int64_t cache_bytes(int level) {
    static const int64_t known[2] = {
#if defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
        sysconf(_SC_LEVEL2_CACHE_SIZE), sysconf(_SC_LEVEL3_CACHE_SIZE)
#endif
    };
    // Not known (aarch64 kernels often do not say): a common small size.
    if (level == 2) return known[0] > 0 ? known[0] : int64_t(512) << 10;
    // On AMD the C library may add up the caches of all dies (384 MiB seen for 32): no core gets more than about this.
    return known[1] > 0 ? std::min<int64_t>(known[1], int64_t(32) << 20) : int64_t(16) << 20;
}

template <class T>
void zero_row(T *dst, const T *, const Taps<T> &, int64_t n, bool) {
    std::memset(dst, 0, std::size_t(n) * sizeof(T));
}

struct Box {
    int64_t lo[MAX_AXES], hi[MAX_AXES];
};

// The part of the region that belongs to one of `parts` threads: a slab of one axis, the one that splits most evenly
// (the first of several). The last axis is cut at multiples of a cache line of cells.
template <class T>
Box part_of(const Region<T> &region, int part, int parts) {
    Box box;
    int best = 0;
    double best_share = 2;
    int64_t best_size = 0;
    for (int d = 0; d < MAX_AXES; ++d) {
        const int64_t n = region.shape[d], grain = d == MAX_AXES - 1 ? int64_t(64 / sizeof(T)) : 1;
        const int64_t size = ((n + parts - 1) / parts + grain - 1) / grain * grain;
        const double share = double(std::min(size, n)) / double(n);
        if (share < best_share) best = d, best_share = share, best_size = size;
        box.lo[d] = 0;
        box.hi[d] = n;
    }
    const int64_t n = region.shape[best];
    if (best != MAX_AXES - 1) {  // the first n % parts slabs get one more
        box.lo[best] = part * (n / parts) + std::min<int64_t>(part, n % parts);
        box.hi[best] = box.lo[best] + n / parts + (part < n % parts);
    } else {
        box.lo[best] = std::min(n, part * best_size);
        box.hi[best] = std::min(n, box.lo[best] + best_size);
    }
    return box;
}

template <class T>
struct Sweep {
    const Region<T> &region;
    Row<T> row;
    Taps<T> taps;
    bool stream;
    int64_t tile[MAX_AXES];  // of the last two axes; the others are swept whole

    void operator()(const Box &box) const {
        for (int64_t d0 = box.lo[3]; d0 < box.hi[3]; d0 += tile[3])
            for (int64_t c0 = box.lo[2]; c0 < box.hi[2]; c0 += tile[2])
                for (int64_t a = box.lo[0]; a < box.hi[0]; ++a)
                    for (int64_t b = box.lo[1]; b < box.hi[1]; ++b) {
                        const int64_t n = std::min(tile[3], box.hi[3] - d0);
                        const int64_t c1 = std::min(c0 + tile[2], box.hi[2]);
                        const int64_t *ds = region.dst_stride, *ss = region.src_stride;
                        T *dst = region.dst + a * ds[0] + b * ds[1] + c0 * ds[2] + d0;
                        const T *src = region.src + a * ss[0] + b * ss[1] + c0 * ss[2] + d0;
                        for (int64_t c = c0; c < c1; ++c, dst += ds[2], src += ss[2]) row(dst, src, taps, n, stream);
                    }
#if defined(__x86_64__)
        if (stream) _mm_sfence();  // streaming stores are weakly ordered: seen by all before the call returns
#endif
    }
};

// Rows (or planes) are read again for the next ones; if too many are needed to stay in a cache until then, sweep in
// narrow tiles instead. Where they do stay, tiles only disturb the prefetchers: 256^3 measured 1.2 times slower in them.
template <class T>
void tiles(Sweep<T> &sweep, const int64_t reach[MAX_AXES]) {
    const int64_t *n = sweep.region.shape;
    const int64_t row = (n[3] + reach[3]) * int64_t(sizeof(T)), rows = reach[2] + 2, planes = reach[1] + 2;
    const int64_t far = cache_bytes(3) / 8, near = 2 * cache_bytes(2);
    sweep.tile[2] = n[2];
    sweep.tile[3] = n[3];
    if (reach[2] > 0 && rows * row > far) {
        sweep.tile[3] = std::min(n[3], std::max<int64_t>(near / (rows * int64_t(sizeof(T))), 16 * reach[3] + 4096));
    } else if (reach[1] > 0 && planes * (n[2] + reach[2]) * row > far) {
        sweep.tile[2] = std::min(n[2], std::max<int64_t>(near / (planes * row) - reach[2], 4 * reach[2] + 4));
    }
}

}  // namespace

template <class T>
void run(const Region<T> &region, Kind kind, const std::vector<int64_t> &offset, const std::vector<T> &weight,
         const int64_t reach[MAX_AXES], int threads) {
    int64_t cells = 1;
    for (int d = 0; d < MAX_AXES; ++d) cells *= region.shape[d];
    if (cells == 0) return;

    const Rows<T> &functions = rows<T>();
    const int64_t count = int64_t(offset.size());
    Row<T> row = kind == Kind::copy   ? functions.copy
                 : count == 0         ? zero_row<T>
                 : kind == Kind::real ? functions.correlate
                                      : functions.correlate_complex;
    // The sweep goes through the axes in C order: the tap with the largest offsets on the outer axes leads.
    int64_t leading = 0;
    for (int d = 0; d < MAX_AXES - 1; ++d) leading += reach[d] * region.src_stride[d];
    Sweep<T> sweep{region, row, {offset.data(), weight.data(), count, leading}, false, {0, 0, 0, 0}};
    tiles(sweep, reach);
    // A result that will not be found in the cache again is not written through it: that saves reading it first. The
    // copy is the plain loop that benchmarks compare with.
    sweep.stream = kind != Kind::copy && 2 * cells * int64_t(sizeof(T)) > cache_bytes(3);

    // A team of threads costs microseconds to start (milliseconds where processes share the cores): too much for less.
    if (cells * std::max<int64_t>(1, count) < 32768) threads = 1;
    if (threads == 1) {
        sweep(Box{{0, 0, 0, 0}, {region.shape[0], region.shape[1], region.shape[2], region.shape[3]}});
        return;
    }
#if defined(_OPENMP)
#pragma omp parallel for schedule(static, 1) num_threads(threads)
#endif
    for (int part = 0; part < threads; ++part) sweep(part_of(region, part, threads));
}

template void run<float>(const Region<float> &, Kind, const std::vector<int64_t> &, const std::vector<float> &,
                         const int64_t[MAX_AXES], int);
template void run<double>(const Region<double> &, Kind, const std::vector<int64_t> &, const std::vector<double> &,
                          const int64_t[MAX_AXES], int);

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const Kernels *kernels : usable()) names.emplace_back(kernels->name);
    return names;
}

std::string isa() { return current().load()->name; }

bool use_isa(const std::string &name) {
    for (const Kernels *kernels : usable())
        if (name == kernels->name) {
            current().store(kernels);
            return true;
        }
    return false;
}

int max_threads() {
#if defined(_OPENMP)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

bool has_openmp() {
#if defined(_OPENMP)
    return true;
#else
    return false;
#endif
}

}  // namespace mpihpc
