#include "trace/sketch.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "trace/row_kernel.h"
#include "trace/value_kernels.h"

namespace paritrace {
namespace {

constexpr std::string_view kVersion = "pt2:";
constexpr int kBits = 24;
constexpr std::int32_t kMost = (1 << (kBits - 1)) - 1;
constexpr std::size_t kExponentBytes = 2, kBucketBytes = 3;
constexpr double kNoBound = std::numeric_limits<double>::quiet_NaN();
constexpr std::int16_t kAllZero = std::numeric_limits<std::int16_t>::min();  // in place of an exponent

std::int64_t Ceil(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// RFC 4648, section 4, with padding.
std::string ToBase64(std::span<const std::uint8_t> bytes) {
  std::string text((bytes.size() + 2) / 3 * 4, '=');
  char* to = text.data();
  for (std::size_t i = 0; i < bytes.size(); i += 3, to += 4) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t word = 0;
    for (std::size_t j = 0; j < 3; ++j) word = word << 8 | (j < count ? bytes[i + j] : 0u);
    for (std::size_t j = 0; j <= count; ++j) to[j] = kDigits[word >> (18 - 6 * j) & 63];
  }
  return text;
}

// To the nearest whole number, ties to even, for |value| < 2^51: as std::nearbyint, which is a call on the baseline CPU.
double Nearest(double value) {
  constexpr double kShift = 0x1.8p52;
  return (value + kShift) - kShift;
}

constexpr std::uint8_t kNoDigit = 255;
constexpr std::array<std::uint8_t, 256> kValues = [] {
  std::array<std::uint8_t, 256> values{};
  values.fill(kNoDigit);
  for (std::size_t i = 0; i < kDigits.size(); ++i)
    values[static_cast<unsigned char>(kDigits[i])] = static_cast<std::uint8_t>(i);
  return values;
}();

std::optional<std::vector<std::uint8_t>> FromBase64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::size_t padding = 0;
  while (padding < 2 && !text.empty() && text.back() == '=') {
    text.remove_suffix(1);
    ++padding;
  }
  std::vector<std::uint8_t> bytes;
  bytes.reserve(text.size() / 4 * 3 + 2);
  std::uint32_t word = 0;
  int bits = 0;
  for (const char c : text) {
    const std::uint8_t value = kValues[static_cast<unsigned char>(c)];
    if (value == kNoDigit) return std::nullopt;
    word = word << 6 | value;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push_back(static_cast<std::uint8_t>(word >> bits));
  }
  return bytes;
}

// Quantile of chi-squared over its degrees of freedom: Wilson and Hilferty (PNAS 17, 1931), within 0.2 % of the value
// for the 30 and more degrees that a group has. z: quantile of the normal distribution.
double ChiSquareShare(double degrees, double z) {
  const double width = 2 / (9 * degrees);
  const double root = std::max(0.0, 1 - width + z * std::sqrt(width));
  return root * root * root;
}

// The z beyond which `tail` of the normal distribution lies, tail <= 0.5. Bisection: exact, and no table to mistype.
double NormalTail(double tail) {
  double low = 0, high = 40;
  for (int i = 0; i < 80; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::sqrt(2.0)) / 2 > tail ? low : high) = middle;
  }
  return high;
}

// On each side. Half of what 95 % allows and less: sums of signed values are not quite normal, and of any 200 intervals
// at least 190 should hold, not 190 on average.
constexpr double kTail = 0.01;

// What was measured of one group, or of several.
struct Measured {
  double energy = 0;    // of the difference, rounding included
  double variance = 0;  // of `energy`
  double rounding = 0;  // expected part of rounding to the grid in `energy`
  double most = 0;      // and the most it can be

  void Add(const Measured& other) {
    energy += other.energy;
    variance += other.variance;
    rounding += other.rounding;
    // Amplitudes of different groups are different directions: squares add.
    most += other.most;
  }
};

Estimate IntervalOf(const Measured& m, double z) {
  if (!(m.energy > 0)) return {0, 0, m.most};
  Estimate out;
  out.value = std::max(0.0, m.energy - m.rounding);
  if (m.variance > 0) {
    const double degrees = 2 * m.energy * m.energy / m.variance;
    out.low = std::max(0.0, m.energy / ChiSquareShare(degrees, z) - m.rounding);
    const double share = ChiSquareShare(degrees, -z);
    out.high = share > 0 ? m.energy / share - m.rounding : std::numeric_limits<double>::infinity();
  } else {
    // Nothing but the rounding to the grid is unknown, and that has bounds.
    const double root = std::sqrt(m.energy), slack = std::sqrt(m.most);
    out.value = m.energy;
    out.low = root > slack ? (root - slack) * (root - slack) : 0;
    out.high = (root + slack) * (root + slack);
  }
  out.high = std::max(out.high, m.most);
  if (out.value < m.most) out.low = 0;
  out.value = std::clamp(out.value, out.low, out.high);
  return out;
}

}  // namespace

