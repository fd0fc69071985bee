// Crop, antialiased resize, flip and composite of ragged images; see resample.py, axis.py and separable.py.
//
// The bicubic filter is in resample_cubic.cuh; bilinear, and for all masks: one block renders a tile of 32 x 32 output pixels: mask,
// then ground, then image. A plane is resampled in chunks of 64 source columns and 64 source rows: all loads of a chunk are under
// way at once, as words; two rows at a time are weighed by dp2a; vertical sums go to shared memory, then every thread adds what its
// outputs take from them. So any scale fits the same shared memory.

#define TILE_ROWS 32
#define TILE_COLS 32
#define THREADS 256
#define WARPS (THREADS / 32)
#define ROWS_PER_WARP (TILE_ROWS / WARPS)
#define CHUNK 64  // source px
#define TAPS 64   // source rows at a time
#define LOAD_ROWS 32  // whose words are under way at once
#define WORDS(channels) (CHUNK * (channels) / 4)  // of a row of a chunk
#define STRIDE(channels) (WORDS(channels) + 8)    // from row to row: neighbouring pairs of rows lie in other banks

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

#include "resample_window.cuh"

struct Shared {
    Plane plane;
    Window y[TILE_ROWS], x[TILE_COLS];
    union {
        short y_weights[TAPS][TILE_ROWS];                         // bicubic
        __align__(16) unsigned int y_pairs[TAPS / 2][TILE_ROWS];  // bilinear: the weights of two rows
    };
    short x_weights[CHUNK][TILE_COLS];
    __align__(16) short sums[TILE_ROWS * CHUNK * 3];
    __align__(16) unsigned int source[TAPS * STRIDE(3)];
    int taps_y, taps_x, top, left;
    unsigned char ground[3 * ROWS_PER_WARP][THREADS], mask[ROWS_PER_WARP][THREADS];  // a thread's own
    unsigned int totals[3];
};

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

// Put a loaded row where it begins with the byte that was at `at`; a funnel's shift is modulo 32.
template <int C>
static __device__ void store_row(unsigned int* to, uint2 row, unsigned int at) {
    int lane = threadIdx.x % 32;
    unsigned int shift = 8 * at, next = __shfl_sync(0xffffffffu, lane ? row.x : row.y, (lane + 1) % 32);
    if (lane < WORDS(C)) to[lane] = __funnelshift_r(row.x, next, shift);
    if (C > 1) {
        next = __shfl_down_sync(0xffffffffu, row.y, 1);
        if (lane + 32 < WORDS(C)) to[lane + 32] = __funnelshift_r(row.y, next, shift);
    }
}

// Bring source rows r0 .. r0 + rows - 1 and columns c0 .. c0 + cols - 1 to s.source. An odd last row is there twice: its twin weighs
// nothing. False: nothing was done, since whole words would reach beyond the plane.
template <int C>
static __device__ bool load_rows(const Plane& p, Shared& s, int r0, int rows, int c0, int cols) {
    const int LOADS = LOAD_ROWS / WARPS;
    int warp = threadIdx.x / 32, count = (cols * C + 3) / 4 + 1, even = rows + 1 & ~1, pitch = p.pitch;
    const unsigned char* low = (const unsigned char*)p.address;
    const unsigned char* base = low + (long long)r0 * pitch + c0 * C;
    int shift = (int)((unsigned long long)base & 3u);
    const unsigned char *aligned = base - shift, *from = aligned + threadIdx.x % 32 * 4;
    if (aligned < low || base + (rows - 1) * pitch + 4 * count > low + (long long)(p.rows - 1) * pitch + p.cols * C) return false;
#pragma unroll
    for (int part = 0; part < TAPS; part += LOAD_ROWS) {
        if (part >= even) break;
        uint2 held[LOADS];
#pragma unroll
        for (int q = 0; q < LOADS; q++) {
            int row = part + warp + q * WARPS;
            if (row < even) held[q] = load_row<C>(from, shift + min(row, rows - 1) * pitch, count);
        }
#pragma unroll
        for (int q = 0; q < LOADS; q++) {
            int row = part + warp + q * WARPS;
            if (row < even) store_row<C>(s.source + row * STRIDE(C), held[q], shift + min(row, rows - 1) * pitch);
        }
    }
    return true;
}

