// Runs a kernel that encode.py made of PTX: blocks one after another, their warps in an order of the test's choice.
#include <cmath>
#include <iterator>
#include "warps.h"

#define DOOR extern "C" __attribute__((visibility("default")))

static void time_of(Machine& m, Warp& w, const Instruction& i, u32 lanes) {  // profile: issue in order, wait for operands
    s64 start = w.clock + 1;
    for (int place : i.s) if (place >= 0) start = std::max(start, w.ready[place / LINE]);
    if (i.guard >= 0) start = std::max(start, w.ready[i.guard / LINE]);
    if (i.space == GLOBAL || i.space == SHARED)
        for (int k = 0; k < i.count; ++k) if (i.d[k] >= 0) start = std::max(start, w.ready[i.d[k] / LINE]);
    u64* counts = m.launch->counts + FIELDS * m.at;
    counts[CYCLES] += u64(start - w.clock);
    w.clock = start;
    counts[RUNS]++, counts[LANES] += __builtin_popcount(lanes);
    for (int place : i.d) if (place >= 0) w.ready[place / LINE] = start + i.latency;
}

// Run a warp until all its lanes wait at a barrier or have returned.
static void run(Machine& m, Warp& w) {
    const Launch& launch = *m.launch;
    s64 budget = launch.budget;
    for (;;) {
        int best = -1, limit = launch.instructions;
        for (size_t k = 0; k < w.groups.size(); ++k)
            if (w.groups[k].state == RUN && (best < 0 || w.groups[k].at < w.groups[best].at)) best = int(k);
        if (best < 0) {
            if (settle(m, w)) continue;
            return;
        }
        Group g = take(w, best);
        for (Group& other : w.groups) if (other.state == RUN) limit = std::min(limit, other.at);
        while (g.lanes) {
            m.at = g.at;
            const Instruction& i = launch.code[g.at];
            u32 lanes = g.lanes;
            if (i.guard >= 0) lanes &= i.guard_not ? ~w.predicate(i.guard) : w.predicate(i.guard);
            if (--budget < 0) fault(first_of(g.lanes), "the kernel does not end");
            if (launch.counts) time_of(m, w, i, lanes);
            Control control = KNOWN.control[i.op];
            if (control == PLAIN) {
                if (lanes) KNOWN.entries[i.op].op(m, w, i, lanes);
                g.at++;
            } else if (control == BRANCH) {
                if (lanes == g.lanes) {
                    g.at = int(i.immediate);
                } else {
                    if (lanes) join(w, int(i.immediate), lanes), limit = std::min(limit, int(i.immediate));
                    g.lanes &= ~lanes, g.at++;
                }
            } else if (control == RETURN) {
                w.live &= ~lanes;
                g.lanes &= ~lanes, g.at++;
            } else {
                u32 rest = g.lanes & ~lanes, done = 0;
                bool skip = false;
                for (int k = 0; k < launch.skips; ++k) skip = skip || launch.skipped[k] == g.at;
                if (control == TOGETHER && lanes) done = together(m, w, i, g.at, lanes);
                else if (skip) done = lanes;
                else join(w, g.at, lanes, AT_BARRIER);
                g.lanes = rest | done, g.at++;
                for (Group& other : w.groups) if (other.state == RUN) limit = std::min(limit, other.at);
            }
            if (g.at >= limit) break;
        }
        join(w, g.at, g.lanes);
    }
}

static void begin(Machine& m, Warp& w, int number) {
    const Launch& launch = *m.launch;
    int count = std::min(launch.threads - number * 32, 32);
    memcpy(w.registers, launch.registers, launch.register_bytes);
    w.number = number;
    w.live = count == 32 ? FULL : (1u << count) - 1;
    w.barrier = -1, w.clock = 0;
    w.groups.assign(1, {0, w.live, RUN});
    memset(w.seen, 0, sizeof w.seen);
    for (u32& time : w.time) time = 1;
    if (launch.entry_local) memset(w.local, 0xA5, 32 * launch.entry_local), memset(w.local_known, 0, 32 * launch.entry_local);
    if (launch.counts) w.ready.assign(launch.register_bytes / LINE + 1, 0);
    for (int axis = 0; axis < 3; ++axis)
        for (int l = 0; l < 32; ++l) {
            u32 t = u32(number * 32 + l), x = launch.block[0], y = launch.block[1];
            if (launch.thread_slots[axis] >= 0)
                w.lanes<u32>(launch.thread_slots[axis])[l] = axis == 0 ? t % x : axis == 1 ? t / x % y : t / (x * y);
            if (launch.block_slots[axis] >= 0) w.lanes<u32>(launch.block_slots[axis])[l] = m.block[axis];
        }
}

