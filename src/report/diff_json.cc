#include "report/diff_json.h"

#include <cmath>

#include "report/diff_detail.h"

namespace paritrace {
namespace {

using Json = nlohmann::ordered_json;

void PutNumber(Json& object, const char* key, double value) {
  if (std::isfinite(value)) {
    object[key] = value;
  } else {
    object[key] = nullptr;
    object["nonfinite"] = true;
  }
}

Json PositionToJson(const PositionStats& position) {
  Json out = Json::object();
  const bool unmeasured = position.mismatches > 0;
  const double nan = std::nan("");
  PutNumber(out, "max_abs", unmeasured ? nan : position.max_abs);
  PutNumber(out, "nmse", unmeasured ? nan : position.Nmse());
  PutNumber(out, "cosine", unmeasured ? nan : position.Cosine());
  return out;
}

Json IntervalToJson(double low, double high) {
  Json out = Json::array();
  for (const double end : {low, high}) out.push_back(std::isfinite(end) ? Json(end) : Json(nullptr));
  return out;
}

// What a digest cannot tell is null, without "nonfinite": it is not known, not infinite.
void PutEstimate(const SiteDiff& site, Json& out) {
  const SiteEstimate& estimate = *site.estimate;
  const PairStats& stats = site.stats;
  out["estimated"] = true;
  out["max_abs"] = nullptr;
  out["max_abs_at"] = nullptr;
  out["mean_abs"] = nullptr;
  PutNumber(out, "rms_reference", stats.RmsReference());
  PutNumber(out, "rms_subject", stats.RmsSubject());
  PutNumber(out, "cosine", estimate.cosine.value);
  PutNumber(out, "nmse", estimate.nmse.value);
  out["nmse_interval"] = IntervalToJson(estimate.nmse.low, estimate.nmse.high);
  out["cosine_interval"] = IntervalToJson(estimate.cosine.low, estimate.cosine.high);
  out["max_abs_interval"] = IntervalToJson(estimate.max_abs_low, estimate.max_abs_high);
  out["by_norms"] = estimate.by_norms;
  out["nan"] = stats.nan_either;
  out["inf"] = stats.inf_either;
  Json positions = Json::array();
  for (std::size_t i = 0; i < site.positions.size(); ++i) {
    const Estimate& nmse = estimate.position_nmse[i];
    Json position = {{"max_abs", nullptr}};
    PutNumber(position, "nmse", nmse.value);
    PutNumber(position, "cosine", site.positions[i].Cosine());
    position["nmse_interval"] = IntervalToJson(nmse.low, nmse.high);
    positions.push_back(std::move(position));
  }
  out["per_position"] = std::move(positions);
  out["relation"] = site.relation;
  out["count"] = stats.count;
  out["mismatches"] = stats.mismatches;
  PutNumber(out, "allowed_nmse", site.allowed * site.allowed);
  out["first_position"] = site.first_position;
}

void PutFigures(const SiteDiff& site, Json& out) {
  if (site.estimate) return PutEstimate(site, out);
  const PairStats& stats = site.stats;
  const bool unmeasured = stats.mismatches > 0;
  const double nan = std::nan("");
  PutNumber(out, "max_abs", unmeasured ? nan : stats.max_abs);
  out["max_abs_at"] = unmeasured ? site.first_mismatch_at : site.max_abs_at;
  PutNumber(out, "mean_abs", unmeasured ? nan : stats.MeanAbs());
  PutNumber(out, "rms_reference", stats.RmsReference());
  PutNumber(out, "rms_subject", stats.RmsSubject());
  PutNumber(out, "cosine", unmeasured ? nan : stats.Cosine());
  PutNumber(out, "nmse", unmeasured ? nan : stats.Nmse());
  out["nan"] = stats.nan_either;
  out["inf"] = stats.inf_either;
  Json positions = Json::array();
  for (const PositionStats& position : site.positions) positions.push_back(PositionToJson(position));
  out["per_position"] = std::move(positions);
  out["relation"] = site.relation;
  out["count"] = stats.count;
  out["equal"] = stats.equal;
  out["masked"] = stats.masked;
  out["mismatches"] = stats.mismatches;
  out["nan_reference"] = stats.nan_reference;
  out["nan_subject"] = stats.nan_subject;
  out["inf_reference"] = stats.inf_reference;
  out["inf_subject"] = stats.inf_subject;
  if (!unmeasured) {
    if (stats.max_abs_at >= 0) out["max_abs_values"] = {stats.max_reference, stats.max_subject};
  } else {
    Json finite = Json::object();
    PutNumber(finite, "max_abs", stats.max_abs);
    finite["max_abs_at"] = site.max_abs_at;
    PutNumber(finite, "mean_abs", stats.MeanAbs());
    PutNumber(finite, "cosine", stats.Cosine());
    PutNumber(finite, "nmse", stats.Nmse());
    out["finite"] = std::move(finite);
  }
  PutNumber(out, "allowed_nmse", site.allowed * site.allowed);
  out["first_position"] = site.first_position;
  if (site.detail) out["all_stats"] = DetailToJson(*site.detail);
}

void PutNoFigures(const SiteDiff& site, Json& out) {
  for (const char* key :
       {"max_abs", "max_abs_at", "mean_abs", "rms_reference", "rms_subject", "cosine", "nmse", "nan", "inf"})
    out[key] = nullptr;
  out["per_position"] = Json::array();
  out["relation"] = site.relation;
}

Json SiteToJson(const SiteDiff& site) {
  Json out = Json::object();
  out["step"] = site.step;
  out["site"] = site.site;
  out["shape"] = site.shape;
  out["status"] = Name(site.status);
  site.compared ? PutFigures(site, out) : PutNoFigures(site, out);
  out["diverged_position"] = site.diverged_position ? Json(*site.diverged_position) : Json(nullptr);
  const auto side = [&](const std::string& name, DType dtype) {
    return name.empty() ? Json(nullptr) : Json{{"name", name}, {"dtype", Name(dtype)}};
  };
  out["reference"] = side(site.reference_name, site.reference_dtype);
  out["subject"] = side(site.subject_name, site.subject_dtype);
  if (site.subject_shape != site.shape) out["subject_shape"] = site.subject_shape;
  if (!site.note.empty()) out["note"] = site.note;
  if (!site.evidence.is_null()) out["evidence"] = site.evidence;
  return out;
}

Json RoundingToJson(const EngineRounding& rounding) {
  return {{"arithmetic", rounding.name}, {"unit_roundoff", rounding.storage}, {"inferred", rounding.inferred}};
}

Json TokensToJson(const TokenMismatch& tokens) {
  Json out = Json::object();
  out["cause"] = tokens.cause;
  out["statement"] = tokens.statement;
  out["sequence"] = tokens.sequence;
  out["position"] = tokens.position;
  out["reference"] = tokens.reference ? Json(*tokens.reference) : Json(nullptr);
  out["subject"] = tokens.subject ? Json(*tokens.subject) : Json(nullptr);
  return out;
}

}  // namespace

Json HeaderToJson(const TraceHeader& header, const std::string& path) {
  Json out = header.raw.is_object() ? header.raw : Json::object();
  if (out.empty()) {
    out["engine"] = {{"name", header.engine_name}, {"version", header.engine_version}};
    out["model"] = {
        {"name", header.model_name}, {"architecture", header.model_architecture}, {"file", header.model_file}};
    Json steps = Json::array();
    for (const TraceStep& step : header.steps)
      steps.push_back({{"step", step.step}, {"start", step.start}, {"count", step.count}});
    out["run"] = {{"tokens", header.tokens}, {"steps", std::move(steps)}, {"arithmetic", header.arithmetic}};
    out["status"] = header.complete ? "complete" : "open";
  }
  out["path"] = path;
  return out;
}

Json DiffToJson(const DiffResult& diff) {
  Json out = Json::object();
  out["schema"] = "paritrace/diff/1";
  out["verdict"] = Name(diff.verdict);
  out["reference"] = HeaderToJson(diff.reference, diff.reference_path);
  out["subject"] = HeaderToJson(diff.subject, diff.subject_path);
  if (diff.first_divergence) {
    const FirstDivergence& first = *diff.first_divergence;
    out["first_divergence"] = {{"step", first.step},
                               {"site", first.site},
                               {"position", first.position ? Json(*first.position) : Json(nullptr)}};
  } else {
    out["first_divergence"] = nullptr;
  }
  Json sites = Json::array();
  for (const SiteDiff& site : diff.sites) sites.push_back(SiteToJson(site));
  out["sites"] = std::move(sites);
  const StatusCounts counts = diff.Counts();
  out["counts"] = {{"identical", counts.identical},
                   {"within_noise", counts.within_noise},
                   {"diverged", counts.diverged},
                   {"missing_in_subject", counts.missing_in_subject},
                   {"missing_in_reference", counts.missing_in_reference},
                   {"shape_mismatch", counts.shape_mismatch},
                   {"token_mismatch", counts.token_mismatch},
                   {"total", counts.Total()}};
  out["noise"] = {{"reference", RoundingToJson(diff.reference_rounding)},
                  {"subject", RoundingToJson(diff.subject_rounding)}};
  out["tokens"] = diff.tokens ? TokensToJson(*diff.tokens) : Json(nullptr);
  if (!diff.reason.empty()) out["reason"] = diff.reason;
  return out;
}

}  // namespace paritrace
