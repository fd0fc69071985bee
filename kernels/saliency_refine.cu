// Guided filter with a color guide: saliency_refine.py, operation by operation. One thread per pixel, tiles of 32 x 8.

typedef unsigned char u8;

#define RADIUS 3
#define SIDE 7
#define AREA 49
#define TILE_X 32
#define TILE_Y 8

// Fit p = a . color + b over the window of each pixel; the sums are integers.
extern "C" __global__ void saliency_refine_fit(const u8* __restrict__ images, const u8* __restrict__ maps,
                                               float4* __restrict__ models, int height, int width, float least) {
    __shared__ uchar4 tile[TILE_Y + 2 * RADIUS][TILE_X + 2 * RADIUS];
    int pixels = height * width;
    const u8* image = images + (long long)blockIdx.z * 3 * pixels;
    const u8* map = maps + (long long)blockIdx.z * pixels;
    int left = blockIdx.x * TILE_X, top = blockIdx.y * TILE_Y, tall = TILE_Y + 2 * RADIUS, wide = TILE_X + 2 * RADIUS;
    for (int k = threadIdx.y * TILE_X + threadIdx.x; k < tall * wide; k += TILE_X * TILE_Y) {
        int y = min(max(top + k / wide - RADIUS, 0), height - 1), x = min(max(left + k % wide - RADIUS, 0), width - 1);
        int i = y * width + x;
        uchar4 pixel;
        pixel.x = image[i], pixel.y = image[i + pixels], pixel.z = image[i + 2 * pixels], pixel.w = map[i];
        tile[k / wide][k % wide] = pixel;
    }
    __syncthreads();
    int x = left + threadIdx.x, y = top + threadIdx.y;
    if (x >= width || y >= height) return;
    int r = 0, g = 0, b = 0, p = 0, rr = 0, rg = 0, rb = 0, rp = 0, gg = 0, gb = 0, gp = 0, bb = 0, bp = 0;
    for (int dy = 0; dy < SIDE; dy++)
        for (int dx = 0; dx < SIDE; dx++) {
            uchar4 q = tile[threadIdx.y + dy][threadIdx.x + dx];
            int c = q.x, d = q.y, e = q.z, f = q.w;
            r += c, g += d, b += e, p += f;
            rr += c * c, rg += c * d, rb += c * e, rp += c * f;
            gg += d * d, gb += d * e, gp += d * f, bb += e * e, bp += e * f;
        }
    float frr = (float)(AREA * rr - r * r) + least, frg = (float)(AREA * rg - r * g);
    float frb = (float)(AREA * rb - r * b), frp = (float)(AREA * rp - r * p);
    float fgg = (float)(AREA * gg - g * g) + least, fgb = (float)(AREA * gb - g * b);
    float fgp = (float)(AREA * gp - g * p);
    float fbb = (float)(AREA * bb - b * b) + least, fbp = (float)(AREA * bp - b * p);
    float f = frg / frr, h = frb / frr;
    float d = max(fgg - f * frg, least);
    float e = fgb - h * frg;
    float k = e / d;
    float t = max((fbb - h * frb) - k * e, least);
    float v = fgp - f * frp;
    float4 model;
    model.z = ((fbp - h * frp) - k * v) / t;
    model.y = v / d - k * model.z;
    model.x = (frp / frr - f * model.y) - h * model.z;
    model.w = ((float)p - ((model.x * (float)r + model.y * (float)g) + model.z * (float)b)) / (float)AREA;
    models[(long long)blockIdx.z * pixels + y * width + x] = model;
}

static __device__ float4 plus(float4 a, float4 b) {
    a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
    return a;
}

// Average the models over the window, seven rows and then seven columns in order, and apply them.
extern "C" __global__ void saliency_refine_apply(const u8* __restrict__ images, const float4* __restrict__ models,
                                                 float* __restrict__ fields, int height, int width, float scale) {
    __shared__ float4 tile[TILE_Y + 2 * RADIUS][TILE_X + 2 * RADIUS];
    int pixels = height * width;
    const float4* model = models + (long long)blockIdx.z * pixels;
    int left = blockIdx.x * TILE_X, top = blockIdx.y * TILE_Y, tall = TILE_Y + 2 * RADIUS, wide = TILE_X + 2 * RADIUS;
    for (int k = threadIdx.y * TILE_X + threadIdx.x; k < tall * wide; k += TILE_X * TILE_Y) {
        int y = min(max(top + k / wide - RADIUS, 0), height - 1), x = min(max(left + k % wide - RADIUS, 0), width - 1);
        tile[k / wide][k % wide] = model[y * width + x];
    }
    __syncthreads();
    int x = left + threadIdx.x, y = top + threadIdx.y;
    if (x >= width || y >= height) return;
    float4 total;
    for (int dx = 0; dx < SIDE; dx++) {
        float4 column = tile[threadIdx.y][threadIdx.x + dx];
        for (int dy = 1; dy < SIDE; dy++) column = plus(column, tile[threadIdx.y + dy][threadIdx.x + dx]);
        total = dx == 0 ? column : plus(total, column);
    }
    int i = y * width + x;
    const u8* image = images + (long long)blockIdx.z * 3 * pixels;
    float red = image[i], green = image[i + pixels], blue = image[i + 2 * pixels];
    float value = ((total.x * red + total.y * green) + (total.z * blue + total.w)) * scale;
    fields[(long long)blockIdx.z * pixels + i] = min(max(value, 0.0f), 255.0f);
}
