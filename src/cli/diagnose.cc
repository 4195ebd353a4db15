// paritrace diagnose SUB --model MODEL [--ref REF] [--subject-model FILE]
#include <cstdio>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/progress.h"
#include "core/error.h"
#include "core/file.h"
#include "diagnose/diagnosis.h"
#include "formats/vocabulary.h"
#include "report/diagnosis_ci.h"
#include "report/diagnosis_json.h"
#include "report/diagnosis_page.h"
#include "report/diagnosis_text.h"
#include "report/terminal.h"

namespace paritrace::cli {
namespace {

struct Options {
  std::string subject, model, reference, subject_model, arithmetic;
  bool every_site = false;
  OutputOptions outputs;
};

void Write(const Options& options, const Diagnosis& diagnosis, const TraceHeader& header) {
  const OutputOptions& out = options.outputs;
  if (!out.json.empty()) WriteFileAtomically(out.json, DiagnosisToJson(diagnosis).dump(1) + "\n");
  if (!out.html.empty())
    WriteFileAtomically(out.html, DiagnosisToHtml(diagnosis, TokenTexts({options.model}, header.tokens)));
  if (!out.junit.empty()) WriteFileAtomically(out.junit, DiagnosisToJunit(diagnosis));
  if (!out.sarif.empty()) WriteFileAtomically(out.sarif, DiagnosisToSarif(diagnosis).dump(1) + "\n");
  if (!out.markdown.empty()) WriteFileAtomically(out.markdown, DiagnosisToMarkdown(diagnosis));
  if (out.quiet || UsesStandardOutput(out)) return;
  const DiagnosisTextOptions text{.width = static_cast<std::size_t>(TerminalWidth(stdout)),
                                  .colour = WantsColour(stdout),
                                  .every_site = options.every_site};
  fmt::print("{}", DiagnosisToTerminal(diagnosis, text));
}

int Run(const Options& options) {
  if (options.model.empty()) {
    throw UsageError(
        "diagnose: --model MODEL is needed: the folder or .gguf that the subject should be computing with");
  }
  const Model model = LoadModel(options.model);
  const Trace subject = OpenTrace(options.subject);
  DiagnoseOptions how{.arithmetic = options.arithmetic,
                      .progress = ProgressLine("replaying"),
                      .keep_views = !options.outputs.html.empty()};
  Diagnosis diagnosis = Diagnose(model, subject, how);
  if (!options.subject_model.empty())
    TellConversionFromExecution(LoadModel(options.subject_model), subject, how, diagnosis);
  if (!options.reference.empty()) AddReference(model, OpenTrace(options.reference), how, diagnosis);
  Write(options, diagnosis, subject.header);
  return diagnosis.verdict == "diverged" ? 1 : 0;
}

}  // namespace

void AddDiagnose(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("diagnose", "replay a trace op by op against a model, and name what is wrong");
  auto options = std::make_shared<Options>();
  command->add_option("SUB", options->subject, "trace of the engine under test")->required();
  command->add_option("--model", options->model, "Hugging Face folder or .gguf that the subject should compute with")
      ->type_name("MODEL");
  command
      ->add_option("--ref", options->reference,
                   "trace of the reference: it is replayed as well, and may be the wrong one")
      ->type_name("REF");
  command
      ->add_option(
          "--subject-model", options->subject_model,
          "the file the subject ran, where it is another one: tells mistakes of conversion from mistakes of execution")
      ->type_name("FILE");
  command
      ->add_option("--arithmetic", options->arithmetic,
                   "how the subject rounds (default: what its trace says, else inferred)")
      ->type_name("NAME");
  command->add_flag("--sites", options->every_site, "show the noise of every site");
  AddOutputOptions(*command, options->outputs);
  command->callback([options, &exit_code] { exit_code = Run(*options); });
}

}  // namespace paritrace::cli
