// Crop, antialiased resize, flip and composite of ragged images; see resample.py, axis.py and separable.py.
//
// The bicubic filter is in resample_cubic.cuh; bilinear, and for all masks: one block renders a tile of 16 x 32 output pixels: mask,
// then image, then ground. A plane is resampled in chunks of 64 source columns and 32 source rows: all loads of a chunk are under
// way at once, as words; two rows at a time are weighed by dp2a; vertical sums go to shared memory, then every thread adds what its
// outputs take from them. So any scale fits the same shared memory.

#define TILE_ROWS 16
#define TILE_COLS 32
#define THREADS 256
#define WARPS (THREADS / 32)
#define ROWS_PER_WARP (TILE_ROWS / WARPS)
#define CHUNK 64  // source px
#define TAPS 32   // source rows at a time
#define WORDS(channels) (CHUNK * (channels) / 4)  // of a row of a chunk

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
    union {
        short y_weights[TAPS][TILE_ROWS];          // bicubic
        unsigned int y_pairs[TAPS / 2][TILE_ROWS];  // bilinear: the weights of two rows
    };
    short x_weights[CHUNK][TILE_COLS];
    __align__(8) short sums[TILE_ROWS * CHUNK * 3];
    unsigned int source[TAPS * WORDS(3)];
    int taps_x;
    unsigned char ground[3 * ROWS_PER_WARP][THREADS], mask[ROWS_PER_WARP][THREADS];  // a thread's own
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

// Rounded sum of the weights of the first taps, at most all.
static __device__ int sum_of(const Window& w, int taps) {
    return taps <= 0 ? 0 : (int)(running_sum(w, min(taps, w.count)) * w.norm + 0.5);
}

// Weight of tap k; 0 outside the window.
static __device__ short weight_of(const Window& w, int k) { return (short)(sum_of(w, k + 1) - sum_of(w, k)); }

// Four bytes from a multiple of 4 on; those outside `low` .. `high` are not touched and give 0.
static __device__ unsigned int word_within(const unsigned char* at, const unsigned char* low, const unsigned char* high) {
    unsigned int value = 0;
#pragma unroll 1
    for (int i = 0; i < 4; i++)
        if (at + i >= low && at + i < high) value |= (unsigned int)__ldg(at + i) << (8 * i);
    return value;
}

// A warp loads a row of a chunk: words `lane` and `lane + 32` of the `count` from the multiple of 4 before `at` on, where `from`
// is one, 4 * lane bytes further.
template <int C>
static __device__ uint2 load_row(const unsigned char* from, int at, int count) {
    const unsigned int* words = (const unsigned int*)(from + (at & ~3));
    int left = count - (int)(threadIdx.x % 32);
    return make_uint2(left > 0 ? __ldg(words) : 0, C > 1 && left > 32 ? __ldg(words + 32) : 0);
}

template <int C>
static __device__ uint2 load_row_within(const unsigned char* at, const unsigned char* low, const unsigned char* high) {
    const unsigned char* word = at - ((unsigned long long)at & 3u) + threadIdx.x % 32 * 4;
    return make_uint2(word_within(word, low, high), C > 1 ? word_within(word + 128, low, high) : 0);
}

// Put a loaded row where it begins with the byte that was at `at`.
template <int C>
static __device__ void store_row(unsigned int* to, uint2 row, unsigned int at) {
    int lane = threadIdx.x % 32;
    unsigned int shift = 8 * (at & 3u), next = __shfl_sync(0xffffffffu, lane ? row.x : row.y, (lane + 1) % 32);
    if (lane < WORDS(C)) to[lane] = __funnelshift_r(row.x, next, shift);
    if (C > 1) {
        next = __shfl_down_sync(0xffffffffu, row.y, 1);
        if (lane + 32 < WORDS(C)) to[lane + 32] = __funnelshift_r(row.y, next, shift);
    }
}

// Write the weights of source rows r0 .. r0 + rows - 1 to s.y_pairs, which is 0; the last warps do most.
static __device__ void weigh_rows(Shared& s, int r0, int rows) {
    for (int i = (threadIdx.x + 96) % THREADS; i < TILE_ROWS * TAPS; i += THREADS) {
        const Window& w = s.y[i % TILE_ROWS];
        int row = max(w.first - r0, 0) + i / TILE_ROWS;
        if (row < min(w.first + w.count - r0, rows))
            ((short*)&s.y_pairs[row / 2][i % TILE_ROWS])[row % 2] = weight_of(w, r0 + row - w.first);
    }
}

