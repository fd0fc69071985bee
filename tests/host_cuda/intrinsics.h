// Device functions: the exact ones of CUDA's list that kernels here may use.
#pragma once

#define SHIM_MINMAX(R, A, B)                                                    \
    static inline R min(A a, B b) { R x = a, y = b; return x < y ? x : y; }     \
    static inline R max(A a, B b) { R x = a, y = b; return x > y ? x : y; }
SHIM_MINMAX(int, int, int)
SHIM_MINMAX(unsigned, unsigned, unsigned)
SHIM_MINMAX(unsigned, int, unsigned)
SHIM_MINMAX(unsigned, unsigned, int)
SHIM_MINMAX(long, long, long)
SHIM_MINMAX(unsigned long, unsigned long, unsigned long)
SHIM_MINMAX(long long, long long, long long)
SHIM_MINMAX(unsigned long long, unsigned long long, unsigned long long)
SHIM_MINMAX(unsigned long long, long long, unsigned long long)
SHIM_MINMAX(unsigned long long, unsigned long long, long long)
#undef SHIM_MINMAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline double min(float a, double b) { return fmin(a, b); }
static inline double max(float a, double b) { return fmax(a, b); }
static inline double min(double a, float b) { return fmin(a, b); }
static inline double max(double a, float b) { return fmax(a, b); }

// ---- bits ---------------------------------------------------------------------------------------

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline int __mul24(int a, int b) { return int(unsigned(a << 8 >> 8) * unsigned(b << 8 >> 8)); }
static inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xFFFFFFu) * (b & 0xFFFFFFu); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned long long bytes = (unsigned long long)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        unsigned pick = selector >> (4 * i) & 15u;
        unsigned byte = unsigned(bytes >> (8 * (pick & 7u))) & 255u;
        if (pick & 8u) byte = byte & 128u ? 255u : 0u;  // the sign, replicated
        result |= byte << (8 * i);
    }
    return result;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((((unsigned long long)high << 32 | low) << (shift & 31u)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((unsigned long long)high << 32 | low) >> (shift & 31u));
}
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 32; i += 8) c += (a >> i & 255u) * (b >> i & 255u);
    return c;
}
static inline int __dp4a(int a, int b, int c) {
    unsigned sum = unsigned(c);
    for (int i = 0; i < 32; i += 8) sum += unsigned(int(int8_t(a >> i)) * int(int8_t(b >> i)));
    return int(sum);
}
static inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned c) {
    return c + (a & 0xFFFFu) * (b & 255u) + (a >> 16) * (b >> 8 & 255u);
}
static inline unsigned __dp2a_hi(unsigned a, unsigned b, unsigned c) { return __dp2a_lo(a, b >> 16, c); }
static inline unsigned __sad(int a, int b, unsigned c) {
    return (a < b ? unsigned(b) - unsigned(a) : unsigned(a) - unsigned(b)) + c;
}

// ---- conversions --------------------------------------------------------------------------------

template <class To, class From>
static inline To shim_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline int __float_as_int(float x) { return shim_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return shim_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return shim_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return shim_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return shim_bits<double>(x); }

// A float to integer conversion saturates on the GPU, and NaN gives 0 (for 64 bits: the lowest bit pattern 0x8000...).
template <class I, class F>
static inline I shim_saturate(F x) {
    constexpr I low = std::is_signed_v<I> ? I(I(1) << (8 * sizeof(I) - 1)) : I(0), high = I(~low);
    if (x != x) return sizeof(I) == 8 ? I(1ull << 63) : I(0);
    if (x < F(low)) return low;
    if (x >= ldexp(F(1), int(8 * sizeof(I)) - std::is_signed_v<I>)) return high;
    return I(x);
}
#define SHIM_CONVERT(F, f, suffix, round)                                                                     \
    static inline int __##f##2int_##suffix(F x) { return shim_saturate<int>(round(x)); }                      \
    static inline unsigned __##f##2uint_##suffix(F x) { return shim_saturate<unsigned>(round(x)); }           \
    static inline long long __##f##2ll_##suffix(F x) { return shim_saturate<long long>(round(x)); }           \
    static inline unsigned long long __##f##2ull_##suffix(F x) { return shim_saturate<unsigned long long>(round(x)); }
