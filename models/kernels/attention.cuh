// Attention of packed sequences to themselves.
//
// Owns the way from queries, keys and values to contexts. A block takes 64 queries of one sequence and one head, 16 a
// warp; keys and values pass by in blocks of 64, the next on its way while one is used, and the softmax is corrected as
// larger scores appear, so that no score ever leaves the registers. It knows no masks: every token sees every token of
// its own sequence, and nothing of others. Scores and sums are f32; queries, shares and contexts are rounded to halves.
#pragma once

#include "device.cuh"

namespace attention {

using device::LANES;
using device::VECTOR;

constexpr int WARPS = 4;
constexpr int THREADS = WARPS * LANES;
constexpr int WARP_QUERIES = 16;
constexpr int QUERIES = WARPS * WARP_QUERIES;
constexpr int KEYS = 64;
constexpr float LOG2_E = 1.44269504f;

/// Rows of `SIZE` halves. Their 16-byte parts change places from row to row, so that the same part of eight rows lies
/// in all banks, and is read at once.
template <int SIZE>
struct alignas(16) Rows {
    half values[KEYS][SIZE];

    __device__ __forceinline__ half* at(uint32_t row, uint32_t column) {
        constexpr uint32_t PARTS = SIZE / VECTOR;
        const uint32_t part = (column / VECTOR) ^ (row / (8 / PARTS) % PARTS);
        return &values[row][part * VECTOR + column % VECTOR];
    }
};

/// Keys and values, those in use and those on their way.
template <int SIZE>
struct Shared {
    Rows<SIZE> keys[2];
    Rows<SIZE> values[2];
};

/// One head of one sequence in the product of hidden states and weights.
struct Head {
    const half* queries;  // of the sequence's first token; keys and values follow `width` and twice `width` behind
    uint32_t width;       // of all heads
    uint32_t tokens;

    __device__ __forceinline__ const half* query(uint32_t row) const { return queries + size_t(row) * 3 * width; }
};

/// Starts to copy the keys and values from row `first` on. Rows beyond the last token become zeros, as far as a
/// product reaches: to the next multiple of 16.
template <int SIZE>
__device__ __forceinline__ void fetch(const Head& head, uint32_t first, Rows<SIZE>& keys, Rows<SIZE>& values) {
    constexpr int VECTORS = SIZE / VECTOR;
#pragma unroll
    for (int i = 0; i < KEYS * VECTORS / THREADS; i++) {
        const uint32_t at = i * THREADS + threadIdx.x;
        const uint32_t row = at / VECTORS, column = at % VECTORS * VECTOR;
        const bool wanted = first + row < head.tokens;
        if (first + row >= (head.tokens + 15) / 16 * 16) continue;
        const half* from = head.query(wanted ? first + row : first) + column;
        device::copy_async(keys.at(row, column), from + head.width, wanted);
        device::copy_async(values.at(row, column), from + 2 * head.width, wanted);
    }
}

/// 16 queries of a warp and what they have seen so far. A lane has two of them: lane / 4 and the eighth after it.
template <int SIZE>
struct Queries {
    static_assert(SIZE == 32 || SIZE == 64, "heads of other sizes have no scale");
    static constexpr float SCALE = LOG2_E * (SIZE == 64 ? 0.125f : 0.17677669f);  // log2(e) / sqrt(SIZE)

    uint32_t queries[SIZE / 16][4];
    float sums[SIZE / 8][4] = {};  // of values, weighted
    float totals[2] = {};          // of weights, this lane's part
    float peaks[2] = {-INFINITY, -INFINITY};

