// Loads, stores and atomics: every access lies inside its array and on a multiple of its size.
#pragma once

#include "hazards.h"

static const char* const NAMES[] = {"global", "global", "shared", "local", "constant"};

static Region* find_region(Machine& m, u64 address, u64 size) {
    const Launch& launch = *m.launch;
    if (launch.region_count == 0) return nullptr;
    auto inside = [&](const Region& r) { return address - r.start < r.size && address - r.start + size <= r.size; };
    Region* last = launch.regions + m.last_region;
    if (inside(*last)) return last;
    Region* after = std::upper_bound(launch.regions, launch.regions + launch.region_count, address,
                                     [](u64 a, const Region& r) { return a < r.start; });
    if (after == launch.regions || !inside(after[-1])) return nullptr;
    m.last_region = int(after - 1 - launch.regions);
    return after - 1;
}

[[noreturn]] static void outside(Machine& m, int lane, u64 address, int size) {
    const Launch& launch = *m.launch;
    s64 least = 1 << 16, nearest = -1, by = 0;
    for (int k = 0; k < launch.region_count; ++k) {
        const Region& r = launch.regions[k];
        s64 past = s64(address + size - r.start - r.size), before = s64(r.start - address);
        s64 distance = past > 0 ? past : before;
        if (distance > 0 && distance < least) least = distance, nearest = k, by = past > 0 ? past : -before;
    }
    if (nearest < 0) fault(lane, "out of bounds: address 0x%llx belongs to no array", (unsigned long long)address);
    fault(lane, "out of bounds: %lld bytes %s {%d}", (long long)(by < 0 ? -by : by),
          by < 0 ? "before the start of" : "past the end of", int(nearest));
}

static void shared_inside(Machine& m, int lane, u64 at, int size) {
    const Launch& launch = *m.launch;
    for (int k = 0; k < launch.variable_count; ++k) {
        const Variable& v = launch.variables[k];
        if (at - v.start < v.size && at - v.start + size <= v.size) return;
    }
    fault(lane, "out of bounds: byte %lld of shared memory belongs to no array of the kernel", (long long)at);
}

// ---- profile ------------------------------------------------------------------------------------

static s64 count_global(Machine& m, const u64* at, u32 lanes, int size, u64* counts) {
    u64 pieces[32 * 2 * 4], bytes[32];
    int n = 0, some = 0;
    each(lanes, [&](int l) {
        bytes[some++] = at[l];
        Region* r = find_region(m, at[l], size);
        u64 base = u64(r - m.launch->regions) << 44, offset = at[l] - r->start;  // arrays begin at a sector
        for (u64 s = offset / SECTOR; s <= (offset + size - 1) / SECTOR; ++s) pieces[n++] = base + s;
    });
    std::sort(pieces, pieces + n);
    n = int(std::unique(pieces, pieces + n) - pieces);
    std::sort(bytes, bytes + some);
    s64 latency = 0;
    counts[USEFUL] += u64(std::unique(bytes, bytes + some) - bytes) * size;
    counts[SECTORS] += n;
    for (int k = 0; k < n; ++k) {
        Region& r = m.launch->regions[pieces[k] >> 44];
        u32& touched = r.touched[pieces[k] & ((1ull << 44) - 1)];
        counts[MISSES] += touched != m.serial;
        counts[FIRST] += touched == 0;
        latency = std::max<s64>(latency, touched == m.serial ? 40 : touched ? 270 : 600);
        touched = m.serial;
    }
    return latency + n / 2;
}

// Passes over the 32 banks: lanes go together in halves or quarters where each takes 8 or 16 bytes.
static s64 count_shared(const u64* at, u32 lanes, int size, bool atomic, u64* counts) {
    int parts = size > 8 ? 4 : size > 4 ? 2 : 1, waves = 0, least = 0;
    for (int part = 0; part < parts; ++part) {
        std::vector<u64> words;
        for (int l = part * 32 / parts; l < (part + 1) * 32 / parts; ++l)
            for (u64 word = at[l] / 4; lanes >> l & 1 && word <= (at[l] + size - 1) / 4; ++word) words.push_back(word);
        std::sort(words.begin(), words.end());
        if (!atomic) words.erase(std::unique(words.begin(), words.end()), words.end());
        int banks[32] = {}, most = 0;
        for (u64 word : words) most = std::max(most, ++banks[word % 32]);
        waves += most, least += !words.empty();
    }
    counts[WAVES] += waves, counts[LEAST_WAVES] += least;
    return 23 + waves;
}

