// Between an engine's threads and the disk: takes a copy of each tensor and writes it in the background, in the order in
// which the tensors were handed in. Memory is bounded: an engine that is ahead of the disk waits.
//
// The copy goes into a ring, which the writer empties in the order in which it was filled. In digest and stats mode
// nothing is copied: the calling thread reduces the tensor at once, which costs it less than the copy would and leaves
// nothing behind but a line of text.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/dtype.h"
#include "core/team.h"
#include "core/tensor.h"
#include "trace/trace_writer.h"

namespace paritrace {

// Values in somebody's memory, at any distance from each other.
struct StridedTensor {
  const std::byte* data = nullptr;  // of the value at index 0 of every axis
  DType dtype = DType::kF32;        // no block type
  Shape shape;
  std::vector<std::int64_t> strides;  // in values, one an axis, 0 and negative ones too; {}: row-major without gaps
};

// Copies the values, row-major without gaps, to `out`, which has room for them.
void CopyContiguous(const StridedTensor& tensor, std::byte* out);

class RecordQueue {
 public:
  static constexpr std::uint64_t kBufferBytes = 256ull << 20;

  // buffer_bytes: of the copies that are not yet written; one larger tensor is let through alone.
  explicit RecordQueue(std::unique_ptr<TraceWriter> writer, std::uint64_t buffer_bytes = kBufferBytes);
  ~RecordQueue();  // writes what was handed in; a trace that was not closed stays open
  RecordQueue(const RecordQueue&) = delete;
  RecordQueue& operator=(const RecordQueue&) = delete;

  // Threads on which Record may look at large tensors where it is called on this thread, the engine's own. There values
  // are written before Record returns, without a copy. Before the first Record.
  void UseTeam(Team team);

  // Any thread. The tensor's place in the order of execution is that of the beginning of the call; its memory is free to
  // change after it.
  // Errors: UsageError for a block type or a size beyond memory; what writing an earlier tensor threw, as UsageError: from
  // then on nothing is written any more. std::bad_alloc.
  void Record(int step, std::string_view name, std::string_view site, const StridedTensor& tensor);

  // Waits until all that was handed in is written. Errors: as of Record.
  void Flush();

  // As TraceWriter's. Errors: as of Record.
  void UpdateHeader(const nlohmann::ordered_json& header);

  // Flush, then marks the trace complete. Errors: as of Record; the trace then stays open.
  void Close();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace paritrace
