// Bytes that a reader had to make, because the file does not hold them as they are needed: inflated, byte-swapped, transposed.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "core/file.h"

namespace paritrace {

class OwnedBytes final : public InputFile {
 public:
  // Uninitialised: pages that are never written take no memory.
  OwnedBytes(std::string name, std::size_t size)
      : name_(std::move(name)), size_(size), data_(std::make_unique_for_overwrite<std::byte[]>(size)) {}
  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] std::span<const std::byte> bytes() const override { return {data_.get(), size_}; }
  [[nodiscard]] std::span<std::byte> writable() { return {data_.get(), size_}; }

 private:
  std::string name_;
  std::size_t size_;
  std::unique_ptr<std::byte[]> data_;
};

}  // namespace paritrace
