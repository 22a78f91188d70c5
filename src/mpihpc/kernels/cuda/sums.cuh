// Sums without rounding of the columns of an array; the sum of all cells is a column.
//
// Some threads share a column (its `ways`), and each adds its numbers to TERMS doubles: what is left of a number after it
// was added to the first goes to the second, and so on (R. Iakymchuk, S. Collange, D. Defour, S. Graillat, "ExBLAS:
// Reproducible and Accurate BLAS Library", 2015). Nothing is rounded away, so threads need not agree on an order. What
// they have found is an array of fewer rows, `parts`, to be summed in its turn.
//
// Of numbers that are very large and very small at the same time, of infinities and NaN, the doubles cannot hold all.
// Where that is so, `lost` says of each `range` of columns, and the kernel runs again for these with `words`: for each
// column a number in units of 2^-1074, 32 bits in each word, and counts of NaN, inf and -inf, as in src/_core/sums.hpp.
// Integers may be added in any order too. A column must not have more than 2^30 numbers then, or words could overflow.

constexpr int EACH = 8, LIMBS = 68, WORDS = LIMBS + 3;
constexpr long long DIGIT = 0xFFFFFFFF;

struct Columns {
    long long down[3][4], across[3][4];  // lengths of the axes; strides of x and of y on them, in cells
    long long rows, ways, beside;        // beside: neighbouring threads have neighbouring rows, not columns
    long long first, columns, range;     // the first column to add, how many, and how many of them are a range
};

__device__ __forceinline__ long long place(const long long (&axes)[3][4], int array, long long index) {
    long long at = 0;
    for (int d = 3; d > 0; --d) {
        if (axes[0][d] == 1) continue;
        at += index % axes[0][d] * axes[array][d];
        index /= axes[0][d];
    }
    return at + index * axes[array][0];
}

__device__ __forceinline__ void add_word(unsigned long long *word, long long n) {
    if (n) atomicAdd(word, (unsigned long long)n);
}

__device__ void add_number(unsigned long long *words, double x) {
    const long long bits = __double_as_longlong(x);
    const int field = int(bits >> 52 & 2047);
    long long mantissa = bits & ((1ll << 52) - 1);
    if (field == 2047) return add_word(words + (mantissa ? LIMBS : x > 0 ? LIMBS + 1 : LIMBS + 2), 1);
    if (field) mantissa |= 1ll << 52;
    if (bits < 0) mantissa = -mantissa;
    const int at = (field ? field : 1) - 1, by = at & 31;
    unsigned long long *limb = words + (at >> 5);
    add_word(limb, (long long)((unsigned long long)mantissa << by) & DIGIT);
    add_word(limb + 1, mantissa >> (32 - by) & DIGIT);
    add_word(limb + 2, by ? mantissa >> (64 - by) : mantissa >> 63);
}

extern "C" __global__ void __launch_bounds__(THREADS)
SUM(const Cell *x, const Cell *y, double *parts, int *lost, unsigned long long *words, const Columns g) {
    const long long number = blockIdx.x * (long long)THREADS + threadIdx.x;
    if (number >= g.ways * g.columns) return;
    const long long way = g.beside ? number % g.ways : number / g.columns;
    const long long column = g.first + (g.beside ? number / g.ways : number % g.columns);
    x += place(g.across, 1, column);
    if (y) y += place(g.across, 2, column);
    if (words) words += (column - g.first) * WORDS;
    double sums[TERMS] = {};
    const auto keep = [&](double rest) {
        if (words) add_number(words, rest);
        else lost[(column - g.first) / g.range] = 1;
    };
    for (long long from = way; from < g.rows; from += EACH * g.ways) {
        double v[EACH];
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            const long long row = from + e * g.ways;
            v[e] = 0;
            if (row >= g.rows) continue;
            v[e] = x[place(g.down, 1, row)];
            if (y) v[e] *= y[place(g.down, 2, row)];
        }
#pragma unroll
        for (int e = 0; e < EACH; ++e) {
            double rest = v[e];
            if (!(rest < 0x1p1000 && rest > -0x1p1000)) {  // sums could overflow
                keep(rest);
                continue;
            }
#pragma unroll
            for (int k = 0; k < TERMS; ++k) {  // Knuth's TwoSum
                const double sum = sums[k] + rest, back = sum - sums[k];
                rest = (sums[k] - (sum - back)) + (rest - back);
                sums[k] = sum;
            }
            if (rest != 0) keep(rest);
        }
    }
    for (int k = 0; k < TERMS; ++k)
        if (words) add_number(words, sums[k]);
        else parts[(k * g.ways + way) * g.columns + column - g.first] = sums[k];
}
