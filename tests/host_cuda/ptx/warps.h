// What the lanes of a warp do together, and who goes on: the lowest place in the code first, so lanes that parted meet again.
#pragma once

#include "arithmetic.h"
#include "memory.h"

enum Control { PLAIN, BRANCH, RETURN, BARRIER, TOGETHER };  // TOGETHER: a .sync operation with a mask of lanes

static void vote(Warp& w, const Instruction& i, u32 lanes, bool result) {
    u32& d = w.predicate(i.d[0]);
    d = result ? d | lanes : d & ~lanes;
}

// shfl.sync, see "Data Movement and Conversion Instructions: shfl.sync".
template <class F>
static void shuffle(Warp& w, const Instruction& i, u32 lanes, F source) {
    u32 taken[32];
    const u32 *a = w.lanes<u32>(i.s[0]), *b = w.lanes<u32>(i.s[1]), *c = w.lanes<u32>(i.s[2]);
    u32 good = 0;
    each(lanes, [&](int l) {
        int clamp = int(c[l] & 31u), segment = int(c[l] >> 8 & 31u), j = 0;
        bool inside = source(l, int(b[l] & 31u), (l & segment) | (clamp & ~segment), l & segment, segment, j);
        if (!inside) j = l;
        good |= u32(inside) << l;
        taken[l] = lanes >> j & 1 ? a[j] : 0xA5A5A5A5u;  // a lane that takes no part gives no defined value
    });
    each(lanes, [&](int l) { w.lanes<u32>(i.d[0])[l] = taken[l]; });
    if (i.d[1] >= 0) w.predicate(i.d[1]) = (w.predicate(i.d[1]) & ~lanes) | good;
}
template <class T, class F>
static void reduce(Warp& w, const Instruction& i, u32 lanes, F f) {
    const T* a = w.lanes<T>(i.s[0]);
    T all = a[first_of(lanes)];
    each(lanes & (lanes - 1), [&](int l) { all = f(all, a[l]); });
    each(lanes, [&](int l) { w.lanes<T>(i.d[0])[l] = all; });
}

#define SHUFFLE(mode, place, test)                                                                             \
    {"shfl.sync." mode ".b32", DO {                                                                            \
        shuffle(w, i, lanes, [](int l, int b, int most, int first, int segment, int& j) {                      \
            j = place;                                                                                         \
            return test;                                                                                       \
        }); }},

// The mask of lanes is the last source.
static const Entry WARP[] = {
    SHUFFLE("up", l - b, j >= most) SHUFFLE("down", l + b, j <= most) SHUFFLE("bfly", l ^ b, j <= most)
    SHUFFLE("idx", first | (b & ~segment), j <= most)
    {"vote.sync.ballot.b32", DO { u32 bits = w.predicate(i.s[0]) & lanes;
        each(lanes, [&](int l) { w.lanes<u32>(i.d[0])[l] = bits; }); }},
    {"vote.sync.any.pred", DO { vote(w, i, lanes, (w.predicate(i.s[0]) & lanes) != 0); }},
    {"vote.sync.all.pred", DO { vote(w, i, lanes, (w.predicate(i.s[0]) & lanes) == lanes); }},
    {"redux.sync.add.s32", DO { reduce<u32>(w, i, lanes, [](u32 a, u32 b) { return a + b; }); }},
    {"redux.sync.min.s32", DO { reduce<s32>(w, i, lanes, [](s32 a, s32 b) { return std::min(a, b); }); }},
    {"redux.sync.max.s32", DO { reduce<s32>(w, i, lanes, [](s32 a, s32 b) { return std::max(a, b); }); }},
    {"match.any.sync.b32", DO { const u32* a = w.lanes<u32>(i.s[0]);
        each(lanes, [&](int l) { u32 same = 0; each(lanes, [&](int k) { same |= u32(a[k] == a[l]) << k; });
            w.lanes<u32>(i.d[0])[l] = same; }); }},
    {"bar.warp.sync", DO {  // orders memory: each lane knows what all knew, up to now
        u32 known[32] = {};
        each(lanes, [&](int l) { w.seen[l][l] = w.time[l];
            for (int k = 0; k < 32; ++k) known[k] = std::max(known[k], w.seen[l][k]); });
        each(lanes, [&](int l) { memcpy(w.seen[l], known, sizeof known); w.time[l]++; }); }},
};
static const Entry CONTROL[] = {{"bra", nullptr}, {"ret", nullptr}, {"bar.sync", nullptr}, {"bar.red.popc.u32", nullptr},
                                {"bar.red.or.pred", nullptr}, {"bar.red.and.pred", nullptr}};

