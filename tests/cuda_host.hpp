// CUDA's words for a C++ compiler: each thread of a block is a fiber that runs until the next barrier. In turn, forwards
// or backwards: a read that is not behind a barrier gives another result in one of the two.
#pragma once
#include <ucontext.h>

#include <cstddef>
#include <cstring>
#include <vector>

#define __global__
#define __device__
#define __shared__ thread_local
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct Three {
    unsigned x, y, z;
};
static thread_local Three threadIdx, blockIdx, gridDim;

constexpr std::size_t ROOM = 232448, STACK = 128 << 10;
extern "C" {
extern thread_local unsigned char shared_memory[];
thread_local unsigned char shared_memory[ROOM] __align__(16);
}

struct Fiber {
    ucontext_t context;
    bool done;
};
static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static ucontext_t scheduler;
static void (*body)();
static unsigned current;

static unsigned long long atomicAdd(unsigned long long *word, unsigned long long n) {
    const unsigned long long before = *word;
    *word += n;
    return before;
}
static long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, sizeof x);
    return bits;
}
static double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

static void __syncthreads() { swapcontext(&fibers[current].context, &scheduler); }

static void run_fiber() {
    body();
    fibers[current].done = true;
}

// Runs all blocks, one after the other. `work` is the kernel's call.
static void launch(unsigned blocks, unsigned threads, bool barriers, bool backwards, void (*work)()) {
    gridDim.x = blocks;
    body = work;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        std::memset(shared_memory, 0xff, ROOM);  // NaNs: what is read before it is written is seen
        if (!barriers) {
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) body();
            continue;
        }
        fibers.resize(threads);
        stacks.resize(threads * STACK);
        for (unsigned t = 0; t < threads; ++t) {
            Fiber &fiber = fibers[t];
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = stacks.data() + t * STACK;
            fiber.context.uc_stack.ss_size = STACK;
            fiber.context.uc_link = &scheduler;
            fiber.done = false;
            makecontext(&fiber.context, run_fiber, 0);
        }
        for (unsigned left = threads; left;)
            for (unsigned i = 0; i < threads; ++i) {
                current = backwards ? threads - 1 - i : i;
                if (fibers[current].done) continue;
                threadIdx.x = current;
                swapcontext(&scheduler, &fibers[current].context);
                left -= fibers[current].done;
            }
    }
}
