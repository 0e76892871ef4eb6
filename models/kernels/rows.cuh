// What is done to single rows of hidden states: embedding, layer norm, gelu, pooling.
//
// Owns the steps of a BERT encoder that only move memory: each reads and writes it once, 16 bytes at a time, and
// computes in f32. Rows are packed end to end and hold a multiple of 8 values; a row that is normed or pooled holds at
// most 1024. It multiplies no matrices, and does not check ids and positions: whoever launches it has.
#pragma once

#include "device.cuh"

namespace rows {

using device::LANES;
using device::VECTOR;

constexpr int MOST = 4;           // vectors of a row that a lane holds: rows of 4 * 32 * 8 = 1024 values
constexpr int NORM_ROWS = 4;      // warps of a block, one row each
constexpr int GELU_ROWS = 4;      // rows that one thread goes through
constexpr int GELU_THREADS = 64;  // of a block, each with a column of vectors
constexpr int POOL_THREADS = 256;

/// A row over a warp: vector i of a lane begins in column (32 i + lane) 8. Vectors beyond the width are zero.
struct Row {
    float values[MOST][VECTOR] = {};

    __device__ __forceinline__ static uint32_t column(int i) { return (i * LANES + threadIdx.x) * VECTOR; }

    __device__ __forceinline__ void add(const half* row, uint32_t width) {
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            if (column(i) >= width) continue;
            float more[VECTOR];
            device::load(more, row + column(i));
            for (int j = 0; j < VECTOR; j++) values[i][j] += more[j];
        }
    }

    /// Writes `gain * (row - mean) / sqrt(variance + eps) + shift`.
    __device__ __forceinline__ void store_norm(const half* gain, const half* shift, float eps, uint32_t width,
                                               half* out) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            for (int j = 0; j < VECTOR; j++) sum += values[i][j];
        const float mean = device::sum_of_warp(sum) / width;

        float squares = 0;
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            if (column(i) >= width) continue;
            for (int j = 0; j < VECTOR; j++) squares += (values[i][j] - mean) * (values[i][j] - mean);
        }
        const float scale = device::inverse_root(device::sum_of_warp(squares) / width + eps);

#pragma unroll
        for (int i = 0; i < MOST; i++) {
            if (column(i) >= width) continue;
            float gains[VECTOR], shifts[VECTOR];
            device::load(gains, gain + column(i));
            device::load(shifts, shift + column(i));
            for (int j = 0; j < VECTOR; j++) values[i][j] = (values[i][j] - mean) * scale * gains[j] + shifts[j];
            device::store(out + column(i), values[i]);
        }
    }
};

/// The row of this warp.
__device__ __forceinline__ size_t own_row() {
    return size_t(blockIdx.x) * NORM_ROWS + threadIdx.y;
}

/// x / 2 (1 + erf(x / sqrt(2))), erf by Abramowitz and Stegun 7.1.26 as on the CPU: at most 1.5e-7 off.
__device__ __forceinline__ float gelu(float x) {
    const float z = fabsf(x) * 0.70710678f;
    const float t = device::reciprocal(1 + 0.3275911f * z);
    const float high = 1.421413741f + t * (-1.453152027f + t * 1.061405429f);
    const float p = t * (0.254829592f + t * (-0.284496736f + t * high));
    // 1 - erf(z), small where x is far from 0 on either side; nothing cancels there.
    const float left = p * device::exp2(-1.44269504f * z * z);
    return fmaxf(x, 0) - 0.5f * fabsf(x) * left;
}

}  // namespace rows
