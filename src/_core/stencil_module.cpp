// mpihpc._core: the functions of stencils.
#include <nanobind/stl/complex.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <complex>
#include <cstring>
#include <memory>
#include <vector>

#include "advance.hpp"
#include "arguments.hpp"
#include "modules.hpp"

namespace mpihpc {
using namespace nb::literals;
namespace {

// The position of an axis of an array among the four of a problem: the slowest one first, rows and columns last.
int axis_of(int d, int ndim) { return d == ndim - 1 ? 3 : d == 0 ? 0 : d == ndim - 2 ? 2 : 1; }

// Taps as they come from Python.
struct TapList {
    TapList(nb::handle offsets_, nb::handle weights_, const Buffer &src)
        : weights(weights_, "weights", false), complex(weights.format()[0] == 'Z') {
        const Buffer offsets(offsets_, "offsets", false);
        const int ndim = src.ndim();
        if (weights.ndim() != 1) value_error("weights has " + str(weights.ndim()) + " axes, it must have 1");
        if (weights.format() != src.format() && "Z" + weights.format() != src.format())
            type_error("weights is " + weights.dtype() + ", src is " + src.dtype() +
                       ": they must be equal, or weights its real counterpart");
        if (!offsets.is_int64()) type_error("offsets is " + offsets.dtype() + ", it must be int64");
        if (offsets.ndim() != 2) value_error("offsets has " + str(offsets.ndim()) + " axes, it must have 2: (taps, axes)");
        if (offsets.shape(1) != ndim)
            value_error("offsets has " + str(offsets.shape(1)) + " columns, src has " + str(ndim) + " axes");
        if (offsets.shape(0) != weights.shape(0))
            value_error("offsets has " + str(offsets.shape(0)) + " rows, weights has " + str(weights.shape(0)) + " entries");
        for (int64_t t = 0; t < offsets.shape(0); ++t)
            for (int d = 0; d < ndim; ++d) {
                int64_t at;
                std::memcpy(&at, offsets.data() + t * offsets.stride(0) + d * offsets.stride(1), sizeof at);
                offset.push_back(at);
                low[d] = std::min(low[d], at);
                high[d] = std::max(high[d], at);
            }
    }

