// All boxes of an exchange, in one kernel: from an array into one buffer, or back. A row of `table` is a box: its first
// cell in the buffer and in the array, and its shape (0, or the length on four axes); the last row ends the buffer.
// Neighbouring threads have neighbouring cells of the buffer.

struct Strides {
    long long of[4];
};

template <bool PACK>
__device__ __forceinline__ void move_boxes(Cell *buffer, Cell *array, const long long *__restrict__ table,
                                           long long boxes, const Strides &strides) {
    const long long cells = table[boxes * 6];
    for (long long i = blockIdx.x * (long long)THREADS + threadIdx.x; i < cells; i += gridDim.x * (long long)THREADS) {
        long long low = 0, high = boxes;  // the last box that begins at or before cell i
        while (high - low > 1) {
            const long long middle = (low + high) / 2;
            if (table[middle * 6] <= i) low = middle;
            else high = middle;
        }
        const long long *box = table + low * 6;
        unsigned long long left = i - box[0];
        long long at = box[1];
        for (int d = 3; d >= 0; --d) {
            at += (long long)(left % box[2 + d]) * strides.of[d];
            left /= box[2 + d];
        }
        if (PACK) buffer[i] = array[at];
        else array[at] = buffer[i];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
PACK(Cell *buffer, const Cell *array, const long long *__restrict__ table, long long boxes, const Strides strides) {
    move_boxes<true>(buffer, const_cast<Cell *>(array), table, boxes, strides);
}

extern "C" __global__ void __launch_bounds__(THREADS)
UNPACK(Cell *buffer, Cell *array, const long long *__restrict__ table, long long boxes, const Strides strides) {
    move_boxes<false>(buffer, array, table, boxes, strides);
}
