// Gaussian blur of blur.py: a tile of 64 x 32 pixels a block, columns first, then rows, both in shared memory.

#define TILE_WIDTH 64
#define TILE_HEIGHT 32
#define THREADS 256

// The place in [0, size) that i mirrors: ... 2 1 0 1 2 ..., over and over.
static __device__ __forceinline__ int reflect(int i, int size) {
    int period = 2 * (size - 1);
    i = abs(i);
    if (i > period) i = size == 1 ? 0 : i % period;  // only where the blur is wider than the view
    return i < size ? i : period - i;
}

// Four pixels of a row from x on, as a word.
static __device__ __forceinline__ unsigned int load4(const unsigned char* row, int x, int width, int wide) {
    if (wide && x >= 0 && x + 4 <= width) return *(const unsigned int*)(row + x);
    unsigned int values = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) values |= (unsigned int)row[reflect(x + i, width)] << 8 * i;
    return values;
}

// Columns: four neighbours at a time; the pixel above and the one below share a weight, which `pairs` has twice.
static __device__ __forceinline__ uint2 weigh_columns(const unsigned int* middle, int line, int radius, unsigned int weight,
                                                      const unsigned int* pairs) {
    unsigned int value = *middle;
    unsigned int sum0 = (value & 255u) * weight + 128u, sum1 = (value >> 8 & 255u) * weight + 128u;
    unsigned int sum2 = (value >> 16 & 255u) * weight + 128u, sum3 = (value >> 24) * weight + 128u;
    const unsigned int *above = middle, *below = middle;
    for (int k = 1; k <= radius; ++k) {
        above -= line, below += line;
        unsigned int a = *above, b = *below, both = pairs[k];
        unsigned int left = __byte_perm(a, b, 0x5140), right = __byte_perm(a, b, 0x7362);
        sum0 = __dp2a_lo(both, left, sum0);
        sum1 = __dp2a_hi(both, left, sum1);
        sum2 = __dp2a_lo(both, right, sum2);
        sum3 = __dp2a_hi(both, right, sum3);
    }
    return make_uint2(__byte_perm(sum0, sum1, 0x6521), __byte_perm(sum2, sum3, 0x6521));  // bits 8 to 23
}

static __device__ __forceinline__ unsigned int highest_bytes(const unsigned int* sums) {
    return __byte_perm(__byte_perm(sums[0], sums[1], 0x0073), __byte_perm(sums[2], sums[3], 0x0073), 0x5410);
}

// Rows: eight neighbours at a time; those to the left and to the right of them slide away.
static __device__ __forceinline__ uint2 weigh_row(const unsigned short* middle, int radius, const unsigned int* weights) {
    unsigned int left[8], right[8], sums[8], weight = weights[0];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        left[i] = right[i] = middle[i];
        sums[i] = left[i] * weight + (1u << 23);
    }
    const unsigned short *before = middle, *after = middle + 7;
    for (int k = 1; k <= radius; ++k) {
        weight = weights[k];
#pragma unroll
        for (int i = 7; i > 0; --i) left[i] = left[i - 1], right[7 - i] = right[8 - i];
        left[0] = *--before, right[7] = *++after;
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[i] += (left[i] + right[i]) * weight;
    }
    return make_uint2(highest_bytes(sums), highest_bytes(sums + 4));
}

static __device__ __forceinline__ void store4(unsigned char* row, int x, int width, int wide, unsigned int values) {
    if (wide && x + 4 <= width) {
        *(unsigned int*)(row + x) = values;
        return;
    }
    for (int i = 0; i < 4 && x + i < width; ++i) row[x + i] = (unsigned char)(values >> 8 * i);
}

// `weights` (N, taps): the middle one, then one side. `wide`: rows start on 4 bytes. `done`: `out` has the views,
// so those without blur need nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
blur_tile(const unsigned char* views, const int* radii, const unsigned int* weights, unsigned char* out, int height,
          int width, int taps, int wide, int done) {
    extern __shared__ uint2 memory[];
    __shared__ unsigned int own[33], pairs[33];
    int plane = blockIdx.z, radius = radii[plane / 3];
    if (radius == 0 && done) return;
    int left = blockIdx.x * TILE_WIDTH, top = blockIdx.y * TILE_HEIGHT;
    const unsigned char* view = views + (long long)plane * height * width;
    unsigned char* result = out + (long long)plane * height * width;
    for (int i = threadIdx.x; radius == 0 && i < TILE_HEIGHT * TILE_WIDTH / 4; i += THREADS) {  // a copy
        int y = top + i / (TILE_WIDTH / 4), x = left + i % (TILE_WIDTH / 4) * 4;
        if (y >= height || x >= width) continue;
        store4(result + (long long)y * width, x, width, wide, load4(view + (long long)y * width, x, width, wide));
    }
    if (radius == 0) return;
    int halo = (radius + 3) / 4 * 4;
    int words = (min(TILE_WIDTH, width - left) + 7 + 2 * halo) / 8 * 2;  // a line of the tile, from left - halo on
    uint2* columns = memory;                                             // TILE_HEIGHT lines of 16-bit values
    unsigned int* pixels = (unsigned int*)(columns + TILE_HEIGHT * words);
    if (threadIdx.x <= radius) {
        unsigned int weight = weights[plane / 3 * taps + threadIdx.x];
        own[threadIdx.x] = weight;
        pairs[threadIdx.x] = weight | weight << 16;  // but for the middle, weights have 16 bits
    }
    unsigned int inverse = (1u << 20) / words + 1;  // i / words = i * inverse >> 20, as long as i * words < 2^20
    for (int i = threadIdx.x; i < (TILE_HEIGHT + 2 * radius) * words; i += THREADS) {
        int line = i * inverse >> 20, y = reflect(top - radius + line, height), x = left - halo + (i - line * words) * 4;
        pixels[i] = load4(view + (long long)y * width, x, width, wide);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_HEIGHT * words; i += THREADS) {
        columns[i] = weigh_columns(pixels + i + radius * words, words, radius, own[0], pairs);
    }
    __syncthreads();
    int y = threadIdx.x / (TILE_WIDTH / 8), x = threadIdx.x % (TILE_WIDTH / 8) * 8;
    if (top + y >= height || left + x >= width) return;
    uint2 values = weigh_row((const unsigned short*)(columns + y * words) + halo + x, radius, own);
    unsigned char* row = result + (long long)(top + y) * width;
    store4(row, left + x, width, wide, values.x);
    store4(row, left + x + 4, width, wide, values.y);
}