SketchPlan::SketchPlan(const Shape& shape) : values(ElementCount(shape).value_or(0)) {
  if (values == 0) return;
  const Shape axes = WithoutLeadingOnes(shape, 2);
  if (!axes.empty()) last = axes.back();
  if (axes.size() >= 2) positions = axes[axes.size() - 2];
  features = values / positions;
  positions_per_group = Ceil(positions, kGroups);
  groups = Ceil(positions, positions_per_group);
  const std::int64_t held = positions_per_group * features;
  exact = held <= kBuckets / groups;
  buckets = exact ? held : kBuckets / groups / (kHashes * kBlockLanes) * (kHashes * kBlockLanes);
}

std::int64_t SketchPlan::PositionsIn(std::int64_t group) const {
  return std::min(positions_per_group, positions - group * positions_per_group);
}

Sketch::Sketch(const Shape& shape)
    : plan_(shape),
      buckets_(static_cast<std::size_t>(plan_.groups * plan_.buckets)),
      steps_(static_cast<std::size_t>(plan_.groups)) {}

void Sketch::Add(std::int64_t begin, std::span<const double> values) {
  const auto count = static_cast<std::int64_t>(values.size());
  if (begin < 0 || count > plan_.values || begin > plan_.values - count)
    throw InternalError("values outside of a sketch's tensor");
  for (const double value : values) {
    nan_ += std::isnan(value) ? 1 : 0;
    inf_ += std::isinf(value) ? 1 : 0;
  }
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t row = (begin + done) / plan_.last, column = (begin + done) % plan_.last;
    const std::int64_t run = std::min(count - done, plan_.last - column);
    (void)AddRun(row, row % plan_.positions, column, values.data() + done, run, kNoBound);
    done += run;
  }
}

template <typename T>
double Sketch::AddRun(std::int64_t row, std::int64_t position, std::int64_t column, const T* values, std::int64_t count,
                      double mask_bound) {
  const std::int64_t group = position / plan_.positions_per_group;
  double* const buckets = buckets_.data() + group * plan_.buckets;
  if (!plan_.exact) {
    const auto blocks_in_row = static_cast<std::uint64_t>(Ceil(plan_.last, kBlockLanes));
    return AddRow(values, column, count, mask_bound, static_cast<std::uint64_t>(row) * blocks_in_row,
                  plan_.buckets / SketchPlan::kHashes, buckets);
  }
  // By position, then by what stands around the position axis, then along the last.
  double* const own = buckets + (position - group * plan_.positions_per_group) * plan_.features +
                      row / plan_.positions * plan_.last + column;
  double squares = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<double>(values[i]);
    if (!std::isfinite(value) || value <= mask_bound) continue;
    own[i] += value;
    squares += value * value;
  }
  return squares;
}

template double Sketch::AddRun(std::int64_t, std::int64_t, std::int64_t, const float*, std::int64_t, double);
template double Sketch::AddRun(std::int64_t, std::int64_t, std::int64_t, const double*, std::int64_t, double);

void Sketch::Merge(const Sketch& other) {
  if (!(plan_ == other.plan_)) throw InternalError("sketches of different shapes");
  for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  for (std::size_t i = 0; i < steps_.size(); ++i) steps_[i] = std::hypot(steps_[i], other.steps_[i]);
  nan_ += other.nan_;
  inf_ += other.inf_;
}

std::span<const double> Sketch::Group(std::int64_t group) const {
  return std::span(buckets_).subspan(static_cast<std::size_t>(group * plan_.buckets),
                                     static_cast<std::size_t>(plan_.buckets));
}

