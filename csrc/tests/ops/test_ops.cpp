// Tests of the native CPU ops without Python: against double precision, at every level that this
// CPU runs. Run by csrc/tests/run.sh. Every run draws fresh inputs; PYGPT_TEST_SEED repeats one.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../ops/decode_step.hpp"
#include "../../ops/isa_generic.cpp"  // included, not linked: exp_nonpositive is internal to it

using namespace pygpt::cpu;

namespace {

constexpr std::int64_t kIgnored = -100;
int failures = 0;

void expect(bool condition, const std::string& what) {
    if (condition) return;
    ++failures;
    std::cerr << "FAILED: " << what << "\n";
}

// Every fp32 from 0 down to -200, in steps of a few units in the last place.
void test_exp() {
    double worst = 0;
    for (std::uint32_t bits = 0x80000000u; bits < 0xc3480000u; bits += 977) {
        float x;
        std::memcpy(&x, &bits, sizeof x);
        const double exact = std::exp(static_cast<double>(x));
        const float got = exp_nonpositive(broadcast(x))[0];
        if (exact < std::numeric_limits<float>::min() * 1.5) {
            expect(got >= 0 && got <= exact * 1.01 + 2e-38, "exp underflows at " + std::to_string(x));
        } else {
            worst = std::max(worst, std::fabs(got - exact) / exact);
        }
    }
    expect(worst < 2.4e-7, "exp: relative error " + std::to_string(worst * 1e7) + "e-7");
    expect(exp_nonpositive(broadcast(0.0f))[0] == 1.0f, "exp(0) is 1");
    expect(exp_nonpositive(broadcast(-kInfinity))[0] == 0.0f, "exp(-inf) is 0");
    expect(std::isnan(exp_nonpositive(broadcast(kNaN))[0]), "exp(NaN) is NaN");
}

struct Reference {
    double loss, lse;
    std::vector<double> gradient;
    std::vector<double> subtracted;  // of each gradient: weight·softmax less this
};

Reference reference(const std::vector<float>& logits, std::int64_t target, double z_loss,
                    double smoothing) {
    const auto vocab = static_cast<double>(logits.size());
    double max = -INFINITY, sum = 0, total = 0;
    for (float x : logits) max = std::max<double>(max, x);
    for (float x : logits) sum += std::exp(x - max), total += x;
    const double lse = max + std::log(sum);
    if (target == kIgnored) return {0, lse, std::vector<double>(logits.size(), 0.0),
                                   std::vector<double>(logits.size(), 0.0)};
    Reference result{(1 - smoothing) * (lse - logits[target]) + smoothing * (lse - total / vocab) +
                         z_loss * lse * lse,
                     lse,
                     {},
                     {}};
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const double share = smoothing / vocab + (std::int64_t(i) == target ? 1 - smoothing : 0);
        result.gradient.push_back((1 + 2 * z_loss * lse) * std::exp(logits[i] - lse) - share);
        result.subtracted.push_back(share);
    }
    return result;
}

