// The machine: one block at a time, its threads as fibres on one OS thread, in an order of the test's choice.
//
// A worker fibre runs threads one after another; only when a thread waits (barrier, warp operation) does it keep its
// worker, and the scheduler goes on with another one. So kernels that never wait pay nothing for fibres.
#pragma once

#include "fibres.h"

extern "C" {  // Read by kernels; written by the scheduler alone.
__attribute__((visibility("hidden"))) uint3 threadIdx, blockIdx;
__attribute__((visibility("hidden"))) dim3 blockDim, gridDim;
}
static const int warpSize = 32;

namespace shim {

constexpr int MAX_THREADS = 1024, POISON = 0xA5;
constexpr size_t SHARED_MAX = 256 * 1024;
enum Order { FORWARD, REVERSED, SHUFFLED };
enum State : uint8_t { FRESH, READY, AT_BARRIER, AT_WARP, DONE };
enum Op : int { SYNC, SHUFFLE, BALLOT, ADD, MIN, MAX, AND, OR, XOR, MATCH };

struct Worker {
    void* stack_pointer;
    char* stack;
    bool used;
};
struct Thread {
    uint3 index;
    State state;
    Worker* worker;
    int line;            // of the barrier it waits at
    unsigned mask;       // of the warp operation it waits at
    Op op;
    int source;          // lane to read, SHUFFLE
    bool is_signed;      // comparison, MIN and MAX
    uint64_t value, result;
};

static Thread threads[MAX_THREADS];
static Worker workers[MAX_THREADS + 1];
static int idle[MAX_THREADS + 1], idle_count, thread_count, cursor, order[MAX_THREADS], barrier_votes;
static int votes_now, skipped_barrier;
static Thread* current;
static Worker* running;
static void* scheduler;
static void (*call_kernel)(void*);
static void* call_args;
static char error[512];
static bool failed, on_fibre;
static char *shared_base, *dynamic_shared;
static uint64_t seed_state;

static void to_scheduler() {
    on_fibre = false;
    shim_switch(&running->stack_pointer, scheduler);
}

template <class... A>
static void fail(const char* format, A... values) {
    if (!failed) snprintf(error, sizeof error, format, values...);
    failed = true;
    if (on_fibre) to_scheduler();  // and never back: the fibre is given up
}

// ---- workers ------------------------------------------------------------------------------------

static void run_thread(Thread& thread) {
    current = &thread;
    thread.worker = running;
    threadIdx = thread.index;
    call_kernel(call_args);
    current->state = DONE;
}

static void work() {
    for (;;) {
        while (cursor < thread_count && threads[order[cursor]].state == FRESH) run_thread(threads[order[cursor++]]);
        idle[idle_count++] = int(running - workers);
        to_scheduler();
    }
}

static void resume(Worker& worker) {
    running = &worker;
    on_fibre = true;
    shim_switch(&scheduler, worker.stack_pointer);
}

static void start_worker() {
    if (idle_count) return resume(workers[idle[--idle_count]]);
    Worker* worker = workers;
    while (worker->used) ++worker;
    if (!worker->stack) {
        char* memory = pages(STACK + PAGE);
        mprotect(memory, PAGE, PROT_NONE);
        worker->stack = memory + PAGE;
    }
    worker->used = true;
    worker->stack_pointer = fresh_stack(worker->stack, work);
    resume(*worker);
}

// ---- what a thread can wait for -----------------------------------------------------------------

static void wait(State state) {
    Thread* self = current;
    self->state = state;
    to_scheduler();
}

static int barrier(int line, int vote) {
    if (line == skipped_barrier) return 0;
    current->line = line;
    barrier_votes += vote;
    wait(AT_BARRIER);
    return votes_now;
}

static uint64_t combine(Op op, bool is_signed, uint64_t a, uint64_t b) {
    bool less = is_signed ? int64_t(a) < int64_t(b) : a < b;
    switch (op) {
        case ADD: return a + b;
        case MIN: return less ? a : b;
        case MAX: return less ? b : a;
        case AND: return a & b;
        case OR: return a | b;
        default: return a ^ b;
    }
}

// All threads named by the mask wait at the same operation: give each its result.
static void finish_warp(Thread* lanes, unsigned mask) {
    Thread& first = lanes[__builtin_ctz(mask)];
    uint64_t all = first.value, votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        if (&lanes[lane] != &first) all = combine(first.op, first.is_signed, all, lanes[lane].value);
        votes |= uint64_t(lanes[lane].value != 0) << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        Thread& thread = lanes[lane];
        thread.result = first.op == BALLOT ? votes : all;
        if (first.op == SHUFFLE)  // a lane that takes no part gives no defined value
            thread.result = mask >> thread.source & 1 ? lanes[thread.source].value : 0xA5A5A5A5A5A5A5A5ull;
        if (first.op == MATCH) {
            thread.result = 0;
            for (int other = 0; other < 32; ++other)
                if (mask >> other & 1 && lanes[other].value == thread.value) thread.result |= 1u << other;
        }
        thread.state = READY;
    }
}

