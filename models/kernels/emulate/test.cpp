// The kernels of `encoder.cu` on a modelled card, held against plain arithmetic in double precision.
//
// Owns the shapes, the references and the tolerances. A tolerance is what the kernel's own roundings may amount to, and
// is said beside each reference; most of them are half a unit of a half, 2^-11 of the value. Every shape runs twice:
// its buffers against the guard page behind them and, as the last of millions of rows, against that before them. It
// measures no speed.
//
//   test [SEED [first]]    wrong values end it with 1, what a card may not do with 3; `first`: at the first of them
#include "../encoder.cu"

#include <map>
#include <string>

namespace {

using emulate::Buffer;
using emulate::launch;
using Values = std::vector<double>;

const double ULP = ldexp(1, -11);

/// So many rows are said to be before those of a test: offsets beyond 32 bits. They are not there, and nobody may look.
uint32_t before = 0;
bool only_first = false;

double normal(double size) {
    return size * std::normal_distribution<double>()(emulate::dice);
}

uint32_t below(uint32_t bound) {
    return uint32_t(emulate::dice() % bound);
}

double of(half x) {
    return emulate::value(x.bits);
}

double rounded(double x) {
    return emulate::value(emulate::half_of(float(x)));
}

/// Random halves around `middle`.
struct Halves : Buffer<half> {
    explicit Halves(size_t count, double size = 1, double middle = 0) : Buffer(count) {
        for (size_t i = 0; i < count; i++) (*this)[i].bits = emulate::half_of(float(middle + normal(size)));
    }
    double at(size_t i) const { return of((*this)[i]); }
};

/// What was found about one kernel.
struct Check {
    const char* name;
    size_t values = 0, bad = 0;
    double worst = 0;

    void near(double got, double want, double tolerance, const char* where, size_t index) {
        values++;
        const double share = fabs(got - want) / tolerance;
        if (share <= 1) {
            worst = std::max(worst, share);
            return;
        }
        if (bad++ < 3) printf("%s, %s, value %zu: %g, should be %g +- %g\n", name, where, index, got, want, tolerance);
        if (only_first) exit(1);
    }
};

std::map<std::string, Check> checks;

Check& check_of(const char* name) {
    return checks.try_emplace(name, Check{name}).first->second;
}

struct Batch {
    std::vector<uint32_t> lengths, starts = {0};
    Buffer<uint32_t> told;  // what the kernel is told: with the rows before

