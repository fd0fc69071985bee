// Frames around pictures: saliency_frame.py, operation by operation.

typedef unsigned char u8;

#define MOST 25  // a tenth of the greatest size

// One block of 256 threads per image; counts are integer atomics.
extern "C" __global__ void __launch_bounds__(256)
    saliency_frame_find(const u8* __restrict__ images, int* __restrict__ frames, int height, int width, int step,
                        int share, int rough, int sides) {
    __shared__ int roughness[4], steps[4][MOST + 1];
    int pixels = height * width, t = threadIdx.x;
    const u8* image = images + (long long)blockIdx.x * 3 * pixels;
    if (t < 4) roughness[t] = 0;
    for (int i = t; i < 4 * (MOST + 1); i += 256) steps[i / (MOST + 1)][i % (MOST + 1)] = 0;
    __syncthreads();
    for (int side = 0; side < 4; side++) {
        bool level = side < 2;
        int length = level ? width : height, limit = (level ? height : width) / 10, along = level ? 1 : width;
        int first = side == 1 ? (height - 1) * width : side == 3 ? width - 1 : 0;
        int inward = (level ? width : 1) * (side % 2 ? -1 : 1);
        for (int i = t; i < (limit + 1) * length; i += 256) {
            int k = i / length, j = i % length, at = first + k * inward + j * along;
            if (k == 0 && j == length - 1) continue;
            int other = k == 0 ? at + along : at - inward, difference = 0;
            for (int c = 0; c < 3; c++) difference += abs((int)image[c * pixels + at] - (int)image[c * pixels + other]);
            if (k == 0)
                atomicAdd(&roughness[side], difference);
            else if (difference > step)
                atomicAdd(&steps[side][k], 1);
        }
    }
    __syncthreads();
    if (t != 0) return;
    int found[4], count = 0;
    for (int side = 0; side < 4; side++) {
        int length = side < 2 ? width : height, limit = (side < 2 ? height : width) / 10;
        found[side] = 0;
        if (roughness[side] > rough * (length - 1)) continue;
        for (int k = 1; k <= limit; k++)
            if (10 * steps[side][k] >= share * length) found[side] = k;
        if (found[side] > 0) count++;
    }
    for (int side = 0; side < 4; side++) frames[blockIdx.x * 4 + side] = count < sides ? 0 : found[side];
}

// Images (three channels) get the nearest pixels inside the frame, masks (one) zeros.
extern "C" __global__ void __launch_bounds__(256)
    saliency_frame_cover(const u8* __restrict__ in, const int* __restrict__ frames, u8* __restrict__ out, int channels,
                         int height, int width, long long total) {
    long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= total) return;
    int x = (int)(i % width), y = (int)(i / width % height);
    long long plane = i / width / height;
    const int* frame = frames + plane / channels * 4;
    int v = min(max(y, frame[0]), height - 1 - frame[1]), u = min(max(x, frame[2]), width - 1 - frame[3]);
    if (channels == 1)
        out[i] = v == y && u == x ? in[i] : 0;
    else
        out[i] = in[(plane * height + v) * width + u];
}
