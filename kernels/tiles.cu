// Patch negatives: each cell of a canvas shows a patch of the view, drawn with replacement; the draws of tiles.py.

#include "draws.cuh"

// A thread makes PIXELS neighbours of one row in the three planes; a row may cross several cells.
template <typename Unit, int PIXELS>
static __device__ __forceinline__ void fill(const unsigned char* views, const unsigned long long* keys, const int* sides,
                                            int count, int height, int width, long long total, Unit* out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int units = width / PIXELS;
    long long row = i / units, negative = row / height, plane = (long long)height * width;
    int x = (int)(i - row * units) * PIXELS, y = (int)(row - negative * height);
    int side = sides[negative], columns = width / side + 1;
    unsigned long long key = keys[negative];
    const unsigned char* view = views + negative / count * 3 * plane;

    int gy = y / side, gx = -1, left = 0;
    long long from_row = 0;
    unsigned int red = 0, green = 0, blue = 0;
#pragma unroll
    for (int k = 0; k < PIXELS; k++) {
        if ((x + k) / side != gx) {
            gx = (x + k) / side;
            unsigned int cell = 2u * (unsigned int)(gy * columns + gx);
            from_row = (long long)(draws_below(key, cell, height - side) + y - gy * side) * width;
            left = draws_below(key, cell + 1, width - side) - gx * side;
        }
        long long from = from_row + left + x + k;
        red |= (unsigned int)view[from] << (8 * k);
        green |= (unsigned int)view[from + plane] << (8 * k);
        blue |= (unsigned int)view[from + 2 * plane] << (8 * k);
    }
    long long step = plane / PIXELS, at = negative * 3 * step + (long long)y * units + x / PIXELS;
    out[at] = (Unit)red;
    out[at + step] = (Unit)green;
    out[at + 2 * step] = (Unit)blue;
}

extern "C" __global__ void __launch_bounds__(256)
tiles_fill4(const unsigned char* views, const unsigned long long* keys, const int* sides, int count, int height, int width,
            long long total, unsigned int* out) {
    fill<unsigned int, 4>(views, keys, sides, count, height, width, total, out);
}

extern "C" __global__ void __launch_bounds__(256)
tiles_fill1(const unsigned char* views, const unsigned long long* keys, const int* sides, int count, int height, int width,
            long long total, unsigned char* out) {
    fill<unsigned char, 1>(views, keys, sides, count, height, width, total, out);
}
