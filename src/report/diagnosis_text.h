// The diagnosis for people: on the terminal, and as Markdown for an issue. The answer first, the evidence after it.
#pragma once

#include <string>

#include "diagnose/diagnosis.h"

namespace paritrace {

struct DiagnosisTextOptions {
  std::size_t width = 80;
  bool colour = false;
  bool every_site = false;  // the noise table site by site, not one row a kind of site
};

[[nodiscard]] std::string DiagnosisToTerminal(const Diagnosis& diagnosis, const DiagnosisTextOptions& options);
[[nodiscard]] std::string DiagnosisToMarkdown(const Diagnosis& diagnosis);

// One sentence: "Diverged: rope.interleaved at … explains it." Also the message of a failed test.
[[nodiscard]] std::string VerdictSentence(const Diagnosis& diagnosis);

}  // namespace paritrace
