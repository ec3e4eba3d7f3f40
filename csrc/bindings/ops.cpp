// Python bindings of the native ops. Addresses come from torch's data_ptr(): types, sizes and
// strides are checked by the callers in pygpt (ops/native.py), and nothing of torch is included here.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../ops/decode_step.hpp"
#include "../ops/ops.hpp"

namespace py = pybind11;

namespace pygpt::cpu {
namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

WeightType weight_type(const std::string& name) {
    if (name == "float32") return WeightType::float32;
    if (name == "bfloat16") return WeightType::bfloat16;
    if (name == "int8") return WeightType::int8;
    throw std::invalid_argument("weights of type " + name);
}

void bind_decode_step(py::module_& m) {
    py::class_<Matrix>(m, "Matrix")
        .def(py::init([](std::uintptr_t data, std::uintptr_t scales, const std::string& dtype,
                         std::int64_t rows, std::int64_t columns) {
                 return Matrix{pointer<const void>(data), pointer<const float>(scales),
                               weight_type(dtype), rows, columns};
             }),
             py::kw_only(), py::arg("data"), py::arg("scales"), py::arg("dtype"), py::arg("rows"),
             py::arg("columns"));

    py::class_<Norm>(m, "Norm").def(
        py::init([](std::uintptr_t weight, std::uintptr_t bias) {
            return Norm{pointer<const float>(weight), pointer<const float>(bias)};
        }),
        py::kw_only(), py::arg("weight"), py::arg("bias"));

    py::class_<Layer>(m, "Layer")
        .def(py::init([](Norm ln_1, Matrix c_attn, std::uintptr_t c_attn_bias, Matrix attn_proj,
                         std::uintptr_t attn_proj_bias, Norm ln_2, Matrix c_fc,
                         std::uintptr_t c_fc_bias, Matrix mlp_proj, std::uintptr_t mlp_proj_bias) {
                 return Layer{ln_1,      c_attn,    pointer<const float>(c_attn_bias),
                              attn_proj, pointer<const float>(attn_proj_bias),
                              ln_2,      c_fc,      pointer<const float>(c_fc_bias),
                              mlp_proj,  pointer<const float>(mlp_proj_bias)};
             }),
             py::kw_only(), py::arg("ln_1"), py::arg("c_attn"), py::arg("c_attn_bias"),
             py::arg("attn_proj"), py::arg("attn_proj_bias"), py::arg("ln_2"), py::arg("c_fc"),
             py::arg("c_fc_bias"), py::arg("mlp_proj"), py::arg("mlp_proj_bias"));

    py::class_<DecodeStep>(m, "DecodeStep")
        .def(py::init([](std::vector<Layer> layers, Norm ln_f, Matrix tokens,
                         std::uintptr_t positions, std::int64_t n_head, std::int64_t block_size,
                         std::uintptr_t keys, std::uintptr_t values, bool bfloat16_cache,
                         std::int64_t rows, const std::string& level) {
                 return std::make_unique<DecodeStep>(
                     Model{std::move(layers), ln_f, tokens, pointer<const float>(positions), n_head,
                           block_size},
                     Cache{pointer<void>(keys), pointer<void>(values), bfloat16_cache, rows},
                     parse_level(level));
             }),
             py::kw_only(), py::arg("layers"), py::arg("ln_f"), py::arg("tokens"),
             py::arg("positions"), py::arg("n_head"), py::arg("block_size"), py::arg("keys"),
             py::arg("values"), py::arg("bfloat16_cache"), py::arg("rows"), py::arg("level"))
        .def(
            "run",
            [](DecodeStep& step, const std::vector<std::int64_t>& ids,
               const std::vector<std::int64_t>& rows, const std::vector<std::int64_t>& positions,
               std::uintptr_t logits, int threads) {
                const py::gil_scoped_release unlocked;
                step.run({static_cast<std::int64_t>(ids.size()), ids.data(), rows.data(),
                          positions.data(), pointer<float>(logits)},
                         threads);
            },
            py::kw_only(), py::arg("ids"), py::arg("rows"), py::arg("positions"), py::arg("logits"),
            py::arg("threads"));
    m.attr("key_block") = kKeyBlock;
}

}  // namespace
}  // namespace pygpt::cpu

