// The logistic between Otsu classes and its exp: saliency_logistic.py, operation by operation. For blocks of 256 threads.
#pragma once

struct Levels {
    int counts[256];
    long long below[256], mass[256];
    double between[256];
    int level[256];
};

// exp(-x) for x >= 0.
static __device__ float decay(float x) {
    float t = min(x, 32.0f) * (float)(1.0 / 64);
    float p = 1.0f - t * (1.0f - t * (0.5f - t * ((float)(1.0 / 6) - t * ((float)(1.0 / 24) - t * (float)(1.0 / 120)))));
    for (int k = 0; k < 6; k++) p = p * p;
    return p;
}

// Half-way between the means of the two Otsu classes of levels.counts. Sums are integers: any order will do.
static __device__ float class_middle(Levels& levels, long long total) {
    int t = threadIdx.x;
    levels.below[t] = levels.counts[t];
    levels.mass[t] = (long long)t * levels.counts[t];
    __syncthreads();
    for (int step = 1; step < 256; step *= 2) {
        long long below = t >= step ? levels.below[t - step] : 0, mass = t >= step ? levels.mass[t - step] : 0;
        __syncthreads();
        levels.below[t] += below;
        levels.mass[t] += mass;
        __syncthreads();
    }
    long long below = levels.below[t], mass = levels.mass[256 - 1];
    double between = 0;
    if (t < 256 - 1 && below > 0 && below < total) {
        double gap = (double)(mass * below - total * levels.mass[t]);
        between = gap * gap / ((double)below * (double)(total - below));
    }
    levels.between[t] = between;
    levels.level[t] = t;
    __syncthreads();
    for (int half = 256 / 2; half; half /= 2) {
        if (t < half) {
            double mine = levels.between[t], other = levels.between[t + half];
            if (other > mine || (other == mine && levels.level[t + half] < levels.level[t])) {
                levels.between[t] = other;
                levels.level[t] = levels.level[t + half];
            }
        }
        __syncthreads();
    }
    double best = levels.between[0];
    int level = levels.level[0];
    long long left = levels.below[level], left_mass = levels.mass[level];
    __syncthreads();
    if (!(best > 0)) return 2.0f;  // above all: no figure
    double low = (double)left_mass / (double)left, high = (double)(mass - left_mass) / (double)(total - left);
    return (float)((low + high) / 510.0);
}

static __device__ float logistic(float z) {
    float e = decay(z < 0.0f ? -z : z);
    return (z >= 0.0f ? 1.0f : e) / (1.0f + e);
}