    const Buffer weights;
    const bool complex;
    std::vector<int64_t> offset;
    int64_t low[MAX_AXES] = {0, 0, 0, 0}, high[MAX_AXES] = {0, 0, 0, 0};  // 0 included
};

// A problem without edges whose coordinates are those of src; `dst` has the cells from `at` on.
template <class T>
Problem<T> problem_of(const Buffer &src, const Buffer &dst, const TapList &taps, const int64_t *at,
                              const int64_t *shape) {
    Problem<T> p{};
    const int ndim = src.ndim();
    p.parts = src.format()[0] == 'Z' ? 2 : 1;
    p.complex_weights = taps.complex;
    p.src = reinterpret_cast<T *>(src.data());
    p.dst = reinterpret_cast<T *>(dst.data());
    p.steps = p.threads = 1;
    for (int k = 0; k < MAX_AXES; ++k) {
        p.hi[k] = 1;
        p.edge_lo[k] = -(int64_t(1) << 62);
        p.edge_hi[k] = int64_t(1) << 62;
        p.src_stride[k] = p.dst_stride[k] = 0;
    }
    const int64_t scalars = int64_t(sizeof(T));
    for (int d = 0; d < ndim; ++d) {
        const int k = axis_of(d, ndim), n = k == 3 ? p.parts : 1;
        p.src_stride[k] = k == 3 ? 1 : src.stride(d) / scalars;
        p.dst_stride[k] = k == 3 ? 1 : dst.stride(d) / scalars;
        p.lo[k] = at[d] * n;
        p.hi[k] = (at[d] + shape[d]) * n;
        p.before[k] = -taps.low[d] * n;
        p.after[k] = taps.high[d] * n;
    }
    for (int k = 0; k < MAX_AXES; ++k) p.dst -= p.lo[k] * p.dst_stride[k];
    for (std::size_t t = 0; t < taps.offset.size() / std::size_t(ndim); ++t) {
        int64_t offset[MAX_AXES] = {0, 0, 0, 0};
        for (int d = 0; d < ndim; ++d) offset[axis_of(d, ndim)] = taps.offset[t * std::size_t(ndim) + std::size_t(d)];
        offset[3] *= p.parts;
        p.offset.insert(p.offset.end(), offset, offset + MAX_AXES);
        const char *w = taps.weights.data() + int64_t(t) * taps.weights.stride(0);
        for (int k = 0; k < (taps.complex ? 2 : 1); ++k) {
            T value;
            std::memcpy(&value, w + k * int64_t(sizeof(T)), sizeof(T));
            p.weight.push_back(value);
        }
    }
    return p;
}

template <class T>
void correlate_as(const Buffer &src, const Buffer &dst, TapList &taps, int threads) {
    // Around the middle of the taps, as kernels of known shapes want them.
    int64_t middle[MAX_AXES] = {0, 0, 0, 0}, shape[MAX_AXES];
    const int ndim = src.ndim();
    for (int d = 0; d < ndim; ++d) {
        middle[d] = taps.high[d] / 2;
        shape[d] = dst.shape(d);
        taps.low[d] -= middle[d];
        taps.high[d] -= middle[d];
    }
    for (std::size_t i = 0; i < taps.offset.size(); ++i) taps.offset[i] -= middle[i % std::size_t(ndim)];
    Problem<T> problem = problem_of<T>(src, dst, taps, middle, shape);
    problem.threads = threads;
    nb::gil_scoped_release nogil;
    advance(problem);
}

void correlate_checked(nb::handle src_, nb::handle dst_, nb::handle offsets, nb::handle weights, int64_t threads_) {
    const Buffer src(src_, "src", false), dst(dst_, "dst", true);
    const int threads = check_threads(threads_);
    const int64_t scalar = check_pair(src, dst);
    TapList taps(offsets, weights, src);
    for (int d = 0; d < src.ndim(); ++d) {
        for (std::size_t t = 0; t * std::size_t(src.ndim()) < taps.offset.size(); ++t) {
            const int64_t at = taps.offset[t * std::size_t(src.ndim()) + std::size_t(d)];
            if (at < 0)
                value_error("offset of tap " + str(int64_t(t)) + " on axis " + str(d) + " is " + str(at) + ", it must be >= 0");
        }
        if (src.shape(d) < dst.shape(d) || taps.high[d] > src.shape(d) - dst.shape(d))
            value_error("src has " + str(src.shape(d)) + " cells on axis " + str(d) + ", dst of " + str(dst.shape(d)) +
                        " cells with a largest offset of " + str(taps.high[d]) + " needs more");
    }
    if (dst.empty()) return;
    if (scalar == 4) correlate_as<float>(src, dst, taps, threads);
    else correlate_as<double>(src, dst, taps, threads);
}

using Pairs = std::vector<std::pair<int64_t, int64_t>>;

template <class T>
void advance_as(Problem<T> &p, const Pairs &edges, const std::vector<int> &modes, std::complex<double> cval,
                const std::vector<int64_t> &tile) {
    const int ndim = int(modes.size());
    p.cval[0] = T(cval.real());
    p.cval[1] = p.parts == 2 ? T(cval.imag()) : p.cval[0];
    for (int d = 0; d < ndim; ++d) {
        const int k = axis_of(d, ndim), n = k == 3 ? p.parts : 1;
        p.mode[k] = Mode(modes[d]);
        p.tile[k] = tile.empty() ? 0 : tile[d] * n;
        if (p.mode[k] == Mode::open) continue;
        p.edge_lo[k] = edges[d].first * n;
        p.edge_hi[k] = edges[d].second * n;
        if (p.mode[k] == Mode::reflect || p.mode[k] == Mode::mirror)
            p.before[k] = p.after[k] = std::max(p.before[k], p.after[k]);
    }
    nb::gil_scoped_release nogil;
    advance(p);
}

// The arrays that belong to an update: their memory order is that of src, or of dst.
class Companions {
public:
    Companions(const Buffer &src, const Buffer &dst, nb::handle field_, nb::handle previous_, nb::handle kept_, int64_t steps) {
        const string real = src.format().substr(src.format().size() - 1);
        if (!field_.is_none()) open(field, field_, "field", real, src, "src");
        if (!previous_.is_none()) open(previous, previous_, "previous", src.format(), src, "src");
        if (!kept_.is_none()) open(kept, kept_, "kept", src.format(), dst, "dst");
        const bool needed = previous && steps > 1;
        if (bool(kept) != needed)
            value_error("kept is " + string(needed ? "missing: " : "given: ") + str(steps) + " step(s) " +
                        (previous ? "with" : "without") + " previous " + (needed ? "need it" : "have no use for it"));
        for (const Buffer *written : {&dst, static_cast<const Buffer *>(kept.get()), &src})
            for (const Buffer *other : {field.get(), previous.get(), kept.get()}) {
                if (!written || !other || written == other || dst.empty()) continue;
                if (shared_bytes(*written, *other)) value_error(other->name + " and " + written->name + " overlap in memory");
            }
    }

