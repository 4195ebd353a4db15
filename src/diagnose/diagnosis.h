// The whole answer on one subject: defects with their causes, the noise at every site, and what was cleared.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "arch/model.h"
#include "compare/tokens.h"
#include "diagnose/common_ground.h"
#include "diagnose/routing.h"
#include "diagnose/search.h"
#include "diagnose/site_view.h"
#include "trace/trace.h"

namespace paritrace {

struct Defect {
  std::string side;  // "subject" or "reference"
  int step = 0;      // the first step it shows in
  std::string site;
  std::vector<std::string> inputs;  // recorded sites it was replayed from
  double ratio = 0;  // introduced error over noise floor; infinity where something is masked or not finite
  double introduced_nmse = 0;
  NamedCause cause;
  std::vector<Alternative> alternatives;
  Scope where;
  std::string origin;  // "conversion" or "execution"; "" where the file the subject ran was not given
};

struct NoiseRow {
  int step = 0;
  std::string site;
  double introduced_nmse = 0, floor_nmse = 0, ratio = 0, left_nmse = 0, exact = 0, one_ulp = 0, propagated_nmse = 0;
  std::int64_t values = 0;
  bool judged = true;
};

struct Note {
  std::string what, evidence;
};

struct Equivalence {
  std::string site, statement;
};

struct Diagnosis {
  std::string verdict;                  // "identical", "within_noise", "diverged", "incomparable"
  std::string reason;                   // one sentence, where the verdict is incomparable
  std::optional<TokenMismatch> tokens;  // the reference was fed others
  std::string arithmetic;               // name of the policy used
  bool arithmetic_inferred = false;
  std::vector<Defect> defects;  // in order of execution, the subject's before the reference's
  std::vector<NoiseRow> noise;
  std::vector<Note> cleared;
  std::vector<Note> unproven;  // without weights: `what` could not be judged, and why
  std::vector<Equivalence> equivalences;
  std::vector<RoutingFlip> routing;  // tokens that go to other experts than in MODEL, run in f64
  std::int64_t values = 0;
  double exact = 0, one_ulp = 0;     // shares of `values`
  std::vector<std::string> remarks;  // layout chosen, sites that MODEL does not have, an open trace
  RunLayout layout;                  // of the subject's run
  std::string counterfactual;        // with the named causes applied, does the whole subject come out within noise?
  nlohmann::ordered_json subject_header, reference_header;
  std::vector<SiteView> views;  // of the subject's sites; with DiagnoseOptions::keep_views
};

struct DiagnoseOptions {
  std::string arithmetic;  // "" to take it from the trace, or infer it
  Replay::Progress progress;
  bool keep_views = false;  // Diagnosis::views as well
};

// Errors: IncomparableError and UsageError as in recording.h and model.h.
[[nodiscard]] Diagnosis Diagnose(const Model& model, const Trace& subject, const DiagnoseOptions& options);

// Replays the subject against the file it ran as well: a defect against MODEL that is none against that file was made when
// the file was written, any other by the engine. Fills `origin` and says so in the statement.
void TellConversionFromExecution(const Model& subject_model, const Trace& subject, const DiagnoseOptions& options,
                                 Diagnosis& diagnosis);

// The reference was fed other tokens: the first defect then, and nothing of the two can be compared.
void AddTokenMismatch(const TokenMismatch& mismatch, Diagnosis& diagnosis);

// Appends what the reference's own replay says: its defects carry side "reference".
void AddReference(const Model& model, const Trace& reference, const DiagnoseOptions& options, Diagnosis& diagnosis);

}  // namespace paritrace
