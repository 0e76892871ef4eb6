// The kernels of a BERT encoder in half precision: all of a layer but its matrix products.
//
// Owns the entry points, and says how each is launched. All pointers are to the card's memory, aligned to 16 bytes
// (`tiles` to 8). Sequences are packed end to end: `tokens` rows in all, and no row is padding. `width` is a multiple
// of 8, at most 1024. Kernels check nothing: ids, positions and starts are checked before they get here. A value too
// large for a half becomes infinite and stays visible in the result.
//
// PTX of compute capability 8.0 is all that is made of this file; the driver translates it for the card that it finds.
#include "attention.cuh"
#include "rows.cuh"

/// out = layer_norm(words[ids] + positions[places]), a row for each of `tokens`.
///
/// `positions` already holds the embedding of the token type. Grid: tokens / 4, rounded up. Block: (32, 4).
extern "C" __global__ void __launch_bounds__(128, 8)
    embed_f16(const uint32_t* ids, const uint32_t* places, const half* words, const half* positions, const half* gain,
              const half* shift, half* out, uint32_t tokens, uint32_t width, float eps) {
    const size_t at = rows::own_row();
    if (at >= tokens) return;
    rows::Row row;
    row.add(words + size_t(ids[at]) * width, width);
    row.add(positions + size_t(places[at]) * width, width);
    row.store_norm(gain, shift, eps, width, out + at * width);
}

/// out = layer_norm(x + (h + bias)); `out` may be `x` or `h`.
///
/// Grid: tokens / 4, rounded up. Block: (32, 4).
extern "C" __global__ void __launch_bounds__(128, 8)
    residual_norm_f16(const half* x, const half* h, const half* bias, const half* gain, const half* shift, half* out,
                      uint32_t tokens, uint32_t width, float eps) {
    const size_t at = rows::own_row();
    if (at >= tokens) return;
    rows::Row row;
    row.add(x + at * width, width);
    row.add(h + at * width, width);
    row.add(bias, width);
    row.store_norm(gain, shift, eps, width, out + at * width);
}

/// out = gelu(x + bias), in its exact (erf) form; `out` may be `x`. Here `width` has no upper limit.
///
/// Grid: (tokens / 4, width / 512), both rounded up. Block: 64.
extern "C" __global__ void __launch_bounds__(rows::GELU_THREADS)
    bias_gelu_f16(const half* x, const half* bias, half* out, uint32_t tokens, uint32_t width) {
    const uint32_t column = (blockIdx.y * rows::GELU_THREADS + threadIdx.x) * device::VECTOR;
    const size_t first = size_t(blockIdx.x) * rows::GELU_ROWS;
    if (column >= width) return;
    float biases[device::VECTOR], values[rows::GELU_ROWS][device::VECTOR];
    device::load(biases, bias + column);
    // All loads before the first store, so that they are on their way together.
#pragma unroll
    for (int i = 0; i < rows::GELU_ROWS; i++)
        if (first + i < tokens) device::load(values[i], x + (first + i) * width + column);
#pragma unroll
    for (int i = 0; i < rows::GELU_ROWS; i++) {
        if (first + i >= tokens) continue;
        for (int j = 0; j < device::VECTOR; j++) values[i][j] = rows::gelu(values[i][j] + biases[j]);
        device::store(out + (first + i) * width + column, values[i]);
    }
}

/// Contexts of `heads` heads of 32 values: `qkv` holds the queries, keys and values of each row, without their `bias`.
///
/// `starts` are the first rows of the sequences and, behind them, the number of all rows. A tile is a sequence and the
/// first of 64 of its rows; each must stand in `tiles` once: (s, 0), (s, 64), ... Grid: tiles * heads. Block: 128.
extern "C" __global__ void __launch_bounds__(attention::THREADS)
    attention_f16_d32(const half* qkv, const half* bias, const uint32_t* starts, const uint2* tiles, half* context,
                      uint32_t heads) {
    __shared__ attention::Shared<32> shared;
    attention::attend<32>(qkv, bias, starts, tiles, context, heads, shared);
}

/// As `attention_f16_d32`, for heads of 64 values.
extern "C" __global__ void __launch_bounds__(attention::THREADS)
    attention_f16_d64(const half* qkv, const half* bias, const uint32_t* starts, const uint2* tiles, half* context,
                      uint32_t heads) {
    __shared__ attention::Shared<64> shared;
    attention::attend<64>(qkv, bias, starts, tiles, context, heads, shared);
}

/// out = the mean of each sequence's rows, divided by its length, which is taken to be 1e-12 at least; in f32.
///
/// The sum does for the mean: what it is divided by falls out. Grid: sequences. Block: 256.
extern "C" __global__ void __launch_bounds__(rows::POOL_THREADS)
    pool_f16(const half* hidden, const uint32_t* starts, float* out, uint32_t width) {
    using device::VECTOR;
    __shared__ float sums[rows::POOL_THREADS][VECTOR];
    __shared__ float squares[rows::POOL_THREADS / device::LANES];
    const uint32_t vectors = width / VECTOR, groups = rows::POOL_THREADS / vectors;
    const uint32_t group = threadIdx.x / vectors, column = threadIdx.x % vectors * VECTOR;
    const uint32_t end = starts[blockIdx.x + 1];

    // Every group of threads sums some of the rows; those that are left over sum none.
    float own[VECTOR] = {};
#pragma unroll 4
    for (uint32_t row = starts[blockIdx.x] + group; row < end && group < groups; row += groups) {
        float more[VECTOR];
        device::load(more, hidden + size_t(row) * width + column);
        for (int j = 0; j < VECTOR; j++) own[j] += more[j];
    }
    for (int j = 0; j < VECTOR; j++) sums[threadIdx.x][j] = own[j];
    __syncthreads();

    float square = 0;
    for (int j = 0; j < VECTOR; j++) {
        own[j] = 0;
        for (uint32_t i = 0; i < groups && group == 0; i++) own[j] += sums[i * vectors + threadIdx.x][j];
        square += own[j] * own[j];
    }
    square = device::sum_of_warp(square);
    if (threadIdx.x % device::LANES == 0) squares[threadIdx.x / device::LANES] = square;
    __syncthreads();
    if (group > 0) return;

    float total = 0;
    for (int i = 0; i < rows::POOL_THREADS / device::LANES; i++) total += squares[i];
    const float scale = 1 / fmaxf(sqrtf(total), 1e-12f);
    for (int j = 0; j < VECTOR; j++) out[size_t(blockIdx.x) * width + column + j] = own[j] * scale;
}
