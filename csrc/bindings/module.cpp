// Python bindings of the compiled core: only this file and ops.cpp know Python.
// Their types are in pygpt/_C.pyi; what they mean is in the headers and in pygpt/data.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../data/batch_sampler.hpp"
#include "../data/documents.hpp"
#include "../data/token_file.hpp"

namespace py = pybind11;
using namespace pygpt;

namespace {

// A path as the system's calls take it: any bytes but NUL.
std::string to_path(const py::handle& path) {
    PyObject* encoded = nullptr;
    if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) throw py::error_already_set();
    return py::reinterpret_steal<py::bytes>(encoded);
}

// A text that may hold such a path, as Python shows it: bytes that are not UTF-8 are escaped.
py::str from_path(const std::string& text) {
    const auto size = static_cast<Py_ssize_t>(text.size());
    return py::reinterpret_steal<py::str>(PyUnicode_DecodeFSDefaultAndSize(text.data(), size));
}

// The memory of `array`, checked to be what fill() writes.
std::int64_t* writable_rows(const char* name, py::array& array, const BatchSampler& sampler) {
    const bool fits = py::isinstance<py::array_t<std::int64_t>>(array) && array.ndim() == 2 &&
                      array.shape(0) == sampler.n_rows() &&
                      array.shape(1) == sampler.block_size() && array.writeable() &&
                      (array.flags() & py::array::c_style) != 0;
    if (!fits) {
        const std::string shape = py::str(array.attr("shape"));
        const std::string dtype = py::str(array.dtype());
        const bool contiguous = (array.flags() & py::array::c_style) != 0;
        throw py::value_error("out: " + std::string(name) +
                              " must be a writable C-contiguous int64 (" +
                              std::to_string(sampler.n_rows()) + ", " +
                              std::to_string(sampler.block_size()) + ") and is " +
                              (array.writeable() ? "" : "read-only ") +
                              (contiguous ? "" : "non-contiguous ") + dtype + " " + shape);
    }
    return static_cast<std::int64_t*>(array.mutable_data());
}

void fill_arrays(BatchSampler& sampler, std::int64_t step, py::array inputs, py::array targets,
                 bool read_ahead) {
    std::int64_t* to_inputs = writable_rows("x", inputs, sampler);
    std::int64_t* to_targets = writable_rows("y", targets, sampler);
    // Still under the GIL: one thread at a time, and no fork meanwhile.
    if (read_ahead) sampler.read_ahead(step + 1);
    const py::gil_scoped_release unlocked;
    sampler.fill(step, to_inputs, to_targets);
}

py::array_t<std::int64_t> read_array(const TokenShards& shards, std::int64_t start,
                                     std::int64_t length) {
    // An impossible length is refused before memory is asked for it.
    if (length < 0 || length > shards.n_tokens()) shards.read(start, length, nullptr);
    py::array_t<std::int64_t> ids(length);
    std::int64_t* out = ids.mutable_data();
    const py::gil_scoped_release unlocked;
    shards.read(start, length, out);
    return ids;
}

py::bytes hash_texts(const py::list& texts, const std::string& key) {
    std::vector<std::string_view> views;
    views.reserve(texts.size());
    for (const py::handle text : texts) views.emplace_back(py::reinterpret_borrow<py::bytes>(text));
    if (key.empty() || key.size() > 64) throw py::value_error("a key has 1 to 64 bytes");
    std::vector<Digest> digests;
    {
        const py::gil_scoped_release unlocked;
        digests = keyed_hashes(views, key, widest_lanes());
    }
    return {reinterpret_cast<const char*>(digests.data()), digests.size() * sizeof(Digest)};
}

template <typename Array>
using Contiguous = py::array_t<Array, py::array::c_style | py::array::forcecast>;

template <typename Id>
py::array joined(const Contiguous<std::uint32_t>& ids, const Contiguous<std::int64_t>& offsets,
                 const Contiguous<bool>& ends, std::int64_t separator) {
    const py::ssize_t n_rows = ends.shape(0);
    const bool* const row_ends = ends.data();
    py::array_t<Id> out(ids.size() + std::count(row_ends, row_ends + n_rows, true));
    Id* const to = out.mutable_data();
    const py::gil_scoped_release unlocked;
    join_rows<Id>(ids.data(), offsets.data(), row_ends, n_rows, Id(separator), to);
    return out;
}

