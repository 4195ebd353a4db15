#include "formats/safetensors_stream.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/file.h"
#include "formats/safetensors.h"

namespace paritrace {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

std::uint64_t RoundUpTo8(std::uint64_t size) { return (size + 7) / 8 * 8; }  // data then starts aligned

}  // namespace

SafetensorsStream::SafetensorsStream(const std::string& path, std::uint64_t header_bytes)
    : file_(std::make_unique<OutputFile>(path, OutputFile::Mode::kAtomic)),
      header_bytes_(RoundUpTo8(std::max<std::uint64_t>(header_bytes, 8))) {
  file_->Append(std::as_bytes(std::span(&header_bytes_, 1)));
  file_->Append(std::string(header_bytes_, ' '));
  WriteTail();
  file_->Publish();
}

std::uint64_t SafetensorsStream::data_begin() const { return kLengthBytes + header_bytes_; }

bool SafetensorsStream::Fits(const TensorView& tensor) const {
  const std::uint64_t entry = SafetensorsEntry(tensor, data_size()).size();
  return 1 + entries_.size() + 1 + entry + Tail().size() <= header_bytes_;
}

void SafetensorsStream::Append(const TensorView& tensor) {
  const std::string entry = SafetensorsEntry(tensor, data_size());
  file_->Append(tensor.bytes);
  if (!entries_.empty()) entries_ += ',';
  entries_ += entry;
  WriteTail();
}

void SafetensorsStream::SetMetadata(const nlohmann::ordered_json& metadata) {
  metadata_ = fmt::format("\"{}\":{}", kSafetensorsMetadataKey,
                          metadata.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  WriteTail();
}

// What follows the entries.
std::string SafetensorsStream::Tail() const {
  const bool comma = !metadata_.empty() && !entries_.empty();
  return fmt::format("{}{}}}", comma ? "," : "", metadata_);
}

// Writes only what changed: rewriting the whole header for each tensor would cost quadratic time. A kill can cut a write at a
// page's end. So the first byte, which turns the closing brace into a comma, comes last: until then the header is the old
// one, with something behind it that readers of unfinished files leave out.
void SafetensorsStream::WriteTail() {
  const std::string tail = Tail();
  const std::uint64_t used = 1 + entries_.size() + tail.size();
  if (used > header_bytes_) return Grow(2 * used);
  std::string text = written_ == 0 ? "{" : "";
  text += entries_.substr(written_);
  text += tail;
  if (used < used_) text.append(used_ - used, ' ');
  const std::uint64_t at = kLengthBytes + (written_ == 0 ? 0 : 1 + written_);
  file_->WriteAt(at + 1, std::string_view(text).substr(1));
  file_->WriteAt(at, std::string_view(text).substr(0, 1));
  written_ = entries_.size();
  used_ = used;
}

void SafetensorsStream::Grow(std::uint64_t header_bytes) {
  const auto old = MapFile(file_->path());
  const auto data = old->bytes().subspan(data_begin());
  header_bytes_ = RoundUpTo8(header_bytes);
  written_ = used_ = 0;
  auto grown = std::make_unique<OutputFile>(file_->path(), OutputFile::Mode::kAtomic);
  grown->Append(std::as_bytes(std::span(&header_bytes_, 1)));
  grown->Append(std::string(header_bytes_, ' '));
  grown->Append(data);
  file_ = std::move(grown);
  WriteTail();
  file_->Publish();
}

}  // namespace paritrace