struct Known {
    std::vector<Entry> entries;
    std::vector<Control> control;
    int red_first;
    Known() {
        auto add = [&](const Entry* list, size_t count, Control kind) {
            for (size_t k = 0; k < count; ++k) entries.push_back(list[k]), control.push_back(kind);
        };
        add(ARITHMETIC, std::size(ARITHMETIC), PLAIN);
        add(MEMORY, std::size(MEMORY), PLAIN);
        add(WARP, std::size(WARP), TOGETHER);
        red_first = int(entries.size()) + 3;
        add(CONTROL, 1, BRANCH), add(CONTROL + 1, 1, RETURN), add(CONTROL + 2, std::size(CONTROL) - 2, BARRIER);
    }
};
static const Known KNOWN;

// ---- divergence ---------------------------------------------------------------------------------

static void join(Warp& w, int at, u32 lanes, State state = RUN) {
    if (!lanes) return;
    for (Group& g : w.groups)
        if (g.at == at && g.state == state) return void(g.lanes |= lanes);
    w.groups.push_back({at, lanes, state});
}

static Group take(Warp& w, size_t k) {
    Group g = w.groups[k];
    w.groups[k] = w.groups.back();
    w.groups.pop_back();
    return g;
}

// Run a .sync operation for those lanes whose partners are all here; the others wait. Gives the lanes that go on.
static u32 together(Machine& m, Warp& w, const Instruction& i, int at, u32 lanes) {
    u32 done = 0;
    for (size_t k = 0; k < w.groups.size(); ++k)
        if (w.groups[k].at == at && w.groups[k].state == AT_WARP) lanes |= take(w, k--).lanes;
    int place = i.s[3] >= 0 ? i.s[3] : i.s[2] >= 0 ? i.s[2] : i.s[1] >= 0 ? i.s[1] : i.s[0];
    const u32* masks = w.lanes<u32>(place);
    for (u32 rest = lanes; rest;) {
        int lane = first_of(rest);
        u32 mask = masks[lane], same = 0;
        each(rest, [&](int l) { same |= u32(masks[l] == mask) << l; });
        if (same & ~mask) fault(first_of(same & ~mask), "warp operation: the mask %08x does not name the calling lane", mask);
        if (same == (mask & w.live)) {
            m.at = at;
            KNOWN.entries[i.op].op(m, w, i, same);
            done |= same;
        } else {
            join(w, at, same, AT_WARP);
        }
        rest &= ~same;
    }
    return done;
}

// No lane can go on: those at a warp operation may only have waited for lanes that have returned since.
static bool settle(Machine& m, Warp& w) {
    std::vector<int> places;
    for (const Group& g : w.groups) if (g.state == AT_WARP) places.push_back(g.at);
    for (int at : places) {
        u32 done = together(m, w, m.launch->code[at], at, 0);
        join(w, at + 1, done);
        if (done) return true;
    }
    if (!w.live) return false;
    for (const Group& g : w.groups) {
        m.at = g.at;
        if (g.state == AT_WARP)
            fault(first_of(g.lanes), "deadlock: lanes %08x wait in a warp operation for lanes that do not come", g.lanes);
    }
    m.at = w.groups[0].at;
    if (w.groups[0].lanes != w.live)
        fault(first_of(w.groups[0].lanes), "divergent barrier: lanes %08x wait here, others of their warp at {line %d}",
              w.groups[0].lanes, w.groups[1].at);
    w.barrier = w.groups[0].at;
    return false;
}