SHIM_CONVERT(float, float, rn, rintf)
SHIM_CONVERT(float, float, rz, truncf)
SHIM_CONVERT(float, float, rd, floorf)
SHIM_CONVERT(float, float, ru, ceilf)
SHIM_CONVERT(double, double, rn, rint)
SHIM_CONVERT(double, double, rz, trunc)
SHIM_CONVERT(double, double, rd, floor)
SHIM_CONVERT(double, double, ru, ceil)
#undef SHIM_CONVERT
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }
static inline float __ll2float_rn(long long x) { return float(x); }
static inline float __double2float_rn(double x) { return float(x); }
static inline double __int2double_rn(int x) { return double(x); }

// ---- arithmetic, rounded to nearest -------------------------------------------------------------

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fadd_rz(float a, float b) {  // where the sum of doubles is exact: exponents less than 29 apart
    double sum = (double)a + (double)b;
    float rounded = float(sum);
    return fabs((double)rounded) > fabs(sum) ? nextafterf(rounded, 0.0f) : rounded;
}
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// ---- memory -------------------------------------------------------------------------------------

template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline void __stcs(T* p, T value) { *p = value; }
template <class T> static inline void __stcg(T* p, T value) { *p = value; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// The second parameter must not take part in deduction: atomicAdd(unsigned*, 1) is legal CUDA.
template <class T> struct shim_same { using type = T; };
template <class T> using shim_same_t = typename shim_same<T>::type;
#define SHIM_ATOMIC(name, expression)                                 \
    template <class T>                                                \
    static inline T atomic##name(T* p, shim_same_t<T> value) {        \
        static_assert(sizeof(T) >= 4, "CUDA has no such atomic");     \
        T old = *p;                                                   \
        *p = expression;                                              \
        return old;                                                   \
    }
SHIM_ATOMIC(Add, T(old + value))
SHIM_ATOMIC(Sub, T(old - value))
SHIM_ATOMIC(Min, old < value ? old : value)
SHIM_ATOMIC(Max, old < value ? value : old)
SHIM_ATOMIC(And, T(old & value))
SHIM_ATOMIC(Or, T(old | value))
SHIM_ATOMIC(Xor, T(old ^ value))
SHIM_ATOMIC(Exch, value)
SHIM_ATOMIC(Inc, old >= value ? T(0) : T(old + 1))
SHIM_ATOMIC(Dec, old == 0 || old > value ? value : T(old - 1))
#undef SHIM_ATOMIC
template <class T>
static inline T atomicCAS(T* p, shim_same_t<T> compare, shim_same_t<T> value) {
    T old = *p;
    if (old == compare) *p = value;
    return old;
}

// ---- warps --------------------------------------------------------------------------------------

static inline int shim_lane() { return int(shim::current - shim::threads) & 31; }
template <class T>
static inline T shim_shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = shim::warp(shim::SHUFFLE, mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return shim_shuffle(mask, value, (shim_lane() & -width) | (source & (width - 1)));
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = shim_lane(), source = lane - int(delta);
    return shim_shuffle(mask, value, source < (lane & -width) ? lane : source);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = shim_lane(), source = lane + int(delta);
    return shim_shuffle(mask, value, source >= (lane & -width) + width ? lane : source);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = shim_lane(), source = lane ^ bits;
    return shim_shuffle(mask, value, source >= (lane & -width) + width ? lane : source);
}
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { shim::warp(shim::SYNC, mask, 0); }
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return unsigned(shim::warp(shim::BALLOT, mask, predicate != 0));
}
static inline int __any_sync(unsigned mask, int predicate) { return shim::warp(shim::OR, mask, predicate != 0) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return shim::warp(shim::AND, mask, predicate != 0) != 0; }
#define SHIM_REDUCE(name, op)                                                                                       \
    static inline unsigned __reduce_##name##_sync(unsigned mask, unsigned value) {                                  \
        return unsigned(shim::warp(shim::op, mask, value));                                                         \
    }                                                                                                               \
    static inline int __reduce_##name##_sync(unsigned mask, int value) {                                            \
        return int(shim::warp(shim::op, mask, uint64_t(int64_t(value)), 0, true));                                  \
    }
SHIM_REDUCE(add, ADD)
SHIM_REDUCE(min, MIN)
SHIM_REDUCE(max, MAX)
SHIM_REDUCE(and, AND)
SHIM_REDUCE(or, OR)
SHIM_REDUCE(xor, XOR)
#undef SHIM_REDUCE
template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value) {
    return unsigned(shim::warp(shim::MATCH, mask, uint64_t(value)));
}
