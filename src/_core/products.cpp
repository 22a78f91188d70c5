// mpihpc._core: products of matrices.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "arguments.hpp"
#include "driver.hpp"
#include "modules.hpp"
#include "products.hpp"

namespace mpihpc {
using namespace nb::literals;
namespace {

constexpr double ALONE = 1 << 21;  // multiplications that one thread makes by itself, and a further one must have

// Memory in huge pages, where the system has them.
class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;
    ~Workspace() { std::free(memory); }

    // Null where there is none left.
    double *room(std::size_t bytes) {
        if (bytes > held) {
            std::free(memory);
            held = (bytes + GRAIN - 1) / GRAIN * GRAIN;
            memory = std::aligned_alloc(GRAIN, held);
            if (!memory) held = 0;
#if defined(MADV_HUGEPAGE)
            if (memory) madvise(memory, held, MADV_HUGEPAGE);  // if not, it only takes longer
#endif
        }
        return static_cast<double *>(memory);
    }

private:
    static constexpr std::size_t GRAIN = std::size_t(2) << 20;
    void *memory = nullptr;
    std::size_t held = 0;
};

template <class T>
Matrix<T> matrix(const Buffer &buffer) {
    return {reinterpret_cast<T *>(buffer.data()), buffer.stride(0) / 8, buffer.stride(1) / 8};
}

// Each thread multiplies a block of the result by itself: blocks as square as can be, for they read the least.
void multiply(Multiply kernel, const Buffer &a, const Buffer &b, const Buffer &c, bool add, int threads) {
    const int64_t m = a.shape(0), k = a.shape(1), n = b.shape(1);
    if (m == 0 || n == 0) return;
    const Matrix<const double> left = matrix<const double>(a), right = matrix<const double>(b);
    const Matrix<double> out = matrix<double>(c);
    if (k == 0 && !add)
        for (int64_t i = 0; i < m; ++i) std::fill_n(out.at(i, 0), n, 0.0);
    // To start a team takes as long as some of this work.
    threads = int(std::clamp(double(m) * double(n) * double(k) / ALONE, 1.0, double(threads)));
    int down = 1;
    for (int p = 1; p <= threads; ++p)
        if (threads % p == 0 && m * (threads / p) + n * p < m * (threads / down) + n * down) down = p;
    const int across = threads / down;
    std::atomic<bool> failed{false};
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
#endif
    for (int t = 0; t < threads; ++t) {
        const int64_t i = m * (t / across) / down, j = n * (t % across) / across;
        const int64_t rows = m * (t / across + 1) / down - i, columns = n * (t % across + 1) / across - j;
        if (rows == 0 || columns == 0) continue;
        static thread_local Workspace memory;  // of this thread, for its next products too
        double *work = memory.room(std::size_t(workspace(columns)) * sizeof(double));
        if (!work) {  // exceptions must not leave the region
            failed = true;
            continue;
        }
        kernel(rows, columns, k, {left.at(i, 0), left.row, left.column}, {right.at(0, j), right.row, right.column},
               {out.at(i, j), out.row, out.column}, add, work);
    }
    if (failed) throw std::bad_alloc();
}

// Whether they are doubles whose strides are whole numbers of doubles.
bool regular(const Buffer &buffer) {
    return buffer.format() == "d" && reinterpret_cast<std::uintptr_t>(buffer.data()) % 8 == 0 &&
           buffer.stride(0) % 8 == 0 && buffer.stride(1) % 8 == 0;
}

}  // namespace

void bind_products(nb::module_ &m) {
    m.def("can_multiply", [] { return isa().multiply != nullptr; }, "Whether the instruction set in use has a kernel.");

    m.def(
        "multiply",
        [](nb::handle a_, nb::handle b_, nb::handle c_, bool add, int64_t threads_) {
            const int threads = check_threads(threads_);
            const Buffer a(a_, "a", false), b(b_, "b", false), c(c_, "c", true);
            for (const Buffer *one : {&a, &b, &c})
                if (one->ndim() != 2) value_error(one->name + " has " + str(one->ndim()) + " axes, not 2");
            if (a.shape(1) != b.shape(0))
                value_error("a has " + str(a.shape(1)) + " columns, b has " + str(b.shape(0)) + " rows");
            if (c.shape(0) != a.shape(0) || c.shape(1) != b.shape(1))
                value_error("c is " + str(c.shape(0)) + " x " + str(c.shape(1)) + ", the product is " + str(a.shape(0)) +
                            " x " + str(b.shape(1)));
            const Multiply known = isa().multiply;
            if (!known || !regular(a) || !regular(b) || !regular(c) || (c.shape(1) > 1 && c.stride(1) != 8)) return false;
            if (shared_bytes(a, c) || shared_bytes(b, c)) return false;  // NumPy copies the operands
            nb::gil_scoped_release nogil;
            multiply(known, a, b, c, add, threads);
            return true;
        },
        "a"_a, "b"_a, "c"_a, "add"_a = false, "threads"_a = 1, "See mpihpc.kernels.cpu.multiply.");
}

}  // namespace mpihpc
