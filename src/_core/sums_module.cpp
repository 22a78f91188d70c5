// mpihpc._core: the functions of exact sums.
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "arguments.hpp"
#include "modules.hpp"
#include "sums.hpp"

namespace mpihpc {
using namespace nb::literals;
namespace {

// An array of any axes and strides; one that is written is contiguous.
class Array : public Buffer {
public:
    Array(nb::handle object, const char *name, const string &formats, bool writable = false)
        : Buffer(object, name, writable), letter(format().size() == 1 ? format()[0] : '?') {
        const string wanted = formats == "fd" ? "float32 or float64" : formats == "d" ? "float64" : "int64";
        if (formats == "l" ? !is_int64() : formats.find(letter) == string::npos)
            type_error(this->name + " is " + dtype() + ", it must be native " + wanted);
        bool aligned = reinterpret_cast<std::uintptr_t>(data()) % std::uintptr_t(itemsize()) == 0, dense = true;
        int64_t size = 1;
        for (int d = ndim() - 1; d >= 0; --d) {
            aligned = aligned && Buffer::stride(d) % itemsize() == 0;
            dense = dense && (Buffer::shape(d) == 1 || Buffer::stride(d) == size * itemsize());
            size *= Buffer::shape(d);
        }
        for (int d = 0; d < ndim(); ++d) {
            shape.push_back(Buffer::shape(d));
            stride.push_back(Buffer::stride(d));
        }
        if (size != 0 && !aligned) value_error(this->name + " is not aligned");
        if (size != 0 && writable && !dense) value_error(this->name + " is not contiguous");
    }

    Cells cells() const { return {data(), letter == 'f', ndim(), shape.data(), stride.data()}; }

