// The figure's box of each view and the strip that is tiled over it; the rules of ground_strips.py.

struct Tile {
    int top, left, bottom, right;  // the box, ends excluded
    int first, length, vertical;   // the strip; length 0: the view is left alone
};

// A block per view: the box of what reaches the threshold, then the largest strip beside it.
extern "C" __global__ void __launch_bounds__(256)
ground_strips_find(const unsigned char* masks, int height, int width, int threshold, Tile* tiles, unsigned char* valid) {
    __shared__ int top, left, bottom, right;
    long long plane = (long long)height * width;
    const unsigned char* mask = masks + blockIdx.x * plane;
    if (threadIdx.x == 0) {
        top = height;
        left = width;
        bottom = right = 0;
    }
    __syncthreads();
    int t = height, l = width, b = 0, r = 0;
    int rows = blockDim.x / 32, lane = threadIdx.x % 32;  // a warp per row
    for (int y = threadIdx.x / 32; y < height; y += rows) {
        for (int x = lane; x < width; x += 32) {
            if (mask[(long long)y * width + x] < threshold) continue;
            t = min(t, y);
            b = y + 1;
            l = min(l, x);
            r = max(r, x + 1);
        }
    }
    if (r > 0) {
        atomicMin(&top, t);
        atomicMin(&left, l);
        atomicMax(&bottom, b);
        atomicMax(&right, r);
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    Tile tile = {top, left, bottom, right, 0, 0, 0};
    long long area = 0;
    if (bottom > 0) {
        long long above = (long long)top * width, before = (long long)left * height;
        long long after = (long long)(width - right) * height, below = (long long)(height - bottom) * width;
        if (above > area) {
            area = above;
            tile.length = top;
        }
        if (before > area) {
            area = before;
            tile.length = left;
            tile.vertical = 1;
        }
        if (after > area) {
            area = after;
            tile.first = right;
            tile.length = width - right;
            tile.vertical = 1;
        }
        if (below > area) {
            tile.first = bottom;
            tile.length = height - bottom;
            tile.vertical = 0;
        }
    }
    tiles[blockIdx.x] = tile;
    valid[blockIdx.x] = tile.length > 0;
}

// PIXELS neighbours of one row of one plane a thread, packed in a word. A strip is never written, so `out` may be `views`.
template <typename Unit, int PIXELS>
static __device__ __forceinline__ void fill(const unsigned char* views, const Tile* tiles, int height, int width,
                                            long long total, Unit* out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int units = width / PIXELS;
    long long row = i / units, plane = row / height;
    int y = (int)(row - plane * height), x = (int)(i - row * units) * PIXELS;
    Tile tile = tiles[plane / 3];
    Unit kept = ((const Unit*)views)[i];
    if (tile.length == 0 || y < tile.top || y >= tile.bottom || x + PIXELS <= tile.left || x >= tile.right) {
        out[i] = kept;
        return;
    }
    int from = tile.vertical ? y : tile.first + y % tile.length;
    const unsigned char* line = views + (plane * height + from) * width;
    unsigned int result = kept;
#pragma unroll
    for (int k = 0; k < PIXELS; k++) {
        if (x + k < tile.left || x + k >= tile.right) continue;
        unsigned int value = line[tile.vertical ? tile.first + (x + k) % tile.length : x + k];
        result = (result & ~(255u << (8 * k))) | value << (8 * k);
    }
    out[i] = (Unit)result;
}

extern "C" __global__ void __launch_bounds__(256)
ground_strips_fill4(const unsigned char* views, const Tile* tiles, int height, int width, long long total,
                    unsigned int* out) {
    fill<unsigned int, 4>(views, tiles, height, width, total, out);
}

extern "C" __global__ void __launch_bounds__(256)
ground_strips_fill1(const unsigned char* views, const Tile* tiles, int height, int width, long long total,
                    unsigned char* out) {
    fill<unsigned char, 1>(views, tiles, height, width, total, out);
}
