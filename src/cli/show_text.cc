#include "cli/show_text.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/decode.h"
#include "core/parallel.h"
#include "report/terminal.h"
#include "trace/tensor_stats.h"
#include "trace/trace_header.h"

namespace paritrace::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string Number(const Json& value) {
  if (value.is_number_integer()) return value.dump();
  return value.is_number() ? fmt::format("{:.6g}", value.get<double>()) : "-";
}

std::string Number(const Json& stats, const char* key) {
  const auto found = stats.find(key);
  return found == stats.end() ? "-" : Number(*found);
}

// "2 NaN, 1 inf"; "" where there are none. `words`: keys of the statistics and what to call them.
std::string Counts(const Json& stats, std::initializer_list<std::pair<const char*, const char*>> words) {
  std::string text;
  for (const auto& [key, word] : words) {
    const auto count = stats.find(key);
    if (count == stats.end() || !count->is_number() || count->get<double>() == 0) continue;
    if (!text.empty()) text += ", ";
    text += fmt::format("{} {}", Number(*count), word);
  }
  return text;
}

std::string NonFinite(const Json& stats) { return Counts(stats, {{"nan", "NaN"}, {"inf", "inf"}}); }
std::string Masked(const Json& stats) { return Counts(stats, {{"masked", "masked"}}); }

