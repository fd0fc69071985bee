// Colour jitter, grayscale and solarize of planar views; the arithmetic of color.py, value for value.

struct Steps {
    float brightness, contrast, saturation, hue;  // hue: the byte that is added
    unsigned int before;                          // operations ahead of contrast: octal digits, the first one lowest
    unsigned int after;                           // contrast and what follows; all operations if there is no contrast
};

enum { BRIGHTNESS = 1, CONTRAST, SATURATION, HUE, GRAY };

// Levels, plus 2^23: from there on floats are whole, sums with it convert at the speed of additions, and a byte lies in the low bits.
struct Pixel {
    float r, g, b;
};

#define WHOLE 8388608.0f
#define WHOLE_BITS 0x4B000000u

// Drop the fraction of a number in [0, 2^23), and add 2^23.
static __device__ __forceinline__ float raised(float x) { return __fadd_rz(x, WHOLE); }

// Byte k of a word, raised, and four bytes back into one.
static __device__ __forceinline__ float of_byte(unsigned int values, int k) {
    return __uint_as_float(__byte_perm(values, WHOLE_BITS, 0x7440 + k));
}
static __device__ __forceinline__ unsigned int to_bytes(float a, float b, float c, float d) {
    unsigned int low = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x0040);
    unsigned int high = __byte_perm(__float_as_uint(c), __float_as_uint(d), 0x0040);
    return __byte_perm(low, high, 0x5410);
}

// x / 6, rounded once: the reciprocal is, and the remainder is exact (Markstein 1990).
static __device__ __forceinline__ float sixth(float x) {
    const float part = 1.0f / 6.0f;
    float quotient = x * part;
    return __fmaf_rn(__fmaf_rn(-6.0f, quotient, x), part, quotient);
}

static __device__ __forceinline__ float clipped(float x) { return raised(fminf(fmaxf(x, 0.0f), 255.0f)); }

// All sums but the last one are exact.
static __device__ __forceinline__ float gray_of(Pixel p) {
    const float unit = 1.0f / 65536.0f;
    float red = __fmaf_rn(p.r - WHOLE, 19595.0f * unit, 0.5f);
    return raised(__fmaf_rn(p.b - WHOLE, 7471.0f * unit, __fmaf_rn(p.g - WHOLE, 38470.0f * unit, red)));
}

// value * (1 - saturation * weight / 21675): in 1 / 21675 a whole number, never half-way, so that it may be rounded as it is raised.
static __device__ __forceinline__ float channel(float value, float taken, float weight) {
    weight = fminf(fmaxf(weight, 0.0f), 85.0f);
    return __fmaf_rn(__fmaf_rn(-taken, weight, value), 1.0f / 21675.0f, WHOLE);
}

static __device__ __forceinline__ Pixel turn_hue(Pixel p, float shift) {
    float high = fmaxf(p.r, p.g), low = fminf(p.r, p.g);
    float most = fmaxf(high, p.b), middle = fmaxf(low, fminf(high, p.b));
    float range = most - fminf(low, p.b), value = most - WHOLE;
    float x = (most - middle) / fmaxf(range, 1.0f);
    float base = p.r == most ? 0.0f : (p.g == most ? 2.0f : 4.0f);
    bool after = p.r == most ? p.g >= p.b : (p.g == most ? p.b >= p.r : p.r >= p.g);
    float sign = after ? -1.0f : 1.0f;
    float hue = sixth(__fmaf_rn(sign, x, base - sign)) * 255.0f;
    float turned = raised(hue < 0.0f ? hue + 255.0f : hue) + shift;  // modulo 256
    hue = __uint_as_float(__float_as_uint(turned) & 255u | WHOLE_BITS) - WHOLE;
    float saturation = raised(range * 255.0f / fmaxf(value, 1.0f)) - WHOLE;
    float turn = hue + hue, taken = saturation * value;
    value *= 21675.0f;
    return {channel(value, taken, 170.0f - fabsf(turn - 255.0f)), channel(value, taken, fabsf(turn - 170.0f) - 85.0f),
            channel(value, taken, fabsf(turn - 340.0f) - 85.0f)};
}

// `gray` is raised, as the pixel is.
static __device__ __forceinline__ Pixel blend(Pixel p, float gray, float factor) {
    float level = gray - WHOLE;
    return {clipped(level + factor * (p.r - gray)), clipped(level + factor * (p.g - gray)),
            clipped(level + factor * (p.b - gray))};
}

// As blend with black, value for value.
static __device__ __forceinline__ Pixel dim(Pixel p, float factor) {
    return {clipped(factor * (p.r - WHOLE)), clipped(factor * (p.g - WHOLE)), clipped(factor * (p.b - WHOLE))};
}

