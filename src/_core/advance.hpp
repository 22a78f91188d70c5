// Many steps of a stencil in one pass over memory.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace mpihpc {

constexpr int MAX_AXES = 4;
constexpr int MAX_THREADS = 1024;

enum class Mode { open, constant, nearest, reflect, mirror };  // open: cells beyond the edge are there, or not read

// One advance, always with four axes: the slowest one, along which the sweep goes; one that only arrays of four axes
// have; rows; columns. Missing ones have length 1. All numbers on the last axis count scalars, of which a value has
// `parts`. Coordinates are those of src.
template <class T>
struct Problem {
    T *src;  // changed beyond the edges only
    T *dst;  // where the cell at the origin would be
    std::int64_t src_stride[MAX_AXES], dst_stride[MAX_AXES];
    std::int64_t lo[MAX_AXES], hi[MAX_AXES];            // the box to fill in dst
    std::int64_t edge_lo[MAX_AXES], edge_hi[MAX_AXES];  // where the array ends, on axes that are not open
    Mode mode[MAX_AXES];
    T cval[2];
    int parts;
    bool complex_weights;
    std::vector<std::int64_t> offset;  // four to a tap
    std::vector<T> weight;
    std::int64_t before[MAX_AXES], after[MAX_AXES];  // how far taps reach; alike on mirrored axes
    int steps;
    // What becomes of the sum of the taps. Without field and previous it is the new value; with a field, which has one
    // scalar a value, field times the sum is added to the old one; with previous, to 2 old - previous. Both have the
    // memory order of src.
    const T *field, *previous;
    std::int64_t field_stride[MAX_AXES], previous_stride[MAX_AXES];
    T *kept;  // gets the values one step before the last, where steps > 1 and previous is given; memory order of dst
    std::int64_t kept_stride[MAX_AXES];
    std::int64_t tile[MAX_AXES];  // 0: chosen here
    int threads;
};

template <class T>
void advance(const Problem<T> &problem);

// Tiles of the last three axes for a box of this shape (`tile` is filled; the first axis is cut for threads only, later).
// Returns how many times longer than without overlap and in the nearest large cache it takes, by a simple model.
double choose_tile(const std::int64_t shape[MAX_AXES], const std::int64_t before[MAX_AXES],
                   const std::int64_t after[MAX_AXES], int steps, std::int64_t scalar, int threads,
                   std::int64_t tile[MAX_AXES]);

}  // namespace mpihpc
