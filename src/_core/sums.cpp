// Exact sums: the long accumulator, and how arrays of any strides get into it.
#include "sums.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "sums_split.hpp"

namespace mpihpc {
namespace {

constexpr int64_t DIGIT = 0xFFFFFFFF;
constexpr int64_t SHORT = 256;  // rows of fewer numbers are put together

// Numbers on their way into a sum, in blocks.
class Blocks {
public:
    Blocks(Exact &sum, int levels) : sum_(sum), use_(*isa().sums), split_(levels) {}
    ~Blocks() { flush(); }

    template <class T>
    void add(const char *x, int64_t n, int64_t stride) {
        if (stride == int64_t(sizeof(T)) && n >= SHORT) {
            for (; n; x += std::min(n, SUM_BLOCK) * stride, n -= std::min(n, SUM_BLOCK))
                block({x, nullptr, sizeof(T) == 4}, std::min(n, SUM_BLOCK));
            return;
        }
        while (n) {
            const int64_t count = room(n);
            double *to = buffer_ + filled_;
            if (sizeof(T) == 4 && stride == 4) use_.widen(reinterpret_cast<const float *>(x), to, count);
            else if (sizeof(T) == 8 && stride == 16) use_.every_second(reinterpret_cast<const double *>(x), to, count);
            else
                for (int64_t i = 0; i < count; ++i) to[i] = double(at<T>(x + i * stride));
            x += count * stride, n -= count, filled_ += count;
        }
    }

    template <class T>
    void add_products(const char *x, const char *y, int64_t n, int64_t x_stride, int64_t y_stride) {
        const bool dense = x_stride == int64_t(sizeof(T)) && y_stride == int64_t(sizeof(T));
        if (dense && n >= SHORT) {
            for (int64_t count; n; x += count * x_stride, y += count * y_stride, n -= count)
                block({x, y, sizeof(T) == 4}, count = std::min(n, SUM_BLOCK));
            return;
        }
        while (n) {
            const int64_t count = room(n);
            double *to = buffer_ + filled_;
            if (sizeof(T) == 4 && dense)
                use_.multiply(reinterpret_cast<const float *>(x), reinterpret_cast<const float *>(y), to, count);
            else
                for (int64_t i = 0; i < count; ++i)
                    to[i] = double(at<T>(x + i * x_stride)) * double(at<T>(y + i * y_stride));
            x += count * x_stride, y += count * y_stride, n -= count, filled_ += count;
        }
    }

private:
    int64_t room(int64_t n) {
        if (filled_ == SUM_BLOCK) flush();
        return std::min(n, SUM_BLOCK - filled_);
    }

    void flush() {
        if (filled_) block({buffer_, nullptr, false}, filled_);
        filled_ = 0;
    }

    void block(const Source &source, int64_t n) {
        SumPart part[SUM_LEVELS];
        int64_t field;
        const int levels = split_.split(source, n, part, field);
        for (int k = 0; k < levels; ++k) sum_.add(part[k].even + part[k].odd, int(level_field(field, k) - 1));
        if (levels) return;
        const auto one_by_one = [&](auto one) {
            using T = decltype(one);
            const T *x = static_cast<const T *>(source.x), *y = static_cast<const T *>(source.y);
            for (int64_t i = 0; i < n; ++i) sum_.add(y ? double(x[i]) * double(y[i]) : double(x[i]));
        };
        if (source.single) one_by_one(float());
        else one_by_one(double());
    }

    Exact &sum_;
    const SumKernels &use_;
    Splitter split_;
    int64_t filled_ = 0;
    alignas(64) double buffer_[SUM_BLOCK];
};

// Pairs of numbers, one after the other in memory, on their way into two sums.
class Pairs {
public:
    explicit Pairs(int levels) : split_(levels) {}

    void add(const Source &source, int64_t n, Exact &even, int64_t even_sign, Exact &odd, int64_t odd_sign) {
        SumPart part[SUM_LEVELS];
        int64_t field;
        const int levels = split_.split(source, n, part, field);
        for (int k = 0; k < levels; ++k) {
            const int place = int(level_field(field, k) - 1);
            even.add(even_sign * part[k].even, place);
            odd.add(odd_sign * part[k].odd, place);
        }
        if (levels) return;
        const auto one_by_one = [&](auto one) {
            using T = decltype(one);
            const T *x = static_cast<const T *>(source.x), *y = static_cast<const T *>(source.y);
            for (int64_t i = 0; i < n; ++i) {
                const double number = y ? double(x[i]) * double(y[source.crossed ? i ^ 1 : i]) : double(x[i]);
                if (i % 2) odd.add(double(odd_sign) * number);
                else even.add(double(even_sign) * number);
            }
        };
        if (source.single) one_by_one(float());
        else one_by_one(double());
    }

private:
    Splitter split_;
};

// Calls row(x, y, n, stride of x, stride of y) for the rows of one array, or of two of the same shape; as few and long
// ones as the strides allow.
template <class Row>
void each_row(const Cells &x, const Cells &y, Row row) {
    std::vector<int64_t> shape, sx, sy;
    for (int d = 0; d < x.ndim; ++d) {
        if (x.shape[d] == 0) return;
        if (x.shape[d] == 1) continue;
        if (!shape.empty() && sx.back() == x.shape[d] * x.stride[d] && sy.back() == y.shape[d] * y.stride[d]) {
            shape.back() *= x.shape[d], sx.back() = x.stride[d], sy.back() = y.stride[d];
            continue;
        }
        shape.push_back(x.shape[d]), sx.push_back(x.stride[d]), sy.push_back(y.stride[d]);
    }
    if (shape.empty()) return row(x.data, y.data, int64_t(1), int64_t(0), int64_t(0));
    const std::size_t last = shape.size() - 1;
    std::vector<int64_t> at(last, 0);
    const char *px = x.data, *py = y.data;
    for (;;) {
        row(px, py, shape[last], sx[last], sy[last]);
        std::size_t d = last;
        while (d > 0) {
            --d;
            px += sx[d], py += sy[d];
            if (++at[d] < shape[d]) break;
            px -= sx[d] * shape[d], py -= sy[d] * shape[d];
            at[d] = 0;
            if (d == 0) return;
        }
        if (last == 0) return;
    }
}

}  // namespace

Exact::Exact(const int64_t *words) { std::copy(words, words + WORDS, word_); }

void Exact::save(int64_t *words) {
    normalise();
    std::copy(word_, word_ + WORDS, words);
}

void Exact::add(int64_t n, int place) {
    const __int128 wide = __int128(n) << (place & 31);
    int64_t *limb = word_ + (place >> 5);
    limb[0] += int64_t(wide) & DIGIT;
    limb[1] += int64_t(wide >> 32) & DIGIT;
    limb[2] += int64_t(wide >> 64);
    if (++pending_ >> 30) normalise();
}

void Exact::add(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof x);
    const int field = int(bits >> 52 & 2047);
    int64_t mantissa = int64_t(bits & ((uint64_t(1) << 52) - 1));
    if (field == 2047) {
        word_[mantissa ? NANS : x > 0 ? PLUS : MINUS] = 1;
        return;
    }
    if (field) mantissa |= int64_t(1) << 52;
    add(x < 0 ? -mantissa : mantissa, std::max(field, 1) - 1);
}

