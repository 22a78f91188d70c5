// Products of matrices of doubles on one process. The loops are those of BLIS (Van Zee and van de Geijn, 2015).
#pragma once

#include <cstdint>

namespace mpihpc {

// Addresses of numbers: the first one, and the distance to the next row and to the next column.
template <class T>
struct Matrix {
    T *first;
    std::int64_t row, column;
    __attribute__((always_inline)) T *at(std::int64_t i, std::int64_t j) const { return first + i * row + j * column; }
};

// How much of the operands is copied to where it can be read line by line: so much of a and b fits the second cache and
// the third. Found by trying.
constexpr std::int64_t DEPTH = 384;    // of both, along the axis that is summed over
constexpr std::int64_t TALL = 96;      // rows of a, a multiple of those of a tile: of 6 and 8
constexpr std::int64_t WIDE = 1024;    // columns of b, likewise of 8 and 16
constexpr std::int64_t SPARE = 16;     // numbers between rows of a, which else would share few places in a cache

// Numbers in the workspace for n columns.
constexpr std::int64_t workspace(std::int64_t n) {
    return (n < WIDE ? n + 16 : WIDE) * DEPTH + TALL * (DEPTH + SPARE);
}

// c = a b, or c += a b. c is m x n, its rows are contiguous; a is m x k. work: workspace(n) numbers, aligned to 64
// bytes. The bits of a cell depend on its row of a, its column of b, and nothing else.
using Multiply = void (*)(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const double> a, Matrix<const double> b,
                          Matrix<double> c, bool add, double *work);

// Null where there is no instruction that multiplies and adds.
namespace baseline { Multiply multiply(); }
namespace avx2 { Multiply multiply(); }
namespace avx512 { Multiply multiply(); }

}  // namespace mpihpc