// The same for the first or the last bytes of a plane.
template <int C>
static __device__ void load_rows_within(const Plane& p, Shared& s, int r0, int rows, int c0) {
    int even = rows + 1 & ~1;
    const unsigned char* low = (const unsigned char*)p.address;
    const unsigned char* high = low + (long long)(p.rows - 1) * p.pitch + p.cols * C;
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < even; row += WARPS) {
        const unsigned char* at = low + (long long)(r0 + min(row, rows - 1)) * p.pitch + c0 * C;
        store_row<C>(s.source + row * STRIDE(C), load_row_within<C>(at, low, high), (unsigned int)(unsigned long long)at);
    }
}

static __device__ void clear_weights(Shared& s) { ((uint4*)s.y_pairs)[threadIdx.x] = make_uint4(0, 0, 0, 0); }

// Write the weights of source rows r0 .. r0 + rows - 1 to s.y_pairs, which is 0; the last warps do most.
static __device__ void weigh_rows(Shared& s, int r0, int rows) {
    int most = TILE_ROWS * min(s.taps_y, TAPS), y = threadIdx.x % TILE_ROWS;
    const Window& w = s.y[y];
    int first = max(w.first - r0, 0), last = min(w.first + w.count - r0, rows);
    for (int i = (threadIdx.x + 96) % THREADS; i < most; i += THREADS) {
        int row = first + i / TILE_ROWS;
        if (row < last) ((short*)&s.y_pairs[row / 2][y])[row % 2] = weight_of(w, r0 + row - w.first);
    }
}

// Write the vertical sums of source columns c0 .. c0 + CHUNK - 1 to s.sums[row][px * C + channel]. A thread does words of one row.
// The totals of the chunks before wait in s.sums, since with them the sums here would not fit in registers.
template <int C>
static __device__ void vertical(const Plane& p, Shared& s, int c0, int cols, bool first_chunk, int* totals) {
    const int LANES = THREADS / TILE_ROWS, ITEMS = WORDS(C) / (2 * LANES);
    int begin = s.y[0].first, end = s.y[TILE_ROWS - 1].first + s.y[TILE_ROWS - 1].count;
    int out_row = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    unsigned int sums[2 * ITEMS][4];
#pragma unroll
    for (int q = 0; q < 2 * ITEMS; q++) sums[q][0] = sums[q][1] = sums[q][2] = sums[q][3] = 1u << 7;
    for (int r0 = begin; r0 < end; r0 += TAPS) {
        int rows = min(TAPS, end - r0);
        if (end - begin > TAPS) {  // the same for all threads
            clear_weights(s);
            __syncthreads();
            weigh_rows(s, r0, rows);
        }
        if (!load_rows<C>(p, s, r0, rows, c0, cols)) load_rows_within<C>(p, s, r0, rows, c0);
        __syncthreads();
        const Window& window = s.y[out_row];
        int pair = max(window.first - r0, 0) / 2, last = (min(window.first + window.count - r0, rows) + 1) / 2;
        const uint2* at = (const uint2*)s.source + pair * STRIDE(C) + lane;
#pragma unroll 1
        for (; pair < last; pair++, at += STRIDE(C)) {
            unsigned int weights = s.y_pairs[pair][out_row];
#pragma unroll
            for (int q = 0; q < ITEMS; q++) {
                uint2 upper = at[LANES * q], lower = at[LANES * q + STRIDE(C) / 2];
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    unsigned int *sum = sums[2 * q + k], a = k ? upper.y : upper.x, b = k ? lower.y : lower.x;
                    unsigned int left = __byte_perm(a, b, 0x5140), right = __byte_perm(a, b, 0x7362);
                    sum[0] = __dp2a_lo(weights, left, sum[0]);
                    sum[1] = __dp2a_hi(weights, left, sum[1]);
                    sum[2] = __dp2a_lo(weights, right, sum[2]);
                    sum[3] = __dp2a_hi(weights, right, sum[3]);
                }
            }
        }
        if (end - begin > TAPS) __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < C * ROWS_PER_WARP; i++) totals[i] = first_chunk ? 1 << 19 : ((const int*)s.sums)[i * THREADS + threadIdx.x];
    if (!first_chunk) __syncthreads();
    uint4* to = (uint4*)s.sums + out_row * (WORDS(C) / 2) + lane;
