// The instruction set in use, and what is known of the machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "advance.hpp"
#include "kernels.hpp"
#include "products.hpp"
#include "sums.hpp"

namespace mpihpc {

// What there is for an instruction set.
struct Isa {
    const char *name;
    const Kernels *stencils;
    const SumKernels *sums;
    Multiply multiply;  // or null
};

// The one in use, those that could be, and whether that of a name is now.
const Isa &isa();
const std::vector<Isa> &isas();
bool use_isa(const std::string &name);

// The rows of stencils of the one in use.
template <class T>
const Rows<T> &rows();
template <>
const Rows<float> &rows<float>();
template <>
const Rows<double> &rows<double>();

// Bytes of a cache (2 or 3) that a core may take for its own.
std::int64_t cache_bytes(int level);

// Cores of the machine.
int cores();

// Two arrays, always with four axes (leading ones of length 1). Shape and strides in scalars; the last axis of both is
// contiguous.
template <class T>
struct Region {
    T *dst;
    const T *src;
    std::int64_t shape[MAX_AXES];
    std::int64_t dst_stride[MAX_AXES];
    std::int64_t src_stride[MAX_AXES];
};

// Copy by a plain loop of ordinary loads and stores, the yardstick of benchmarks.
template <class T>
void copy(const Region<T> &region, int threads);

int max_threads();
bool has_openmp();

// checksum.cpp. Strides in bytes.
std::uint64_t checksum(const char *data, int itemsize, const std::int64_t shape[MAX_AXES],
                       const std::int64_t stride[MAX_AXES], const std::int64_t start[MAX_AXES],
                       const std::int64_t global_shape[MAX_AXES]);

}  // namespace mpihpc
