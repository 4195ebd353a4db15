// trace/trace.h for Python: reading a trace back. Entries keep their trace alive; numpy() copies, so an array outlives both.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "bind_core.h"
#include "core/blake3_hash.h"
#include "core/decode.h"
#include "core/error.h"
#include "trace/trace.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace paritrace {
namespace {

struct Opened {
  std::shared_ptr<const Trace> trace;  // immutable from here on, so its entries may share it
};

struct Entry {
  std::shared_ptr<const Trace> trace;
  const TraceEntry* entry;
};

// The scalar types that NumPy has itself; the others come as float32, which holds each of their values exactly.
std::optional<nb::dlpack::dtype> NumpyType(DType dtype) {
  using Code = nb::dlpack::dtype_code;
  const auto type = [](Code code, int bits) {
    return nb::dlpack::dtype{static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), 1};
  };
  switch (dtype) {
    case DType::kF64: return type(Code::Float, 64);
    case DType::kF32: return type(Code::Float, 32);
    case DType::kF16: return type(Code::Float, 16);
    case DType::kI8: return type(Code::Int, 8);
    case DType::kI16: return type(Code::Int, 16);
    case DType::kI32: return type(Code::Int, 32);
    case DType::kI64: return type(Code::Int, 64);
    case DType::kU8: return type(Code::UInt, 8);
    case DType::kU16: return type(Code::UInt, 16);
    case DType::kU32: return type(Code::UInt, 32);
    case DType::kU64: return type(Code::UInt, 64);
    case DType::kBool: return type(Code::Bool, 8);
    default: return std::nullopt;
  }
}

nb::ndarray<nb::numpy> ToNumpy(const Entry& self) {
  const TensorView& tensor = self.entry->tensor;
  if (!self.entry->has_data()) {
    throw UsageError(fmt::format("{}: tensor \"{}\": expected values, found a trace without them (digest or stats)",
                                 self.trace->path, self.entry->name));
  }
  const std::optional<nb::dlpack::dtype> own = NumpyType(tensor.dtype);
  const auto count = static_cast<std::size_t>(tensor.size());
  auto values =
      std::make_unique<std::byte[]>(std::max<std::size_t>(own ? tensor.bytes.size() : count * sizeof(float), 1));
  if (own) {
    std::memcpy(values.get(), tensor.bytes.data(), tensor.bytes.size());
  } else {
    DecodeF32(tensor, 0, tensor.size(), reinterpret_cast<float*>(values.get()));
  }
  const std::vector<std::size_t> shape(tensor.shape.begin(), tensor.shape.end());
  std::byte* data = values.release();
  nb::capsule owner(data, [](void* pointer) noexcept { delete[] static_cast<std::byte*>(pointer); });
  return nb::ndarray<nb::numpy>(data, shape.size(), shape.data(), owner, nullptr, own ? *own : nb::dtype<float>());
}

std::vector<Entry> Entries(const Opened& self) {
  std::vector<Entry> entries;
  entries.reserve(self.trace->entries.size());
  for (const TraceEntry& entry : self.trace->entries) entries.push_back({self.trace, &entry});
  return entries;
}

}  // namespace

void BindTrace(nb::module_& module) {
  nb::class_<Entry>(module, "TraceEntry", "One recorded tensor.")
      .def_prop_ro("seq", [](const Entry& self) { return self.entry->seq; })
      .def_prop_ro("step", [](const Entry& self) { return self.entry->step; })
      .def_prop_ro(
          "name", [](const Entry& self) { return self.entry->name; }, "What the engine calls it.")
      .def_prop_ro(
          "site", [](const Entry& self) { return self.entry->site; }, "Canonical; \"\" where nothing maps it.")
      .def_prop_ro("shape", [](const Entry& self) { return nb::tuple(nb::cast(self.entry->tensor.shape)); })
      .def_prop_ro("dtype", [](const Entry& self) { return std::string(Name(self.entry->tensor.dtype)); })
      .def_prop_ro("hash", [](const Entry& self) { return self.entry->hash; })
      .def_prop_ro("stats_json", [](const Entry& self) { return self.entry->stats.dump(); })
      .def_prop_ro("has_data", [](const Entry& self) { return self.entry->has_data(); })
      .def("numpy", &ToNumpy,
           "A copy of the values: the stored dtype, or float32 (exact) where NumPy has none (bf16, 8-bit, block "
           "types).\n"
           "Errors: ValueError if the trace carries no values.")
      .def(
          "blake3",
          [](const Entry& self) {
            if (!self.entry->has_data()) {
              throw UsageError(fmt::format("{}: tensor \"{}\": expected values, found a trace without them",
                                           self.trace->path, self.entry->name));
            }
            return Blake3OfValues(self.entry->tensor);
          },
          "\"blake3:\" and the hash of the values as little-endian f32, as BitNet-rs records it.\n"
          "Errors: ValueError if the trace carries no values.")
      .def("__repr__", [](const Entry& self) {
        return fmt::format("<TraceEntry {}/{} {} {}>", self.entry->step,
                           self.entry->site.empty() ? self.entry->name : self.entry->site,
                           Name(self.entry->tensor.dtype), ToString(self.entry->tensor.shape));
      });

  nb::class_<Opened>(module, "Trace", "An opened trace.")
      .def_prop_ro("path", [](const Opened& self) { return self.trace->path; })
      .def_prop_ro("header_json", [](const Opened& self) { return self.trace->header.raw.dump(); })
      .def_prop_ro("complete", [](const Opened& self) { return self.trace->header.complete; })
      .def_prop_ro("has_order", [](const Opened& self) { return self.trace->has_order; })
      .def_prop_ro("entries", &Entries, "In order of execution where the trace knows it.")
      .def_prop_ro("steps", [](const Opened& self) { return self.trace->Steps(); })
      .def(
          "find",
          [](const Opened& self, const std::string& site, int step) -> std::optional<Entry> {
            const TraceEntry* entry = self.trace->Find(step, site);
            if (entry == nullptr) return std::nullopt;
            return Entry{self.trace, entry};
          },
          "site"_a, "step"_a = 0, "The first entry of that site and step, or None.");

  module.def(
      "open_trace",
      [](const std::string& path) {
        const nb::gil_scoped_release no_gil;
        return Opened{std::make_shared<const Trace>(OpenTrace(path))};
      },
      "path"_a,
      "Opens a trace directory or any .safetensors file. Errors: ValueError with the file, the place and what was "
      "found.");
}

}  // namespace paritrace