// ---- one instruction ----------------------------------------------------------------------------

struct Places {
    char* memory[32];
    Region* region[32];  // null: not global
    u64 at[32];
    bool shared;
};

static void local_access(Machine& m, Warp& w, int lane, u64 at, int size, bool write, Places& p) {
    u64 room = m.launch->entry_local, first = u64(lane) * room;
    if (at >= room || at + size > room) fault(lane, "out of bounds: byte %llu of local memory", (unsigned long long)at);
    p.memory[lane] = w.local + first + at;
    for (int k = 0; k < size; ++k) {
        u8& known = w.local_known[first + at + k];
        if (!write && !known) fault(lane, "uninitialised read of local memory, byte %llu", (unsigned long long)at);
        known = 1;
    }
}

static void place(Machine& m, Warp& w, const Instruction& i, u32 lanes, int size, bool write, bool atomic, Places& p) {
    const Launch& launch = *m.launch;
    p.shared = false;
    each(lanes, [&](int l) {
        u64 base = i.wide ? w.lanes<u64>(i.s[0])[l] : w.lanes<u32>(i.s[0])[l], at = base + i.immediate;
        int space = i.space;
        if (space == GENERIC) {
            space = at - SHARED_WINDOW < WINDOW ? SHARED : at - LOCAL_WINDOW < WINDOW ? LOCAL : GLOBAL;
            if (space != GLOBAL) at -= space == SHARED ? SHARED_WINDOW : LOCAL_WINDOW;
        }
        if (at % size)
            fault(l, "misaligned access: %d bytes at %s address 0x%llx", size, NAMES[space], (unsigned long long)at);
        p.at[l] = at;
        p.region[l] = nullptr;
        if (space == GLOBAL) {
            Region* r = find_region(m, at, size);
            if (!r) outside(m, l, at, size);
            if (write && !r->writable) fault(l, "write to {%d}, which the kernel gets as const", int(r - launch.regions));
            p.region[l] = r;
            p.memory[l] = (char*)at;
            if (i.read_only && r->cells)
                for (int k = 0; k < size; ++k)
                    if (r->cells[at - r->start + k].write_block) fault(l, "ld.global.nc of what this launch writes");
        } else if (space == SHARED) {
            shared_inside(m, l, at, size);
            p.memory[l] = launch.shared + at;
            p.shared = true;
        } else if (space == LOCAL) {
            local_access(m, w, l, at, size, write, p);
        } else if (space == PARAMETER) {
            p.memory[l] = (char*)launch.parameters + at;
        } else {
            if (at >= launch.constant_bytes || at + size > launch.constant_bytes) fault(l, "out of bounds: byte %llu of constants", (unsigned long long)at);
            p.memory[l] = (char*)launch.constants + at;
        }
    });
    if (!launch.counts) return;
    u64* counts = launch.counts + FIELDS * m.at;
    int first = first_of(lanes);
    s64 latency = 0;
    if (p.region[first]) latency = count_global(m, p.at, lanes, size, counts);
    else if (p.shared) latency = count_shared(p.at, lanes, size, atomic, counts);
    if (!write) for (int k = 0; k < i.count; ++k) w.ready[i.d[k] / LINE] = w.clock + std::max<s64>(latency, i.latency);
}

static inline void check(Machine& m, Warp& w, const Places& p, int l, int size, Kind kind, const void* fresh) {
    if (!m.launch->checks) return;
    Region* r = p.region[l];
    if (r && (r->cells || r->known)) note(m, w, r, l, p.at[l] - r->start, size, kind, (u8*)p.memory[l], (const u8*)fresh);
    if (!r && p.memory[l] >= m.launch->shared && p.memory[l] < m.launch->shared + m.launch->shared_bytes)
        note(m, w, nullptr, l, p.at[l], size, kind, (u8*)p.memory[l], (const u8*)fresh);
}

