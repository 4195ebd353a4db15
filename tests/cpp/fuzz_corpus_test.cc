// Replays the committed fuzz corpus without a fuzzer: what once broke a reader, and one file for each of its paths.
#include <algorithm>
#include <filesystem>
#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "fuzz/fuzz_targets.h"

namespace paritrace {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, void (*)(fuzz::Input)> kTargets = {{"bitnet_rs", &fuzz::OtherDump},
                                                               {"eval_callback", &fuzz::OtherDump},
                                                               {"gguf", &fuzz::Gguf},
                                                               {"hf_debug", &fuzz::OtherDump},
                                                               {"msprobe", &fuzz::OtherDump},
                                                               {"npy", &fuzz::Npy},
                                                               {"npz", &fuzz::Npz},
                                                               {"polygraphy", &fuzz::OtherDump},
                                                               {"raw", &fuzz::Raw},
                                                               {"safetensors", &fuzz::Safetensors},
                                                               {"trace", &fuzz::TraceDirectory}};

const fs::path kCorpus = fs::path(PARITRACE_SOURCE_DIR) / "tests/cpp/fuzz/corpus";

class FuzzCorpus : public ::testing::TestWithParam<std::string> {};

TEST_P(FuzzCorpus, EveryFileEndsWellOrInOneLine) {
  int files = 0;
  for (const auto& file : fs::directory_iterator(kCorpus / GetParam())) {
    SCOPED_TRACE(file.path().filename().string());
    const std::string text = ReadTextFile(file.path().string());
    kTargets.at(GetParam())({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
    ++files;
  }
  EXPECT_GT(files, 5);
}

// A hundred prefixes of every file, or all: a reader that trusts one field too many fails here without any fuzzing.
TEST_P(FuzzCorpus, TruncatedFilesEndWellOrInOneLine) {
  for (const auto& file : fs::directory_iterator(kCorpus / GetParam())) {
    SCOPED_TRACE(file.path().filename().string());
    const std::string text = ReadTextFile(file.path().string());
    const std::size_t stride = std::max<std::size_t>(1, text.size() / 100);
    for (std::size_t size = 0; size < text.size(); size += stride) {
      kTargets.at(GetParam())({reinterpret_cast<const std::uint8_t*>(text.data()), size});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, FuzzCorpus,
                         ::testing::Values("bitnet_rs", "eval_callback", "gguf", "hf_debug", "msprobe", "npy", "npz",
                                           "polygraphy", "raw", "safetensors", "trace"),
                         [](const auto& row) { return row.param; });

}  // namespace
}  // namespace paritrace
