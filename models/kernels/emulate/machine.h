// A card's threads on one processor core: blocks one after the other, the threads of a block as fibers.
//
// Owns the order in which threads run and the memory of the test's buffers. It promises to notice what a card forgives
// or hides: a barrier that not all threads reach, a warp whose lanes part, an access outside of every buffer, shared
// memory that is read before it is written. Each warp runs as far as it can before the next, in an order drawn anew for
// every phase, so that a forgotten barrier shows as wrong numbers. It is no model of time or of caches.
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// Everything declared __shared__ lies in a section of its own, whose ends the linker knows.
extern "C" unsigned char __start_shared_memory[], __stop_shared_memory[];

namespace emulate {

constexpr int LANES = 32;
inline const char* kernel = "none";
inline std::mt19937_64 dice;

[[noreturn]] inline void fail(const char* format, ...) {
    fprintf(stderr, "%s, block (%u, %u), thread (%u, %u): ", kernel, blockIdx.x, blockIdx.y, threadIdx.x, threadIdx.y);
    va_list rest;
    va_start(rest, format);
    vfprintf(stderr, format, rest);
    va_end(rest);
    fputc('\n', stderr);
    fflush(stdout);
    _exit(3);
}

/// What all lanes of a warp do together, once all have arrived with their operands.
using Act = void (*)(void* const (&lanes)[LANES]);

enum class State { ready, at_warp, at_block, done };

/// 16 bytes on their way into shared memory, as the member of a group.
struct Copy {
    void* to;
    const void* from;
    bool wanted;
    int group;
};

struct Fiber {
    State state = State::ready;
    const char* site = "";  // where it waits
    Act act = nullptr;
    void* operands = nullptr;
    dim3 index;
    std::vector<Copy> copies;
    int group = 0;  // which copies join now
    bool started = false;
    ucontext_t first;
    jmp_buf at;
    std::vector<char> stack = std::vector<char>(64 << 10);
};

inline std::vector<Fiber*> fibers;
inline Fiber* current;
inline const std::function<void()>* body;
inline jmp_buf scheduler;

inline void leave(State state, const char* site) {
    current->state = state;
    current->site = site;
    if (!_setjmp(current->at)) _longjmp(scheduler, 1);
}

inline void live() {
    for (;;) {
        (*body)();
        leave(State::done, "its end");
    }
}

inline void resume(Fiber* fiber) {
    current = fiber;
    threadIdx = fiber->index;
    if (_setjmp(scheduler)) return;
    if (fiber->started) _longjmp(fiber->at, 1);
    fiber->started = true;
    getcontext(&fiber->first);
    fiber->first.uc_stack.ss_sp = fiber->stack.data();
    fiber->first.uc_stack.ss_size = fiber->stack.size();
    makecontext(&fiber->first, live, 0);
    setcontext(&fiber->first);
}

/// Brings operands to where the whole warp acts, and waits until it has.
inline void meet(const char* site, Act act, void* operands) {
    current->act = act;
    current->operands = operands;
    leave(State::at_warp, site);
}

/// Runs a warp until all of its lanes are at a barrier of the block, or done.
inline void run_warp(Fiber** lanes) {
    for (;;) {
        for (int i = 0; i < LANES; i++)
            if (lanes[i]->state == State::ready) resume(lanes[i]);
        void* operands[LANES];
        for (int i = 0; i < LANES; i++) {
            if (lanes[i]->state != lanes[0]->state || lanes[i]->site != lanes[0]->site)
                fail("lanes of a warp have parted: one is at %s, another at %s", lanes[0]->site, lanes[i]->site);
            operands[i] = lanes[i]->operands;
        }
        if (lanes[0]->state != State::at_warp) return;
        lanes[0]->act(operands);
        for (int i = 0; i < LANES; i++) lanes[i]->state = State::ready;
    }
}

inline void run_block(unsigned threads) {
    memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);  // not a number
    std::vector<Fiber**> warps;
    for (unsigned i = 0; i < threads; i++) {
        fibers[i]->state = State::ready;
        fibers[i]->copies.clear();
        fibers[i]->group = 0;
        fibers[i]->index = dim3(i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y);
        if (i % LANES == 0) warps.push_back(&fibers[i]);
    }
    for (;;) {
        std::shuffle(warps.begin(), warps.end(), dice);
        for (Fiber** warp : warps) run_warp(warp);
        const auto done = [](Fiber** warp) { return warp[0]->state == State::done; };
        if (std::all_of(warps.begin(), warps.end(), done)) return;
        if (std::any_of(warps.begin(), warps.end(), done)) fail("a warp has ended, another waits at __syncthreads");
        for (unsigned i = 0; i < threads; i++) fibers[i]->state = State::ready;
    }
}

