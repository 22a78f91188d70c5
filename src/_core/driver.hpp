// From rows to regions: choice of the instruction set, threads, tiles, streaming stores.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace mpihpc {

constexpr int MAX_AXES = 4;
constexpr int MAX_THREADS = 1024;

// A region to fill, always with four axes (leading ones of length 1). Shape and strides in scalars; the last axis of
// both arrays is contiguous.
template <class T>
struct Region {
    T *dst;
    const T *src;
    std::int64_t shape[MAX_AXES];
    std::int64_t dst_stride[MAX_AXES];
    std::int64_t src_stride[MAX_AXES];
};

enum class Kind { copy, real, complex };

// Correlate (or copy: no taps used) over the region. reach[d]: the largest offset along axis d, in cells. No taps: zeros.
template <class T>
void run(const Region<T> &region, Kind kind, const std::vector<std::int64_t> &offset, const std::vector<T> &weight,
         const std::int64_t reach[MAX_AXES], int threads);

std::vector<std::string> isas();
std::string isa();
bool use_isa(const std::string &name);
int max_threads();
bool has_openmp();

// checksum.cpp. Strides in bytes.
std::uint64_t checksum(const char *data, int itemsize, const std::int64_t shape[MAX_AXES],
                       const std::int64_t stride[MAX_AXES], const std::int64_t start[MAX_AXES],
                       const std::int64_t global_shape[MAX_AXES]);

}  // namespace mpihpc
