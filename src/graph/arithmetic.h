// How an engine rounds, as data: one row a policy. The operations (ops_*.cc) hold the graph of f64 steps with "round here"
// marks; a policy says what each mark does. Adding an engine's arithmetic is adding a row here, not a code path there.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace paritrace {

// The cut ones drop the bits that do not fit, towards zero, where the others round to nearest even.
enum class Rounding : std::uint8_t { kNone, kF32, kF16, kBF16, kF16Cut, kBF16Cut };

// `value` in the given format, as a double. NaN and infinities pass; overflow becomes infinity, and when cut the largest number.
[[nodiscard]] double Round(Rounding rounding, double value);
void RoundAll(Rounding rounding, std::span<double> values);

// Half the distance between neighbouring numbers of the format at |value|: the largest error of one rounding. 0 for kNone.
[[nodiscard]] double HalfUlp(Rounding rounding, double value);

// Steps between two numbers of the format, through an ordered integer, so that it is right across zero. Both must be
// representable in it. kNone counts f64 steps.
[[nodiscard]] double UlpDistance(Rounding rounding, double a, double b);

[[nodiscard]] std::string_view Name(
    Rounding rounding);  // "f64", "f32", "f16", "bf16"; those that are cut by their format

// Places inside an op where an engine may round.
enum class Step : std::uint8_t {
  kStored,      // every result that the op stores, on the way and at the end
  kInner,       // every result inside norms, softmax, RoPE tables and activations
  kInput,       // what is read: activations; queries; probabilities
  kCached,      // K or V as attention reads it
  kWeight,      // a weight as it is used; of a norm with weight plus one, the sum
  kScale,       // the factor of an embedding
  kSum,         // the running sum of a product, after every addition
  kMean,        // of a norm: the mean square or the variance
  kRoot,        // of a norm: the root, before its reciprocal is taken
  kReciprocal,  // of a norm: one over the root of it
  kNormed,      // of a norm: before the weight
  kPosition,    // of RoPE: the position, its frequencies, their products, cosine and sine
  kFrequency,
  kAngle,
  kTable,
  kDot,     // the product: of scores before it is scaled, of a linear before its bias
  kOutput,  // the result
};

// "Round here", where a policy would not, or to another format.
struct RoundMark {
  Step step = Step::kOutput;
  Rounding rounding = Rounding::kNone;
};

// What an engine does to the activations before a product with a weight.
enum class DotInput : std::uint8_t {
  kAsStored,
  kGgml,  // to the weight's vec_dot_type: f16 -> f16, bf16 -> bf16, q4_0, q8_0 -> q8_0 blocks, K-quants -> q8_K blocks
  kBitNet,  // bitnet.cpp: ternary weights take int8 codes, 127 over the largest of the token; all others as kGgml
};

// How products are summed. Engines sum in f32 in an order of their own (lanes, blocks), which few emulations have to the
// bit: kExact then predicts the value best, and kF32Sequential is a sample of how large the error of *some* f32 order is.
// oneDNN's bf16 kernels (torch on x86) do sum front to back, so that kF32Sequential is the prediction as well.
enum class Accumulate : std::uint8_t { kExact, kF32Sequential };

// How exp, tanh and erf inside an activation are computed.
enum class ActivationKernel : std::uint8_t {
  kExact,        // the true value, rounded once
  kVector,       // step by step in the inner precision, erf by the vector kernels' polynomial (torch)
  kStoredSteps,  // JAX: every step of SiLU is stored
  kRational,     // ONNX Runtime: the sigmoid is a quotient of polynomials, and is stored
  kGgml,         // GELU from a table whose index and value are f16; all else exact
};

// How the outputs of a token's experts are summed.
enum class Mixture : std::uint8_t {
  kByRank,    // the most probable first, one rounding at the end
  kByExpert,  // in order of the experts' ids, every sum stored
};

// What one kind of op does otherwise than the policy: learned from an engine that no policy knows. Unset: as the policy.
struct OpRecipe {
  std::string family;  // as FamilyOf (graph.h) names ops: "norm", "activation", …
  std::optional<Rounding> inner;
  std::optional<Accumulate> accumulate, reduce;
  std::optional<ActivationKernel> activation;
  bool fused = false;  // nothing is rounded to storage on the way, only the result
};

struct Arithmetic {
  std::string name;
  Rounding weights = Rounding::kNone;  // what float weights of the model are kept as
  Rounding storage = Rounding::kNone;  // outputs of every op
  Rounding inner = Rounding::kNone;    // inside norms, softmax, RoPE tables and activations
  DotInput dot_input = DotInput::kAsStored;
  Accumulate accumulate = Accumulate::kExact;  // products: linears, scores, probs times V
  Accumulate reduce = Accumulate::kExact;      // sums inside norms and softmax
  std::optional<DType> dot_weight;      // kGgml: the weight type the engine ran, where MODEL's files hold another one
  Rounding kv_cache = Rounding::kNone;  // K after RoPE and V, as attention reads them
  bool flash_attention = false;         // scores and probabilities are never stored
  bool rope_angle_iterated = false;     // ggml: theta *= scale, pair by pair, in f32; else one power a pair
  ActivationKernel activation = ActivationKernel::kExact;
  Mixture mixture = Mixture::kByRank;
  std::vector<OpRecipe> recipes = {};  // one a family at most

  [[nodiscard]] bool is_ggml() const { return dot_input != DotInput::kAsStored; }
  bool declared = false;              // stated by the trace or the user, not inferred from the values
  std::vector<RoundMark> marks = {};  // of the one op that is computed

  // The rounding at a step: that of its mark, else `otherwise`.
  [[nodiscard]] Rounding At(Step step, Rounding otherwise) const;
  [[nodiscard]] bool IsMarked(Step step) const;

  [[nodiscard]] const OpRecipe* RecipeOf(std::string_view family) const;  // nullptr: none
  // As `recipe` has it, without recipes. What it leaves of `fused` is for the caller.
  [[nodiscard]] Arithmetic With(const OpRecipe& recipe) const;
};

// A policy of the contract ("torch-bf16", "ggml-cpu", …); nullopt for an unknown name.
[[nodiscard]] std::optional<Arithmetic> FindArithmetic(std::string_view name);

// The names FindArithmetic knows, for messages: "f64, f32, …".
[[nodiscard]] std::string ArithmeticNames();

// The same policy with every sum done in f32, one product after another: with it, an upper sample of summation error.
[[nodiscard]] Arithmetic WithSequentialSums(Arithmetic arithmetic);

}  // namespace paritrace
