// Fibres: stacks that one OS thread switches between; by hand on x86-64, with ucontext elsewhere.
#pragma once

namespace shim {

constexpr size_t STACK = 256 * 1024, PAGE = 4096;

static char* pages(size_t size) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) abort();
    return (char*)memory;
}

extern "C" void shim_switch(void** from, void* to);
#if defined(__x86_64__) && !defined(SHIM_UCONTEXT)
asm(R"(
.text
.local shim_switch
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");
static void* fresh_stack(char* stack, void (*entry)()) {
    void** top = (void**)(stack + STACK) - 1;  // so that entry sees rsp % 16 == 8, as after a call
    top[0] = nullptr;
    *--top = (void*)entry;
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    return top;
}
#else
}  // namespace shim
#include <ucontext.h>
namespace shim {
extern "C" void shim_switch(void** from, void* to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, (ucontext_t*)to);
}
static void* fresh_stack(char* stack, void (*entry)()) {
    ucontext_t* context = (ucontext_t*)stack;
    getcontext(context);
    context->uc_stack.ss_sp = stack + PAGE;
    context->uc_stack.ss_size = STACK - PAGE;
    makecontext(context, entry, 0);
    return context;
}
#endif

}  // namespace shim
