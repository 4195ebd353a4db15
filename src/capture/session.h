// One process's trace while its engine runs: numbers the steps, chooses what is recorded, and hands it to the queue.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <nlohmann/json.hpp>

#include "capture/selection.h"
#include "capture/settings.h"
#include "trace/record_queue.h"

namespace paritrace {

class CaptureSession {
 public:
  // header: engine and model, as in trace.json.
  // Where the directory is taken, the next free rank-N in it; `directory()` says which.
  // Errors: UsageError as of TraceWriter and the selections.
  CaptureSession(const CaptureSettings& settings, nlohmann::ordered_json header);

  // Begins the next step. tokens: {} where they are not known.
  // Errors, here and below: as of RecordQueue.
  void BeginStep(std::int64_t start, std::int64_t count, std::span<const std::int32_t> tokens);

  // site, layer: as paritrace_record's.
  void Record(std::string_view site, int layer, const StridedTensor& tensor);
  void Flush();
  void Close();

  // Whether what is recorded now is kept: the step was asked for.
  [[nodiscard]] bool StepIsWanted() const { return steps_wanted_.Has(std::max(step_.load(), 0)); }
  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  [[nodiscard]] nlohmann::ordered_json Run() const;
  std::unique_ptr<TraceWriter> OpenWriter(const CaptureSettings& settings, const nlohmann::ordered_json& header);

  SiteSelection sites_wanted_;
  StepSelection steps_wanted_;
  std::string directory_;
  std::unique_ptr<RecordQueue> queue_;

  std::atomic<int> step_{-1};
  std::mutex mutex_;                              // guards what follows
  std::unordered_map<std::string, int> seen_;     // in this step
  nlohmann::ordered_json run_;                    // what the header says of the run
  std::vector<std::int64_t> tokens_;              // of the running sequence
  nlohmann::ordered_json tokens_before_, steps_;  // of the sequences before it; all steps
  bool tokens_known_ = true;
};

}  // namespace paritrace
