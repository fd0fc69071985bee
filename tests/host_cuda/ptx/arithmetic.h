// Arithmetic of PTX, lane by lane; see the PTX ISA, sections "Integer Arithmetic Instructions" and on. Floats round to nearest
// even, as the host does; payloads of NaN are the host's.
#pragma once

#include "machine.h"

#define DO [](Machine & m, Warp & w, const Instruction& i, u32 lanes)

// d = f(a, b, c) in the lanes; all at once, in vectors of the host, where all take part.
template <class D, class A, class F>
static inline void map1(Warp& w, const Instruction& i, u32 lanes, F f) {
    D* d = w.lanes<D>(i.d[0]);
    const A* a = w.lanes<A>(i.s[0]);
    if (lanes == FULL) {
        D all[32];
        for (int l = 0; l < 32; ++l) all[l] = f(a[l]);
        memcpy(d, all, sizeof all);
    } else {
        each(lanes, [&](int l) { d[l] = f(a[l]); });
    }
}
template <class D, class A, class B, class F>
static inline void map2(Warp& w, const Instruction& i, u32 lanes, F f) {
    D* d = w.lanes<D>(i.d[0]);
    const A* a = w.lanes<A>(i.s[0]);
    const B* b = w.lanes<B>(i.s[1]);
    if (lanes == FULL) {
        D all[32];
        for (int l = 0; l < 32; ++l) all[l] = f(a[l], b[l]);
        memcpy(d, all, sizeof all);
    } else {
        each(lanes, [&](int l) { d[l] = f(a[l], b[l]); });
    }
}
template <class D, class A, class C, class F>
static inline void map3(Warp& w, const Instruction& i, u32 lanes, F f) {
    D* d = w.lanes<D>(i.d[0]);
    const A *a = w.lanes<A>(i.s[0]), *b = w.lanes<A>(i.s[1]);
    const C* c = w.lanes<C>(i.s[2]);
    if (lanes == FULL) {
        D all[32];
        for (int l = 0; l < 32; ++l) all[l] = f(a[l], b[l], c[l]);
        memcpy(d, all, sizeof all);
    } else {
        each(lanes, [&](int l) { d[l] = f(a[l], b[l], c[l]); });
    }
}
template <class A, class F>
static inline void compare(Warp& w, const Instruction& i, u32 lanes, F f) {
    const A *a = w.lanes<A>(i.s[0]), *b = w.lanes<A>(i.s[1]);
    u32 bits = 0;
    for (int l = 0; l < 32; ++l) bits |= u32(f(a[l], b[l])) << l;
    u32& d = w.predicate(i.d[0]);
    d = (d & ~lanes) | (bits & lanes);
}
template <class T>
static inline void select(Warp& w, const Instruction& i, u32 lanes) {
    T* d = w.lanes<T>(i.d[0]);
    const T *a = w.lanes<T>(i.s[0]), *b = w.lanes<T>(i.s[1]);
    u32 which = w.predicate(i.s[2]);
    each(lanes, [&](int l) { d[l] = which >> l & 1 ? a[l] : b[l]; });
}
template <class F>
static inline void logic(Warp& w, const Instruction& i, u32 lanes, F f) {
    u32 a = w.predicate(i.s[0]), b = i.s[1] < 0 ? 0 : w.predicate(i.s[1]);
    u32& d = w.predicate(i.d[0]);
    d = (d & ~lanes) | (f(a, b) & lanes);
}
template <class T, class F>
static inline void divide(Warp& w, const Instruction& i, u32 lanes, F f) {
    T* d = w.lanes<T>(i.d[0]);
    const T *a = w.lanes<T>(i.s[0]), *b = w.lanes<T>(i.s[1]);
    each(lanes, [&](int l) {
        if (b[l] == 0) fault(l, "integer division by zero");
        d[l] = std::is_signed_v<T> && b[l] == T(-1) ? f(T(-a[l]), T(1)) : f(a[l], b[l]);  // the least integer wraps
    });
}

// min and max: a number beats NaN, and -0 is less than +0.
template <class T>
static inline T least(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}
template <class T>
static inline T most(T a, T b) {
    if (a != a) return b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? b : a) : a < b ? b : a;
}

