// The `paritrace` program: picks the command, and turns every error into one line and an exit code.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <iterator>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "arch/model.h"
#include "cli/command.h"
#include "core/error.h"

namespace {

constexpr int kBadInput = 2;
constexpr int kIncomparable = 3;
constexpr int kInternal = 70;  // EX_SOFTWARE of sysexits.h

int Fail(int code, const char* what) {
  fmt::print(stderr, "paritrace: {}\n", what);
  return code;
}

// These need engines, unpicklers or tokenizers, which live in Python.
constexpr std::string_view kPythonCommands[] = {"capture", "import", "tokens", "sweep", "doctor"};

// The same interpreter that installed us is used where it is known.
int RunPython(int argc, char** argv, const std::vector<std::string>& more = {}) {
  const char* python = std::getenv("PARITRACE_PYTHON");
  std::vector<char*> arguments = {const_cast<char*>(python != nullptr ? python : "python3"), const_cast<char*>("-m"),
                                  const_cast<char*>("paritrace")};
  for (int i = 1; i < argc; ++i) arguments.push_back(argv[i]);
  for (const std::string& word : more) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  return Fail(kBadInput,
              fmt::format("{} needs python3 with the paritrace package: pip install paritrace", argv[1]).c_str());
}

}  // namespace

// `diagnose --oracle torch` runs the model in PyTorch.
bool AsksForTorch(int argc, char** argv) {
  if (argc < 2 || std::string_view(argv[1]) != "diagnose") return false;
  for (int i = 2; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--oracle=torch" || (word == "--oracle" && i + 1 < argc && std::string_view(argv[i + 1]) == "torch"))
      return true;
  }
  return false;
}

int main(int argc, char** argv) {
  if (AsksForTorch(argc, argv)) return RunPython(argc, argv);
  if (argc > 1 && std::ranges::find(kPythonCommands, std::string_view(argv[1])) != std::end(kPythonCommands))
    return RunPython(argc, argv);
  CLI::App app{"Finds out why an inference engine does not give the same answer as the reference.", "paritrace"};
  app.set_version_flag("--version", "paritrace " PARITRACE_VERSION);
  app.require_subcommand(1);
  app.footer(
      "paritrace capture hf|llamacpp … records an engine (python -m paritrace capture --help).\n"
      "paritrace import torch|msprobe|raw IN -o TRACE reads what needs Python, or a shape (python -m paritrace import "
      "--help).\n"
      "paritrace tokens REF SUB compares token ids; sweep PLAN.toml runs many scenarios; doctor says what is "
      "installed.\n"
      "Exit codes: 0 parity, 1 diverged, 2 bad usage or input, 3 nothing to compare.");
  int exit_code = 0;
  paritrace::cli::AddDiff(app, exit_code);
  paritrace::cli::AddAlign(app, exit_code);
  paritrace::cli::AddDiagnose(app, exit_code);
  paritrace::cli::AddRun(app, exit_code);
  paritrace::cli::AddShow(app, exit_code);
  paritrace::cli::AddDigest(app, exit_code);
  paritrace::cli::AddExport(app, exit_code);
  paritrace::cli::AddRepair(app, exit_code);
  paritrace::cli::AddLogits(app, exit_code);
  paritrace::cli::AddGrowth(app, exit_code);
  paritrace::cli::AddWeights(app, exit_code);
  if (argc == 2 && std::string_view(argv[1]) == "--describe") {  // for scripts/shell_files.py; not in --help
    fmt::print("{}", paritrace::cli::DescribeCommands(app));
    return 0;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return Fail(kBadInput, error.what());
  } catch (const paritrace::UnknownArchitectureError& error) {
    // Hugging Face's own code of the model may stand in for a file of ours.
    if (!error.is_folder || std::string_view(argv[1]) != "diagnose") return Fail(kBadInput, error.what());
    return RunPython(argc, argv, {"--oracle", "torch", "--chosen-for", error.architecture});
  } catch (const paritrace::UsageError& error) {
    return Fail(kBadInput, error.what());
  } catch (const paritrace::FormatError& error) {
    return Fail(kBadInput, error.what());
  } catch (const paritrace::IncomparableError& error) {
    return Fail(kIncomparable, error.what());
  } catch (const std::bad_alloc&) {
    return Fail(kBadInput, "out of memory");
  } catch (const std::exception& error) {
    return Fail(kInternal, error.what());
  }
  return exit_code;
}