    template <class T>
    void join(Problem<T> &p, const int64_t *at) const {
        p.field = lay<T>(field, p.field_stride, nullptr, 1);
        p.previous = lay<T>(previous, p.previous_stride, nullptr, p.parts);
        p.kept = lay<T>(kept, p.kept_stride, at, p.parts);
    }

private:
    static void open(std::unique_ptr<Buffer> &buffer, nb::handle object, const char *name, const string &format,
                     const Buffer &like, const char *like_name) {
        buffer = std::make_unique<Buffer>(object, name, name == string("kept"));
        if (buffer->format() != format)
            type_error(buffer->name + " is " + buffer->dtype() + ", " + like_name + " is " + like.dtype());
        if (buffer->ndim() != like.ndim())
            value_error(buffer->name + " has " + str(buffer->ndim()) + " axes, " + like_name + " has " + str(like.ndim()));
        for (int d = 0; d < like.ndim(); ++d)
            if (buffer->shape(d) != like.shape(d))
                value_error(buffer->name + " has " + str(buffer->shape(d)) + " cells on axis " + str(d) + ", " +
                            like_name + " has " + str(like.shape(d)));
        check_contiguous(*buffer, format.back() == 'f' ? 4 : 8);
    }

    // Strides in scalars, and the address that the cell at the origin would have, if the first one is `at`.
    template <class T>
    static T *lay(const std::unique_ptr<Buffer> &buffer, int64_t *stride, const int64_t *at, int parts) {
        if (!buffer) return nullptr;
        T *origin = reinterpret_cast<T *>(buffer->data());
        for (int d = 0; d < buffer->ndim(); ++d) {
            const int k = axis_of(d, buffer->ndim());
            stride[k] = k == 3 ? 1 : buffer->stride(d) / int64_t(sizeof(T));
            if (at) origin -= at[d] * stride[k] * (k == 3 ? parts : 1);
        }
        return origin;
    }