    explicit Batch(std::vector<uint32_t> lengths) : lengths(lengths), told(lengths.size() + 1) {
        for (uint32_t n : lengths) starts.push_back(starts.back() + n);
        for (size_t i = 0; i < starts.size(); i++) told[i] = before + starts[i];
    }
    uint32_t tokens() const { return starts.back(); }
};

/// A layer norm of `sum`, the values of a row: half a unit of the result, and what f32 makes of a mean that is far from
/// zero.
void check_norm(Check& check, const Values& sum, const Halves& gain, const Halves& shift, double eps, const half* got,
                const char* where, size_t row) {
    const size_t width = sum.size();
    double mean = 0, variance = 0, largest = 0;
    for (double x : sum) mean += x / double(width);
    for (double x : sum) variance += (x - mean) * (x - mean) / double(width);
    for (double x : sum) largest = std::max(largest, fabs(x));
    const double scale = 1 / sqrt(variance + eps);
    for (size_t i = 0; i < width; i++) {
        const double want = (sum[i] - mean) * scale * gain.at(i) + shift.at(i);
        const double tolerance = 1.01 * ULP * fabs(want) + ldexp(1, -20) * largest * scale * fabs(gain.at(i)) + 1e-6;
        check.near(of(got[i]), want, tolerance, where, row * width + i);
    }
}

void embed(uint32_t tokens, uint32_t width) {
    Check& check = check_of("embed_f16");
    const uint32_t vocabulary = 300, longest = 70;
    const Halves words(vocabulary * width), positions(longest * width, 0.3), gain(width, 0.3, 1), shift(width, 0.3);
    const Buffer<uint32_t> ids(tokens), places(tokens);
    const Buffer<half> out(tokens * width);
    for (uint32_t i = 0; i < tokens; i++) {
        ids[i] = i ? below(vocabulary) : vocabulary - 1;
        places[i] = i ? below(longest) : longest - 1;
    }
    const auto call = [&] {
        embed_f16(ids.data() - before, places.data() - before, words.data(), positions.data(), gain.data(),
                  shift.data(), out.data() - size_t(before) * width, before + tokens, width, 1e-12f);
    };
    launch(check.name, (before + tokens + 3) / 4, dim3(32, 4), call, before / 4);
    for (uint32_t row = 0; row < tokens; row++) {
        Values sum(width);
        const uint32_t word = ids[row] * width, place = places[row] * width;
        for (uint32_t i = 0; i < width; i++) sum[i] = words.at(word + i) + positions.at(place + i);
        check_norm(check, sum, gain, shift, 1e-12, &out[row * width], "random", row);
    }
}

/// `middle` is where the values of a row lie; `in_place` writes over `x`.
void residual_norm(uint32_t tokens, uint32_t width, double middle, bool in_place) {
    Check& check = check_of("residual_norm_f16");
    const Halves x(tokens * width, 1, middle), h(tokens * width, 2);
    const Halves bias(width), gain(width, 0.3, 1), shift(width, 0.3);
    const Buffer<half> other(tokens * width);
    std::vector<Values> sums(tokens, Values(width));
    for (uint32_t row = 0; row < tokens; row++)
        for (uint32_t i = 0; i < width; i++) sums[row][i] = x.at(row * width + i) + h.at(row * width + i) + bias.at(i);
    half* const out = in_place ? x.data() : other.data();
    const size_t away = size_t(before) * width;
    const auto call = [&] {
        residual_norm_f16(x.data() - away, h.data() - away, bias.data(), gain.data(), shift.data(), out - away,
                          before + tokens, width, 1e-12f);
    };
    launch(check.name, (before + tokens + 3) / 4, dim3(32, 4), call, before / 4);
    const char* where = in_place ? "in place" : "random";
    for (uint32_t row = 0; row < tokens; row++)
        check_norm(check, sums[row], gain, shift, 1e-12, out + row * width, where, row);
}

/// Half a unit of the result, and 1.5e-7 of erf; 2^-25 is half a unit of the smallest halves.
void bias_gelu(uint32_t tokens, uint32_t width, double size) {
    Check& check = check_of("bias_gelu_f16");
    const Halves x(tokens * width, size), bias(width);
    Values sums(tokens * width);
    for (size_t i = 0; i < sums.size(); i++) sums[i] = x.at(i) + bias.at(i % width);
    half* const all = x.data() - size_t(before) * width;
    const auto call = [&] { bias_gelu_f16(all, bias.data(), all, before + tokens, width); };
    launch(check.name, dim3((before + tokens + 3) / 4, (width + 511) / 512), 64, call, before / 4);
    for (size_t i = 0; i < sums.size(); i++) {
        const double want = sums[i] / 2 * erfc(-sums[i] / sqrt(2));
        const double tolerance = 1.01 * ULP * fabs(want) + 3e-7 * fabs(sums[i]) + ldexp(1, -25);
        check.near(x.at(i), want, tolerance, "random", i);
    }
}

/// Sums of f32. One sequence is all zeros and must not become anything else.
void pool(const Batch& batch, uint32_t width) {
    Check& check = check_of("pool_f16");
    const Halves hidden(batch.tokens() * width);
    const Buffer<float> out(batch.lengths.size() * width);
    const size_t zero = batch.lengths.size() / 2;
    for (size_t i = batch.starts[zero] * width; i < batch.starts[zero + 1] * width; i++) hidden[i].bits = 0;
    const auto call = [&] { pool_f16(hidden.data() - size_t(before) * width, batch.told.data(), out.data(), width); };
    launch(check.name, uint32_t(batch.lengths.size()), 256, call);
    for (size_t s = 0; s < batch.lengths.size(); s++) {
        Values sum(width);
        double square = 0;
        for (size_t i = batch.starts[s] * width; i < batch.starts[s + 1] * width; i++) sum[i % width] += hidden.at(i);
        for (double x : sum) square += x * x;
        for (uint32_t i = 0; i < width; i++) {
            const double want = sum[i] / std::max(sqrt(square), 1e-12);
            check.near(out[s * width + i], want, 1e-6, s == zero ? "zeros" : "random", s * width + i);
        }
    }
}

struct Attention {
    const Batch& batch;
    uint32_t heads, size;
    Halves qkv, bias;
    Buffer<half> context;
    const char* where;

