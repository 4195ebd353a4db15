#include "capture/session.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "core/error.h"
#include "trace/sites.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostRanks = 1'000'000;
// The header is written whole. Each of the first steps has its place in it at once, later ones in groups.
constexpr int kStepsWrittenAtOnce = 64;

std::string FolderOfRank(const std::string& directory, int rank) {
  return rank == 0 ? directory : fmt::format("{}/{}{}", directory, kRankFolder, rank);
}

}  // namespace

CaptureSession::CaptureSession(const CaptureSettings& settings, Json header)
    : sites_wanted_(settings.sites), steps_wanted_(settings.steps), run_(header.value("run", Json::object())) {
  tokens_before_ = steps_ = Json::array();
  header["process"] = {{"pid", ::getpid()}};
  if (settings.rank) header["process"]["rank"] = *settings.rank;
  queue_ = std::make_unique<RecordQueue>(OpenWriter(settings, header), settings.buffer_bytes);
}

std::unique_ptr<TraceWriter> CaptureSession::OpenWriter(const CaptureSettings& settings, const Json& header) {
  std::string base = settings.directory;
  while (base.size() > 1 && base.back() == '/') base.pop_back();
  const int asked = settings.rank.value_or(0);
  if (base.ends_with(".safetensors"))
    throw UsageError(fmt::format("{}: expected the name of a directory for the trace", base));
  std::string why;
  for (int rank = asked; rank < kMostRanks; ++rank) {
    directory_ = FolderOfRank(base, rank);
    // Only the folder that was asked for may be replaced: the others may belong to ranks that are about to begin.
    const bool overwrite = settings.overwrite && rank == asked;
    try {
      auto writer = std::make_unique<TraceWriter>(directory_, header, settings.mode, overwrite);
      if (rank != asked) std::fprintf(stderr, "paritrace: %s; recording into %s\n", why.c_str(), directory_.c_str());
      return writer;
    } catch (const TraceTakenError& error) {
      if (why.empty()) why = error.what();
    }
  }
  throw UsageError(why);
}

void CaptureSession::BeginStep(std::int64_t start, std::int64_t count, std::span<const std::int32_t> tokens) {
  const std::scoped_lock lock(mutex_);
  const int step = ++step_;
  seen_.clear();
  if (start == 0 && !tokens_.empty()) {
    tokens_before_.push_back(tokens_);
    tokens_.clear();
  }
  Json entry = {{"step", step}, {"start", start}, {"count", count}};
  if (!tokens_before_.empty()) entry["sequence"] = tokens_before_.size();
  steps_.push_back(std::move(entry));
  tokens_known_ = tokens_known_ && tokens.size() == static_cast<std::size_t>(count);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  if (step < kStepsWrittenAtOnce || step % kStepsWrittenAtOnce == 0) queue_->UpdateHeader({{"run", Run()}});
}

Json CaptureSession::Run() const {
  Json run = run_;
  run["steps"] = steps_;
  // Some tokens are worse than none: traces of different tokens are not compared.
  if (tokens_known_ && !steps_.empty()) {
    run["tokens"] = tokens_before_;
    run["tokens"].push_back(tokens_);
  }
  return run;
}

void CaptureSession::Record(std::string_view site, int layer, const StridedTensor& tensor) {
  std::string name = layer < 0 ? std::string(site) : fmt::format("layers.{}.{}", layer, site);
  if (!sites_wanted_.Has(name)) return;
  int step = 0, occurrence = 0;
  {
    const std::scoped_lock lock(mutex_);
    step = std::max(step_.load(), 0);
    occurrence = ++seen_[name];
  }
  // The site belongs to the first.
  const std::string of_site = occurrence == 1 && IsSite(name) ? name : "";
  if (occurrence > 1) name += fmt::format("#{}", occurrence);
  queue_->Record(step, name, of_site, tensor);
}

void CaptureSession::Flush() { queue_->Flush(); }

void CaptureSession::Close() {
  const std::scoped_lock lock(mutex_);
  queue_->UpdateHeader({{"run", Run()}});
  queue_->Close();
}

}  // namespace paritrace
