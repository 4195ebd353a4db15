// paritrace show TRACE [SITE]: what a trace or any tensor file holds.
#include <cstdio>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/show_text.h"
#include "core/decode.h"
#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "formats/npy.h"
#include "report/terminal.h"
#include "trace/trace.h"

namespace paritrace::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string trace, site, json, npy;
  std::optional<int> step;
};

// A site, an engine's own name, or a single file's key such as "1/logits".
std::vector<const TraceEntry*> Select(const Trace& trace, const Options& options) {
  std::vector<const TraceEntry*> selected;
  for (const TraceEntry& entry : trace.entries) {
    if (options.step && entry.step != *options.step) continue;
    const bool named = options.site.empty() || entry.site == options.site || entry.name == options.site ||
                       entry.tensor.name == options.site ||
                       (!entry.site.empty() && fmt::format("{}/{}", entry.step, entry.site) == options.site);
    if (named) selected.push_back(&entry);
  }
  if (selected.empty() && (options.step || !options.site.empty())) {
    throw UsageError(fmt::format("{}: no site or tensor {}{}", options.trace,
                                 options.site.empty() ? "at all" : Quoted(options.site),
                                 options.step ? fmt::format(" in step {}", *options.step) : ""));
  }
  return selected;
}

Json ToJson(const Trace& trace, const std::vector<const TraceEntry*>& entries) {
  // Statistics of a model's weights would mean reading all of it; one tensor that was asked for by name is another matter.
  const bool with_stats = IsRecording(trace) || entries.size() < trace.entries.size() || entries.size() == 1;
  Json tensors = Json::array();
  for (const TraceEntry* entry : entries) {
    Json json = {{"seq", entry->seq}, {"step", entry->step}, {"name", entry->name}};
    if (!entry->site.empty()) json["site"] = entry->site;
    json["dtype"] = Name(entry->tensor.dtype);
    json["shape"] = entry->tensor.shape;
    json["bytes"] = entry->tensor.bytes.size();
    if (!entry->hash.empty()) json["hash"] = entry->hash;
    if (with_stats) json["stats"] = StatsOf(*entry);
    tensors.push_back(std::move(json));
  }
  return {{"schema", "paritrace/show/1"},
          {"path", trace.path},
          {"format", trace.format},
          {"complete", trace.header.complete},
          {"header", trace.header.raw.is_null() ? Json::object() : trace.header.raw},
          {"metadata", trace.metadata},
          {"tensors", std::move(tensors)}};
}

// f32, which holds every value of the float types up to it and of the block types; f64 for those that need it.
void WriteValues(const Options& options, const std::vector<const TraceEntry*>& entries) {
  std::set<int> steps;
  for (const TraceEntry* entry : entries) steps.insert(entry->step);
  if (options.site.empty()) throw UsageError("--npy: name the site or tensor to write");
  if (steps.size() > 1)
    throw UsageError(
        fmt::format("--npy: {} stands in {} steps; choose one with --step", Quoted(options.site), steps.size()));
  const TraceEntry& entry = *entries.front();
  if (!entry.has_data())
    throw UsageError(fmt::format("{}: {} was recorded without its values", options.trace, Quoted(options.site)));
  const TensorView& tensor = entry.tensor;
  switch (tensor.dtype) {
    case DType::kF64:
    case DType::kI32:
    case DType::kU32:
    case DType::kI64:
    case DType::kU64: return WriteNpy(options.npy, tensor.shape, DecodeAll(tensor));
    default: break;
  }
  std::vector<float> values(static_cast<std::size_t>(tensor.size()));
  DecodeF32(tensor, 0, tensor.size(), values.data());
  WriteNpy(options.npy, tensor.shape, values);
}

void Print(const Trace& trace, const Options& options, const std::vector<const TraceEntry*>& entries) {
  constexpr int kUnlimited = 1 << 20;  // a pipe gets whole names
  const TextStyle style{static_cast<std::size_t>(TerminalWidth(stdout, kUnlimited)), WantsColour(stdout)};
  if (options.site.empty() && !options.step) {
    fmt::print("{}", RenderTrace(trace, style));
    return;
  }
  for (const TraceEntry* entry : entries) {
    if (entry != entries.front()) fmt::print("\n");
    fmt::print("{}", RenderEntry(trace, *entry, style));
  }
}

void Show(const Options& options) {
  const Trace trace = OpenTrace(options.trace);
  if (!trace.hint.empty()) fmt::print(stderr, "paritrace: {}\n", trace.hint);
  const std::vector<const TraceEntry*> entries = Select(trace, options);
  if (!options.npy.empty()) WriteValues(options, entries);
  if (!options.json.empty()) {
    WriteFileAtomically(options.json,
                        ToJson(trace, entries).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  if (options.json != "-") Print(trace, options, entries);
}

}  // namespace

void AddShow(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("show", "list what a trace or tensor file holds, or show one site's values");
  command->add_option("TRACE", options->trace, "trace directory, or a .safetensors, .gguf, .npy or .npz file")
      ->required();
  command->add_option("SITE", options->site, "site, or the engine's own name of a tensor");
  command->add_option("--step", options->step, "only this forward call")->type_name("N");
  command->add_option("--json", options->json, "write the listing as JSON to FILE (- is standard output)")
      ->type_name("FILE");
  command->add_option("--npy", options->npy, "write the values of SITE as an .npy file")->type_name("FILE");
  command->callback([options, &exit_code] {
    Show(*options);
    exit_code = 0;
  });
}

}  // namespace paritrace::cli
