// Exact sums: the long accumulator, and how arrays of any strides get into it.
#include "sums.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "driver.hpp"

namespace mpihpc {
namespace {

using std::int64_t;
using std::uint64_t;

constexpr int64_t DIGIT = 0xFFFFFFFF;

const SumKernels &kernels() {
#if defined(MPIHPC_X86_ISAS)
    const std::string name = isa();
    if (name == "avx512") return avx512::sum_kernels();
    if (name == "avx2") return avx2::sum_kernels();
#endif
    return baseline::sum_kernels();
}

int64_t field_of(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof x);
    return int64_t(bits >> 52 & 2047);
}

// Numbers on their way into a sum, in blocks.
class Blocks {
public:
    // `levels`: what most blocks are likely to need, at least.
    Blocks(Exact &sum, int levels) : sum_(sum), use_(kernels()), least_(levels), levels_(levels) {}
    ~Blocks() { flush(reinterpret_cast<const char *>(buffer_)); }

    template <class T>
    void add(const char *x, int64_t n, int64_t stride) {
        const bool dense = stride == int64_t(sizeof(T)) || n == 1;
        while (n) {
            int64_t count = SUM_BLOCK;
            if (sizeof(T) == 8 && dense && !filled_ && n >= SUM_BLOCK) {
                block({reinterpret_cast<const double *>(x), nullptr, x + SUM_BLOCK * 8}, count);
            } else {
                count = room(n, x);
                double *to = buffer_ + filled_;
                if (sizeof(T) == 4 && dense) use_.widen(reinterpret_cast<const float *>(x), to, count);
                else if (sizeof(T) == 8 && stride == 16) use_.every_second(reinterpret_cast<const double *>(x), to, count);
                else
                    for (int64_t i = 0; i < count; ++i) to[i] = double(*reinterpret_cast<const T *>(x + i * stride));
                filled_ += count;
            }
            x += count * stride, n -= count;
        }
    }

    template <class T>
    void add_products(const char *x, const char *y, int64_t n, int64_t x_stride, int64_t y_stride) {
        const bool dense = n == 1 || (x_stride == int64_t(sizeof(T)) && y_stride == int64_t(sizeof(T)));
        while (n) {
            int64_t count = SUM_BLOCK;
            if (sizeof(T) == 8 && dense && !filled_ && n >= SUM_BLOCK) {
                block({reinterpret_cast<const double *>(x), reinterpret_cast<const double *>(y), x + SUM_BLOCK * 8}, count);
            } else {
                count = room(n, x);
                double *to = buffer_ + filled_;
                if (sizeof(T) == 4 && dense)
                    use_.multiply(reinterpret_cast<const float *>(x), reinterpret_cast<const float *>(y), to, count);
                else
                    for (int64_t i = 0; i < count; ++i)
                        to[i] = double(*reinterpret_cast<const T *>(x + i * x_stride)) *
                                double(*reinterpret_cast<const T *>(y + i * y_stride));
                filled_ += count;
            }
            x += count * x_stride, y += count * y_stride, n -= count;
        }
    }

private:
    int64_t room(int64_t n, const char *next) {
        if (filled_ == SUM_BLOCK) flush(next);
        return std::min(n, SUM_BLOCK - filled_);
    }

    void flush(const char *next) {
        int64_t n = filled_;
        while (n % SUM_PAD) buffer_[n++] = 0;
        if (n) block({buffer_, nullptr, next}, n);
        filled_ = 0;
    }

    void block(const Source &source, int64_t n) {
        const int64_t field = field_of(use_.largest(source, n));
        if (field <= MOST_FIELD)
            for (int levels = levels_; levels <= SUM_LEVELS; ++levels) {
                int64_t part[SUM_LEVELS];
                if (!use_.extract(source, n, field, levels, part)) continue;
                for (int k = 0; k < levels; ++k) sum_.add(part[k], int(level_field(field, k) - 1));
                // What one block needed, the next ones may need: 16 of them begin with so many levels.
                if (levels > levels_) levels_ = levels, left_ = 16;
                else if (levels_ > least_ && !--left_) --levels_, left_ = 16;
                return;
            }
        for (int64_t i = 0; i < n; ++i) sum_.add(source.y ? source.x[i] * source.y[i] : source.x[i]);
    }

    Exact &sum_;
    const SumKernels &use_;
    const int least_;
    int levels_, left_ = 16;
    int64_t filled_ = 0;
    alignas(64) double buffer_[SUM_BLOCK];
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

int64_t size(const Cells &x) {
    int64_t n = 1;
    for (int d = 0; d < x.ndim; ++d) n *= x.shape[d];
    return n;
}

// Where the cell with this index in C order lies.
int64_t offset(const Cells &x, int64_t index) {
    int64_t bytes = 0;
    for (int d = x.ndim - 1; d >= 0; --d) {
        bytes += index % x.shape[d] * x.stride[d];
        index /= x.shape[d];
    }
    return bytes;
}

// A number and what it was rounded by, rounded to odd instead.
double to_odd(double x, double error) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof x);
    constexpr double inf = std::numeric_limits<double>::infinity();
    return error == 0 || bits & 1 ? x : std::nextafter(x, error > 0 ? inf : -inf);
}

