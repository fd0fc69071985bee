// Hidden patches for masked image modelling; the draws of token_masks.py.

#include "draws.cuh"

// Hide rectangles, return how many patches they cover: `wanted`, or less once ten in a row do not fit.
static __device__ int hide_blocks(unsigned long long key, int wanted, const double* aspects, int gh, int gw,
                                  unsigned char* hidden) {
    int done = 0, failed = 0;
    for (unsigned int t = 0; done < wanted && failed < 10; t++) {
        int most = min(wanted - done, max(gh * gw / 2, 1));
        double area = 4 + (most - 4) * (draws_draw(key, 4 * t) * (1.0 / 16777216.0));
        double aspect = aspects[draws_below(key, 4 * t + 1, 1024)];
        int h = (int)(sqrt(area * aspect) + 0.5), w = (int)(sqrt(area / aspect) + 0.5);
        failed++;
        if (h >= gh || w >= gw) continue;
        int top = draws_below(key, 4 * t + 2, gh - h + 1), left = draws_below(key, 4 * t + 3, gw - w + 1);
        int fresh = h * w;
        for (int i = 0; i < h * w; i++) fresh -= hidden[(top + i / w) * gw + left + i % w];
        if (fresh <= 0 || fresh > most) continue;
        for (int i = 0; i < h * w; i++) hidden[(top + i / w) * gw + left + i % w] = 1;
        done += fresh;
        failed = 0;
    }
    return done;
}

// One block of threads a view: all add up the mask, the first chooses, all write. Policies as in token_masks.py.
extern "C" __global__ void __launch_bounds__(128)
token_masks_choose(const unsigned char* masks, const unsigned long long* keys, const int* counts, const double* aspects,
                   int height, int width, int gh, int gw, int policy, double ratio, unsigned char* out) {
    extern __shared__ __align__(16) unsigned char memory[];
    int patches = gh * gw, cell_h = height / gh, cell_w = width / gw;
    unsigned int* sums = (unsigned int*)memory;
    short* items = (short*)(sums + patches);
    unsigned char* hidden = (unsigned char*)(items + patches);
    long long n = blockIdx.x;
    bool led = policy > 0 && policy < 4;
    if (led) draws_cell_sums(masks + n * height * width, width, gh, gw, cell_h, cell_w, sums);
    if (threadIdx.x == 0) {
        unsigned long long key = keys[n];
        int left = counts[n], figures = 0;
        for (int j = 0; j < patches; j++) hidden[j] = 0;
        if (policy == 4) left -= hide_blocks(key, left, aspects, gh, gw, hidden);
        for (int j = 0; j < patches; j++) {
            bool figure = led ? sums[j] >= 128u * (unsigned int)(cell_h * cell_w) : hidden[j] == 0;
            if (figure) items[figures++] = (short)j;
        }
        int found = figures;
        for (int j = 0; led && j < patches; j++) {
            if (sums[j] < 128u * (unsigned int)(cell_h * cell_w)) items[found++] = (short)j;
        }
        int wanted = left, grounds = found - figures;
        if (policy == 1) wanted = min(left, figures);
        if (policy == 2) wanted = left - min(left, grounds);
        if (policy == 3) {
            wanted = ratio < 0 ? (2 * left * figures + patches) / (2 * patches) : (int)(ratio * figures + 0.5);
            wanted = min(max(wanted, left - grounds), min(left, figures));
        }
        draws_choose_first(items, figures, wanted, key, policy == 4 ? 65536u : 0u);
        draws_choose_first(items + figures, grounds, left - wanted, key, 65536u);
        for (int i = 0; i < wanted; i++) hidden[items[i]] = 1;
        for (int i = figures; i < figures + left - wanted; i++) hidden[items[i]] = 1;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < patches; j += blockDim.x) out[n * patches + j] = hidden[j];
}