// Run operations on some pixels; all threads of a block work on one view, so no branch here diverges.
template <int PIXELS>
static __device__ __forceinline__ void apply(Pixel* p, const Steps& row, unsigned int operations, float level) {
#pragma unroll 1
    for (; operations; operations >>= 3) {
        unsigned int operation = operations & 7u;
        if (operation == BRIGHTNESS) {
#pragma unroll
            for (int k = 0; k < PIXELS; ++k) p[k] = dim(p[k], row.brightness);
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

static __device__ __forceinline__ Pixel pixel_of(unsigned int r, unsigned int g, unsigned int b, int k) {
    return {of_byte(r, k), of_byte(g, k), of_byte(b, k)};
}

static __device__ __forceinline__ void pixels_of(unsigned int r, unsigned int g, unsigned int b, Pixel* p) {
#pragma unroll
    for (int k = 0; k < 4; ++k) p[k] = pixel_of(r, g, b, k);
}

// Run operations on four pixels; give the sum of their gray levels where that is asked for.
template <bool SUM>
static __device__ __forceinline__ unsigned int jitter4(unsigned int& r, unsigned int& g, unsigned int& b, const Steps& row,
                                                       unsigned int operations, float level) {
    Pixel p[4];
    pixels_of(r, g, b, p);
    apply<4>(p, row, operations, level);
    r = to_bytes(p[0].r, p[1].r, p[2].r, p[3].r);
    g = to_bytes(p[0].g, p[1].g, p[2].g, p[3].g);
    b = to_bytes(p[0].b, p[1].b, p[2].b, p[3].b);
    if (!SUM) return 0;
    return __dp4a(to_bytes(gray_of(p[0]), gray_of(p[1]), gray_of(p[2]), gray_of(p[3])), 0x01010101u, 0u);
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
    return raised((float)((2 * sum + pixels) / (2 * pixels)));
}

static __device__ __forceinline__ void store(unsigned char* result, long long pixels, Pixel p) {
    result[0] = (unsigned char)__float_as_uint(p.r);
    result[pixels] = (unsigned char)__float_as_uint(p.g);
    result[2 * pixels] = (unsigned char)__float_as_uint(p.b);
}

static __device__ __forceinline__ void store16(unsigned char* result, long long pixels, uint4 r, uint4 g, uint4 b) {
    *(uint4*)result = r;
    *(uint4*)(result + pixels) = g;
    *(uint4*)(result + 2 * pixels) = b;
}

// `pixels` of a view, `chunks` blocks of 128 threads per view. First pass, for the views that have contrast: what comes before it,
// and the sum of the gray levels that it will see. `out` may be `views`: a thread reads its pixels before it writes them.
extern "C" __global__ void __launch_bounds__(128)
color_gray_sums1(const unsigned char* views, const Steps* steps, unsigned long long* sums, unsigned char* out,
                 long long pixels, int chunks) {
    int n = blockIdx.x / chunks;
    long long i = (long long)(blockIdx.x % chunks) * 128 + threadIdx.x;
    Steps row = steps[n];
    if ((row.after & 7u) != CONTRAST) return;
    const unsigned char* view = views + 3 * pixels * n + i;
    unsigned int sum = 0;
    if (i < pixels) {
        Pixel p = pixel_of(view[0], view[pixels], view[2 * pixels], 0);
        apply<1>(&p, row, row.before, 0.0f);
        if (row.before) store(out + 3 * pixels * n + i, pixels, p);
        sum = __float_as_uint(gray_of(p)) & 255u;
    }
    add_to(sums + n, sum);
}

// Sixteen pixels a thread; `pixels` is a multiple of 16 and the views start on 16 bytes.
extern "C" __global__ void __launch_bounds__(128)
color_gray_sums16(const unsigned char* views, const Steps* steps, unsigned long long* sums, unsigned char* out,
                  long long pixels, int chunks) {
    int n = blockIdx.x / chunks;
    long long i = ((long long)(blockIdx.x % chunks) * 128 + threadIdx.x) * 16;
    Steps row = steps[n];
    if ((row.after & 7u) != CONTRAST) return;
    const unsigned char* view = views + 3 * pixels * n + i;
    unsigned int sum = 0;
    if (i < pixels) {
        uint4 r = words(view), g = words(view + pixels), b = words(view + 2 * pixels);
#pragma unroll 1
        for (int word = 0; word < 4; ++word) {
            unsigned int red = r.x, green = g.x, blue = b.x;
            sum += jitter4<true>(red, green, blue, row, row.before, 0.0f);
            r = rotated(r, red), g = rotated(g, green), b = rotated(b, blue);
        }
        if (row.before) store16(out + 3 * pixels * n + i, pixels, r, g, b);
    }
    add_to(sums + n, sum);
}

// Second pass: contrast and what follows it, or all.
extern "C" __global__ void __launch_bounds__(128)
color_jitter1(const unsigned char* views, const Steps* steps, const unsigned long long* sums, unsigned char* out,
              long long pixels, int chunks) {
    int n = blockIdx.x / chunks;
    long long i = (long long)(blockIdx.x % chunks) * 128 + threadIdx.x;
    if (i >= pixels) return;
    Steps row = steps[n];
    unsigned char* result = out + 3 * pixels * n + i;
    const unsigned char* view = row.before ? result : views + 3 * pixels * n + i;
    if (view == result && !row.after) return;  // in place there is nothing to do
    Pixel p = pixel_of(view[0], view[pixels], view[2 * pixels], 0);
    apply<1>(&p, row, row.after, level_of(sums[n], pixels));
    store(result, pixels, p);
}

extern "C" __global__ void __launch_bounds__(128)
color_jitter16(const unsigned char* views, const Steps* steps, const unsigned long long* sums, unsigned char* out,
               long long pixels, int chunks) {
    int n = blockIdx.x / chunks;
    long long i = ((long long)(blockIdx.x % chunks) * 128 + threadIdx.x) * 16;
    if (i >= pixels) return;
    Steps row = steps[n];
    unsigned char* result = out + 3 * pixels * n + i;
    const unsigned char* view = row.before ? result : views + 3 * pixels * n + i;
    if (view == result && !row.after) return;  // in place there is nothing to do
    float level = level_of(sums[n], pixels);
    uint4 r = words(view), g = words(view + pixels), b = words(view + 2 * pixels);
#pragma unroll 1
    for (int word = 0; word < 4; ++word) {
        unsigned int red = r.x, green = g.x, blue = b.x;
        jitter4<false>(red, green, blue, row, row.after, level);
        r = rotated(r, red), g = rotated(g, green), b = rotated(b, blue);
    }
    store16(result, pixels, r, g, b);
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
