#include "decode_step.hpp"

#include <algorithm>
#include <thread>
#include <utility>

namespace pygpt::cpu {
namespace {

// Of weights that a thread takes at a time: in long runs, memory is read a quarter faster, and with
// small pieces at the end all threads end together.
constexpr std::int64_t kLargestPiece = 1 << 20, kSmallestPiece = 1 << 15;  // bytes
constexpr int kPhases = 5;    // of a layer
constexpr int kSpins = 2000;  // tens of µs, before the core is offered to others

std::int64_t element_size(WeightType type) {
    return type == WeightType::float32 ? 4 : type == WeightType::bfloat16 ? 2 : 1;
}

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

}  // namespace

struct DecodeStep::Step {
    DecodeStep& self;
    const Batch& batch;
    int threads;
    std::atomic<int> workers{0};
};

DecodeStep::DecodeStep(Model model, Cache cache, Level level)
    : model_(std::move(model)),
      cache_(cache),
      kernels_(kernels(level)),
      n_embd_(model_.tokens.columns),
      head_size_(n_embd_ / model_.n_head),
      value_stride_((head_size_ + kKeyBlock - 1) / kKeyBlock * kKeyBlock),
      phases_(kPhases * model_.layers.size() + 1) {}

void DecodeStep::run(const Batch& batch, int threads) {
    for (Phase& phase : phases_) phase.next = phase.done = 0;
    x_.resize(batch.size * n_embd_);
    qkv_.resize(batch.size * 3 * n_embd_);
    attended_.resize(batch.size * n_embd_);
    hidden_.resize(batch.size * 4 * n_embd_);
    scratch_.resize(std::max<std::size_t>(scratch_.size(), threads));
    const std::int64_t of_linear = batch.size * kernels_.arranged_size(4 * n_embd_);
    const std::int64_t of_attention = model_.block_size + 2 * kKeyBlock + value_stride_;
    for (auto& each : scratch_) each.resize(std::max(of_linear, of_attention));
    for (std::int64_t i = 0; i < batch.size; ++i) {
        const float* const position = model_.positions + batch.positions[i] * n_embd_;
        kernels_.embed(model_.tokens, position, batch.ids[i], x_.data() + i * n_embd_);
    }
    Step step{*this, batch, threads};
    const auto call = [](void* data) {
        Step& shared = *static_cast<Step*>(data);
        shared.self.work(shared);
    };
    on_threads(threads, call, &step);
}

// The whole step as one thread sees it.
void DecodeStep::work(Step& step) {
    float* const scratch = scratch_[step.workers.fetch_add(1)].data();
    const std::int64_t C = n_embd_;
    const auto normed = [&](const Norm& norm) {
        return [&, norm](std::int64_t i, float* to) {
            kernels_.layer_norm_row(x_.data() + i * C, norm.weight, norm.bias, C, to);
        };
    };
    const auto copied = [](const std::vector<float>& from, std::int64_t size) {
        return [&from, size](std::int64_t i, float* to) {
            std::copy_n(from.data() + i * size, size, to);
        };
    };
    const auto op = [](const Matrix& weight, const float* bias, float* y, Output output) {
        return Linear{weight, bias, nullptr, 0, 0, y, weight.rows, output};
    };
    Phase* phase = phases_.data();
    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
        const Layer& layer = model_.layers[i];
        linear(step, *phase++, op(layer.c_attn, layer.c_attn_bias, qkv_.data(), Output::store),
               normed(layer.ln_1), scratch);
        attention(step, *phase++, static_cast<std::int64_t>(i), scratch);
        linear(step, *phase++, op(layer.attn_proj, layer.attn_proj_bias, x_.data(), Output::add),
               copied(attended_, C), scratch);
        linear(step, *phase++, op(layer.c_fc, layer.c_fc_bias, hidden_.data(), Output::gelu),
               normed(layer.ln_2), scratch);
        linear(step, *phase++, op(layer.mlp_proj, layer.mlp_proj_bias, x_.data(), Output::add),
               copied(hidden_, 4 * C), scratch);
    }
    linear(step, *phase, op(model_.tokens, nullptr, step.batch.logits, Output::store),
           normed(model_.ln_f), scratch);
}

// Calls piece(begin, end) over [0, size) and returns when all is done. A piece is half a thread's
// share of what is left, within the limits.
template <typename Piece>
void DecodeStep::share(Phase& phase, std::int64_t size, PieceSizes sizes, int threads,
                       Piece piece) {
    std::int64_t begin = 0, end = 0;
    const auto take = [&] {
        begin = phase.next.load(std::memory_order_relaxed);
        do {
            const std::int64_t share = (size - begin) / (2 * threads) / sizes.least * sizes.least;
            end = std::min(begin + std::clamp(share, sizes.least, sizes.most), size);
        } while (begin < size &&
                 !phase.next.compare_exchange_weak(begin, end, std::memory_order_relaxed));
        return begin < size;
    };
    while (take()) {
        piece(begin, end);
        phase.done.fetch_add(end - begin, std::memory_order_release);
    }
    for (int spins = 0; phase.done.load(std::memory_order_acquire) < size; ++spins) {
        if (spins < kSpins) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
}

// y of `op`, for the activations that prepare(i, to) writes: each thread prepares its own copy,
// which costs less than waiting for one that does it for all.
template <typename Prepare>
void DecodeStep::linear(Step& step, Phase& phase, Linear op, Prepare prepare, float* scratch) {
    const Matrix& weight = op.weight;
    op.x = scratch;
    op.x_stride = kernels_.arranged_size(weight.columns);
    op.batch = step.batch.size;
    const std::int64_t of_threads = weight.rows / (4 * step.threads);
    const auto rows_of = [&](std::int64_t bytes) {
        const std::int64_t rows = bytes / (weight.columns * element_size(weight.type));
        return std::max<std::int64_t>(1, std::min(rows, of_threads) / 8) * 8;
    };
    const PieceSizes sizes{rows_of(kSmallestPiece), rows_of(kLargestPiece)};
    bool prepared = false;
    share(phase, weight.rows, sizes, step.threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = 0; !prepared && i < op.batch; ++i) {
            float* const to = scratch + i * op.x_stride;
            prepare(i, to);
            kernels_.arrange(weight.type, to, weight.columns);
        }
        prepared = true;
        kernels_.linear_rows(op, begin, end);
    });
}

void DecodeStep::attention(Step& step, Phase& phase, std::int64_t layer, float* scratch) {
    const Batch& batch = step.batch;
    const std::int64_t H = model_.n_head, D = head_size_;
    const std::int64_t element = cache_.bfloat16 ? 2 : 4;
    const std::int64_t blocks = (model_.block_size + kKeyBlock - 1) / kKeyBlock;
    const std::int64_t keys_size = blocks * kKeyBlock * D * element;  // of a head, in bytes
    const std::int64_t values_size = model_.block_size * value_stride_ * element;
    share(phase, batch.size * H, {1, 1}, step.threads, [&](std::int64_t index, std::int64_t) {
        const std::int64_t i = index / H, h = index % H;
        const std::int64_t place = (layer * cache_.rows + batch.rows[i]) * H + h;
        const float* const q = qkv_.data() + i * 3 * n_embd_ + h * D;
        kernels_.attend_head({q, q + n_embd_, q + 2 * n_embd_,
                              static_cast<char*>(cache_.keys) + place * keys_size,
                              static_cast<char*>(cache_.values) + place * values_size,
                              cache_.bfloat16, D, value_stride_, batch.positions[i], scratch,
                              attended_.data() + i * n_embd_ + h * D});
    });
}

}  // namespace pygpt::cpu
