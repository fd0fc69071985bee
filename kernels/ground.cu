// Push-pull inpainting; the arithmetic of ground.py. A cell: 0 unknown, else KNOWN + 8 * colour; after the pull 8 * colour.

#define KNOWN 8192u
#define COLOR 8191u
#define COARSE 64     // levels within COARSE x COARSE cells stay in shared memory
#define PYRAMID 5461  // cells of the levels 64 x 64, 32 x 32, ... 1 x 1

// Mean of the known ones among four cells, given their sum.
static __device__ __forceinline__ unsigned short average(unsigned int total) {
    unsigned int known = total >> 13;
    return known == 0u ? 0 : (unsigned short)(KNOWN + ((total & COLOR) * (12u / known) + 6u) / 12u);
}

static __device__ __forceinline__ unsigned short push(const unsigned short* fine, int height, int width, int y, int x) {
    const unsigned short* at = fine + (long long)2 * y * width + 2 * x;
    bool right = 2 * x + 1 < width, below = 2 * y + 1 < height;
    unsigned int total = at[0];
    if (right) total += at[1];
    if (below) total += at[width];
    if (right && below) total += at[width + 1];
    return average(total);
}

// Colour of cell (y, x) of the level below `coarse`, which has height x width cells.
static __device__ __forceinline__ unsigned int pull(const unsigned short* coarse, int height, int width, int y, int x) {
    int row = y >> 1, column = x >> 1;
    int far_row = min(max(row + ((y & 1) ? 1 : -1), 0), height - 1);
    int far_column = min(max(column + ((x & 1) ? 1 : -1), 0), width - 1);
    const unsigned short *near = coarse + (long long)row * width, *far = coarse + (long long)far_row * width;
    unsigned int here = 3u * near[column] + far[column], there = 3u * near[far_column] + far[far_column];
    return (3u * here + there + 8u) >> 4;
}

// A thread per cell of the first level: finds which of its four pixels are unknown, and averages the others.
extern "C" __global__ void __launch_bounds__(256)
ground_begin(const unsigned char* views, const unsigned char* masks, int height, int width, int threshold, int margin,
             long long total, unsigned char* unknown, unsigned short* cells) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int rows = (height + 1) / 2, columns = (width + 1) / 2;
    long long n = i / ((long long)rows * columns), plane = (long long)height * width;
    int cell = (int)(i - n * rows * columns);
    int y = 2 * (cell / columns), x = 2 * (cell - cell / columns * columns);
    const unsigned char* mask = masks + n * plane;
    int holes = 0;  // bit 2 * (row of the pixel) + its column
    for (int v = max(y - margin, 0); v <= min(y + 1 + margin, height - 1); v++) {
        int of_rows = (v <= y + margin ? 3 : 0) | (v > y - margin ? 12 : 0);
        for (int u = max(x - margin, 0); u <= min(x + 1 + margin, width - 1); u++) {
            int of_columns = (u <= x + margin ? 5 : 0) | (u > x - margin ? 10 : 0);
            if (mask[(long long)v * width + u] > threshold) holes |= of_rows & of_columns;
        }
    }
    unsigned int sums[3] = {0, 0, 0};
    for (int k = 0; k < 4; k++) {
        int v = y + k / 2, u = x + k % 2;
        if (v >= height || u >= width) continue;
        long long at = (long long)v * width + u;
        bool hole = (holes >> k) & 1;
        unknown[n * plane + at] = hole ? 255 : 0;
        if (hole) continue;
#pragma unroll
        for (int c = 0; c < 3; c++) sums[c] += KNOWN + 8u * views[(3 * n + c) * plane + at];
    }
    long long step = (long long)rows * columns;
#pragma unroll
    for (int c = 0; c < 3; c++) cells[(3 * n + c) * step + cell] = average(sums[c]);
}

// A thread per coarse cell; `fine` has height x width cells a plane.
extern "C" __global__ void __launch_bounds__(256)
ground_push(const unsigned short* fine, int height, int width, long long total, unsigned short* coarse) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int rows = (height + 1) / 2, columns = (width + 1) / 2;
    long long plane = i / ((long long)rows * columns);
    int cell = (int)(i - plane * rows * columns), y = cell / columns;
    coarse[i] = push(fine + plane * height * width, height, width, y, cell - y * columns);
}

