// Composite of planar views by soft masks; the arithmetic of background.py.

static __device__ __forceinline__ unsigned int blend(unsigned int figure, unsigned int ground, unsigned int mask) {
    unsigned int t = figure * mask + ground * (255u - mask) + 128u;
    return ((t >> 8) + t) >> 8;
}

static __device__ __forceinline__ unsigned int blend4(unsigned int figure, unsigned int ground, unsigned int mask) {
    unsigned int result = 0;
#pragma unroll
    for (int shift = 0; shift < 32; shift += 8) {
        result |= blend((figure >> shift) & 255u, (ground >> shift) & 255u, (mask >> shift) & 255u) << shift;
    }
    return result;
}

// `pixels` of a plane, `items` = N * 3 * pixels of all planes; a mask plane serves three colour planes.
extern "C" __global__ void __launch_bounds__(256)
background_composite1(const unsigned char* figures, const unsigned char* grounds, const unsigned char* masks,
                      unsigned char* out, long long pixels, long long items) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= items) return;
    long long plane = i / pixels;
    out[i] = (unsigned char)blend(figures[i], grounds[i], masks[(plane / 3) * pixels + (i - plane * pixels)]);
}

// Sixteen pixels a thread; `pixels` is a multiple of 16 and every array starts on 16 bytes.
extern "C" __global__ void __launch_bounds__(256)
background_composite16(const uint4* figures, const uint4* grounds, const uint4* masks, uint4* out, long long pixels,
                       long long items) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= items) return;
    long long groups = pixels / 16;
    long long plane = i / groups;
    uint4 figure = figures[i], ground = grounds[i], mask = masks[(plane / 3) * groups + (i - plane * groups)], result;
    result.x = blend4(figure.x, ground.x, mask.x);
    result.y = blend4(figure.y, ground.y, mask.y);
    result.z = blend4(figure.z, ground.z, mask.z);
    result.w = blend4(figure.w, ground.w, mask.w);
    out[i] = result;
}
