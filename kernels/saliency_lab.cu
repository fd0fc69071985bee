// Lab planes and their median: saliency_lab.py, operation by operation.

typedef unsigned char u8;

extern "C" __global__ void saliency_lab_convert(const u8* __restrict__ images, const int* __restrict__ linear,
                                                const int* __restrict__ root, const int* __restrict__ m,
                                                u8* __restrict__ out, int pixels, long long total) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    long long n = i / pixels;
    long long at = n * 2 * pixels + i;  // n * 3 * pixels + (i - n * pixels)
    int r = linear[images[at]], g = linear[images[at + pixels]], b = linear[images[at + 2LL * pixels]];
    int x = root[(m[0] * r + m[1] * g + m[2] * b + (1 << 13)) >> 14];
    int y = root[(m[3] * r + m[4] * g + m[5] * b + (1 << 13)) >> 14];
    int z = root[(m[6] * r + m[7] * g + m[8] * b + (1 << 13)) >> 14];
    out[at] = (u8)max(0, (75725 * y - 42781901 + (1 << 19)) >> 20);
    out[at + pixels] = (u8)((500 * (x - y) + 526336) >> 12);
    out[at + 2LL * pixels] = (u8)((200 * (y - z) + 526336) >> 12);
}

static __device__ int median_of_three(int a, int b, int c) { return max(min(a, b), min(max(a, b), c)); }

extern "C" __global__ void saliency_lab_median(const u8* __restrict__ planes, u8* __restrict__ out, int height,
                                               int width, long long total) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total) return;
    int x = (int)(i % width), y = (int)(i / width % height);
    const u8* here = planes + (i - x);
    const u8* above = y > 0 ? here - width : here;
    const u8* below = y < height - 1 ? here + width : here;
    int greatest = 0, least = 255, mid[3];
    for (int k = 0; k < 3; k++) {
        int column = min(max(x + k - 1, 0), width - 1);
        int a = above[column], b = here[column], c = below[column];
        greatest = max(greatest, min(min(a, b), c));
        least = min(least, max(max(a, b), c));
        mid[k] = median_of_three(a, b, c);
    }
    out[i] = (u8)median_of_three(greatest, least, median_of_three(mid[0], mid[1], mid[2]));
}
