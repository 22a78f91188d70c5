// All boxes of an exchange, in one kernel: from an array into one buffer, or back. A row of `table` is a box: its first
// cell in the buffer, its first cell in the array on four axes, and its length on four axes; the last row ends the
// buffer. Neighbouring threads have neighbouring cells of the buffer.

constexpr int ROW = 9;

struct Strides {
    long long of[4];
};

// Count: unsigned integers that can count the cells of a box; dividing the short ones takes a fraction of the time.
template <bool PACK, class Count>
__device__ __forceinline__ void move_boxes(Cell *buffer, Cell *array, const long long *__restrict__ table,
                                           long long boxes, const Strides &strides) {
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
        long long at = 0;
        for (int d = 3; d >= 0; --d) {
            const Count length = Count(box[5 + d]);
            at += (box[1 + d] + (long long)(left % length)) * strides.of[d];
            left /= length;
        }
        if (PACK) buffer[i] = array[at];
        else array[at] = buffer[i];
    }
}

template <bool PACK>
__device__ __forceinline__ void move_all(Cell *buffer, Cell *array, const long long *__restrict__ table,
                                         long long boxes, const Strides &strides) {
    if (table[boxes * ROW] >> 32) move_boxes<PACK, unsigned long long>(buffer, array, table, boxes, strides);
    else move_boxes<PACK, unsigned>(buffer, array, table, boxes, strides);
}

extern "C" __global__ void __launch_bounds__(THREADS)
PACK(Cell *buffer, const Cell *array, const long long *__restrict__ table, long long boxes, const Strides strides) {
    move_all<true>(buffer, const_cast<Cell *>(array), table, boxes, strides);
}

extern "C" __global__ void __launch_bounds__(THREADS)
UNPACK(Cell *buffer, Cell *array, const long long *__restrict__ table, long long boxes, const Strides strides) {
    move_all<false>(buffer, array, table, boxes, strides);
}
