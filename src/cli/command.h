// What every command file offers to main.cc: it adds itself to the parser and leaves its exit code behind.
#pragma once

#include <string>

#include <CLI/CLI.hpp>

namespace paritrace::cli {

// The outputs that every comparing command takes.
struct OutputOptions {
  std::string json, markdown, html, junit, sarif;  // "" not asked for, "-" standard output
  bool quiet = false;
};
inline constexpr const char* kOverlayHelp = "write the errors as node data for Google's Model Explorer";
void AddOutputOptions(CLI::App& command, OutputOptions& options);

// True if some output goes to standard output, so that the terminal report must not.
[[nodiscard]] bool UsesStandardOutput(const OutputOptions& options);

// The commands added to `app` with their options, as JSON text.
[[nodiscard]] std::string DescribeCommands(const CLI::App& app);

// Each adds one command; its callback sets exit_code.
void AddDiff(CLI::App& app, int& exit_code);
void AddAlign(CLI::App& app, int& exit_code);
void AddDiagnose(CLI::App& app, int& exit_code);
void AddRun(CLI::App& app, int& exit_code);
void AddShow(CLI::App& app, int& exit_code);
void AddDigest(CLI::App& app, int& exit_code);
void AddExport(CLI::App& app, int& exit_code);
void AddRepair(CLI::App& app, int& exit_code);
void AddLogits(CLI::App& app, int& exit_code);
void AddGrowth(CLI::App& app, int& exit_code);
void AddWeights(CLI::App& app, int& exit_code);

}  // namespace paritrace::cli
