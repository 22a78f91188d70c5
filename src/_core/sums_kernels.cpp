// Kernels of sums, compiled once per instruction set as kernels.cpp is; nothing from std:: is called here either.
#include "sums.hpp"

namespace mpihpc::MPIHPC_ISA {
namespace {

using std::int64_t;
using std::uint64_t;

constexpr int LANES = MPIHPC_VECTOR_BYTES / 8;
typedef double Vec __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));
typedef uint64_t Bits __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));
typedef int64_t Mask __attribute__((vector_size(MPIHPC_VECTOR_BYTES)));

constexpr uint64_t SIGN = uint64_t(1) << 63;
constexpr uint64_t HALF = uint64_t(1) << 51;  // the mantissa of 1.5

inline Vec load(const double *p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

inline Vec larger(Vec x, Vec most) {
    const Vec a = Vec(Bits(x) & ~SIGN);
    return a > most ? a : most;
}

inline double as_double(uint64_t bits) {
    double x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

// The numbers of a source, a vector at a time.
template <bool PRODUCTS>
struct Numbers {
    const double *x, *y;
    const char *next;

    Vec at(int64_t i) const { return PRODUCTS ? load(x + i) * load(y + i) : load(x + i); }

    void prefetch(int64_t i, int64_t count) const {
        for (int64_t end = i + count; i < end; i += 8) {
            __builtin_prefetch(next + i * 8);
            if (PRODUCTS) __builtin_prefetch(y + SUM_BLOCK + i);
        }
    }
};

template <class Work>
auto with(const Source &source, Work work) {
    return source.y ? work(Numbers<true>{source.x, source.y, source.next})
                    : work(Numbers<false>{source.x, nullptr, source.next});
}

double largest(const Source &source, int64_t n) {
    return with(source, [n](auto x) {
        constexpr int WAYS = SUM_PAD / 8;
        Vec most[WAYS] = {};
        for (int64_t i = 0; i < n; i += WAYS * LANES)
            for (int w = 0; w < WAYS; ++w) most[w] = larger(x.at(i + w * LANES), most[w]);
        double result = 0;
        for (const Vec &v : most)
            for (int lane = 0; lane < LANES; ++lane)
                if (v[lane] > result) result = v[lane];
        return result;
    });
}

template <int LEVELS, class Numbers>
bool extract_levels(Numbers x, int64_t n, int64_t field, int64_t *part) {
    constexpr int WAYS = LEVELS < 3 || LANES < 4 ? 4 : 2;
    static_assert(SUM_BLOCK / (WAYS * LANES) <= 256);
    Vec s[LEVELS][WAYS], first[LEVELS];
    for (int k = 0; k < LEVELS; ++k) {
        first[k] = as_double(uint64_t(level_field(field, k)) << 52 | HALF) - Vec{};
        for (int w = 0; w < WAYS; ++w) s[k][w] = first[k];
    }
    Bits rest[2] = {};
    for (int64_t i = 0; i < n; i += WAYS * LANES) {
        x.prefetch(i, WAYS * LANES);
        for (int w = 0; w < WAYS; ++w) {
            Vec r = x.at(i + w * LANES);
            for (int k = 0; k < LEVELS; ++k) {
                const Vec next = s[k][w] + r;
                r -= next - s[k][w];
                s[k][w] = next;
            }
            rest[w % 2] |= Bits(r);
        }
    }
    const Bits left = (rest[0] | rest[1]) & ~SIGN;
    uint64_t any = 0;
    for (int lane = 0; lane < LANES; ++lane) any |= left[lane];
    if (any) return false;
    for (int k = 0; k < LEVELS; ++k) {
        // The difference of two numbers with the same exponent field, in units of the last place, is that of their bits.
        const int64_t zero = level_field(field, k) << 52 | int64_t(HALF);
        part[k] = 0;
        for (int w = 0; w < WAYS; ++w)
            for (int lane = 0; lane < LANES; ++lane) part[k] += Mask(s[k][w])[lane] - zero;
    }
    return true;
}

bool extract(const Source &source, int64_t n, int64_t field, int levels, int64_t *part) {
    return with(source, [=](auto x) {
        switch (levels) {
            case 1: return extract_levels<1>(x, n, field, part);
            case 2: return extract_levels<2>(x, n, field, part);
            case 3: return extract_levels<3>(x, n, field, part);
            default: return extract_levels<SUM_LEVELS>(x, n, field, part);
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

void columns(const double *tile, int64_t rows, int64_t stride, double (*part)[TILE_COLUMNS], uint64_t *rest) {
    constexpr int WAYS = 2;
    Vec most[TILE_COLUMNS / LANES] = {};
    for (int64_t i = 0; i < rows; ++i)  // row by row, as memory likes to be read
        for (int v = 0; v < TILE_COLUMNS / LANES; ++v) most[v] = larger(load(tile + i * stride + v * LANES), most[v]);
    for (int c = 0; c < TILE_COLUMNS; c += WAYS * LANES) {
        Vec s[TILE_LEVELS][WAYS], first[TILE_LEVELS][WAYS];
        Bits left[WAYS] = {}, top[WAYS];
        for (int w = 0; w < WAYS; ++w) {
            top[w] = Bits(most[c / LANES + w]) >> 52;
            for (int k = 0; k < TILE_LEVELS; ++k) {
                Mask f = Mask(top[w]) + level_field(1 << 20, k) - (1 << 20);
                f = f < 1 ? Mask{} + 1 : f;
                first[k][w] = s[k][w] = Vec(Bits(f) << 52 | HALF);
            }
        }
        for (int64_t i = 0; i < rows; ++i)
            for (int w = 0; w < WAYS; ++w) {
                Vec r = load(tile + i * stride + c + w * LANES);
                for (int k = 0; k < TILE_LEVELS; ++k) {
                    const Vec next = s[k][w] + r;
                    r -= next - s[k][w];
                    s[k][w] = next;
                }
                left[w] |= Bits(r);
            }
        for (int w = 0; w < WAYS; ++w) {
            const int at = c + w * LANES;
            // Too large for these levels: something is left over.
            left[w] = (left[w] & ~SIGN) | Bits(Mask(top[w]) > MOST_FIELD);
            for (int k = 0; k < TILE_LEVELS; ++k) {
                const Vec sum = s[k][w] - first[k][w];
                __builtin_memcpy(part[k] + at, &sum, sizeof sum);
            }
            __builtin_memcpy(rest + at, &left[w], sizeof(Bits));
        }
    }
}

}  // namespace

const SumKernels &sum_kernels() {
    static constexpr SumKernels all{largest, extract, widen, multiply, every_second, columns};
    return all;
}

}  // namespace mpihpc::MPIHPC_ISA