py::array join_arrays(const Contiguous<std::uint32_t>& ids,
                      const Contiguous<std::int64_t>& offsets, const Contiguous<bool>& ends,
                      std::int64_t separator, const std::string& dtype) {
    const std::int64_t* const bounds = offsets.data();
    if (ids.ndim() != 1 || offsets.ndim() != 1 || ends.ndim() != 1 ||
        offsets.shape(0) != ends.shape(0) + 1 || bounds[0] != 0 ||
        !std::is_sorted(bounds, bounds + offsets.shape(0)) ||
        bounds[ends.shape(0)] != ids.shape(0)) {
        throw py::value_error("offsets must rise from 0 to the number of ids, one more than ends");
    }
    return parse_id_type(dtype) == IdType::uint16
               ? joined<std::uint16_t>(ids, offsets, ends, separator)
               : joined<std::uint32_t>(ids, offsets, ends, separator);
}

}  // namespace

void bind_ops(py::module_& m);  // ops.cpp

PYBIND11_MODULE(_C, m) {
    m.doc() = "pygpt's compiled core; see pygpt.data";
    bind_ops(m);

    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const InputError& error) {
            PyErr_SetObject(py::module_::import("pygpt.utils.errors").attr("InputError").ptr(),
                            from_path(error.what()).ptr());
        }
    });

    py::class_<TokenFile>(m, "TokenFile")
        .def_property_readonly("path",
                               [](const TokenFile& file) { return from_path(file.path()); })
        .def_property_readonly("format",
                               [](const TokenFile& file) { return to_string(file.format()); })
        .def_property_readonly("dtype",
                               [](const TokenFile& file) { return to_string(file.id_type()); })
        .def_property_readonly("n_tokens", &TokenFile::n_tokens)
        .def_property_readonly("data_offset", &TokenFile::data_offset);

    py::class_<TokenShards, std::shared_ptr<TokenShards>>(m, "TokenShards")
        .def(py::init([](const py::iterable& paths, const std::string& raw_dtype) {
                 std::vector<std::string> encoded;
                 for (const py::handle path : paths) encoded.push_back(to_path(path));
                 return std::make_shared<TokenShards>(encoded, parse_id_type(raw_dtype));
             }),
             py::arg("paths"), py::arg("raw_dtype"))
        .def_property_readonly("n_tokens", &TokenShards::n_tokens)
        .def_property_readonly("files", &TokenShards::files,
                               py::return_value_policy::reference_internal)
        .def("read", &read_array, py::arg("start"), py::arg("length"));

    py::class_<BatchSampler>(m, "BatchSampler")
        .def(py::init([](std::shared_ptr<TokenShards> shards, std::int64_t batch_size,
                         std::int64_t block_size, std::uint64_t seed, std::int64_t rank,
                         std::int64_t world_size, const std::string& sampling) {
                 return std::make_unique<BatchSampler>(
                     std::move(shards), SamplerOptions{batch_size, block_size, seed, rank,
                                                       world_size, parse_sampling(sampling)});
             }),
             py::arg("shards"), py::arg("batch_size"), py::arg("block_size"), py::kw_only(),
             py::arg("seed"), py::arg("rank"), py::arg("world_size"), py::arg("sampling"))
        .def_property_readonly("tokens_per_epoch", &BatchSampler::tokens_per_epoch)
        .def("fill", &fill_arrays, py::arg("step"), py::arg("inputs"), py::arg("targets"),
             py::arg("read_ahead"))
        .def("read_ahead", &BatchSampler::read_ahead, py::arg("step"), py::arg("n_steps"));

    m.def("keyed_hashes", &hash_texts, py::arg("texts"), py::arg("key"));
    m.def("join_rows", &join_arrays, py::arg("ids"), py::arg("offsets"), py::arg("ends"),
          py::arg("separator"), py::arg("dtype"));
}
