#include "arch/mixture.h"

#include <fmt/format.h>

#include "core/error.h"

namespace paritrace {
namespace {

// How a family of files names and stores the experts of a layer.
class ExpertStore {
 public:
  ExpertStore(Binder& bind, const MixturePlan& plan, int layer)
      : bind_(bind), plan_(plan), layer_(layer), base_(bind.NameOf("moe", layer)) {}

  std::vector<Expert> Bind() {
    std::vector<Expert> experts;
    for (int e = 0; e < static_cast<int>(plan_.experts); ++e) experts.push_back(One(e));
    return experts;
  }

 private:
  Expert One(int e) {
    Expert expert;
    if (plan_.gated) expert.gate = Matrix("gate", e);
    expert.up = Matrix("up", e);
    expert.down = Matrix("down", e);
    return expert;
  }

  WeightId Matrix(std::string_view part, int e) {
    const std::int64_t rows = part == "down" ? plan_.hidden : plan_.width,
                       cols = part == "down" ? plan_.width : plan_.hidden;
    const WeightPlace place{fmt::format("moe.{}", part), layer_, e};
    if (bind_.source().is_gguf()) {
      const TensorView& all =
          bind_.Tensor(fmt::format("blk.{}.ffn_{}_exps.weight", layer_, part), {plan_.experts, rows, cols});
      return bind_.Add(RowsOf(all, e * rows, {rows, cols}), place);
    }
    // Nomic's own code: the experts' rows one above the other, the way in and the way out alike.
    const std::string stacked = fmt::format("{}.experts.mlp.{}", base_, part == "up" ? "w1" : "w2");
    if (!plan_.gated && bind_.source().Find(stacked) != nullptr) {
      const TensorView& all = bind_.Tensor(stacked, {plan_.experts * plan_.width, plan_.hidden});
      return bind_.Add(RowsOf(all, e * plan_.width, {plan_.width, plan_.hidden}), place);
    }
    // transformers 5 keeps all experts in one tensor, gate above up; files of every version have one tensor an expert.
    const bool is_down = part == "down";
    const std::string joined = fmt::format("{}.experts.{}", base_, is_down ? "down_proj" : "gate_up_proj");
    if (bind_.source().Find(joined) != nullptr) {
      const std::int64_t height = is_down ? rows : 2 * rows;
      const TensorView& all = bind_.Tensor(joined, {plan_.experts, height, cols});
      return bind_.Add(RowsOf(all, e * height + (part == "up" ? rows : 0), {rows, cols}), place);
    }
    return bind_.Add(bind_.Tensor(fmt::format("{}.experts.{}.{}.weight", base_, e, PartName(part)), {rows, cols}),
                     place);
  }

  [[nodiscard]] std::string PartName(std::string_view part) const {
    if (!base_.ends_with("block_sparse_moe")) return fmt::format("{}_proj", part);
    return part == "gate" ? "w1" : part == "up" ? "w3" : "w2";  // Mixtral's own names
  }

