// What all generated kernels share. In front of this text stand, made by source.py:
//
//   Real, Value           the type of a number, and of a cell: the same, or struct { Real re, im; }
//   MODE_Z, MODE_B, ...   the boundary mode of each axis
//   COLUMNS               the number of columns: taps that differ along z only form a column
//   b_of(n) ...           the column's offsets along b, c and x, its lowest along z, and how far it goes from there
//   sum(at)               at(n, dz) is the cell of column n, dz planes ahead; adds the taps in their order
//   TABLE                 1: the taps are too many to unroll; they are a table, and at(tap) is the cell of one
//
// Axes are z, the slowest, along which a block marches, then b, c, x, the fastest. Arrays of fewer axes lack b, then c,
// then z. All arrays have the same coordinates, and come as the address of the cell at their origin, there or not.

typedef long long Index;

enum Mode { WRAP, CONSTANT, NEAREST, REFLECT, MIRROR };

struct Geometry {
    Index lo[4], hi[4];       // the region to fill
    Index first[4], end[4];   // where the array ends, if the mode is not WRAP
    Index src[4], dst[4], field[4], previous[4], kept[4];  // strides, in cells
    Index blocks[4], planes;  // blocks on each axis; planes of a block
    double cval[2];
};

// The cell inside an axis that stands for cell i; `beyond` is set if it is the constant.
template <int MODE>
__device__ __forceinline__ Index inside(Index i, Index first, Index end, bool &beyond) {
    if (MODE == WRAP || (i >= first && i < end)) return i;
    if (MODE == CONSTANT) {
        beyond = true;
        return first;
    }
    if (MODE == NEAREST || end - first == 1) return i < first ? first : end - 1;
    const Index fold = MODE == REFLECT ? 1 : 0;  // the edge cell is repeated
    do i = i < first ? 2 * first - fold - i : 2 * (end - 1) + fold - i;
    while (i < first || i >= end);
    return i;
}

__device__ __forceinline__ Index least(Index a, Index b) { return a < b ? a : b; }
__device__ __forceinline__ Index most(Index a, Index b) { return a > b ? a : b; }

// The new value of a cell.
__device__ __forceinline__ Value update(Value sum, Value here, Value previous, Real factor) {
    if (HAS_FIELD) sum = times(sum, factor);
    if (HAS_PREVIOUS) return plus(minus(plus(here, here), previous), sum);
    return HAS_FIELD ? plus(here, sum) : sum;
}

// The block's place on an axis, taken off its number.
__device__ __forceinline__ Index place(Index &number, Index blocks) {
    const Index at = number % blocks;
    number /= blocks;
    return at;
}

// Whether no cell from `from` to `to` is beyond an edge.
template <int MODE>
__device__ __forceinline__ bool within(Index from, Index to, const Geometry &g, int axis) {
    return MODE == WRAP || (from >= g.first[axis] && to <= g.end[axis]);
}
