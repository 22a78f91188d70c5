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

// Splits blocks of numbers into levels. What one block needed, the next ones may need: the more often that is seen, the
// more of them begin with as many levels.
class Splitter {
public:
    // `levels`: what most blocks are likely to need, at least.
    explicit Splitter(int levels) : use_(kernels()), least_(levels), levels_(levels) {}

    // How many levels there are, or 0 where SUM_LEVELS are not enough. Units: see SumKernels::extract.
    int split(const Source &source, int64_t n, SumPart *part, int64_t &field) {
        if (field_ < 0) field_ = std::min(field_of(use_.largest(source, n)), MOST_FIELD);
        double largest;
        field = field_;
        if (use_.extract(source, n, field, levels_, part, &largest)) {
            const int levels = levels_;
            if (levels_ > least_ && !--left_) left_ = stay_, --levels_, tried_ = true;
            else if (tried_) stay_ = 1, tried_ = false;
            return levels;
        }
        // The block before had larger numbers, or smaller ones; or there are too few levels.
        const int64_t top = field_of(largest);
        if (top > MOST_FIELD) return 0;
        int levels = top == field ? levels_ + 1 : levels_;
        field = field_ = top;
        for (; levels <= SUM_LEVELS; ++levels)
            if (use_.extract(source, n, field, levels, part, &largest)) {
                if (levels > levels_) {
                    if (tried_) stay_ = std::min(2 * stay_, 32);
                    levels_ = levels, left_ = stay_, tried_ = false;
                }
                return levels;
            }
        return 0;
    }

private:
    const SumKernels &use_;
    const int least_;
    int levels_, left_ = 0, stay_ = 1;  // so many blocks to go before fewer levels are tried
    bool tried_ = false;                 // fewer levels than the block before
    int64_t field_ = -1;  // what was enough
};

constexpr int64_t SHORT = 256;  // rows of fewer numbers are put together

template <class T>
T at(const char *p) {
    return *reinterpret_cast<const T *>(p);
}

// Numbers on their way into a sum, in blocks.
class Blocks {
public:
    Blocks(Exact &sum, int levels) : sum_(sum), use_(kernels()), split_(levels) {}
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

// Axes with as few of them as their strides allow.
struct Axes {
    std::vector<int64_t> shape, x, y;  // strides in bytes

    Axes(const Cells &a, const Cells &b, int from, int to) {
        for (int d = from; d < to; ++d) {
            if (a.shape[d] == 1) continue;
            if (!shape.empty() && x.back() == a.shape[d] * a.stride[d] && y.back() == a.shape[d] * b.stride[d])
                shape.back() *= a.shape[d], x.back() = a.stride[d], y.back() = b.stride[d];
            else shape.push_back(a.shape[d]), x.push_back(a.stride[d]), y.push_back(b.stride[d]);
        }
        if (shape.empty()) shape = {1}, x = y = {a.single ? 4 : 8};
    }

    int64_t size() const {
        int64_t n = 1;
        for (const int64_t length : shape) n *= length;
        return n;
    }

    // Where the cell with this index in C order lies.
    static int64_t offset(const std::vector<int64_t> &shape, const std::vector<int64_t> &stride, int64_t index) {
        int64_t bytes = 0;
        for (std::size_t d = shape.size(); --d > 0;) {
            bytes += index % shape[d] * stride[d];
            index /= shape[d];
        }
        return bytes + index * stride[0];
    }
    int64_t in_x(int64_t index) const { return offset(shape, x, index); }
    int64_t in_y(int64_t index) const { return offset(shape, y, index); }
};

// The sums of columns: see sum_columns.
class Columns {
public:
    Columns(const Cells &x, const Cells *y, int lead, double *out, int64_t terms, bool odd)
        : x_(x), y_(y ? *y : x), products_(y), lead_(lead), out_(out), terms_(terms), odd_(odd), use_(kernels()),
          down_(x_, y_, 0, lead), right_(x_, y_, lead, x.ndim), rows_(size(x, 0, lead)), columns_(size(x, lead, x.ndim)),
          bytes_(x.single ? 4 : 8), split_(2) {}

