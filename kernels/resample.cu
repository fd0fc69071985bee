// Crop, antialiased resize, flip and composite of ragged images; see resample.py, axis.py and separable.py.
//
// The bicubic filter is in resample_cubic.cuh; bilinear, and for all masks: one block renders a tile of 16 x 32 output pixels: mask, then image, then ground. A plane is resampled in chunks of 64
// source columns: vertical sums of the chunk go to shared memory, then every thread adds what its outputs take from them.
// Long windows are weighed 32 source rows at a time, so any scale fits the same shared memory.

#define TILE_ROWS 16
#define TILE_COLS 32
#define THREADS 256
#define WARPS (THREADS / 32)
#define ROWS_PER_WARP (TILE_ROWS / WARPS)
#define CHUNK 64  // source px
#define TAPS 32   // source rows per refill of the vertical weights

struct Plane {  // PLANE_DTYPE
    long long address;
    double origin_y, scale_y, origin_x, scale_x;
    int pitch, rows, cols, flip;
};

struct Row {  // RENDER_DTYPE
    int image, mask, donor, mode;
    float box[4];
    int clip, flip;
    float donor_box[4];
    int donor_flip, fill[3];
    unsigned int seed_lo, seed_hi;
};

enum Mode { KEEP, FILL, DONOR, MEAN, NOISE };

struct Window {  // of one output pixel on one axis: source px first .. first + count - 1
    int first, count, rising;
    double u, step, half, top, norm;
};

struct Shared {
    Plane plane;
    Window y[TILE_ROWS], x[TILE_COLS];
    short y_weights[TAPS][TILE_ROWS];
    short x_weights[CHUNK][TILE_COLS];
    short sums[TILE_ROWS * CHUNK * 3];
    unsigned char view[3][TILE_ROWS][TILE_COLS], ground[3][TILE_ROWS][TILE_COLS], mask[1][TILE_ROWS][TILE_COLS];
    unsigned int totals[3];
};

static __device__ double running_sum(const Window& w, int taps) {
    double k = taps, rising = w.rising;
    if (taps <= w.rising) return k * (1.0 + w.u) + w.step * (0.5 * k * (k - 1.0));
    return w.top + ((k - rising) * (1.0 - w.u) - w.step * (0.5 * k * (k - 1.0) - w.half));
}

static __device__ Window window_of(double origin, double scale, int n, int i) {
    Window w;
    double support = scale > 1.0 ? scale : 1.0;
    w.step = 1.0 / support;
    double center = origin + (i + 0.5) * scale;
    int begin = max((int)(center - support + 0.5), 0);
    int end = min((int)(center + support + 0.5), n);
    w.first = begin;
    w.count = end - begin;
    w.rising = min((int)(center + 0.5), end) - begin;
    w.u = (begin - center + 0.5) * w.step;
    double rising = w.rising;
    w.half = 0.5 * rising * (rising - 1.0);
    w.top = rising * (1.0 + w.u) + w.step * w.half;
    double taps = w.count;
    w.norm = 16384.0 / (w.top + ((taps - rising) * (1.0 - w.u) - w.step * (0.5 * taps * (taps - 1.0) - w.half)));
    return w;
}

// Weight of tap k; 0 past the window.
static __device__ short weight_of(const Window& w, int k) {
    if (k >= w.count) return 0;
    int before = k == 0 ? 0 : (int)(running_sum(w, k) * w.norm + 0.5);
    return (short)((int)(running_sum(w, k + 1) * w.norm + 0.5) - before);
}

