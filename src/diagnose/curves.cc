#include "diagnose/curves.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "graph/ops.h"

namespace paritrace {
namespace {

constexpr double kRootTwoOverPi = 0.7978845608028654;

// Tanh: the [3/2] Padé approximant and the continued fraction of Lambert, both cut off at 1.
double PadeTanh(double x) { return std::clamp(x * (27 + x * x) / (27 + 9 * x * x), -1.0, 1.0); }
double LambertTanh(double x) {
  const double s = x * x;
  return std::clamp(x * (135135 + s * (17325 + s * (378 + s))) / (135135 + s * (62370 + s * (3150 + s * 28))), -1.0,
                    1.0);
}
double TaylorTanh(double x) { return std::clamp(x - x * x * x / 3 + 2 * x * x * x * x * x / 15, -1.0, 1.0); }
double Softsign(double x) { return x / (1 + std::fabs(x)); }

// Erf: Abramowitz and Stegun, Handbook of Mathematical Functions, formulas 7.1.25 to 7.1.28. 7.1.26 is what vector kernels
// use; it differs from the true value only where f64 is claimed.
double Erf25(double x) {
  const double t = 1 / (1 + 0.47047 * std::fabs(x));
  return std::copysign(1 - t * (0.3480242 + t * (-0.0958798 + t * 0.7478556)) * std::exp(-x * x), x);
}
double Erf26(double x) {
  const double t = 1 / (1 + 0.3275911 * std::fabs(x));
  const double sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return std::copysign(1 - sum * std::exp(-x * x), x);
}
double Erf27(double x) {
  const double a = std::fabs(x), sum = 1 + a * (0.278393 + a * (0.230389 + a * (0.000972 + a * 0.078108)));
  return std::copysign(1 - 1 / (sum * sum * sum * sum), x);
}

// Exp: the compound-interest limit, a Taylor polynomial, and Schraudolph's write into the exponent's bits (Neural
// Computation 11(4), 1999).
double LimitExp(double x, double n) { return x < -n ? 0.0 : std::pow(1 + x / n, n); }
double TaylorExp(double x, int terms) {
  double sum = 1, term = 1;
  for (int i = 1; i <= terms; ++i) sum += term *= x / i;
  return std::max(sum, 0.0);
}
double SchraudolphExp(double x, double offset) {
  const double bits = 12102203.161561485 * x + 1065353216.0 - offset;
  if (!(bits > 0)) return 0;
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(std::min(bits, 2139095039.0))));
}

double HardSigmoid6(double x) { return std::clamp(x / 6 + 0.5, 0.0, 1.0); }
double HardSigmoid5(double x) { return std::clamp(0.2 * x + 0.5, 0.0, 1.0); }
double HardSigmoid4(double x) { return std::clamp(x / 4 + 0.5, 0.0, 1.0); }

Curve FromTable(const Curve& right, Rounding grid) {
  return [right, grid](double x) { return Round(grid, right(Round(grid, x))); };
}

void AddSigmoids(std::vector<KnownCurve>& out, const std::function<Curve(Curve)>& wrap) {
  const auto add = [&](const char* name, Curve sigmoid) { out.push_back({name, wrap(std::move(sigmoid))}); };
  add("hard sigmoid, clip(x / 6 + 1/2)", HardSigmoid6);
  add("hard sigmoid, clip(x / 5 + 1/2)", HardSigmoid5);
  add("hard sigmoid, clip(x / 4 + 1/2)", HardSigmoid4);
  add("sigmoid by softsign, (x / (1 + |x|) + 1) / 2", [](double x) { return 0.5 * Softsign(x) + 0.5; });
  add("sigmoid by a Pade tanh", [](double x) { return 0.5 * PadeTanh(0.5 * x) + 0.5; });
  add("sigmoid by Lambert's tanh", [](double x) { return 0.5 * LambertTanh(0.5 * x) + 0.5; });
  add("sigmoid by exp as (1 + x/256)^256", [](double x) { return 1 / (1 + LimitExp(-x, 256)); });
  add("sigmoid by exp as (1 + x/1024)^1024", [](double x) { return 1 / (1 + LimitExp(-x, 1024)); });
  add("sigmoid by Schraudolph's exp", [](double x) { return 1 / (1 + SchraudolphExp(-x, 0)); });
  add("sigmoid by Schraudolph's exp, centred", [](double x) { return 1 / (1 + SchraudolphExp(-x, 366393)); });
}

Curve GeluWith(const Curve& tanh) {
  return [tanh](double x) { return 0.5 * x * (1 + tanh(kRootTwoOverPi * (x + 0.044715 * x * x * x))); };
}
Curve GeluOf(const Curve& erf) {
  return [erf](double x) { return 0.5 * x * (1 + erf(x * std::numbers::sqrt2 / 2)); };
}