    /// Loads the queries from row `first` on and adds their bias; rows beyond the last token are zero.
    __device__ __forceinline__ void load(const Head& head, const half* bias, uint32_t first) {
        const int lane = threadIdx.x % LANES;
#pragma unroll
        for (int i = 0; i < SIZE / 16 * 4; i++) {
            const uint32_t row = first + lane / 4 + i % 2 * 8;
            const int column = i / 4 * 16 + i % 4 / 2 * 8 + lane % 4 * 2;
            queries[i / 4][i % 4] = 0;
            if (row >= head.tokens) continue;
            const float2 query = device::unpack(*reinterpret_cast<const uint32_t*>(head.query(row) + column));
            const float2 more = device::unpack(*reinterpret_cast<const uint32_t*>(bias + column));
            queries[i / 4][i % 4] = device::pack(query.x + more.x, query.y + more.y);
        }
    }

    /// Attends to the first `count` of the keys and values, which are all of them if `WHOLE`.
    template <bool WHOLE>
    __device__ __forceinline__ void attend(Rows<SIZE>& keys, Rows<SIZE>& values, int count) {
        float scores[KEYS / 8][4];
        score<WHOLE>(keys, count, scores);
        follow(scores);
        add<WHOLE>(values, count, scores);
    }

    /// The products of queries and keys; minus infinity where there is no key.
    template <bool WHOLE>
    __device__ __forceinline__ void score(Rows<SIZE>& keys, int count, float (&scores)[KEYS / 8][4]) {
        const int lane = threadIdx.x % LANES;
#pragma unroll
        for (int i = 0; i < KEYS / 8; i++) {
            for (int j = 0; j < 4; j++) scores[i][j] = 0;
            if (WHOLE || i * 8 < count) {
#pragma unroll
                for (int k = 0; k < SIZE / 32; k++) {
                    uint32_t part[4];
                    device::load_matrices(part, keys.at(i * 8 + lane % 8, k * 32 + lane / 8 * VECTOR));
                    device::multiply(scores[i], queries[2 * k], part[0], part[1]);
                    device::multiply(scores[i], queries[2 * k + 1], part[2], part[3]);
                }
            }
            for (int j = 0; j < 4; j++)
                if (!WHOLE && i * 8 + lane % 4 * 2 + j % 2 >= count) scores[i][j] = -INFINITY;
        }
    }

    /// Corrects what was summed so far, if there is a new largest score.
    __device__ __forceinline__ void follow(const float (&scores)[KEYS / 8][4]) {
#pragma unroll
        for (int side = 0; side < 2; side++) {
            float largest = -INFINITY;
            for (int i = 0; i < KEYS / 8; i++)
                largest = fmaxf(largest, fmaxf(scores[i][2 * side], scores[i][2 * side + 1]));
            // Four lanes share a row.
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
            // Kept scaled, so that old and new weights suffer from the same rounding.
            const float peak = fmaxf(peaks[side], largest * SCALE);
            const float correction = device::exp2(peaks[side] - peak);
            peaks[side] = peak;
            totals[side] *= correction;
            for (int i = 0; i < SIZE / 8; i++) {
                sums[i][2 * side] *= correction;
                sums[i][2 * side + 1] *= correction;
            }
        }
    }

    /// Adds the values, weighted by their scores. What a lane holds of a product lies as it must for the next one's
    /// left side.
    template <bool WHOLE>
    __device__ __forceinline__ void add(Rows<SIZE>& values, int count, float (&scores)[KEYS / 8][4]) {
        const int lane = threadIdx.x % LANES;
#pragma unroll
        for (int i = 0; i < KEYS / 16; i++) {
            if (!WHOLE && i * 16 >= count) continue;
            uint32_t weights[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float low = weight(scores[2 * i + j / 2][j % 2 * 2], j % 2);
                const float high = weight(scores[2 * i + j / 2][j % 2 * 2 + 1], j % 2);
                totals[j % 2] += low + high;
                weights[j] = device::pack(low, high);
            }
#pragma unroll
            for (int k = 0; k < SIZE / 16; k++) {
                uint32_t part[4];
                device::load_transposed(part, values.at(i * 16 + lane % 16, k * 16 + lane / 16 * VECTOR));
                device::multiply(sums[2 * k], weights, part[0], part[1]);
                device::multiply(sums[2 * k + 1], weights, part[2], part[3]);
            }
        }
    }

