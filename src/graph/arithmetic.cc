#include "graph/arithmetic.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include <fmt/format.h>

namespace paritrace {
namespace {

// Rounds a double to `mantissa` stored bits with exponents down to `min_exponent`, nearest even, in one step. Going through
// f32 first would round twice.
template <int kMantissa, int kMinExponent>
double RoundTo(double value, double largest) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);  // value = m * 2^exponent, 0.5 <= |m| < 1
  const int lowest_bit = std::max(exponent - 1, kMinExponent) - kMantissa;
  const double quantum = std::ldexp(1.0, lowest_bit);
  const double rounded = std::nearbyint(value / quantum) * quantum;
  return std::fabs(rounded) > largest ? std::copysign(std::numeric_limits<double>::infinity(), value) : rounded;
}

constexpr double kLargestHalf = 65504.0;
const double kLargestBFloat = std::ldexp(255.0, 120);

struct Format {
  int mantissa, min_exponent;
};

constexpr Format FormatOf(Rounding rounding) {
  switch (rounding) {
    case Rounding::kF32: return {23, -126};
    case Rounding::kF16:
    case Rounding::kF16Cut: return {10, -14};
    case Rounding::kBF16:
    case Rounding::kBF16Cut: return {7, -126};
    case Rounding::kNone: break;
  }
  return {52, -1022};
}

// bf16 from a double: add half of the dropped part with ties to even on the bits; exact in range, subnormals by the slow way.
double RoundToBFloat(double value) {
  const double magnitude = std::fabs(value);
  if (!(magnitude >= 1.2e-38 && magnitude < 3.3e38)) return RoundTo<7, -126>(value, kLargestBFloat);
  auto bits = std::bit_cast<std::uint64_t>(value);
  constexpr int kDropped = 52 - 7;
  bits += ((std::uint64_t{1} << (kDropped - 1)) - 1) + ((bits >> kDropped) & 1);
  bits &= ~((std::uint64_t{1} << kDropped) - 1);
  return std::bit_cast<double>(bits);
}

double RoundToHalf(double value) {
  const double magnitude = std::fabs(value);
  if (!(magnitude >= 6.2e-5 && magnitude < 65000.0)) return RoundTo<10, -14>(value, kLargestHalf);
  auto bits = std::bit_cast<std::uint64_t>(value);
  constexpr int kDropped = 52 - 10;
  bits += ((std::uint64_t{1} << (kDropped - 1)) - 1) + ((bits >> kDropped) & 1);
  bits &= ~((std::uint64_t{1} << kDropped) - 1);
  return std::bit_cast<double>(bits);
}

// Towards zero.
double CutTo(Format format, double value, double largest) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);
  const double quantum = std::ldexp(1.0, std::max(exponent - 1, format.min_exponent) - format.mantissa);
  const double cut = std::trunc(value / quantum) * quantum;
  return std::fabs(cut) > largest ? std::copysign(largest, value) : cut;
}

std::array<Arithmetic, 13> MakePolicies() {
  using enum Rounding;
  Arithmetic f64{.name = "f64"};
  Arithmetic f32{.name = "f32", .weights = kF32, .storage = kF32, .inner = kF32};
  auto named = [](Arithmetic from, std::string name) {
    from.name = std::move(name);
    return from;
  };
  Arithmetic bf16{.name = "torch-bf16",
                  .weights = kBF16,
                  .storage = kBF16,
                  .inner = kF32,
                  .accumulate = Accumulate::kF32Sequential,
                  .activation = ActivationKernel::kVector};
  Arithmetic f16 = named(bf16, "torch-f16");
  f16.weights = f16.storage = kF16;
  Arithmetic torch_f32 = named(f32, "torch-f32");
  torch_f32.activation = ActivationKernel::kVector;
  Arithmetic ggml{.name = "ggml-cpu",
                  .storage = kF32,
                  .inner = kF32,
                  .dot_input = DotInput::kGgml,
                  .kv_cache = kF16,
                  .rope_angle_iterated = true,
                  .activation = ActivationKernel::kGgml};
  Arithmetic ggml_flash = named(ggml, "ggml-cpu+flash");
  ggml_flash.flash_attention = true;
  Arithmetic ggml_f32_cache = named(ggml, "ggml-cpu+kv-f32");
  ggml_f32_cache.kv_cache = kNone;
  Arithmetic bitnet = named(ggml, "bitnet-int8");
  bitnet.dot_input = DotInput::kBitNet;
  Arithmetic jax_bf16 = named(bf16, "jax-bf16");
  jax_bf16.activation = ActivationKernel::kStoredSteps;
  jax_bf16.accumulate = Accumulate::kExact;
  Arithmetic ort_f32 = named(f32, "ort-f32");
  ort_f32.activation = ActivationKernel::kRational;
  return {f64,
          f32,
          torch_f32,
          bf16,
          f16,
          ggml,
          ggml_flash,
          ggml_f32_cache,
          bitnet,
          named(f32, "jax-f32"),
          jax_bf16,
          ort_f32,
          named(f64, "torch-f64")};
}

