// A toy decoder, small enough to be read, to show where the calls go: embedding, two layers of one-headed attention and a
// feed-forward block, all in float32, with weights made from a formula. It knows paritrace by its header alone.
//
//   ./cpp_engine                                  runs, records nothing
//   PARITRACE_DIR=trace ./cpp_engine              records
//   PARITRACE_DIR=other ./cpp_engine wrong        records a run with a mistake: the attention forgets its scale
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include <paritrace/paritrace.hpp>

namespace {

using Matrix = std::vector<float>;  // row-major

constexpr int kDim = 32, kHidden = 64, kLayers = 2, kVocabulary = 100;

// The engine in Rust beside this one makes the same weights.
float WeightAt(int which, int row, int column) {
  const auto x = static_cast<std::uint32_t>(which * 7919 + row * 104729 + column * 1299709);
  return static_cast<float>(x * 2654435761u >> 8) / 16777216.0f * 0.4f - 0.2f;
}

// x [tokens, in] times a matrix [in, out] of weights.
Matrix Linear(const Matrix& x, int in, int out, int which) {
  const int tokens = static_cast<int>(x.size()) / in;
  Matrix y(static_cast<std::size_t>(tokens * out));
  for (int t = 0; t < tokens; ++t) {
    for (int o = 0; o < out; ++o) {
      float sum = 0;
      for (int i = 0; i < in; ++i) sum += x[static_cast<std::size_t>(t * in + i)] * WeightAt(which, i, o);
      y[static_cast<std::size_t>(t * out + o)] = sum;
    }
  }
  return y;
}

Matrix Norm(const Matrix& x) {
  Matrix y = x;
  for (std::size_t row = 0; row < y.size(); row += kDim) {
    float squares = 0;
    for (std::size_t i = row; i < row + kDim; ++i) squares += x[i] * x[i];
    const float scale = 1 / std::sqrt(squares / kDim + 1e-5f);
    for (std::size_t i = row; i < row + kDim; ++i) y[i] *= scale;
  }
  return y;
}

Matrix Add(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// Causal; returns [tokens, kDim].
Matrix Attend(const Matrix& q, const Matrix& k, const Matrix& v, int layer, bool wrong) {
  const int tokens = static_cast<int>(q.size()) / kDim;
  const float scale = wrong ? 1 : 1 / std::sqrt(static_cast<float>(kDim));
  // Rows padded to a multiple of 8, as engines do: strides tell paritrace what is a value.
  const int padded = (tokens + 7) / 8 * 8;
  Matrix scores(static_cast<std::size_t>(tokens * padded), 12345.0f), context(q.size(), 0);
  const auto at = [&](int t, int s) -> float& { return scores[static_cast<std::size_t>(t * padded + s)]; };
  for (int t = 0; t < tokens; ++t) {
    for (int s = 0; s < tokens; ++s) {
      float sum = 0;
      for (int i = 0; i < kDim; ++i)
        sum += q[static_cast<std::size_t>(t * kDim + i)] * k[static_cast<std::size_t>(s * kDim + i)];
      at(t, s) = s <= t ? sum * scale : -INFINITY;
    }
  }
  paritrace::Record("attn.scores", layer, scores.data(), {1, tokens, tokens}, {0, padded, 1});
  for (int t = 0; t < tokens; ++t) {
    float most = -INFINITY, sum = 0;
    for (int s = 0; s <= t; ++s) most = std::fmax(most, at(t, s));
    for (int s = 0; s <= t; ++s) sum += std::exp(at(t, s) - most);
    for (int s = 0; s < tokens; ++s) at(t, s) = s <= t ? std::exp(at(t, s) - most) / sum : 0;
    for (int s = 0; s <= t; ++s) {
      for (int i = 0; i < kDim; ++i)
        context[static_cast<std::size_t>(t * kDim + i)] += at(t, s) * v[static_cast<std::size_t>(s * kDim + i)];
    }
  }
  paritrace::Record("attn.probs", layer, scores.data(), {1, tokens, tokens}, {0, padded, 1});
  return context;
}

Matrix Forward(const std::vector<std::int32_t>& tokens, bool wrong) {
  const int count = static_cast<int>(tokens.size());
  Matrix x(static_cast<std::size_t>(count * kDim));
  for (int t = 0; t < count; ++t) {
    for (int i = 0; i < kDim; ++i)
      x[static_cast<std::size_t>(t * kDim + i)] = WeightAt(0, tokens[static_cast<std::size_t>(t)], i) * 10;
  }
  paritrace::Record("embed", -1, x.data(), {count, kDim});
  for (int layer = 0; layer < kLayers; ++layer) {
    const auto record = [&](const char* site, const Matrix& value) -> const Matrix& {
      paritrace::Record(site, layer, value.data(), {count, static_cast<int>(value.size()) / count});
      return value;
    };
    const int first = 10 * (layer + 1);  // of this layer's weights
    const Matrix normed = record("attn.norm", Norm(x));
    const Matrix q = record("attn.q", Linear(normed, kDim, kDim, first));
    const Matrix k = record("attn.k", Linear(normed, kDim, kDim, first + 1));
    const Matrix v = record("attn.v", Linear(normed, kDim, kDim, first + 2));
    const Matrix context = record("attn.ctx", Attend(q, k, v, layer, wrong && layer == 1));
    x = record("attn.residual", Add(x, record("attn.out", Linear(context, kDim, kDim, first + 3))));
    Matrix up = record("mlp.up", Linear(record("mlp.norm", Norm(x)), kDim, kHidden, first + 4));
    for (float& value : up) value = value > 0 ? value : 0;
    record("mlp.act", up);
    x = record("out", Add(x, record("mlp.out", Linear(up, kHidden, kDim, first + 5))));
  }
  const Matrix logits = Linear(Norm(x), kDim, kVocabulary, 1);
  paritrace::Record("logits", -1, logits.data(), {count, kVocabulary});
  return logits;
}

}  // namespace

int main(int argc, char** argv) {
  const bool wrong = argc > 1 && std::strcmp(argv[1], "wrong") == 0;
  const paritrace::Session session(
      {.engine = "cpp-engine", .engine_version = "1.0", .model = "toy", .architecture = "toy", .arithmetic = "f32"});
  if (session.status() != PARITRACE_OK) return 1;  // the reason stands on standard error
  const std::vector<std::int32_t> tokens = {3, 14, 15, 92, 65, 35, 89};
  paritrace::Step(0, tokens);
  const Matrix logits = Forward(tokens, wrong);
  std::printf("last token, logit 0: %.6f%s\n", static_cast<double>(logits[logits.size() - kVocabulary]),
              paritrace::IsRecording() ? " (recorded)" : "");
  return 0;
}
