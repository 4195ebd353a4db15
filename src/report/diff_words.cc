#include "report/diff_words.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>

#include <fmt/format.h>

#include "report/site_names.h"

namespace paritrace {
namespace {

std::string Index(const std::vector<std::int64_t>& at) {
  std::string text;
  for (const std::int64_t i : at) text += fmt::format("{}{}", text.empty() ? "" : ", ", i);
  return "[" + text + "]";
}

std::string Plural(std::int64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

// How much of what rounding explains a site uses up; the largest of all sites, and where.
struct Worst {
  const SiteDiff* site = nullptr;
  double share = 0;
};
Worst WorstWithinNoise(const DiffResult& diff) {
  Worst worst;
  for (const SiteDiff& site : diff.sites) {
    if (site.status != SiteStatus::kWithinNoise || !site.compared || !(site.allowed > 0)) continue;
    const double share = std::sqrt(site.stats.Nmse()) / site.allowed;
    if (share > worst.share) worst = {&site, share};
  }
  return worst;
}

bool IsMissing(const SiteDiff& site) {
  const bool missing = site.status == SiteStatus::kMissingInSubject || site.status == SiteStatus::kMissingInReference;
  return missing && !site.undecided;
}

std::string Arithmetics(const DiffResult& diff) {
  const std::string &ours = diff.reference_rounding.name, &theirs = diff.subject_rounding.name;
  return ours == theirs ? ours : fmt::format("{} and {}", ours, theirs);
}

std::string EstimateSentence(const DiffResult& diff, const SiteDiff& site) {
  if (site.stats.mismatches > 0)
    return fmt::format(": {} NaN or infinite on one side only.", Plural(site.stats.mismatches, "value"));
  const Estimate& nmse = site.estimate->nmse;
  return fmt::format(": by its digest the error there is {} to {} of the signal, rounding ({}) explains at most {}.",
                     ShortNumber(std::sqrt(nmse.low)), ShortNumber(std::sqrt(nmse.high)), Arithmetics(diff),
                     ShortNumber(site.allowed));
}

std::string DivergedSentence(const DiffResult& diff) {
  const FirstDivergence& first = *diff.first_divergence;
  const SiteDiff& site = diff.sites[first.index];
  std::string text = fmt::format("Diverged from {} on", first.site);
  if (first.step != 0) text += fmt::format(", step {}", first.step);
  if (first.position) text += fmt::format(", at position {}", *first.position);
  if (site.status == SiteStatus::kShapeMismatch) return text + ": the shapes do not fit, " + site.note + ".";
  if (site.site.ends_with("moe.experts") || !site.evidence.is_null()) return text + ": " + site.note + ".";
  const PairStats& stats = site.stats;
  if (site.estimate) return text + EstimateSentence(diff, site);
  if (stats.mismatches > 0) {
    const bool masks = stats.nan_either == 0 && stats.inf_either == 0;
    return text + fmt::format(": {} {} on one side only, first at {}.", Plural(stats.mismatches, "value"),
                              masks                   ? "masked"
                              : stats.inf_either == 0 ? "NaN"
                                                      : "NaN or infinite",
                              Index(site.first_mismatch_at));
  }
  const double error = std::sqrt(stats.Nmse());
  if (error > site.allowed) {
    return text + fmt::format(": the error there is {} of the signal, rounding ({}) explains at most {}.",
                              ShortNumber(error), Arithmetics(diff), ShortNumber(site.allowed));
  }
  return text +
         fmt::format(
             ": a difference of {} at {} ({} in the reference, {} in the subject), more than rounding ({}) explains.",
             ShortNumber(stats.max_abs), Index(site.max_abs_at), ShortNumber(stats.max_reference),
             ShortNumber(stats.max_subject), Arithmetics(diff));
}

}  // namespace

std::string ShortNumber(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  if (value == 0) return "0";
  const double size = std::fabs(value);
  return size >= 0.01 && size < 1000 ? fmt::format("{:.3g}", value) : fmt::format("{:.1e}", value);
}

std::string_view Words(SiteStatus status) {
  switch (status) {
    case SiteStatus::kIdentical: return "identical";
    case SiteStatus::kWithinNoise: return "within noise";
    case SiteStatus::kDiverged: return "diverged";
    case SiteStatus::kMissingInSubject: return "missing in the subject";
    case SiteStatus::kMissingInReference: return "missing in the reference";
    case SiteStatus::kShapeMismatch: return "other shape";
    case SiteStatus::kTokenMismatch: return "other tokens";
  }
  return "";
}

std::string VerdictSentence(const DiffResult& diff) {
  const StatusCounts counts = diff.Counts();
  std::string text;
  switch (diff.verdict) {
    case Verdict::kIdentical:
      text = fmt::format("Identical: {}, every value equal.", Plural(counts.Compared(), "site"));
      break;
    case Verdict::kWithinNoise: {
      text = fmt::format("Within noise: rounding ({}) explains what differs at all {}", Arithmetics(diff),
                         Plural(counts.Compared(), "site"));
      const Worst worst = WorstWithinNoise(diff);
      text += worst.site == nullptr
                  ? "."
                  : fmt::format("; the most, {:.2g} % of the bound, at {}.", 100 * worst.share, worst.site->site);
      break;
    }
    case Verdict::kDiverged: text = DivergedSentence(diff); break;
    case Verdict::kIncomparable: text = fmt::format("Nothing to compare: {}.", diff.reason); break;
  }
  if (diff.tokens && diff.verdict != Verdict::kIncomparable) {
    std::string statement = diff.tokens->statement;
    statement[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(statement[0])));
    text += fmt::format(" {}; what follows is not compared.", statement);
  }
  return text;
}

std::string DescribeSide(const TraceHeader& header, const EngineRounding& rounding, const std::string& path) {
  std::string text;
  const auto add = [&](const std::string& part) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  };
  add(header.engine_name +
      (header.engine_version.empty() || header.engine_name.empty() ? "" : " " + header.engine_version));
  add(rounding.name + (rounding.inferred ? " (by its values)" : ""));
  add(path);
  if (!header.complete) add("still open");
  return text;
}

