#include "graph/arithmetic_file.h"

#include <algorithm>
#include <array>
#include <set>
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <toml++/toml.h>

#include "core/error.h"
#include "core/file.h"

namespace paritrace {
namespace {

constexpr std::string_view kSchema = "paritrace/arithmetic/1";
constexpr std::array<std::string_view, 10> kFamilies = {"norm",    "linear",     "rope", "scores", "softmax",
                                                        "context", "activation", "add",  "embed",  "moe"};
template <typename T>
using Names = std::vector<std::pair<std::string_view, T>>;

const Names<Rounding>& Roundings() {
  static const Names<Rounding> names = {
      {"f64", Rounding::kNone}, {"f32", Rounding::kF32}, {"f16", Rounding::kF16}, {"bf16", Rounding::kBF16}};
  return names;
}
const Names<Accumulate>& Sums() {
  static const Names<Accumulate> names = {{"exact", Accumulate::kExact},
                                          {"f32-sequential", Accumulate::kF32Sequential}};
  return names;
}
const Names<ActivationKernel>& Kernels() {
  static const Names<ActivationKernel> names = {{"exact", ActivationKernel::kExact},
                                                {"vector", ActivationKernel::kVector},
                                                {"stored-steps", ActivationKernel::kStoredSteps},
                                                {"rational", ActivationKernel::kRational},
                                                {"ggml", ActivationKernel::kGgml}};
  return names;
}

template <typename T>
std::string ListOf(const Names<T>& names) {
  std::string list;
  for (const auto& [name, value] : names) list += fmt::format("{}{}", list.empty() ? "" : ", ", name);
  return list;
}

template <typename T>
std::string_view NameOf(const Names<T>& names, T wanted) {
  const auto found = std::ranges::find(names, wanted, &std::pair<std::string_view, T>::second);
  return found == names.end() ? "" : found->first;
}

std::string LineOf(const toml::node& node) { return fmt::format("line {}", node.source().begin.line); }

std::string Text(const toml::node& node, const std::string& key, const std::string& file) {
  const auto text = node.value<std::string>();
  if (!text) throw FormatError(file, fmt::format("{}, {}", LineOf(node), key), "a string", "another value");
  return *text;
}

template <typename T>
T Choice(const toml::node& node, const std::string& key, const Names<T>& names, const std::string& file) {
  const std::string text = Text(node, key, file);
  for (const auto& [name, value] : names) {
    if (name == text) return value;
  }
  throw FormatError(file, fmt::format("{}, {}", LineOf(node), key), fmt::format("one of {}", ListOf(names)),
                    fmt::format("\"{}\"", text));
}

OpRecipe ReadRecipe(const toml::table& table, const std::string& file) {
  OpRecipe recipe;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    if (name == "family") {
      recipe.family = Text(node, name, file);
      if (std::ranges::find(kFamilies, recipe.family) == kFamilies.end()) {
        throw FormatError(file, fmt::format("{}, family", LineOf(node)), "an op's family, such as \"activation\"",
                          fmt::format("\"{}\"", recipe.family));
      }
    } else if (name == "inner") {
      recipe.inner = Choice(node, name, Roundings(), file);
    } else if (name == "accumulate") {
      recipe.accumulate = Choice(node, name, Sums(), file);
    } else if (name == "reduce") {
      recipe.reduce = Choice(node, name, Sums(), file);
    } else if (name == "kernel") {
      recipe.activation = Choice(node, name, Kernels(), file);
    } else if (name == "fused" && node.is_boolean()) {
      recipe.fused = *node.value<bool>();
    } else {
      throw FormatError(file, LineOf(node), "family, inner, accumulate, reduce, kernel or fused = true",
                        fmt::format("\"{}\"", name));
    }
  }
  if (recipe.family.empty()) throw FormatError(file, LineOf(table), "a family in every [[op]]", "none");
  return recipe;
}

}  // namespace

