// paritrace diagnose SUB [--model MODEL] [--ref REF] [--subject-model FILE]
#include <cstdio>
#include <optional>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "compare/token_rows.h"
#include "core/error.h"
#include "core/file.h"
#include "diagnose/diagnosis.h"
#include "diagnose/learn_arithmetic.h"
#include "diagnose/without_weights.h"
#include "formats/vocabulary.h"
#include "graph/arithmetic_file.h"
#include "report/diagnosis_ci.h"
#include "report/diagnosis_json.h"
#include "report/diagnosis_overlay.h"
#include "report/diagnosis_page.h"
#include "report/diagnosis_text.h"
#include "report/terminal.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string subject, model, reference, subject_model, arithmetic, learned, oracle, overlay;
  bool every_site = false, trust_remote_code = false;
  OutputOptions outputs;
};

void WriteFiles(const Options& options, const Diagnosis& diagnosis, const TraceHeader& header) {
  const OutputOptions& out = options.outputs;
  if (!out.json.empty()) WriteFileAtomically(out.json, DiagnosisToJson(diagnosis).dump(1) + "\n");
  if (!out.html.empty())
    WriteFileAtomically(out.html, DiagnosisToHtml(diagnosis, TokenTexts({options.model}, header.tokens)));
  if (!out.junit.empty()) WriteFileAtomically(out.junit, DiagnosisToJunit(diagnosis));
  if (!out.sarif.empty()) WriteFileAtomically(out.sarif, DiagnosisToSarif(diagnosis).dump(1) + "\n");
  if (!out.markdown.empty()) WriteFileAtomically(out.markdown, DiagnosisToMarkdown(diagnosis));
}

void Write(const Options& options, const Diagnosis& diagnosis, const Trace& subject) {
  const OutputOptions& out = options.outputs;
  WriteFiles(options, diagnosis, subject.header);
  if (!options.overlay.empty()) {
    const auto json = DiagnosisToOverlay(diagnosis, subject);
    WriteFileAtomically(options.overlay,
                        json.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  }
  if (out.quiet || UsesStandardOutput(out) || options.overlay == "-") return;
  const DiagnosisTextOptions text{.width = static_cast<std::size_t>(TerminalWidth(stdout)),
                                  .colour = WantsColour(stdout),
                                  .every_site = options.every_site};
  fmt::print("{}", DiagnosisToTerminal(diagnosis, text));
}

// Writes what was learned, and diagnoses again with it: what follows in `how` is judged by it, too.
Diagnosis Learn(const Model& model, const Trace& subject, const std::string& file, DiagnoseOptions& how,
                Diagnosis diagnosis) {
  const LearnedArithmetic learned = LearnArithmetic(model, subject, how, diagnosis);
  std::vector<std::string> sentences, comments;
  for (const LearnedOp& op : learned.ops) {
    comments.push_back(fmt::format("{:.2f} % of {} values to the bit, {:.2f} % as {} has it", 100 * op.after, op.values,
                                   100 * op.before, learned.base));
    sentences.push_back(fmt::format("learned, {} ({})", Describe(op.recipe), comments.back()));
  }
  if (learned.ops.empty()) {
    sentences.push_back(fmt::format("nothing was learned: {} is not explained better by any recipe", learned.base));
  }
  for (const std::string& family : learned.left_unexplained) sentences.push_back("not learned, " + family);
  WriteFileAtomically(file, FormatArithmetic(learned.arithmetic, learned.base, comments));
  if (!learned.ops.empty()) {
    how.arithmetic = file;
    diagnosis = Diagnose(model, subject, how);
  }
  for (std::string& sentence : sentences) diagnosis.remarks.push_back(std::move(sentence));
  return diagnosis;
}

int Run(const Options& options) {
  if (options.model.empty() && options.reference.empty()) {
    throw UsageError(
        "diagnose: --model MODEL is needed, the folder or .gguf that the subject should be computing with, or at least "
        "--ref REF");
  }
  if (!options.learned.empty() && !options.learned.ends_with(".toml"))
    throw UsageError(fmt::format("--learn-arithmetic {}: expected a file that ends in .toml", options.learned));
  if (options.model.empty() && !options.learned.empty())
    throw UsageError("diagnose: --learn-arithmetic FILE needs --model MODEL beside it");
  if (options.model.empty() && !options.subject_model.empty())
    throw UsageError("diagnose: --subject-model FILE needs --model MODEL beside it");
  std::optional<Model> model;
  if (!options.model.empty()) model = LoadModel(options.model);
  const Trace subject = OpenTrace(options.subject);
  std::optional<Trace> reference;
  if (!options.reference.empty()) reference = OpenTrace(options.reference);
  const auto mismatch = reference ? FindTokenMismatch(*reference, subject) : std::nullopt;
  Diagnosis diagnosis;
  try {
    DiagnoseOptions how{.arithmetic = options.arithmetic,
                        .progress = ProgressLine("replaying"),
                        .keep_views = !options.outputs.html.empty()};
    diagnosis = model ? Diagnose(*model, subject, how) : DiagnoseWithoutWeights(*reference, subject, how);
    if (!options.learned.empty()) diagnosis = Learn(*model, subject, options.learned, how, std::move(diagnosis));
    if (!options.subject_model.empty())
      TellConversionFromExecution(LoadModel(options.subject_model), subject, how, diagnosis);
    if (model && reference) AddReference(*model, *reference, how, diagnosis);
  } catch (const IncomparableError& error) {
    // What is known still stands in the outputs that were asked for.
    Diagnosis known{.verdict = "incomparable"};
    known.subject_header = subject.header.raw;
    if (reference) known.reference_header = reference->header.raw;
    if (mismatch) AddTokenMismatch(*mismatch, known);
    known.reason = error.what();
    WriteFiles(options, known, subject.header);
    throw;
  }
  if (mismatch) AddTokenMismatch(*mismatch, diagnosis);
  Write(options, diagnosis, subject);
  return diagnosis.verdict == "incomparable" ? 3 : diagnosis.verdict == "diverged" ? 1 : 0;
}

}  // namespace