template <class T, class R>
static void load(Machine& m, Warp& w, const Instruction& i, u32 lanes) {
    Places p;
    int size = int(sizeof(T)) * i.count;
    place(m, w, i, lanes, size, false, false, p);
    each(lanes, [&](int l) {
        check(m, w, p, l, size, READ, nullptr);
        for (int k = 0; k < i.count; ++k) {
            T value;
            memcpy(&value, p.memory[l] + k * sizeof(T), sizeof(T));
            w.lanes<R>(i.d[k])[l] = R(value);
        }
    });
}

template <class T, class R>
static void store(Machine& m, Warp& w, const Instruction& i, u32 lanes) {
    Places p;
    int size = int(sizeof(T)) * i.count;
    place(m, w, i, lanes, size, true, false, p);
    each(lanes, [&](int l) {
        T values[4];
        for (int k = 0; k < i.count; ++k) values[k] = T(w.lanes<R>(i.d[k])[l]);
        check(m, w, p, l, size, WRITE, values);
        memcpy(p.memory[l], values, size);
    });
}

template <class T, class F>
static void atomic(Machine& m, Warp& w, const Instruction& i, u32 lanes, F f) {
    Places p;
    place(m, w, i, lanes, sizeof(T), true, true, p);
    each(lanes, [&](int l) {
        check(m, w, p, l, sizeof(T), ATOMIC, nullptr);
        T old, value = w.lanes<T>(i.s[1])[l];
        memcpy(&old, p.memory[l], sizeof old);
        value = f(old, value);
        memcpy(p.memory[l], &value, sizeof value);
        w.lanes<T>(i.d[0])[l] = old;
    });
    if (m.launch->counts) w.ready[i.d[0] / LINE] = w.clock + i.latency;
}

#define ACCESS(t, T, bits, R, U) \
    {"ld." #t " b" #bits, load<T, R>}, {"st." #t " b" #bits, store<U, R>},
#define ATOMIC_OP(name, T, result) \
    {name, DO { atomic<T>(m, w, i, lanes, [](T a, T b) -> T { return T(result); }); }},

static const Entry MEMORY[] = {
    ACCESS(u8, u8, 16, u16, u8) ACCESS(u8, u8, 32, u32, u8) ACCESS(u8, u8, 64, u64, u8)
    ACCESS(s8, s8, 16, u16, u8) ACCESS(s8, s8, 32, u32, u8) ACCESS(s8, s8, 64, u64, u8)
    ACCESS(u16, u16, 16, u16, u16) ACCESS(u16, u16, 32, u32, u16) ACCESS(u16, u16, 64, u64, u16)
    ACCESS(s16, s16, 16, u16, u16) ACCESS(s16, s16, 32, u32, u16) ACCESS(s16, s16, 64, u64, u16)
    ACCESS(u32, u32, 32, u32, u32) ACCESS(u32, u32, 64, u64, u32)
    ACCESS(s32, s32, 32, u32, u32) ACCESS(s32, s32, 64, u64, u32)
    ACCESS(u64, u64, 64, u64, u64)
    ATOMIC_OP("atom.add.u32", u32, a + b) ATOMIC_OP("atom.add.u64", u64, a + b) ATOMIC_OP("atom.add.f32", f32, a + b)
    ATOMIC_OP("atom.min.s32", s32, a < b ? a : b) ATOMIC_OP("atom.max.s32", s32, a < b ? b : a)
    ATOMIC_OP("atom.max.u64", u64, a < b ? b : a)
    {"cvta.shared", DO { map1<u64, u64>(w, i, lanes, [](u64 a) { return a + SHARED_WINDOW; }); }},
    {"cvta.local", DO { map1<u64, u64>(w, i, lanes, [](u64 a) { return a + LOCAL_WINDOW; }); }},
};
