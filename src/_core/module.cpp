// mpihpc._core: Python buffers in, checked so that no input can read or write out of bounds, then the GIL is released.
#include <nanobind/nanobind.h>
#include <nanobind/stl/complex.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cerrno>
#include <complex>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "advance.hpp"
#include "driver.hpp"
#include "sums_module.hpp"
#include "watchdog.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using mpihpc::MAX_AXES;
using std::int64_t;
using std::string;

namespace {

[[noreturn]] void value_error(const string &text) { throw nb::value_error(text.c_str()); }
[[noreturn]] void type_error(const string &text) { throw nb::type_error(text.c_str()); }

string str(int64_t n) { return std::to_string(n); }

// A view of an array's memory through the buffer protocol; it keeps the array alive and in place while it exists.
class Buffer {
public:
    Buffer(nb::handle object, const char *name, bool writable) : name(name) {
        if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
            PyErr_Clear();
            type_error(this->name + " is not an array of numbers with strides (no buffer)");
        }
        if (writable && view.readonly) {
            PyBuffer_Release(&view);
            value_error(this->name + " is read-only");
        }
    }
    ~Buffer() { PyBuffer_Release(&view); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    int ndim() const { return view.ndim; }
    int64_t shape(int d) const { return view.shape[d]; }
    int64_t stride(int d) const { return view.strides[d]; }
    char *data() const { return static_cast<char *>(view.buf); }
    int64_t itemsize() const { return view.itemsize; }

    bool empty() const {
        for (int d = 0; d < ndim(); ++d)
            if (shape(d) == 0) return true;
        return false;
    }

    // The struct module's letter(s), native byte order only; others as they are.
    string format() const {
        string f = view.format ? view.format : "B";
        if (f.size() > 1 && (f[0] == '@' || f[0] == '=' || f[0] == '<' || f[0] == '^')) f = f.substr(1);
        return f;
    }

    string dtype() const {
        const string f = format();
        return f == "f" ? "float32" : f == "d" ? "float64" : f == "Zf" ? "complex64" : f == "Zd" ? "complex128"
               : is_int64()                    ? "int64"
                                               : "format '" + f + "'";
    }

    bool is_int64() const {
        const string f = format();
        return view.itemsize == 8 && (f == "l" || f == "q");
    }

    const string name;

private:
    Py_buffer view;
};

void check_axes(const Buffer &buffer) {
    if (buffer.ndim() < 1 || buffer.ndim() > MAX_AXES)
        value_error(buffer.name + " has " + str(buffer.ndim()) + " axes, 1 to " + str(MAX_AXES) + " are supported");
}

int check_threads(int64_t threads) {
    if (threads < 1 || threads > mpihpc::MAX_THREADS)
        value_error("threads must be 1 to " + str(mpihpc::MAX_THREADS) + ", got " + str(threads));
    return int(threads);
}

void check_contiguous(const Buffer &buffer, int64_t scalar) {
    const int last = buffer.ndim() - 1;
    if (buffer.empty()) return;
    if (buffer.shape(last) > 1 && buffer.stride(last) != buffer.itemsize())
        value_error(buffer.name + " has a stride of " + str(buffer.stride(last)) + " bytes on its last axis, it needs " +
                    str(buffer.itemsize()) + " (contiguous)");
    bool aligned = reinterpret_cast<std::uintptr_t>(buffer.data()) % std::uintptr_t(scalar) == 0;
    for (int d = 0; d < last; ++d) aligned = aligned && (buffer.shape(d) == 1 || buffer.stride(d) % scalar == 0);
    if (!aligned) value_error(buffer.name + " is not aligned to " + str(scalar) + " bytes");
}

// First and last byte (exclusive) that a non-empty buffer can touch.
std::pair<std::uintptr_t, std::uintptr_t> bytes_of(const Buffer &buffer) {
    std::uintptr_t lo = reinterpret_cast<std::uintptr_t>(buffer.data()), hi = lo + std::uintptr_t(buffer.itemsize());
    for (int d = 0; d < buffer.ndim(); ++d) {
        const int64_t span = (buffer.shape(d) - 1) * buffer.stride(d);
        (span < 0 ? lo : hi) += std::uintptr_t(span);
    }
    return {lo, hi};
}

// The checks that correlate and copy share. Returns the size of a scalar: 4 or 8.
int64_t check_pair(const Buffer &src, const Buffer &dst) {
    check_axes(src);
    check_axes(dst);
    if (src.ndim() != dst.ndim())
        value_error("src has " + str(src.ndim()) + " axes, dst has " + str(dst.ndim()));
    const string f = src.format();
    if (f != "f" && f != "d" && f != "Zf" && f != "Zd")
        type_error("src is " + src.dtype() + ", it must be native float32, float64, complex64 or complex128");
    if (dst.format() != f) type_error("src is " + src.dtype() + ", dst is " + dst.dtype());
    const int64_t scalar = f.back() == 'f' ? 4 : 8;
    check_contiguous(src, scalar);
    check_contiguous(dst, scalar);
    if (!src.empty() && !dst.empty()) {
        const auto [slo, shi] = bytes_of(src);
        const auto [dlo, dhi] = bytes_of(dst);
        if (slo < dhi && dlo < shi)
            value_error("src and dst overlap in memory: " + str(int64_t(std::min(shi, dhi) - std::max(slo, dlo))) +
                        " of dst's " + str(int64_t(dhi - dlo)) + " bytes");
    }
    for (int d = 0; d < dst.ndim(); ++d)
        if (dst.shape(d) > 1 && dst.stride(d) == 0)
            value_error("dst has stride 0 on axis " + str(d) + " of length " + str(dst.shape(d)));
    return scalar;
}

// Four axes, lengths and strides in scalars. `parts`: scalars a value (2 for complex).
template <class T>
mpihpc::Region<T> region_of(const Buffer &src, const Buffer &dst, int parts) {
    mpihpc::Region<T> region{reinterpret_cast<T *>(dst.data()), reinterpret_cast<const T *>(src.data()),
                             {1, 1, 1, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    for (int d = 0; d < dst.ndim(); ++d) {
        const int k = MAX_AXES - dst.ndim() + d;
        region.shape[k] = dst.shape(d);
        region.dst_stride[k] = dst.stride(d) / int64_t(sizeof(T));
        region.src_stride[k] = src.stride(d) / int64_t(sizeof(T));
    }
    region.shape[MAX_AXES - 1] *= parts;
    region.dst_stride[MAX_AXES - 1] = region.src_stride[MAX_AXES - 1] = 1;
    return region;
}

// Where an axis of an array lies among the four of a problem: the slowest one first, rows and columns last.
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
mpihpc::Problem<T> problem_of(const Buffer &src, const Buffer &dst, const TapList &taps, const int64_t *at,
                              const int64_t *shape) {
    mpihpc::Problem<T> p{};
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
    mpihpc::Problem<T> problem = problem_of<T>(src, dst, taps, middle, shape);
    problem.threads = threads;
    nb::gil_scoped_release nogil;
    mpihpc::advance(problem);
}

void correlate(nb::handle src_, nb::handle dst_, nb::handle offsets, nb::handle weights, int64_t threads_) {
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
void advance_as(mpihpc::Problem<T> &p, const Pairs &edges, const std::vector<int> &modes, std::complex<double> cval,
                const std::vector<int64_t> &tile) {
    const int ndim = int(modes.size());
    p.cval[0] = T(cval.real());
    p.cval[1] = p.parts == 2 ? T(cval.imag()) : p.cval[0];
    for (int d = 0; d < ndim; ++d) {
        const int k = axis_of(d, ndim), n = k == 3 ? p.parts : 1;
        p.mode[k] = mpihpc::Mode(modes[d]);
        p.tile[k] = tile.empty() ? 0 : tile[d] * n;
        if (p.mode[k] == mpihpc::Mode::open) continue;
        p.edge_lo[k] = edges[d].first * n;
        p.edge_hi[k] = edges[d].second * n;
        if (p.mode[k] == mpihpc::Mode::reflect || p.mode[k] == mpihpc::Mode::mirror)
            p.before[k] = p.after[k] = std::max(p.before[k], p.after[k]);
    }
    nb::gil_scoped_release nogil;
    mpihpc::advance(p);
}

void advance(nb::handle src_, nb::handle dst_, nb::handle offsets, nb::handle weights, int64_t steps, const Pairs &box,
             const Pairs &edges, const std::vector<int> &modes, std::complex<double> cval, int64_t threads_,
             const std::vector<int64_t> &tile) {
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
        if (modes[d] < 0 || modes[d] > int(mpihpc::Mode::mirror)) value_error("mode " + str(modes[d]) + " is unknown");
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
        if (modes[d] != int(mpihpc::Mode::open)) {
            if (modes[d] >= int(mpihpc::Mode::reflect)) {
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
    if (scalar == 4) {
        auto p = problem_of<float>(src, dst, taps, at, shape);
        p.steps = int(steps), p.threads = threads;
        advance_as(p, edges, modes, cval, tile);
    } else {
        auto p = problem_of<double>(src, dst, taps, at, shape);
        p.steps = int(steps), p.threads = threads;
        advance_as(p, edges, modes, cval, tile);
    }
}

template <class T>
void copy_as(const Buffer &src, const Buffer &dst, int threads) {
    const mpihpc::Region<T> region = region_of<T>(src, dst, src.format()[0] == 'Z' ? 2 : 1);
    nb::gil_scoped_release nogil;
    mpihpc::copy<T>(region, threads);
}

void copy(nb::handle src_, nb::handle dst_, int64_t threads_) {
    const Buffer src(src_, "src", false), dst(dst_, "dst", true);
    const int threads = check_threads(threads_);
    const int64_t scalar = check_pair(src, dst);
    for (int d = 0; d < src.ndim(); ++d)
        if (src.shape(d) != dst.shape(d))
            value_error("src has " + str(src.shape(d)) + " cells on axis " + str(d) + ", dst has " + str(dst.shape(d)));
    if (dst.empty()) return;
    scalar == 4 ? copy_as<float>(src, dst, threads) : copy_as<double>(src, dst, threads);
}

std::uint64_t checksum(nb::handle array_, const std::vector<int64_t> &start_, const std::vector<int64_t> &shape_) {
    const Buffer array(array_, "array", false);
    check_axes(array);
    const int ndim = array.ndim();
    const int64_t size = array.itemsize();
    if (size != 1 && size != 2 && size != 4 && size != 8 && size != 16)
        type_error("array has an itemsize of " + str(size) + " bytes, it must be 1, 2, 4, 8 or 16");
    if (int(start_.size()) != ndim || int(shape_.size()) != ndim)
        value_error("array has " + str(ndim) + " axes, start has " + str(int64_t(start_.size())) + " and shape has " +
                    str(int64_t(shape_.size())));
    int64_t shape[MAX_AXES] = {1, 1, 1, 1}, stride[MAX_AXES] = {0, 0, 0, 0};
    int64_t start[MAX_AXES] = {0, 0, 0, 0}, global[MAX_AXES] = {1, 1, 1, 1};
    for (int d = 0; d < ndim; ++d) {
        if (start_[d] < 0 || start_[d] > shape_[d] || array.shape(d) > shape_[d] - start_[d])
            value_error("block of " + str(array.shape(d)) + " cells at " + str(start_[d]) + " on axis " + str(d) +
                        " does not lie in an array of " + str(shape_[d]));
        const int k = MAX_AXES - ndim + d;
        shape[k] = array.shape(d);
        stride[k] = array.stride(d);
        start[k] = start_[d];
        global[k] = shape_[d];
    }
    nb::gil_scoped_release nogil;
    return mpihpc::checksum(array.data(), int(size), shape, stride, start, global);
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "Kernels of mpihpc: numbers in, numbers out. No MPI; the GIL is released while they work.";

    m.def("correlate", &correlate, "src"_a, "dst"_a, "offsets"_a, "weights"_a, "threads"_a = 1,
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

    m.def("advance", &advance, "src"_a, "dst"_a, "offsets"_a, "weights"_a, "steps"_a, "box"_a, "edges"_a, "modes"_a,
          "cval"_a = 0.0, "threads"_a = 1, "tile"_a = std::vector<int64_t>(),
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
            return mpihpc::choose_tile(shape, before, after, int(steps), itemsize, check_threads(threads), tile);
        },
        "shape"_a, "width"_a, "itemsize"_a, "steps"_a, "threads"_a,
        R"(How many times longer the tiles' overlap and their size in the caches make `advance`, by its own model.)");

    m.def("copy", &copy, "src"_a, "dst"_a, "threads"_a = 1,
          R"(Copy `src` into `dst` of the same shape with ordinary vector loads and stores: the yardstick of benchmarks.

Parameters
----------
src, dst : arrays as in `correlate`
threads : int
    OpenMP threads, 1 to 1024.

Raises
------
TypeError, ValueError
    As in `correlate`.)");

    m.def("checksum", &checksum, "array"_a, "start"_a, "shape"_a,
          R"(Checksum of a block of a global array, as an integer below 2**64.

Parameters
----------
array : array of 1 to 4 axes, any strides, items of 1, 2, 4, 8 or 16 bytes
    The block.
start, shape : list of int
    The block's first cell in the global array, and the global array's shape.

Returns
-------
int
    The sum modulo 2**64 over the block's cells of ``h``: ``h = mix(index + 0x9E3779B97F4A7C15)``, where ``index`` is
    the cell's C-order linear index in the global array; then ``h = mix(h ^ w)`` for each little-endian 8-byte word
    ``w`` of the value's bytes (shorter values zero-extended, 16 bytes are two words). ``mix`` is splitmix64's
    finaliser. Sums over the blocks of any decomposition are equal.

Raises
------
TypeError, ValueError
    Another itemsize or number of axes, or a block that does not lie in `shape`.)");

    m.def("isas", &mpihpc::isas, "Instruction sets that this machine can use, the best last.");
    m.def("isa", &mpihpc::isa, "The instruction set in use.");
    m.def(
        "use_isa",
        [](const string &name) {
            if (mpihpc::use_isa(name)) return;
            string known;
            for (const string &one : mpihpc::isas()) known += (known.empty() ? "" : ", ") + one;
            value_error("instruction set '" + name + "' is not one of " + known);
        },
        "name"_a, "Use this instruction set from now on (for tests); ValueError if it is not one of `isas()`.");
    m.def("max_threads", &mpihpc::max_threads, "OpenMP's default number of threads; 1 without OpenMP.");
    // mpihpc.core.watchdog is the user of these.
    namespace watchdog = mpihpc::watchdog;
    m.def(
        "watchdog_start",
        [](double seconds, int rank, int size, int slot, int slots, int node, int nodes, int memory,
           const string &job_file, int stack, int signal) {
            if (!(seconds > 0 && seconds <= 1e9)) value_error("seconds must be above 0, up to 1e9");
            if (!(0 <= slot && slot < slots && 0 <= node && node < nodes && 0 <= rank && rank < size))
                value_error("a number is not below its count");
            try {
                watchdog::start({seconds, rank, size, slot, slots, node, nodes, memory, job_file, stack, signal});
            } catch (const std::system_error &error) {
                errno = error.code().value();
                PyErr_SetFromErrnoWithFilename(PyExc_OSError, job_file.empty() ? "heartbeat" : job_file.c_str());
                throw nb::python_error();
            }
        },
        "seconds"_a, "rank"_a, "size"_a, "slot"_a, "slots"_a, "node"_a, "nodes"_a, "memory"_a, "job_file"_a, "stack"_a,
        "signal"_a, "Start this rank's watching threads; the calling thread is the one whose stack is printed.");
    m.def("watchdog_stop", &watchdog::stop, "Stop them.");
    m.def(
        "watchdog_phase",
        [](nb::str text) {
            Py_ssize_t size;
            if (const char *utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &size)) {
                watchdog::phase(utf8, std::size_t(size));
            } else {  // half a character, from a file name for example: no reason to fail
                PyErr_Clear();
                watchdog::phase("(not UTF-8)", 11);
            }
        },
        "text"_a, "This rank gets on, with something new; 64 bytes are kept.");
    m.def("watchdog_tick", &watchdog::tick, "This rank gets on.");
    m.def("watchdog_node_bytes", &watchdog::node_bytes, "slots"_a, "Size of the memory that a node's ranks share.");
    m.def("watchdog_job_bytes", &watchdog::job_bytes, "size"_a, "nodes"_a, "Size of the file that nodes share.");
    m.def("watchdog_signal", &watchdog::free_signal, "A signal that nobody handles, 0 if there is none.");
    m.def("has_openmp", &mpihpc::has_openmp, "Whether OpenMP was compiled in: without it one thread does all the work.");
    bind_sums(m);
}
