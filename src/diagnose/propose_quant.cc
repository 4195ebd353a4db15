// Mistakes in reading a quantised weight: order of nibbles, zero point, scales of blocks; and bytes taken for another type.
// Each reading is first tried on the rows that are off most, since a whole matrix costs what a replay costs.
#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "diagnose/hypothesis.h"
#include "diagnose/row_sample.h"
#include "graph/kernel_fault.h"

namespace paritrace {
namespace {

// A reading is worth a replay if it takes away at least this share of the root mean square error on the sampled rows.
constexpr double kWorthReplaying = 0.4;

struct Candidate {
  WeightReading reading;
  const char* cause;
  std::string expected, found, statement, fix;
  int parameters = 0;
};

void AddNibbles(const ReadableParts& parts, std::string_view type, std::vector<Candidate>& out) {
  if (!parts.nibbles) return;
  const auto add = [&](Nibbles order, const char* found, const char* statement) {
    out.push_back({{.nibbles = order},
                   "quant.nibble_order",
                   "low nibbles first, then the high ones",
                   found,
                   statement,
                   fmt::format("place low and high nibbles as {} does", type)});
  };
  add(Nibbles::kSwapped, "high nibbles first", "high and low nibble of each byte are exchanged");
  if (!parts.pairs) return;
  add(Nibbles::kPaired, "neighbours, low first", "the two nibbles of a byte are taken for neighbours in the row");
  add(Nibbles::kPairedSwapped, "neighbours, high first",
      "the two nibbles of a byte are taken for neighbours in the row, the high one first");
}

void AddScales(const ReadableParts& parts, std::vector<Candidate>& out) {
  if (!parts.scale) return;
  const auto add = [&](WeightReading reading, const char* cause, const char* found, const char* statement) {
    out.push_back({std::move(reading), cause, "each block's own f16 scale", found, statement,
                   "multiply each block's codes by the scale that stands in it, an f16"});
  };
  const char* block = "quant.block_scale";
  add({.scale_from = ScaleFrom::kNext}, block, "the next block's", "blocks get the scale of the next block");
  add({.scale_from = ScaleFrom::kPrevious}, block, "the previous block's", "blocks get the scale of the block before");
  add({.scale_from = ScaleFrom::kFirstOfTwo}, block, "one for two blocks",
      "two blocks share the scale of the first: the block size is taken for twice what it is");
  add({.scale_from = ScaleFrom::kFirstOfRow}, block, "one for a row", "all blocks of a row get the scale of the first");
  add({.scale_from = ScaleFrom::kTransposed}, block, "transposed", "the scales are read column by column");
  add({.scale_as = ScaleAs::kBF16}, block, "taken for bf16", "the f16 scales are taken for bf16");
  add({.scale_as = ScaleAs::kOtherEndian}, block, "bytes exchanged", "the two bytes of each scale are exchanged");
  add({.scale_as = ScaleAs::kOne}, "quant.scale_lost", "none", "the codes are not multiplied by their block's scale");
}

void AddTypes(const ReadableParts& parts, DType type, std::vector<Candidate>& out) {
  if (parts.signed_bytes) {
    out.push_back({{.unsigned_codes = true},
                   "kernel.dtype",
                   "i8",
                   "u8",
                   "the signed codes of the blocks are taken for unsigned ones",
                   "read the codes as signed bytes"});
  }
  if (type != DType::kF16 && type != DType::kBF16) return;
  const DType other = type == DType::kF16 ? DType::kBF16 : DType::kF16;
  out.push_back({{.bytes_as = other},
                 "kernel.dtype",
                 std::string(Name(type)),
                 std::string(Name(other)),
                 fmt::format("the bytes of the weight are {} and are taken for {}", Name(type), Name(other)),
                 fmt::format("read the weight as {}", Name(type))});
}

void AddCodes(DType type, std::vector<Candidate>& out) {
  if (IsBlockQuantised(type)) return;
  const auto add = [&](CodesOnly codes, const char* what, const char* whose) {
    out.push_back(
        {{.codes = codes},
         "quant.scale_lost",
         fmt::format("{} codes times their scale", what),
         fmt::format("{} codes alone", what),
         fmt::format("the weight is quantised to {} with one scale a {}, and that scale is lost", what, whose),
         fmt::format("multiply the product by the scale of each {}", whose)});
  };
  add(CodesOnly::kInt8Row, "int8", "row");
  add(CodesOnly::kInt8Tensor, "int8", "tensor");
  add(CodesOnly::kE4M3Row, "f8 e4m3", "row");
  add(CodesOnly::kE4M3Tensor, "f8 e4m3", "tensor");
}

// Numbers that enter linearly are read off the sample.
void AddFitted(const ReadableParts& parts, DType type, const RowSample& sample, std::vector<Candidate>& out) {
  if (parts.codes && !parts.offset) {
    const double shift = sample.Of({.shift = 1}).factor;
    for (const double nice : {std::round(shift), std::round(2 * shift) / 2, shift}) {
      if (std::fabs(nice) < 0.01) continue;
      const double zero = type == DType::kQ4_0    ? 8
                          : type == DType::kQ5_0  ? 16
                          : type == DType::kQ6_K  ? 32
                          : type == DType::kTQ2_0 ? 1
                                                  : 0;
      out.push_back({{.shift = nice},
                     "quant.zero_point",
                     fmt::format("{:g}", zero),
                     fmt::format("{:g}", zero - nice),
                     fmt::format("{:g} is subtracted from the codes where {} has {:g}", zero - nice, Name(type), zero),
                     fmt::format("subtract {:g} from each code", zero),
                     nice == shift ? 2 : 1});
    }
  }
  if (!parts.offset) return;
  const double factor = 1 - sample.Of({.offset_factor = 0}).factor;
  for (const double nice : {std::round(factor), factor}) {
    if (std::fabs(nice - 1) < 0.01) continue;
    out.push_back(
        {{.offset_factor = nice},
         "quant.zero_point",
         "the block's minimum, once",
         nice == 0    ? "no minimum"
         : nice == -1 ? "the minimum with the other sign"
                      : fmt::format("the minimum times {:.4g}", nice),
         nice == 0    ? std::string("the minimum of each block is left out")
         : nice == -1 ? std::string("the minimum of each block has the wrong sign")
                      : fmt::format("the minimum of each block counts {:.4g} times", nice),
         fmt::format("{} each block's minimum", type == DType::kQ4_1 || type == DType::kQ5_1 ? "add" : "subtract"),
         nice == factor ? 2 : 1});
  }
  const double shift = sample.Of({.shift = 1}).factor;
  for (const double nice : {std::round(shift), shift}) {
    if (std::fabs(nice) < 0.01) continue;
    out.push_back(
        {{.shift = nice},
         "quant.zero_point",
         "0",
         fmt::format("{:g}", -nice),
         fmt::format("{:g} is subtracted from the codes where {} has no zero but the minimum", -nice, Name(type)),
         "take the codes as they are",
         nice == shift ? 2 : 1});
  }
}

// Single blocks whose scale is off: in each sampled row the one, two or three blocks whose shares of the sum, times a factor,
// make up the error. As many tokens again are needed as numbers are fitted, and one more.
void AddSingleBlocks(const Weight& weight, const RowSample& sample, std::vector<Candidate>& out) {
  const std::int64_t size = Info(weight.tensor.dtype).block_elements, blocks = weight.tensor.shape[1] / size;
  WeightReading reading;
  for (std::size_t at = 0; at < sample.rows().size(); ++at) {
    const std::vector<float> row = ReadRows(weight.tensor, {}, sample.rows()[at], 1);
    std::vector<std::vector<double>> shares;
    for (std::int64_t b = 0; b < blocks; ++b) shares.push_back(sample.Share(row, b * size, (b + 1) * size));
    std::vector<double> left(sample.ErrorsOf(at).begin(), sample.ErrorsOf(at).end());
    const double before = std::inner_product(left.begin(), left.end(), left.begin(), 0.0);
    std::vector<BlockFactor> found;
    double after = before;
    for (std::size_t k = 1; k <= 3 && sample.tokens() >= 4 * k + 1 && after > 1e-4 * before; ++k) {
      BlockFactor best{.row = sample.rows()[at], .block = -1, .factor = 0};
      double least = after;
      for (std::int64_t b = 0; b < blocks; ++b) {
        const auto& share = shares[static_cast<std::size_t>(b)];
        const double square = std::inner_product(share.begin(), share.end(), share.begin(), 0.0);
        if (!(square > 0)) continue;
        const double cross = std::inner_product(share.begin(), share.end(), left.begin(), 0.0);
        if (after - cross * cross / square < least) {
          least = after - cross * cross / square;
          best.block = b;
          best.factor = cross / square;
        }
      }
      if (best.block < 0) break;
      const auto& share = shares[static_cast<std::size_t>(best.block)];
      for (std::size_t t = 0; t < left.size(); ++t) left[t] -= best.factor * share[t];
      after = std::max(least, 0.0);
      best.factor += 1;
      found.push_back(best);
    }
    if (after <= 1e-4 * before) reading.blocks.insert(reading.blocks.end(), found.begin(), found.end());
  }
  if (reading.blocks.empty()) return;
  const BlockFactor& first = reading.blocks[0];
  const std::size_t count = reading.blocks.size();
  std::string statement = fmt::format("{} block{} off by a factor, such as block {} of row {}: times {:.4g}", count,
                                      count == 1 ? " is" : "s are", first.block, first.row, first.factor);
  out.push_back({std::move(reading), "quant.block_scale", "each block's own scale",
                 fmt::format("times {:.4g} in block {} of row {}", first.factor, first.block, first.row),
                 std::move(statement), "look at how the scales of these blocks are written or read", 2});
}

void Push(const SearchSite& site, const Node& node, Candidate candidate, std::vector<Hypothesis>& out) {
  const Weight& weight = site.graph().weights[static_cast<std::size_t>(node.weight)];
  Node changed = node;
  auto fault = std::make_shared<KernelFault>();
  fault->reading = std::move(candidate.reading);
  changed.fault = std::move(fault);
  out.push_back({.cause = candidate.cause,
                 .edit = site.With(changed),
                 .expected = candidate.expected,
                 .found = candidate.found,
                 .statement = fmt::format("{}: {}", weight.name, candidate.statement),
                 .fix = candidate.fix,
                 .parameters = candidate.parameters});
}

void ProposeReadings(const SearchSite& site, const Node& node, std::vector<Hypothesis>& out) {
  const Weight& weight = site.graph().weights[static_cast<std::size_t>(node.weight)];
  const DType type = weight.tensor.dtype;
  const ReadableParts parts = PartsOf(type);
  std::vector<Candidate> candidates;
  AddNibbles(parts, Name(type), candidates);
  AddScales(parts, candidates);
  AddTypes(parts, type, candidates);
  const auto* linear = std::get_if<LinearOp>(&node.op);
  if (linear == nullptr) {
    for (Candidate& candidate : candidates) Push(site, node, std::move(candidate), out);
    return;
  }
  if (linear->transposed || linear->bits != BitLinear::kNone) return;
  AddCodes(type, candidates);
  if (node.id != site.target().id) {
    for (Candidate& candidate : candidates) Push(site, node, std::move(candidate), out);
    return;
  }
  const RowSample sample(site, node);
  AddFitted(parts, type, sample, candidates);
  std::erase_if(candidates,
                [&](const Candidate& candidate) { return !(sample.Of(candidate.reading).left < kWorthReplaying); });
  // Every row that is off is taken apart, which costs a product for each: only where that is no more than a replay or so.
  constexpr double kMostProducts = 1 << 27;
  const double products = static_cast<double>(weight.tensor.shape[0]) * static_cast<double>(weight.tensor.shape[1]) *
                          static_cast<double>(sample.tokens());
  if (IsBlockQuantised(type) && products < kMostProducts)
    AddSingleBlocks(weight, RowSample(site, node, RowSample::Rows::kAllOff), candidates);
  for (Candidate& candidate : candidates) Push(site, node, std::move(candidate), out);
}

}  // namespace

void ProposeQuant(const SearchSite& site, std::vector<Hypothesis>& out) {
  for (const Node& node : site.segment()) {
    if (node.weight == kAbsent || node.fault != nullptr) continue;
    if (std::holds_alternative<LinearOp>(node.op) || std::holds_alternative<EmbedOp>(node.op) ||
        std::holds_alternative<NormOp>(node.op)) {
      ProposeReadings(site, node, out);
    }
  }
}

}  // namespace paritrace
