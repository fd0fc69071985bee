// The integer draws of draws.py.

static __device__ __forceinline__ unsigned long long draws_mix64(unsigned long long x) {
    unsigned long long z = x + 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// Draw `i` of a key: 24 bits.
static __device__ __forceinline__ unsigned int draws_draw(unsigned long long key, unsigned int i) {
    return (unsigned int)(draws_mix64(key ^ draws_mix64(i)) >> 40);
}

// Draw `i` of a key as an integer of 0 .. bound - 1; `bound` is 1 .. 2**24.
static __device__ __forceinline__ int draws_below(unsigned long long key, unsigned int i, int bound) {
    return (int)(((unsigned long long)draws_draw(key, i) * (unsigned int)bound) >> 24);
}

// The finaliser of MurmurHash3.
static __device__ __forceinline__ unsigned int draws_scramble32(unsigned int x) {
    x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    return x ^ (x >> 16);
}

// Put `wanted` of `count` items in front, in random order: the first steps of Fisher and Yates.
static __device__ void draws_choose_first(short* items, int count, int wanted, unsigned long long key,
                                          unsigned int first_draw) {
    for (int i = 0; i < wanted; i++) {
        int j = i + draws_below(key, first_draw + (unsigned int)i, count - i);
        short held = items[i];
        items[i] = items[j];
        items[j] = held;
    }
}

// Add up the mask over each cell of a grid of gh x gw cells of cell_h x cell_w pixels: the whole block works, `sums` is
// shared and complete after the last barrier. Runs of a row are summed by one thread each.
static __device__ void draws_cell_sums(const unsigned char* mask, int width, int gh, int gw, int cell_h, int cell_w,
                                       unsigned int* sums) {
    for (int cell = threadIdx.x; cell < gh * gw; cell += blockDim.x) sums[cell] = 0;
    __syncthreads();
    for (int run = threadIdx.x; run < gh * cell_h * gw; run += blockDim.x) {
        int y = run / gw, gx = run - y * gw;
        const unsigned char* from = mask + (long long)y * width + gx * cell_w;
        unsigned int sum = 0;
        for (int x = 0; x < cell_w; x++) sum += from[x];
        atomicAdd(&sums[(y / cell_h) * gw + gx], sum);
    }
    __syncthreads();
}