    int64_t sum() {
        const bool lines = down_.shape.size() == 1 && down_.x[0] == bytes_ && down_.y[0] == bytes_;
        if (lines && rows_ >= 64) {
            for (int64_t c = 0; c < columns_; ++c) line(c);
            return most_;
        }
        const std::size_t last = right_.shape.size() - 1;
        const int64_t inner = right_.shape[last];
        const bool dense = right_.x[last] == bytes_ && right_.y[last] == bytes_ && inner >= SUM_LANES;
        if (!dense || down_.shape.size() > 1) {
            for (int64_t c = 0; c < columns_; c += TILE_COLUMNS) gathered(c, std::min(TILE_COLUMNS, columns_ - c));
            return most_;
        }
        for (int64_t outer = 0; outer < columns_; outer += inner)
            for (int64_t c = 0, n; c < inner; c += n) {
                n = std::min(PANEL_COLUMNS, inner - c);
                if (inner - c - n > 0 && inner - c - n < SUM_LANES) n -= SUM_LANES;  // leave enough for a vector
                panels(outer + c, n);
            }
        return most_;
    }

private:
    static constexpr int64_t TILE_COLUMNS = 128, TILE_ROWS = 64;

    static int64_t size(const Cells &x, int from, int to) {
        int64_t n = 1;
        for (int d = from; d < to; ++d) n *= x.shape[d];
        return n;
    }

    Source source(int64_t column) const {
        return {x_.data + right_.in_x(column), products_ ? y_.data + right_.in_y(column) : nullptr, x_.single};
    }

    // A column that is one line in memory.
    void line(int64_t c) {
        SumPart part[SUM_LEVELS];
        int64_t field = 0;
        const int levels = rows_ <= SUM_BLOCK ? split_.split(source(c), rows_, part, field) : 0;
        if (levels == 0 || levels > 2 || level_field(field, 1) <= 52) return one_by_one(c);
        double number[2] = {0, 0};
        for (int k = 0; k < levels; ++k) {
            const uint64_t unit = uint64_t(level_field(field, k) - 52) << 52;
            std::memcpy(&number[k], &unit, sizeof unit);
            number[k] *= double(part[k].even + part[k].odd);
        }
        double sum, error;
        use_.add_pairs(&number[0], &number[1], &sum, &error, 1);
        put_pair(c, sum, error);
    }

    // Without any haste.
    void one_by_one(int64_t c) {
        Exact sum;
        const Source from = source(c);
        const Cells x{static_cast<const char *>(from.x), x_.single, lead_, x_.shape, x_.stride};
        if (products_) add_products(sum, x, {static_cast<const char *>(from.y), x_.single, lead_, y_.shape, y_.stride});
        else add_all(sum, x);
        put(c, sum);
    }

    void put(int64_t column, Exact &sum) {
        if (terms_ == 1) {
            out_[column] = sum.round(false, odd_);
            return;
        }
        const std::vector<double> all = expansion(sum);
        most_ = std::max(most_, int64_t(all.size()));
        for (int64_t k = 0; k < terms_; ++k)
            out_[k * columns_ + column] = k < int64_t(all.size()) ? all[std::size_t(k)] : 0;
    }

    void put_pair(int64_t column, double sum, double error) {
        out_[column] = odd_ && terms_ == 1 ? to_odd(sum, error) : sum;
        for (int64_t k = 1; k < terms_; ++k) out_[k * columns_ + column] = k == 1 ? error : 0;
        if (terms_ > 1) most_ = std::max<int64_t>(most_, 1 + (error != 0));
    }

    // Some columns side by side in memory.
    void panels(int64_t c0, int64_t here) {
        begin();
        const Source from = source(c0);
        for (int64_t r = 0; r == 0 || r < rows_; r += PANEL_ROWS) {
            const int64_t high = std::min(PANEL_ROWS, rows_ - r);
            fold({static_cast<const char *>(from.x) + r * down_.x[0],
                  products_ ? static_cast<const char *>(from.y) + r * down_.y[0] : nullptr, x_.single, high, here,
                  down_.x[0], down_.y[0]}, r + high >= rows_);
        }
        finish(c0, here);
    }

