// Blocks of numbers on their way into a sum: what sums of arrays and of columns have in common.
#pragma once

#include <algorithm>
#include <cstring>

#include "driver.hpp"
#include "sums.hpp"

namespace mpihpc {

using std::int64_t;
using std::uint64_t;

inline int64_t field_of(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof x);
    return int64_t(bits >> 52 & 2047);
}

template <class T>
T at(const char *p) {
    return *reinterpret_cast<const T *>(p);
}

// Splits blocks of numbers into levels. What one block needed, the next ones may need: the more often that is seen, the
// more of them begin with as many levels.
class Splitter {
public:
    // `levels`: what most blocks are likely to need, at least.
    explicit Splitter(int levels) : use_(*isa().sums), least_(levels), levels_(levels) {}

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
    int levels_, left_ = 0, stay_ = 1;  // blocks to go before fewer levels are tried
    bool tried_ = false;                 // fewer levels than the block before
    int64_t field_ = -1;  // what was enough
};

}  // namespace mpihpc
