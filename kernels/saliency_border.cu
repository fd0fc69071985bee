// Colour distance to the border strips: saliency_border.py, operation by operation. One block of 256 threads per image.

typedef unsigned char u8;
typedef unsigned long long u64;

struct Strip {
    float mean[3], q[6];
};

static __device__ float distance_to(const Strip& s, float light, float alpha, float beta) {
    float a = light - s.mean[0], b = alpha - s.mean[1], c = beta - s.mean[2];
    float square = a * ((s.q[0] * a + s.q[3] * b) + s.q[4] * c) + (b * (s.q[1] * b + s.q[5] * c) + c * (s.q[2] * c));
    return sqrtf(max(square, 0.0f));
}

// Mean and inverse covariance of one strip from its nine sums.
static __device__ Strip model_of(const u64* sums, long long n) {
    long long s[9];
    for (int k = 0; k < 9; k++) s[k] = (long long)sums[k];
    double nn = (double)n * (double)n;
    double xx = (double)(n * s[3] - s[0] * s[0]) / nn + 20.0;
    double yy = (double)(n * s[4] - s[1] * s[1]) / nn + 20.0;
    double zz = (double)(n * s[5] - s[2] * s[2]) / nn + 20.0;
    double xy = (double)(n * s[6] - s[0] * s[1]) / nn;
    double xz = (double)(n * s[7] - s[0] * s[2]) / nn;
    double yz = (double)(n * s[8] - s[1] * s[2]) / nn;
    double c00 = yy * zz - yz * yz, c01 = xz * yz - xy * zz, c02 = xy * yz - xz * yy;
    double inverse = 1.0 / ((xx * c00 + xy * c01) + xz * c02);
    Strip m;
    for (int k = 0; k < 3; k++) m.mean[k] = (float)((double)s[k] / (double)n);
    m.q[0] = (float)(c00 * inverse);
    m.q[1] = (float)((xx * zz - xz * xz) * inverse);
    m.q[2] = (float)((xx * yy - xy * xy) * inverse);
    m.q[3] = (float)(2.0 * (c01 * inverse));
    m.q[4] = (float)(2.0 * (c02 * inverse));
    m.q[5] = (float)(2.0 * ((xy * xz - xx * yz) * inverse));
    return m;
}

// Least value over the block, of every thread's; all threads get it. The greatest is minus the least of the negatives.
static __device__ float block_min(float value, float* work) {
    work[threadIdx.x] = value;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
        if (threadIdx.x < half) work[threadIdx.x] = min(work[threadIdx.x], work[threadIdx.x + half]);
        __syncthreads();
    }
    float result = work[0];
    __syncthreads();
    return result;
}

struct Range {
    float low, scale;
};

static __device__ Range range_of(float low, float high, float* work) {
    Range r;
    r.low = block_min(low, work);
    high = -block_min(-high, work);
    r.scale = 1.0f / max(high - r.low, 1e-3f);
    return r;
}

static __device__ float combined(const Strip* strips, const Range* ranges, const u8* plane, int pixels, int i) {
    float light = plane[i], alpha = plane[i + pixels], beta = plane[i + 2 * pixels], d[4];
    for (int k = 0; k < 4; k++) d[k] = (distance_to(strips[k], light, alpha, beta) - ranges[k].low) * ranges[k].scale;
    return ((d[0] + d[1]) + (d[2] + d[3])) - max(max(d[0], d[1]), max(d[2], d[3]));
}

extern "C" __global__ void saliency_border_contrast(const u8* __restrict__ planes, unsigned short* __restrict__ cue,
                                                    int height, int width) {
    __shared__ u64 sums[4][9];
    __shared__ Strip strips[4];
    __shared__ float work[256];
    int pixels = height * width, tall = max(1, (height + 5) / 10), wide = max(1, (width + 5) / 10);
    const u8* plane = planes + (long long)blockIdx.x * 3 * pixels;
    if (threadIdx.x < 36) sums[threadIdx.x / 9][threadIdx.x % 9] = 0;
    __syncthreads();
    for (int k = 0; k < 4; k++) {
        int top = k == 1 ? height - tall : 0, left = k == 3 ? width - wide : 0;
        int rows = k < 2 ? tall : height, columns = k < 2 ? width : wide;
        unsigned own[9] = {};
        for (int j = threadIdx.x; j < rows * columns; j += 256) {
            int i = (top + j / columns) * width + left + j % columns;
            unsigned a = plane[i], b = plane[i + pixels], c = plane[i + 2 * pixels];
            unsigned terms[9] = {a, b, c, a * a, b * b, c * c, a * b, a * c, b * c};
            for (int t = 0; t < 9; t++) own[t] += terms[t];
        }
        for (int t = 0; t < 9; t++) atomicAdd(&sums[k][t], (u64)own[t]);
    }
    __syncthreads();
    if (threadIdx.x < 4) strips[threadIdx.x] = model_of(sums[threadIdx.x], threadIdx.x < 2 ? tall * width : height * wide);
    __syncthreads();
    float low[4], high[4];
    for (int k = 0; k < 4; k++) low[k] = 3e38f, high[k] = -3e38f;
    for (int i = threadIdx.x; i < pixels; i += 256) {
        float light = plane[i], alpha = plane[i + pixels], beta = plane[i + 2 * pixels];
        for (int k = 0; k < 4; k++) {
            float d = distance_to(strips[k], light, alpha, beta);
            low[k] = min(low[k], d), high[k] = max(high[k], d);
        }
    }
    Range ranges[4];
    for (int k = 0; k < 4; k++) ranges[k] = range_of(low[k], high[k], work);
    float least = 3e38f, most = -3e38f;
    for (int i = threadIdx.x; i < pixels; i += 256) {
        float value = combined(strips, ranges, plane, pixels, i);
        least = min(least, value), most = max(most, value);
    }
    Range range = range_of(least, most, work);
    for (int i = threadIdx.x; i < pixels; i += 256) {
        float value = combined(strips, ranges, plane, pixels, i);
        cue[(long long)blockIdx.x * pixels + i] = (unsigned short)(int)((value - range.low) * range.scale * 4095.0f + 0.5f);
    }
}
