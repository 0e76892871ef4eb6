// The other half of `device.cuh`: CUDA's words and a warp's instructions, for a processor without a card.
//
// Owns the model of each instruction, written from the PTX ISA and not from the kernels: "Warp-level matrix load
// instruction: ldmatrix" for `load_matrices`, "Matrix Fragments for mma.m16n8k16 with floating point type" for
// `multiply`, "Asynchronous copy: cp.async" for `copy_async`. Halves are converted bit by bit. Approximate instructions
// are exact here; what they leave out is within the tests' tolerances.
#pragma once

#include <math.h>

#include "machine.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

struct half {
    uint16_t bits;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

namespace emulate {

inline float float_of(uint16_t bits) {
    const float sign = bits >> 15 ? -1 : 1;
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24));
}

/// A table of the above.
inline float value(uint16_t bits) {
    static const std::vector<float> table = [] {
        std::vector<float> values(65536);
        for (int i = 0; i < 65536; i++) values[i] = float_of(i);
        return values;
    }();
    return table[bits];
}

/// The nearest half; the even one of two.
inline uint16_t half_of(float x) {
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x)) return 0x7fff;
    const float size = fabsf(x);
    if (size >= 65520) return sign | 0x7c00;
    // Steps of a half: 2^-24 below 2^-14, then 2^-10 of the power of two. Adding them up carries into the exponent.
    const int exponent = size < ldexpf(1, -14) ? -14 : ilogbf(size);
    const int steps = int(nearbyintf(ldexpf(size, 10 - exponent)));
    return sign | (steps + (exponent + 14) * 1024);
}

inline uint16_t low(uint32_t pair) { return pair & 0xffff; }
inline uint16_t high(uint32_t pair) { return pair >> 16; }

struct Shuffle {
    float value;
    int distance;
};

inline void shuffle(void* const (&lanes)[LANES]) {
    float before[LANES];
    for (int i = 0; i < LANES; i++) before[i] = static_cast<Shuffle*>(lanes[i])->value;
    for (int i = 0; i < LANES; i++) {
        Shuffle& own = *static_cast<Shuffle*>(lanes[i]);
        own.value = before[i ^ own.distance];
    }
}

struct Load {
    uint32_t* to;
    const half* row;
    bool transposed;
};

inline void load_matrices(void* const (&lanes)[LANES]) {
    for (int i = 0; i < LANES; i++) check_shared(static_cast<Load*>(lanes[i])->row, 16, "a row of ldmatrix");
    for (int matrix = 0; matrix < 4; matrix++) {
        unsigned banks = 0;
        for (int row = 0; row < 8; row++)
            banks |= 1u << reinterpret_cast<uintptr_t>(static_cast<Load*>(lanes[8 * matrix + row])->row) / 16 % 8;
        if (banks != 0xff) fail("rows of ldmatrix share banks");
        const auto element = [&](int row, int column) -> uint32_t {
            return static_cast<Load*>(lanes[8 * matrix + row])->row[column].bits;
        };
        for (int i = 0; i < LANES; i++) {
            const Load& own = *static_cast<Load*>(lanes[i]);
            const int major = i / 4, minor = i % 4 * 2;
            own.to[matrix] = own.transposed ? element(minor, major) | element(minor + 1, major) << 16
                                            : element(major, minor) | element(major, minor + 1) << 16;
        }
    }
}

struct Product {
    float* sum;
    const uint32_t* a;
    uint32_t b[2];
};

/// With groupID = lane / 4 and threadID_in_group = lane % 4, as the PTX ISA has it:
/// a_i is in row groupID (+ 8 for i = 2, 3, 6, 7) and column 2 threadID_in_group + i % 2 (+ 8 for i >= 4);
/// b_i is in row 2 threadID_in_group + i % 2 (+ 8 for i >= 2) and column groupID;
/// c_i is in row groupID (+ 8 for i >= 2) and column 2 threadID_in_group + i % 2.
inline void multiply(void* const (&lanes)[LANES]) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < LANES; lane++) {
        const Product& own = *static_cast<Product*>(lanes[lane]);
        const int group = lane / 4, thread = lane % 4;
        for (int i = 0; i < 8; i++) {
            const uint32_t pair = own.a[i / 2];
            const int row = group + (i / 2 % 2 ? 8 : 0), column = 2 * thread + i % 2 + (i >= 4 ? 8 : 0);
            a[row][column] = value(i % 2 ? high(pair) : low(pair));
        }
        for (int i = 0; i < 4; i++) {
            const uint32_t pair = own.b[i / 2];
            b[2 * thread + i % 2 + (i >= 2 ? 8 : 0)][group] = value(i % 2 ? high(pair) : low(pair));
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        float* const sum = static_cast<Product*>(lanes[lane])->sum;
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
            for (int k = 0; k < 16; k++) sum[i] += a[row][k] * b[k][column];
        }
    }
}

inline void nothing(void* const (&)[LANES]) {}

}  // namespace emulate

inline void __syncthreads() { emulate::leave(emulate::State::at_block, "__syncthreads"); }
inline void __syncwarp() { emulate::meet("__syncwarp", emulate::nothing, nullptr); }

inline float __shfl_xor_sync(uint32_t mask, float value, int distance) {
    if (mask != 0xffffffff) emulate::fail("only whole warps are modelled");
    emulate::Shuffle own = {value, distance};
    emulate::meet("__shfl_xor_sync", emulate::shuffle, &own);
    return own.value;
}

namespace device {

inline float2 unpack(uint32_t pair) {
    return {emulate::value(emulate::low(pair)), emulate::value(emulate::high(pair))};
}
inline uint32_t pack(float low, float high) { return emulate::half_of(low) | uint32_t(emulate::half_of(high)) << 16; }
inline float exp2(float x) { return x < -126 ? 0 : exp2f(x); }
inline float reciprocal(float x) { return 1 / x; }
inline float inverse_root(float x) { return 1 / sqrtf(x); }

/// Only noted: the bytes arrive when they are waited for, at the latest moment that a card allows.
inline void copy_async(half* to, const half* from, bool wanted) {
    emulate::check_shared(to, 16, "a copy's target");
    if (reinterpret_cast<uintptr_t>(from) % 16) emulate::fail("a copy's source is not aligned to 16 bytes");
    emulate::Fiber& own = *emulate::current;
    own.copies.push_back({to, from, wanted, own.group});
}

inline void end_group() { emulate::current->group++; }

template <int LEFT>
void await_groups() {
    emulate::Fiber& own = *emulate::current;
    const auto arrives = [&](const emulate::Copy& copy) {
        if (copy.group >= own.group - LEFT) return false;
        if (copy.wanted) memcpy(copy.to, copy.from, 16);
        else memset(copy.to, 0, 16);
        return true;
    };
    own.copies.erase(std::remove_if(own.copies.begin(), own.copies.end(), arrives), own.copies.end());
}

inline void load_matrices(uint32_t (&to)[4], const half* row) {
    emulate::Load own = {to, row, false};
    emulate::meet("ldmatrix", emulate::load_matrices, &own);
}

inline void load_transposed(uint32_t (&to)[4], const half* row) {
    emulate::Load own = {to, row, true};
    emulate::meet("ldmatrix.trans", emulate::load_matrices, &own);
}

inline void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emulate::Product own = {sum, a, {b0, b1}};
    emulate::meet("mma", emulate::multiply, &own);
}

}  // namespace device