// Carries: all limbs but the last into 0 to 2^32 - 1. The last one has the sign.
void Exact::normalise() {
    int64_t carry = 0;
    for (int i = 0; i < LIMBS - 1; ++i) {
        carry += word_[i];
        word_[i] = carry & DIGIT;
        carry >>= 32;
    }
    word_[LIMBS - 1] += carry;
    for (int i = LIMBS; i < WORDS; ++i) word_[i] = word_[i] != 0;
    pending_ = 0;
}

// To nearest, ties to even, or to odd.
double Exact::round(bool clamped, bool odd) {
    constexpr double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
    if (word_[NANS] || (word_[PLUS] && word_[MINUS])) return nan;
    if (word_[PLUS] || word_[MINUS]) return word_[PLUS] ? inf : -inf;
    normalise();
    const bool negative = word_[LIMBS - 1] < 0;
    int64_t limb[LIMBS], carry = 0;
    for (int i = 0; i < LIMBS; ++i) {
        carry += negative ? -word_[i] : word_[i];
        limb[i] = i < LIMBS - 1 ? carry & DIGIT : carry;
        carry >>= 32;
    }
    int top = LIMBS - 1;
    while (top >= 0 && !limb[top]) --top;
    if (top < 0) return 0;
    const int length = 32 * top + 64 - __builtin_clzll(uint64_t(limb[top]));  // bits
    const int low = std::max(length - 53, 0);                                 // place of the last one that is kept
    const auto bit = [&](int i) { return limb[i >> 5] >> (i & 31) & 1; };
    int64_t kept = 0;
    for (int i = length - 1; i >= low; --i) kept = kept << 1 | bit(i);
    if (low) {
        bool more = (limb[(low - 1) >> 5] & ((int64_t(1) << ((low - 1) & 31)) - 1)) != 0;
        for (int i = 0; i < (low - 1) >> 5; ++i) more |= limb[i] != 0;
        if (odd) kept |= bit(low - 1) | int64_t(more);
        else if (bit(low - 1) && (more || (kept & 1))) ++kept;
    }
    double x = std::ldexp(double(kept), low - 1074);
    if (clamped) x = std::min(x, std::numeric_limits<double>::max());
    return negative ? -x : x;
}

void add_all(Exact &sum, const Cells &x) {
    Blocks blocks(sum, x.single ? 1 : 2);
    each_row(x, x, [&](const char *p, const char *, int64_t n, int64_t stride, int64_t) {
        if (x.single) blocks.add<float>(p, n, stride);
        else blocks.add<double>(p, n, stride);
    });
}

void add_products(Exact &sum, const Cells &x, const Cells &y) {
    Blocks blocks(sum, 2);
    each_row(x, y, [&](const char *p, const char *q, int64_t n, int64_t p_stride, int64_t q_stride) {
        if (x.single) blocks.add_products<float>(p, q, n, p_stride, q_stride);
        else blocks.add_products<double>(p, q, n, p_stride, q_stride);
    });
}

void add_complex(Exact &real, Exact &imag, const Cells &x, const Cells *y, bool conjugate) {
    Pairs straight(x.single && !y ? 1 : 2), crossed(2);
    const int64_t sign = conjugate ? 1 : -1;
    each_row(x, y ? *y : x, [&](const char *p, const char *q, int64_t n, int64_t, int64_t) {
        const int64_t bytes = x.single ? 4 : 8;
        for (int64_t count; n; p += count * bytes, q += count * bytes, n -= count) {
            count = std::min(n, SUM_BLOCK);  // even
            if (y) {
                straight.add({p, q, x.single, false}, count, real, 1, real, sign);
                crossed.add({p, q, x.single, true}, count, imag, 1, imag, -sign);
            } else {
                straight.add({p, nullptr, x.single}, count, real, 1, imag, 1);
            }
        }
    });
}

}  // namespace mpihpc
