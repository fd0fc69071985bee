// Barrier cost and border contrast added per pixel: saliency_pixels.py, operation by operation. One block per image.

typedef unsigned char u8;

static __device__ int cost_of(const u8* cost, int pixels, int i) {
    return (int)cost[i] + (int)cost[i + pixels] + (int)cost[i + 2 * pixels];
}

extern "C" __global__ void saliency_pixels_mix(const u8* __restrict__ costs,
                                               const unsigned short* __restrict__ contrasts,
                                               const int* __restrict__ center, int plus, int pixels,
                                               u8* __restrict__ out) {
    __shared__ int low, high, low_mixed, high_mixed;
    const u8* cost = costs + (long long)blockIdx.x * 3 * pixels;
    const unsigned short* contrast = contrasts + (plus ? (long long)blockIdx.x * pixels : 0);
    if (threadIdx.x == 0) low = low_mixed = 0x7fffffff, high = high_mixed = 0;
    __syncthreads();
    int least = 0x7fffffff, most = 0;  // of a thread: one atomic each, not one a pixel
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
        int value = cost_of(cost, pixels, i);
        least = min(least, value), most = max(most, value);
    }
    atomicMin(&low, least);
    atomicMax(&high, most);
    __syncthreads();
    int first = low, spread = max(high - low, 1);
    if (plus) {
        least = 0x7fffffff, most = 0;
        for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
            int value = ((cost_of(cost, pixels, i) - first) * 4095 / spread + contrast[i]) * center[i];
            least = min(least, value), most = max(most, value);
        }
        atomicMin(&low_mixed, least);
        atomicMax(&high_mixed, most);
        __syncthreads();
    }
    int base = plus ? low_mixed : first, range = plus ? max(high_mixed - low_mixed, 1) : spread;
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) {
        int value = cost_of(cost, pixels, i);
        if (plus) value = ((value - first) * 4095 / spread + contrast[i]) * center[i];
        out[(long long)blockIdx.x * pixels + i] = (u8)((value - base) * 255 / range);
    }
}