    /// `sharp` is how large queries and keys are: their scores grow with its square.
    Attention(const Batch& batch, uint32_t heads, uint32_t size, double sharp, const char* where)
        : batch(batch), heads(heads), size(size), qkv(size_t(batch.tokens()) * 3 * heads * size),
          bias(3 * heads * size, 0.5), context(size_t(batch.tokens()) * heads * size), where(where) {
        const uint32_t width = heads * size;
        for (size_t i = 0; i < qkv.count; i++)
            if (i % (3 * width) < 2 * width) qkv[i].bits = emulate::half_of(float(normal(sharp)));
    }

    void run(const std::vector<uint2>& chosen) {
        Check& check = check_of(size == 32 ? "attention_f16_d32" : "attention_f16_d64");
        const Buffer<uint2> tiles(chosen.size());
        std::copy(chosen.begin(), chosen.end(), tiles.data());
        const size_t away = size_t(before) * heads * size;
        const auto kernel = size == 32 ? attention_f16_d32 : attention_f16_d64;
        const auto call = [&] {
            kernel(qkv.data() - 3 * away, bias.data(), batch.told.data(), tiles.data(), context.data() - away, heads);
        };
        launch(check.name, uint32_t(chosen.size()) * heads, 128, call);
        std::vector<bool> written(batch.tokens());
        for (const uint2 tile : chosen) {
            const uint32_t end = std::min(tile.y + 64, batch.lengths[tile.x]);
            for (uint32_t head = 0; head < heads; head++) compare(check, tile.x, tile.y, end, head);
            for (uint32_t row = tile.y; row < end; row++) written[batch.starts[tile.x] + row] = true;
        }
        for (size_t i = 0; i < context.count; i++)
            if (!written[i / (heads * size)] && context[i].bits != 0xffff) emulate::fail("it wrote a row of no tile");
    }

    void run() {
        std::vector<uint2> tiles;
        for (uint32_t s = 0; s < batch.lengths.size(); s++)
            for (uint32_t row = 0; row < batch.lengths[s]; row += 64) tiles.push_back({s, row});
        std::shuffle(tiles.begin(), tiles.end(), emulate::dice);
        run(tiles);
    }