// A thread per fine cell; `coarse` was pulled before.
extern "C" __global__ void __launch_bounds__(256)
ground_pull(const unsigned short* coarse, int height, int width, long long total, unsigned short* fine) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int rows = (height + 1) / 2, columns = (width + 1) / 2;
    long long plane = i / ((long long)height * width);
    int cell = (int)(i - plane * height * width), y = cell / width;
    unsigned int value = fine[i];
    if (value == 0) value = pull(coarse + plane * rows * columns, rows, columns, y, cell - y * width);
    fine[i] = (unsigned short)(value & COLOR);
}

// A block per plane: push down to one cell and pull back up, all levels in shared memory.
extern "C" __global__ void __launch_bounds__(256) ground_coarse(unsigned short* cells, int height, int width) {
    __shared__ unsigned short levels[PYRAMID];
    cells += (long long)blockIdx.x * height * width;
    int size = height * width;
    for (int i = threadIdx.x; i < size; i += blockDim.x) levels[i] = cells[i];
    __syncthreads();
    unsigned short* fine = levels;
    int depth = 0, h = height, w = width;
    while (h * w > 1) {
        int rows = (h + 1) / 2, columns = (w + 1) / 2;
        unsigned short* coarse = fine + h * w;
        for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
            coarse[i] = push(fine, h, w, i / columns, i % columns);
        }
        __syncthreads();
        fine = coarse;
        h = rows;
        w = columns;
        depth++;
    }
    if (threadIdx.x == 0) *fine = (unsigned short)(*fine == 0 ? 8u * 128u : *fine & COLOR);
    __syncthreads();
    while (depth > 0) {
        depth--;
        int rows = h, columns = w;
        unsigned short* coarse = fine;
        h = height;
        w = width;
        for (int k = 0; k < depth; k++) {  // ceil(height / 2^depth), one halving after the other
            h = (h + 1) / 2;
            w = (w + 1) / 2;
        }
        fine = coarse - h * w;
        for (int i = threadIdx.x; i < h * w; i += blockDim.x) {
            unsigned int value = fine[i];
            if (value == 0) value = pull(coarse, rows, columns, i / w, i % w);
            fine[i] = (unsigned short)(value & COLOR);
        }
        __syncthreads();
    }
    for (int i = threadIdx.x; i < size; i += blockDim.x) cells[i] = levels[i];
}

// PIXELS neighbours of one row of one plane a thread, packed in a word.
template <typename Unit, int PIXELS>
static __device__ __forceinline__ void end(const Unit* views, const Unit* unknown, const unsigned short* cells, int height,
                                           int width, long long total, Unit* out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int rows = (height + 1) / 2, columns = (width + 1) / 2, units = width / PIXELS;
    long long per_plane = (long long)units * height, plane = i / per_plane;
    int at = (int)(i - plane * per_plane), y = at / units, x = (at - y * units) * PIXELS;
    unsigned int holes = unknown[plane / 3 * per_plane + at], fill = 0;
    if (holes != 0) {
        const unsigned short* coarse = cells + plane * rows * columns;
#pragma unroll
        for (int k = 0; k < PIXELS; k++) {
            if ((holes >> (8 * k)) & 255u) fill |= ((pull(coarse, rows, columns, y, x + k) + 4u) >> 3) << (8 * k);
        }
    }
    out[i] = (Unit)((fill & holes) | (views[i] & ~holes));
}

extern "C" __global__ void __launch_bounds__(256)
ground_end4(const unsigned int* views, const unsigned int* unknown, const unsigned short* cells, int height, int width,
            long long total, unsigned int* out) {
    end<unsigned int, 4>(views, unknown, cells, height, width, total, out);
}

extern "C" __global__ void __launch_bounds__(256)
ground_end1(const unsigned char* views, const unsigned char* unknown, const unsigned short* cells, int height, int width,
            long long total, unsigned char* out) {
    end<unsigned char, 1>(views, unknown, cells, height, width, total, out);
}