// All warps wait at one barrier, and all their lanes are there: let them go on.
static void release(Machine& m) {
    const Launch& launch = *m.launch;
    int at = -1, votes = 0;
    s64 clock = 0;
    for (Warp& w : m.warps) {
        int count = std::min(launch.threads - w.number * 32, 32);
        m.at = w.barrier < 0 ? at : w.barrier;
        if (w.live != (count == 32 ? FULL : (1u << count) - 1))
            fault(0, "divergent barrier: %d threads of warp %d have returned", count - __builtin_popcount(w.live), w.number);
        if (at >= 0 && w.barrier != at) fault(0, "divergent barrier: {line %d} has other warps of the block", at);
        at = w.barrier;
        const Instruction& i = launch.code[at];
        if (i.s[0] >= 0) votes += __builtin_popcount(w.predicate(i.s[0]) & w.live);
        clock = std::max(clock, w.clock);
    }
    const Instruction& i = launch.code[at];
    for (Warp& w : m.warps) {
        if (i.op == KNOWN.red_first) each(w.live, [&](int l) { w.lanes<u32>(i.d[0])[l] = u32(votes); });
        else if (i.op > KNOWN.red_first) vote(w, i, w.live, i.op == KNOWN.red_first + 1 ? votes > 0 : votes == launch.threads);
        w.groups[0].at = at + 1, w.groups[0].state = RUN;
        w.barrier = -1;
        if (launch.counts) launch.counts[FIELDS * at + CYCLES] += u64(clock + launch.barrier_latency - w.clock);
        w.clock = clock + launch.barrier_latency;
    }
    m.epoch++;
}

static u32 draw(u64& state, u32 below) {  // splitmix64
    state += 0x9E3779B97F4A7C15ull;
    u64 z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return u32((z ^ (z >> 31)) % below);
}
static void arrange(std::vector<u32>& list, int order, u64& state) {  // 0 forward, 1 reversed, 2 shuffled
    for (size_t k = 0; k < list.size(); ++k) list[k] = u32(order == 1 ? list.size() - 1 - k : k);
    for (size_t k = list.size(); order == 2 && k > 1; --k) std::swap(list[k - 1], list[draw(state, u32(k))]);
}

static void run_block(Machine& m, u64& state) {
    std::vector<u32> order(m.warps.size());
    for (u32 k = 0; k < m.warps.size(); ++k) begin(m, m.warps[k], int(k));
    for (;;) {
        arrange(order, m.launch->order, state);
        int waiting = 0;
        for (u32 k : order) {
            Warp& w = m.warps[k];
            try {
                run(m, w);
            } catch (Fault& f) {
                f.lane += int(k) * 32;
                throw;
            }
            waiting += w.barrier >= 0;
        }
        if (!waiting) return;
        release(m);
    }
}

DOOR int ptx_names(const char** names, int room) {
    for (int k = 0; k < room && k < int(KNOWN.entries.size()); ++k) names[k] = KNOWN.entries[k].name;
    return int(KNOWN.entries.size());
}

// Returns -1, or the instruction at which it stopped; `error` then says why, `place` the block and thread.
DOOR int ptx_run(const Launch* launch, char* error, int room, u32* place) {
    Machine m{launch, std::vector<Warp>((launch->threads + 31) / 32), {}, {}, 0, 1, 0, 0};
    m.cells.resize(launch->checks ? launch->shared_bytes : 0);
    std::vector<char> memory((launch->register_bytes + 64 * launch->entry_local) * m.warps.size() + LINE);
    char* next = (char*)(((u64)memory.data() + LINE - 1) / LINE * LINE);
    for (Warp& w : m.warps) {
        w.registers = next, w.local = next + launch->register_bytes, w.local_known = (u8*)w.local + 32 * launch->entry_local;
        next += launch->register_bytes + 64 * launch->entry_local;
    }
    u64 state = launch->seed;
    std::vector<u32> blocks(size_t(launch->grid[0]) * launch->grid[1] * launch->grid[2]);
    arrange(blocks, launch->order, state);
    try {
        for (size_t k = 0; k < blocks.size(); ++k) {
            u32 b = blocks[k], x = launch->grid[0], y = launch->grid[1];
            m.block[0] = b % x, m.block[1] = b / x % y, m.block[2] = b / (x * y);
            m.serial = b + 1, m.epoch++;
            memset(launch->shared, 0xA5, launch->shared_bytes);
            run_block(m, state);
            if (launch->clocks) {
                launch->clocks[b] = 0;
                for (Warp& w : m.warps) launch->clocks[b] = std::max(launch->clocks[b], w.clock);
            }
        }
    } catch (const Fault& f) {
        snprintf(error, room, "%s", f.what());
        memcpy(place, m.block, sizeof m.block);
        place[3] = u32(f.lane);
        return m.at;
    }
    return -1;
}
