#include "driver.hpp"

#include <algorithm>
#include <atomic>

#include <unistd.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace mpihpc {
namespace {

using std::int64_t;

std::atomic<const Isa *> &current() {
    static std::atomic<const Isa *> used{&isas().back()};
    return used;
}

}  // namespace

// The best one last.
const std::vector<Isa> &isas() {
    static const std::vector<Isa> usable = [] {
        std::vector<Isa> found{{"baseline", &baseline::kernels(), &baseline::sum_kernels(), baseline::multiply()}};
#if defined(MPIHPC_X86_ISAS)
        __builtin_cpu_init();
        const bool fuses = __builtin_cpu_supports("fma");
        if (fuses && __builtin_cpu_supports("avx2"))
            found.push_back({"avx2", &avx2::kernels(), &avx2::sum_kernels(), avx2::multiply()});
        if (fuses && __builtin_cpu_supports("avx512f"))
            found.push_back({"avx512", &avx512::kernels(), &avx512::sum_kernels(), avx512::multiply()});
#endif
        return found;
    }();
    return usable;
}

const Isa &isa() { return *current().load(); }

bool use_isa(const std::string &name) {
    for (const Isa &usable : isas())
        if (name == usable.name) {
            current().store(&usable);
            return true;
        }
    return false;
}

template <>
const Rows<float> &rows<float>() { return isa().stencils->f32; }
template <>
const Rows<double> &rows<double>() { return isa().stencils->f64; }

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

int cores() {
    static const int found = int(std::max<long>(1, sysconf(_SC_NPROCESSORS_ONLN)));
    return found;
}

template <class T>
void copy(const Region<T> &region, int threads) {
    const int64_t *n = region.shape, count = n[0] * n[1] * n[2];
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (count * n[3] > 32768 && threads > 1)
#endif
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at[] = {i / n[2] / n[1], i / n[2] % n[1], i % n[2]};
        T *dst = region.dst;
        const T *src = region.src;
        for (int d = 0; d < 3; ++d) dst += at[d] * region.dst_stride[d], src += at[d] * region.src_stride[d];
        rows<T>().copy(dst, {&src, nullptr, 1}, n[3], false, Ahead());
    }
}

template void copy<float>(const Region<float> &, int);
template void copy<double>(const Region<double> &, int);

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
