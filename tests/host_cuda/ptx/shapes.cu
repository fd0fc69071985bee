// Kernels whose counts one can work out on paper: what the profile is tested with. One warp a block.

extern "C" __global__ void shapes_copy(const int* x, int* y) { y[blockIdx.x * 32 + threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x]; }
extern "C" __global__ void shapes_strided(const int* x, int* y) { y[threadIdx.x] = x[8 * threadIdx.x]; }
extern "C" __global__ void shapes_again(const int* x, int* y) {
    int value = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = value + x[threadIdx.x];
}
extern "C" __global__ void shapes_banks(const int* x, int* y) {
    __shared__ int line[32 * 32];
    line[threadIdx.x * 2] = x[threadIdx.x];   // two lanes a bank
    line[threadIdx.x * 2 + 1] = 0;
    __syncthreads();
    y[threadIdx.x] = line[threadIdx.x] + line[0];  // none; all the same word
}
extern "C" __global__ void shapes_halves(const int* x, int* y) {
    int value = x[threadIdx.x];
    if (threadIdx.x < 16) {
        value = value / y[threadIdx.x];
        value = value / y[threadIdx.x + 1];
    }
    y[threadIdx.x] = value;
}
