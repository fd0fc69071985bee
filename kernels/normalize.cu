// Table lookups of normalize.py: bytes to float32 (32 bits) or to float16 and bfloat16 (16 bits).

// One 32-bit word of the result: one value of 32 bits or two of 16.
static __device__ __forceinline__ unsigned int word(const float* table, const int* places, int i) {
    return __float_as_uint(table[places[i]]);
}

static __device__ __forceinline__ unsigned int word(const unsigned short* table, const int* places, int i) {
    return table[places[2 * i]] | (unsigned int)table[places[2 * i + 1]] << 16;
}

template <typename T>
static __device__ __forceinline__ uint4 words(const T* table, const int* places, int i) {
    return make_uint4(word(table, places, i), word(table, places, i + 1), word(table, places, i + 2),
                      word(table, places, i + 3));
}

// The pixels of a thread as places in the table: 4 or 8 at once, or one.
static __device__ __forceinline__ void load4(unsigned int values, int limit, int first, int step, int* places) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int v = (int)(values >> 8 * i & 255u);
        places[i * step] = first + (v < limit ? v : 255 - v);
    }
}

template <int PIXELS>
static __device__ __forceinline__ void load(const unsigned char* values, int limit, int first, int step, int* places) {
    if (PIXELS == 1) {
        int v = *values;
        *places = first + (v < limit ? v : 255 - v);
    } else if (PIXELS == 4) {
        load4(*(const unsigned int*)values, limit, first, step, places);
    } else {
        uint2 both = *(const uint2*)values;
        load4(both.x, limit, first, step, places);
        load4(both.y, limit, first, step, places + 4 * step);
    }
}

// A block does `span` groups of PIXELS pixels of one plane; a plane has `groups` in `chunks` blocks.
template <typename T, int PIXELS>
static __device__ __forceinline__ void planar(const unsigned char* views, const T* tables, const int* limits, T* out,
                                              long long groups, int chunks, long long span) {
    __shared__ T table[256];
    int plane = blockIdx.x / chunks, limit = limits[plane / 3];
    table[threadIdx.x] = tables[plane % 3 * 256 + threadIdx.x];
    __syncthreads();
    long long start = (blockIdx.x % chunks) * span, end = min(start + span, groups);
    for (long long i = start + threadIdx.x; i < end; i += 256) {
        long long at = (plane * groups + i) * PIXELS;
        int places[PIXELS];
        load<PIXELS>(views + at, limit, 0, 1, places);
        if (PIXELS == 1) {
            out[at] = table[places[0]];
        } else {
            *(uint4*)(out + at) = words(table, places, 0);
        }
    }
}

// The same for a view with its channels last: a group is 3 * PIXELS values, three times 16 bytes.
template <typename T, int PIXELS>
static __device__ __forceinline__ void last(const unsigned char* views, const T* tables, const int* limits, T* out,
                                            long long groups, int chunks, long long span) {
    __shared__ T table[768];
    int n = blockIdx.x / chunks, limit = limits[n];
    for (int i = threadIdx.x; i < 768; i += 256) table[i] = tables[i];
    __syncthreads();
    long long start = (blockIdx.x % chunks) * span, end = min(start + span, groups);
    const unsigned char* view = views + 3 * n * groups * PIXELS;
    for (long long i = start + threadIdx.x; i < end; i += 256) {
        int places[3 * PIXELS];
#pragma unroll
        for (int c = 0; c < 3; ++c) load<PIXELS>(view + (c * groups + i) * PIXELS, limit, 256 * c, 3, places + c);
        T* result = out + 3 * (n * groups + i) * PIXELS;
        if (PIXELS == 1) {
#pragma unroll
            for (int c = 0; c < 3; ++c) result[c] = table[places[c]];
        } else {
#pragma unroll
            for (int k = 0; k < 3; ++k) ((uint4*)result)[k] = words(table, places, 4 * k);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
normalize_planar32(const unsigned char* views, const float* tables, const int* limits, float* out,
                   long long groups, int chunks, long long span) {
    planar<float, 1>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_planar32x(const unsigned char* views, const float* tables, const int* limits, float* out,
                    long long groups, int chunks, long long span) {
    planar<float, 4>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_planar16(const unsigned char* views, const unsigned short* tables, const int* limits, unsigned short* out,
                   long long groups, int chunks, long long span) {
    planar<unsigned short, 1>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_planar16x(const unsigned char* views, const unsigned short* tables, const int* limits, unsigned short* out,
                    long long groups, int chunks, long long span) {
    planar<unsigned short, 8>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_last32(const unsigned char* views, const float* tables, const int* limits, float* out,
                 long long groups, int chunks, long long span) {
    last<float, 1>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_last32x(const unsigned char* views, const float* tables, const int* limits, float* out,
                  long long groups, int chunks, long long span) {
    last<float, 4>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_last16(const unsigned char* views, const unsigned short* tables, const int* limits, unsigned short* out,
                 long long groups, int chunks, long long span) {
    last<unsigned short, 1>(views, tables, limits, out, groups, chunks, span);
}

extern "C" __global__ void __launch_bounds__(256)
normalize_last16x(const unsigned char* views, const unsigned short* tables, const int* limits, unsigned short* out,
                  long long groups, int chunks, long long span) {
    last<unsigned short, 8>(views, tables, limits, out, groups, chunks, span);
}
