// A Hugging Face folder, as the C++ engines beside this file read it: config.json, and one model.safetensors of f32, bf16,
// f16 or u8 tensors. Source: the safetensors format (eight bytes of header size, a JSON header, the data).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace engine {

class ModelFolder {
 public:
  // Errors: std::runtime_error with one line, where a file is missing or broken.
  explicit ModelFolder(const std::string& folder) : weights_file_(folder + "/model.safetensors") {
    config = nlohmann::json::parse(ReadFile(folder + "/config.json"));
    bytes_ = ReadFile(weights_file_);
    std::uint64_t size = 0;
    if (bytes_.size() < sizeof size) Fail("8 bytes of header size", "a shorter file");
    std::memcpy(&size, bytes_.data(), sizeof size);
    if (size > bytes_.size() - sizeof size) Fail(std::to_string(size) + " bytes of header", "a shorter file");
    header_ = nlohmann::json::parse(bytes_.substr(sizeof size, size));
    data_ = sizeof size + size;
  }

  [[nodiscard]] bool Has(const std::string& name) const { return header_.contains(name); }

  // The values as f32, row-major.
  [[nodiscard]] std::vector<float> Floats(const std::string& name) const {
    const auto [bytes, count, dtype] = Find(name);
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (dtype == "F32") {
        std::memcpy(&values[i], bytes + 4 * i, 4);
      } else {
        std::uint16_t bits = 0;
        std::memcpy(&bits, bytes + 2 * i, 2);
        values[i] = dtype == "BF16" ? FromBf16(bits) : FromF16(bits);
      }
    }
    return values;
  }

  [[nodiscard]] std::vector<std::uint8_t> Bytes(const std::string& name) const {
    const auto [bytes, count, dtype] = Find(name);
    if (dtype != "U8") Fail(name + " of type U8", dtype);
    return {bytes, bytes + count};
  }

  nlohmann::json config;

 private:
  struct Found {
    const char* bytes;
    std::size_t count;
    std::string dtype;
  };

  static std::string ReadFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
  }

  [[noreturn]] void Fail(const std::string& expected, const std::string& found) const {
    throw std::runtime_error(weights_file_ + ": expected " + expected + ", found " + found);
  }

  [[nodiscard]] Found Find(const std::string& name) const {
    if (!Has(name)) Fail("a tensor " + name, "none");
    const auto& entry = header_.at(name);
    const std::string dtype = entry.at("dtype");
    const std::size_t width = dtype == "F32" ? 4 : dtype == "BF16" || dtype == "F16" ? 2 : dtype == "U8" ? 1 : 0;
    if (width == 0) Fail(name + " of type F32, BF16, F16 or U8", dtype);
    const std::size_t begin = entry.at("data_offsets")[0], end = entry.at("data_offsets")[1];
    if (begin > end || end > bytes_.size() - data_) Fail("the data of " + name, "a shorter file");
    return {bytes_.data() + data_ + begin, (end - begin) / width, dtype};
  }

  static float FromBf16(std::uint16_t bits) {
    const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
    float value = 0;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  static float FromF16(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                       : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    return bits & 0x8000 ? -size : size;
  }

  std::string weights_file_, bytes_;
  nlohmann::json header_;
  std::size_t data_ = 0;
};

}  // namespace engine