    // Columns that lie otherwise: in tiles, side by side.
    void gathered(int64_t c0, int64_t here) {
        begin();
        tile_.resize(std::size_t(TILE_ROWS * TILE_COLUMNS));
        int64_t x_across[TILE_COLUMNS], y_across[TILE_COLUMNS], x_along[TILE_ROWS], y_along[TILE_ROWS];
        for (int64_t c = 0; c < here; ++c) x_across[c] = right_.in_x(c0 + c), y_across[c] = right_.in_y(c0 + c);
        const bool by_column = std::abs(down_.x.back()) < std::abs(right_.x.back());
        for (int64_t r0 = 0; r0 == 0 || r0 < rows_; r0 += TILE_ROWS) {
            const int64_t high = std::min(TILE_ROWS, rows_ - r0);
            for (int64_t r = 0; r < high; ++r) x_along[r] = down_.in_x(r0 + r), y_along[r] = down_.in_y(r0 + r);
            const auto gather = [&](auto one) {
                using T = decltype(one);
                const auto put = [&](int64_t r, int64_t c) {
                    double number = double(at<T>(x_.data + x_along[r] + x_across[c]));
                    if (products_) number *= double(at<T>(y_.data + y_along[r] + y_across[c]));
                    tile_[std::size_t(r * TILE_COLUMNS + c)] = number;
                };
                if (by_column) {  // as many rows at a time as lie in a cache line
                    for (int64_t r = 0; r < high; r += 8)
                        for (int64_t c = 0; c < here; ++c)
                            for (int64_t k = r; k < std::min(r + 8, high); ++k) put(k, c);
                } else {
                    for (int64_t r = 0; r < high; ++r)
                        for (int64_t c = 0; c < here; ++c) put(r, c);
                }
            };
            if (x_.single) gather(float());
            else gather(double());
            fold({tile_.data(), nullptr, false, high, std::max(here, SUM_LANES), TILE_COLUMNS * 8, 0},
                 r0 + high >= rows_);
        }
        finish(c0, here);
    }

    void begin() {
        std::fill(left_, left_ + PANEL_COLUMNS, 0);
        filled_ = 0;
        guessed_ = false;
    }

    // The parts of the columns of a panel into part_, and of all panels before.
    void fold(const Panel &panel, bool last) {
        if (!guessed_) {  // some rows tell how large numbers are; the others may be somewhat larger
            Panel first = panel;
            first.rows = std::min<int64_t>(panel.rows, 8);
            use_.tops(first, first.rows < panel.rows ? 4 : 0, top_);
            guessed_ = true;
        }
        const int levels = use_.columns(panel, 2, {top_, part_, rest_, found_}) ? 2 : again(panel);
        levels_ = levels;
        if (last && !filled_) return;
        // The parts of each panel are numbers to be summed in their turn.
        if (parts_.empty()) parts_.resize(std::size_t(PANEL_ROWS * PANEL_COLUMNS));
        for (int k = 0; k < levels; ++k)
            std::copy(part_[k], part_[k] + panel.columns, &parts_[std::size_t(filled_++ * PANEL_COLUMNS)]);
        if (!last && filled_ + PANEL_LEVELS <= PANEL_ROWS) return;
        const Panel all{parts_.data(), nullptr, false, filled_, panel.columns, PANEL_COLUMNS * 8, 0};
        int64_t top[PANEL_COLUMNS];
        use_.tops(all, 0, top);
        if (!use_.columns(all, levels_ = PANEL_LEVELS, {top, part_, rest_, found_}))
            for (int64_t c = 0; c < panel.columns; ++c) left_[c] |= rest_[c];
        for (filled_ = 0; filled_ < PANEL_LEVELS; ++filled_)
            std::copy(part_[filled_], part_[filled_] + panel.columns, &parts_[std::size_t(filled_ * PANEL_COLUMNS)]);
    }