// Nonzero numbers that add up to the sum exactly, the first one the sum rounded.
std::vector<double> expansion(Exact &sum) {
    std::vector<double> terms{sum.round(true)};
    if (!sum.finite()) return terms;
    for (double last = terms[0]; last != 0;) {
        sum.add(-last);
        last = sum.round(true);
        if (last != 0) terms.push_back(last);
    }
    return terms;
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

int64_t sum_columns(const Cells &x, int lead, double *out, int64_t terms, bool odd) {
    const SumKernels &use = kernels();
    const Cells down{x.data, x.single, lead, x.shape, x.stride};
    const Cells right{x.data, x.single, x.ndim - lead, x.shape + lead, x.stride + lead};
    const int64_t rows = size(down), columns = size(right), bytes = x.single ? 4 : 8;
    int64_t most = 1;
    const auto put = [&](int64_t column, Exact &sum) {
        if (terms == 1) {
            out[column] = sum.round(false, odd);
            return;
        }
        const std::vector<double> all = expansion(sum);
        most = std::max(most, int64_t(all.size()));
        for (int64_t k = 0; k < terms; ++k) out[k * columns + column] = k < int64_t(all.size()) ? all[std::size_t(k)] : 0;
    };

    if (lead && x.stride[lead - 1] == bytes && x.shape[lead - 1] >= 512) {  // long lines in memory: one by one
        for (int64_t c = 0; c < columns; ++c) {
            Exact sum;
            add_all(sum, {x.data + offset(right, c), x.single, lead, x.shape, x.stride});
            put(c, sum);
        }
        return most;
    }

    const bool by_column = lead && x.ndim > lead && std::abs(x.stride[lead - 1]) < std::abs(x.stride[x.ndim - 1]);
    constexpr int64_t wide = TILE_COLUMNS;
    alignas(64) double part[TILE_LEVELS][wide];
    uint64_t rest[wide];
    std::vector<double> tile(std::size_t(TILE_ROWS * wide)), parts(tile.size());
    for (int64_t c0 = 0; c0 < columns; c0 += wide) {
        const int64_t here = std::min(wide, columns - c0);
        int64_t across[wide], along[TILE_ROWS];
        for (int64_t c = 0; c < here; ++c) across[c] = offset(right, c0 + c);
        const bool dense = across[here - 1] - across[0] == (here - 1) * bytes && x.stride[x.ndim - 1] == bytes;
        uint64_t left[wide] = {};  // not zero: a column needs more levels than a tile has
        int64_t filled = 0;        // rows of `parts`
        const auto fold = [&](const double *from, int64_t n, int64_t stride) {
            use.columns(from, n, stride, part, rest);
            for (int64_t c = 0; c < here; ++c) left[c] |= rest[c];
        };
        for (int64_t r0 = 0; r0 == 0 || r0 < rows; r0 += TILE_ROWS) {
            const int64_t high = std::min<int64_t>(TILE_ROWS, rows - r0);
            for (int64_t r = 0; r < high; ++r) along[r] = offset(down, r0 + r);
            const auto gather = [&](auto one) {
                using T = decltype(one);
                const auto at = [&](int64_t r, int64_t c) {
                    return double(*reinterpret_cast<const T *>(x.data + along[r] + across[c]));
                };
                if (by_column) {  // as many rows at a time as lie in a cache line
                    for (int64_t r = 0; r < high; r += 8)
                        for (int64_t c = 0; c < here; ++c)
                            for (int64_t k = r; k < std::min(r + 8, high); ++k) tile[std::size_t(k * wide + c)] = at(k, c);
                } else if (dense) {
                    for (int64_t r = 0; r < high; ++r) {
                        const T *from = reinterpret_cast<const T *>(x.data + along[r] + across[0]);
                        for (int64_t c = 0; c < here; ++c) tile[std::size_t(r * wide + c)] = double(from[c]);
                    }
                } else {
                    for (int64_t r = 0; r < high; ++r)
                        for (int64_t c = 0; c < here; ++c) tile[std::size_t(r * wide + c)] = at(r, c);
                }
            };
            if (!x.single && dense && lead == 1 && here == wide && high > 0) {
                fold(reinterpret_cast<const double *>(x.data + along[0] + across[0]), high, down.stride[0] / 8);
            } else {
                if (x.single) gather(float());
                else gather(double());
                fold(tile.data(), high, wide);
            }
            if (rows <= TILE_ROWS) break;
            // The parts of each tile are numbers to be summed in their turn.
            std::memcpy(&parts[std::size_t(filled * wide)], part, sizeof part);
            filled += TILE_LEVELS;
            if (filled + TILE_LEVELS > TILE_ROWS || r0 + TILE_ROWS >= rows) {
                fold(parts.data(), filled, wide);
                std::memcpy(parts.data(), part, sizeof part);
                filled = TILE_LEVELS;
            }
        }
        for (int64_t c = 0; c < here; ++c) {
            if (left[c] || part[2][c] != 0) {
                Exact sum;
                if (left[c]) add_all(sum, {x.data + across[c], x.single, lead, x.shape, x.stride});
                else
                    for (const auto &level : part) sum.add(level[c]);
                put(c0 + c, sum);
                continue;
            }
            // Two parts, and so two terms (Knuth's TwoSum).
            const double a = part[0][c], b = part[1][c], sum = a + b, bb = sum - a;
            const double error = (a - (sum - bb)) + (b - bb);
            out[c0 + c] = odd && terms == 1 ? to_odd(sum, error) : sum;
            for (int64_t k = 1; k < terms; ++k) out[k * columns + c0 + c] = k == 1 ? error : 0;
            if (terms > 1) most = std::max<int64_t>(most, 1 + (error != 0));
        }
    }
    return most;
}

}  // namespace mpihpc
