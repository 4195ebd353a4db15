// paritrace run MODEL --tokens 1,2,3 -o TRACE [--arithmetic f64] [--decode N]
#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "arch/model.h"
#include "cli/command.h"
#include "cli/progress.h"
#include "core/error.h"
#include "graph/executor.h"
#include "trace/trace_writer.h"

namespace paritrace::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  std::string model, trace, arithmetic = "f64";
  std::vector<std::int64_t> tokens;
  int decode = 0;
  bool overwrite = false;
};

RunInput InputOf(const std::vector<std::int64_t>& tokens) {
  RunInput run{.tokens = tokens};
  for (std::size_t t = 0; t < tokens.size(); ++t) run.positions.push_back(static_cast<std::int64_t>(t));
  return run;
}

std::int64_t Greedy(const Value& logits) {
  const auto last = logits.row(logits.rows() - 1);
  return std::ranges::max_element(last) - last.begin();
}

// The values of one step in the dtype the arithmetic stores: f64 or f32, both exact for it.
void Record(TraceWriter& writer, const Node& node, const Value& value, int step, std::int64_t start, std::int64_t count,
            bool doubles) {
  Value part;
  if (value.shape.size() == 3) {
    part = Value({value.shape[0], count, start + count});
    for (std::int64_t h = 0; h < value.shape[0]; ++h) {
      for (std::int64_t q = 0; q < count; ++q) {
        std::ranges::copy(value.row(h * value.shape[1] + start + q).first(static_cast<std::size_t>(start + count)),
                          part.row(h * count + q).begin());
      }
    }
  } else {
    part = Value({count, value.cols()});
    std::copy_n(value.data.begin() + start * value.cols(), count * value.cols(), part.data.begin());
  }
  const std::vector<float> floats(part.data.begin(), part.data.end());
  const auto bytes = doubles ? std::as_bytes(std::span(part.data)) : std::as_bytes(std::span(floats));
  writer.Record(step, node.site, node.site,
                {.name = node.site, .dtype = doubles ? DType::kF64 : DType::kF32, .shape = part.shape, .bytes = bytes});
}

int Run(const Options& options) {
  const auto arithmetic = FindArithmetic(options.arithmetic);
  if (!arithmetic)
    throw UsageError(fmt::format("--arithmetic {}: expected one of {}", options.arithmetic, ArithmeticNames()));
  const Model model = LoadModel(options.model);
  std::vector<std::int64_t> tokens = options.tokens;
  std::vector<Value> values = RunGraph(model.graph, InputOf(tokens), *arithmetic, ProgressLine("running"));
  const Node* logits = model.graph.Find("logits");
  if (options.decode > 0 && logits == nullptr) {
    throw UsageError(fmt::format("--decode: expected a model that generates, found {}, which is an encoder",
                                 model.graph.architecture));
  }
  for (int step = 0; step < options.decode; ++step) {
    // The whole sequence again: the rows before are the same, and nothing is cached that could go stale.
    tokens.push_back(Greedy(values[static_cast<std::size_t>(logits->id)]));
    values =
        RunGraph(model.graph, InputOf(tokens), *arithmetic, ProgressLine(fmt::format("decoding, step {}", step + 1)));
  }
  Json steps = Json::array();
  const auto prompt = static_cast<std::int64_t>(options.tokens.size());
  steps.push_back({{"step", 0}, {"start", 0}, {"count", prompt}});
  for (int step = 1; step <= options.decode; ++step)
    steps.push_back({{"step", step}, {"start", prompt + step - 1}, {"count", 1}});
  const Json header = {
      {"engine", {{"name", "paritrace"}, {"version", PARITRACE_VERSION}}},
      {"model",
       {{"name", model.source->path()}, {"architecture", model.graph.architecture}, {"file", model.source->path()}}},
      {"run", {{"tokens", Json::array({tokens})}, {"steps", steps}, {"arithmetic", options.arithmetic}}}};
  TraceWriter writer(options.trace, header, TraceWriter::Mode::kFull, options.overwrite);
  for (const Json& step : steps) {
    for (const Node& node : model.graph.nodes) {
      // The pooled row is the whole sequence's, and of no step where there are several.
      if (node.pooled && steps.size() > 1) continue;
      Record(writer, node, values[static_cast<std::size_t>(node.id)], step["step"], step["start"],
             node.pooled ? nlohmann::ordered_json(1) : step["count"], arithmetic->storage == Rounding::kNone);
    }
  }
  writer.Close();
  return 0;
}

}  // namespace

void AddRun(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("run", "run a model in f64 or in an emulated arithmetic, and record every site");
  auto options = std::make_shared<Options>();
  command->add_option("MODEL", options->model, "Hugging Face folder or .gguf")->required();
  command->add_option("--tokens", options->tokens, "token ids, separated by commas")->delimiter(',')->required();
  command->add_option("-o,--output", options->trace, "trace to write: a directory, or a .safetensors file")
      ->required()
      ->type_name("TRACE");
  command->add_option("--arithmetic", options->arithmetic, "f64, f32, torch-bf16, ggml-cpu, …")->capture_default_str();
  command->add_option("--decode", options->decode, "greedy decode steps after the prompt")
      ->check(CLI::Range(0, 1 << 20));
  command->add_flag("--overwrite", options->overwrite, "replace an existing trace");
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
