// trace/record_queue.h for Python. Values come as any CPU array (the buffer protocol or DLPack), whatever its strides; a
// dtype that NumPy lacks (bf16, the 8-bit floats) comes as raw integers of the same size with its name.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "bind_core.h"
#include "core/error.h"
#include "core/openmp_team.h"
#include "trace/record_queue.h"
#include "trace/trace_writer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace paritrace {
namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu>;

TraceWriter::Mode ParseMode(const std::string& name) {
  if (name == "full") return TraceWriter::Mode::kFull;
  if (name == "digest") return TraceWriter::Mode::kDigest;
  if (name == "stats") return TraceWriter::Mode::kStats;
  throw UsageError(fmt::format("mode: expected full, digest or stats, found {}", name));
}

DType TypeOf(const Array& array) {
  const nb::dlpack::dtype type = array.dtype();
  const auto is = [&](nb::dlpack::dtype_code code, int bits) {
    return type.lanes == 1 && type.code == static_cast<std::uint8_t>(code) && type.bits == bits;
  };
  using Code = nb::dlpack::dtype_code;
  if (is(Code::Float, 64)) return DType::kF64;
  if (is(Code::Float, 32)) return DType::kF32;
  if (is(Code::Float, 16)) return DType::kF16;
  if (is(Code::Bfloat, 16)) return DType::kBF16;
  if (is(Code::Int, 8)) return DType::kI8;
  if (is(Code::Int, 16)) return DType::kI16;
  if (is(Code::Int, 32)) return DType::kI32;
  if (is(Code::Int, 64)) return DType::kI64;
  if (is(Code::UInt, 8)) return DType::kU8;
  if (is(Code::UInt, 16)) return DType::kU16;
  if (is(Code::UInt, 32)) return DType::kU32;
  if (is(Code::UInt, 64)) return DType::kU64;
  if (is(Code::Bool, 8)) return DType::kBool;
  throw UsageError(
      fmt::format("record: expected a real scalar dtype, found DLPack type code {}, {} bits", type.code, type.bits));
}

nlohmann::ordered_json ParseHeader(const std::string& text) {
  nlohmann::ordered_json header = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) throw UsageError("trace header: expected a JSON object");
  return header;
}

void Record(RecordQueue& queue, int step, const std::string& name, const std::string& site, const Array& array,
            const std::optional<std::string>& dtype, const std::optional<std::vector<std::int64_t>>& shape) {
  StridedTensor tensor;
  tensor.data = static_cast<const std::byte*>(array.data());
  tensor.dtype = TypeOf(array);
  if (dtype) {
    const std::optional<DType> named = ParseDType(*dtype);
    if (!named) throw UsageError(fmt::format("record: tensor \"{}\": expected a dtype's name, found {}", name, *dtype));
    tensor.dtype = *named;
  }
  std::int64_t dense = 1;  // what the next axis's stride is, from the last on, if there are no gaps
  bool has_gaps = false;
  for (std::size_t axis = array.ndim(); axis-- > 0;) {
    has_gaps = has_gaps || (array.shape(axis) != 1 && array.stride(axis) != dense);
    dense *= static_cast<std::int64_t>(array.shape(axis));
  }
  for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
    tensor.shape.push_back(static_cast<std::int64_t>(array.shape(axis)));
    if (has_gaps) tensor.strides.push_back(array.stride(axis));
  }
  if (shape) {
    if (has_gaps && *shape != tensor.shape)
      throw UsageError(fmt::format("record: tensor \"{}\": expected an array without gaps for another shape", name));
    tensor.shape = *shape;
  }
  if (ByteCount(tensor.shape, tensor.dtype) != static_cast<std::int64_t>(array.nbytes())) {
    throw UsageError(fmt::format("record: tensor \"{}\": expected the bytes of {} {}, found {} bytes", name,
                                 Name(tensor.dtype), ToString(tensor.shape), array.nbytes()));
  }
  const nb::gil_scoped_release no_gil;
  queue.Record(step, name, site, tensor);
}

}  // namespace

void BindTraceWriter(nb::module_& module) {
  nb::class_<RecordQueue>(module, "TraceWriter",
                          "Writes a trace directory, tensor by tensor. Unclosed, it stays \"open\".")
      .def(
          "__init__",
          [](RecordQueue* self, std::string path, const std::string& header, const std::string& mode, bool overwrite) {
            new (self) RecordQueue(
                std::make_unique<TraceWriter>(std::move(path), ParseHeader(header), ParseMode(mode), overwrite));
          },
          "path"_a, "header"_a, "mode"_a = "full", "overwrite"_a = false,
          "header: JSON text, the keys of trace.json that are known. An existing trace is replaced only with "
          "`overwrite`.\n"
          "Errors: ValueError if the path exists or cannot be written.")
      .def(
          "record", &Record, "step"_a, "name"_a, "site"_a, "array"_a, "dtype"_a = nb::none(), "shape"_a = nb::none(),
          "Appends one tensor; its memory is free to change after the call, and it is written in the background. "
          "dtype\n"
          "and shape reinterpret the array's bytes (\"bf16\" for raw uint16). site may be \"\". Errors: ValueError if\n"
          "bytes and shape disagree, or if an earlier tensor could not be written.")
      .def(
          "use_openmp",
          [](RecordQueue& queue, const std::string& library, int threads) {
            queue.UseTeam(OpenMpTeam(library, threads));
          },
          "library"_a, "threads"_a,
          "Tensors that this thread records are looked at on the threads of the OpenMP library it computes with, if\n"
          "that file of a libgomp is loaded; threads: as many as it uses. Before the first record.")
      .def("flush", &RecordQueue::Flush, nb::call_guard<nb::gil_scoped_release>(),
           "Waits until all that was recorded is in the files. Errors: ValueError if it could not be written.")
      .def(
          "update_header",
          [](RecordQueue& queue, const std::string& header) {
            const nlohmann::ordered_json parsed = ParseHeader(header);
            const nb::gil_scoped_release no_gil;
            queue.UpdateHeader(parsed);
          },
          "header"_a, "Merges JSON text into the header.")
      .def("close", &RecordQueue::Close, nb::call_guard<nb::gil_scoped_release>(), "Marks the trace complete.");
}

}  // namespace paritrace
