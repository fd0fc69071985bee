// Colour jitter, grayscale and solarize of planar views; the arithmetic of color.py, value for value.

struct Steps {
    float brightness, contrast, saturation, hue;  // hue: the byte that is added
    unsigned int before;                          // operations ahead of contrast: octal digits, the first one lowest
    unsigned int after;                           // contrast and what follows; all operations if there is no contrast
};

enum { BRIGHTNESS = 1, CONTRAST, SATURATION, HUE, GRAY };

struct Pixel {
    float r, g, b;
};

// From 2^23 on, floats are whole: sums with it convert at the speed of additions.
#define WHOLE 8388608.0f
#define WHOLE_BITS 0x4B000000u

// Drop the fraction of a number in [0, 2^23).
static __device__ __forceinline__ float whole(float x) { return __fadd_rz(x, WHOLE) - WHOLE; }

// Byte k of a word, and four bytes back into one.
static __device__ __forceinline__ float of_byte(unsigned int values, int k) {
    return __uint_as_float(__byte_perm(values, WHOLE_BITS, 0x7440 + k)) - WHOLE;
}
static __device__ __forceinline__ unsigned int to_bytes(float a, float b, float c, float d) {
    unsigned int low = __byte_perm(__float_as_uint(a + WHOLE), __float_as_uint(b + WHOLE), 0x0040);
    unsigned int high = __byte_perm(__float_as_uint(c + WHOLE), __float_as_uint(d + WHOLE), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

// x / 6, rounded once: the reciprocal is, and the remainder is exact (Markstein 1990).
static __device__ __forceinline__ float sixth(float x) {
    const float part = 1.0f / 6.0f;
    float quotient = x * part;
    return __fmaf_rn(__fmaf_rn(-6.0f, quotient, x), part, quotient);
}

static __device__ __forceinline__ float mix(float value, float gray, float factor) {
    return whole(fminf(fmaxf(gray + factor * (value - gray), 0.0f), 255.0f));
}

static __device__ __forceinline__ float gray_of(Pixel p) {
    return whole((19595.0f * p.r + 38470.0f * p.g + 7471.0f * p.b + 32768.0f) * (1.0f / 65536.0f));
}

static __device__ __forceinline__ float channel(float value, float saturation, float weight) {
    weight = fminf(fmaxf(weight, 0.0f), 85.0f);
    return whole(value * (21675.0f - saturation * weight) * (1.0f / 21675.0f) + 0.5f);
}

static __device__ __forceinline__ Pixel turn_hue(Pixel p, float shift) {
    float value = fmaxf(p.r, fmaxf(p.g, p.b)), least = fminf(p.r, fminf(p.g, p.b));
    float range = value - least;
    float x = (value - (p.r + p.g + p.b - value - least)) / fmaxf(range, 1.0f);
    float base = p.r == value ? 0.0f : (p.g == value ? 2.0f : 4.0f);
    bool after = p.r == value ? p.g >= p.b : (p.g == value ? p.b >= p.r : p.r >= p.g);
    float sixths = after ? (base + 1.0f) - x : (base - 1.0f) + x;
    float hue = sixth(sixths) * 255.0f;
    hue = whole(hue < 0.0f ? hue + 255.0f : hue) + shift;
    hue = hue >= 256.0f ? hue - 256.0f : hue;
    float saturation = whole(range * 255.0f / fmaxf(value, 1.0f));
    float turn = hue + hue;
    return {channel(value, saturation, 170.0f - fabsf(turn - 255.0f)),
            channel(value, saturation, fabsf(turn - 170.0f) - 85.0f),
            channel(value, saturation, fabsf(turn - 340.0f) - 85.0f)};
}

static __device__ __forceinline__ Pixel blend(Pixel p, float gray, float factor) {
    return {mix(p.r, gray, factor), mix(p.g, gray, factor), mix(p.b, gray, factor)};
}

// mix with black, value for value.
static __device__ __forceinline__ float dim(float value, float factor) {
    return whole(fminf(fmaxf(factor * value, 0.0f), 255.0f));
}

// Run operations on some pixels; all threads of a block work on one view, so no branch here diverges.
template <int PIXELS>
static __device__ __forceinline__ void apply(Pixel* p, const Steps& row, unsigned int operations, float level) {
#pragma unroll 1
    for (; operations; operations >>= 3) {
        unsigned int operation = operations & 7u;
        if (operation == BRIGHTNESS) {
#pragma unroll
            for (int k = 0; k < PIXELS; ++k)
                p[k] = {dim(p[k].r, row.brightness), dim(p[k].g, row.brightness), dim(p[k].b, row.brightness)};
        } else if (operation == HUE) {
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) p[k] = turn_hue(p[k], row.hue);
        } else if (operation == CONTRAST) {
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) p[k] = blend(p[k], level, row.contrast);
        } else if (operation == SATURATION) {
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) p[k] = blend(p[k], gray_of(p[k]), row.saturation);
        } else {
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) p[k].r = p[k].g = p[k].b = gray_of(p[k]);
        }
    }
}

