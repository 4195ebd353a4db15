// A model as a list of operations in order of execution. The same list runs the oracle, is cut into segments for a replay,
// and carries a hypothesis: a hypothesis is a copy of some nodes with a parameter, an input or a weight changed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "graph/arithmetic.h"

namespace paritrace {

using NodeId = int;
using WeightId = int;
inline constexpr int kAbsent = -1;

// What picks the row of an embedding table: the token, its position, or its type, which is 0 for a single text.
enum class EmbedIndex : std::uint8_t { kToken, kPosition, kType };
struct EmbedOp {
  EmbedIndex index = EmbedIndex::kToken;
  double scale = 1;                // multiplies the row
  std::int64_t row_offset = 0;     // added to each index
  std::optional<DType> quantised;  // rows as a file of this type would hold them
  bool operator==(const EmbedOp&) const = default;
};

enum class NormKind : std::uint8_t { kRms, kLayer };
// kPlusTwo: 1 + weight with a weight that holds the 1 already; no model has it.
enum class NormWeight : std::uint8_t { kTimes, kMissing, kTwice, kPlusOne, kPlusTwo };
struct NormOp {
  NormKind kind = NormKind::kRms;
  double eps = 1e-5;
  NormWeight use = NormWeight::kTimes;
  double weight_factor = 1;
  std::int64_t group = 0;                  // lanes normalised together; 0: the whole row
  std::vector<double> weight_values = {};  // in place of the file's; no model has any
  bool operator==(const NormOp&) const = default;
};

// BitNet's linear layers (arXiv:2402.17764): activations become whole numbers up to 127 times the largest of their token,
// weights are ternary with one scale.
enum class BitLinear : std::uint8_t {
  kNone,
  kCodes,   // the whole numbers are multiplied, and the product divided by both scales
  kValues,  // activations are rounded to what the numbers stand for and multiplied as such, the product times the scale
  kOnline,  // the same with weights that are rounded on the way: to -1, 0 or 1 times the mean of their magnitudes
};
enum class Int8Scope : std::uint8_t { kToken, kTensor, kMissing };
// y = x W^T (+ bias). W [out, in].
enum class RowOrder : std::uint8_t { kAsStored, kToInterleaved, kToHalfSplit };
struct LinearOp {
  bool transposed = false;  // uses W as if it were [in, out]; square weights only
  double factor = 1;
  RowOrder row_order = RowOrder::kAsStored;  // rows of each head of `head_dim` reordered
  std::int64_t head_dim = 0;
  std::optional<DType> quantised;  // weights as a file of this type would hold them
  BitLinear bits = BitLinear::kNone;
  Int8Scope int8 = Int8Scope::kToken;
  double int8_range = 127;
  double weight_scale = 1;  // of kCodes and kValues
  // Ranks that each hold a contiguous block of the inputs or outputs, all as long. Block b of the weight meets block
  // input_order[b] of the input (kAbsent: none); block b of the output is what block output_order[b] should be.
  std::vector<int> input_order = {}, output_order = {};  // empty: as they are
  double bias_factor = 1;
  bool operator==(const LinearOp&) const = default;
};

enum class RopePairing : std::uint8_t { kHalfSplit, kInterleaved };
struct RopeOp {
  RopePairing pairing = RopePairing::kHalfSplit;
  std::int64_t heads = 1, head_dim = 1;
  std::int64_t rotary_dim = 1;    // lanes turned, even; the rest pass
  std::int64_t exponent_dim = 1;  // d in theta^(-2i/d)
  double theta = 10000;
  double position_scale = 1;  // linear scaling: positions times this
  std::int64_t position_offset = 0;
  double magnitude = 1;                   // multiplies cos and sin (YaRN)
  std::vector<double> frequency_factors;  // [rotary_dim / 2], divide the frequencies (llama3); empty: all 1
  int direction = 1;                      // -1 turns backwards
  int times = 1;                          // 0: not applied, 2: applied twice
  std::vector<double> row_factors = {};   // [tokens], multiply each token's lanes; empty: all 1
  bool operator==(const RopeOp&) const = default;
};

// A query that finds another row in a slot of the cache than the key's or value's own. All are places in the run.
struct CacheRow {
  std::int64_t query = 0, key = 0, source = kAbsent;  // kAbsent: zeros
  bool operator==(const CacheRow&) const = default;
};

// scores[h, q, k] = softcap(scale * <Q[q, h], K[k, kv(h)]>), -inf where masked.
struct ScoresOp {
  std::int64_t heads = 1, kv_heads = 1, head_dim = 1;
  double scale = 1;
  bool scales_query = false;  // the query is multiplied and stored before the product, not the product after it
  double softcap = 0;         // 0: none
  bool causal = true;
  std::int64_t mask_offset = 0;            // keys up to position q + offset are seen
  std::int64_t window = 0;                 // 0: none; else only keys with q - k < window
  bool tiled_heads = false;                // kv(h) = h % kv_heads where h / (heads / kv_heads) is right
  std::vector<std::int64_t> hidden_keys;   // positions that nobody sees, ascending; no model has any
  bool own_key_visible = false;            // but for their own queries
  std::vector<double> slopes = {};         // [heads], times key - query position, added to scaled scores; empty: none
  std::vector<double> query_factors = {};  // [tokens], multiply each query's scaled scores; empty: all 1
  std::optional<RopeOp> extra_rope = {};   // turns q and k first
  std::vector<CacheRow> cache = {};        // ascending by query
  bool operator==(const ScoresOp&) const = default;
};

// Over the keys, and divided by the sum: everything else is a hypothesis.
enum class SoftmaxAxis : std::uint8_t { kKeys, kQueries, kHeads };
struct SoftmaxOp {
  SoftmaxAxis axis = SoftmaxAxis::kKeys;
  bool divided = true;
  double temperature = 1;                   // multiplies the scores
  std::vector<double> sinks = {};           // [heads], scores of a key without a value; empty: none
  std::optional<ScoresOp> mask_after = {};  // hidden keys take part in the sum, and are then set to zero
  bool operator==(const SoftmaxOp&) const = default;
};
struct ContextOp {
  std::int64_t heads = 1, kv_heads = 1, head_dim = 1;
  bool tiled_heads = false;
  bool heads_outermost = false;      // [heads, tokens, dim] read as [tokens, heads * dim]
  bool lanes_outermost = false;      // [tokens, dim, heads] read as [tokens, heads * dim]
  std::vector<CacheRow> cache = {};  // ascending by query
  bool operator==(const ContextOp&) const = default;
};

// kGeluNew is the curve of kGeluTanh, put together from elementwise operations that store their results, not one kernel.
enum class Activation : std::uint8_t {
  kIdentity,
  kSilu,
  kGeluErf,
  kGeluTanh,
  kGeluNew,
  kGeluQuick,
  kRelu,
  kReluSquared,
  kSigmoid,
  kTanh
};
// inputs {gate, up}: act(gate) * up;  inputs {x}: act(x)
struct ActivationOp {
  Activation function = Activation::kSilu;
  bool operator==(const ActivationOp&) const = default;
};
// Sum of all inputs, each times its factor.
struct AddOp {
  std::vector<double> factors;  // empty: all 1
  bool operator==(const AddOp&) const = default;
};
// x times factor, then tanh-capped.
struct ScaleOp {
  double factor = 1;
  double softcap = 0;
  bool operator==(const ScaleOp&) const = default;
};

// inputs {x, gate [tokens, 1]}: x times sigmoid(gate), token by token.
struct GateOp {
  bool applied = true;
  bool operator==(const GateOp&) const = default;
};

// A mixture of experts, step by step (arXiv:1701.06538). Probabilities: softmax of the router's logits over all experts.
struct RouterProbsOp {
  bool operator==(const RouterProbsOp&) const = default;
};
// Ids of the `used` most probable experts of each token, in order of probability; of equals the lower id comes first.
struct TopExpertsOp {
  std::int64_t experts = 1, used = 1;
  // Tokens whose choice is known from elsewhere, and that choice.
  std::vector<std::pair<std::int64_t, std::vector<std::int64_t>>> given;
  bool operator==(const TopExpertsOp&) const = default;
};
// inputs {probabilities, experts}: the probabilities of the chosen ones, [tokens, used].
struct ExpertWeightsOp {
  bool normalised = false;  // divided by their sum
  bool reversed = false;    // given to the experts the other way round
  double factor = 1;
  bool stored_sum = false;  // their sum is stored before they are divided by it
  bool operator==(const ExpertWeightsOp&) const = default;
};
// One expert: down(act(gate x) * up x), or down(act(up x)) without a gate. gate and up [width, hidden], down [hidden, width].
struct Expert {
  WeightId gate = kAbsent, up = kAbsent, down = kAbsent;
  bool operator==(const Expert&) const = default;
};
// inputs {x, experts, weights}: the sum over a token's experts of weight * expert(x), and the bias, if there is one, once.
struct ExpertsOp {
  Activation function = Activation::kSilu;
  std::vector<Expert> experts;
  bool down_rows_are_inputs = false;  // down is stored [width, hidden]
  bool wide_weights = false;          // the weights are kept in the inner precision, and so is their product
  double factor = 1;                  // multiplies the sum
  double bias_factor = 1;
  bool operator==(const ExpertsOp&) const = default;
};

// An embedding model's tail. One row for the whole sequence, made of all tokens' rows; several modes stand side by side.
// kMeanSqrt: the sum over the root of the count; kWeightedMean: token t counts t + 1 times.
enum class PoolMode : std::uint8_t { kFirst, kLast, kMean, kMax, kMeanSqrt, kWeightedMean };
struct PoolOp {
  std::vector<PoolMode> modes = {PoolMode::kMean};
  bool operator==(const PoolOp&) const = default;
};
// A row divided by its length.
struct UnitOp {
  bool operator==(const UnitOp&) const = default;
};

// A step of which nothing is known, such as a product whose weights are not there: NaN, [tokens, width].
struct UnknownOp {
  std::int64_t width = 1;
  bool operator==(const UnknownOp&) const = default;
};

using Operation =
    std::variant<EmbedOp, NormOp, LinearOp, RopeOp, ScoresOp, SoftmaxOp, ContextOp, ActivationOp, AddOp, ScaleOp,
                 GateOp, RouterProbsOp, TopExpertsOp, ExpertWeightsOp, ExpertsOp, PoolOp, UnitOp, UnknownOp>;

struct KernelFault;  // kernel_fault.h: what no model has and a kernel may do

struct Node {
  NodeId id = kAbsent;
  std::string site;  // every node has one; unnamed steps carry a name with a leading '.', never recorded
  int layer = kAbsent;
  Operation op;
  std::vector<NodeId> inputs;
  WeightId weight = kAbsent, bias = kAbsent;
  bool wide = false;    // stored in the inner precision (f32), whatever the engine stores elsewhere
  bool pooled = false;  // one row for the whole sequence
  std::shared_ptr<const KernelFault> fault = nullptr;  // only a hypothesis has one
  std::vector<RoundMark> marks = {};                   // a hypothesis: rounded here, where the policy would not
  double doubt = 0;  // rms error of the op relative to its results, where its parameters were estimated and not read
};

// A weight of the model, in the file's own layout. Linear weights: [out, in].
struct Weight {
  std::string name;
  TensorView tensor;
  std::string
      role;  // the site it belongs to, without its layer: "attn.q"; the same role in another layer has the same shape
  int layer = kAbsent;
  int expert = kAbsent;
};

struct Graph {
  std::string architecture;
  std::int64_t vocabulary = 0, hidden = 0;
  int layers = 0;
  bool q_rows_interleaved = false;  // the file keeps q and k rows in adjacent-pair order (GGUF `llama`)
  std::int64_t head_dim = 0;
  bool has_cache = true;  // keys and values go through a cache; an encoder has none
  bool depends_on_absolute_position =
      false;                // learned positions: a constant shift of all positions is then no equivalence
  std::vector<Node> nodes;  // in order of execution: inputs come before their users
  std::vector<Weight> weights;

  NodeId Add(Node node);  // fills id
  WeightId AddWeight(Weight weight);
  [[nodiscard]] const Node* Find(std::string_view site) const;
  [[nodiscard]] std::vector<NodeId> UsersOf(NodeId id) const;

 private:
  std::unordered_map<std::string, NodeId> by_site_;
};

// "norm", "linear", "rope", "scores", "softmax", "context", "activation", "add", "embed", "moe", or "other".
[[nodiscard]] std::string_view FamilyOf(const Operation& op);

[[nodiscard]] std::string_view Name(Activation activation);
[[nodiscard]] std::string_view Name(PoolMode mode);  // as sentence-transformers' pooling_mode
[[nodiscard]] std::optional<Activation> ParseActivation(std::string_view name);  // HF's hidden_act names

}  // namespace paritrace
