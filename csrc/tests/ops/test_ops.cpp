// Tests of the native CPU ops without Python: against double precision, at every level that this
// CPU runs. Run by csrc/tests/run.sh. Every run draws fresh inputs; PYGPT_TEST_SEED repeats one.

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

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
        for (std::int64_t size : {1, 15, 17, 600001}) test_accumulate(level, random, size);
    }
    std::cout << (failures ? "failures: " + std::to_string(failures) : "ops: all passed") << "\n";
    return failures ? 1 : 0;
}
