// Minimum barrier distance by directional passes: saliency_barrier.py, operation by operation.

typedef unsigned char u8;

struct Path {
    int high, low;
};

// One step of a pass: the pixel at `at` may take the path of the pixel before it.
static __device__ Path step(u8* here, u8* high, u8* low, int at, Path before) {
    int value = here[at];
    Path old = {high[at], low[at]};
    Path fresh = {max(before.high, value), min(before.low, value)};
    if (fresh.high - fresh.low >= old.high - old.low) return old;
    high[at] = (u8)fresh.high;
    low[at] = (u8)fresh.low;
    return fresh;
}

// There and back along one line of n pixels.
static __device__ void pass_twice(u8* here, u8* high, u8* low, int first, int stride, int n) {
    Path path = {high[first], low[first]};
    for (int k = 1; k < n; k++) path = step(here, high, low, first + k * stride, path);
    for (int k = n - 2; k >= 0; k--) path = step(here, high, low, first + k * stride, path);
}

extern "C" __global__ void saliency_barrier_scan(const u8* __restrict__ planes, u8* __restrict__ cost, u8* scratch,
                                                 int height, int width, int pitch, int rounds, int fits) {
    extern __shared__ unsigned char shared[];
    u8* memory = fits ? shared : scratch + (long long)blockIdx.x * 3 * height * pitch;
    u8 *here = memory, *high = memory + height * pitch, *low = high + height * pitch;
    const u8* plane = planes + (long long)blockIdx.x * height * width;
    for (int i = threadIdx.x; i < height * width; i += blockDim.x) {
        int y = i / width, x = i % width, at = y * pitch + x;
        bool border = y == 0 || x == 0 || y == height - 1 || x == width - 1;
        u8 value = plane[i];
        here[at] = value;
        high[at] = border ? value : 255;
        low[at] = border ? value : 0;
    }
    __syncthreads();
    for (int round = 0; round < rounds; round++) {
        if (threadIdx.x < width) pass_twice(here, high, low, threadIdx.x, pitch, height);
        __syncthreads();
        if (threadIdx.x < height) pass_twice(here, high, low, threadIdx.x * pitch, 1, width);
        __syncthreads();
    }
    for (int i = threadIdx.x; i < height * width; i += blockDim.x) {
        int at = i / width * pitch + i % width;
        cost[(long long)blockIdx.x * height * width + i] = (u8)(high[at] - low[at]);
    }
}
