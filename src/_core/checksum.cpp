// The checksum of an array, the same for every way to cut it: a sum modulo 2^64 of one hash per cell.
#include <cstring>

#include "driver.hpp"

namespace mpihpc {
namespace {

// The finaliser of splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
inline std::uint64_t mix(std::uint64_t z) {
    z ^= z >> 30;
    z *= 0xBF58476D1CE4E5B9u;
    z ^= z >> 27;
    z *= 0x94D049BB133111EBu;
    z ^= z >> 31;
    return z;
}

template <class Word, int WORDS>
std::uint64_t row(const char *data, std::int64_t n, std::int64_t stride, std::uint64_t index) {
    std::uint64_t sum = 0;
    for (std::int64_t i = 0; i < n; ++i, ++index, data += stride) {
        std::uint64_t h = mix(index + 0x9E3779B97F4A7C15u);
        for (int k = 0; k < WORDS; ++k) {
            Word word;
            std::memcpy(&word, data + k * sizeof(Word), sizeof(Word));
            h = mix(h ^ word);
        }
        sum += h;
    }
    return sum;
}

}  // namespace

std::uint64_t checksum(const char *data, int itemsize, const std::int64_t shape[MAX_AXES],
                       const std::int64_t stride[MAX_AXES], const std::int64_t start[MAX_AXES],
                       const std::int64_t global_shape[MAX_AXES]) {
    auto *one = itemsize == 1   ? row<std::uint8_t, 1>
                : itemsize == 2 ? row<std::uint16_t, 1>
                : itemsize == 4 ? row<std::uint32_t, 1>
                : itemsize == 8 ? row<std::uint64_t, 1>
                                : row<std::uint64_t, 2>;
    // Indices modulo 2^64, like the sum.
    auto at = [&](int axis, std::int64_t i) { return std::uint64_t(start[axis]) + std::uint64_t(i); };
    std::uint64_t sum = 0;
    for (std::int64_t a = 0; a < shape[0]; ++a)
        for (std::int64_t b = 0; b < shape[1]; ++b)
            for (std::int64_t c = 0; c < shape[2]; ++c) {
                std::uint64_t index = at(0, a);
                index = index * std::uint64_t(global_shape[1]) + at(1, b);
                index = index * std::uint64_t(global_shape[2]) + at(2, c);
                index = index * std::uint64_t(global_shape[3]) + at(3, 0);
                sum += one(data + a * stride[0] + b * stride[1] + c * stride[2], shape[3], stride[3], index);
            }
    return sum;
}

}  // namespace mpihpc