// All operations of a row: those before contrast take as many octal digits as they are.
static __device__ __forceinline__ unsigned int all_of(const Steps& row) {
    return row.before | row.after << (34 - __clz(row.before)) / 3 * 3;
}

static __device__ __forceinline__ Pixel pixel_of(unsigned int r, unsigned int g, unsigned int b, int k) {
    return {of_byte(r, k), of_byte(g, k), of_byte(b, k)};
}

static __device__ __forceinline__ void pixels_of(unsigned int r, unsigned int g, unsigned int b, Pixel* p) {
#pragma unroll
    for (int k = 0; k < 4; ++k) p[k] = pixel_of(r, g, b, k);
}

static __device__ __forceinline__ unsigned int gray_sum4(unsigned int r, unsigned int g, unsigned int b, const Steps& row) {
    Pixel p[4];
    pixels_of(r, g, b, p);
    apply<4>(p, row, row.before, 0.0f);
    return (unsigned int)((gray_of(p[0]) + gray_of(p[1])) + (gray_of(p[2]) + gray_of(p[3])));
}

static __device__ __forceinline__ void jitter4(unsigned int& r, unsigned int& g, unsigned int& b, const Steps& row,
                                               float level) {
    Pixel p[4];
    pixels_of(r, g, b, p);
    apply<4>(p, row, all_of(row), level);
    r = to_bytes(p[0].r, p[1].r, p[2].r, p[3].r);
    g = to_bytes(p[0].g, p[1].g, p[2].g, p[3].g);
    b = to_bytes(p[0].b, p[1].b, p[2].b, p[3].b);
}

static __device__ __forceinline__ uint4 words(const unsigned char* values) { return *(const uint4*)values; }

// The next word to the front and a new one to the back: registers cannot be indexed in a loop.
static __device__ __forceinline__ uint4 rotated(uint4 v, unsigned int last) { return make_uint4(v.y, v.z, v.w, last); }

// Add a block's sum to its view's.
static __device__ __forceinline__ void add_to(unsigned long long* total, unsigned int sum) {
    __shared__ unsigned int warps[4];
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) atomicAdd(total, (unsigned long long)(warps[0] + warps[1] + warps[2] + warps[3]));
}

static __device__ __forceinline__ float level_of(unsigned long long sum, long long pixels) {
    return (float)((2 * sum + pixels) / (2 * pixels));
}

// `pixels` of a view, `chunks` blocks of 128 threads per view. First pass: the sum of the gray levels that contrast
// will see, for the views that have it.
extern "C" __global__ void __launch_bounds__(128)
color_gray_sums1(const unsigned char* views, const Steps* steps, unsigned long long* sums, long long pixels,
                 int chunks) {
    int n = blockIdx.x / chunks;
    long long i = (long long)(blockIdx.x % chunks) * 128 + threadIdx.x;
    Steps row = steps[n];
    if ((row.after & 7u) != CONTRAST) return;
    const unsigned char* view = views + 3 * pixels * n;
    unsigned int sum = 0;
    if (i < pixels) {
        Pixel p = pixel_of(view[i], view[pixels + i], view[2 * pixels + i], 0);
        apply<1>(&p, row, row.before, 0.0f);
        sum = (unsigned int)gray_of(p);
    }
    add_to(sums + n, sum);
}

