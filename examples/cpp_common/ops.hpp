// Arithmetic of the C++ engines: f32 throughout, sums front to back. Matrices are row-major vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace engine {

using Values = std::vector<float>;

inline float Dot(const float* a, const float* b, std::size_t n) {
  float sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// x [tokens, in] times weight [out, in], plus bias [out] where there is one: [tokens, out].
inline Values Linear(const Values& x, const Values& weight, const Values& bias, std::size_t in) {
  const std::size_t out = weight.size() / in, tokens = x.size() / in;
  Values y(tokens * out);
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t o = 0; o < out; ++o)
      y[t * out + o] = Dot(&x[t * in], &weight[o * in], in) + (bias.empty() ? 0.0f : bias[o]);
  }
  return y;
}

inline Values Add(const Values& a, const Values& b) {
  Values sum(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) sum[i] = a[i] + b[i];
  return sum;
}

inline void Softmax(float* row, std::size_t n) {
  const float most = *std::max_element(row, row + n);
  float sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += row[i] = std::exp(row[i] - most);
  for (std::size_t i = 0; i < n; ++i) row[i] /= sum;
}

inline float GeluErf(float x) { return 0.5f * x * (1 + std::erf(x * 0.70710678f)); }
inline float GeluTanh(float x) { return 0.5f * x * (1 + std::tanh(0.79788456f * (x + 0.044715f * x * x * x))); }

inline Values LayerNorm(const Values& x, const Values& weight, const Values& bias, float eps) {
  const std::size_t width = weight.size();
  Values y(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    float mean = 0, variance = 0;
    for (std::size_t i = 0; i < width; ++i) mean += x[row + i];
    mean /= static_cast<float>(width);
    for (std::size_t i = 0; i < width; ++i) variance += (x[row + i] - mean) * (x[row + i] - mean);
    const float scale = 1 / std::sqrt(variance / static_cast<float>(width) + eps);
    for (std::size_t i = 0; i < width; ++i)
      y[row + i] = (x[row + i] - mean) * scale * weight[i] + (bias.empty() ? 0.0f : bias[i]);
  }
  return y;
}

inline Values RmsNorm(const Values& x, const Values& weight, const Values& bias, float eps) {
  const std::size_t width = weight.size();
  Values y(x.size());
  for (std::size_t row = 0; row < x.size(); row += width) {
    const float mean = Dot(&x[row], &x[row], width) / static_cast<float>(width);
    const float scale = 1 / std::sqrt(mean + eps);
    for (std::size_t i = 0; i < width; ++i)
      y[row + i] = x[row + i] * scale * weight[i] + (bias.empty() ? 0.0f : bias[i]);
  }
  return y;
}

enum class Pairs { kHalfSplit, kInterleaved };

// Turns each head of x [tokens, heads * lanes] by its position, in place. Angles in double.
inline void Rope(Values& x, std::size_t row, std::size_t lanes, std::size_t start, double theta, Pairs pairs) {
  for (std::size_t token = 0; token * row < x.size(); ++token) {
    for (std::size_t head = token * row; head < (token + 1) * row; head += lanes) {
      for (std::size_t pair = 0; pair < lanes / 2; ++pair) {
        const double turns = std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(lanes));
        const double angle = static_cast<double>(start + token) * turns;
        const float cosine = static_cast<float>(std::cos(angle)), sine = static_cast<float>(std::sin(angle));
        const bool split = pairs == Pairs::kHalfSplit;
        float& a = x[head + (split ? pair : 2 * pair)];
        float& b = x[head + (split ? pair + lanes / 2 : 2 * pair + 1)];
        const float turned = a * cosine - b * sine;
        b = a * sine + b * cosine;
        a = turned;
      }
    }
  }
}

}  // namespace engine
