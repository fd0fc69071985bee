// The door to Python: for each kernel a function that runs it and one that describes its parameters; and the handlers of
// g++'s checks.
#pragma once

namespace shim {

template <class T>
constexpr char kind_of() {
    if (std::is_same_v<T, bool>) return 'b';
    if (std::is_floating_point_v<T>) return 'f';
    if (std::is_integral_v<T> || std::is_enum_v<T>) return std::is_signed_v<T> ? 'i' : 'u';
    return 'x';  // a struct, a vector, void
}
template <class T>
constexpr int size_of() {
    if constexpr (std::is_void_v<T>) return 1; else return int(sizeof(T));
}
// "r" or "w" (pointer to const or not) or "v" (by value), then kind and size.
template <class T>
int describe(char* text) {
    using E = std::remove_pointer_t<T>;
    using P = std::remove_cv_t<E>;
    char door = std::is_pointer_v<T> ? (std::is_const_v<E> ? 'r' : 'w') : 'v';
    return sprintf(text, "%c%c%d ", door, kind_of<P>(), size_of<P>());
}

template <class F> struct Kernel;
template <class... A>
struct Kernel<void(A...)> {
    static void signature(char* text) {
        *text = 0;
        ((text += describe<A>(text)), ...);
    }
    template <void (*F)(A...), size_t... I>
    static void call(void* args, std::index_sequence<I...>) {
        void** list = (void**)args;
        (void)list;
        F(*(std::remove_reference_t<A>*)list[I]...);
    }
    template <void (*F)(A...)>
    static void call_all(void* args) { call<F>(args, std::index_sequence_for<A...>()); }
};

}  // namespace shim

#define SHIM_DOOR extern "C" __attribute__((visibility("default")))
#define SHIM_EXPORT(name, bound)                                                                \
    SHIM_DOOR const char* shim_run_##name(const shim::Launch* launch, void** args) {            \
        return shim::run(*launch, shim::Kernel<decltype(name)>::call_all<name>, args);          \
    }                                                                                           \
    SHIM_DOOR int shim_signature_##name(char* text) {                                           \
        shim::Kernel<decltype(name)>::signature(text);                                          \
        return bound;                                                                           \
    }

// The compiler's checks (-fsanitize=...) call these; the place of the fault is the first field of each record.
struct ShimPlace { const char* file; uint32_t line, column; };
struct ShimMismatch { ShimPlace place; const void* type; unsigned char log_alignment, kind; };
#define SHIM_HANDLER extern "C" __attribute__((visibility("hidden"))) void
#define SHIM_CHECK(name, what, ...)                            \
    SHIM_HANDLER __ubsan_handle_##name(__VA_ARGS__) {          \
        shim::fail("%s, line %u", what, place->line);          \
    }
SHIM_CHECK(out_of_bounds, "index outside its array", ShimPlace* place, void*)
SHIM_CHECK(shift_out_of_bounds, "shift outside [0, bits)", ShimPlace* place, void*, void*)
SHIM_CHECK(divrem_overflow, "integer division by zero or overflow", ShimPlace* place, void*, void*)
SHIM_CHECK(add_overflow, "signed overflow in a sum", ShimPlace* place, void*, void*)
SHIM_CHECK(sub_overflow, "signed overflow in a difference", ShimPlace* place, void*, void*)
SHIM_CHECK(mul_overflow, "signed overflow in a product", ShimPlace* place, void*, void*)
SHIM_CHECK(negate_overflow, "signed overflow in a negation", ShimPlace* place, void*)
SHIM_CHECK(float_cast_overflow, "float outside the range of the integer it is cast to", ShimPlace* place, void*)
SHIM_HANDLER __ubsan_handle_type_mismatch_v1(ShimMismatch* data, void* pointer) {
    size_t alignment = size_t(1) << data->log_alignment;
    if (pointer == nullptr) shim::fail("null pointer, line %u", data->place.line);
    shim::fail("misaligned access: %p is no multiple of %zu, line %u", pointer, alignment, data->place.line);
}
