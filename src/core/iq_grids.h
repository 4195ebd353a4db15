// The codebooks of ggml's IQ types: what their indices stand for. Entries are packed, first value lowest: eight values of
// two bits (IQ1, IQ2) or four of three (IQ3).
// Source: ggml-common.h, by way of gguf-py (scripts/iq_grids.py writes iq_grids.cc).
#pragma once

#include <array>
#include <cstdint>

namespace paritrace {

extern const std::array<std::uint16_t, 256> kIq2XxsGrid;
extern const std::array<std::uint16_t, 512> kIq2XsGrid;
extern const std::array<std::uint16_t, 1024> kIq2SGrid;
extern const std::array<std::uint16_t, 256> kIq3XxsGrid;
extern const std::array<std::uint16_t, 512> kIq3SGrid;
extern const std::array<std::uint16_t, 2048> kIq1Grid;  // IQ1_S and IQ1_M

}  // namespace paritrace