    std::unique_ptr<Buffer> field, previous, kept;
};

void advance_checked(nb::handle src_, nb::handle dst_, nb::handle offsets, nb::handle weights, int64_t steps, const Pairs &box,
             const Pairs &edges, const std::vector<int> &modes, std::complex<double> cval, int64_t threads_,
             const std::vector<int64_t> &tile, nb::handle field, nb::handle previous, nb::handle kept) {
    const Buffer src(src_, "src", true), dst(dst_, "dst", true);
    const int threads = check_threads(threads_);
    const int64_t scalar = check_pair(src, dst);
    const TapList taps(offsets, weights, src);
    const std::size_t ndim = std::size_t(src.ndim());
    if (steps < 1 || steps > 1024) value_error("steps must be 1 to 1024, got " + str(steps));
    if (box.size() != ndim || edges.size() != ndim || modes.size() != ndim || (!tile.empty() && tile.size() != ndim))
        value_error("src has " + str(src.ndim()) + " axes: box, edges, modes and tile must have as many entries");
    int64_t at[MAX_AXES] = {0, 0, 0, 0}, shape[MAX_AXES] = {1, 1, 1, 1};
    for (int d = 0; d < src.ndim(); ++d) {
        const int64_t n = src.shape(d);
        if (taps.low[d] < -n || taps.high[d] > n)
            value_error("offsets from " + str(taps.low[d]) + " to " + str(taps.high[d]) + " on axis " + str(d) + " of " + str(n));
        if (modes[d] < 0 || modes[d] > int(Mode::mirror)) value_error("mode " + str(modes[d]) + " is unknown");
        if (!tile.empty() && tile[d] < 0) value_error("tile of " + str(tile[d]) + " cells on axis " + str(d));
        auto [lo, hi] = box[d];
        if (lo < 0 || lo > hi || hi > n)
            value_error("box " + str(lo) + " to " + str(hi) + " does not lie in the " + str(n) + " cells of axis " + str(d));
        if (dst.shape(d) != hi - lo)
            value_error("box has " + str(hi - lo) + " cells on axis " + str(d) + ", dst has " + str(dst.shape(d)));
        if (lo == hi) return;
        at[d] = lo;
        shape[d] = hi - lo;
        // What the first step reads.
        int64_t before = -taps.low[d], after = taps.high[d];
        int64_t first = lo - steps * before, last = hi + steps * after;
        if (modes[d] != int(Mode::open)) {
            if (modes[d] >= int(Mode::reflect)) {
                before = after = std::max(before, after);
                first = lo - steps * before, last = hi + steps * after;
            }
            const auto [begin, end] = edges[d];
            if (lo < begin || hi > end)
                value_error("box " + str(lo) + " to " + str(hi) + " reaches beyond the edges " + str(begin) + ", " +
                            str(end) + " on axis " + str(d));
            first = std::max(first, begin - before);
            last = std::min(last, end + after);
        }
        if (first < 0 || last > n)
            value_error("cells " + str(first) + " to " + str(last) + " are read on axis " + str(d) + " of " + str(n));
    }
    const Companions others(src, dst, field, previous, kept, steps);
    const auto go = [&](auto p) {
        p.steps = int(steps), p.threads = threads;
        others.join(p, at);
        advance_as(p, edges, modes, cval, tile);
    };
    if (scalar == 4) go(problem_of<float>(src, dst, taps, at, shape));
    else go(problem_of<double>(src, dst, taps, at, shape));
}

}  // namespace

void bind_stencils(nb::module_ &m) {
    m.def("correlate", &correlate_checked, "src"_a, "dst"_a, "offsets"_a, "weights"_a, "threads"_a = 1,
          R"(Fill ``dst[i] = sum_t weights[t] * src[i + offsets[t]]`` for every cell ``i`` of `dst`.

Parameters
----------
src, dst : float32, float64, complex64 or complex128 array of 1 to 4 axes
    Equal dtypes; the last axis contiguous, the others with any strides; no common memory.
    ``src.shape[d] >= dst.shape[d] + max(offsets[:, d])``.
offsets : (T, ndim) int64 array, all >= 0
    No taps (T = 0) give zeros.
weights : (T,) array
    Of src's dtype, or of its real counterpart.
threads : int
    OpenMP threads, 1 to 1024.

Raises
------
TypeError, ValueError
    The input breaks one of these rules; `dst` is then untouched.

Notes
-----
``acc = w[0]*x[0]``, then ``acc = acc + w[t]*x[t]`` in the order given, multiplication and addition rounded
separately: the same bits for every instruction set and number of threads. (A NaN is a NaN; which one is not promised.))");

    m.def("advance", &advance_checked, "src"_a, "dst"_a, "offsets"_a, "weights"_a, "steps"_a, "box"_a, "edges"_a, "modes"_a,
          "cval"_a = 0.0, "threads"_a = 1, "tile"_a = std::vector<int64_t>(), "field"_a = nb::none(),
          "previous"_a = nb::none(), "kept"_a = nb::none(),
          R"(Apply a stencil `steps` times to a box of a padded block, in one pass over memory.

Parameters
----------
src : array as in `correlate`
    A padded block. Changed beyond the edges only.
dst : array as in `correlate`
    The box.
offsets : (T, ndim) int64 array
    Relative to the cell, of any sign.
weights : (T,) array
    Of src's dtype, or of its real counterpart.
steps : int
    1 to 1024.
box : list of (int, int)
    First cell and end on each axis, in the coordinates of `src`. Read are up to `steps` times the reach of the taps
    around it, but not more than the reach beyond the edges.
edges : list of (int, int)
    Where the array ends on each axis, if its mode is not 0.
modes : list of int
    0 open: there is no edge; 1 constant, 2 nearest, 3 reflect, 4 mirror. On the last two axes reach as far on both
    sides.
cval : complex
    The value beyond ``constant`` edges.
threads : int
    OpenMP threads, 1 to 1024.
tile : list of int, optional
    Cells of a tile on each axis, 0: chosen here. The result is the same for all.
field, previous, kept : arrays, optional
    See `mpihpc.kernels.cpu.advance`.

Raises
------
TypeError, ValueError
    As in `correlate`.

Notes
-----
The bits of `steps` single steps, each with the cells beyond the edges made anew from its own input.)");

    m.def(
        "tile_cost",
        [](const std::vector<int64_t> &shape_, const Pairs &width, int64_t itemsize, int64_t steps, int64_t threads) {
            const int ndim = int(shape_.size());
            if (ndim < 1 || ndim > MAX_AXES || width.size() != shape_.size() || steps < 1 || itemsize < 1)
                value_error("shape and width must have 1 to 4 entries, steps and itemsize be at least 1");
            int64_t shape[MAX_AXES] = {1, 1, 1, 1}, before[MAX_AXES] = {0, 0, 0, 0}, after[MAX_AXES] = {0, 0, 0, 0};
            int64_t tile[MAX_AXES];
            for (int d = 0; d < ndim; ++d) {
                const int k = axis_of(d, ndim);
                shape[k] = std::max<int64_t>(shape_[d], 1);
                before[k] = width[d].first;
                after[k] = width[d].second;
            }
            return choose_tile(shape, before, after, int(steps), itemsize, check_threads(threads), tile);
        },
        "shape"_a, "width"_a, "itemsize"_a, "steps"_a, "threads"_a,
        R"(How many times longer the tiles' overlap and their size in the caches make `advance`, by its own model.)");
}

}  // namespace mpihpc
