// All boxes of an exchange, in one kernel: from an array into one buffer, back, or to the boxes of another array. A row
// of `table` is a box: its first cell in the buffer, its first cell in the array on four axes, and its length on four
// axes; the last row ends the buffer. Neighbouring threads have neighbouring cells of the buffer, or would have.

constexpr int ROW = 9;

struct Strides {
    long long of[4];
};

// The place in an array of the cell `inside` a box.
__device__ __forceinline__ long long place(const long long *box, const long long (&inside)[4], const Strides &strides) {
    long long at = 0;
    for (int d = 0; d < 4; ++d) at += (box[1 + d] + inside[d]) * strides.of[d];
    return at;
}

// Calls move(i, n, inside) for cells i of all boxes: number n, where `inside` the box. Count: unsigned integers that can
// count the cells of a box; dividing the short ones takes a fraction of the time.
template <class Count, class Move>
__device__ __forceinline__ void each_cell(const long long *__restrict__ table, long long boxes, const Move &move) {
    const long long cells = table[boxes * ROW];
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < cells; i += gridDim.x * (long long)THREADS) {
        long long low = 0, high = boxes;  // the last box that begins at or before cell i
        while (high - low > 1) {
            const long long middle = (low + high) / 2;
            if (table[middle * ROW] <= i) low = middle;
            else high = middle;
        }
        const long long *box = table + low * ROW;
        Count left = Count(i - box[0]);
        long long inside[4];
        for (int d = 3; d >= 0; --d) {
            const Count length = Count(box[5 + d]);
            inside[d] = (long long)(left % length);
            left /= length;
        }
        move(i, low, inside);
    }
}

template <class Move>
__device__ __forceinline__ void each(const long long *__restrict__ table, long long boxes, const Move &move) {
    if (table[boxes * ROW] >> 32) each_cell<unsigned long long>(table, boxes, move);
    else each_cell<unsigned>(table, boxes, move);
}

extern "C" __global__ void __launch_bounds__(THREADS)
PACK(Cell *buffer, const Cell *array, const long long *__restrict__ table, long long boxes, const Strides strides) {
    each(table, boxes, [&](long long i, long long n, const long long (&inside)[4]) {
        buffer[i] = array[place(table + n * ROW, inside, strides)];
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
UNPACK(const Cell *buffer, Cell *array, const long long *__restrict__ table, long long boxes, const Strides strides) {
    each(table, boxes, [&](long long i, long long n, const long long (&inside)[4]) {
        array[place(table + n * ROW, inside, strides)] = buffer[i];
    });
}

extern "C" __global__ void __launch_bounds__(THREADS)
COPY(const Cell *source, Cell *target, const long long *__restrict__ table, const long long *__restrict__ others,
     long long boxes, const Strides from, const Strides to) {
    each(table, boxes, [&](long long, long long n, const long long (&inside)[4]) {
        target[place(others + n * ROW, inside, to)] = source[place(table + n * ROW, inside, from)];
    });
}