// Sixteen pixels a thread; `pixels` is a multiple of 16 and the views start on 16 bytes.
extern "C" __global__ void __launch_bounds__(128)
color_gray_sums16(const unsigned char* views, const Steps* steps, unsigned long long* sums, long long pixels,
                  int chunks) {
    int n = blockIdx.x / chunks;
    long long i = ((long long)(blockIdx.x % chunks) * 128 + threadIdx.x) * 16;
    Steps row = steps[n];
    if ((row.after & 7u) != CONTRAST) return;
    const unsigned char* view = views + 3 * pixels * n;
    unsigned int sum = 0;
    if (i < pixels) {
        uint4 r = words(view + i), g = words(view + pixels + i), b = words(view + 2 * pixels + i);
#pragma unroll 1
        for (int word = 0; word < 4; ++word) {
            sum += gray_sum4(r.x, g.x, b.x, row);
            r = rotated(r, r.x), g = rotated(g, g.x), b = rotated(b, b.x);
        }
    }
    add_to(sums + n, sum);
}

// Second pass: all steps. `out` may be `views`: a thread reads its pixels before it writes them.
extern "C" __global__ void __launch_bounds__(128)
color_jitter1(const unsigned char* views, const Steps* steps, const unsigned long long* sums, unsigned char* out,
              long long pixels, int chunks) {
    int n = blockIdx.x / chunks;
    long long i = (long long)(blockIdx.x % chunks) * 128 + threadIdx.x;
    if (i >= pixels) return;
    const unsigned char* view = views + 3 * pixels * n;
    unsigned char* result = out + 3 * pixels * n;
    Steps row = steps[n];
    if (view == result && !(row.before | row.after)) return;  // in place there is nothing to do
    Pixel p = pixel_of(view[i], view[pixels + i], view[2 * pixels + i], 0);
    apply<1>(&p, row, all_of(row), level_of(sums[n], pixels));
    result[i] = (unsigned char)p.r;
    result[pixels + i] = (unsigned char)p.g;
    result[2 * pixels + i] = (unsigned char)p.b;
}

extern "C" __global__ void __launch_bounds__(128)
color_jitter16(const unsigned char* views, const Steps* steps, const unsigned long long* sums, unsigned char* out,
               long long pixels, int chunks) {
    int n = blockIdx.x / chunks;
    long long i = ((long long)(blockIdx.x % chunks) * 128 + threadIdx.x) * 16;
    if (i >= pixels) return;
    const unsigned char* view = views + 3 * pixels * n;
    unsigned char* result = out + 3 * pixels * n;
    Steps row = steps[n];
    if (view == result && !(row.before | row.after)) return;  // in place there is nothing to do
    float level = level_of(sums[n], pixels);
    uint4 r = words(view + i), g = words(view + pixels + i), b = words(view + 2 * pixels + i);
#pragma unroll 1
    for (int word = 0; word < 4; ++word) {
        unsigned int red = r.x, green = g.x, blue = b.x;
        jitter4(red, green, blue, row, level);
        r = rotated(r, red), g = rotated(g, green), b = rotated(b, blue);
    }
    *(uint4*)(result + i) = r;
    *(uint4*)(result + pixels + i) = g;
    *(uint4*)(result + 2 * pixels + i) = b;
}

static __device__ __forceinline__ unsigned int solarize4(unsigned int values, unsigned int limit) {
    unsigned int result = 0;
#pragma unroll
    for (int shift = 0; shift < 32; shift += 8) {
        unsigned int v = values >> shift & 255u;
        result |= (v < limit ? v : 255u - v) << shift;
    }
    return result;
}

// `values` of a view (3 * H * W), `items` of all views.
extern "C" __global__ void __launch_bounds__(256)
color_solarize1(const unsigned char* views, const int* limits, unsigned char* out, long long values, long long items) {
    long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= items) return;
    int v = views[i];
    out[i] = (unsigned char)(v < limits[i / values] ? v : 255 - v);
}

// Sixteen values an item.
extern "C" __global__ void __launch_bounds__(256)
color_solarize16(const uint4* views, const int* limits, uint4* out, long long values, long long items) {
    long long i = (long long)blockIdx.x * 256 + threadIdx.x;
    if (i >= items) return;
    unsigned int limit = (unsigned int)limits[i * 16 / values];
    uint4 v = views[i];
    out[i] = make_uint4(solarize4(v.x, limit), solarize4(v.y, limit), solarize4(v.z, limit), solarize4(v.w, limit));
}