// Write the vertical sums of source columns c0 .. c0 + CHUNK - 1 to s.sums[row][px * C + channel]. A thread does words of one row.
template <int C>
static __device__ void vertical(const Plane& p, Shared& s, int c0, int cols, bool first_chunk) {
    const int LOADS = TAPS / WARPS, ITEMS = WORDS(C) / 16;
    int warp = threadIdx.x / 32, count = (cols * C + 3) / 4 + 1, pitch = p.pitch;
    const unsigned char* low = (const unsigned char*)p.address;
    const unsigned char* high = low + (long long)(p.rows - 1) * pitch + p.cols * C;
    int begin = s.y[0].first, end = s.y[TILE_ROWS - 1].first + s.y[TILE_ROWS - 1].count;
    int out_row = threadIdx.x / 16;
    unsigned int sums[ITEMS][4];
#pragma unroll
    for (int q = 0; q < ITEMS; q++) sums[q][0] = sums[q][1] = sums[q][2] = sums[q][3] = 1u << 7;
    for (int r0 = begin; r0 < end; r0 += TAPS) {
        int rows = min(TAPS, end - r0), even = rows + 1 & ~1;
        uint2 held[LOADS];
        const unsigned char* base = low + (long long)r0 * pitch + c0 * C;
        // An odd last row is there twice: its twin weighs nothing.
        int shift = (int)((unsigned long long)base & 3u);
        const unsigned char *aligned = base - shift, *from = aligned + threadIdx.x % 32 * 4;
        bool inside = aligned >= low && base + (rows - 1) * pitch + 4 * count <= high;
#pragma unroll
        for (int q = 0; q < LOADS; q++) {
            int row = warp + q * WARPS;
            if (inside && row < even) held[q] = load_row<C>(from, shift + min(row, rows - 1) * pitch, count);
        }
        if (first_chunk || end - begin > TAPS) {  // the same for all threads
            s.y_pairs[threadIdx.x / TILE_ROWS][threadIdx.x % TILE_ROWS] = 0;
            __syncthreads();
            weigh_rows(s, r0, rows);
        }
#pragma unroll
        for (int q = 0; q < LOADS; q++) {
            int row = warp + q * WARPS;
            unsigned int at = shift + min(row, rows - 1) * pitch;
            if (inside && row < even) store_row<C>(s.source + row * WORDS(C), held[q], at);
        }
#pragma unroll 1
        for (int row = warp; !inside && row < even; row += WARPS) {  // the first or the last bytes of the plane
            const unsigned char* at = base + min(row, rows - 1) * pitch;
            store_row<C>(s.source + row * WORDS(C), load_row_within<C>(at, low, high), (unsigned int)(unsigned long long)at);
        }
        __syncthreads();
        const Window& window = s.y[out_row];
        int pair = max(window.first - r0, 0) / 2, last = (min(window.first + window.count - r0, rows) + 1) / 2;
        const unsigned int* at = s.source + 2 * pair * WORDS(C) + threadIdx.x % 16;
#pragma unroll 1
        for (; pair < last; pair++, at += 2 * WORDS(C)) {
            unsigned int weights = s.y_pairs[pair][out_row];
#pragma unroll
            for (int q = 0; q < ITEMS; q++) {
                unsigned int upper = at[16 * q], lower = at[16 * q + WORDS(C)];
                unsigned int left = __byte_perm(upper, lower, 0x5140), right = __byte_perm(upper, lower, 0x7362);
                sums[q][0] = __dp2a_lo(weights, left, sums[q][0]);
                sums[q][1] = __dp2a_hi(weights, left, sums[q][1]);
                sums[q][2] = __dp2a_lo(weights, right, sums[q][2]);
                sums[q][3] = __dp2a_hi(weights, right, sums[q][3]);
            }
        }
        if (end - begin > TAPS) __syncthreads();
    }
    uint2* to = (uint2*)s.sums + out_row * WORDS(C) + threadIdx.x % 16;
#pragma unroll
    for (int q = 0; q < ITEMS; q++)
        to[16 * q] = make_uint2(__byte_perm(sums[q][0] >> 8, sums[q][1] >> 8, 0x5410),
                                __byte_perm(sums[q][2] >> 8, sums[q][3] >> 8, 0x5410));
}

// Resample one plane to the tile at (top, left): result[i] is channel i % C of row `warp` + i / C * WARPS and column `lane`, 0 .. 255.
template <int C>
static __device__ void resample_tile(const Plane& source, Shared& s, int height, int width, int top, int left,
                                     int* totals) {
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
        int most = __reduce_max_sync(0xffffffffu, s.x[column].count);
        if (column == 0) s.taps_x = most;
    }
    __syncthreads();
    const Window &low = s.x[p.flip ? TILE_COLS - 1 : 0], &high = s.x[p.flip ? 0 : TILE_COLS - 1];
    int begin = low.first, end = high.first + high.count;