// Towards zero, where the sum of doubles is exact; else it lies so close to the larger one that its neighbour decides.
static inline f32 add_towards_zero(f32 a, f32 b) {
    f64 sum = f64(a) + f64(b), error = fabs(a) > fabs(b) ? f64(b) - (sum - f64(a)) : f64(a) - (sum - f64(b));
    f32 rounded = f32(sum);
    f64 past = f64(rounded) - sum - error;  // sum + error is the exact sum
    return rounded != 0 && (rounded > 0 ? past > 0 : past < 0) ? nextafterf(rounded, 0.0f) : rounded;
}

// Float to integer: saturates; NaN gives 0, for 64 bits the lowest pattern.
template <class I, class F>
static inline I saturate(F x) {
    constexpr I low = std::is_signed_v<I> ? I(I(1) << (8 * sizeof(I) - 1)) : I(0), high = I(~low);
    if (x != x) return sizeof(I) == 8 ? I(1ull << 63) : I(0);
    if (x < F(low)) return low;
    if (x >= (F)ldexp(1.0, int(8 * sizeof(I)) - std::is_signed_v<I>)) return high;
    return I(x);
}
static inline u32 permute(u32 a, u32 b, u32 selector) {
    u64 bytes = u64(b) << 32 | a;
    u32 result = 0;
    for (int k = 0; k < 4; ++k) {
        u32 pick = selector >> (4 * k) & 15u, byte = u32(bytes >> (8 * (pick & 7u))) & 255u;
        result |= (pick & 8u ? (byte & 128u ? 255u : 0u) : byte) << (8 * k);
    }
    return result;
}
template <class T>
static inline T insert(T value, T into, u32 at, u32 length) {  // bfi: `length` bits from bit `at` on
    constexpr u32 bits = 8 * sizeof(T);
    at &= 255u, length &= 255u;
    if (at >= bits || length == 0) return into;
    T mask = T((length >= bits ? ~T(0) : (T(1) << length) - 1) << at);
    return (into & ~mask) | (T(value << at) & mask);
}

#define MAP1(name, D, A, result) {name, DO { map1<D, A>(w, i, lanes, [](A a) -> D { return D(result); }); }},
#define MAP2(name, D, A, result) {name, DO { map2<D, A, A>(w, i, lanes, [](A a, A b) -> D { return D(result); }); }},
#define SHIFT(name, T, result) {name, DO { map2<T, T, u32>(w, i, lanes, [](T a, u32 b) -> T { return T(result); }); }},
#define MAP3(name, D, A, C, result) \
    {name, DO { map3<D, A, C>(w, i, lanes, [](A a, A b, C c) -> D { return D(result); }); }},
#define COMPARE(name, T, result) {name, DO { compare<T>(w, i, lanes, [](T a, T b) { return result; }); }},
#define LOGIC(name, result) {name, DO { logic(w, i, lanes, [](u32 a, u32 b) -> u32 { return result; }); }},
#define DIVIDE(name, T, op) {name, DO { divide<T>(w, i, lanes, [](T a, T b) -> T { return T(a op b); }); }},

