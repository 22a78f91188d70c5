// mpihpc._core: the boxes of an exchange, moved in one call.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "modules.hpp"

namespace mpihpc {
using namespace nb::literals;
namespace {

constexpr int64_t SHORT = 8;  // cells of a row that it does not pay to copy as such
constexpr int64_t PIECE = 64;  // bytes that are copied together

using Axes = std::vector<std::pair<int64_t, int64_t>>;  // a box: first and end on each axis

// Addresses of cells: the first one, and the bytes from one to the next on each axis.
struct Lattice {
    char *first;
    const int64_t *stride;
};

template <int SIZE>
void copy_items(char *to, const char *from, int64_t n, int64_t to_stride, int64_t from_stride) {
    for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * to_stride, from + i * from_stride, SIZE);
}

// Not by one memcpy: for rows of 1 KiB that have left the caches glibc's takes twice as long (2.36, AMD Zen 5).
void copy_bytes(char *to, const char *from, int64_t n) {
    int64_t i = 0;
    for (; i + PIECE <= n; i += PIECE) std::memcpy(to + i, from + i, PIECE);
    std::memcpy(to + i, from + i, std::size_t(n - i));
}

void copy_line(char *to, const char *from, int64_t n, int64_t a, int64_t b, int64_t size) {
    if (a == size && b == size) copy_bytes(to, from, n * size);
    else if (size == 1) copy_items<1>(to, from, n, a, b);
    else if (size == 2) copy_items<2>(to, from, n, a, b);
    else if (size == 4) copy_items<4>(to, from, n, a, b);
    else if (size == 8) copy_items<8>(to, from, n, a, b);
    else if (size == 16) copy_items<16>(to, from, n, a, b);
    else
        for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * a, from + i * b, std::size_t(size));
}

// Copies a box of this shape, axis after axis.
void copy_box(Lattice to, Lattice from, const int64_t *shape, int axes, int64_t size) {
    if (axes == 0) return copy_line(to.first, from.first, 1, size, size, size);
    if (axes == 1) return copy_line(to.first, from.first, shape[0], to.stride[0], from.stride[0], size);
    if (axes == 2 && shape[1] < SHORT) {  // along columns: a face across the rows
        for (int64_t i = 0; i < shape[1]; ++i)
            copy_line(to.first + i * to.stride[1], from.first + i * from.stride[1], shape[0], to.stride[0],
                      from.stride[0], size);
        return;
    }
    for (int64_t i = 0; i < shape[0]; ++i)
        copy_box({to.first + i * to.stride[0], to.stride + 1}, {from.first + i * from.stride[0], from.stride + 1},
                 shape + 1, axes - 1, size);
}

// Boxes of arrays of one number of axes and one size of items, any axes, any strides.
class Boxes {
public:
    Boxes(const std::vector<Axes> &boxes, int axes, int64_t size) : boxes(boxes), axes(axes), size(size) {
        if (size < 1) value_error("itemsize is " + str(size) + ", it must be 1 or more");
        for (const Axes &box : boxes) {
            if (int(box.size()) != axes)
                value_error("a box has " + str(int64_t(box.size())) + " axes, the arrays have " + str(axes));
            bool empty = false;
            for (const auto &[lo, hi] : box) {
                if (lo < 0 || hi < lo) value_error("a box goes from " + str(lo) + " to " + str(hi));
                shapes.push_back(hi - lo);
                empty = empty || hi == lo;
            }
            int64_t cells = !empty;
            for (const auto &[lo, hi] : box)
                if (!empty && __builtin_mul_overflow(cells, hi - lo, &cells)) value_error("a box has too many cells");
            counts.push_back(cells);
            total += cells;
        }
    }

    void pack(nb::handle array, nb::handle buffer) const { move<true>(array, buffer); }
    void unpack(nb::handle buffer, nb::handle array) const { move<false>(array, buffer); }

    void copy(nb::handle source_, const Boxes &others, nb::handle target_) const {
        const Buffer source(source_, "source", false), target(target_, "target", true);
        check(source);
        others.check(target);
        if (others.size != size || others.shapes != shapes) value_error("the boxes of source and target differ");
        nb::gil_scoped_release nogil;
        const std::vector<int64_t> to = strides(target), from = strides(source);
        for (std::size_t n = 0; n < boxes.size(); ++n)
            if (counts[n])
                copy_box({others.first(target, n), to.data()}, {first(source, n), from.data()}, shape(n), axes, size);
    }

private:
    const int64_t *shape(std::size_t n) const { return shapes.data() + n * std::size_t(axes); }

    char *first(const Buffer &array, std::size_t n) const {
        char *at = array.data();
        for (int d = 0; d < axes; ++d) at += boxes[n][std::size_t(d)].first * array.stride(d);
        return at;
    }

    std::vector<int64_t> strides(const Buffer &array) const {
        std::vector<int64_t> found;
        for (int d = 0; d < axes; ++d) found.push_back(array.stride(d));
        return found;
    }

    template <bool PACK>
    void move(nb::handle array_, nb::handle buffer_) const {
        const Buffer array(array_, "array", !PACK), buffer(buffer_, "buffer", PACK);
        check(array);
        check_room(buffer);
        nb::gil_scoped_release nogil;
        const std::vector<int64_t> there = strides(array);
        std::vector<int64_t> packed(std::size_t(axes) + 1, size);
        char *at = buffer.data();
        for (std::size_t n = 0; n < boxes.size(); at += counts[n++] * size) {
            for (int d = axes - 1; d > 0; --d) packed[std::size_t(d) - 1] = packed[std::size_t(d)] * shape(n)[d];
            const Lattice row{at, packed.data()}, box{first(array, n), there.data()};
            if (counts[n]) copy_box(PACK ? row : box, PACK ? box : row, shape(n), axes, size);
        }
    }

    void check(const Buffer &array) const {
        if (array.ndim() != axes)
            value_error(array.name + " has " + str(array.ndim()) + " axes, the boxes have " + str(axes));
        if (array.itemsize() != size)
            type_error(array.name + " has items of " + str(array.itemsize()) + " bytes, the boxes " + str(size));
        for (std::size_t n = 0; n < boxes.size(); ++n)
            for (int d = 0; d < axes; ++d)
                if (boxes[n][std::size_t(d)].second > array.shape(d))
                    value_error("a box ends at " + str(boxes[n][std::size_t(d)].second) + " on axis " + str(d) + ", " +
                                array.name + " at " + str(array.shape(d)));
    }

    void check_room(const Buffer &buffer) const {
        if (buffer.ndim() != 1 || buffer.itemsize() != 1 || (buffer.shape(0) > 1 && buffer.stride(0) != 1))
            type_error("buffer is not a row of bytes");
        if (buffer.shape(0) < total * size)
            value_error("buffer has " + str(buffer.shape(0)) + " bytes, the boxes need " + str(total * size));
    }

    std::vector<Axes> boxes;
    std::vector<int64_t> shapes, counts;
    int axes;
    int64_t size, total = 0;
};

}  // namespace

void bind_boxes(nb::module_ &m) {
    nb::class_<Boxes>(m, "Boxes", "See mpihpc.kernels.cpu.Boxes.")
        .def(nb::init<const std::vector<Axes> &, int, int64_t>(), "boxes"_a, "axes"_a, "itemsize"_a)
        .def("pack", &Boxes::pack, "array"_a, "buffer"_a)
        .def("unpack", &Boxes::unpack, "buffer"_a, "array"_a)
        .def("copy", &Boxes::copy, "source"_a, "others"_a, "target"_a);
}

}  // namespace mpihpc
