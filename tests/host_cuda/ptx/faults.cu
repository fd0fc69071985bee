// Pairs of kernels: one that is right and must run, and its twin with the one fault that a check must find.

extern "C" __global__ void faults_copy16(const unsigned char* x, unsigned char* y, int from) {
    *(float4*)(y + 16 * threadIdx.x) = *(const float4*)(x + from + 16 * threadIdx.x);
}
extern "C" __global__ void faults_store8(const unsigned char* x, unsigned char* y, int to) {
    *(uint2*)(y + to + 8 * threadIdx.x) = make_uint2(x[0], x[1]);
}
extern "C" __global__ void faults_read(const int* x, int* y, int shift) { y[threadIdx.x] = x[(int)threadIdx.x + shift]; }
extern "C" __global__ void faults_write(const int* x, int* y, int shift) { y[(int)threadIdx.x + shift] = x[threadIdx.x]; }
extern "C" __global__ void faults_const(const int* x, int* y, int wrong) {
    y[threadIdx.x] = 1;
    if (wrong) ((int*)x)[threadIdx.x] = 1;
}
extern "C" __global__ void faults_shared(const int* x, int* y, int n) {  // n = 32 words are there
    __shared__ int low[32], high[32];
    low[threadIdx.x] = x[threadIdx.x];
    high[threadIdx.x] = 0;
    __syncthreads();
    y[threadIdx.x] = low[n - 1 - (int)threadIdx.x] + high[threadIdx.x];
}
extern "C" __global__ void faults_exchange(const int* x, int* y, int wrong) {
    __shared__ int line[64];
    line[threadIdx.x] = x[threadIdx.x];
    if (!wrong) __syncthreads();
    y[threadIdx.x] = line[63 - threadIdx.x];
}
extern "C" __global__ void faults_reuse(const int* x, int* y, int wrong) {
    __shared__ int line[64];
    line[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    int other = line[threadIdx.x % 32];
    if (!wrong) __syncthreads();
    line[threadIdx.x] = 2 * other;
    y[threadIdx.x] = line[threadIdx.x];
}
extern "C" __global__ void faults_warp(const int* x, int* y, int wrong) {  // 32 threads
    __shared__ int line[32];
    line[threadIdx.x] = x[threadIdx.x];
    if (wrong) __shfl_sync(0xffffffffu, 0, 0); else __syncwarp();
    y[threadIdx.x] = line[31 - threadIdx.x];
}
extern "C" __global__ void faults_count(const int* x, int* y, int wrong) {
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    if (wrong && threadIdx.x == 33) sum = sum + x[33]; else atomicAdd(&sum, x[threadIdx.x]);
    __syncthreads();
    y[threadIdx.x] = sum;
}
extern "C" __global__ void faults_unwritten(const int* x, int* y, int written) {
    __shared__ int line[64];
    if ((int)threadIdx.x < written) line[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = line[63 - threadIdx.x];
}
extern "C" __global__ void faults_half_barrier(const int* x, int* y, int wrong) {
    if (!wrong || threadIdx.x % 2 == 0) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void faults_warp_barrier(const int* x, int* y, int wrong) {
    if (!wrong || threadIdx.x < 32) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void faults_gone(const int* x, int* y, int wrong) {
    if (wrong && threadIdx.x == 40) return;
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void faults_lanes(const int* x, int* y, int wrong) {
    int value = x[threadIdx.x];
    if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(wrong ? 0xffffffffu : 0xffffu, value, 1);
    else __syncthreads_count(value);
    y[threadIdx.x] = value;
}
extern "C" __global__ void faults_mask(const int* x, int* y, int wrong) {
    y[threadIdx.x] = __shfl_sync(wrong ? 0x7fffffffu : 0xffffffffu, x[threadIdx.x], 0);
}
extern "C" __global__ void faults_blocks_write(const int* x, int* y, int wrong) {
    if (threadIdx.x == 0) y[0] = wrong ? (int)blockIdx.x : 7;  // all the same: nobody can tell the order
    if (threadIdx.x < 63) y[1 + blockIdx.x * 63 + threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void faults_blocks_read(const int* x, int* y, int wrong) {
    int i = blockIdx.x * 64 + threadIdx.x;
    y[i] = x[threadIdx.x];
    if (wrong) y[i] += y[(i + 64) % 128];
}
extern "C" __global__ void faults_blocks_add(const int* x, int* y, int wrong) {
    if (wrong) y[0] += x[0]; else atomicAdd(y, x[0]);
}
extern "C" __global__ void faults_cached(const int* x, int* y, int wrong) {
    y[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] += wrong ? __ldg(y + threadIdx.x) : y[threadIdx.x];
}
extern "C" __global__ void faults_divide(const int* x, int* y, int wrong) {
    y[threadIdx.x] = x[threadIdx.x] / (2 - 2 * wrong);
}
extern "C" __global__ void faults_endless(const int* x, int* y, int wrong) {
    int steps = 0;
    for (int at = 1; at; at = wrong ? x[at % 2 + 1] : 0) steps++;
    y[threadIdx.x] = steps;
}
extern "C" __global__ void faults_reset(const int* x, int* y, int wrong) {  // 32 threads
    __shared__ int least;
    if (threadIdx.x == 0) least = x[0];
    if (!wrong) __syncthreads();
    atomicMin(&least, x[threadIdx.x]);
    __syncthreads();
    y[threadIdx.x] = least;
}