// Signed sums and products wrap: they are done on unsigned words.
#define INTEGERS(X, x, S, U)                                                                                            \
    MAP2("add.s" #x, U, U, a + b) MAP2("sub.s" #x, U, U, a - b) MAP2("mul.lo.s" #x, U, U, u64(a) * u64(b))              \
    COMPARE("setp.eq.s" #x, S, a == b) COMPARE("setp.ne.s" #x, S, a != b) COMPARE("setp.lt.s" #x, S, a < b)             \
    COMPARE("setp.le.s" #x, S, a <= b) COMPARE("setp.gt.s" #x, S, a > b) COMPARE("setp.ge.s" #x, S, a >= b)             \
    COMPARE("setp.lt.u" #x, U, a < b) COMPARE("setp.gt.u" #x, U, a > b) COMPARE("setp.ge.u" #x, U, a >= b)              \
    COMPARE("setp.le.u" #x, U, a <= b)                                                                                  \
    MAP2("and.b" #x, U, U, a & b) MAP2("or.b" #x, U, U, a | b) MAP2("xor.b" #x, U, U, a ^ b) MAP1("not.b" #x, U, U, ~a) \
    SHIFT("shl.b" #x, U, b >= x ? 0 : a << b) SHIFT("shr.u" #x, U, b >= x ? 0 : a >> b)                                 \
    SHIFT("shr.s" #x, S, a >> (b >= x ? x - 1 : b))                                                                     \
    MAP2("min.s" #x, S, S, a < b ? a : b) MAP2("max.s" #x, S, S, a < b ? b : a)                                         \
    MAP2("min.u" #x, U, U, a < b ? a : b) MAP2("max.u" #x, U, U, a < b ? b : a)                                         \
    MAP1("neg.s" #x, U, U, -a) MAP1("abs.s" #x, U, S, a < 0 ? -U(a) : U(a))                                             \
    DIVIDE("div.s" #x, S, /) DIVIDE("div.u" #x, U, /) DIVIDE("rem.s" #x, S, %) DIVIDE("rem.u" #x, U, %)                 \
    MAP3("mad.lo.s" #x, U, U, U, u64(a) * u64(b) + c)                                                                   \
    {"mov.b" #x, DO { map1<U, U>(w, i, lanes, [](U a) { return a; }); }},                                               \
    {"selp.b" #x, DO { select<U>(w, i, lanes); }},

#define FLOATS(x, T, root)                                                                                              \
    MAP2("add.rn.f" #x, T, T, a + b) MAP2("sub.rn.f" #x, T, T, a - b) MAP2("mul.rn.f" #x, T, T, a * b)                  \
    MAP2("div.rn.f" #x, T, T, a / b) MAP1("rcp.rn.f" #x, T, T, T(1) / a) MAP1("sqrt.rn.f" #x, T, T, root(a))            \
    MAP2("min.f" #x, T, T, least(a, b)) MAP2("max.f" #x, T, T, most(a, b))                                              \
    MAP1("neg.f" #x, T, T, -a) MAP1("abs.f" #x, T, T, a < 0 || std::signbit(a) ? -a : a)                                \
    COMPARE("setp.eq.f" #x, T, a == b) COMPARE("setp.lt.f" #x, T, a < b) COMPARE("setp.le.f" #x, T, a <= b)             \
    COMPARE("setp.gt.f" #x, T, a > b) COMPARE("setp.ge.f" #x, T, a >= b)                                                \
    COMPARE("setp.neu.f" #x, T, !(a == b)) COMPARE("setp.leu.f" #x, T, !(a > b)) COMPARE("setp.geu.f" #x, T, !(a < b))  \
    COMPARE("setp.ltu.f" #x, T, !(a >= b)) COMPARE("setp.gtu.f" #x, T, !(a <= b))

#define TO_INTEGER(I, t, F, f)                                                                                          \
    MAP1("cvt.rzi." #t "." #f, I, F, (saturate<I, F>(trunc(a)))) MAP1("cvt.rni." #t "." #f, I, F, (saturate<I, F>(rint(a))))

static const Entry ARITHMETIC[] = {
    MAP2("add.rz.f32", f32, f32, add_towards_zero(a, b)) MAP3("fma.rn.f32", f32, f32, f32, fmaf(a, b, c))
    INTEGERS(S, 16, s16, u16) INTEGERS(S, 32, s32, u32) INTEGERS(S, 64, s64, u64)
    FLOATS(32, f32, sqrtf) FLOATS(64, f64, sqrt)
    MAP2("mul.wide.s16", u32, s16, s32(a) * b) MAP2("mul.wide.u16", u32, u16, u32(a) * b)
    MAP2("mul.wide.s32", u64, s32, s64(a) * b) MAP2("mul.wide.u32", u64, u32, u64(a) * b)
    MAP2("mul.hi.s32", u32, s32, (s64(a) * b) >> 32) MAP2("mul.hi.u32", u32, u32, (u64(a) * b) >> 32)
    MAP2("mul.hi.s64", u64, s64, ((__int128)a * b) >> 64) MAP2("mul.hi.u64", u64, u64, ((unsigned __int128)a * b) >> 64)
    MAP3("mad.wide.s32", u64, s32, u64, u64(s64(a) * b) + c) MAP3("mad.wide.u32", u64, u32, u64, u64(a) * b + c)
    LOGIC("and.pred", a & b) LOGIC("or.pred", a | b) LOGIC("xor.pred", a ^ b) LOGIC("not.pred", ~a) LOGIC("mov.pred", a)
    MAP3("prmt.b32", u32, u32, u32, permute(a, b, c))
    MAP3("shf.r.wrap.b32", u32, u32, u32, (u64(b) << 32 | a) >> (c & 31u))
    MAP3("shf.l.wrap.b32", u32, u32, u32, ((u64(b) << 32 | a) << (c & 31u)) >> 32)
    MAP3("dp4a.u32.u32", u32, u32, u32, c + (a & 255u) * (b & 255u) + (a >> 8 & 255u) * (b >> 8 & 255u) +
         (a >> 16 & 255u) * (b >> 16 & 255u) + (a >> 24) * (b >> 24))
    MAP3("dp2a.lo.u32.u32", u32, u32, u32, c + (a & 0xffffu) * (b & 255u) + (a >> 16) * (b >> 8 & 255u))
    MAP3("dp2a.hi.u32.u32", u32, u32, u32, c + (a & 0xffffu) * (b >> 16 & 255u) + (a >> 16) * (b >> 24))
    MAP1("popc.b32", u32, u32, __builtin_popcount(a)) MAP1("clz.b32", u32, u32, a ? __builtin_clz(a) : 32)
    MAP1("brev.b32", u32, u32, [&] { u32 y = 0; for (int k = 0; k < 32; ++k) y |= (a >> k & 1u) << (31 - k); return y; }())
    {"bfi.b32", DO { auto *at = w.lanes<u32>(i.s[2]), *length = w.lanes<u32>(i.s[3]), *d = w.lanes<u32>(i.d[0]);
        each(lanes, [&](int l) { d[l] = insert(w.lanes<u32>(i.s[0])[l], w.lanes<u32>(i.s[1])[l], at[l], length[l]); }); }},
    {"bfi.b64", DO { auto *at = w.lanes<u32>(i.s[2]), *length = w.lanes<u32>(i.s[3]); auto* d = w.lanes<u64>(i.d[0]);
        each(lanes, [&](int l) { d[l] = insert(w.lanes<u64>(i.s[0])[l], w.lanes<u64>(i.s[1])[l], at[l], length[l]); }); }},
    {"pack.b32", DO { map2<u32, u16, u16>(w, i, lanes, [](u16 a, u16 b) { return u32(b) << 16 | a; }); }},
    {"pack.b64", DO { map2<u64, u32, u32>(w, i, lanes, [](u32 a, u32 b) { return u64(b) << 32 | a; }); }},
    // Conversions, also of registers that are wider than the type.
    MAP1("cvt.u16.u8", u16, u8, a) MAP1("cvt.u8.u16", u8, u16, a) MAP1("cvt.s16.s8", u16, s8, a)
    MAP1("cvt.u8.u32", u8, u32, a) MAP1("cvt.u8.u64", u8, u64, a) MAP1("cvt.u32.u8", u32, u8, a) MAP1("cvt.u64.u8", u64, u8, a)
    MAP1("cvt.s32.s8", u32, s8, a) MAP1("cvt.s64.s8", u64, s8, a) MAP1("cvt.u16.u32", u16, u32, a)
    MAP1("cvt.u16.u64", u16, u64, a) MAP1("cvt.u32.u16", u32, u16, a) MAP1("cvt.s32.s16", u32, s16, a)
    MAP1("cvt.u32.u64", u32, u64, a) MAP1("cvt.u64.u16", u64, u16, a) MAP1("cvt.s64.s16", u64, s16, a)
    MAP1("cvt.u64.u32", u64, u32, a) MAP1("cvt.s64.s32", u64, s32, a)
    MAP1("cvt.rn.f32.s32", f32, s32, f32(a)) MAP1("cvt.rn.f32.u32", f32, u32, f32(a)) MAP1("cvt.rn.f32.u16", f32, u16, f32(a))
    MAP1("cvt.rn.f32.s16", f32, s16, f32(a)) MAP1("cvt.rn.f32.u8", f32, u8, f32(a))
    MAP1("cvt.rn.f32.u64", f32, u64, f32(a)) MAP1("cvt.rn.f32.s64", f32, s64, f32(a))
    MAP1("cvt.rn.f64.s32", f64, s32, f64(a)) MAP1("cvt.rn.f64.u32", f64, u32, f64(a)) MAP1("cvt.rn.f64.s64", f64, s64, f64(a))
    MAP1("cvt.rn.f64.u64", f64, u64, f64(a)) MAP1("cvt.rn.f32.f64", f32, f64, f32(a)) MAP1("cvt.f64.f32", f64, f32, f64(a))
    TO_INTEGER(s32, s32, f32, f32) TO_INTEGER(u32, u32, f32, f32) TO_INTEGER(s32, s32, f64, f64)
    TO_INTEGER(s64, s64, f64, f64)
};