void AddDiagnose(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("diagnose", "replay a trace op by op against a model, and name what is wrong");
  auto options = std::make_shared<Options>();
  command->add_option("SUB", options->subject, "trace of the engine under test")->required();
  command->add_option("--model", options->model, "Hugging Face folder or .gguf that the subject should compute with")
      ->type_name("MODEL");
  command
      ->add_option(
          "--ref", options->reference,
          "trace of the reference: replayed as well, and may be the wrong one; trusted where there is no --model")
      ->type_name("REF");
  command
      ->add_option(
          "--subject-model", options->subject_model,
          "the file the subject ran, where it is another one: tells mistakes of conversion from mistakes of execution")
      ->type_name("FILE");
  command
      ->add_option("--arithmetic", options->arithmetic,
                   "how the subject rounds: a policy or a .toml file of --learn-arithmetic (default: what its trace "
                   "says, else inferred)")
      ->type_name("NAME|FILE");
  command
      ->add_option("--learn-arithmetic", options->learned,
                   "where no policy explains an op to the bit, search how it rounds, and write that as a policy file")
      ->type_name("FILE.toml");
  // Only named here: main.cc hands the command to Python where it is torch.
  command
      ->add_option(
          "--oracle", options->oracle,
          "what computes the right values: own, or torch, Hugging Face's code of MODEL (default: own, where it "
          "knows the architecture)")
      ->type_name("own|torch")
      ->check(CLI::IsMember({"own", "torch"}));
  command->add_flag("--trust-remote-code", options->trust_remote_code,
                    "with torch: run the code that the model folder brings along");
  command->add_flag("--sites", options->every_site, "show the noise of every site");
  command->add_option("--model-explorer", options->overlay, kOverlayHelp)->type_name("FILE");
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
