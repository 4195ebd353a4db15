// The table of commands as JSON, from the parser itself: the man page and the shells' completions are made of it, so that they
// cannot name an option that is not there (scripts/shell_files.py).
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/outputs.h"

namespace paritrace::cli {
namespace {

using Json = nlohmann::ordered_json;

Json Describe(const CLI::Option& option) {
  Json names = Json::array();
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  const bool takes_value = option.get_items_expected_max() > 0;
  Json out = {{"names", names}, {"help", option.get_description()}};
  if (names.empty()) out["argument"] = option.get_single_name();
  if (!names.empty() && takes_value) out["value"] = option.get_type_name();
  if (option.get_required()) out["required"] = true;
  if (!option.get_default_str().empty()) out["default"] = option.get_default_str();
  return out;
}

}  // namespace

std::string DescribeCommands(const CLI::App& app) {
  Json commands = Json::array();
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    Json options = Json::array();
    for (const CLI::Option* option : command->get_options()) options.push_back(Describe(*option));
    commands.push_back({{"name", command->get_name()}, {"help", command->get_description()}, {"options", options}});
  }
  return Dump({{"description", app.get_description()}, {"version", PARITRACE_VERSION}, {"commands", commands}});
}

}  // namespace paritrace::cli
