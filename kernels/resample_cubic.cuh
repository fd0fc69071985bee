// The bicubic part of resample.cu; see axis_cubic.py and separable_cubic.py. Included after struct Shared.
//
// Rows first, as Pillow does: in chunks of 32 source rows, each warp weighs four of them for the tile's 32 columns (a lane is a
// column) and writes them, cut to 0..255 grey, to shared memory; then every thread adds what its outputs take from the chunk.
// Long windows are weighed TAPS source columns at a time.

#define CHUNK_ROWS 32  // source px
#define WARP_ROWS (CHUNK_ROWS / WARPS)

struct CubicWindow {  // of one output pixel on one axis; taps before ends[i] lie left of x = -1, 0, 1
    int first, count, ends[3];
    double u, step, base[3], norm;
};

struct CubicShared {
    CubicWindow y[TILE_ROWS], x[TILE_COLS];
};

static __device__ double piece_sum(int piece, double x, double h, double m) {
    double sign = piece < 2 ? -1.0 : 1.0;
    bool outer = piece == 0 || piece == 3;
    double c0 = outer ? 2.0 : 1.0, c1 = outer ? -4.0 * sign : 0.0, c2 = outer ? 2.5 : -2.5;
    double c3 = outer ? -0.5 * sign : 1.5 * sign;
    double hh = h * h;
    double d0 = c0 + x * (c1 + x * (c2 + x * c3)), d1 = h * (c1 + x * (2.0 * c2 + x * (3.0 * c3)));
    double d2 = hh * (c2 + 3.0 * c3 * x), d3 = hh * h * c3;
    double a = 0.5 * m * (m - 1.0);
    return d0 * m + d1 * a + d2 * (a * (2.0 * m - 1.0) * (1.0 / 3.0)) + d3 * (a * a);
}

static __device__ void cubic_window(CubicWindow& w, double origin, double scale, int n, int i) {
    double support = scale > 1.0 ? scale : 1.0;
    w.step = 1.0 / support;
    double center = origin + (i + 0.5) * scale;
    int begin = max((int)(center - 2.0 * support + 0.5), 0);
    int end = min((int)(center + 2.0 * support + 0.5), n);
    w.first = begin;
    w.count = end - begin;
    w.u = (begin - center + 0.5) * w.step;
    w.ends[0] = max(min((int)(center - support + 0.5), end), begin) - begin;
    w.ends[1] = min((int)(center + 0.5), end) - begin;
    w.ends[2] = min((int)(center + support + 0.5), end) - begin;
    double total = 0.0;
#pragma unroll 1
    for (int piece = 0; piece < 4; piece++) {
        int start = piece ? w.ends[piece - 1] : 0, stop = piece < 3 ? w.ends[piece] : w.count;
        total = total + piece_sum(piece, w.u + w.step * start, w.step, stop - start);
        if (piece < 3) w.base[piece] = total;
    }
    w.norm = 16384.0 / total;
}

// Rounded sum of the weights before tap k, plus 16384 so that it is positive and truncation is floor.
static __device__ int cubic_sum(const CubicWindow& w, int k) {
    int piece = (k > w.ends[0]) + (k > w.ends[1]) + (k > w.ends[2]);
    int start = piece ? w.ends[piece - 1] : 0;
    double s = (piece ? w.base[piece - 1] : 0.0) + piece_sum(piece, w.u + w.step * start, w.step, k - start);
    return (int)(s * w.norm + 16384.5);
}

// Weight of tap k; 0 outside the window.
static __device__ short cubic_weight(const CubicWindow& w, int k) {
    if (k < 0 || k >= w.count) return 0;
    int before = k == 0 ? 16384 : cubic_sum(w, k);
    return (short)(cubic_sum(w, k + 1) - before);
}