// Finish the operation a thread waits in, if all lanes that its mask names and that have not returned are there.
static bool try_warp(const Thread& waiting) {
    int base = int(&waiting - threads) & ~31;
    unsigned present = 0;
    for (int i = 0; i < 32 && base + i < thread_count; ++i) {
        const Thread& lane = threads[base + i];
        if (!(waiting.mask >> i & 1) || lane.state == DONE) continue;
        if (lane.state != AT_WARP || lane.mask != waiting.mask || lane.op != waiting.op) return false;
        present |= 1u << i;
    }
    finish_warp(threads + base, present);
    return true;
}

static uint64_t warp(Op op, unsigned mask, uint64_t value, int source = 0, bool is_signed = false) {
    Thread* self = current;
    int id = int(self - threads), lane = id & 31;
    if (!(mask >> lane & 1)) fail("warp operation: the mask %08x does not name the calling lane %d", mask, lane);
    self->op = op, self->mask = mask, self->value = value, self->source = source, self->is_signed = is_signed;
    self->state = AT_WARP;
    if (!try_warp(*self)) to_scheduler();  // the last one to come goes on at once
    return self->result;
}

// ---- scheduler ----------------------------------------------------------------------------------

static uint32_t draw(uint32_t below) {
    seed_state += 0x9E3779B97F4A7C15ull;
    uint64_t z = seed_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return uint32_t((z ^ (z >> 31)) % below);
}

template <class T>
static void arrange(T* list, T count, int kind) {
    for (T i = 0; i < count; ++i) list[i] = kind == REVERSED ? count - 1 - i : i;
    if (kind == SHUFFLED)
        for (T i = count; i > 1; --i) std::swap(list[i - 1], list[draw(uint32_t(i))]);
}

// Nobody can run: all at one barrier, or the kernel is wrong.
static void release_barrier() {
    int waiting = 0, gone = 0, line = 0;
    for (int i = 0; i < thread_count; ++i) {
        Thread& t = threads[i];
        gone += t.state == DONE;
        if (t.state == AT_WARP)
            return fail("deadlock: thread %d waits in a warp operation (mask %08x) for lost lanes", i, t.mask);
        if (t.state != AT_BARRIER) continue;
        if (waiting++ && t.line != line)
            return fail("divergent barrier: threads wait at line %d and at line %d", line, t.line);
        line = t.line;
    }
    if (gone) return fail("divergent barrier: %d threads wait at line %d, %d have returned", waiting, line, gone);
    for (int i = 0; i < thread_count; ++i) threads[i].state = READY;
    votes_now = barrier_votes;
    barrier_votes = 0;
}

static void run_block(int kind) {
    for (int i = 0; i < thread_count; ++i) threads[i].state = FRESH;
    barrier_votes = 0;
    for (bool open = true; open && !failed;) {
        open = false;
        bool moved = false;
        arrange(order, thread_count, kind);
        for (cursor = 0; cursor < thread_count && !failed;) {
            Thread& thread = threads[order[cursor]];
            if (thread.state == FRESH) {
                start_worker();  // moves the cursor past what it ran
                moved = true;
                continue;
            }
            ++cursor;
            if (thread.state != READY) continue;
            moved = true;
            current = &thread;
            threadIdx = thread.index;
            resume(*thread.worker);
        }
        for (int i = 0; i < thread_count; ++i) open = open || threads[i].state != DONE;
        if (!open || moved || failed) continue;
        for (int i = 0; i < thread_count; ++i)  // lanes that returned may have been the last ones missing
            if (threads[i].state == AT_WARP && try_warp(threads[i])) moved = true;
        if (!moved) release_barrier();
    }
}

