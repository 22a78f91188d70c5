// Kernels of sums, compiled once per instruction set as kernels.cpp is; nothing from std:: is called here either.
#include "sums.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace mpihpc::MPIHPC_ISA {
namespace {

using std::int64_t;
using std::uint64_t;

constexpr int LANES = MPIHPC_VECTOR_BYTES / 8;
typedef double Vec __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));
typedef float Half __attribute__((vector_size(MPIHPC_VECTOR_BYTES / 2)));
typedef uint64_t Bits __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));
typedef int64_t Mask __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));

constexpr uint64_t SIGN = uint64_t(1) << 63;
constexpr uint64_t HALF = uint64_t(1) << 51;  // the mantissa of 1.5
constexpr int LINE = 64;                      // bytes of a cache line

inline Vec load(const double *p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline Vec load(const float *p) {
    Half v;
    __builtin_memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, Vec);
}

template <class T>
inline void store(T *p, Vec v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// `most`, where x is NaN. Compilers do not find the instruction by themselves.
inline Vec larger(Vec x, Vec most) {
    const Vec a = Vec(Bits(x) & ~SIGN);
#if defined(__AVX512F__)
    return _mm512_max_pd(a, most);
#elif defined(__AVX__)
    return _mm256_max_pd(a, most);
#elif defined(__SSE2__)
    return _mm_max_pd(a, most);
#else
    return a > most ? a : most;
#endif
}

inline double as_double(uint64_t bits) {
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

inline int64_t field_of(double x) {
    uint64_t bits;
    __builtin_memcpy(&bits, &x, sizeof x);
    return int64_t(bits >> 52 & 2047);
}

inline double largest_of(Vec v) {
    double result = 0;
    for (int lane = 0; lane < LANES; ++lane)
        if (v[lane] > result) result = v[lane];
    return result;
}

inline bool any(Bits v) {
    uint64_t all = 0;
    for (int lane = 0; lane < LANES; ++lane) all |= v[lane];
    return all != 0;
}

// Numbers of memory, or their products, a vector at a time.
enum Kind { PLAIN, PRODUCTS, SQUARES, CROSSED };

// The numbers of each pair in turn.
inline Vec swapped(Vec v) {
#if defined(__clang__) && MPIHPC_VECTOR_BYTES == 64
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
#elif defined(__clang__) && MPIHPC_VECTOR_BYTES == 32
    return __builtin_shufflevector(v, v, 1, 0, 3, 2);
#elif defined(__clang__)
    return __builtin_shufflevector(v, v, 1, 0);
#else
    Bits order;
    for (int lane = 0; lane < LANES; ++lane) order[lane] = uint64_t(lane ^ 1);
    return __builtin_shuffle(v, order);
#endif
}

template <class T, Kind KIND>
struct Numbers {
    const T *x, *y;
    static constexpr bool TWO = KIND == PRODUCTS || KIND == CROSSED;

    Vec at(int64_t i) const {
        const Vec v = load(x + i);
        return KIND == PLAIN ? v : KIND == SQUARES ? v * v : v * (KIND == CROSSED ? swapped(load(y + i)) : load(y + i));
    }

    Numbers row(int64_t i, const Panel &panel) const {
        return {reinterpret_cast<const T *>(reinterpret_cast<const char *>(x) + i * panel.x_stride),
                reinterpret_cast<const T *>(reinterpret_cast<const char *>(y) + i * panel.y_stride)};
    }

    void fetch(int64_t i, int64_t rows, const Panel &panel) const {  // the same place some rows further on
        __builtin_prefetch(reinterpret_cast<const char *>(x + i) + rows * panel.x_stride);
        if (TWO) __builtin_prefetch(reinterpret_cast<const char *>(y + i) + rows * panel.y_stride);
    }

    void prefetch(int64_t i, int64_t count) const {
        for (int64_t end = i + count; i < end; i += LINE / int64_t(sizeof(T))) {
            __builtin_prefetch(x + SUM_BLOCK + i);
            if (TWO) __builtin_prefetch(y + SUM_BLOCK + i);
        }
    }
};

template <class T, class From, class Work>
auto with_type(const From &from, bool crossed, Work work) {
    const T *x = static_cast<const T *>(from.x), *y = static_cast<const T *>(from.y);
    if (!y) return work(Numbers<T, PLAIN>{x, y});
    if (crossed) return work(Numbers<T, CROSSED>{x, y});
    return x == y ? work(Numbers<T, SQUARES>{x, y}) : work(Numbers<T, PRODUCTS>{x, y});
}

// Calls work with the numbers of a source or panel.
template <class From, class Work>
auto with(const From &from, bool crossed, Work work) {
    return from.single ? with_type<float>(from, crossed, work) : with_type<double>(from, crossed, work);
}

// Calls work(numbers, index) for n numbers in groups of COUNT; the last group is filled up with zeros.
template <int COUNT, class T, Kind KIND, class Work>
inline void in_groups(Numbers<T, KIND> numbers, int64_t n, Work work) {
    const int64_t whole = n / COUNT * COUNT;
    for (int64_t i = 0; i < whole; i += COUNT) {
        numbers.prefetch(i, COUNT);
        work(numbers, i);
    }
    if (whole == n) return;
    constexpr bool two = Numbers<T, KIND>::TWO;
    T x[COUNT] = {}, y[two ? COUNT : 1] = {};
    __builtin_memcpy(x, numbers.x + whole, std::size_t(n - whole) * sizeof(T));
    if (two) __builtin_memcpy(y, numbers.y + whole, std::size_t(n - whole) * sizeof(T));
    work(Numbers<T, KIND>{x, y}, int64_t(0));
}

double largest(const Source &source, int64_t n) {
    return with(source, source.crossed, [n](auto all) {
        constexpr int WAYS = 4;
        Vec most[WAYS] = {};
        in_groups<WAYS * LANES>(all, n, [&](auto x, int64_t i) {
            for (int w = 0; w < WAYS; ++w) most[w] = larger(x.at(i + w * LANES), most[w]);
        });
        return largest_of(larger(larger(most[0], most[1]), larger(most[2], most[3])));
    });
}

template <int LEVELS, class Numbers>
bool extract_levels(Numbers all, int64_t n, int64_t field, SumPart *part, double *top) {
    constexpr int WAYS = LEVELS < 3 || LANES < 4 ? 4 : 2;
    static_assert(SUM_BLOCK / (WAYS * LANES) <= 256);
    Vec s[LEVELS][WAYS], most[2] = {};
    for (int k = 0; k < LEVELS; ++k)
        for (int w = 0; w < WAYS; ++w) s[k][w] = as_double(uint64_t(level_field(field, k)) << 52 | HALF) - Vec{};
    Bits rest[2] = {};
    in_groups<WAYS * LANES>(all, n, [&](auto x, int64_t i) {
        for (int w = 0; w < WAYS; ++w) {
            Vec r = x.at(i + w * LANES);
            most[w % 2] = larger(r, most[w % 2]);
            for (int k = 0; k < LEVELS; ++k) {
                const Vec next = s[k][w] + r;
                r -= next - s[k][w];
                s[k][w] = next;
            }
            rest[w % 2] |= Bits(r);
        }
    });
    *top = largest_of(larger(most[0], most[1]));
    if (field_of(*top) > field || any((rest[0] | rest[1]) & ~SIGN)) return false;
    for (int k = 0; k < LEVELS; ++k) {
        // The difference of two numbers with the same exponent field, in units of the last place, is that of their bits.
        const int64_t zero = level_field(field, k) << 52 | int64_t(HALF);
        Mask sum = Mask(s[k][0]) - zero;
        for (int w = 1; w < WAYS; ++w) sum += Mask(s[k][w]) - zero;
        part[k] = {0, 0};
        for (int lane = 0; lane < LANES; lane += 2) part[k].even += sum[lane], part[k].odd += sum[lane + 1];
    }
    return true;
}

bool extract(const Source &source, int64_t n, int64_t field, int levels, SumPart *part, double *top) {
    return with(source, source.crossed, [=](auto x) {
        switch (levels) {
            case 1: return extract_levels<1>(x, n, field, part, top);
            case 2: return extract_levels<2>(x, n, field, part, top);
            case 3: return extract_levels<3>(x, n, field, part, top);
            default: return extract_levels<SUM_LEVELS>(x, n, field, part, top);
        }
    });
}

void widen(const float *x, double *out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = double(x[i]);
}

void multiply(const float *x, const float *y, double *out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = double(x[i]) * double(y[i]);
}

void every_second(const double *x, double *out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = x[2 * i];
}

// Where the vectors of a row of columns begin: the last one may overlap the one before, which does no harm.
inline int64_t place(int64_t v, int64_t columns) {
    return (v + 1) * LANES <= columns ? v * LANES : columns - LANES;
}

void tops(const Panel &panel, int64_t margin, int64_t *top) {
    with(panel, false, [&](auto x) {
        for (int64_t v = 0; v * LANES < panel.columns; ++v) {
            const int64_t at = place(v, panel.columns);
            Vec most = {};
            for (int64_t i = 0; i < panel.rows; ++i) most = larger(x.row(i, panel).at(at), most);
            Mask f = Mask(Bits(most) >> 52) + margin;
            f = f > MOST_FIELD ? Mask{} + MOST_FIELD : f;
            __builtin_memcpy(top + at, &f, sizeof f);
        }
    });
}

template <int COUNT>
struct Rows {
    static constexpr int n = COUNT;
};

template <int LEVELS, class Numbers>
bool columns_levels(Numbers x, const Panel &panel, const ColumnParts &out) {
    constexpr int ROWS = 8;
    constexpr int64_t MOST = PANEL_COLUMNS / LANES;
    const int64_t vectors = (panel.columns + LANES - 1) / LANES;
    Vec s[LEVELS][MOST], first[LEVELS][MOST], most[MOST];
    Bits rest[MOST];
    for (int64_t v = 0; v < vectors; ++v) {
        Mask top;
        __builtin_memcpy(&top, out.top + place(v, panel.columns), sizeof top);
        for (int k = 0; k < LEVELS; ++k) {
            Mask f = top + (level_field(1 << 20, k) - (1 << 20));
            f = f < 1 ? Mask{} + 1 : f;
            first[k][v] = s[k][v] = Vec(Bits(f) << 52 | HALF);
        }
        most[v] = Vec{};
        rest[v] = Bits{};
    }
    const auto add = [&](auto count, int64_t i) {  // some rows at a time, from left to right, as memory likes to be read
        constexpr int n = decltype(count)::n;
        Numbers row[n];
        for (int r = 0; r < n; ++r) row[r] = x.row(i + r, panel);
        for (int64_t v = 0; v < vectors; ++v) {
            const int64_t at = place(v, panel.columns);
            Vec now[LEVELS], high = most[v];
            Bits left = rest[v];
            for (int k = 0; k < LEVELS; ++k) now[k] = s[k][v];
            for (int r = 0; r < n; ++r) {
                Vec left_over = row[r].at(at);
                row[r].fetch(at, ROWS, panel);
                high = larger(left_over, high);
                for (int k = 0; k < LEVELS; ++k) {
                    const Vec next = now[k] + left_over;
                    left_over -= next - now[k];
                    now[k] = next;
                }
                left |= Bits(left_over);
            }
            for (int k = 0; k < LEVELS; ++k) s[k][v] = now[k];
            most[v] = high;
            rest[v] = left;
        }
    };
    int64_t i = 0;
    for (; i + ROWS <= panel.rows; i += ROWS) add(Rows<ROWS>(), i);
    for (; i < panel.rows; ++i) add(Rows<1>(), i);
    Bits all = {};
    for (int64_t v = 0; v < vectors; ++v) {
        const int64_t at = place(v, panel.columns);
        Mask top;
        __builtin_memcpy(&top, out.top + at, sizeof top);
        const Mask found = Mask(Bits(most[v]) >> 52);
        const Bits left = (rest[v] & ~SIGN) | Bits(found > top);
        all |= left;
        for (int k = 0; k < LEVELS; ++k) store(out.part[k] + at, s[k][v] - first[k][v]);
        __builtin_memcpy(out.rest + at, &left, sizeof left);
        __builtin_memcpy(out.found + at, &found, sizeof found);
    }
    return !any(all);
}

bool columns(const Panel &panel, int levels, const ColumnParts &out) {
    return with(panel, false, [&](auto x) {
        return levels == 2 ? columns_levels<2>(x, panel, out) : columns_levels<PANEL_LEVELS>(x, panel, out);
    });
}

bool add_pairs(const double *a, const double *b, double *sum, double *error, int64_t n) {
    uint64_t some = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double s = a[i] + b[i], bb = s - a[i], e = (a[i] - (s - bb)) + (b[i] - bb);
        sum[i] = s;
        error[i] = e;
        some |= e != 0;
    }
    return some;
}

}  // namespace

const SumKernels &sum_kernels() {
    static constexpr SumKernels all{largest, extract, widen, multiply, every_second, tops, columns, add_pairs};
    return all;
}

}  // namespace mpihpc::MPIHPC_ISA
