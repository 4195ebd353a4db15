// The diagnosis for Python: the torch oracle replays in Python, and is judged and reported by the code that judges our own.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "bind_core.h"
#include "core/error.h"
#include "diagnose/site_stats.h"
#include "diagnose/verdict.h"
#include "report/diagnosis_ci.h"
#include "report/diagnosis_from_json.h"
#include "report/diagnosis_json.h"
#include "report/diagnosis_page.h"
#include "report/diagnosis_text.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace paritrace {
namespace {

using Array = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;

Value ToValue(const Array& array) {
  Value value;
  for (std::size_t i = 0; i < array.ndim(); ++i) value.shape.push_back(static_cast<std::int64_t>(array.shape(i)));
  value.data.assign(array.data(), array.data() + array.size());
  return value;
}

Rounding RoundingOf(const std::string& name) {
  for (const Rounding rounding : {Rounding::kF32, Rounding::kF16, Rounding::kBF16}) {
    if (name == Name(rounding)) return rounding;
  }
  if (name == "f64") return Rounding::kNone;
  throw UsageError(fmt::format("storage: expected f64, f32, f16 or bf16, found {}", name));
}

// A graph of one op with the shape of the site: scores, or rows with or without heads, and as many inner roundings.
Graph GraphOf(const Value& value, int roundings, std::int64_t head_width) {
  Graph graph;
  Node node{.site = "site"};
  if (value.shape.size() == 3) {
    node.op = roundings > 2 ? Operation(SoftmaxOp{}) : Operation(ScoresOp{.heads = value.shape[0]});
  } else if (roundings > 3) {
    node.op = ActivationOp{};
  } else if (roundings == 3) {
    node.op = UnitOp{};
  } else if (roundings == 2) {
    node.op = PoolOp{};
  } else {
    node.op = AddOp{};
  }
  const NodeId id = graph.Add(node);
  if (head_width > 0)
    graph.Add(
        {.site = ".user", .op = RopeOp{.heads = value.cols() / head_width, .head_dim = head_width}, .inputs = {id}});
  return graph;
}

nb::dict Judge(const Array& recorded, const Array& exact, const Array& predicted, const std::optional<Array>& unforced,
               const std::string& storage, int roundings, std::int64_t head_width) {
  RecordedSite site{.value = ToValue(recorded)};
  const Value right = ToValue(exact), emulated = ToValue(predicted);
  if (site.value.shape.size() < 2 || site.value.shape.size() > 3)
    throw UsageError("judge_site: expected [tokens, features] or [heads, queries, keys]");
  if (emulated.shape != right.shape) throw UsageError("judge_site: expected replays of one shape");
  if (head_width < 0 || (head_width > 0 && site.value.cols() % head_width != 0))
    throw UsageError(fmt::format("judge_site: {} features are no heads of {}", site.value.cols(), head_width));
  const std::int64_t tokens = site.value.shape[site.value.shape.size() - 2];
  site.token_known.assign(static_cast<std::size_t>(tokens), true);
  const Graph graph = GraphOf(site.value, roundings, head_width);
  Arithmetic arithmetic{.storage = RoundingOf(storage), .inner = Rounding::kNone};
  std::optional<Value> free;
  if (unforced) free = ToValue(*unforced);
  const SiteStats stats = MeasureSite(graph, graph.nodes[0], site, {right, emulated, emulated}, free ? &*free : nullptr,
                                      arithmetic, {0, tokens});
  const Flags flags = JudgeSize(stats);
  nb::dict out;
  out["count"] = stats.all.count;
  out["broken"] = stats.all.broken;
  out["unjudged"] = stats.unjudged;
  out["error"] = stats.all.error;
  out["floor"] = stats.all.floor();
  out["left"] = stats.left;
  out["order"] = stats.order;
  out["ratio"] = stats.all.ratio();
  out["introduced_nmse"] = stats.introduced_nmse();
  out["floor_nmse"] = stats.floor_nmse();
  out["left_nmse"] = stats.left_nmse();
  out["propagated_nmse"] = stats.propagated_nmse();
  out["exact"] = stats.exact;
  out["one_ulp"] = stats.one_ulp;
  out["explained"] = IsExplained(stats, arithmetic.storage);
  out["flagged"] = flags.flagged;
  // Groups that hold nothing judged do not count: a part is named only where it is some of those that could be.
  const auto some = [](const std::vector<std::int64_t>& flagged, const std::vector<ErrorSums>& groups) {
    const auto judged = std::ranges::count_if(groups, [](const ErrorSums& group) { return group.count > 0; });
    return static_cast<std::int64_t>(flagged.size()) < judged ? flagged : std::vector<std::int64_t>();
  };
  out["tokens"] = some(flags.tokens, stats.by_token);
  out["heads"] = some(flags.heads, stats.by_head);
  out["channels"] = some(flags.channels, stats.by_channel);
  return out;
}

std::string Report(const std::string& json, const std::string& form, std::size_t width, bool colour, bool every_site) {
  const Diagnosis diagnosis = DiagnosisFromJson(nlohmann::ordered_json::parse(json));
  if (form == "json") return DiagnosisToJson(diagnosis).dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (form == "md") return DiagnosisToMarkdown(diagnosis);
  if (form == "html") return DiagnosisToHtml(diagnosis, {});
  if (form == "junit") return DiagnosisToJunit(diagnosis);
  if (form == "sarif") return DiagnosisToSarif(diagnosis).dump(1) + "\n";
  if (form == "terminal")
    return DiagnosisToTerminal(diagnosis, {.width = width, .colour = colour, .every_site = every_site});
  throw UsageError(fmt::format("form: expected json, md, html, junit, sarif or terminal, found {}", form));
}

}  // namespace

void BindDiagnosis(nb::module_& module) {
  module.def("judge_site", &Judge, "recorded"_a, "exact"_a, "predicted"_a, "unforced"_a.none() = nb::none(),
             "storage"_a = "f32", "roundings"_a = 1, "head_width"_a = 0,
             "What a recorded site says: errors, noise floor and verdict of src/diagnose (site_stats.h, verdict.h).\n"
             "Arrays [tokens, features] or [heads, queries, keys], f64; masked scores are -inf. unforced: the f64 run "
             "from the tokens on.\n"
             "roundings: of an f32 kernel on the way to a result, 1 to 4. Errors: ValueError.");
  module.def("report_diagnosis", &Report, "json"_a, "form"_a, "width"_a = 80, "colour"_a = false,
             "every_site"_a = false,
             "A diagnosis (paritrace/diagnosis/1, without its summary) as json, md, html, junit, sarif or terminal.");
}

}  // namespace paritrace
