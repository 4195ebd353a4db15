#include "formats/bitnet_rs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "core/text.h"
#include "formats/json.h"

namespace paritrace {
namespace {

// The forward call of a name that begins with it, "t12/…"; 0 for others.
int StepOfName(const std::string& name) {
  constexpr std::size_t kMaxDigits = 9;
  const std::size_t slash = name.find('/');
  if (slash == std::string::npos || slash < 2 || slash > kMaxDigits || name[0] != 't') return 0;
  const std::string digits = name.substr(1, slash - 1);
  if (!std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; })) return 0;
  return std::stoi(digits);
}

std::string Blake3Field(const DumpJson& json, const std::string& file, std::string_view place) {
  constexpr std::size_t kDigits = 64;
  const std::string hex = TextField(json, "blake3", file, place);
  const bool valid = hex.size() == kDigits && std::all_of(hex.begin(), hex.end(), [](char c) {
                       return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                     });
  if (!valid) throw FormatError(file, place, "64 lower-case hex digits as \"blake3\"", Quoted(hex, 80));
  return "blake3:" + hex;
}

}  // namespace

bool IsBitnetRsRecord(const DumpJson& json) {
  return json.is_object() && json.contains("blake3") && json.contains("rms") && json.contains("name");
}

DumpRecord ReadBitnetRsRecord(const DumpJson& json, const std::string& file, std::string_view place) {
  DumpRecord record;
  record.name = TextField(json, "name", file, place);
  record.tensor.name = record.name;
  record.tensor.shape = ShapeField(json, "shape", file, place);
  const std::string dtype = TextField(json, "dtype", file, place);
  const auto known = ParseAnyDType(dtype);
  if (!known) throw FormatError(file, place, "a dtype such as \"F32\"", Quoted(dtype));
  record.tensor.dtype = *known;
  CheckShape(record.tensor.shape, *known, file, place);
  const std::int64_t count = CountField(json, "num_elements", file, place);
  if (count != record.tensor.size()) {
    throw FormatError(
        file, place,
        fmt::format("\"num_elements\" {}, as the shape {} has", record.tensor.size(), ToString(record.tensor.shape)),
        fmt::format("{}", count));
  }
  record.hash = Blake3Field(json, file, place);
  record.step = StepOfName(record.name);
  if (FindField(json, "seq") != nullptr) {
    const std::int64_t seq = CountField(json, "seq", file, place);
    if (seq > std::numeric_limits<int>::max())
      throw FormatError(file, place, "a step as \"seq\"", fmt::format("{}", seq));
    record.step = static_cast<int>(seq);
  }
  auto evidence = std::make_shared<Evidence>();
  // serde_json writes NaN and infinities as null.
  const DumpJson* rms = FindField(json, "rms");
  if (rms != nullptr && !rms->is_number()) throw FormatError(file, place, "a number as \"rms\"", Describe(*rms));
  if (rms != nullptr) {
    const auto value = rms->get<double>();
    evidence->statistics.push_back({StatisticKind::kRms, value, std::fabs(value) * 1e-12, false});
  }
  record.evidence = std::move(evidence);
  return record;
}

}  // namespace paritrace
