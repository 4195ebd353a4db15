// Products with a weight matrix, decoded row by row from the mapped file, never as a whole.
//
// The sum over the inputs runs front to back for every output, so that it is one fixed order on every machine and for any
// number of threads; the vector lanes hold different tokens, not parts of one sum.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/decode.h"
#include "core/error.h"
#include "core/parallel.h"
#include "graph/dot_kernels.h"
#include "graph/ops.h"
#include "graph/product_input.h"
#include "graph/requantise.h"

namespace paritrace {
namespace {

constexpr std::int64_t kLanes = kDotLanes, kRows = kDotRows;

// ggml's quantize_row_q8_0: scale amax / 127 stored as f16, codes from the unrounded reciprocal.
void RoundToQ8Blocks(std::span<double> row) {
  constexpr std::size_t kBlock = 32;
  for (std::size_t start = 0; start + kBlock <= row.size(); start += kBlock) {
    const auto block = row.subspan(start, kBlock);
    float largest = 0;
    for (const double x : block) largest = std::max(largest, std::fabs(static_cast<float>(x)));
    const auto scale = static_cast<float>(Round(Rounding::kF16, largest / 127.0F));
    const float inverse = largest != 0 ? 127.0F / largest : 0.0F;
    for (double& x : block) x = static_cast<double>(scale) * std::nearbyint(static_cast<float>(x) * inverse);
  }
}

// ggml's quantize_row_q8_K: blocks of 256, scale from the value of largest magnitude, kept in f32.
void RoundToQ8KBlocks(std::span<double> row) {
  constexpr std::size_t kBlock = 256;
  for (std::size_t start = 0; start + kBlock <= row.size(); start += kBlock) {
    const auto block = row.subspan(start, kBlock);
    float extreme = 0;
    for (const double x : block) {
      if (std::fabs(x) > std::fabs(extreme)) extreme = static_cast<float>(x);
    }
    if (extreme == 0) {
      std::ranges::fill(block, 0.0);
      continue;
    }
    const float inverse = -127.0F / extreme, scale = 1.0F / inverse;
    for (double& x : block) {
      x = static_cast<double>(scale) * std::min(127.0F, std::nearbyint(static_cast<float>(x) * inverse));
    }
  }
}

bool IsTernary(DType type) { return type == DType::kI2_S || type == DType::kTQ1_0 || type == DType::kTQ2_0; }

// bitnet.cpp's quantize_row_i8_s: one scale a token, 127 over the largest magnitude, codes from f32 products.
void RoundToInt8(std::span<double> row) {
  double largest = 1e-5;
  for (const double x : row) largest = std::max(largest, std::fabs(x));
  const auto scale = static_cast<float>(127.0 / largest);
  for (double& x : row) {
    const float code = std::clamp(std::nearbyint(static_cast<float>(x) * scale), -128.0F, 127.0F);
    x = static_cast<double>(code) / static_cast<double>(scale);
  }
}

DType DotType(const LinearOp& op, const Weight& weight, const Arithmetic& arithmetic) {
  return op.quantised.value_or(arithmetic.dot_weight.value_or(weight.tensor.dtype));
}

// [in, kLanes] blocks of the tokens, one after another.
template <typename T>
std::vector<T> Transposed(const Value& x, const Arithmetic& arithmetic, DType weight) {
  const std::int64_t in = x.cols(), blocks = (x.rows() + kLanes - 1) / kLanes;
  std::vector<T> lanes(static_cast<std::size_t>(blocks * in * kLanes), T{0});
  std::vector<double> row(static_cast<std::size_t>(in));
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    std::ranges::copy(x.row(t), row.begin());
    RoundProductInput(arithmetic, weight, row);
    T* to = lanes.data() + (t / kLanes) * in * kLanes + t % kLanes;
    for (std::int64_t i = 0; i < in; ++i) to[i * kLanes] = static_cast<T>(row[static_cast<std::size_t>(i)]);
  }
  return lanes;
}

// Row `r` of the matrix as it is used, in doubles or floats.
template <typename T>
void UsedRow(const LinearOp& op, const Weight& weight, const std::vector<double>& whole, const Arithmetic& arithmetic,
             std::int64_t r, std::int64_t in, T* to) {
  if (op.transposed) {
    for (std::int64_t i = 0; i < in; ++i) to[i] = static_cast<T>(whole[static_cast<std::size_t>(i * in + r)]);
  } else if constexpr (std::is_same_v<T, float>) {
    DecodeF32(weight.tensor, r * in, in, to);
  } else {
    DecodeF64(weight.tensor, r * in, in, to);
  }
  if (op.quantised) {
    std::vector<float> row(to, to + in);
    Requantise(*op.quantised, row);
    std::ranges::copy(row, to);
  }
  const Rounding kept = arithmetic.At(Step::kWeight, arithmetic.weights);
  if (kept != Rounding::kNone && kept != Rounding::kF32) {
    for (std::int64_t i = 0; i < in; ++i) to[i] = static_cast<T>(Round(kept, to[i]));
  }
  if (op.factor != 1) {
    for (std::int64_t i = 0; i < in; ++i) to[i] = static_cast<T>(to[i] * op.factor);
  }
  if (!op.input_order.empty()) {
    const std::int64_t width = in / static_cast<std::int64_t>(op.input_order.size());
    const std::vector<T> own(to, to + in);
    std::fill(to, to + in, T{0});
    for (std::size_t b = 0; b < op.input_order.size(); ++b) {
      if (op.input_order[b] == kAbsent) continue;
      std::copy_n(own.data() + static_cast<std::int64_t>(b) * width, width, to + op.input_order[b] * width);
    }
  }
}

void ExchangeOutputs(const LinearOp& op, Value& out) {
  const std::size_t width = static_cast<std::size_t>(out.cols()) / op.output_order.size();
  for (std::int64_t t = 0; t < out.rows(); ++t) {
    const auto row = out.row(t);
    const std::vector<double> own(row.begin(), row.end());
    for (std::size_t b = 0; b < op.output_order.size(); ++b)
      std::copy_n(own.data() + static_cast<std::size_t>(op.output_order[b]) * width, width, row.data() + b * width);
  }
}

template <typename T>
void Multiply(const LinearOp& op, const Value& x, const Weight& weight, const Arithmetic& arithmetic, Value& out) {
  const std::int64_t in = x.cols(), rows = out.cols();
  const std::vector<T> lanes = Transposed<T>(x, arithmetic, DotType(op, weight, arithmetic));
  const std::vector<double> whole = op.transposed ? DecodeAll(weight.tensor) : std::vector<double>();
  ParallelFor(rows, 64, [&](std::int64_t begin, std::int64_t end) {
    std::vector<T> w(static_cast<std::size_t>(kRows * in));
    T acc[kRows * kLanes];
    for (std::int64_t first = begin; first < end; first += kRows) {
      const std::int64_t used = std::min(kRows, end - first);
      for (std::int64_t r = 0; r < used; ++r) UsedRow(op, weight, whole, arithmetic, first + r, in, w.data() + r * in);
      for (std::int64_t t0 = 0; t0 < x.rows(); t0 += kLanes) {
        DotBlock(w.data(), lanes.data() + t0 * in, in, acc);
        for (std::int64_t r = 0; r < used; ++r) {
          for (std::int64_t t = t0; t < std::min(x.rows(), t0 + kLanes); ++t) {
            out.row(t)[static_cast<std::size_t>(first + r)] = static_cast<double>(acc[r * kLanes + t - t0]);
          }
        }
      }
    }
  });
}

// Every product and every sum rounded: slow, and only for a hypothesis.
void MultiplyRounded(const LinearOp& op, const Value& x, const Weight& weight, const Arithmetic& arithmetic,
                     Value& out) {
  const Rounding running = arithmetic.At(Step::kSum, Rounding::kNone);
  const std::vector<double> whole = op.transposed ? DecodeAll(weight.tensor) : std::vector<double>();
  ParallelFor(out.cols(), 8, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> w(static_cast<std::size_t>(x.cols()));
    for (std::int64_t r = begin; r < end; ++r) {
      UsedRow(op, weight, whole, arithmetic, r, x.cols(), w.data());
      for (std::int64_t t = 0; t < x.rows(); ++t) {
        Summer sum(arithmetic.accumulate, running);
        for (std::size_t i = 0; i < w.size(); ++i) sum.Add(Round(running, x.row(t)[i] * w[i]));
        out.row(t)[static_cast<std::size_t>(r)] = sum.sum();
      }
    }
  });
}

}  // namespace

