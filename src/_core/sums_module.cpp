// mpihpc._core: the functions of exact sums.
#include "sums_module.hpp"

#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "sums.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using mpihpc::Exact;
using std::int64_t;
using std::string;

namespace {

string str(int64_t n) { return std::to_string(n); }

// A view of an array's memory through the buffer protocol.
class Buffer {
public:
    Buffer(nb::handle object, const char *name, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) != 0) {
            PyErr_Clear();
            throw nb::type_error((string(name) + " is not an array of numbers" + (writable ? " to write to" : "")).c_str());
        }
        string format = view.format ? view.format : "B";
        if (format[0] == '=' || format[0] == '@') format = format.substr(1);
        letter = format.size() == 1 ? format[0] : '?';
        const bool known = writable ? letter == (name[0] == 's' ? 'l' : 'd') : letter == 'f' || letter == 'd';
        bool aligned = reinterpret_cast<std::uintptr_t>(view.buf) % std::uintptr_t(view.itemsize) == 0;
        bool dense = true;
        int64_t size = 1;
        for (int d = view.ndim - 1; d >= 0; --d) {
            shape.push_back(view.shape[view.ndim - 1 - d]);
            stride.push_back(view.strides[view.ndim - 1 - d]);
            aligned = aligned && stride.back() % view.itemsize == 0;
            dense = dense && (view.shape[d] == 1 || view.strides[d] == size * view.itemsize);
            size *= view.shape[d];
        }
        if (known && (size == 0 || (aligned && (dense || !writable)))) return;
        PyBuffer_Release(&view);
        if (!known)
            throw nb::type_error((string(name) + " has format '" + format + "', it must be native " +
                                  (!writable ? "float32 or float64" : name[0] == 's' ? "int64" : "float64")).c_str());
        throw nb::value_error((string(name) + " is not aligned" + (writable ? " or not contiguous" : "")).c_str());
    }
    ~Buffer() { PyBuffer_Release(&view); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    mpihpc::Cells cells() const {
        return {static_cast<const char *>(view.buf), letter == 'f', view.ndim, shape.data(), stride.data()};
    }

    Py_buffer view;
    char letter;
    std::vector<int64_t> shape, stride;
};

int64_t *words(const Buffer &state) {
    if (state.shape.size() != 1 || state.shape[0] != Exact::WORDS)
        throw nb::value_error(("state must have one axis of " + str(Exact::WORDS) + " words").c_str());
    return static_cast<int64_t *>(state.view.buf);
}

}  // namespace

void bind_sums(nb::module_ &m) {
    m.attr("SUM_WORDS") = int64_t(Exact::WORDS);

    m.def(
        "sum_add",
        [](nb::handle x_, nb::handle state_) {
            const Buffer x(x_, "x", false), state(state_, "state", true);
            int64_t *const out = words(state);
            nb::gil_scoped_release nogil;
            Exact sum(out);
            mpihpc::add_all(sum, x.cells());
            sum.save(out);
        },
        "x"_a, "state"_a,
        R"(Add all cells of an array to a sum, exactly.

Parameters
----------
x : float32 or float64 array, any axes and strides
state : int64 array of SUM_WORDS words
    The sum so far; zeros to begin with. The element-wise sum of up to 2**30 states is the state of their sum.)");

    m.def(
        "sum_add_products",
        [](nb::handle x_, nb::handle y_, nb::handle state_) {
            const Buffer x(x_, "x", false), y(y_, "y", false), state(state_, "state", true);
            int64_t *const out = words(state);
            if (x.shape != y.shape) throw nb::value_error("x and y differ in shape");
            if (x.letter != y.letter) throw nb::type_error("x and y differ in dtype");
            nb::gil_scoped_release nogil;
            Exact sum(out);
            mpihpc::add_products(sum, x.cells(), y.cells());
            sum.save(out);
        },
        "x"_a, "y"_a, "state"_a,
        R"(Add ``x * y`` of all cells, each product rounded to float64 (of float32: exact), to a sum, as `sum_add`.)");

    m.def(
        "sum_round",
        [](nb::handle state_) {
            const Buffer state(state_, "state", true);
            return Exact(words(state)).round();
        },
        "state"_a, "The sum, rounded to the nearest float64, ties to even; infinite where it is beyond the largest one.");

    m.def(
        "sum_columns",
        [](nb::handle x_, int lead, nb::handle out_) {
            const Buffer x(x_, "x", false), out(out_, "out", true);
            if (lead < 0 || lead > x.view.ndim || x.view.ndim < 1)
                throw nb::value_error("x must have at least 1 axis, and lead be 0 to the number of its axes");
            int64_t columns = 1;
            for (int d = lead; d < x.view.ndim; ++d) columns *= x.shape[std::size_t(d)];
            if (out.shape.size() != 2 || out.shape[1] != columns || out.shape[0] < 1)
                throw nb::value_error(("out must have shape (terms, " + str(columns) + "), and at least 1 term").c_str());
            nb::gil_scoped_release nogil;
            return mpihpc::sum_columns(x.cells(), lead, static_cast<double *>(out.view.buf), out.shape[0]);
        },
        "x"_a, "lead"_a, "out"_a,
        R"(The sums over the first axes of an array.

Parameters
----------
x : float32 or float64 array, any strides
lead : int
    So many axes are summed over.
out : (terms, columns) float64 array, contiguous
    A column for each cell of the other axes, in C order. With one term: the sum, rounded. With more: numbers that add up
    to the sum exactly, the first one the rounded sum (or the largest float64 instead of an infinite one), zeros at the end.

Returns
-------
int
    How many terms that takes. If it is more than `out` has, `out` is incomplete.)");
}
