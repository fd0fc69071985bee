// Random blocks covered by noise, a colour or another view; the draws of blocks.py.

#include "draws.cuh"

static __device__ __forceinline__ int block_side(int grid, int extra, int room) {
    int side = min(grid + extra, room);
    int cells = side / grid, rest = 2 * (side % grid);
    if (rest > grid || (rest == grid && cells % 2 == 1)) cells++;
    return min(cells * grid, room);
}

// One block of threads a view: all threads know each rectangle and share its pixels. `mask` is 0 before.
extern "C" __global__ void __launch_bounds__(256)
blocks_cover(const unsigned long long* keys, const int* targets, int height, int width, int grid, int span_h, int span_w,
             int most, unsigned char* mask) {
    __shared__ int covered;
    long long n = blockIdx.x;
    unsigned long long key = keys[n];
    int target = targets[n];
    mask += n * height * width;
    if (threadIdx.x == 0) covered = 0;
    __syncthreads();
    for (unsigned int t = 0; t < (unsigned int)most && covered < target; t++) {
        int top = draws_below(key, 4 * t, height - grid) / grid * grid;
        int left = draws_below(key, 4 * t + 1, width - grid) / grid * grid;
        int h = block_side(grid, draws_below(key, 4 * t + 2, span_h), height - top);
        int w = block_side(grid, draws_below(key, 4 * t + 3, span_w), width - left);
        int fresh = 0;
        __syncthreads();  // all have read `covered`
        for (int i = threadIdx.x; i < h * w; i += blockDim.x) {
            int y = i / w;
            unsigned char* pixel = mask + (long long)(top + y) * width + left + i - y * w;
            if (*pixel == 0) {
                *pixel = 255;
                fresh++;
            }
        }
        if (fresh > 0) atomicAdd(&covered, fresh);
        __syncthreads();
    }
}

static __device__ __forceinline__ unsigned int noise_byte(unsigned long long key, unsigned int i, int mean, int gain) {
    unsigned int h = draws_scramble32(draws_scramble32(i ^ (unsigned int)key) + (unsigned int)(key >> 32));
    int sum = (int)((h & 255u) + ((h >> 8) & 255u) + ((h >> 16) & 255u) + (h >> 24));
    return (unsigned int)min(max((mean + (sum - 510) * gain + 512) >> 10, 0), 255);
}

// PIXELS neighbours of one plane a thread, packed in a word.
template <typename Unit, int PIXELS>
static __device__ __forceinline__ void fill(const Unit* views, const Unit* mask, int how, const unsigned long long* noise,
                                            const int* partners, int zero0, int zero1, int zero2, int mean0, int mean1,
                                            int mean2, int gain0, int gain1, int gain2, int pixels, long long total, Unit* out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int units = pixels / PIXELS;
    long long plane = i / units, n = plane / 3;
    int c = (int)(plane - n * 3), at = (int)(i - plane * units);
    unsigned int covered = mask[n * units + at], cover = 0;
    if (how == 2) {
        cover = views[((long long)partners[n] * 3 + c) * units + at];
    } else {
        int zero = c == 0 ? zero0 : c == 1 ? zero1 : zero2;
        int mean = c == 0 ? mean0 : c == 1 ? mean1 : mean2;
        int gain = c == 0 ? gain0 : c == 1 ? gain1 : gain2;
        unsigned int first = (unsigned int)c * (unsigned int)pixels + (unsigned int)at * PIXELS;
#pragma unroll
        for (int k = 0; k < PIXELS; k++) {
            unsigned int value = how == 1 ? (unsigned int)zero : noise_byte(noise[n], first + k, mean, gain);
            cover |= value << (8 * k);
        }
    }
    out[i] = (Unit)((cover & covered) | (views[i] & ~covered));
}

#define FILL_PARAMETERS                                                                                                  \
    int how, const unsigned long long *noise, const int *partners, int zero0, int zero1, int zero2, int mean0, int mean1, \
        int mean2, int gain0, int gain1, int gain2, int pixels, long long total
#define FILL_ARGUMENTS \
    how, noise, partners, zero0, zero1, zero2, mean0, mean1, mean2, gain0, gain1, gain2, pixels, total, out

extern "C" __global__ void __launch_bounds__(256)
blocks_fill4(const unsigned int* views, const unsigned int* mask, FILL_PARAMETERS, unsigned int* out) {
    fill<unsigned int, 4>(views, mask, FILL_ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(256)
blocks_fill1(const unsigned char* views, const unsigned char* mask, FILL_PARAMETERS, unsigned char* out) {
    fill<unsigned char, 1>(views, mask, FILL_ARGUMENTS);
}