void RoundProductInput(const Arithmetic& arithmetic, DType weight, std::span<double> row) {
  if (!arithmetic.is_ggml()) return;
  if (arithmetic.dot_input == DotInput::kBitNet && IsTernary(weight)) return RoundToInt8(row);
  switch (weight) {
    case DType::kF16: return RoundAll(Rounding::kF16, row);
    case DType::kBF16: return RoundAll(Rounding::kBF16, row);
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
    case DType::kIQ4_NL: return RoundToQ8Blocks(row);
    case DType::kQ2_K:
    case DType::kQ3_K:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
    case DType::kTQ1_0:
    case DType::kTQ2_0:
    case DType::kIQ4_XS: return RoundToQ8KBlocks(row);
    default: return;
  }
}

Value ComputeLinear(const LinearOp& op, const Value& x, const Weight& weight, const Weight* bias,
                    const Arithmetic& arithmetic) {
  const Shape& shape = weight.tensor.shape;
  if (shape.size() != 2 || shape[1] != x.cols() || (op.transposed && shape[0] != shape[1])) {
    throw InternalError(fmt::format("{}: shape {} does not take {} inputs", weight.name, ToString(shape), x.cols()));
  }
  Value out({x.rows(), shape[0]});
  if (arithmetic.IsMarked(Step::kSum)) {
    MultiplyRounded(op, x, weight, arithmetic, out);
  } else if (arithmetic.accumulate == Accumulate::kF32Sequential) {
    Multiply<float>(op, x, weight, arithmetic, out);
  } else {
    Multiply<double>(op, x, weight, arithmetic, out);
  }
  if (op.row_order != RowOrder::kAsStored) ReorderHeads(out, op.head_dim, op.row_order == RowOrder::kToInterleaved);
  const Rounding output = arithmetic.At(Step::kOutput, arithmetic.storage);
  if (bias == nullptr) {
    RoundAll(output, out.data);
    if (!op.output_order.empty()) ExchangeOutputs(op, out);
    return out;
  }
  const std::vector<double> shift = VectorWeight(*bias, arithmetic);
  // torch adds the bias inside the product's accumulator and rounds once; ggml stores the product first.
  const Rounding product = arithmetic.At(Step::kDot, arithmetic.is_ggml() ? arithmetic.storage : arithmetic.inner);
  for (std::int64_t t = 0; t < out.rows(); ++t) {
    const auto row = out.row(t);
    for (std::size_t o = 0; o < row.size(); ++o) {
      row[o] = Round(output, Round(product, row[o]) + (op.bias_factor == 1 ? shift[o] : shift[o] * op.bias_factor));
    }
  }
  if (!op.output_order.empty()) ExchangeOutputs(op, out);
  return out;
}

}  // namespace paritrace
