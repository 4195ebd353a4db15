// A step that is rounded, or runs, in another precision than declared. Each entry is a set of "round here" marks on one op;
// such a hypothesis only stands if the values equal it to the bit (sharpness.h).
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"

namespace paritrace {
namespace {

using enum Step;

struct Variant {
  std::string what;         // "weight plus one"
  std::vector<Step> steps;  // all rounded to the format in question
};

bool IsCoarse(Rounding rounding) { return rounding == Rounding::kBF16 || rounding == Rounding::kF16; }
Rounding Cut(Rounding rounding) { return rounding == Rounding::kF16 ? Rounding::kF16Cut : Rounding::kBF16Cut; }

// What a person would call the result of a node.
std::string ResultOf(const Node& node) {
  const auto is = [&](std::string_view ending) { return node.site.ends_with(ending); };
  if (is("router_logits")) return "router logits";
  if (is("logits") || is(".uncapped")) return "logits";
  if (is("scores")) return "scores";
  if (is("probs")) return "probabilities";
  if (is("attn.ctx")) return "context";
  if (is("residual") || is(".in") || is(".out") || is("embed")) {
    if (std::holds_alternative<AddOp>(node.op)) return "residual";
    if (std::holds_alternative<EmbedOp>(node.op)) return "embeddings";
  }
  return "output";
}

std::vector<Variant> NormVariants(const NormOp& op) {
  // torch on CPU stores the root on the way to its reciprocal; kernels with an instruction for both do not.
  return {{"norm", {kInner, kStored, kInput, kWeight, kRoot}},
          {"norm", {kInner, kStored, kInput, kWeight}},
          {"mean square", {kMean}},
          {"1/rms", {kReciprocal}},
          {"mean square and 1/rms", {kMean, kReciprocal}},
          {op.use == NormWeight::kPlusOne ? "weight plus one" : "norm weight", {kWeight}},
          {"value before the weight", {kNormed}}};
}

std::vector<Variant> RopeVariants() {
  return {{"positions", {kPosition}},
          {"inverse frequencies", {kFrequency}},
          {"angles", {kAngle}},
          {"angles", {kPosition, kFrequency, kAngle}},
          {"cos and sin", {kTable}},
          {"angles, cos and sin", {kAngle, kTable}},
          {"angles, cos and sin", {kPosition, kFrequency, kAngle, kTable}},
          {"rotation", {kInput, kTable, kStored}}};
}

std::vector<Variant> ScoreVariants() {
  return {{"queries and keys", {kInput, kCached}},
          {"queries", {kInput}},
          {"cached keys", {kCached}},
          {"scores", {kStored}},
          {"scores", {kDot}},
          {"scores", {kInput, kCached, kStored}},
          {"sums of the scores", {kSum}}};
}

std::vector<Variant> VariantsOf(const Node& node) {
  std::vector<Variant> variants;
  if (const auto* norm = std::get_if<NormOp>(&node.op)) variants = NormVariants(*norm);
  if (std::holds_alternative<RopeOp>(node.op)) variants = RopeVariants();
  if (std::holds_alternative<ScoresOp>(node.op)) variants = ScoreVariants();
  if (std::holds_alternative<SoftmaxOp>(node.op)) {
    variants = {{"scores", {kInput}}, {"softmax", {kInput, kOutput}}, {"softmax", {kInput, kInner, kOutput}}};
  }
  if (std::holds_alternative<ContextOp>(node.op)) {
    variants = {{"probabilities", {kInput}},
                {"cached values", {kCached}},
                {"probabilities and values", {kInput, kCached}},
                {"probabilities and values", {kInput, kCached, kOutput}},
                {"sums of the context", {kSum}}};
  }
  if (const auto* linear = std::get_if<LinearOp>(&node.op); linear != nullptr && linear->bits == BitLinear::kNone) {
    variants = {{"inputs", {kInput}},
                {"inputs and weights", {kInput, kWeight}},
                {ResultOf(node) == "output" ? "product" : ResultOf(node), {kInput, kWeight, kOutput}},
                {ResultOf(node), {kWeight, kOutput}},
                {"running sum", {kSum}}};
    if (node.bias != kAbsent) variants.push_back({"product before the bias", {kDot}});
  }
  if (std::holds_alternative<EmbedOp>(node.op)) variants = {{"embedding scale", {kScale}}};
  if (std::holds_alternative<ActivationOp>(node.op)) {
    variants = {{"activation", {kInner, kStored}}, {"activation", {kInput, kInner, kStored}}};
  }
  if (std::holds_alternative<RouterProbsOp>(node.op))
    variants = {{"router logits", {kInput}}, {"router", {kInput, kInner, kStored}}};
  const bool routes = std::holds_alternative<TopExpertsOp>(node.op) ||
                      std::holds_alternative<ExpertWeightsOp>(node.op) || std::holds_alternative<ExpertsOp>(node.op) ||
                      std::holds_alternative<GateOp>(node.op) || std::holds_alternative<ScaleOp>(node.op);
  if (!routes) variants.push_back({ResultOf(node), {kOutput}});
  return variants;
}

// A sum that is rounded after every addition takes far longer than any other replay.
constexpr double kMostRoundedSums = 1 << 26;

bool IsAffordable(const SearchSite& site, const Node& node, const Variant& variant) {
  if (std::ranges::find(variant.steps, kSum) == variant.steps.end()) return true;
  if (node.weight == kAbsent) return true;
  const Shape& shape = site.graph().weights[static_cast<std::size_t>(node.weight)].tensor.shape;
  return static_cast<double>(shape[0]) * static_cast<double>(shape[1]) *
             static_cast<double>(site.replay().recording().run.count()) <=
         kMostRoundedSums;
}

void Propose(const SearchSite& site, const Node& node, const Variant& variant, Rounding to, std::string found,
             std::string_view declared, std::string statement, std::vector<Hypothesis>& out) {
  Node changed = node;
  for (const Step step : variant.steps) changed.marks.push_back({step, to});
  out.push_back(
      {.cause = "precision",
       .edit = site.With(changed),
       .expected = fmt::format("{} in {}", variant.what, declared),
       .found = std::move(found),
       .statement = std::move(statement),
       .fix = fmt::format("run this step in {}, as declared, and round where the model's code does", declared),
       .sharp = true});
}

void ProposeCoarser(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Arithmetic& arithmetic = site.replay().arithmetic();
  for (const Variant& variant : VariantsOf(node)) {
    if (!IsAffordable(site, node, variant)) continue;
    // An engine that stores coarsely and adds the bias in a kernel of its own stores the product on the way: no mistake.
    const bool stores_product = std::holds_alternative<LinearOp>(node.op) && variant.steps == std::vector<Step>{kDot};
    if (stores_product && IsCoarse(arithmetic.storage)) continue;
    const bool inside = std::ranges::any_of(variant.steps, [](Step step) {
      return step != kOutput && step != kStored && step != kInput && step != kCached;
    });
    const std::string_view declared = Name(inside ? arithmetic.inner : StorageOf(node, arithmetic));
    for (const Rounding format : {Rounding::kBF16, Rounding::kF16}) {
      // What is stored coarsely is read so: where a recording holds it wider, rounding it is what the arithmetic declares.
      if (!inside && IsCoarse(StorageOf(node, arithmetic))) continue;
      const std::string found = fmt::format("{} in {}", variant.what, Name(format));
      Propose(site, node, variant, format, found, declared,
              fmt::format("{} where the arithmetic has {}: the values equal that to the bit", found, declared), out);
    }
  }
}

// Bits dropped where rounding to nearest even is declared.
void ProposeTruncation(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Arithmetic& arithmetic = site.replay().arithmetic();
  const Rounding storage = StorageOf(node, arithmetic);
  const bool takes_marks = !VariantsOf(node).empty();
  if (!takes_marks) return;
  const auto propose = [&](Rounding to, const std::vector<Step>& steps, std::string found, const std::string& what) {
    Propose(site, node, {what, steps}, to, std::move(found), IsCoarse(storage) ? Name(storage) : Name(arithmetic.inner),
            fmt::format("{} cut off at {} where rounding to nearest even is right: the values equal that to the bit",
                        what, Name(to)),
            out);
  };
  if (IsCoarse(storage)) {
    propose(Cut(storage), {kStored}, "truncation", "results are");
    propose(Cut(storage), {kOutput}, "truncation", "the result is");
  } else {
    for (const Rounding format : {Rounding::kBF16, Rounding::kF16})
      propose(Cut(format), {kOutput}, fmt::format("{} cut off to {}", ResultOf(node), Name(format)), "the result is");
  }
  if (!std::holds_alternative<LinearOp>(node.op) && !std::holds_alternative<NormOp>(node.op)) return;
  for (const Rounding format : {Rounding::kBF16, Rounding::kF16}) {
    if (IsCoarse(arithmetic.weights) && format != arithmetic.weights) continue;
    propose(Cut(format), {kWeight},
            IsCoarse(arithmetic.weights) ? "truncation" : fmt::format("weights cut off to {}", Name(format)),
            "the weights are");
  }
}

// Steps that are done more exactly than declared. Kernels may do so, and mean no harm by it: only two that change what a
// model computes in its own code are looked for, and only against a declared arithmetic of torch.
void ProposeFiner(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Arithmetic& arithmetic = site.replay().arithmetic();
  if (!arithmetic.declared || !arithmetic.name.starts_with("torch-") || !IsCoarse(arithmetic.storage)) return;
  if (node.id != site.target().id) return;
  const std::string_view inner = Name(arithmetic.inner), storage = Name(arithmetic.storage);
  if (const auto* norm = std::get_if<NormOp>(&node.op);
      norm != nullptr && norm->kind == NormKind::kRms && norm->use == NormWeight::kTimes && node.weight != kAbsent) {
    Propose(
        site, node, {"value before the weight", {kNormed}}, arithmetic.inner,
        fmt::format("value before the weight in {}", inner), storage,
        fmt::format("the norm's weight is multiplied before the cast to {}, where the model casts first: the values "
                    "equal that to the bit",
                    storage),
        out);
  }
  if (std::holds_alternative<EmbedOp>(node.op) && std::get<EmbedOp>(node.op).scale != 1) {
    Propose(
        site, node, {"embedding scale", {kScale}}, arithmetic.inner, fmt::format("embedding scale in {}", inner),
        storage,
        fmt::format("the embedding scale is kept in {} where the model rounds it to {}: the values equal that to the "
                    "bit",
                    inner, storage),
        out);
  }
}

}  // namespace

void ProposePrecision(const SearchSite& site, std::vector<Hypothesis>& out) {
  const Rounding storage = site.replay().arithmetic().storage;
  if (storage == Rounding::kNone) return;
  constexpr std::size_t kLongest = 12;  // of longer segments no rounding can be told to the bit
  if (site.segment().size() > kLongest) return;
  double products = 0;  // each variant is a replay of the whole segment
  for (const Node& node : site.segment()) {
    if (node.weight == kAbsent || !std::holds_alternative<LinearOp>(node.op)) continue;
    const Shape& shape = site.graph().weights[static_cast<std::size_t>(node.weight)].tensor.shape;
    products += static_cast<double>(shape[0]) * static_cast<double>(shape[1]) *
                static_cast<double>(site.replay().recording().run.count());
  }
  constexpr double kMostProducts = 1 << 27;
  if (site.segment().size() > 1 && products > kMostProducts) return;
  for (const Node& node : site.segment()) {
    ProposeCoarser(site, node, out);
    ProposeTruncation(site, node, out);
    ProposeFiner(site, node, out);
  }
}

}  // namespace paritrace
