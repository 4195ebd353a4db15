#include "formats/tensor_file.h"

#include <sys/stat.h>

#include <cstdio>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "file_bytes.h"

namespace paritrace {
namespace {

using ::testing::HasSubstr;
using namespace paritrace::testing;

// The name of a file is no evidence: each of these is called the same.
TEST(ReadTensorFile, GoesByTheFirstBytes) {
  const auto format_of = [](const std::string& bytes) { return ReadTensorFile(InMemory(bytes, "model.bin")).format; };
  EXPECT_EQ(format_of(SafetensorsBytes("{}", 0)), "safetensors");
  EXPECT_EQ(format_of(GgufBuilder().str()), "gguf");
  EXPECT_EQ(format_of(NpyBytes("{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}", "")), "npy");
  EXPECT_EQ(format_of(Bytes().U32(0x06054b50).Zeros(18).str()), "npz");
}

TEST(ReadTensorFile, NamesWhatItFound) {
  EXPECT_EQ(FormatErrorOf([] { return ReadTensorFile(InMemory("", "a.bin")); }),
            "a.bin: at byte 0: expected a safetensors, gguf, npy or npz file, found an empty file");
  EXPECT_EQ(FormatErrorOf([] { return ReadTensorFile(InMemory("%PDF-1.7 and more", "a.bin")); }),
            "a.bin: at byte 0: expected a safetensors, gguf, npy or npz file, found the bytes 25 50 44 46 2d 31 2e 37");
}

TEST(OpenTensorFile, MissingFilesAndFoldersAreUsageErrors) {
  EXPECT_THROW((void)OpenTensorFile("/nonexistent.gguf"), UsageError);
  EXPECT_THROW((void)OpenTensorFile(::testing::TempDir()), UsageError);
}

TEST(OpenTensorFile, ANamedPipeIsRefusedNotWaitedFor) {
  const std::string path = ::testing::TempDir() + "tensor_file_test.fifo";
  std::remove(path.c_str());
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_THROW((void)OpenTensorFile(path), UsageError);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace paritrace
