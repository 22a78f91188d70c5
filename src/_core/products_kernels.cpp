// Kernels of products, compiled once per instruction set as kernels.cpp is; nothing from std:: is called here either.
//
// Every cell of the result is the sum over slices of DEPTH, one after the other, of sums of fused multiply-adds from the
// first to the last: so its bits depend neither on its place nor on the shape of the matrices.
#include "products.hpp"

#if defined(__FMA__) && MPIHPC_VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

#define MPIHPC_INLINE __attribute__((always_inline)) inline

namespace mpihpc::MPIHPC_ISA {

#if defined(__FMA__) && MPIHPC_VECTOR_BYTES >= 32
namespace {

using std::int64_t;

constexpr int LINE = 64;
constexpr int LANES = MPIHPC_VECTOR_BYTES / 8, ROWS = LANES == 8 ? 8 : 6, VECTORS = 2;  // a tile fits the registers
constexpr int64_t COLUMNS = VECTORS * LANES;                                            // of a tile
constexpr int64_t STEP = DEPTH + SPARE;  // from a row of a to the next, where it is copied
static_assert(TALL % ROWS == 0 && WIDE % COLUMNS == 0);

typedef double Vec __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));

MPIHPC_INLINE Vec load(const double *p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

MPIHPC_INLINE void store(double *p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

MPIHPC_INLINE Vec multiply_add(Vec a, Vec b, Vec c) {
#if MPIHPC_VECTOR_BYTES == 64
    return (Vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#else
    return (Vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#endif
}

// ROWS x COLUMNS cells. b: rows of COLUMNS numbers, one after the other. a: rows, STEP numbers apart; or, ACROSS, columns
// of ROWS numbers, one after the other.
template <bool ACROSS>
void tile(int64_t depth, const double *a, const double *b, double *c, int64_t step, bool add) {
    Vec sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; ++j) {
            sum[i][j] = Vec{};
            __builtin_prefetch(c + i * step + j * LANES, 1);
        }
#pragma GCC unroll 4
    for (int64_t p = 0; p < depth; ++p) {
        Vec x[VECTORS];
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; ++j) x[j] = load(b + p * COLUMNS + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
            const Vec factor = (ACROSS ? a[p * ROWS + i] : a[i * STEP + p]) - Vec{};
#pragma GCC unroll 2
            for (int j = 0; j < VECTORS; ++j) sum[i][j] = multiply_add(factor, x[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < VECTORS; ++j) {
            double *at = c + i * step + j * LANES;
            store(at, add ? load(at) + sum[i][j] : sum[i][j]);
        }
}

// Rows of a matrix are copied one by one: what comes after the next one is fetched meanwhile.
MPIHPC_INLINE void fetch(const double *row, int64_t n) {
    for (int64_t i = 0; i < n; i += LINE / 8) __builtin_prefetch(row + i);
}

// m x depth numbers of a, for tiles; the rows beyond are zeros.
void copy_rows(int64_t m, int64_t depth, Matrix<const double> a, double *to) {
    for (int64_t i = 0; i < m; ++i) {
        const double *row = a.at(i, 0);
        double *copy = to + i * STEP;
        int64_t p = 0;
        if (a.column == 1) {
            if (i + 3 < m) fetch(a.at(i + 3, 0), depth);
            for (; p + LANES <= depth; p += LANES) store(copy + p, load(row + p));
        }
        for (; p < depth; ++p) copy[p] = row[p * a.column];
    }
    for (int64_t i = m; i % ROWS != 0; ++i)
        for (int64_t p = 0; p < depth; ++p) to[i * STEP + p] = 0;
}

// The same for numbers that are contiguous along a column.
void copy_across(int64_t m, int64_t depth, Matrix<const double> a, double *to) {
    const int64_t whole = m / ROWS * ROWS;
    for (int64_t p = 0; p < depth; ++p) {
        const double *column = a.at(0, p);
        if (p + 3 < depth) fetch(a.at(0, p + 3), m);
        for (int64_t i = 0; i < whole; i += ROWS)
            __builtin_memcpy(to + i * depth + p * ROWS, column + i, ROWS * 8);
        if (whole < m)
            for (int i = 0; i < ROWS; ++i) to[whole * depth + p * ROWS + i] = whole + i < m ? column[whole + i] : 0.0;
    }
}

// depth x n numbers of b, for tiles; the columns beyond are zeros.
void copy_columns(int64_t depth, int64_t n, Matrix<const double> b, double *to) {
    const int64_t whole = b.column == 1 ? n / COLUMNS * COLUMNS : 0;
    for (int64_t p = 0; p < depth; ++p) {
        if (whole && p + 3 < depth) fetch(b.at(p + 3, 0), whole);
        for (int64_t j = 0; j < whole; j += COLUMNS)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v)
                store(to + j * depth + p * COLUMNS + v * LANES, load(b.at(p, j + v * LANES)));
    }
    for (int64_t j = whole; j < n; j += COLUMNS)
        for (int64_t q = j; q < j + COLUMNS; ++q)
            for (int64_t p = 0; p < depth; ++p) to[j * depth + p * COLUMNS + q - j] = q < n ? *b.at(p, q) : 0.0;
}

// m x n cells from copies of the operands.
void tiles(int64_t m, int64_t n, int64_t depth, const double *a, bool across, const double *b, double *c, int64_t step,
           bool add) {
    alignas(LINE) double part[ROWS * COLUMNS];
    for (int64_t j = 0; j < n; j += COLUMNS)
        for (int64_t i = 0; i < m; i += ROWS) {
            const bool whole = i + ROWS <= m && j + COLUMNS <= n;
            double *at = whole ? c + i * step + j : part;
            const double *columns = b + j * depth;
            if (across) tile<true>(depth, a + i * depth, columns, at, whole ? step : COLUMNS, whole && add);
            else tile<false>(depth, a + i * STEP, columns, at, whole ? step : COLUMNS, whole && add);
            if (whole) continue;
            for (int64_t r = i; r < m && r < i + ROWS; ++r)
                for (int64_t q = j; q < n && q < j + COLUMNS; ++q) {
                    const double sum = part[(r - i) * COLUMNS + q - j];
                    c[r * step + q] = add ? c[r * step + q] + sum : sum;
                }
        }
}

void product(int64_t m, int64_t n, int64_t k, Matrix<const double> a, Matrix<const double> b, Matrix<double> c, bool add,
             double *work) {
    const bool across = a.row == 1 && a.column != 1;
    double *rows = work, *columns = work + TALL * STEP;
    for (int64_t j = 0; j < n; j += WIDE) {
        const int64_t width = n - j < WIDE ? n - j : WIDE;
        for (int64_t p = 0; p < k; p += DEPTH) {
            const int64_t depth = k - p < DEPTH ? k - p : DEPTH;
            copy_columns(depth, width, {b.at(p, j), b.row, b.column}, columns);
            for (int64_t i = 0; i < m; i += TALL) {
                const int64_t height = m - i < TALL ? m - i : TALL;
                const Matrix<const double> part{a.at(i, p), a.row, a.column};
                if (across) copy_across(height, depth, part, rows);
                else copy_rows(height, depth, part, rows);
                tiles(height, width, depth, rows, across, columns, c.at(i, j), c.row, add || p > 0);
            }
        }
    }
}

}  // namespace

Multiply multiply() { return product; }

#else

Multiply multiply() { return nullptr; }

#endif

}  // namespace mpihpc::MPIHPC_ISA