  Binder& bind_;
  const MixturePlan& plan_;
  int layer_;
  std::string base_;
};

// The expert that every token uses, opened by a gate of its own (Qwen2-MoE).
NodeId AddShared(Binder& bind, const MixturePlan& plan, int layer, NodeId x) {
  const std::string prefix = fmt::format(".layers.{}.shared.", layer);
  const auto linear = [&](std::string_view part, NodeId input, std::int64_t out, std::int64_t in) {
    const WeightId weight = bind.Need(fmt::format("moe.shared.{}", part), layer, {out, in});
    const std::string site = part == "down" ? prefix + "down" : fmt::format("layers.{}.mlp.{}", layer, part);
    return bind.graph().Add({.site = site, .layer = layer, .op = LinearOp{}, .inputs = {input}, .weight = weight});
  };
  const NodeId gate = linear("gate", x, plan.shared_width, plan.hidden),
               up = linear("up", x, plan.shared_width, plan.hidden);
  const NodeId act = bind.graph().Add({.site = fmt::format("layers.{}.mlp.act", layer),
                                       .layer = layer,
                                       .op = ActivationOp{plan.activation},
                                       .inputs = {gate, up}});
  const NodeId down = linear("down", act, plan.hidden, plan.shared_width);
  // A GGUF keeps the gate's single row as a vector.
  const std::string name = bind.NameOf("moe.shared.open", layer) + ".weight";
  const TensorView* row = bind.source().Find(name);
  const Shape shape = row != nullptr && row->shape.size() == 1 ? Shape{plan.hidden} : Shape{1, plan.hidden};
  TensorView matrix = bind.Tensor(name, shape);
  matrix.shape = {1, plan.hidden};
  const WeightId weight = bind.Add(matrix, {"moe.shared.open", layer});
  const NodeId open =
      bind.graph().Add({.site = prefix + "open", .layer = layer, .op = LinearOp{}, .inputs = {x}, .weight = weight});
  return bind.graph().Add({.site = prefix + "out", .layer = layer, .op = GateOp{}, .inputs = {down, open}});
}

}  // namespace

void CheckMixture(const ModelSource& source, const MixturePlan& plan, std::string_view experts_key,
                  std::string_view used_key) {
  if (plan.experts < 1 || plan.experts > (1 << 16))
    source.Refuse(experts_key, "1 to 65536 experts", std::to_string(plan.experts));
  if (plan.used < 1 || plan.used > plan.experts) {
    source.Refuse(used_key, fmt::format("1 to {} experts", plan.experts), std::to_string(plan.used));
  }
}

NodeId AddMixture(Binder& bind, const MixturePlan& plan, int layer, NodeId x) {
  Graph& graph = bind.graph();
  const std::string prefix = fmt::format("layers.{}.", layer);
  const WeightId router = bind.Need("moe.router_logits", layer, {plan.experts, plan.hidden});
  const NodeId logits = graph.Add(
      {.site = prefix + "moe.router_logits", .layer = layer, .op = LinearOp{}, .inputs = {x}, .weight = router});
  const NodeId probs = graph.Add(
      {.site = prefix + "moe.probs", .layer = layer, .op = RouterProbsOp{}, .inputs = {logits}, .wide = true});
  const NodeId chosen = graph.Add({.site = prefix + "moe.experts",
                                   .layer = layer,
                                   .op = TopExpertsOp{.experts = plan.experts, .used = plan.used},
                                   .inputs = {probs},
                                   .wide = true});
  const NodeId weights = graph.Add({.site = prefix + "moe.weights",
                                    .layer = layer,
                                    .op = ExpertWeightsOp{.normalised = plan.normalised},
                                    .inputs = {probs, chosen},
                                    .wide = plan.wide_weights});
  ExpertsOp op{
      .function = plan.activation, .experts = ExpertStore(bind, plan, layer).Bind(), .wide_weights = plan.wide_weights};
  // Nomic's own code keeps the way out as it keeps the way in, and one bias for all.
  const std::string base = bind.NameOf("moe", layer) + ".experts";
  op.down_rows_are_inputs = !bind.source().is_gguf() && bind.source().Find(base + ".mlp.w2") != nullptr;
  WeightId bias = kAbsent;
  if (!bind.source().is_gguf() && bind.source().Find(base + ".bias") != nullptr)
    bias = bind.Add(bind.Tensor(base + ".bias", {plan.hidden}), {"moe.out.bias", layer});
  NodeId out = graph.Add(
      {.site = prefix + "moe.out", .layer = layer, .op = std::move(op), .inputs = {x, chosen, weights}, .bias = bias});
  std::vector<NodeId> terms = {out};
  if (plan.shared_width > 0) terms.push_back(AddShared(bind, plan, layer, x));
  return graph.Add({.site = prefix + "mlp.out", .layer = layer, .op = AddOp{}, .inputs = terms});
}

}  // namespace paritrace