// ---- failures that the processor or the compiler's checks find ----------------------------------

static void on_signal(int number, siginfo_t* info, void*) {
    if (!on_fibre) signal(number, SIG_DFL);  // not the kernel's fault: die as usual
    if (number == SIGFPE) fail("integer division by zero or overflow");
    size_t past = (char*)info->si_addr - (shared_base + SHARED_MAX);
    if (past < PAGE) fail("out of bounds: past the end of dynamic shared memory");
    fail("bad address %p", info->si_addr);
}

struct Signals {
    struct sigaction before[3];
    stack_t stack_before;
    static constexpr int NUMBERS[3] = {SIGSEGV, SIGBUS, SIGFPE};
    Signals() {
        static char memory[64 * 1024];
        stack_t stack = {};
        stack.ss_sp = memory;
        stack.ss_size = sizeof memory;
        sigaltstack(&stack, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; ++i) sigaction(NUMBERS[i], &action, &before[i]);
    }
    ~Signals() {
        for (int i = 0; i < 3; ++i) sigaction(NUMBERS[i], &before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};

// `__shared__` is `static __thread`, so a library's thread-local block is its static shared memory and nothing else
// (a section would do, but g++ drops that attribute in templates). The block exists once something in it was touched.
static __thread volatile char touched;
static char* static_shared;
static size_t static_shared_size;

static int find_static_shared(dl_phdr_info* info, size_t, void*) {
    char *begin = (char*)info->dlpi_tls_data, *own = (char*)&touched;
    for (int i = 0; begin && i < info->dlpi_phnum; ++i) {
        size_t size = info->dlpi_phdr[i].p_memsz;
        if (info->dlpi_phdr[i].p_type != PT_TLS || own < begin || own >= begin + size) continue;
        static_shared = begin;
        static_shared_size = size;
        return 1;
    }
    return 0;
}

// ---- a launch -----------------------------------------------------------------------------------

struct Launch {
    unsigned grid[3], block[3];
    int shared, order, skipped_barrier;
    uint64_t seed;
};

static void prepare(const Launch& launch) {
    failed = false;
    error[0] = 0;
    seed_state = launch.seed;
    skipped_barrier = launch.skipped_barrier;
    gridDim = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
    blockDim = dim3(launch.block[0], launch.block[1], launch.block[2]);
    thread_count = int(launch.block[0] * launch.block[1] * launch.block[2]);
    for (int i = 0; i < thread_count; ++i)
        threads[i].index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    if (!shared_base) {  // dynamic shared memory ends at a page that faults
        shared_base = pages(SHARED_MAX + PAGE);
        mprotect(shared_base + SHARED_MAX, PAGE, PROT_NONE);
    }
    touched = 1;
    if (!dl_iterate_phdr(find_static_shared, nullptr)) abort();
    dynamic_shared = shared_base + SHARED_MAX - (launch.shared + 15) / 16 * 16;
}

static const char* run(const Launch& launch, void (*call)(void*), void* args) {
    prepare(launch);
    call_kernel = call;
    call_args = args;
    Signals signals;
    uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
    uint64_t* list = (uint64_t*)malloc(blocks * sizeof *list);
    arrange(list, blocks, launch.order);
    for (uint64_t i = 0; i < blocks && !failed; ++i) {
        uint64_t b = list[i];
        blockIdx = {unsigned(b % gridDim.x), unsigned(b / gridDim.x % gridDim.y),
                    unsigned(b / (uint64_t(gridDim.x) * gridDim.y))};
        memset(dynamic_shared, POISON, launch.shared);
        memset(static_shared, POISON, static_shared_size);
        run_block(launch.order);
    }
    free(list);
    if (!failed) return nullptr;
    size_t used = strlen(error);
    snprintf(error + used, sizeof error - used, " (block %u,%u,%u thread %u,%u,%u)", blockIdx.x, blockIdx.y, blockIdx.z,
             threadIdx.x, threadIdx.y, threadIdx.z);
    for (Worker& worker : workers) worker.used = false;  // stacks stay, what ran on them is given up
    idle_count = 0;
    return error;
}

}  // namespace shim