// Write the vertical sums of source columns c0 .. c0 + cols - 1 to s.sums[row][px * C + channel]. A warp sums two rows, so
// that weights are uniform in it and its loads lie side by side.
template <int C>
static __device__ void vertical(const Plane& p, Shared& s, int c0, int cols, int taps, bool first_chunk) {
    const int PARTS = CHUNK * C / 32;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, bytes = cols * C;
    const unsigned char* base = (const unsigned char*)p.address + (long long)c0 * C + lane;
    for (int row = warp; row < TILE_ROWS; row += WARPS) {
        int sums[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i++) sums[i] = 1 << 7;
        for (int k0 = 0; k0 < taps; k0 += TAPS) {
            if (taps > TAPS || (first_chunk && row == warp)) {  // the same for all threads
                __syncthreads();
                for (int i = threadIdx.x; i < TILE_ROWS * min(TAPS, taps - k0); i += THREADS)
                    s.y_weights[i / TILE_ROWS][i % TILE_ROWS] = weight_of(s.y[i % TILE_ROWS], k0 + i / TILE_ROWS);
                __syncthreads();
            }
            int count = min(TAPS, s.y[row].count - k0);
            const unsigned char* at = base + (long long)(s.y[row].first + k0) * p.pitch;
#pragma unroll 1  // six loads are in flight anyway, and 64 registers hold
            for (int k = 0; k < count; k++, at += p.pitch) {
                int weight = s.y_weights[k][row];
#pragma unroll
                for (int i = 0; i < PARTS; i++) {
                    if (lane + 32 * i < bytes) sums[i] += weight * (int)__ldg(at + 32 * i);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PARTS; i++) s.sums[row * CHUNK * C + lane + 32 * i] = (short)(sums[i] >> 8);
    }
}

// Resample one plane into out[channel][row][column] of the tile at (top, left); ends with a barrier.
template <int C>
static __device__ void resample_tile(const Plane& source, Shared& s, int height, int width, int top, int left,
                                     unsigned char (*out)[TILE_ROWS][TILE_COLS]) {
    const int ITEMS = C * ROWS_PER_WARP;
    int column = threadIdx.x % TILE_COLS, warp = threadIdx.x / TILE_COLS;  // a lane is a column: TILE_COLS = 32
    const Plane& p = s.plane;  // in shared memory, it costs no registers
    __syncthreads();
    if (threadIdx.x == 0) s.plane = source;
    __syncthreads();
    if (threadIdx.x < TILE_ROWS) {
        s.y[threadIdx.x] = window_of(p.origin_y, p.scale_y, p.rows, min(top + (int)threadIdx.x, height - 1));
    } else if (warp == 1) {
        int x = min(left + column, width - 1);
        s.x[column] = window_of(p.origin_x, p.scale_x, p.cols, p.flip ? width - 1 - x : x);
    }
    __syncthreads();
    int taps_y = 0, taps_x = 0;
    for (int i = 0; i < TILE_ROWS; i++) taps_y = max(taps_y, s.y[i].count);
    for (int i = 0; i < TILE_COLS; i++) taps_x = max(taps_x, s.x[i].count);
    const Window &low = s.x[p.flip ? TILE_COLS - 1 : 0], &high = s.x[p.flip ? 0 : TILE_COLS - 1];
    int begin = low.first, end = high.first + high.count;

    int totals[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++) totals[i] = 1 << 19;
    for (int c0 = begin; c0 < end; c0 += CHUNK) {
        int cols = min(CHUNK, end - c0);
        // This column's taps in the chunk are k .. k + count - 1, at chunk column `at` and on.
        int k = max(c0 - s.x[column].first, 0);
        int count = min(s.x[column].count, c0 + cols - s.x[column].first) - k;
        int at = s.x[column].first + k - c0;
        for (int i = warp; i < min(taps_x, CHUNK); i += WARPS)
            s.x_weights[i][column] = weight_of(s.x[column], k + i);
        vertical<C>(p, s, c0, cols, taps_y, c0 == begin);
        __syncthreads();
        const short* v = s.sums + (warp * CHUNK + at) * C;
        for (int j = 0; j < count; j++, v += C) {
            int weight = s.x_weights[j][column];
#pragma unroll
            for (int i = 0; i < ITEMS; i++) totals[i] += weight * v[i / C * (WARPS * CHUNK * C) + i % C];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) out[i % C][warp + i / C * WARPS][column] = (unsigned char)(totals[i] >> 20);
    __syncthreads();
}

#include "resample_cubic.cuh"

static __device__ unsigned int blend(unsigned int figure, unsigned int ground, unsigned int mask) {
    unsigned int t = figure * mask + ground * (255u - mask) + 128u;
    return ((t >> 8) + t) >> 8;
}

static __device__ unsigned int mix(unsigned int x) {
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

static __device__ unsigned int ground_at(const Row& row, const Shared& s, int channel, int y, int x, int pixel) {
    if (row.mode == FILL) return row.fill[channel];
    if (row.mode == DONOR) return s.ground[channel][y][x];
    return (mix(mix((unsigned int)pixel ^ row.seed_lo) + row.seed_hi) >> (8 * channel)) & 255u;
}

// Write the valid part of tile[channels][16][32], four pixels at a time where the output allows it.
static __device__ void store_tile(const unsigned char (*tile)[TILE_ROWS][TILE_COLS], int channels, unsigned char* out,
                                  int height, int width, int top, int left) {
    bool wide = width % 4 == 0 && (unsigned long long)out % 4 == 0;
    for (int i = threadIdx.x; i < channels * TILE_ROWS * (TILE_COLS / 4); i += THREADS) {
        int line = i / (TILE_COLS / 4), x = i % (TILE_COLS / 4) * 4, channel = line / TILE_ROWS, y = line % TILE_ROWS;
        if (top + y >= height) continue;
        const unsigned char* from = &tile[channel][y][x];
        unsigned char* to = out + ((long long)channel * height + top + y) * width + left + x;
        int valid = width - left - x;
        if (wide && valid >= 4) {
            *(unsigned int*)to = from[0] | from[1] << 8 | from[2] << 16 | (unsigned int)from[3] << 24;
        } else {
            for (int j = 0; j < min(valid, 4); j++) to[j] = from[j];
        }
    }
}

// planes (N, 3): image, mask, donor. has_masks: 0 none, 1 to be used, 2 and to be written. totals (N, 3): sums of the uncomposited views whose ground is their mean.
template <bool CUBIC>
static __device__ void render(const Plane* __restrict__ planes, const Row* __restrict__ rows, int height, int width,
                              unsigned char* __restrict__ views, unsigned char* __restrict__ masks, int has_masks,
                              unsigned long long* __restrict__ totals, Shared& s, CubicShared* windows) {
    int tiles_x = (width + TILE_COLS - 1) / TILE_COLS, tiles = tiles_x * ((height + TILE_ROWS - 1) / TILE_ROWS);
    long long n = blockIdx.x / tiles;
    int tile = blockIdx.x % tiles, top = tile / tiles_x * TILE_ROWS, left = tile % tiles_x * TILE_COLS;
    const Plane* plane = planes + 3 * n;
    const Row& row = rows[n];
    bool store_mask = has_masks == 2, masked = has_masks && plane[1].address != 0;
    int mode = masked ? row.mode : KEEP;

    if (masked && (store_mask || mode != KEEP)) {
        resample_tile<1>(plane[1], s, height, width, top, left, s.mask);
    } else if (store_mask) {
        for (int i = threadIdx.x; i < TILE_ROWS * TILE_COLS; i += THREADS) s.mask[0][i / TILE_COLS][i % TILE_COLS] = 0;
    }
    if (mode == MEAN && threadIdx.x < 3) s.totals[threadIdx.x] = 0;
    for (int i = mode == DONOR ? 2 : 0; i >= 0; i -= 2) {
        if (CUBIC) {
            resample_tile_cubic(plane[i], s, *windows, height, width, top, left, i == 2 ? s.ground : s.view);
        } else {
            resample_tile<3>(plane[i], s, height, width, top, left, i == 2 ? s.ground : s.view);
        }
    }
    if (mode != KEEP) {
        for (int i = threadIdx.x; i < 3 * TILE_ROWS * TILE_COLS; i += THREADS) {
            int line = i / TILE_COLS, x = i % TILE_COLS, channel = line / TILE_ROWS, y = line % TILE_ROWS;
            if (top + y >= height || left + x >= width) continue;
            unsigned char* figure = &s.view[channel][y][x];
            if (mode == MEAN) {
                atomicAdd(&s.totals[channel], (unsigned int)*figure);
            } else {
                int pixel = (top + y) * width + left + x;
                *figure = (unsigned char)blend(*figure, ground_at(row, s, channel, y, x, pixel), s.mask[0][y][x]);
            }
        }
        __syncthreads();
        if (mode == MEAN && threadIdx.x < 3) atomicAdd(&totals[3 * n + threadIdx.x], (unsigned long long)s.totals[threadIdx.x]);
    }
    store_tile(s.view, 3, views + n * 3 * height * width, height, width, top, left);
    if (store_mask) store_tile(s.mask, 1, masks + n * height * width, height, width, top, left);
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
resample_views(const Plane* __restrict__ planes, const Row* __restrict__ rows, int height, int width,
               unsigned char* __restrict__ views, unsigned char* __restrict__ masks, int has_masks,
               unsigned long long* __restrict__ totals) {
    __shared__ Shared s;
    render<false>(planes, rows, height, width, views, masks, has_masks, totals, s, nullptr);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
resample_views_cubic(const Plane* __restrict__ planes, const Row* __restrict__ rows, int height, int width,
                     unsigned char* __restrict__ views, unsigned char* __restrict__ masks, int has_masks,
                     unsigned long long* __restrict__ totals) {
    __shared__ Shared s;
    __shared__ CubicShared windows;
    render<true>(planes, rows, height, width, views, masks, has_masks, totals, s, &windows);
}

// Second pass for the rows named in `names`: composite on the mean colour, in place.
extern "C" __global__ void __launch_bounds__(THREADS)
resample_mean(const int* __restrict__ names, int height, int width, const unsigned char* __restrict__ masks,
              const unsigned long long* __restrict__ totals, unsigned char* __restrict__ views) {
    long long pixels = (long long)height * width;
    unsigned int blocks = (unsigned int)((pixels + THREADS - 1) / THREADS);  // of one view
    long long n = names[blockIdx.x / blocks], p = (long long)(blockIdx.x % blocks) * THREADS + threadIdx.x;
    if (p >= pixels) return;
    unsigned int mask = masks[n * pixels + p];
    for (int channel = 0; channel < 3; channel++) {
        unsigned char* figure = views + (n * 3 + channel) * pixels + p;
        unsigned int mean = (unsigned int)((2 * totals[3 * n + channel] + pixels) / (2 * pixels));
        *figure = (unsigned char)blend(*figure, mean, mask);
    }
}