    __device__ __forceinline__ float weight(float score, int side) const {
        return device::exp2(fmaf(score, SCALE, -peaks[side]));
    }

    /// Puts the contexts, with the values' bias, into shared memory, from row `first` on.
    __device__ __forceinline__ void finish(const half* bias, Rows<SIZE>& rows, uint32_t first) {
        const int lane = threadIdx.x % LANES;
        for (int side = 0; side < 2; side++) {
            totals[side] += __shfl_xor_sync(0xffffffff, totals[side], 1);
            totals[side] += __shfl_xor_sync(0xffffffff, totals[side], 2);
            totals[side] = 1 / totals[side];
        }
#pragma unroll
        for (int i = 0; i < SIZE / 8; i++) {
            const int column = i * 8 + lane % 4 * 2;
            const float2 more = device::unpack(*reinterpret_cast<const uint32_t*>(bias + column));
            for (int side = 0; side < 2; side++) {
                const float x = sums[i][2 * side] * totals[side] + more.x;
                const float y = sums[i][2 * side + 1] * totals[side] + more.y;
                *reinterpret_cast<uint32_t*>(rows.at(first + lane / 4 + side * 8, column)) = device::pack(x, y);
            }
        }
    }
};

/// One block: the contexts of one tile and head.
///
/// Of the three biases only two are added. That of the keys adds the same to all scores of a query, which a softmax
/// does not see; weights sum to one, so that of the values is added at the end. So keys and values are copied as they
/// are, without a thread's help.
template <int SIZE>
__device__ __forceinline__ void attend(const half* qkv, const half* bias, const uint32_t* starts, const uint2* tiles,
                                       half* context, uint32_t heads, Shared<SIZE>& shared) {
    const uint2 tile = tiles[blockIdx.x / heads];
    const uint32_t from = blockIdx.x % heads * SIZE, width = heads * SIZE;
    const uint32_t start = starts[tile.x];
    const Head head = {qkv + size_t(start) * 3 * width + from, width, starts[tile.x + 1] - start};
    const uint32_t warp = threadIdx.x / LANES, first = tile.y + warp * WARP_QUERIES;
    // A warp without queries still takes part in copies and barriers.
    const bool busy = first < head.tokens;

    Queries<SIZE> own;
    fetch<SIZE>(head, 0, shared.keys[0], shared.values[0]);
    device::end_group();
    own.load(head, bias + from, first);
#pragma unroll 1
    for (uint32_t key = 0; key < head.tokens; key += KEYS) {
        const int now = key / KEYS % 2;
        if (key + KEYS < head.tokens) fetch<SIZE>(head, key + KEYS, shared.keys[1 - now], shared.values[1 - now]);
        device::end_group();
        device::await_groups<1>();
        __syncthreads();  // the copies of all threads have arrived
        const uint32_t left = head.tokens - key;
        if (busy && left >= KEYS) own.template attend<true>(shared.keys[now], shared.values[now], KEYS);
        if (busy && left < KEYS) own.template attend<false>(shared.keys[now], shared.values[now], int(left));
        __syncthreads();  // nobody reads any more what the next copies overwrite
    }
    if (!busy) return;

    // Through shared memory, of which each warp takes its own rows, for 16 bytes at a time.
    Rows<SIZE>& rows = shared.keys[0];
    own.finish(bias + 2 * width + from, rows, warp * WARP_QUERIES);
    __syncwarp();
    constexpr int VECTORS = SIZE / VECTOR;
#pragma unroll
    for (int i = 0; i < WARP_QUERIES * VECTORS / LANES; i++) {
        const uint32_t at = i * LANES + threadIdx.x % LANES;
        const uint32_t row = at / VECTORS, column = at % VECTORS * VECTOR;
        if (first + row >= head.tokens) continue;
        half* to = context + size_t(start + first + row) * width + from + column;
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(rows.at(warp * WARP_QUERIES + row, column));
    }
}

}  // namespace attention