    const char letter;
    std::vector<int64_t> shape, stride;
};

// The words of a sum.
class State : public Array {
public:
    explicit State(nb::handle object) : Array(object, "state", "l", true) {
        if (ndim() != 1 || shape[0] != Exact::WORDS)
            value_error("state must have one axis of " + str(Exact::WORDS) + " words");
    }
    int64_t *words() const { return reinterpret_cast<int64_t *>(data()); }
};

}  // namespace

void bind_sums(nb::module_ &m) {
    m.attr("SUM_WORDS") = int64_t(Exact::WORDS);

    m.def(
        "sum_add",
        [](nb::handle x_, nb::handle state_) {
            const Array x(x_, "x", "fd");
            const State state(state_);
            int64_t *const out = state.words();
            nb::gil_scoped_release nogil;
            Exact sum(out);
            add_all(sum, x.cells());
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
            const Array x(x_, "x", "fd"), y(y_, "y", "fd");
            const State state(state_);
            int64_t *const out = state.words();
            if (x.shape != y.shape) value_error("x and y differ in shape");
            if (x.letter != y.letter) type_error("x and y differ in dtype");
            nb::gil_scoped_release nogil;
            Exact sum(out);
            add_products(sum, x.cells(), y.cells());
            sum.save(out);
        },
        "x"_a, "y"_a, "state"_a,
        R"(Add ``x * y`` of all cells, each product rounded to float64 (of float32: exact), to a sum, as `sum_add`.)");

    m.def(
        "sum_add_complex",
        [](nb::handle x_, nb::handle y_, bool conjugate, nb::handle real_, nb::handle imag_) {
            const Array x(x_, "x", "fd"), y(y_.is_none() ? x_ : y_, "y", "fd");
            const State real_state(real_), imag_state(imag_);
            if (x.shape != y.shape) value_error("x and y differ in shape");
            if (x.letter != y.letter) type_error("x and y differ in dtype");
            for (const Array *a : {&x, &y})
                if (a->shape.empty() || a->shape.back() % 2 || a->stride.back() != a->itemsize())
                    value_error("the last axis must be contiguous, of pairs");
            const bool products = !y_.is_none();
            nb::gil_scoped_release nogil;
            Exact real(real_state.words()), imag(imag_state.words());
            const Cells factors = y.cells();
            add_complex(real, imag, x.cells(), products ? &factors : nullptr, conjugate);
            real.save(real_state.words());
            imag.save(imag_state.words());
        },
        "x"_a, "y"_a.none(), "conjugate"_a, "real"_a, "imag"_a,
        R"(Add complex numbers to the sums of their real and imaginary parts, as `sum_add`.

Parameters
----------
x : float32 or float64 array
    Real and imaginary parts, side by side along the last axis, which is contiguous.
y : array like `x`, or None
    Add the products ``x * y`` instead: each of their four real products rounded to float64.
conjugate : bool
    Of `x`, before it is multiplied.
real, imag : int64 arrays of SUM_WORDS words)");

    m.def(
        "sum_round",
        [](nb::handle state_, bool odd) {
            const State state(state_);
            return Exact(state.words()).round(false, odd);
        },
        "state"_a, "odd"_a = false,
        R"(The sum, rounded to the nearest float64, ties to even; infinite where it is beyond the largest one.

With `odd`, if it is no float64, the one beside it whose last bit is 1: it can be rounded again to the nearest float32.)");

    m.def(
        "sum_columns",
        [](nb::handle x_, int lead, nb::handle out_, bool odd, nb::handle y_) {
            const Array x(x_, "x", "fd"), y(y_.is_none() ? x_ : y_, "y", "fd"), out(out_, "out", "d", true);
            if (x.shape != y.shape) value_error("x and y differ in shape");
            if (x.letter != y.letter) type_error("x and y differ in dtype");
            const bool products = !y_.is_none();
            if (lead < 0 || lead > x.ndim() || x.ndim() < 1)
                value_error("x must have at least 1 axis, and lead be 0 to the number of its axes");
            int64_t columns = 1;
            for (int d = lead; d < x.ndim(); ++d) columns *= x.shape[std::size_t(d)];
            if (out.shape.size() != 2 || out.shape[1] != columns || out.shape[0] < 1)
                value_error("out must have shape (terms, " + str(columns) + "), and at least 1 term");
            nb::gil_scoped_release nogil;
            const Cells factors = y.cells();
            double *const to = reinterpret_cast<double *>(out.data());
            return sum_columns(x.cells(), products ? &factors : nullptr, lead, to, out.shape[0], odd);
        },
        "x"_a, "lead"_a, "out"_a, "odd"_a = false, "y"_a = nb::none(),
        R"(The sums over the first axes of an array.

Parameters
----------
x : float32 or float64 array, any strides
lead : int
    So many axes are summed over.
out : (terms, columns) float64 array, contiguous
    A column for each cell of the other axes, in C order. With one term: the sum, rounded. With more: numbers that add up
    to the sum exactly, the first one the rounded sum (or the largest float64 instead of an infinite one), zeros at the end.
odd : bool
    Round one term as `sum_round` does then.
y : array like `x`, optional
    Sum ``x * y``, each product rounded to float64 (of float32: exact).

Returns
-------
int
    How many terms that takes. If it is more than `out` has, `out` is incomplete.)");

    m.def(
        "sum_states",
        [](nb::handle states_, nb::handle out_, bool odd) {
            const Array states(states_, "states", "l"), out(out_, "out", "d", true);
            if (states.shape.size() != 2 || states.shape[1] != Exact::WORDS || states.stride[1] != 8 ||
                (states.shape[0] > 1 && states.stride[0] != 8 * Exact::WORDS))
                value_error("states must be contiguous and have shape (states, " + str(Exact::WORDS) + ")");
            if (out.shape.size() != 2 || out.shape[1] != states.shape[0] || out.shape[0] < 1)
                value_error("out must have shape (terms, " + str(states.shape[0]) + "), and at least 1 term");
            nb::gil_scoped_release nogil;
            const int64_t *const words = reinterpret_cast<const int64_t *>(states.data());
            return sum_states(words, states.shape[0], reinterpret_cast<double *>(out.data()), out.shape[0], odd);
        },
        "states"_a, "out"_a, "odd"_a = false,
        R"(The sums of some states, (states, SUM_WORDS) int64, as `sum_columns` gives those of columns.)");
}

}  // namespace mpihpc
