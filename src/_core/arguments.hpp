// Python's buffers, checked so that no input can make the kernels read or write out of bounds.
#pragma once

#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "driver.hpp"

namespace mpihpc {

namespace nb = nanobind;
using std::int64_t;
using std::string;

[[noreturn]] inline void value_error(const string &text) { throw nb::value_error(text.c_str()); }
[[noreturn]] inline void type_error(const string &text) { throw nb::type_error(text.c_str()); }

inline string str(int64_t n) { return std::to_string(n); }

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

inline void check_axes(const Buffer &buffer) {
    if (buffer.ndim() < 1 || buffer.ndim() > MAX_AXES)
        value_error(buffer.name + " has " + str(buffer.ndim()) + " axes, 1 to " + str(MAX_AXES) + " are supported");
}

inline int check_threads(int64_t threads) {
    if (threads < 1 || threads > MAX_THREADS)
        value_error("threads must be 1 to " + str(MAX_THREADS) + ", got " + str(threads));
    return int(threads);
}

inline void check_contiguous(const Buffer &buffer, int64_t scalar) {
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
inline std::pair<std::uintptr_t, std::uintptr_t> bytes_of(const Buffer &buffer) {
    std::uintptr_t lo = reinterpret_cast<std::uintptr_t>(buffer.data()), hi = lo + std::uintptr_t(buffer.itemsize());
    for (int d = 0; d < buffer.ndim(); ++d) {
        const int64_t span = (buffer.shape(d) - 1) * buffer.stride(d);
        (span < 0 ? lo : hi) += std::uintptr_t(span);
    }
    return {lo, hi};
}

// The number of bytes that both ranges of addresses share; 0: they have no memory in common.
inline int64_t shared_bytes(const Buffer &a, const Buffer &b) {
    if (a.empty() || b.empty()) return 0;
    const auto [alo, ahi] = bytes_of(a);
    const auto [blo, bhi] = bytes_of(b);
    return std::max<int64_t>(0, int64_t(std::min(ahi, bhi) - std::max(alo, blo)));
}

// The checks that correlate and copy share. Returns the size of a scalar: 4 or 8.
inline int64_t check_pair(const Buffer &src, const Buffer &dst) {
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
    if (const int64_t shared = shared_bytes(src, dst)) {
        const auto [first, end] = bytes_of(dst);
        value_error("src and dst overlap in memory: " + str(shared) + " of dst's " + str(int64_t(end - first)) + " bytes");
    }
    for (int d = 0; d < dst.ndim(); ++d)
        if (dst.shape(d) > 1 && dst.stride(d) == 0)
            value_error("dst has stride 0 on axis " + str(d) + " of length " + str(dst.shape(d)));
    return scalar;
}

}  // namespace mpihpc