    // Those columns that were not done in two levels are done in three. Returns how many levels there are.
    int again(const Panel &panel) {
        std::fill_n(part_[2], panel.columns, 0.0);
        const auto bad = [&](int64_t c) {
            return std::any_of(rest_ + c, rest_ + std::min(c + SUM_LANES, panel.columns), [](uint64_t x) { return x != 0; });
        };
        for (int64_t c = 0, end; c < panel.columns; c = end) {
            end = c + SUM_LANES;
            if (!bad(c)) continue;
            while (end < panel.columns && bad(end)) end += SUM_LANES;
            end = std::min(end, panel.columns);
            const int64_t from = std::min(c, panel.columns - SUM_LANES), bytes = panel.single ? 4 : 8;
            Panel some = panel;
            some.x = static_cast<const char *>(panel.x) + from * bytes;
            if (panel.y) some.y = static_cast<const char *>(panel.y) + from * bytes;
            some.columns = end - from;
            for (int64_t i = from; i < end; ++i) top_[i] = std::min(found_[i], MOST_FIELD);
            const ColumnParts out{top_ + from, reinterpret_cast<double(*)[PANEL_COLUMNS]>(&part_[0][from]), rest_ + from,
                                  found_ + from};
            if (!use_.columns(some, PANEL_LEVELS, out))
                for (int64_t i = from; i < end; ++i) left_[i] |= rest_[i];
            for (int64_t i = from; i < end; ++i) top_[i] = std::min(top_[i] + 2, MOST_FIELD);
        }
        return PANEL_LEVELS;
    }

    void finish(int64_t c0, int64_t here) {
        double sum[PANEL_COLUMNS], error[PANEL_COLUMNS];
        const bool inexact = use_.add_pairs(part_[0], part_[1], sum, error, here);
        bool plain = !std::any_of(left_, left_ + here, [](uint64_t bits) { return bits != 0; });
        if (levels_ > 2) plain = plain && !std::any_of(part_[2], part_[2] + here, [](double x) { return x != 0; });
        if (plain && !(odd_ && terms_ == 1)) {
            std::copy(sum, sum + here, out_ + c0);
            if (terms_ > 1) std::copy(error, error + here, out_ + columns_ + c0);
            for (int64_t k = 2; k < terms_; ++k) std::fill_n(out_ + k * columns_ + c0, here, 0.0);
            if (terms_ > 1) most_ = std::max<int64_t>(most_, 1 + inexact);
            return;
        }
        for (int64_t c = 0; c < here; ++c) {
            if (left_[c]) one_by_one(c0 + c);
            else if (levels_ > 2 && part_[2][c] != 0) {
                Exact all;
                for (int k = 0; k < levels_; ++k) all.add(part_[k][c]);
                put(c0 + c, all);
            } else {
                put_pair(c0 + c, sum[c], error[c]);
            }
        }
    }

    const Cells x_, y_;
    const bool products_;
    const int lead_;
    double *const out_;
    const int64_t terms_;
    const bool odd_;
    const SumKernels &use_;
    const Axes down_, right_;
    const int64_t rows_, columns_, bytes_;
    Splitter split_;
    int64_t most_ = 1;
    // Of the columns at work.
    int64_t top_[PANEL_COLUMNS], found_[PANEL_COLUMNS];
    uint64_t rest_[PANEL_COLUMNS], left_[PANEL_COLUMNS];  // left: a column needs more levels than a panel has
    alignas(64) double part_[PANEL_LEVELS][PANEL_COLUMNS];
    int levels_ = 2;
    bool guessed_ = false;
    std::vector<double> tile_, parts_;
    int64_t filled_ = 0;  // rows of parts_
};

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

int64_t sum_columns(const Cells &x, const Cells *y, int lead, double *out, int64_t terms, bool odd) {
    return Columns(x, y, lead, out, terms, odd).sum();
}

}  // namespace mpihpc
