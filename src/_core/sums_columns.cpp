// Exact sums of columns: lines in memory as blocks, columns side by side in panels, others gathered in tiles.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "sums.hpp"
#include "sums_split.hpp"

namespace mpihpc {
namespace {

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

// One column of `terms` rows of numbers: see sum_columns. Returns how many rows there would have to be.
int64_t put_sum(Exact &sum, double *out, int64_t columns, int64_t terms, bool odd) {
    if (terms == 1) {
        *out = sum.round(false, odd);
        return 1;
    }
    const std::vector<double> all = expansion(sum);
    for (int64_t k = 0; k < terms; ++k) out[k * columns] = k < int64_t(all.size()) ? all[std::size_t(k)] : 0;
    return int64_t(all.size());
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

    // The address of the cell with this index in C order.
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
        : x_(x), y_(y ? *y : x), products_(y), lead_(lead), out_(out), terms_(terms), odd_(odd), use_(*isa().sums),
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
        most_ = std::max(most_, put_sum(sum, out_ + column, columns_, terms_, odd_));
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

    // Other columns: in tiles, side by side.
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
                if (by_column) {  // as many rows at a time as share a cache line
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

int64_t sum_columns(const Cells &x, const Cells *y, int lead, double *out, int64_t terms, bool odd) {
    return Columns(x, y, lead, out, terms, odd).sum();
}

int64_t sum_states(const int64_t *words, int64_t states, double *out, int64_t terms, bool odd) {
    int64_t most = 1;
    for (int64_t c = 0; c < states; ++c) {
        Exact sum(words + c * Exact::WORDS);
        most = std::max(most, put_sum(sum, out + c, states, terms, odd));
    }
    return most;
}

}  // namespace mpihpc