Arithmetic ReadArithmeticFile(const std::string& path) {
  const auto file = MapFile(path);
  const auto bytes = file->bytes();
  toml::table table;
  try {
    table = toml::parse(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  } catch (const toml::parse_error& error) {
    throw FormatError(path, fmt::format("line {}", error.source().begin.line), "valid TOML", error.description());
  }
  const auto text = [&](std::string_view key) { return table[key].value<std::string>().value_or(""); };
  if (text("schema") != kSchema)
    throw FormatError(path, "schema", fmt::format("\"{}\"", kSchema), fmt::format("\"{}\"", text("schema")));
  const auto base = FindArithmetic(text("base"));
  if (!base)
    throw FormatError(path, "base", fmt::format("one of {}", ArithmeticNames()), fmt::format("\"{}\"", text("base")));
  Arithmetic arithmetic = *base;
  arithmetic.name = text("name").empty() ? path : text("name");
  const toml::array* ops = table["op"].as_array();
  std::set<std::string> seen;
  for (std::size_t i = 0; ops != nullptr && i < ops->size(); ++i) {
    const toml::table* op = (*ops)[i].as_table();
    if (op == nullptr) throw FormatError(path, LineOf((*ops)[i]), "an [[op]] table", "another value");
    arithmetic.recipes.push_back(ReadRecipe(*op, path));
    if (!seen.insert(arithmetic.recipes.back().family).second)
      throw FormatError(path, LineOf(*op), "each family once",
                        fmt::format("\"{}\" again", arithmetic.recipes.back().family));
  }
  return arithmetic;
}

std::string FormatArithmetic(const Arithmetic& arithmetic, const std::string& base,
                             const std::vector<std::string>& comments) {
  std::string out = fmt::format(
      "# How an engine rounds: a known policy, and what it does otherwise, op by op. Use: paritrace diagnose "
      "--arithmetic FILE\n"
      "schema = \"{}\"\nbase = \"{}\"\n",
      kSchema, base);
  toml::table name{{"name", arithmetic.name}};
  std::ostringstream escaped;
  escaped << name;
  out += escaped.str() + "\n";
  for (std::size_t i = 0; i < arithmetic.recipes.size(); ++i) {
    const OpRecipe& recipe = arithmetic.recipes[i];
    out += fmt::format("\n[[op]]\nfamily = \"{}\"\n", recipe.family);
    if (i < comments.size()) out += fmt::format("# {}\n", comments[i]);
    if (recipe.inner) out += fmt::format("inner = \"{}\"\n", NameOf(Roundings(), *recipe.inner));
    if (recipe.accumulate) out += fmt::format("accumulate = \"{}\"\n", NameOf(Sums(), *recipe.accumulate));
    if (recipe.reduce) out += fmt::format("reduce = \"{}\"\n", NameOf(Sums(), *recipe.reduce));
    if (recipe.activation) out += fmt::format("kernel = \"{}\"\n", NameOf(Kernels(), *recipe.activation));
    if (recipe.fused) out += "fused = true\n";
  }
  return out;
}

Arithmetic ArithmeticOf(const std::string& name_or_file, const std::string& option) {
  if (name_or_file.ends_with(".toml")) return ReadArithmeticFile(name_or_file);
  if (const auto known = FindArithmetic(name_or_file)) return *known;
  throw UsageError(
      fmt::format("{} {}: expected a file that ends in .toml, or one of {}", option, name_or_file, ArithmeticNames()));
}

std::string Describe(const OpRecipe& recipe) {
  std::string what;
  const auto add = [&](const std::string& text) { what += (what.empty() ? "" : ", ") + text; };
  if (recipe.inner) add(fmt::format("every step inside in {}", NameOf(Roundings(), *recipe.inner)));
  if (recipe.activation) add(fmt::format("kernel {}", NameOf(Kernels(), *recipe.activation)));
  if (recipe.accumulate) add(fmt::format("products summed {}", NameOf(Sums(), *recipe.accumulate)));
  if (recipe.reduce) add(fmt::format("rows summed {}", NameOf(Sums(), *recipe.reduce)));
  if (recipe.fused) add("only the result rounded to storage");
  return fmt::format("{}: {}", recipe.family, what.empty() ? "as the policy" : what);
}

}  // namespace paritrace
