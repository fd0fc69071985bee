// CUDA C++ on the CPU, for tests: the generated unit includes this file and then a kernels/*.cu, unchanged but for its
// `extern __shared__` line (see executor.py). What is missing here (approximate intrinsics such as __expf, rsqrtf) is
// missing on purpose: it cannot give the CPU's numbers.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <link.h>
#include <signal.h>
#include <type_traits>
#include <utility>

#include "vectors.h"

#include "runtime.h"

#include "door.h"

#include "intrinsics.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static __thread
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __syncthreads() shim::barrier(__LINE__, 0)
#define __syncthreads_or(x) (shim::barrier(__LINE__, (x) != 0) != 0)
#define __syncthreads_and(x) (shim::barrier(__LINE__, (x) == 0) == 0)
#define __syncthreads_count(x) shim::barrier(__LINE__, (x) != 0)
