// Soft cells: saliency_cells.py, operation by operation. One block of 256 threads per image, one thread per cell or pixel.

typedef unsigned char u8;

#define GRID 16
#define CELLS 256

struct Image {
    const u8* raw;
    int height, width, pixels;
};

// Sums L, a, b, count, y, x of the cells, then the means L, a, b, y, x of those that are not empty.
static __device__ void take_means(const Image& image, const u8* labels, int (*sums)[CELLS], float (*means)[CELLS]) {
    int t = threadIdx.x;
    for (int k = 0; k < 6; k++) sums[k][t] = 0;
    __syncthreads();
    for (int i = t; i < image.pixels; i += CELLS) {
        int cell = labels[i];
        for (int k = 0; k < 3; k++) atomicAdd(&sums[k][cell], (int)image.raw[i + k * image.pixels]);
        atomicAdd(&sums[3][cell], 1);
        atomicAdd(&sums[4][cell], i / image.width);
        atomicAdd(&sums[5][cell], i % image.width);
    }
    __syncthreads();
    if (sums[3][t] > 0) {
        float size = (float)sums[3][t];
        for (int k = 0; k < 3; k++) means[k][t] = (float)sums[k][t] / size;
        means[3][t] = (float)sums[4][t] / size;
        means[4][t] = (float)sums[5][t] / size;
    }
    __syncthreads();
}

static __device__ int nearest_cell(const Image& image, int i, const float (*means)[CELLS], float weigh_y, float weigh_x) {
    int y = i / image.width, x = i % image.width, nearest = 0;
    float light = image.raw[i], alpha = image.raw[i + image.pixels], beta = image.raw[i + 2 * image.pixels];
    float best = 3.4e38f;
    for (int k = 0; k < 9; k++) {
        int row = y * GRID / image.height + k / 3 - 1, column = x * GRID / image.width + k % 3 - 1;
        if (row < 0 || row >= GRID || column < 0 || column >= GRID) continue;
        int cell = row * GRID + column;
        float a = light - means[0][cell], b = alpha - means[1][cell], c = beta - means[2][cell];
        float v = (float)y - means[3][cell], u = (float)x - means[4][cell];
        float d = ((a * a) * (float)(10000.0 / 65025.0) + b * b) + (c * c + ((v * v) * weigh_y + (u * u) * weigh_x));
        if (d < best) best = d, nearest = cell;
    }
    return nearest;
}

static __device__ int roughness(const Image& image, int i) {
    int y = i / image.width, x = i % image.width, rough = 0;
    int right = x < image.width - 1 ? 1 : 0, below = y < image.height - 1 ? image.width : 0;
    for (int c = 0; c < 3; c++) {
        const u8* at = image.raw + c * image.pixels + i;
        int value = *at, weight = c == 0 ? 2 : 5;
        rough += weight * (abs((int)at[right] - value) + abs((int)at[below] - value));
    }
    return rough;
}

extern "C" __global__ void saliency_cells_cut(const u8* __restrict__ raws, const u8* __restrict__ costs,
                                              const unsigned short* __restrict__ contrasts, u8* labels_out,
                                              float* __restrict__ features, int height, int width, float weigh_y,
                                              float weigh_x, int sweeps) {
    __shared__ int sums[6][CELLS];
    __shared__ float means[5][CELLS];
    int t = threadIdx.x, pixels = height * width;
    long long first = (long long)blockIdx.x * pixels;
    Image image = {raws + 3 * first, height, width, pixels};
    u8* labels = labels_out + first;
    for (int i = t; i < pixels; i += CELLS)
        labels[i] = (u8)(i / width * GRID / height * GRID + i % width * GRID / width);
    for (int k = 0; k < 5; k++) means[k][t] = 0;
    // A label is written and read by one thread alone; the barriers of take_means part the readers of means and sums
    // from the next writers.
    for (int sweep = 0; sweep < sweeps; sweep++) {
        take_means(image, labels, sums, means);
        for (int i = t; i < pixels; i += CELLS) labels[i] = (u8)nearest_cell(image, i, means, weigh_y, weigh_x);
    }
    take_means(image, labels, sums, means);
    float size = (float)max(sums[3][t], 1);
    for (int k = 0; k < 3; k++) sums[k][t] = 0;
    __syncthreads();
    const u8* cost = costs + 3 * first;
    for (int i = t; i < pixels; i += CELLS) {
        int cell = labels[i];
        atomicAdd(&sums[0][cell], roughness(image, i));
        atomicAdd(&sums[1][cell], (int)cost[i] + (int)cost[i + pixels] + (int)cost[i + 2 * pixels]);
        atomicAdd(&sums[2][cell], (int)contrasts[first + i]);
    }
    __syncthreads();
    float* feature = features + (long long)blockIdx.x * 6 * CELLS;
    for (int k = 0; k < 3; k++) {
        feature[k * CELLS + t] = means[k][t];
        feature[(3 + k) * CELLS + t] = (float)sums[k][t] / size;
    }
}

// Give each pixel the value of its cell.
extern "C" __global__ void saliency_cells_paint(const u8* __restrict__ labels, const u8* __restrict__ cells, int pixels,
                                                long long total, u8* __restrict__ out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < total) out[i] = cells[i / pixels * CELLS + labels[i]];
}
