// The .trace records of BitNet-rs: one tensor's hash and root mean square as JSON, never its values.
// Source: github.com/EffortlessMetrics/BitNet-rs, crates/bitnet-trace/src/lib.rs (struct TraceRecord, dump_trace).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "formats/dump.h"
#include "formats/json_fields.h"

namespace paritrace {

// True for the object of one record.
[[nodiscard]] bool IsBitnetRsRecord(const DumpJson& json);

// name ("t0/blk3/q_proj"), shape, dtype, blake3 (of the values as little-endian f32, whatever the dtype was), rms,
// num_elements; seq (the forward call, 0 is the prefill), layer and stage where the writer knew them.
// Errors: FormatError for a field that is missing or of the wrong kind, or num_elements that is not the shape's.
[[nodiscard]] DumpRecord ReadBitnetRsRecord(const DumpJson& json, const std::string& file, std::string_view place);

}  // namespace paritrace
