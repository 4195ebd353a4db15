// Which tensors and which steps a run records: PARITRACE_SITES and PARITRACE_STEPS.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace paritrace {

class SiteSelection {
 public:
  // globs: separated by commas, as the shell's (*, ?, [...]); "" takes everything.
  explicit SiteSelection(std::string_view globs);

  // name: "layers.3.attn.q", or an engine's own. A glob is tried on all of it, and on what follows "layers.3.".
  [[nodiscard]] bool Has(std::string_view name) const;

 private:
  std::vector<std::string> globs_;
};

class StepSelection {
 public:
  // "0-3,7,12-": ranges with both ends, single steps, open ends; "" takes every step.
  // Errors: UsageError naming the part that is none of these.
  explicit StepSelection(std::string_view ranges);

  [[nodiscard]] bool Has(int step) const;

 private:
  std::vector<std::pair<int, int>> ranges_;  // first and last
};

}  // namespace paritrace