BFloat16 to_bfloat16(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return static_cast<BFloat16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// One tile at an address that is aligned to its element and no more, in a buffer of exactly its
// size, so that AddressSanitizer sees a step outside.
template <typename T>
void test_rows(Level level, std::mt19937& random, std::int64_t rows, std::int64_t vocab) {
    const std::int64_t stride = vocab + 3;
    std::vector<T> buffer(1 + (rows - 1) * stride + vocab);
    T* const first = buffer.data() + 1;
    std::normal_distribution<float> normal(0, 3);
    std::vector<std::vector<float>> logits(rows, std::vector<float>(vocab));
    std::vector<std::int64_t> targets(rows);
    for (std::int64_t row = 0; row < rows; ++row) {
        targets[row] = row % 5 == 4 ? kIgnored : std::int64_t(random() % vocab);
        for (std::int64_t i = 0; i < vocab; ++i) {
            T& element = first[row * stride + i];
            if constexpr (sizeof(T) == 2) element = to_bfloat16(normal(random));
            if constexpr (sizeof(T) == 4) element = normal(random);
            logits[row][i] = to_float(element);
        }
    }
    const std::vector<T> original = buffer;
    std::vector<T> of_one_thread;
    for (int threads = 1; threads <= 4; ++threads) {
        buffer = original;
        std::vector<float> loss(rows, NAN), lse(rows, NAN);
        const CrossEntropyTile tile{buffer.data() + 1, sizeof(T) == 2, rows,     vocab, stride,
                                    targets.data(),    nullptr,        loss.data(), lse.data(),
                                    kIgnored,          0.01f,          0.1f,     true};
        cross_entropy_rows(tile, threads, level);
        if (threads == 1) of_one_thread = buffer;
        expect(buffer == of_one_thread, "the same bits with " + std::to_string(threads) + " threads");
        for (std::int64_t row = 0; row < rows; ++row) {
            const Reference exact = reference(logits[row], targets[row], 0.01f, 0.1f);
            expect(std::fabs(loss[row] - exact.loss) < 1e-5 * (1 + exact.loss), "loss");
            expect(std::fabs(lse[row] - exact.lse) < 1e-6 * (1 + std::fabs(exact.lse)), "lse");
            for (std::int64_t i = 0; i < vocab; ++i) {
                const double got = to_float(buffer[1 + row * stride + i]);
                const double want = exact.gradient[i];
                // fp32 rounds the softmax before `subtracted` is taken off, which may leave little:
                // exp to 2.4e-7 (test_exp), the sum of such exps as much, the scale and the
                // product 0.6e-7 each, 6e-7 of a softmax of |want| + subtracted, 1e-6 allowed.
                const double unit = sizeof(T) == 2 ? 1.0 / 256 : 1e-6;  // half a unit of bf16
                const double allowed =
                    unit * std::fabs(want) + 1e-6 * exact.subtracted[i] + 1e-7;
                expect(std::fabs(got - want) <= allowed, "gradient");
            }
        }
    }
}

void test_accumulate(Level level, std::mt19937& random, std::int64_t size) {
    std::vector<float> sum(size), expected(size);
    std::vector<BFloat16> addend(size);
    for (std::int64_t i = 0; i < size; ++i) {
        sum[i] = static_cast<float>(random()) / 1e9f;
        addend[i] = to_bfloat16(static_cast<float>(random()) / 1e9f);
        expected[i] = sum[i] + to_float(addend[i]);
    }
    accumulate(sum.data(), addend.data(), size, 4, level);
    expect(sum == expected, "accumulate " + std::to_string(size));
}

// Against double, in buffers of exactly their size, one element off any wider alignment.
template <typename T>
void test_gelu(Level level, std::mt19937& random, std::int64_t rows, std::int64_t width) {
    std::normal_distribution<float> normal(0, 2);
    const auto draw = [&](std::int64_t size) {
        std::vector<T> values(size + 1);
        for (T& value : values) {
            if constexpr (sizeof(T) == 2) value = to_bfloat16(normal(random));
            if constexpr (sizeof(T) == 4) value = normal(random);
        }
        return values;
    };
    const std::vector<T> x = draw(rows * width), dy = draw(rows * width), bias = draw(width);
    const GeluInput input{x.data() + 1, bias.data() + 1, sizeof(T) == 2, rows, width};
    const double unit = sizeof(T) == 2 ? 1.0 / 256 : 1e-6;
    std::vector<float> of_one_thread;
    for (int threads : {1, 3}) {
        std::vector<T> y(rows * width + 1), dx(rows * width + 1);
        std::vector<float> dbias(width, NAN);
        gelu(input, y.data() + 1, threads, level);
        gelu_backward(input, dy.data() + 1, dx.data() + 1, dbias.data(), threads, level);
        gelu_backward(input, dy.data() + 1, dx.data() + 1, nullptr, threads, level);
        if (threads == 1) of_one_thread = dbias;
        expect(dbias == of_one_thread, "the same sums with 3 threads");
        std::vector<double> sums(width, 0.0);
        for (std::int64_t i = 0; i < rows * width; ++i) {
            const double z = double(to_float(x[i + 1])) + to_float(bias[i % width + 1]);
            const double k = std::sqrt(2 / M_PI), t = std::tanh(k * (z + 0.044715 * z * z * z));
            const double slope =
                0.5 * (1 + t) + 0.5 * z * (1 - t * t) * k * (1 + 3 * 0.044715 * z * z);
            const double dz = to_float(dy[i + 1]) * slope;
            sums[i % width] += dz;
            expect(std::fabs(to_float(y[i + 1]) - 0.5 * z * (1 + t)) < unit * std::fabs(z) + 1e-6,
                   "gelu");
            expect(std::fabs(to_float(dx[i + 1]) - dz) < unit * std::fabs(dz) + 1e-5, "gelu's dx");
        }
        for (std::int64_t i = 0; i < width; ++i) {
            expect(std::fabs(dbias[i] - sums[i]) < 1e-5 * (10 + rows), "gelu's dbias");
        }
    }
}

// Against double, in buffers of exactly their size, the scores as large as bf16 makes them matter.
void test_attention(Level level, std::mt19937& random, std::int64_t heads, std::int64_t positions) {
    std::normal_distribution<float> normal(0, 30);
    const std::int64_t size = heads * positions * positions;
    std::vector<float> scores(size);
    std::vector<BFloat16> upstream(size);
    for (float& score : scores) score = normal(random);
    for (BFloat16& value : upstream) value = to_bfloat16(normal(random));
    const float scale = 0.25f;
    const float unit = 1.0 / 256;
    std::vector<BFloat16> of_one_thread;
    for (int threads : {1, 3}) {
        std::vector<float> scratch = scores;
        std::vector<BFloat16> weights(size, to_bfloat16(NAN)), gradient = upstream;
        attention_backward_rows(
            {scratch.data(), weights.data(), gradient.data(), heads, positions, scale}, threads,
            level);
        if (threads == 1) of_one_thread = gradient;
        expect(gradient == of_one_thread, "the same gradient with 3 threads");
        for (std::int64_t row = 0; row < heads * positions; ++row) {
            const std::int64_t first = row * positions, seen = row % positions + 1;
            double highest = -INFINITY, sum = 0, mean = 0;
            for (std::int64_t i = 0; i < seen; ++i) {
                highest = std::max(highest, double(scores[first + i]));
            }
            const auto weight = [&](std::int64_t i) {
                return std::exp((scores[first + i] - highest) * scale);
            };
            for (std::int64_t i = 0; i < seen; ++i) sum += weight(i);
            for (std::int64_t i = 0; i < seen; ++i) {
                mean += weight(i) / sum * to_float(upstream[first + i]);
            }
            for (std::int64_t i = 0; i < positions; ++i) {
                const double w = i < seen ? weight(i) / sum : 0;
                const double ds = w * (to_float(upstream[first + i]) - mean) * scale;
                expect(std::fabs(to_float(weights[first + i]) - w) <= unit * w, "attention's weights");
                // The difference of two numbers near 100, each good to fp32.
                expect(std::fabs(to_float(gradient[first + i]) - ds) <= unit * std::fabs(ds) + 1e-4 * w,
                       "attention's gradient");
            }
        }
    }
}

std::vector<float> draw_floats(std::mt19937& random, std::int64_t size, float scale) {
    std::normal_distribution<float> normal(0, scale);
    std::vector<float> values(size);
    for (float& value : values) value = normal(random);
    return values;
}

// A matrix in memory of exactly its size, and what its weights are in fp32.
struct DrawnMatrix {
    std::vector<float> plain, scales;
    std::vector<std::uint8_t> bytes;
    Matrix matrix;

    DrawnMatrix(std::mt19937& random, WeightType type, std::int64_t rows, std::int64_t columns)
        : plain(draw_floats(random, rows * columns, 0.2f)), scales(rows, 0.01f) {
        const auto put = [&](std::size_t i, auto element) {
            bytes.resize(plain.size() * sizeof element);
            std::memcpy(bytes.data() + i * sizeof element, &element, sizeof element);
        };
        for (std::size_t i = 0; i < plain.size(); ++i) {
            if (type == WeightType::float32) put(i, plain[i]);
            if (type == WeightType::bfloat16) {
                put(i, to_bfloat16(plain[i]));
                plain[i] = to_float(to_bfloat16(plain[i]));
            }
            if (type == WeightType::int8) {
                const auto step = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
                put(i, step);
                plain[i] = static_cast<float>(step) * 0.01f;
            }
        }
        matrix = {bytes.data(), type == WeightType::int8 ? scales.data() : nullptr, type, rows,
                  columns};
    }
};

// Rows of a product against double: 1e-6 of the sum of the terms' sizes, above the 40 roundings of
// the longest of the 8 or more partial sums.
void test_linear(Level level, std::mt19937& random, WeightType type, std::int64_t columns) {
    const std::int64_t rows = 21;
    const DrawnMatrix weight(random, type, rows, columns);
    const std::vector<float> bias = draw_floats(random, rows, 1);
    const Kernels& table = kernels(level);
    const std::int64_t stride = table.arranged_size(columns);
    for (std::int64_t batch : {1, 2, 3, 5, 8}) {
        const std::vector<float> x = draw_floats(random, batch * columns, 1);
        std::vector<float> arranged(batch * stride), y(batch * rows, 2.0f);
        for (std::int64_t b = 0; b < batch; ++b) {
            std::copy_n(x.data() + b * columns, columns, arranged.data() + b * stride);
            table.arrange(type, arranged.data() + b * stride, columns);
        }
        const Linear op{weight.matrix, bias.data(), arranged.data(), stride,
                        batch,         y.data(),    rows,            Output::add};
        table.linear_rows(op, 0, 8);
        table.linear_rows(op, 8, rows);
        for (std::int64_t b = 0; b < batch; ++b) {
            for (std::int64_t r = 0; r < rows; ++r) {
                double sum = bias[r] + 2.0, size = 3;
                for (std::int64_t i = 0; i < columns; ++i) {
                    const double term = double(weight.plain[r * columns + i]) * x[b * columns + i];
                    sum += term, size += std::fabs(term);
                }
                expect(std::fabs(y[b * rows + r] - sum) < 1e-6 * size, "linear");
            }
        }
    }
}

// Some steps of three sequences, of which one waits in between: finite logits, the same bits with
// any number of threads and for a sequence alone.
void test_decode_step(Level level, std::mt19937& random, WeightType type, bool bfloat16_cache) {
    const std::int64_t n_embd = 51, n_head = 3, block_size = 21, vocab = 67, rows = 3;
    const DrawnMatrix c_attn(random, type, 3 * n_embd, n_embd), proj(random, type, n_embd, n_embd),
        c_fc(random, type, 4 * n_embd, n_embd), mlp_proj(random, type, n_embd, 4 * n_embd),
        tokens(random, type, vocab, n_embd);
    const std::vector<float> norm = draw_floats(random, n_embd, 1),
                             bias = draw_floats(random, 4 * n_embd, 1),
                             positions = draw_floats(random, block_size * n_embd, 1);
    const Layer layer{{norm.data(), bias.data()}, c_attn.matrix, bias.data(), proj.matrix, nullptr,
                      {norm.data(), nullptr},     c_fc.matrix,   bias.data(), mlp_proj.matrix,
                      bias.data()};
    const auto run = [&](const std::vector<std::int64_t>& used, int threads) {
        const std::int64_t heads = 2 * rows * n_head, stride = 32, blocks = 2;
        std::vector<float> keys(heads * blocks * n_embd / n_head * kKeyBlock),
            values(heads * block_size * stride);
        DecodeStep step({{layer, layer}, {norm.data(), nullptr}, tokens.matrix, positions.data(),
                         n_head, block_size},
                        {keys.data(), values.data(), bfloat16_cache, rows}, level);
        std::vector<float> of_row_1;
        for (std::int64_t at = 0; at < block_size; ++at) {
            std::vector<std::int64_t> ids, reading, where(used.size(), at);
            for (std::int64_t row : used) {
                if (row == 2 && at > 3) continue;
                reading.push_back(row);
                ids.push_back((7 * at + row) % vocab);
            }
            std::vector<float> logits(ids.size() * vocab, NAN);
            step.run({static_cast<std::int64_t>(ids.size()), ids.data(), reading.data(),
                      where.data(), logits.data()},
                     threads);
            for (float x : logits) expect(std::isfinite(x), "a logit is finite");
            const auto place = std::find(reading.begin(), reading.end(), 1) - reading.begin();
            of_row_1.insert(of_row_1.end(), logits.begin() + place * vocab,
                            logits.begin() + (place + 1) * vocab);
        }
        return of_row_1;
    };
    const std::vector<float> alone = run({1}, 1);
    expect(run({0, 1, 2}, 1) == alone, "a batch changes no bit");
    expect(run({2, 1, 0}, 3) == alone, "threads change no bit");
}

void test_levels() {
    bool refused = false;
    try {
        parse_level("sse9");
    } catch (const std::invalid_argument& error) {
        refused = std::string(error.what()).find("CPU level 'sse9'") == 0;
    }
    expect(refused, "an unknown level is refused by name");
    expect(supported_levels().front() == "generic", "generic runs everywhere");
}

}  // namespace

