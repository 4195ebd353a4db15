#include "trace/sites.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>

namespace paritrace {
namespace {

// In the order in which a decoder computes them. Where a layer is a mixture, mlp.out is what the mixture and any shared
// expert give together.
constexpr std::array<std::string_view, 2> kBefore = {"embed", "embed.norm"};
constexpr std::array<std::string_view, 29> kInLayer = {"in",
                                                       "attn.norm",
                                                       "attn.q",
                                                       "attn.k",
                                                       "attn.v",
                                                       "attn.q_norm",
                                                       "attn.k_norm",
                                                       "attn.q_rope",
                                                       "attn.k_rope",
                                                       "attn.scores",
                                                       "attn.probs",
                                                       "attn.ctx",
                                                       "attn.ctx_norm",
                                                       "attn.out",
                                                       "attn.residual",
                                                       "attn.post_norm",
                                                       "mlp.norm",
                                                       "mlp.gate",
                                                       "mlp.up",
                                                       "mlp.act",
                                                       "mlp.act_norm",
                                                       "moe.router_logits",
                                                       "moe.probs",
                                                       "moe.experts",
                                                       "moe.weights",
                                                       "moe.out",
                                                       "mlp.out",
                                                       "mlp.residual",
                                                       "out"};
constexpr std::array<std::string_view, 3> kAfter = {"final_norm", "logits", "pooled"};

constexpr std::string_view kLayerPrefix = "layers.";
constexpr std::size_t kMaxLayerDigits = 6;
constexpr std::int64_t kPlacesPerLayer = 64;
constexpr std::int64_t kAfterLayers = std::int64_t{1} << 40;

template <typename Sites>
std::optional<std::int64_t> PlaceIn(const Sites& sites, std::string_view site) {
  const auto found = std::find(sites.begin(), sites.end(), site);
  if (found == sites.end()) return std::nullopt;
  return found - sites.begin();
}

// Place in the order of computation; nullopt for what is no site.
std::optional<std::int64_t> Place(std::string_view site) {
  if (const auto place = PlaceIn(kBefore, site)) return *place;
  if (const auto place = PlaceIn(kAfter, site)) return kAfterLayers + *place;
  if (!site.starts_with(kLayerPrefix)) return std::nullopt;
  site.remove_prefix(kLayerPrefix.size());
  const std::size_t digits = std::min(site.find('.'), site.size());
  std::int64_t layer = 0;
  const auto [end, error] = std::from_chars(site.data(), site.data() + digits, layer);
  // One spelling a layer: no sign, no leading zero.
  if (error != std::errc{} || end != site.data() + digits || digits > kMaxLayerDigits || site[0] == '-' ||
      (digits > 1 && site[0] == '0')) {
    return std::nullopt;
  }
  if (digits == site.size()) return std::nullopt;
  const auto place = PlaceIn(kInLayer, site.substr(digits + 1));
  if (!place) return std::nullopt;
  return static_cast<std::int64_t>(kBefore.size()) + layer * kPlacesPerLayer + *place;
}

}  // namespace

bool IsSite(std::string_view name) { return Place(name).has_value(); }

std::int64_t ExecutionRank(std::string_view site) {
  return Place(site).value_or(std::numeric_limits<std::int64_t>::max());
}

}  // namespace paritrace