// Write the horizontal sums of source rows r0 .. r0 + rows - 1 to s.sums[row][channel][column].
static __device__ void horizontal(const Plane& p, Shared& s, const CubicWindow& window, int r0, int rows, int taps,
                                  bool first_chunk) {
    int column = threadIdx.x % TILE_COLS, warp = threadIdx.x / TILE_COLS;
    int sums[WARP_ROWS][3];
#pragma unroll
    for (int i = 0; i < WARP_ROWS; i++) sums[i][0] = sums[i][1] = sums[i][2] = 1 << 7;
    const unsigned char* base = (const unsigned char*)p.address + (long long)(r0 + warp) * p.pitch;
    for (int k0 = 0; k0 < taps; k0 += TAPS) {
        if (taps > TAPS || first_chunk) {  // the same for all threads
            __syncthreads();
            for (int k = warp; k < min(TAPS, taps - k0); k += WARPS) s.x_weights[k][column] = cubic_weight(window, k0 + k);
            __syncthreads();
        }
        int count = min(TAPS, window.count - k0);
        const unsigned char* at = base + (long long)(window.first + k0) * 3;
#pragma unroll 1
        for (int k = 0; k < count; k++, at += 3) {
            int weight = s.x_weights[k][column];
#pragma unroll
            for (int i = 0; i < WARP_ROWS; i++) {
                if (warp + i * WARPS < rows) {
                    const unsigned char* pixel = at + (long long)i * WARPS * p.pitch;
                    for (int c = 0; c < 3; c++) sums[i][c] += weight * (int)__ldg(pixel + c);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < WARP_ROWS; i++) {
        for (int c = 0; c < 3; c++)
            s.sums[((warp + i * WARPS) * 3 + c) * TILE_COLS + column] = (short)min(max(sums[i][c] >> 8, 0), 255 * 64);
    }
}

// As resample_tile<3>.
static __device__ void resample_tile_cubic(const Plane& source, Shared& s, CubicShared& windows, int height, int width, int top,
                                           int left, int* totals) {
    const int ITEMS = 3 * ROWS_PER_WARP;
    int column = threadIdx.x % TILE_COLS, warp = threadIdx.x / TILE_COLS;
    const Plane& p = s.plane;
    if (warp == 0) {
        cubic_window(windows.y[column], source.origin_y, source.scale_y, source.rows, min(top + column, height - 1));
    } else if (warp == 1) {
        int x = min(left + column, width - 1);
        cubic_window(windows.x[column], source.origin_x, source.scale_x, source.cols, source.flip ? width - 1 - x : x);
    } else if (threadIdx.x == THREADS - 1) {
        s.plane = source;
    }
    __syncthreads();
    int taps_x = 0;
    for (int i = 0; i < TILE_COLS; i++) taps_x = max(taps_x, windows.x[i].count);
    int begin = windows.y[0].first, end = windows.y[TILE_ROWS - 1].first + windows.y[TILE_ROWS - 1].count;

#pragma unroll
    for (int i = 0; i < ITEMS; i++) totals[i] = 1 << 19;
    for (int r0 = begin; r0 < end; r0 += CHUNK_ROWS) {
        int rows = min(CHUNK_ROWS, end - r0);
        for (int i = threadIdx.x; i < TILE_ROWS * rows; i += THREADS) {
            const CubicWindow& window = windows.y[i % TILE_ROWS];
            s.y_weights[i / TILE_ROWS][i % TILE_ROWS] = cubic_weight(window, r0 + i / TILE_ROWS - window.first);
        }
        horizontal(p, s, windows.x[column], r0, rows, taps_x, r0 == begin);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            int row = warp + i / 3 * WARPS;
            const CubicWindow& window = windows.y[row];
            int stop = min(window.first + window.count - r0, rows);
            for (int j = max(window.first - r0, 0); j < stop; j++)
                totals[i] += (int)s.y_weights[j][row] * s.sums[(j * 3 + i % 3) * TILE_COLS + column];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) totals[i] = min(max(totals[i] >> 20, 0), 255);
}
