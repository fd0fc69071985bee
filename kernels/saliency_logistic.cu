// Sharpen maps: saliency_logistic.py, operation by operation. One block of 256 threads per image.

#include "saliency_logistic.cuh"

typedef unsigned char u8;

extern "C" __global__ void saliency_logistic_sharpen(const float* __restrict__ fields, u8* __restrict__ out, int pixels,
                                                     float slope, float scale, float shift) {
    __shared__ Levels levels;
    const float* field = fields + (long long)blockIdx.x * pixels;
    levels.counts[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < pixels; i += 256) atomicAdd(&levels.counts[(int)(field[i] + 0.5f)], 1);
    __syncthreads();
    float middle = class_middle(levels, pixels);
    for (int i = threadIdx.x; i < pixels; i += 256) {
        float value = logistic(slope * (field[i] * (float)(1.0 / 255) - middle));
        out[(long long)blockIdx.x * pixels + i] = (u8)(int)(min(max(value * scale - shift, 0.0f), 255.0f) + 0.5f);
    }
}