#pragma unroll
    for (int i = 0; i < ITEMS; i++) totals[i] = 1 << 19;
    for (int c0 = begin; c0 < end; c0 += CHUNK) {
        int cols = min(CHUNK, end - c0);
        // This column's taps in the chunk are k .. k + count - 1, at chunk column `at` and on.
        int k = max(c0 - s.x[column].first, 0);
        int count = min(s.x[column].count, c0 + cols - s.x[column].first) - k;
        int at = s.x[column].first + k - c0;
        for (int i = warp; i < min(s.taps_x, CHUNK); i += WARPS) s.x_weights[i][column] = weight_of(s.x[column], k + i);
        vertical<C>(p, s, c0, cols, c0 == begin);
        __syncthreads();
        const short* v = s.sums + (warp * CHUNK + at) * C;
#pragma unroll 2
        for (int j = 0; j < count; j++, v += C) {
            int weight = s.x_weights[j][column];
#pragma unroll
            for (int i = 0; i < ITEMS; i++) totals[i] += weight * v[i / C * (WARPS * CHUNK * C) + i % C];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) totals[i] >>= 20;
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

static __device__ unsigned int ground_at(const Row& row, const unsigned char* donor, int channel, int pixel) {
    if (row.mode == FILL) return row.fill[channel];
    if (row.mode == DONOR) return *donor;
    return (mix(mix((unsigned int)pixel ^ row.seed_lo) + row.seed_hi) >> (8 * channel)) & 255u;
}

// planes (N, 3): image, mask, donor. has_masks: 0 none, 1 to be used, 2 and to be written. totals (N, 3): sums of the uncomposited
// views whose ground is their mean. A thread makes the pixels of its lane's column in ROWS_PER_WARP rows, from mask to store.
template <bool CUBIC>
static __device__ void render(const Plane* __restrict__ planes, const Row* __restrict__ rows, int height, int width,
                              unsigned char* __restrict__ views, unsigned char* __restrict__ masks, int has_masks,
                              unsigned long long* __restrict__ totals, Shared& s, CubicShared* windows) {
    long long n = blockIdx.z, pixels = (long long)height * width;
    int top = blockIdx.y * TILE_ROWS, left = blockIdx.x * TILE_COLS;
    int x = left + threadIdx.x % TILE_COLS, y = top + threadIdx.x / TILE_COLS;
    const Plane* plane = planes + 3 * n;
    const Row& row = rows[n];
    bool store_mask = has_masks == 2, masked = has_masks && plane[1].address != 0;
    int mode = masked ? row.mode : KEEP;

    int mask[ROWS_PER_WARP] = {};
    if (masked && (store_mask || mode != KEEP)) resample_tile<1>(plane[1], s, height, width, top, left, mask);
#pragma unroll
    for (int i = 0; i < ROWS_PER_WARP; i++) {
        s.mask[i][threadIdx.x] = (unsigned char)mask[i];
        if (store_mask && x < width && y + i * WARPS < height)
            masks[n * pixels + (y + i * WARPS) * width + x] = (unsigned char)mask[i];
    }
    if (mode == MEAN && threadIdx.x < 3) s.totals[threadIdx.x] = 0;
    int view[3 * ROWS_PER_WARP];
    for (int i = mode == DONOR ? 2 : 0; i >= 0; i -= 2) {
        if (CUBIC) {
            resample_tile_cubic(plane[i], s, *windows, height, width, top, left, view);
        } else {
            resample_tile<3>(plane[i], s, height, width, top, left, view);
        }
#pragma unroll
        for (int j = 0; i == 2 && j < 3 * ROWS_PER_WARP; j++) s.ground[j][threadIdx.x] = (unsigned char)view[j];
    }
#pragma unroll
    for (int j = 0; j < 3 * ROWS_PER_WARP; j++) {
        int channel = j % 3, line = y + j / 3 * WARPS, pixel = line * width + x;
        if (line >= height || x >= width) continue;
        unsigned int value = view[j];
        if (mode == MEAN) atomicAdd(&s.totals[channel], value);
        if (mode != KEEP && mode != MEAN)
            value = blend(value, ground_at(row, &s.ground[j][threadIdx.x], channel, pixel), s.mask[j / 3][threadIdx.x]);
        views[(3 * n + channel) * pixels + pixel] = (unsigned char)value;
    }
    if (mode != MEAN) return;
    __syncthreads();
    if (threadIdx.x < 3) atomicAdd(&totals[3 * n + threadIdx.x], (unsigned long long)s.totals[threadIdx.x]);
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
