// Gaussian blur of blur.py: a tile of 64 x 32 pixels a block, columns first, then rows, both in shared memory.

#define TILE_WIDTH 64
#define TILE_HEIGHT 32
#define THREADS 256

// The place in [0, size) that i mirrors: ... 2 1 0 1 2 ..., over and over.
static __device__ __forceinline__ int reflect(int i, int size) {
    if (size == 1) return 0;
    int period = 2 * (size - 1);
    i %= period;
    if (i < 0) i += period;
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

// Columns: four neighbours at a time, two bytes to a word of 16-bit halves, where two of them can be added.
static __device__ __forceinline__ uint2 weigh_columns(const unsigned int* middle, int line, int radius,
                                                      const unsigned int* weights) {
    const unsigned int halves = 0x00ff00ffu;
    unsigned int value = *middle, weight = weights[0];
    unsigned int sum0 = (value & 255u) * weight + 128u, sum1 = (value >> 8 & 255u) * weight + 128u;
    unsigned int sum2 = (value >> 16 & 255u) * weight + 128u, sum3 = (value >> 24) * weight + 128u;
    for (int k = 1; k <= radius; ++k) {
        unsigned int above = middle[-k * line], below = middle[k * line];
        unsigned int even = (above & halves) + (below & halves), odd = (above >> 8 & halves) + (below >> 8 & halves);
        weight = weights[k];
        sum0 += (even & 0xffffu) * weight;
        sum1 += (odd & 0xffffu) * weight;
        sum2 += (even >> 16) * weight;
        sum3 += (odd >> 16) * weight;
    }
    return make_uint2(sum0 >> 8 | sum1 >> 8 << 16, sum2 >> 8 | sum3 >> 8 << 16);
}

// Rows: four neighbours at a time, whose values slide past; `first` is `radius` places before the first of them.
static __device__ __forceinline__ unsigned int weigh_row(const unsigned short* first, int radius,
                                                         const unsigned int* weights) {
    unsigned int a = first[0], b = first[1], c = first[2];
    unsigned int sum0 = 1u << 23, sum1 = 1u << 23, sum2 = 1u << 23, sum3 = 1u << 23;
    for (int k = 0; k <= 2 * radius; ++k) {
        unsigned int d = first[k + 3], weight = weights[abs(k - radius)];
        sum0 += a * weight;
        sum1 += b * weight;
        sum2 += c * weight;
        sum3 += d * weight;
        a = b, b = c, c = d;
    }
    return sum0 >> 24 | sum1 >> 24 << 8 | sum2 >> 24 << 16 | sum3 >> 24 << 24;
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
          int width, int tiles_x, int tiles_y, int taps, int wide, int done) {
    extern __shared__ uint2 memory[];
    __shared__ unsigned int own[33];
    int tile = blockIdx.x % (tiles_x * tiles_y), plane = blockIdx.x / (tiles_x * tiles_y);
    int radius = radii[plane / 3];
    if (radius == 0 && done) return;
    int left = tile % tiles_x * TILE_WIDTH, top = tile / tiles_x * TILE_HEIGHT;
    int halo = (radius + 3) / 4 * 4, words = (TILE_WIDTH + 2 * halo) / 4;  // a line of the tile, from left - halo on
    uint2* columns = memory;                                             // TILE_HEIGHT lines of 16-bit values
    unsigned int* pixels = (unsigned int*)(columns + TILE_HEIGHT * words);
    const unsigned char* view = views + (long long)plane * height * width;
    unsigned char* result = out + (long long)plane * height * width;

    if (threadIdx.x <= radius) own[threadIdx.x] = weights[plane / 3 * taps + threadIdx.x];
    for (int i = threadIdx.x; i < (TILE_HEIGHT + 2 * radius) * words; i += THREADS) {
        int y = reflect(top - radius + i / words, height), x = left - halo + i % words * 4;
        pixels[i] = load4(view + (long long)y * width, x, width, wide);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_HEIGHT * words; i += THREADS) {
        columns[i] = weigh_columns(pixels + i + radius * words, words, radius, own);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_HEIGHT * TILE_WIDTH / 4; i += THREADS) {
        int y = i / (TILE_WIDTH / 4), x = i % (TILE_WIDTH / 4) * 4;
        if (top + y >= height || left + x >= width) continue;
        const unsigned short* first = (const unsigned short*)(columns + y * words) + halo + x - radius;
        store4(result + (long long)(top + y) * width, left + x, width, wide, weigh_row(first, radius, own));
    }
}