void AddGelus(std::vector<KnownCurve>& out) {
  out.push_back({"gelu_tanh by a Pade tanh", GeluWith(PadeTanh)});
  out.push_back({"gelu_tanh by Lambert's tanh", GeluWith(LambertTanh)});
  out.push_back({"gelu_tanh by a Taylor tanh", GeluWith(TaylorTanh)});
  out.push_back({"gelu by the erf of Abramowitz and Stegun 7.1.25", GeluOf(Erf25)});
  out.push_back({"gelu by the erf of Abramowitz and Stegun 7.1.27", GeluOf(Erf27)});
  out.push_back({"gelu by the erf of Abramowitz and Stegun 7.1.26", GeluOf(Erf26), true});
  out.push_back({"gelu_tanh without its cube", [](double x) { return 0.5 * x * (1 + std::tanh(kRootTwoOverPi * x)); }});
  out.push_back({"gelu as x sigmoid(1.7 x)", [](double x) { return x / (1 + std::exp(-1.7 * x)); }});
  out.push_back(
      {"gelu as x sigmoid(sqrt(8/pi) x)", [](double x) { return x / (1 + std::exp(-2 * kRootTwoOverPi * x)); }});
}

void AddOtherActivations(std::vector<KnownCurve>& out) {
  const auto add = [&](const char* name, Curve curve) { out.push_back({name, std::move(curve), false, true}); };
  add("leaky_relu", [](double x) { return x > 0 ? x : 0.01 * x; });
  add("relu6", [](double x) { return std::clamp(x, 0.0, 6.0); });
  add("elu", [](double x) { return x > 0 ? x : std::expm1(x); });
  add("selu", [](double x) { return 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * std::expm1(x)); });
  add("mish", [](double x) { return x * std::tanh(std::log1p(std::exp(x))); });
  add("softplus", [](double x) { return x > 30 ? x : std::log1p(std::exp(x)); });
  add("softsign", Softsign);
  add("laplace", [](double x) { return 0.5 * (1 + std::erf((x - 0.707107) / (0.282095 * std::numbers::sqrt2))); });
}

}  // namespace

std::vector<KnownCurve> ActivationCurves(Activation right) {
  std::vector<KnownCurve> curves;
  const auto times_x = [](Curve sigmoid) -> Curve { return [sigmoid](double x) { return x * sigmoid(x); }; };
  curves.push_back({"hard_swish", times_x(HardSigmoid6)});
  std::vector<KnownCurve> silus;
  AddSigmoids(silus, times_x);
  for (KnownCurve& curve : silus) {
    if (curve.name.starts_with("hard sigmoid, clip(x / 6")) continue;  // that one is hard_swish
    curve.name = "silu with " + curve.name;
    curves.push_back(std::move(curve));
  }
  AddGelus(curves);
  for (const Activation activation :
       {Activation::kSilu, Activation::kGeluErf, Activation::kGeluTanh, Activation::kTanh, Activation::kSigmoid}) {
    const Curve exact = [activation](double x) { return TrueActivation(activation, x); };
    curves.push_back({std::string(Name(activation)) + " from a table in f16", FromTable(exact, Rounding::kF16)});
  }
  if (right == Activation::kTanh) {
    for (KnownCurve& curve : TanhCurves()) curves.push_back(std::move(curve));
  }
  if (right == Activation::kSigmoid) {
    for (KnownCurve& curve : SigmoidCurves()) curves.push_back(std::move(curve));
  }
  AddOtherActivations(curves);
  return curves;
}

std::vector<KnownCurve> TanhCurves() {
  return {{"tanh as a Pade approximant, x(27 + x^2) / (27 + 9 x^2)", PadeTanh},
          {"tanh as Lambert's fraction", LambertTanh},
          {"tanh as a Taylor polynomial", TaylorTanh},
          {"clip(x, -1, 1)", [](double x) { return std::clamp(x, -1.0, 1.0); }},
          {"x / (1 + |x|)", Softsign},
          {"x / sqrt(1 + x^2)", [](double x) { return x / std::sqrt(1 + x * x); }}};
}

std::vector<KnownCurve> ExpCurves() {
  return {{"exp as (1 + x/256)^256", [](double x) { return LimitExp(x, 256); }},
          {"exp as (1 + x/1024)^1024", [](double x) { return LimitExp(x, 1024); }},
          {"exp as (1 + x/4096)^4096", [](double x) { return LimitExp(x, 4096); }},
          {"exp as a Taylor polynomial of degree 4", [](double x) { return TaylorExp(x, 4); }},
          {"exp as a Taylor polynomial of degree 6", [](double x) { return TaylorExp(x, 6); }},
          {"exp by Schraudolph", [](double x) { return SchraudolphExp(x, 0); }},
          {"exp by Schraudolph, centred", [](double x) { return SchraudolphExp(x, 366393); }}};
}

std::vector<KnownCurve> SigmoidCurves() {
  std::vector<KnownCurve> curves;
  AddSigmoids(curves, [](Curve sigmoid) { return sigmoid; });
  return curves;
}

}  // namespace paritrace
