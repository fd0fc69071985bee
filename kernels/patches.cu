// Patches moved inside a view or across a group of views; the draws and moves of patches.py.

#include "draws.cuh"

// One block a view: the cells that take part, drawn and put in order by the first thread.
extern "C" __global__ void __launch_bounds__(128)
patches_draw(const unsigned long long* keys, const unsigned char* chosen, const unsigned char* masks, int height, int width,
             int region, double fraction, int grid, int cell_h, int cell_w, short* permutation) {
    extern __shared__ __align__(16) unsigned char memory[];
    int cells = grid * grid;
    unsigned int* sums = (unsigned int*)memory;
    short* items = (short*)(sums + cells);
    unsigned char* taken = (unsigned char*)(items + cells);
    long long n = blockIdx.x;
    permutation += n * cells;
    if (region > 0) draws_cell_sums(masks + n * height * width, width, grid, grid, cell_h, cell_w, sums);
    if (threadIdx.x > 0) return;

    int eligible = 0;
    for (int j = 0; j < cells; j++) {
        bool figure = region > 0 && sums[j] >= 128u * (unsigned int)(cell_h * cell_w);
        permutation[j] = (short)j;
        taken[j] = 0;
        if (chosen[n] && (region == 0 || figure == (region == 1))) items[eligible++] = (short)j;
    }
    int wanted = (int)(fraction * eligible + 0.5);
    draws_choose_first(items, eligible, wanted, keys[n], 0);
    for (int i = 0; i < wanted; i++) taken[items[i]] = 1;
    for (int j = 0, i = 0; j < cells; j++) {
        if (taken[j]) permutation[j] = items[i++];
    }
}

// One thread a group and position; the permutation is a word of eight nibbles.
extern "C" __global__ void __launch_bounds__(256)
patches_sources(const unsigned long long* keys, int group, int positions, long long total, signed char* source) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    long long g = i / positions;
    int p = (int)(i - g * positions);
    unsigned int items = 0x76543210u;
    for (int k = 0; k < group; k++) {
        if (k < group - 1) {
            int other = k + draws_below(keys[g], (unsigned int)(p * 8 + k), group - k);
            unsigned int change = ((items >> (4 * k)) ^ (items >> (4 * other))) & 15u;
            items ^= (change << (4 * k)) ^ (change << (4 * other));
        }
        source[(g * group + k) * positions + p] = (signed char)((items >> (4 * k)) & 15u);
    }
}

// One unit (16, 4 or 1 bytes) a thread: `units` in a row, `cell_units` in a cell's row. `table` names the cell of the same
// view that is shown, or the view of the group.
template <typename Unit, typename Entry, bool MIX>
static __device__ __forceinline__ void move_unit(const Unit* planes, const Entry* table, int channels, int height, int units,
                                                 int gh, int gw, int cell_h, int cell_units, int group, long long total,
                                                 Unit* out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    long long row = i / units, plane = row / height, n = plane / channels;
    int x = (int)(i - row * units), y = (int)(row - plane * height);
    int gy = y / cell_h, gx = x / cell_units;
    long long from = i;
    if (gy < gh && gx < gw) {
        int entry = table[n * (gh * gw) + gy * gw + gx];
        if (MIX) {
            from += ((long long)(entry - (int)(n % group)) * channels * height) * units;
        } else {
            int sy = entry / gw, sx = entry - sy * gw;
            from += (long long)((sy - gy) * cell_h) * units + (sx - gx) * cell_units;
        }
    }
    out[i] = planes[from];
}

#define MOVE_PARAMETERS                                                                                             \
    int channels, int height, int units, int gh, int gw, int cell_h, int cell_units, int group, long long total
#define MOVE_ARGUMENTS channels, height, units, gh, gw, cell_h, cell_units, group, total, out

extern "C" __global__ void __launch_bounds__(256)
patches_permute16(const uint4* planes, const short* table, MOVE_PARAMETERS, uint4* out) {
    move_unit<uint4, short, false>(planes, table, MOVE_ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(256)
patches_permute4(const unsigned int* planes, const short* table, MOVE_PARAMETERS, unsigned int* out) {
    move_unit<unsigned int, short, false>(planes, table, MOVE_ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(256)
patches_permute1(const unsigned char* planes, const short* table, MOVE_PARAMETERS, unsigned char* out) {
    move_unit<unsigned char, short, false>(planes, table, MOVE_ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(256)
patches_mix16(const uint4* planes, const signed char* table, MOVE_PARAMETERS, uint4* out) {
    move_unit<uint4, signed char, true>(planes, table, MOVE_ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(256)
patches_mix4(const unsigned int* planes, const signed char* table, MOVE_PARAMETERS, unsigned int* out) {
    move_unit<unsigned int, signed char, true>(planes, table, MOVE_ARGUMENTS);
}

extern "C" __global__ void __launch_bounds__(256)
patches_mix1(const unsigned char* planes, const signed char* table, MOVE_PARAMETERS, unsigned char* out) {
    move_unit<unsigned char, signed char, true>(planes, table, MOVE_ARGUMENTS);
}