    /// With all three biases, and queries rounded to halves after theirs, as the kernel is defined. Then shares and
    /// contexts are rounded to halves, each half a unit of the largest value at most, and a score in f32 is off by some
    /// 2^-22 of what it sums.
    void compare(Check& check, uint32_t sequence, uint32_t first, uint32_t end, uint32_t head) {
        const uint32_t width = heads * size, tokens = batch.lengths[sequence];
        const auto part = [&](uint32_t which) {
            Values values(tokens * size);
            for (size_t i = 0; i < values.size(); i++) {
                const size_t column = which * width + head * size + i % size;
                values[i] = qkv.at((batch.starts[sequence] + i / size) * 3 * width + column) + bias.at(column);
                if (which == 0) values[i] = rounded(values[i]);
            }
            return values;
        };
        const Values queries = part(0), keys = part(1), values = part(2);
        double largest = 0;
        for (double x : values) largest = std::max(largest, fabs(x));
        for (uint32_t row = first; row < end; row++) {
            Values shares(tokens), context(size);
            double peak = -INFINITY, reach = 0, total = 0;
            for (uint32_t key = 0; key < tokens; key++) {
                double terms = 0;
                for (uint32_t i = 0; i < size; i++) {
                    const double term = queries[row * size + i] * keys[key * size + i] / sqrt(size);
                    shares[key] += term;
                    terms += fabs(term);
                }
                peak = std::max(peak, shares[key]);
                reach = std::max(reach, terms);
            }
            for (double& share : shares) total += share = exp(share - peak);
            for (uint32_t key = 0; key < tokens; key++)
                for (uint32_t i = 0; i < size; i++) context[i] += shares[key] / total * values[key * size + i];
            const double tolerance = largest * (2 * ULP + ldexp(reach, -20));
            for (uint32_t i = 0; i < size; i++) {
                const size_t at = size_t(batch.starts[sequence] + row) * width + head * size + i;
                check.near(of(this->context[at]), context[i], tolerance, where, at);
            }
        }
    }
};

std::vector<uint32_t> random_lengths(size_t count, uint32_t longest) {
    std::vector<uint32_t> lengths(count);
    for (uint32_t& n : lengths) n = 1 + below(longest);
    return lengths;
}

void halves() {
    Check& check = check_of("halves");
    for (uint32_t i = 0; i < 65536; i++) {
        const float x = emulate::float_of(i);
        if (isnan(x)) continue;
        check.near(emulate::half_of(x), i, 0.5, "back and forth", i);
        if (isinf(x) || i >> 15) continue;
        // Between two neighbours, the even one is taken; a little beyond, the nearer one.
        const float next = i == 0x7bff ? 65536 : emulate::float_of(i + 1), middle = (x + next) / 2;
        check.near(emulate::half_of(middle), i + i % 2, 0.5, "ties", i);
        check.near(emulate::half_of(nextafterf(middle, 0)), i, 0.5, "below a tie", i);
        check.near(emulate::half_of(nextafterf(middle, INFINITY)), i + 1, 0.5, "above a tie", i);
    }
}

void all_shapes() {
    for (uint32_t width : {384, 1024, 768, 8, 264, 1016}) {
        for (uint32_t tokens : {1, 3, 4, 5, 33}) {
            embed(tokens, width);
            residual_norm(tokens, width, 0, false);
            residual_norm(tokens, width, 50, true);
        }
        for (uint32_t longest : {1, 9, 200}) pool(Batch(random_lengths(5, longest)), width);
    }
    for (uint32_t width : {1536, 4096, 8, 520})
        for (uint32_t tokens : {1, 4, 7}) bias_gelu(tokens, width, tokens == 7 ? 5 : 1);
    pool(Batch({8191, 8192}), 384);

    const Batch odd({1, 2, 15, 16, 17, 63, 64, 65, 127, 200, 512}), many(random_lengths(150, 40)), single({1});
    const Batch few({100, 37}), one({8192}), other({5, 8191});
    Attention(odd, 3, 32, 1.5, "odd lengths").run();
    Attention(odd, 3, 64, 1.5, "odd lengths").run();
    Attention(few, 12, 32, 1.5, "the width of MiniLM").run();
    Attention(few, 16, 64, 1.5, "the width of BERT-large").run();
    for (uint32_t size : {32, 64}) {
        Attention(many, 2, size, 1.5, "many").run();
        Attention(single, 1, size, 1.5, "single").run();
        Attention(odd, 1, size, 15, "sharp").run();
        Attention(odd, 1, size, 60, "very sharp").run();
        Attention(one, 1, size, 1.5, "long").run({{0, 0}, {0, 8128}});
        Attention(other, 1, size, 1.5, "long and odd").run({{1, 4096}, {1, 8128}});
    }
}

}  // namespace

int main(int count, char** arguments) {
    emulate::watch_faults();
    const uint64_t seed = count > 1 ? strtoull(arguments[1], nullptr, 10) : 7;
    emulate::dice.seed(seed);
    only_first = count > 2;
    halves();
    all_shapes();
    emulate::at_front = true;
    before = 12'000'000;
    all_shapes();
    bool good = true;
    for (const auto& [name, check] : checks) {
        const char* line = "%-18s %9zu values, %zu wrong, at most %.2f of the tolerance\n";
        printf(line, check.name, check.values, check.bad, check.worst);
        good &= check.bad == 0;
    }
    return good ? 0 : 1;
}
