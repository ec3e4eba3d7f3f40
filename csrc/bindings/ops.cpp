// Python bindings of the native ops. Addresses come from torch's data_ptr(): types, sizes and
// strides are checked by the callers in pygpt (ops/native.py), and nothing of torch is included here.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>

#include "../ops/ops.hpp"

namespace py = pybind11;

namespace pygpt::cpu {
namespace {

template <typename T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
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
}
