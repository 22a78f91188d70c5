// Sums of floating-point numbers without rounding: the same bits in any order, and so for any way to cut an array.
//
// `Exact` holds a sum as a long integer in units of 2^-1074, wide enough for all doubles (Kulisch's long accumulator;
// words of 32 bits with room for carries as in R. M. Neal, "Fast exact summation using small and large
// superaccumulators", arXiv 1505.05571). To add to it is exact, hence associative and commutative; rounding happens
// once, at the end.
//
// Adding numbers one by one is slow, so blocks of numbers go through vectors first (S. M. Rump, T. Ogita, S. Oishi,
// "Accurate floating-point summation", SIAM J. Sci. Comput. 31, 2008; J. Demmel, P. Ahrens, H. D. Nguyen, "Efficient
// reproducible floating point summation and BLAS", 2016). The leading bits of each number are split off by
//
//     s' = s + x;  q = s' - s;  r = x - q
//
// where s is 1.5 * 2^(52 + u) plus a sum of such q, and |x| <= 2^(u + 42). As long as at most 2^8 numbers go to one s, it
// stays between 1.25 and 1.75 times 2^(52 + u), where doubles are 2^u apart. Then q is x rounded to a multiple of 2^u,
// either way at a tie, with |x| <= 2^(u + 42); s' - s and x - q are exact (both are multiples of the unit of x of no
// more than 53 bits), and |r| <= 2^(u - 1): what is needed to do the same with r at the level u - 43. Where all r of the
// last level are zero, the numbers of the block are the sum of what the levels hold, exactly. Where they are not, the
// block is done again with more levels, and in the end one by one. So which path a block takes, how the blocks are cut
// and how a tie is rounded have no influence on the sum: it is exact.
#pragma once

#include <cstdint>

namespace mpihpc {

constexpr std::int64_t SUM_BLOCK = 2048;  // numbers, at most
constexpr int SUM_LEVELS = 4;             // the most
constexpr std::int64_t PANEL_COLUMNS = 512, PANEL_ROWS = 256;  // at most; a row of each s stays in the first-level cache
constexpr int PANEL_LEVELS = 3;

// The exponent field of the s of a level, where the largest |x| has the exponent field `largest`: below
// 2^(largest - 1022), so u = largest - 1022 - 42 - 43 * level. The least s has the unit 2^-1074: no double is finer.
constexpr std::int64_t level_field(std::int64_t largest, int level) {
    const std::int64_t field = largest + 11 - 43 * level;
    return field < 1 ? 1 : field;
}
constexpr std::int64_t MOST_FIELD = 2046 - 11;  // beyond, s would overflow

// Numbers one after the other in memory, of float (single) or double: those of x, or their products with those of y, if
// that is not null; crossed: x[0] * y[1], x[1] * y[0], x[2] * y[3], ...
struct Source {
    const void *x, *y;
    bool single, crossed = false;
};

// An integer for the first, third, ... numbers, and one for the others: pairs are complex numbers, if they are that.
struct SumPart {
    std::int64_t even, odd;
};

// Several rows of such numbers, a given number of bytes apart.
struct Panel {
    const void *x, *y;
    bool single;
    std::int64_t rows, columns, x_stride, y_stride;
};

// What is found of each column of a panel. Its sum is that of its parts where `rest` is 0.
struct ColumnParts {
    const std::int64_t *top;          // given: the exponent field below which all its numbers are thought to be
    double (*part)[PANEL_COLUMNS];    // of each level
    std::uint64_t *rest;
    std::int64_t *found;              // the exponent field of its largest number
};

// What each instruction set offers.
struct SumKernels {
    double (*largest)(const Source &source, std::int64_t n);  // the largest size of a number; NaN does not count
    // part[k] of level k is an integer in units of 2^(level_field(field, k) - 52 - 1023). Whether nothing is left over,
    // and no number is too large for this field; the largest one's size is told in any case.
    bool (*extract)(const Source &source, std::int64_t n, std::int64_t field, int levels, SumPart *part, double *largest);
    void (*widen)(const float *x, double *out, std::int64_t n);
    void (*multiply)(const float *x, const float *y, double *out, std::int64_t n);  // exact
    void (*every_second)(const double *x, double *out, std::int64_t n);  // x[0], x[2], ...
    // A panel has at least SUM_LANES columns.
    void (*tops)(const Panel &panel, std::int64_t margin, std::int64_t *top);  // what `top` may be, with a margin
    bool (*columns)(const Panel &panel, int levels, const ColumnParts &out);   // 2 or 3 levels; whether all rest is 0
    // sum + error = a + b (Knuth's TwoSum). Whether some error is not 0.
    bool (*add_pairs)(const double *a, const double *b, double *sum, double *error, std::int64_t n);
};
constexpr std::int64_t SUM_LANES = 8;  // of the widest vectors

namespace baseline { const SumKernels &sum_kernels(); }
namespace avx2 { const SumKernels &sum_kernels(); }
namespace avx512 { const SumKernels &sum_kernels(); }

class Exact {
public:
    static constexpr int LIMBS = 68;  // of 32 bits: 2^-1074 to 2^1024, and 2^63 numbers
    static constexpr int WORDS = LIMBS + 3;

    Exact() = default;
    explicit Exact(const std::int64_t *words);
    void save(std::int64_t *words);  // normalised: sums of up to 2^30 such arrays of words are again a state

    void add(double x);
    void add(std::int64_t n, int place);  // n * 2^(place - 1074), |n| < 2^58
    // Clamped: what is beyond the largest double is that double, not infinity. To odd: not to the nearest double, but, if
    // it is none, to the one beside it whose last bit is 1. Rounded again, to fewer bits, that is as if rounded once.
    double round(bool clamped = false, bool odd = false);
    bool finite() const { return !(word_[NANS] | word_[PLUS] | word_[MINUS]); }

private:
    enum { NANS = LIMBS, PLUS, MINUS };  // counts of NaN, inf, -inf
    void normalise();

    std::int64_t word_[WORDS] = {};
    std::int64_t pending_ = 0;  // additions since the last carries
};

// Rows of an array of any number of axes, of float (single) or double. Strides in bytes.
struct Cells {
    const char *data;
    bool single;
    int ndim;
    const std::int64_t *shape, *stride;
};

void add_all(Exact &sum, const Cells &x);
// The products, each rounded to a double.
void add_products(Exact &sum, const Cells &x, const Cells &y);
// Complex numbers, as pairs side by side along the last axis: their sum, or that of the four products of each with that
// of y, and of their conjugates.
void add_complex(Exact &real, Exact &imag, const Cells &x, const Cells *y, bool conjugate);

// The sum of each column of x, or of its products with y, whose first `lead` axes are its rows and the others its columns,
// both in C order, in `terms` rows of as many doubles as there are columns. One term: the sum, rounded. More: numbers that
// add up to it exactly, the first one the sum rounded (or the largest double), the others filled up with zeros. Returns
// how many terms there would have to be. `odd`: how a single term is rounded.
std::int64_t sum_columns(const Cells &x, const Cells *y, int lead, double *out, std::int64_t terms, bool odd);
// The same for existing sums: arrays of words.
std::int64_t sum_states(const std::int64_t *words, std::int64_t states, double *out, std::int64_t terms, bool odd);

}  // namespace mpihpc