const std::array<Arithmetic, 13>& Policies() {
  static const auto policies = MakePolicies();
  return policies;
}

// Numbers of a format in order, as integers: neighbours differ by one.
std::int64_t Ordinal(Rounding rounding, double value) {
  const Format format = FormatOf(rounding);
  if (value == 0) return 0;
  int exponent = 0;
  std::frexp(value, &exponent);
  const int biased = std::max(exponent - 1, format.min_exponent);
  const double steps = std::fabs(value) / std::ldexp(1.0, biased - format.mantissa);
  const auto binades = static_cast<std::int64_t>(biased - format.min_exponent);
  const std::int64_t ordinal = (binades << format.mantissa) + static_cast<std::int64_t>(steps);
  return value < 0 ? -ordinal : ordinal;
}

}  // namespace

double Round(Rounding rounding, double value) {
  switch (rounding) {
    case Rounding::kNone: return value;
    case Rounding::kF32: return static_cast<double>(static_cast<float>(value));
    case Rounding::kF16: return RoundToHalf(value);
    case Rounding::kBF16: return RoundToBFloat(value);
    case Rounding::kF16Cut: return CutTo(FormatOf(rounding), value, kLargestHalf);
    case Rounding::kBF16Cut: return CutTo(FormatOf(rounding), value, kLargestBFloat);
  }
  return value;
}

void RoundAll(Rounding rounding, std::span<double> values) {
  if (rounding == Rounding::kNone) return;
  for (double& value : values) value = Round(rounding, value);
}

double HalfUlp(Rounding rounding, double value) {
  if (rounding == Rounding::kNone || !std::isfinite(value)) return 0;
  const Format format = FormatOf(rounding);
  int exponent = 0;
  std::frexp(value, &exponent);
  const int biased = value == 0 ? format.min_exponent : std::max(exponent - 1, format.min_exponent);
  return std::ldexp(0.5, biased - format.mantissa);
}

double UlpDistance(Rounding rounding, double a, double b) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return 0;
  if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
  return std::fabs(static_cast<double>(Ordinal(rounding, a) - Ordinal(rounding, b)));
}

std::string_view Name(Rounding rounding) {
  switch (rounding) {
    case Rounding::kF32: return "f32";
    case Rounding::kF16:
    case Rounding::kF16Cut: return "f16";
    case Rounding::kBF16:
    case Rounding::kBF16Cut: return "bf16";
    case Rounding::kNone: break;
  }
  return "f64";
}

Rounding Arithmetic::At(Step step, Rounding otherwise) const {
  for (const RoundMark& mark : marks) {
    if (mark.step == step) return mark.rounding;
  }
  return otherwise;
}

bool Arithmetic::IsMarked(Step step) const {
  for (const RoundMark& mark : marks) {
    if (mark.step == step) return true;
  }
  return false;
}

const OpRecipe* Arithmetic::RecipeOf(std::string_view family) const {
  for (const OpRecipe& recipe : recipes) {
    if (recipe.family == family) return &recipe;
  }
  return nullptr;
}

Arithmetic Arithmetic::With(const OpRecipe& recipe) const {
  Arithmetic own = *this;
  own.recipes.clear();
  own.inner = recipe.inner.value_or(inner);
  own.accumulate = recipe.accumulate.value_or(accumulate);
  own.reduce = recipe.reduce.value_or(reduce);
  own.activation = recipe.activation.value_or(activation);
  return own;
}

std::optional<Arithmetic> FindArithmetic(std::string_view name) {
  for (const Arithmetic& policy : Policies()) {
    if (policy.name == name) return policy;
  }
  return std::nullopt;
}

std::string ArithmeticNames() {
  std::string names;
  for (const Arithmetic& policy : Policies()) names += (names.empty() ? "" : ", ") + policy.name;
  return names;
}

Arithmetic WithSequentialSums(Arithmetic arithmetic) {
  if (arithmetic.inner == Rounding::kNone) return arithmetic;
  arithmetic.accumulate = arithmetic.reduce = Accumulate::kF32Sequential;
  for (OpRecipe& recipe : arithmetic.recipes) recipe.accumulate = recipe.reduce = std::nullopt;
  if (arithmetic.activation == ActivationKernel::kExact) arithmetic.activation = ActivationKernel::kVector;
  return arithmetic;
}

}  // namespace paritrace