std::string DescribeCounts(const StatusCounts& counts) {
  std::string text = fmt::format("{} compared", Plural(counts.Compared(), "site"));
  std::string separator = ": ";
  const auto add = [&](std::int64_t count, std::string_view what) {
    if (count == 0) return;
    text += fmt::format("{}{} {}", separator, count, what);
    separator = ", ";
  };
  add(counts.identical, "identical");
  add(counts.within_noise, "within noise");
  add(counts.diverged, "diverged");
  separator = "; ";
  add(counts.shape_mismatch, "of other shape");
  add(counts.token_mismatch, "on other tokens");
  add(counts.missing_in_subject, "missing in the subject");
  add(counts.missing_in_reference, "missing in the reference");
  return text;
}

std::string DescribeNote(const SiteDiff& site) {
  std::string text = site.note;
  if (site.relation.is_null()) return text;
  const std::string kind = site.relation.value("kind", "");
  std::string said;
  if (site.relation.contains("statement")) {
    said = site.relation.value("statement", "");
    if (site.relation.contains("left_nmse") && site.relation["left_nmse"].is_number()) {
      said += fmt::format("; nmse {} is left", ShortNumber(site.relation["left_nmse"].get<double>()));
    }
  } else if (kind == "rope_row_order") {
    said = fmt::format("the subject's rows are in {} order, heads of {}", site.relation.value("from", ""),
                       site.relation.value("head_dim", 0));
  } else if (kind == "layout") {
    said = fmt::format("{} in the subject, {} in the reference", site.relation.value("from", ""),
                       site.relation.value("to", ""));
  } else {
    said = site.relation.dump();
  }
  return text.empty() ? said : text + "; " + said;
}

std::vector<TableEntry> FoldRuns(const DiffResult& diff, bool all) {
  const std::vector<SiteDiff>& sites = diff.sites;
  std::vector<std::size_t> shown;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    if (all || !IsMissing(sites[i])) shown.push_back(i);
  }
  std::vector<TableEntry> entries;
  for (std::size_t begin = 0; begin < shown.size();) {
    const SiteDiff& first = sites[shown[begin]];
    std::size_t end = begin + 1;
    while (end < shown.size() && sites[shown[end]].status == first.status && sites[shown[end]].step == first.step)
      ++end;
    // The start of a divergence and what stood right before it are what a reader looks for; the last row is the outcome.
    const bool says_nothing = first.status == SiteStatus::kTokenMismatch;
    const std::size_t head = says_nothing ? 0 : first.status == SiteStatus::kDiverged ? 6 : 2;
    const std::size_t tail = says_nothing ? 0 : 2;
    if (all || end - begin <= head + tail + 2) {
      for (std::size_t i = begin; i < end; ++i) entries.push_back({{shown[i]}, false});
    } else {
      for (std::size_t i = begin; i < begin + head; ++i) entries.push_back({{shown[i]}, false});
      entries.push_back({{shown.begin() + static_cast<std::ptrdiff_t>(begin + head),
                          shown.begin() + static_cast<std::ptrdiff_t>(end - tail)},
                         true});
      for (std::size_t i = end - tail; i < end; ++i) entries.push_back({{shown[i]}, false});
    }
    begin = end;
  }
  return entries;
}

std::string DescribeFold(const DiffResult& diff, const TableEntry& fold) {
  const SiteStatus status = diff.sites[fold.sites.front()].status;
  if (status == SiteStatus::kTokenMismatch) return fmt::format("{} sites on other tokens", fold.sites.size());
  std::string text = fmt::format("{} more {}", fold.sites.size(), Words(status));
  if (status != SiteStatus::kWithinNoise && status != SiteStatus::kDiverged) return text;
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const std::size_t i : fold.sites) {
    if (!diff.sites[i].compared) continue;
    const double nmse = diff.sites[i].stats.Nmse();
    least = std::min(least, nmse);
    most = std::max(most, nmse);
  }
  if (least == std::numeric_limits<double>::infinity()) return text;
  return text + (status == SiteStatus::kDiverged ? fmt::format(", nmse {} to {}", ShortNumber(least), ShortNumber(most))
                                                 : fmt::format(", nmse at most {}", ShortNumber(most)));
}

std::vector<std::string> DescribeMissing(const DiffResult& diff) {
  std::vector<std::string> lines;
  for (const SiteStatus status : {SiteStatus::kMissingInSubject, SiteStatus::kMissingInReference}) {
    std::vector<std::string> sites;
    std::int64_t unnamed = 0;
    for (const SiteDiff& site : diff.sites) {
      if (site.status != status || site.undecided) continue;
      if (!site.is_site) {
        ++unnamed;
      } else if (std::find(sites.begin(), sites.end(), site.site) == sites.end()) {
        sites.push_back(site.site);
      }
    }
    if (sites.empty() && unnamed == 0) continue;
    const char* side = status == SiteStatus::kMissingInSubject ? "reference" : "subject";
    std::string line = fmt::format("only in the {}: {}", side, DescribeSites(sites));
    if (unnamed > 0)
      line += fmt::format("{}{} that no rule maps to a site", sites.empty() ? "" : "; and ", Plural(unnamed, "tensor"));
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace paritrace
