// Kernels that are right, and kernels that are wrong in one way each: what must run and what must be caught.

constexpr int N = 64;
struct Row { int id; float weight; };
__constant__ float TABLE[3] = {1.0f, 2.0f, 3.0f};

template <int K>
__device__ int block_sum(int value) {
    __shared__ int parts[K];
    parts[threadIdx.x] = value;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < K; ++i) sum += parts[i];
    __syncthreads();
    return sum;
}

extern "C" __global__ void __launch_bounds__(N)
toy_sum(const int* __restrict__ x, int* __restrict__ y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int sum = block_sum<N>(i < n ? x[i] : 0);
    if (i < n) y[i] = sum;
}

extern "C" __global__ void toy_scale(const unsigned char* x, unsigned char* y, long long n, float factor) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = (unsigned char)(x[i] * factor);
}

extern "C" __global__ void toy_axes(unsigned* y) {
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
}

extern "C" __global__ void toy_mirror(const float* x, float* y, int n) {
    extern __shared__ __align__(16) unsigned char bytes[];
    float* line = (float*)bytes;
    line[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = line[n - 1 - threadIdx.x] + TABLE[threadIdx.x % 3];
}

extern "C" __global__ void toy_race(const float* x, float* y, int n) {
    extern __shared__ float line[];
    line[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = line[n - 1 - threadIdx.x];
}

extern "C" __global__ void toy_votes(const int* x, int* y) {
    y[3 * threadIdx.x] = __syncthreads_count(x[threadIdx.x]);
    y[3 * threadIdx.x + 1] = __syncthreads_or(x[threadIdx.x]);
    y[3 * threadIdx.x + 2] = __syncthreads_and(x[threadIdx.x]);
}

extern "C" __global__ void toy_warp(const int* x, int* y, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    const unsigned all = 0xffffffffu;
    int sum = x[i], low = x[i];
    for (int step = 16; step > 0; step /= 2) {
        sum += __shfl_xor_sync(all, sum, step);
        low = min(low, __shfl_down_sync(all, low, step));
    }
    __syncwarp();
    int* row = y + 8 * i;
    row[0] = sum;
    row[1] = __shfl_sync(all, low, 0);
    row[2] = __shfl_up_sync(all, x[i], 1, 8);
    row[3] = (int)__ballot_sync(all, x[i] & 1);
    row[4] = __reduce_min_sync(all, x[i]);
    row[5] = __any_sync(all, x[i] == 3) * 2 + __all_sync(all, x[i] > -100);
    row[6] = (int)__match_any_sync(all, x[i] & 1);
    row[7] = (i & 1) ? __reduce_add_sync(0xaaaaaaaau, x[i]) : __reduce_add_sync(0x55555555u, x[i]);
}

extern "C" __global__ void toy_part_of_warp(const int* x, int* y, int n) {
    int i = threadIdx.x;
    if (i >= n) return;
    y[3 * i] = (int)__ballot_sync(0xffffffffu, x[i] & 1);
    y[3 * i + 1] = __reduce_max_sync(0xffffffffu, x[i]);
    y[3 * i + 2] = __shfl_sync(0xffffffffu, x[i], 31);
}

extern "C" __global__ void toy_atomic(const Row* rows, unsigned long long* y, float* weight) {
    Row row = rows[threadIdx.x];
    atomicAdd(y, 1);
    atomicMax(y + 1, (unsigned long long)row.id);
    atomicAdd(weight, row.weight);
}

extern "C" __global__ void toy_bits(const unsigned* x, unsigned* y) {
    y[0] = __popc(x[0]);
    y[1] = __clz(x[0]);
    y[2] = __brev(x[0]);
    y[3] = __umulhi(x[0], x[1]);
    y[4] = __byte_perm(x[0], x[1], 0x7104);
    y[5] = __dp4a(x[0], x[1], 7u);
    y[6] = __float_as_uint(__int2float_rn(-3));
    y[7] = (unsigned)__float2int_rn(2.5f) + 100u * (unsigned)__float2int_rn(-1e20f) + (unsigned)__float2uint_rz(1e20f);
    y[8] = __funnelshift_r(x[0], x[1], 8);
}

// ---- wrong on purpose ---------------------------------------------------------------------------

extern "C" __global__ void toy_outside(const unsigned char* x, unsigned char* y, int offset) { y[0] = x[offset]; }
extern "C" __global__ void toy_write_outside(unsigned char* y, int offset) { y[offset] = 1; }
extern "C" __global__ void toy_early_return(int* y) {
    if (threadIdx.x < 3) return;
    __syncthreads();
    y[threadIdx.x] = 1;
}
extern "C" __global__ void toy_two_barriers(int* y) {
    if (threadIdx.x < 3) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[threadIdx.x] = 1;
}
extern "C" __global__ void toy_lost_lane(int* y) {
    if (threadIdx.x < 3) __syncthreads();
    y[threadIdx.x] = __shfl_sync(0xffffffffu, y[threadIdx.x], 0);
}
extern "C" __global__ void toy_vector(const unsigned char* x, uint4* y, int offset) {
    *y = *(const uint4*)(x + offset);
}
extern "C" __global__ void toy_cast(const float* x, int* y) { y[0] = (int)x[0]; }
extern "C" __global__ void toy_divide(int* y, int by) { y[0] = 7 / by; }
extern "C" __global__ void toy_shift(int* y, int by) { y[0] = 7 >> by; }
extern "C" __global__ void toy_overflow(int* y, int by) { y[0] = 2147483647 + by; }
extern "C" __global__ void toy_index(int* y, int at) {
    int local[4] = {1, 2, 3, 4};
    y[0] = local[at];
}
template <class T>
__device__ T unwritten(T value) {
    __shared__ T line[4];
    T old = line[1];
    line[1] = value;
    return old;
}
extern "C" __global__ void toy_unwritten(float* y) {
    __shared__ float line[4];
    y[2 * blockIdx.x] = line[1];
    line[1] = 1.0f;
    y[2 * blockIdx.x + 1] = unwritten(1.0f);
}
