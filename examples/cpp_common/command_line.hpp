// The command line of the C++ engines: MODEL --tokens 1,2,3 [--decode N] [--mistake ID[@LAYER]]...
#pragma once

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace engine {

// The mistakes an engine was told to make: paritrace's ids, each perhaps in one layer only ("norm.eps@3").
class Mistakes {
 public:
  explicit Mistakes(std::vector<std::string> known) : known_(std::move(known)) {}

  void Add(const std::string& text) {
    const std::size_t at = text.find('@');
    const std::string id = text.substr(0, at);
    if (std::find(known_.begin(), known_.end(), id) == known_.end()) {
      std::string all;
      for (const std::string& each : known_) all += " " + each;
      throw std::runtime_error("--mistake " + text + ": not one of" + all);
    }
    made_.emplace_back(id, at == std::string::npos ? std::nullopt : std::optional(std::stoi(text.substr(at + 1))));
  }
  // Whether the mistake is made in `layer`; what belongs to no layer asks with 0.
  [[nodiscard]] bool Makes(const std::string& id, int layer = 0) const {
    return std::any_of(made_.begin(), made_.end(),
                       [&](const auto& made) { return made.first == id && (!made.second || *made.second == layer); });
  }
  [[nodiscard]] const std::vector<std::string>& known() const { return known_; }

 private:
  std::vector<std::string> known_;
  std::vector<std::pair<std::string, std::optional<int>>> made_;
};

struct Arguments {
  std::string model = {};
  std::vector<std::int32_t> tokens = {};
  int decode = 0;
  Mistakes mistakes;
};

// Errors: std::runtime_error with the usage, or with what is wrong.
inline Arguments Parse(int argc, char** argv, std::vector<std::string> known) {
  Arguments parsed{.mistakes = Mistakes(std::move(known))};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&]() -> std::string {
      if (++i == argc) throw std::runtime_error(word + " wants a value");
      return argv[i];
    };
    if (word == "--tokens") {
      std::istringstream list(value());
      for (std::string id; std::getline(list, id, ',');) parsed.tokens.push_back(std::stoi(id));
    } else if (word == "--decode") {
      parsed.decode = std::stoi(value());
    } else if (word == "--mistake") {
      parsed.mistakes.Add(value());
    } else if (word == "--list-mistakes") {
      for (const std::string& id : parsed.mistakes.known()) std::cout << id << "\n";
      std::exit(0);
    } else if (parsed.model.empty() && word[0] != '-') {
      parsed.model = word;
    } else {
      throw std::runtime_error("unknown argument " + word);
    }
  }
  if (parsed.model.empty() || parsed.tokens.empty()) {
    throw std::runtime_error(std::string("usage: ") + argv[0] +
                             " MODEL --tokens 1,2,3 [--decode N] [--mistake ID[@LAYER]]... | --list-mistakes");
  }
  return parsed;
}

}  // namespace engine
