// CUDA's vector types with their sizes and alignments (CUDA programming guide, "Built-in Vector Types").
#pragma once

#define SHIM_VECTOR(T, name, a2, a4)                                                              \
    struct name##1 { T x; };                                                                      \
    struct alignas(a2) name##2 { T x, y; };                                                       \
    struct name##3 { T x, y, z; };                                                                \
    struct alignas(a4) name##4 { T x, y, z, w; };                                                 \
    static inline name##1 make_##name##1(T x) { return {x}; }                                     \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                             \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                     \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

SHIM_VECTOR(signed char, char, 2, 4)
SHIM_VECTOR(unsigned char, uchar, 2, 4)
SHIM_VECTOR(short, short, 4, 8)
SHIM_VECTOR(unsigned short, ushort, 4, 8)
SHIM_VECTOR(int, int, 8, 16)
SHIM_VECTOR(unsigned int, uint, 8, 16)
SHIM_VECTOR(long long, longlong, 16, 16)
SHIM_VECTOR(unsigned long long, ulonglong, 16, 16)
SHIM_VECTOR(float, float, 8, 16)
SHIM_VECTOR(double, double, 16, 16)
#undef SHIM_VECTOR

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};
