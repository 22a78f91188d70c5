// mpihpc._core: Python buffers in, checked so that no input can read or write out of bounds, then the GIL is released.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <vector>

#include "arguments.hpp"
#include "driver.hpp"
#include "modules.hpp"
#include "watchdog.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using mpihpc::Buffer, mpihpc::MAX_AXES;
using mpihpc::check_axes, mpihpc::check_pair, mpihpc::check_threads;
using mpihpc::str, mpihpc::type_error, mpihpc::value_error;
using std::int64_t;
using std::string;

namespace {

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

    mpihpc::bind_stencils(m);
    mpihpc::bind_sums(m);
    mpihpc::bind_boxes(m);
    mpihpc::bind_products(m);

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

    m.def(
        "isas",
        [] {
            std::vector<string> names;
            for (const mpihpc::Isa &usable : mpihpc::isas()) names.emplace_back(usable.name);
            return names;
        },
        "Instruction sets that this machine can use, the best last.");
    m.def("isa", [] { return string(mpihpc::isa().name); }, "The instruction set in use.");
    m.def(
        "use_isa",
        [](const string &name) {
            if (mpihpc::use_isa(name)) return;
            string known;
            for (const mpihpc::Isa &usable : mpihpc::isas()) known += string(known.empty() ? "" : ", ") + usable.name;
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
}