#pragma unroll
    for (int q = 0; q < ITEMS; q++) {  // sums have 22 bits: what is left of them above 8 are two bytes
        const unsigned int *a = sums[2 * q], *b = sums[2 * q + 1];
        to[LANES * q] = make_uint4(__byte_perm(a[0], a[1], 0x6521), __byte_perm(a[2], a[3], 0x6521),
                                   __byte_perm(b[0], b[1], 0x6521), __byte_perm(b[2], b[3], 0x6521));
    }
}

// Resample one plane to the tile at (top, left): result[i] is channel i % C of row `warp` + i / C * WARPS and column `lane`, 0 .. 255.
template <int C>
static __device__ void resample_tile(const Plane& source, Shared& s, int height, int width, int top, int left,
                                     int* totals) {
    const int ITEMS = C * ROWS_PER_WARP;
    int column = threadIdx.x % TILE_COLS, warp = threadIdx.x / TILE_COLS;  // a lane is a column, or a row: both are 32
    const Plane& p = s.plane;  // in shared memory, it costs no registers
    clear_weights(s);
    if (warp == 0) {
        s.y[column] = window_of(source.origin_y, source.scale_y, source.rows, min(top + column, height - 1));
        int most = __reduce_max_sync(0xffffffffu, s.y[column].count);
        if (column == 0) s.taps_y = most;
    } else if (warp == 1) {
        int x = min(left + column, width - 1);
        s.x[column] = window_of(source.origin_x, source.scale_x, source.cols, source.flip ? width - 1 - x : x);
        int most = __reduce_max_sync(0xffffffffu, s.x[column].count);
        if (column == 0) s.taps_x = most;
    } else if (threadIdx.x == THREADS - 1) {
        s.plane = source;
    }
    __syncthreads();
    const Window &low = s.x[p.flip ? TILE_COLS - 1 : 0], &high = s.x[p.flip ? 0 : TILE_COLS - 1];
    int begin = low.first, end = high.first + high.count;
    int first_row = s.y[0].first, rows = s.y[TILE_ROWS - 1].first + s.y[TILE_ROWS - 1].count - first_row;
    if (rows <= TAPS) weigh_rows(s, first_row, rows);

    for (int c0 = begin; c0 < end; c0 += CHUNK) {
        int cols = min(CHUNK, end - c0);
        // This column's taps in the chunk are k .. k + count - 1, at chunk column `at` and on.
        int k = max(c0 - s.x[column].first, 0);
        int count = min(s.x[column].count, c0 + cols - s.x[column].first) - k;
        int at = s.x[column].first + k - c0;
        for (int i = warp; i < min(s.taps_x, CHUNK); i += WARPS) s.x_weights[i][column] = weight_of(s.x[column], k + i);
        vertical<C>(p, s, c0, cols, c0 == begin, totals);
        __syncthreads();
        const short* v = s.sums + (warp * CHUNK + at) * C;
#pragma unroll 2
        for (int j = 0; j < count; j++, v += C) {
            int weight = s.x_weights[j][column], values[ITEMS];
#pragma unroll
            for (int i = 0; i < ITEMS; i++) values[i] = v[i / C * (WARPS * CHUNK * C) + i % C];
#pragma unroll
            for (int i = 0; i < ITEMS; i++) totals[i] += weight * values[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            if (c0 + CHUNK < end) ((int*)s.sums)[i * THREADS + threadIdx.x] = totals[i];
        }
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

// Put the pixels of a thread, which are `ROWS_PER_WARP` lines apart from `pixel` on, on the ground that the row asks for.
static __device__ void composite(const Row& row, const Shared& s, int pixel, int step, int* view) {
#pragma unroll
    for (int i = 0; i < ROWS_PER_WARP; i++, pixel += step) {
        unsigned int noise = row.mode == NOISE ? mix(mix((unsigned int)pixel ^ row.seed_lo) + row.seed_hi) : 0;
#pragma unroll
        for (int channel = 0; channel < 3; channel++) {
            unsigned int ground = noise >> (8 * channel) & 255u;
            if (row.mode == FILL) ground = row.fill[channel];
            if (row.mode == DONOR) ground = s.ground[3 * i + channel][threadIdx.x];
            view[3 * i + channel] = blend(view[3 * i + channel], ground, s.mask[i][threadIdx.x]);
        }
    }
}

// planes (N, 3): image, mask, donor. has_masks: 0 none, 1 to be used, 2 and to be written. totals (N, 3): sums of the uncomposited
// views whose ground is their mean. A thread makes the pixels of its lane's column in ROWS_PER_WARP rows, from mask to store.
template <bool CUBIC>
static __device__ void render(const Plane* __restrict__ planes, const Row* __restrict__ rows, int height, int width,
                              unsigned char* __restrict__ views, unsigned char* __restrict__ masks, int has_masks,
                              unsigned long long* __restrict__ totals, Shared& s, CubicShared* windows) {
    long long n = blockIdx.z, pixels = (long long)height * width;
    int top = blockIdx.y * TILE_ROWS, left = blockIdx.x * TILE_COLS;
    const Plane* plane = planes + 3 * n;
    const Row& row = rows[n];
    bool store_mask = has_masks == 2, masked = has_masks && plane[1].address != 0, figure = true;
    int mode = masked ? row.mode : KEEP;

    if (threadIdx.x == 0) s.top = top, s.left = left;  // once more in shared memory, where they cost no registers
    if (store_mask || mode != KEEP) {
        int mask[ROWS_PER_WARP] = {}, least = 255, most = 0;
        if (masked) resample_tile<1>(plane[1], s, height, width, top, left, mask);
#pragma unroll
        for (int i = 0; i < ROWS_PER_WARP; i++) {
            s.mask[i][threadIdx.x] = (unsigned char)mask[i];
            least = min(least, mask[i]), most = max(most, mask[i]);
            int y = top + threadIdx.x / TILE_COLS + i * WARPS, x = left + threadIdx.x % TILE_COLS;
            if (store_mask && y < height && x < width) masks[n * pixels + y * width + x] = (unsigned char)mask[i];
        }
        if (mode != KEEP && mode != MEAN) {  // what a tile does not show is left out
            figure = __syncthreads_or(most > 0);
            if (!__syncthreads_or(least < 255)) mode = KEEP;
        }
    }
    int view[3 * ROWS_PER_WARP];
    for (int i = mode == DONOR ? 2 : 0; i >= (figure ? 0 : 1); i -= 2) {
        if (CUBIC) {
            resample_tile_cubic(plane[i], s, *windows, height, width, top, left, view);
        } else {
            resample_tile<3>(plane[i], s, height, width, top, left, view);
        }
        if (i == 0) break;
#pragma unroll
        for (int j = 0; j < 3 * ROWS_PER_WARP; j++) s.ground[j][threadIdx.x] = (unsigned char)view[j];
    }
    if (!figure) {
#pragma unroll
        for (int j = 0; j < 3 * ROWS_PER_WARP; j++) view[j] = 0;
    }
    int x = s.left + threadIdx.x % TILE_COLS, y = s.top + threadIdx.x / TILE_COLS;
    int lines = x < width ? height - y : 0, pixel = y * width + x, step = WARPS * width;
    if (mode != KEEP && mode != MEAN) composite(row, s, pixel, step, view);
    unsigned char *red = views + 3 * n * pixels + pixel, *green = red + pixels, *blue = green + pixels;
#pragma unroll
    for (int i = 0; i < ROWS_PER_WARP; i++, red += step, green += step, blue += step) {
        if (i * WARPS >= lines) break;
        *red = (unsigned char)view[3 * i];
        *green = (unsigned char)view[3 * i + 1];
        *blue = (unsigned char)view[3 * i + 2];
    }
    if (mode != MEAN) return;
    if (threadIdx.x < 3) s.totals[threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 3 * ROWS_PER_WARP; j++) {
        if (j / 3 * WARPS < lines) atomicAdd(&s.totals[j % 3], (unsigned int)view[j]);
    }
    __syncthreads();
    if (threadIdx.x < 3) atomicAdd(&totals[3 * n + threadIdx.x], (unsigned long long)s.totals[threadIdx.x]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
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
