// What the kernels ask of the card beyond plain C++: halves, 16 bytes at once, copies that run by themselves, and the
// products of a warp.
//
// Every name here exists twice: below in instructions of PTX, and in `emulate/device.h` as a model of them for a
// processor without a card. Nothing here needs more than compute capability 8.0, and nothing here knows of models.
#pragma once

#ifndef __CUDACC__
#include "emulate/device.h"
#else

#include <cuda_fp16.h>
#include <math.h>
#include <stdint.h>

namespace device {

/// Two halves as two floats, the lower half first.
__device__ __forceinline__ float2 unpack(uint32_t pair) {
    return __half22float2(*reinterpret_cast<const half2*>(&pair));
}

/// Two floats as two halves, rounded to the nearest.
__device__ __forceinline__ uint32_t pack(float low, float high) {
    const half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

/// 2^x, within 2^-22 of itself; 0 for what is smaller than a normal float.
__device__ __forceinline__ float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// 1 / x, within 2^-23 of itself.
__device__ __forceinline__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// 1 / sqrt(x), within two units of the last place.
__device__ __forceinline__ float inverse_root(float x) {
    return rsqrtf(x);
}

/// Starts to copy 16 bytes into shared memory, or fills them with zeros if not `wanted`. Both sides are aligned to 16,
/// and `from` may be read even if it is not wanted.
__device__ __forceinline__ void copy_async(half* to, const half* from, bool wanted) {
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const uint32_t bytes = wanted ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes) : "memory");
}

/// Ends a group of copies; a group may be empty.
__device__ __forceinline__ void end_group() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most `LEFT` of this thread's groups are still on their way. Other threads see its copies after a
/// barrier.
template <int LEFT>
__device__ __forceinline__ void await_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

/// Four 8 x 8 matrices of halves from shared memory, one register of each lane for each. Lane `8 m + r` says where row
/// `r` of matrix `m` is: 16 bytes, aligned. A lane gets the elements 2 (lane % 4) and the next of row lane / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const half* row) {
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared)
                 : "memory");
}

/// As `load_matrices`, each matrix transposed: a lane gets column lane / 4 of the rows 2 (lane % 4) and the next.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const half* row) {
    const uint32_t shared = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared)
                 : "memory");
}

/// sum += a b, of the whole warp: a is 16 x 16, b is 16 x 8, sum is 16 x 8. Fragments lie as PTX says for m16n8k16.
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace device

#endif

namespace device {

constexpr int LANES = 32;
constexpr int VECTOR = 8;  // halves in 16 bytes

/// Eight values at `from`, which is aligned to 16 bytes.
__device__ __forceinline__ void load(float (&to)[VECTOR], const half* from) {
    const uint4 raw = *reinterpret_cast<const uint4*>(from);
    const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 pair = unpack(pairs[i]);
        to[2 * i] = pair.x;
        to[2 * i + 1] = pair.y;
    }
}

/// Eight values to `to`, which is aligned to 16 bytes; each rounded to the nearest half.
__device__ __forceinline__ void store(half* to, const float (&from)[VECTOR]) {
    uint4 raw;
    raw.x = pack(from[0], from[1]);
    raw.y = pack(from[2], from[3]);
    raw.z = pack(from[4], from[5]);
    raw.w = pack(from[6], from[7]);
    *reinterpret_cast<uint4*>(to) = raw;
}

/// The sum of what all lanes of a warp bring, in every lane.
__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffff, x, distance);
    return x;
}

}  // namespace device
