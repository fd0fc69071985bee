// What compute-sanitizer's initcheck and racecheck look for, byte by byte. Two accesses of a block are ordered by a barrier
// between them, within a warp by a __syncwarp; a shuffle or a vote orders no memory. Blocks of a launch are never ordered.
#pragma once

#include "machine.h"

static bool ordered(const Warp& w, int lane, u32 thread, u32 time) {
    return int(thread / 32) == w.number && w.seen[lane][thread % 32] >= time;
}

struct Who {
    Machine& m;
    Warp& w;
    const Region* region;  // null: shared memory
    int lane;
    u32 thread;
    u64 at;  // byte of the array, or of shared memory
};

[[noreturn]] static void race(const Who& who, const char* did, const char* other, u32 thread) {
    char place[40] = "shared memory, byte ";
    if (who.region) snprintf(place, sizeof place, "global memory, {%d}+", int(who.region - who.m.launch->regions));
    fault(who.lane, "race in %s%llu: thread %u %s what thread %u of its block %s, without a barrier between", place,
          (unsigned long long)who.at, who.thread, did, thread, other);
}
[[noreturn]] static void race_of_blocks(const Who& who, const char* did, const char* other, u32 block) {
    char by[32] = "another block";
    if (block != MANY_BLOCKS) snprintf(by, sizeof by, "block %u", block - 1);
    fault(who.lane, "race of blocks, {%d}+%llu: block %u %s what %s %s", int(who.region - who.m.launch->regions),
          (unsigned long long)who.at, who.m.serial - 1, did, by, other);
}

static void note_read(const Who& who, Cell& c) {
    Machine& m = who.m;
    if (who.region == nullptr && c.write_block != m.serial)
        fault(who.lane, "uninitialised read of shared memory, byte %llu", (unsigned long long)who.at);
    if (c.write_block == m.serial) {
        if (c.write_epoch == m.epoch && c.writer != who.thread && !ordered(who.w, who.lane, c.writer, c.write_time))
            race(who, "reads", "wrote", c.writer);
    } else if (c.write_block && who.region) {
        race_of_blocks(who, "reads", "wrote", c.write_block);
    }
    if (c.read_block == m.serial && c.read_epoch == m.epoch) {
        if (c.read_warp != who.w.number) c.read_warp = MANY_WARPS;
        c.read_lanes |= 1u << who.lane;
        c.read_time = std::max(c.read_time, who.w.time[who.lane]);
        return;
    }
    c.read_block = who.region && c.read_block && c.read_block != m.serial ? MANY_BLOCKS : m.serial;
    c.read_epoch = m.epoch, c.read_warp = u16(who.w.number), c.read_lanes = 1u << who.lane;
    c.read_time = who.w.time[who.lane];
}

// `same`: the byte has this value already, so the order of two writers does not matter between blocks.
static void note_write(const Who& who, Cell& c, bool atomic, bool same) {
    Machine& m = who.m;
    bool both = atomic && c.atomic;
    if (c.write_block == m.serial) {
        if (c.write_epoch == m.epoch && c.writer != who.thread && !both &&
            !ordered(who.w, who.lane, c.writer, c.write_time))
            race(who, "writes", "wrote", c.writer);
    } else if (c.write_block && who.region && !both && !same) {
        race_of_blocks(who, "writes another value to", "wrote", c.write_block);
    }
    if (c.read_block == m.serial && c.read_epoch == m.epoch) {
        u32 others = c.read_warp == who.w.number ? c.read_lanes & ~(1u << who.lane) : FULL;
        each(others, [&](int l) {
            u32 thread = c.read_warp == MANY_WARPS ? 0xffffu : c.read_warp * 32u + u32(l);
            if (c.read_warp == MANY_WARPS || !ordered(who.w, who.lane, thread, c.read_time))
                race(who, "writes", "reads", c.read_warp == MANY_WARPS ? 0u : thread);
        });
    } else if (who.region && c.read_block && c.read_block != m.serial) {
        race_of_blocks(who, "writes", "reads", c.read_block);
    }
    bool plain_before = c.write_block == m.serial && c.write_epoch == m.epoch && !c.atomic;  // an atomic does not hide it
    c.write_block = m.serial, c.write_epoch = m.epoch, c.write_time = who.w.time[who.lane];
    c.writer = u16(who.thread), c.atomic = atomic && !plain_before;
}

// An access of `size` bytes at `at` by one lane; `fresh` are the bytes that a plain store is about to write.
enum Kind { READ, WRITE, ATOMIC };
static void note(Machine& m, Warp& w, Region* region, int lane, u64 at, int size, Kind kind, const u8* memory, const u8* fresh) {
    Who who{m, w, region, lane, u32(w.number * 32 + lane), at};
    Cell* cells = region ? region->cells : m.cells.data();
    for (int k = 0; k < size; ++k, ++who.at) {
        if (region && region->known) {
            u8& known = region->known[who.at];
            if (!known && kind != WRITE)
                fault(lane, "uninitialised read of global memory, {%d}+%llu", int(region - m.launch->regions),
                      (unsigned long long)who.at);
            known = 1;
        }
        if (!cells) continue;
        Cell& c = cells[who.at];
        if (kind == ATOMIC && region == nullptr && c.write_block != m.serial) note_read(who, c);
        if (kind == READ) note_read(who, c);
        else note_write(who, c, kind == ATOMIC, fresh && memory[k] == fresh[k]);
    }
}