std::string Sketch::Encode() const {
  std::vector<std::uint8_t> bytes(steps_.size() * kExponentBytes + buckets_.size() * kBucketBytes);
  std::uint8_t* to = bytes.data();
  for (std::int64_t group = 0; group < plan_.groups; ++group) {
    double largest = 0;
    for (const double bucket : Group(group)) {
      if (!std::isfinite(bucket)) return "";
      largest = std::max(largest, std::fabs(bucket));
    }
    std::int16_t exponent = kAllZero;
    if (largest > 0) {
      // The smallest power of two that takes the largest bucket within 23 bits, rounded to nearest.
      exponent = static_cast<std::int16_t>(std::ilogb(largest) - (kBits - 2));
      if (Nearest(std::scalbn(largest, -exponent)) > kMost) ++exponent;
    }
    const auto bits = static_cast<std::uint16_t>(exponent);
    *to++ = static_cast<std::uint8_t>(bits);
    *to++ = static_cast<std::uint8_t>(bits >> 8);
    // Infinite where a double cannot hold the factor, though it holds the product.
    const double factor = largest > 0 ? std::scalbn(1.0, -exponent) : 0;
    for (const double bucket : Group(group)) {
      const double scaled = std::isinf(factor) ? std::scalbn(bucket, -exponent) : bucket * factor;
      const auto whole = static_cast<std::uint32_t>(static_cast<std::int32_t>(Nearest(scaled)));
      for (int shift = 0; shift < kBits; shift += 8) *to++ = static_cast<std::uint8_t>(whole >> shift);
    }
  }
  return std::string(kVersion) + ToBase64(bytes);
}

std::optional<Sketch> Sketch::Decode(std::string_view text, const Shape& shape) {
  if (!text.starts_with(kVersion)) return std::nullopt;
  text.remove_prefix(kVersion.size());
  const SketchPlan plan(shape);
  const std::uint64_t expected = static_cast<std::uint64_t>(plan.groups) *
                                 (kExponentBytes + kBucketBytes * static_cast<std::uint64_t>(plan.buckets));
  const auto bytes = FromBase64(text);
  if (!bytes || bytes->size() != expected) return std::nullopt;
  Sketch sketch(shape);
  const std::uint8_t* at = bytes->data();
  for (std::int64_t group = 0; group < plan.groups; ++group) {
    const auto exponent = static_cast<std::int16_t>(static_cast<std::uint16_t>(at[0] | at[1] << 8));
    at += kExponentBytes;
    const double step = exponent == kAllZero ? 0 : std::scalbn(1.0, exponent);
    if (!std::isfinite(step * kMost)) return std::nullopt;
    sketch.steps_[static_cast<std::size_t>(group)] = step;
    for (std::int64_t i = 0; i < plan.buckets; ++i, at += kBucketBytes) {
      // The top byte last, so that its sign extends.
      const std::int32_t whole =
          static_cast<std::int32_t>(static_cast<std::uint32_t>(at[0]) << 8 | static_cast<std::uint32_t>(at[1]) << 16 |
                                    static_cast<std::uint32_t>(at[2]) << 24) >>
          8;
      sketch.buckets_[static_cast<std::size_t>(group * plan.buckets + i)] = whole * step;
    }
  }
  return sketch;
}

DifferenceEstimate EstimateDifference(const Sketch& a, const Sketch& b, const std::vector<bool>& wanted) {
  const SketchPlan& plan = a.plan();
  if (!(plan == b.plan())) throw InternalError("sketches of different shapes");
  DifferenceEstimate out;
  out.groups.resize(static_cast<std::size_t>(plan.groups));
  Measured total;
  std::vector<Measured> measured(out.groups.size());
  const double hashes = plan.exact ? 1 : static_cast<double>(SketchPlan::kHashes);
  const auto buckets = static_cast<double>(plan.buckets);
  std::int64_t counted = 0;
  for (std::int64_t group = 0; group < plan.groups; ++group) {
    if (!wanted.empty() && !wanted[static_cast<std::size_t>(group)]) continue;
    ++counted;
    Measured& m = measured[static_cast<std::size_t>(group)];
    const auto ours = a.Group(group), theirs = b.Group(group);
    for (std::size_t i = 0; i < ours.size(); ++i) m.energy += (ours[i] - theirs[i]) * (ours[i] - theirs[i]);
    m.energy /= hashes;
    m.variance = plan.exact ? 0 : 2 * m.energy * m.energy / buckets;
    const double first = a.Step(group), second = b.Step(group);
    // A rounding is uniform over a step: variance step^2 / 12, at most step / 2.
    m.rounding = buckets / hashes * (first * first + second * second) / 12;
    m.most = buckets / hashes * (first + second) * (first + second) / 4;
    total.Add(m);
  }
  out.total = IntervalOf(total, NormalTail(kTail));
  const double z = NormalTail(kTail / static_cast<double>(std::max<std::int64_t>(counted, 1)));
  for (std::size_t i = 0; i < measured.size(); ++i) out.groups[i] = IntervalOf(measured[i], z);
  return out;
}

}  // namespace paritrace
