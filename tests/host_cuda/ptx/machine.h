// The state of a launch: warps whose 32 lanes go in lock step, the memory they may touch, and what goes wrong.
#pragma once

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;

constexpr u32 FULL = 0xffffffffu;
constexpr int LINE = 64, SECTOR = 32;  // bytes: between two registers at least, of a piece of global memory
constexpr u64 SHARED_WINDOW = 1ull << 56, LOCAL_WINDOW = 2ull << 56, WINDOW = 1ull << 32;  // of generic addresses
enum Space : int { GENERIC, GLOBAL, SHARED, LOCAL, CONSTANT, PARAMETER };

// One instruction, as encode.py writes it. Operands are places in a warp's memory: 32 lanes of a register side by side,
// a predicate as a word of 32 bits; -1 is none.
struct Instruction {
    s32 op, guard, guard_not, d[4], s[4];
    s32 space, count, wide, read_only, latency;  // memory: elements, address of 64 bits, .nc
    s64 immediate;                               // added to an address; target of a branch
};

// What a byte of shared memory, or of an array that the kernel writes, has been through. Blocks count from 1.
struct Cell {
    u32 write_block, read_block, write_epoch, read_epoch;
    u32 write_time, read_time, read_lanes;
    u16 writer, read_warp;
    u8 atomic;
};
static_assert(sizeof(Cell) == 36 && sizeof(Instruction) == 72, "run.py and encode.py know these sizes");
constexpr u16 MANY_WARPS = 0xffff;
constexpr u32 MANY_BLOCKS = 0xffffffffu;

struct Region {  // an array of global memory
    u64 start, size;
    Cell* cells;   // null: never written by the launch
    u8* known;     // bytes that have a value; null: all
    u32* touched;  // profile: the last block at each sector, counted from 1
    s32 writable;
};

struct Variable {  // of shared memory
    u64 start, size;
};

enum Field { RUNS, LANES, SECTORS, USEFUL, MISSES, FIRST, WAVES, LEAST_WAVES, CYCLES, FIELDS };
// Per instruction: times a warp ran it, lanes that did; memory: sectors asked for, bytes of use, sectors that no earlier access
// of the block, or of the launch, brought in; shared: passes over the banks, and the least that would do; cycles from the
// instruction before to this one.

enum State { RUN, AT_BARRIER, AT_WARP };
struct Group {  // lanes at one place
    int at;
    u32 lanes;
    State state;
};

struct Warp {
    char* registers;
    char* local;
    u8* local_known;
    std::vector<Group> groups;
    int number;
    u32 live;
    int barrier;          // the instruction at which all wait, or -1
    u32 time[32];         // of a lane: counts its __syncwarp
    u32 seen[32][32];     // times of other lanes that a lane is ordered after
    s64 clock;            // profile [cycles]
    std::vector<s64> ready;
    template <class T>
    T* lanes(int place) { return (T*)(registers + place); }
    u32& predicate(int place) { return *(u32*)(registers + place); }
};

struct Launch {  // as executor.py fills it
    const Instruction* code;
    s32 instructions, register_bytes, threads, order, checks, entry_local;
    u32 grid[3], block[3];
    u64 seed;
    const char* registers;  // a warp's at its start: constants in their places
    s32 thread_slots[3], block_slots[3], barrier_latency, skips;
    Region* regions;
    s32 region_count, variable_count;
    const Variable* variables;
    char* shared;
    u64 shared_bytes;
    const u8* constants;
    u64 constant_bytes;
    const char* parameters;
    u64* counts;            // null: no profile
    s64* clocks;            // of each block
    const s32* skipped;     // barriers that are passed over
    s64 budget;             // instructions that a warp may run between two barriers
};

struct Machine {
    const Launch* launch;
    std::vector<Warp> warps;
    std::vector<Cell> cells;  // of shared memory
    u32 block[3], serial, epoch;
    int at, last_region;
    const Instruction* now() const { return launch->code + at; }
};

struct Fault : std::runtime_error {
    int lane;
    Fault(int lane, const std::string& what) : std::runtime_error(what), lane(lane) {}
};

[[noreturn]] __attribute__((format(printf, 2, 3))) static void fault(int lane, const char* format, ...) {
    char text[400];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    throw Fault(lane, text);
}

static inline int first_of(u32 lanes) { return __builtin_ctz(lanes); }

// Do f(lane) for the lanes of a mask.
template <class F>
static inline void each(u32 lanes, F f) {
    for (u32 rest = lanes; rest; rest &= rest - 1) f(first_of(rest));
}

typedef void (*Op)(Machine&, Warp&, const Instruction&, u32 lanes);
struct Entry {
    const char* name;
    Op op;
};