int main() {
    const char* given = std::getenv("PYGPT_TEST_SEED");
    const unsigned seed = given ? std::strtoul(given, nullptr, 10) : std::random_device{}();
    std::cout << "PYGPT_TEST_SEED=" << seed << std::endl;
    std::mt19937 random(seed);
    test_exp();
    test_levels();
    for (const std::string& name : supported_levels()) {
        const Level level = parse_level(name);
        for (std::int64_t vocab : {1, 7, 8, 31, 32, 33, 1023, 1025, 3000}) {
            test_rows<float>(level, random, 11, vocab);
            test_rows<BFloat16>(level, random, 11, vocab);
        }
        test_rows<float>(level, random, 350, 3001);  // enough for four threads to be started
        test_rows<BFloat16>(level, random, 350, 3001);
        test_gelu<float>(level, random, 2100, 384);
        for (std::int64_t width : {1, 7, 16, 33, 384}) {
            test_gelu<float>(level, random, 150, width);
            test_gelu<BFloat16>(level, random, 150, width);
        }
        for (std::int64_t positions : {16, 48, 208}) test_attention(level, random, 3, positions);
        for (WeightType type : {WeightType::float32, WeightType::bfloat16, WeightType::int8}) {
            for (std::int64_t columns : {1, 31, 64, 65, 300}) test_linear(level, random, type, columns);
            for (bool bfloat16 : {false, true}) test_decode_step(level, random, type, bfloat16);
        }
        for (std::int64_t size : {1, 15, 17, 600001}) test_accumulate(level, random, size);
    }
    std::cout << (failures ? "failures: " + std::to_string(failures) : "ops: all passed") << "\n";
    return failures ? 1 : 0;
}