std::string Bytes(std::int64_t bytes) {
  if (bytes < 10'000) return fmt::format("{} B", bytes);
  const double kilo = static_cast<double>(bytes) / 1024;
  if (kilo < 10'000) return fmt::format("{:.0f} KiB", kilo);
  return fmt::format("{:.1f} MiB", kilo / 1024);
}

// A line of `text` behind `label`; nothing where there is no text.
void AddLine(std::string& out, std::string_view label, std::string_view text, const TextStyle& style,
             std::size_t label_width = 12) {
  if (text.empty()) return;
  out += fmt::format("  {}  {}\n", Paint(PadRight(label, label_width), Style::kDim, style.colour), Printable(text));
}

std::string TokensLine(const std::vector<std::vector<std::int64_t>>& tokens) {
  constexpr std::size_t kShown = 12;
  std::vector<std::string> sequences;
  for (const auto& sequence : tokens) {
    const std::size_t shown = std::min(kShown, sequence.size());
    sequences.push_back(fmt::format(
        "[{}{}] ({})", fmt::join(sequence.begin(), sequence.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
        shown < sequence.size() ? ", …" : "", sequence.size()));
  }
  if (sequences.size() > 4) {
    const std::size_t more = sequences.size() - 4;
    sequences.resize(4);
    sequences.push_back(fmt::format("and {} more sequences", more));
  }
  return fmt::format("{}", fmt::join(sequences, " "));
}

std::string StepsLine(const std::vector<TraceStep>& steps) {
  if (steps.empty()) return "";
  std::int64_t tokens = 0;
  for (const TraceStep& step : steps) tokens += step.count;
  return fmt::format("{} ({} tokens)", steps.size(), tokens);
}

std::string Joined(std::string_view a, std::string_view b) {
  return fmt::format("{}{}{}", a, a.empty() || b.empty() ? "" : " ", b);
}

// A value of a file's metadata in one line; long lists by their length only.
std::string MetadataText(const Json& value) {
  constexpr std::size_t kShown = 8;
  if (value.is_array() && value.size() > kShown) return fmt::format("{} values", value.size());
  if (value.is_string()) return value.get<std::string>();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string MetadataLines(const Json& metadata, const TextStyle& style) {
  constexpr std::size_t kMinText = 20;
  std::size_t label_width = 12;
  for (const auto& [key, value] : metadata.items()) label_width = std::max(label_width, DisplayWidth(Printable(key)));
  const std::size_t left = style.width > label_width + 4 ? style.width - label_width - 4 : 0;
  std::string out;
  for (const auto& [key, value] : metadata.items()) {
    if (key == kHeaderMetadataKey) continue;  // the header, shown above
    AddLine(out, Printable(key), Shorten(Printable(MetadataText(value)), std::max(left, kMinText)), style, label_width);
  }
  return out;
}

std::string Heading(const Trace& trace, const TextStyle& style) {
  std::int64_t bytes = 0;
  for (const TraceEntry& entry : trace.entries) bytes += static_cast<std::int64_t>(entry.tensor.bytes.size());
  std::string out =
      fmt::format("{}  {}, {} tensors, {}{}\n", Paint(Printable(trace.path), Style::kBold, style.colour), trace.format,
                  trace.entries.size(), Bytes(bytes), trace.header.complete ? "" : ", still open");
  const TraceHeader& header = trace.header;
  AddLine(out, "engine", Joined(header.engine_name, header.engine_version), style);
  AddLine(out, "model",
          Joined(header.model_name,
                 header.model_architecture.empty() ? "" : fmt::format("({})", header.model_architecture)),
          style);
  AddLine(out, "file", header.model_file, style);
  AddLine(out, "arithmetic", header.arithmetic, style);
  AddLine(out, "tokens", TokensLine(header.tokens), style);
  AddLine(out, "steps", StepsLine(header.steps), style);
  return out + MetadataLines(trace.metadata, style);
}

// What the numbers leave out.
Table::Cell Remark(const Json& stats) {
  const std::string bad = NonFinite(stats);
  return bad.empty() ? Table::Cell{Masked(stats), Style::kDim} : Table::Cell{bad, Style::kRed};
}

std::string RecordingTable(const Trace& trace, const TextStyle& style) {
  std::vector<Json> stats(trace.entries.size());
  ParallelFor(static_cast<std::int64_t>(stats.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      stats[static_cast<std::size_t>(i)] = StatsOf(trace.entries[static_cast<std::size_t>(i)]);
  });
  Table table;
  table.AddColumn("seq", Table::Align::kRight);
  table.AddColumn("step", Table::Align::kRight);
  table.AddColumn("site", Table::Align::kLeft);
  table.AddColumn("dtype", Table::Align::kLeft);
  table.AddColumn("shape", Table::Align::kLeft);
  for (const char* heading : {"rms", "min", "max"}) table.AddColumn(heading, Table::Align::kRight);
  table.AddColumn("", Table::Align::kLeft);
  for (std::size_t i = 0; i < trace.entries.size(); ++i) {
    const TraceEntry& entry = trace.entries[i];
    // A name without a site is dim: nothing is compared with it.
    const bool sited = !entry.site.empty();
    table.AddRow({{fmt::format("{}", entry.seq)},
                  {fmt::format("{}", entry.step)},
                  {Printable(sited ? entry.site : entry.name), sited ? Style::kPlain : Style::kDim},
                  {std::string(Name(entry.tensor.dtype))},
                  {ToString(entry.tensor.shape)},
                  {Number(stats[i], "rms")},
                  {Number(stats[i], "min")},
                  {Number(stats[i], "max")},
                  Remark(stats[i])});
  }
  return table.Render(style.width, style.colour);
}

std::string FileTable(const Trace& trace, const TextStyle& style) {
  Table table;
  table.AddColumn("tensor", Table::Align::kLeft);
  table.AddColumn("dtype", Table::Align::kLeft);
  table.AddColumn("shape", Table::Align::kLeft);
  table.AddColumn("size", Table::Align::kRight);
  for (const TraceEntry& entry : trace.entries) {
    table.AddRow({{Printable(entry.tensor.name)},
                  {std::string(Name(entry.tensor.dtype))},
                  {ToString(entry.tensor.shape)},
                  {Bytes(static_cast<std::int64_t>(entry.tensor.bytes.size()))}});
  }
  return table.Render(style.width, style.colour);
}

// The first and the last of `count` things, with a gap where they do not all fit.
std::vector<std::int64_t> Ends(std::int64_t count, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t kGap = -1;
  std::vector<std::int64_t> shown;
  for (std::int64_t i = 0; i < std::min(count, first); ++i) shown.push_back(i);
  if (count > first + last) shown.push_back(kGap);
  for (std::int64_t i = std::max(first, count - last); i < count; ++i) shown.push_back(i);
  return shown;
}

// "3" or, with more axes, "0, 3": the place of a row in all axes but the last.
std::string RowName(const Shape& shape, std::int64_t row) {
  std::string name;
  for (std::size_t axis = shape.size() - 1; axis-- > 0;) {
    name = name.empty() ? fmt::format("{}", row % shape[axis]) : fmt::format("{}, {}", row % shape[axis], name);
    row /= shape[axis];
  }
  return name;
}

std::string Values(const TraceEntry& entry, const TextStyle& style) {
  const Shape& shape = entry.tensor.shape;
  const std::int64_t columns = shape.empty() ? 1 : shape.back(),
                     rows = columns == 0 ? 0 : entry.tensor.size() / columns;
  const std::vector<std::int64_t> shown_columns = Ends(columns, 4, 3);
  // Only the shown rows are decoded, whole blocks of them.
  const std::int64_t block = Info(entry.tensor.dtype).block_elements;
  Table table;
  table.AddColumn("", Table::Align::kRight);
  for (const std::int64_t column : shown_columns)
    table.AddColumn(column < 0 ? "…" : fmt::format("{}", column), Table::Align::kRight);
  const auto decode = [&](std::int64_t index) {
    std::vector<double> values(static_cast<std::size_t>(block));
    DecodeF64(entry.tensor, index / block * block, block, values.data());
    return values[static_cast<std::size_t>(index % block)];
  };
  for (const std::int64_t row : Ends(rows, 8, 2)) {
    if (row < 0) {
      table.AddNote(fmt::format("… {} more rows", rows - 10));
      continue;
    }
    std::vector<Table::Cell> cells = {{shape.size() > 1 ? RowName(shape, row) : "", Style::kDim}};
    for (const std::int64_t column : shown_columns) {
      if (column < 0) {
        cells.push_back({"…", Style::kDim});
        continue;
      }
      const double value = decode(row * columns + column);
      cells.push_back({fmt::format("{:.6g}", value), std::isfinite(value) ? Style::kPlain : Style::kRed});
    }
    table.AddRow(std::move(cells));
  }
  return table.Render(style.width, style.colour);
}

}  // namespace

bool IsRecording(const Trace& trace) {
  return trace.format == "directory" || !trace.header.raw.empty() ||
         std::any_of(trace.entries.begin(), trace.entries.end(),
                     [](const TraceEntry& entry) { return !entry.site.empty(); });
}

Json StatsOf(const TraceEntry& entry) {
  if (!entry.stats.is_null()) return entry.stats;
  return entry.has_data() ? TensorStats(entry.tensor, entry.site) : Json();
}

std::string RenderTrace(const Trace& trace, const TextStyle& style) {
  if (trace.entries.empty()) return Heading(trace, style);
  return fmt::format("{}\n{}", Heading(trace, style),
                     IsRecording(trace) ? RecordingTable(trace, style) : FileTable(trace, style));
}

std::string RenderEntry(const Trace& trace, const TraceEntry& entry, const TextStyle& style) {
  const std::string& title = entry.site.empty() ? entry.name : entry.site;
  const std::string step = IsRecording(trace) ? fmt::format("step {}, ", entry.step) : "";
  std::string out = fmt::format("{}  {}{} {}\n", Paint(Printable(title), Style::kBold, style.colour), step,
                                Name(entry.tensor.dtype), ToString(entry.tensor.shape));
  if (entry.name != title) AddLine(out, "name", entry.name, style);
  AddLine(out, "hash", entry.hash, style);
  const Json stats = StatsOf(entry);
  for (const char* key : {"rms", "mean", "min", "max"}) AddLine(out, key, Number(stats, key), style);
  AddLine(out, "not finite", NonFinite(stats), style);
  AddLine(out, "left out", Masked(stats), style);
  if (!entry.has_data()) {
    AddLine(out, "values", "not recorded", style);
  } else if (entry.tensor.size() > 0) {
    out += fmt::format("\n{}", Values(entry, style));
  }
  return out;
}

}  // namespace paritrace::cli