/// Runs a kernel, given as a call of it with its arguments; of its blocks those from `first` on.
inline void launch(const char* name, dim3 grid, dim3 block, const std::function<void()>& call, unsigned first = 0) {
    const unsigned threads = block.x * block.y * block.z;
    kernel = name;
    body = &call;
    gridDim = grid;
    blockDim = block;
    if (threads % LANES || threads > 1024 || grid.y > 65535 || grid.z > 65535) fail("no card takes such a launch");
    while (fibers.size() < threads) fibers.push_back(new Fiber);
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = first; blockIdx.x < grid.x; blockIdx.x++) run_block(threads);
}

inline void check_shared(const void* at, size_t bytes, const char* what) {
    const auto from = static_cast<const unsigned char*>(at);
    if (from < __start_shared_memory || from + bytes > __stop_shared_memory) fail("%s outside of shared memory", what);
    if (reinterpret_cast<uintptr_t>(at) % 16) fail("%s is not aligned to 16 bytes", what);
}

inline bool at_front = false;

/// `count` values of type T with pages around them that nobody may touch. The values end where the page ends, or begin
/// where it begins if `at_front`: what is read behind or before them is noticed in one of the two.
template <typename T>
struct Buffer {
    size_t count, pages;
    unsigned char* base;

    explicit Buffer(size_t count) : count(count) {
        const size_t page = size_t(sysconf(_SC_PAGESIZE));
        pages = (count * sizeof(T) + page - 1) / page * page;
        void* const all = mmap(nullptr, pages + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        base = static_cast<unsigned char*>(all);
        if (all == MAP_FAILED || mprotect(base + page, pages, PROT_READ | PROT_WRITE)) fail("no memory for a buffer");
        memset(base + page, 0xff, pages);
        front = at_front;
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
        // The rest of its pages, which the guards do not cover.
        const unsigned char* from = reinterpret_cast<unsigned char*>(data());
        for (const unsigned char* at = base + sysconf(_SC_PAGESIZE); at < base + sysconf(_SC_PAGESIZE) + pages; at++)
            if ((at < from || at >= from + count * sizeof(T)) && *at != 0xff) fail("a write beside a buffer");
        munmap(base, pages + 2 * size_t(sysconf(_SC_PAGESIZE)));
    }

    T* data() const {
        unsigned char* const first = base + sysconf(_SC_PAGESIZE);
        return reinterpret_cast<T*>(front ? first : first + pages - count * sizeof(T));
    }
    T& operator[](size_t i) const { return data()[i]; }

   private:
    bool front;
};

inline void on_fault(int signal) {
    fail(signal == SIGSEGV ? "an access outside of every buffer" : "an access not aligned, or undefined arithmetic");
}

/// Turns faults of the processor into failures with a name. They are handled on a stack of their own, for fibers have
/// small ones.
inline void watch_faults() {
    static char stack[64 << 10];
    const stack_t own = {stack, 0, sizeof stack};
    sigaltstack(&own, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_ONSTACK;
    for (int signal : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP}) sigaction(signal, &action, nullptr);
}

}  // namespace emulate
