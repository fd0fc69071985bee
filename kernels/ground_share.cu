// Integral image of each mask, then the mass inside boxes; the arithmetic of ground_share.py.

// A warp per row: running sums of 32 columns at a time.
extern "C" __global__ void __launch_bounds__(256)
ground_share_rows(const unsigned char* masks, int width, long long rows, unsigned int* sums) {
    long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    int lane = threadIdx.x % 32;
    unsigned int before = 0;
    for (int start = 0; start < width; start += 32) {
        int x = start + lane;
        unsigned int sum = x < width ? masks[row * width + x] : 0u;
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            unsigned int left = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += left;
        }
        sum += before;
        if (x < width) sums[row * width + x] = sum;
        before = __shfl_sync(0xffffffffu, sum, 31);
    }
}

// A thread per column, from top to bottom.
extern "C" __global__ void __launch_bounds__(256)
ground_share_columns(int height, int width, long long columns, unsigned int* sums) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= columns) return;
    long long n = i / width;
    unsigned int* at = sums + n * height * width + (i - n * width);
    unsigned int sum = 0;
    for (int y = 0; y < height; y++, at += width) {
        sum += *at;
        *at = sum;
    }
}

// Mass above row `y` and left of column `x`.
static __device__ __forceinline__ long long node(const unsigned int* sums, int width, int x, int y) {
    return x == 0 || y == 0 ? 0 : sums[(long long)(y - 1) * width + x - 1];
}

// The same for a point given in 1/256 px, times 2^16.
static __device__ __forceinline__ long long mass(const unsigned int* sums, int height, int width, int x, int y) {
    int left = x >> 8, top = y >> 8, u = x & 255, v = y & 255;
    int right = min(left + 1, width), bottom = min(top + 1, height);
    long long upper = node(sums, width, left, top) * (256 - u) + node(sums, width, right, top) * u;
    long long lower = node(sums, width, left, bottom) * (256 - u) + node(sums, width, right, bottom) * u;
    return upper * (256 - v) + lower * v;
}

// A thread per box.
extern "C" __global__ void __launch_bounds__(256)
ground_share_boxes(const unsigned int* sums, const int4* edges, int height, int width, int count, long long boxes,
                   float* shares) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= boxes) return;
    const unsigned int* image = sums + i / count * height * width;
    int4 edge = edges[i];  // x0, y0, x1, y1
    long long total = node(image, width, width, height) << 16;
    long long inside = mass(image, height, width, edge.z, edge.w) - mass(image, height, width, edge.x, edge.w) -
                       mass(image, height, width, edge.z, edge.y) + mass(image, height, width, edge.x, edge.y);
    shares[i] = total > 0 ? (float)((double)inside / (double)total) : 0.0f;
}