void bind_ops(py::module_& m) {
    using namespace pygpt::cpu;

    m.def("cpu_levels", &supported_levels, "The instruction-set levels this CPU runs, lowest first.");

    m.def(
        "cross_entropy_rows",
        [](std::uintptr_t logits, bool bfloat16, std::int64_t rows, std::int64_t vocab,
           std::int64_t row_stride, std::uintptr_t targets, std::uintptr_t row_weight,
           std::uintptr_t loss, std::uintptr_t lse, std::int64_t ignore_index, float z_loss,
           float label_smoothing, bool gradient, int threads, const std::string& level) {
            const Level chosen = parse_level(level);
            const CrossEntropyTile tile{pointer<void>(logits),
                                        bfloat16,
                                        rows,
                                        vocab,
                                        row_stride,
                                        pointer<const std::int64_t>(targets),
                                        pointer<const float>(row_weight),
                                        pointer<float>(loss),
                                        pointer<float>(lse),
                                        ignore_index,
                                        z_loss,
                                        label_smoothing,
                                        gradient};
            const py::gil_scoped_release unlocked;
            cross_entropy_rows(tile, threads, chosen);
        },
        py::kw_only(), py::arg("logits"), py::arg("bfloat16"), py::arg("rows"), py::arg("vocab"),
        py::arg("row_stride"), py::arg("targets"), py::arg("row_weight"), py::arg("loss"),
        py::arg("lse"), py::arg("ignore_index"), py::arg("z_loss"), py::arg("label_smoothing"),
        py::arg("gradient"), py::arg("threads"), py::arg("level"));

    m.def(
        "accumulate",
        [](std::uintptr_t sum, std::uintptr_t addend, std::int64_t size, int threads,
           const std::string& level) {
            const Level chosen = parse_level(level);
            const py::gil_scoped_release unlocked;
            accumulate(pointer<float>(sum), pointer<const std::uint16_t>(addend), size, threads,
                       chosen);
        },
        py::kw_only(), py::arg("sum"), py::arg("addend"), py::arg("size"), py::arg("threads"),
        py::arg("level"));

    m.def(
        "gelu",
        [](std::uintptr_t x, std::uintptr_t bias, bool bfloat16, std::int64_t rows,
           std::int64_t width, std::uintptr_t y, int threads, const std::string& level) {
            const Level chosen = parse_level(level);
            const py::gil_scoped_release unlocked;
            gelu({pointer<const void>(x), pointer<const void>(bias), bfloat16, rows, width},
                 pointer<void>(y), threads, chosen);
        },
        py::kw_only(), py::arg("x"), py::arg("bias"), py::arg("bfloat16"), py::arg("rows"),
        py::arg("width"), py::arg("y"), py::arg("threads"), py::arg("level"));

    m.def(
        "gelu_backward",
        [](std::uintptr_t x, std::uintptr_t bias, bool bfloat16, std::int64_t rows,
           std::int64_t width, std::uintptr_t dy, std::uintptr_t dx, std::uintptr_t dbias,
           int threads, const std::string& level) {
            const Level chosen = parse_level(level);
            const py::gil_scoped_release unlocked;
            gelu_backward(
                {pointer<const void>(x), pointer<const void>(bias), bfloat16, rows, width},
                pointer<const void>(dy), pointer<void>(dx), pointer<float>(dbias), threads, chosen);
        },
        py::kw_only(), py::arg("x"), py::arg("bias"), py::arg("bfloat16"), py::arg("rows"),
        py::arg("width"), py::arg("dy"), py::arg("dx"), py::arg("dbias"), py::arg("threads"),
        py::arg("level"));

    m.attr("attention_positions") = kAttentionPositions;

    m.def(
        "attention_backward_rows",
        [](std::uintptr_t scores, std::uintptr_t weights, std::uintptr_t gradient,
           std::int64_t heads, std::int64_t positions, float scale, int threads,
           const std::string& level) {
            const Level chosen = parse_level(level);
            const AttentionTile tile{pointer<float>(scores),
                                     pointer<std::uint16_t>(weights),
                                     pointer<std::uint16_t>(gradient),
                                     heads,
                                     positions,
                                     scale};
            const py::gil_scoped_release unlocked;
            attention_backward_rows(tile, threads, chosen);
        },
        py::kw_only(), py::arg("scores"), py::arg("weights"), py::arg("gradient"),
        py::arg("heads"), py::arg("positions"), py::arg("scale"), py::arg("threads"),
        py::arg("level"));

    m.def(
        "read_memory",
        [](std::uintptr_t memory, std::int64_t size, std::int64_t piece, int threads,
           const std::string& level) {
            const Level chosen = parse_level(level);
            const py::gil_scoped_release unlocked;
            return read_memory(pointer<const void>(memory), size, piece, threads, chosen);
        },
        py::kw_only(), py::arg("memory"), py::arg("size"), py::arg("piece"), py::arg("threads"),
        py::arg("level"));

    bind_decode_step(m);
}
