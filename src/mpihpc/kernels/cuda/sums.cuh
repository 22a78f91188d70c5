// Sums without rounding, as in src/_core/sums.hpp, whose words these are: a number in units of 2^-1074, 32 bits in each
// word, and counts of NaN, inf and -inf. Integers may be added in any order, so threads need not agree on one.
//
// A thread takes EACH numbers at a time and splits off their leading bits at some levels; where something is left over,
// it adds them one by one. Blocks add to words of their own, and those to the result. A block must not get more than 2^31
// numbers, or its words could overflow.

constexpr int EACH = 16, LEVELS = 2, LIMBS = 68, WORDS = LIMBS + 3;
constexpr long long DIGIT = 0xFFFFFFFF, HALF = 1ll << 51;

__device__ __forceinline__ void add_word(unsigned long long *word, long long n) {
    if (n) atomicAdd(word, (unsigned long long)n);
}

// Adds n * 2^(place - 1074), |n| < 2^58.
__device__ __forceinline__ void add_integer(unsigned long long *words, long long n, int place) {
    const int by = place & 31;
    unsigned long long *limb = words + (place >> 5);
    add_word(limb, (long long)((unsigned long long)n << by) & DIGIT);
    add_word(limb + 1, n >> (32 - by) & DIGIT);
    add_word(limb + 2, by ? n >> (64 - by) : n >> 63);
}

__device__ __forceinline__ void add_number(unsigned long long *words, double x) {
    const long long bits = __double_as_longlong(x);
    const int field = int(bits >> 52 & 2047);
    long long mantissa = bits & ((1ll << 52) - 1);
    if (field == 2047) return add_word(words + (mantissa ? LIMBS : x > 0 ? LIMBS + 1 : LIMBS + 2), 1);
    if (field) mantissa |= 1ll << 52;
    add_integer(words, bits < 0 ? -mantissa : mantissa, (field ? field : 1) - 1);
}

extern "C" __global__ void __launch_bounds__(THREADS)
SUM(const Cell *x, const Cell *y, long long n, unsigned long long *result) {
    __shared__ unsigned long long words[WORDS];
    for (int i = threadIdx.x; i < WORDS; i += THREADS) words[i] = 0;
    __syncthreads();
    const long long stride = (long long)gridDim.x * THREADS;
    for (long long at = blockIdx.x * (long long)THREADS + threadIdx.x; at < n; at += EACH * stride) {
        double v[EACH], most = 0;
        for (int e = 0; e < EACH; ++e) {
            const long long i = at + e * stride;
            v[e] = i >= n ? 0 : y ? double(x[i]) * double(y[i]) : double(x[i]);
            const double size = v[e] < 0 ? -v[e] : v[e];
            most = size <= most ? most : size;  // NaN counts
        }
        // A level is s = 1.5 * 2^(52 + u), u so that the largest number is below 2^(u + 42); see sums.hpp.
        const long long field = __double_as_longlong(most) >> 52 & 2047;
        bool exact = field + 11 <= 2046;
        if (exact) {
            double s[LEVELS], first[LEVELS];
            long long fields[LEVELS];
            for (int k = 0; k < LEVELS; ++k) {
                fields[k] = field + 11 - 43 * k < 1 ? 1 : field + 11 - 43 * k;
                s[k] = first[k] = __longlong_as_double(fields[k] << 52 | HALF);
            }
            for (int e = 0; e < EACH; ++e) {
                double rest = v[e];
                for (int k = 0; k < LEVELS; ++k) {
                    const double next = s[k] + rest;
                    rest -= next - s[k];
                    s[k] = next;
                }
                exact = exact && rest == 0;
            }
            if (exact)
                for (int k = 0; k < LEVELS; ++k)
                    add_integer(words, __double_as_longlong(s[k]) - __double_as_longlong(first[k]), int(fields[k]) - 1);
        }
        if (!exact)
            for (int e = 0; e < EACH; ++e) add_number(words, v[e]);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        long long carry = 0;
        for (int i = 0; i < LIMBS - 1; ++i) {
            carry += (long long)words[i];
            add_word(result + i, carry & DIGIT);
            carry >>= 32;
        }
        add_word(result + LIMBS - 1, (long long)words[LIMBS - 1] + carry);
        for (int i = LIMBS; i < WORDS; ++i) add_word(result + i, (long long)words[i]);
    }
}
