// nomic-embed-text-v2-moe in C++: a post-norm encoder with RoPE and a mixture of experts in every second layer, in f32, from
// a Hugging Face folder. An engine under test: --mistake makes it wrong in a known way.
//
//   PARITRACE_DIR=trace ./cpp_moe_encoder FOLDER --tokens 0,15,27,1
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>
#include <vector>

#include <paritrace/paritrace.hpp>

#include "../cpp_common/command_line.hpp"
#include "../cpp_common/model_folder.hpp"
#include "../cpp_common/ops.hpp"

namespace {

using engine::Values;

const std::vector<std::string> kMistakes = {"attn.kv_swapped",
                                            "attn.mask_extra",
                                            "attn.scale",
                                            "embed.row_offset",
                                            "embed.type_missing",
                                            "linear.bias_missing",
                                            "linear.transposed",
                                            "mlp.activation",
                                            "moe.bias",
                                            "moe.expert_order",
                                            "moe.scale",
                                            "moe.top_k",
                                            "moe.weights_normalised",
                                            "norm.bias_missing",
                                            "norm.eps",
                                            "norm.type",
                                            "residual.missing",
                                            "rope.interleaved",
                                            "rope.missing",
                                            "rope.theta"};

class Encoder {
 public:
  Encoder(const engine::ModelFolder& model, const engine::Mistakes& mistakes)
      : model_(model),
        mistakes_(mistakes),
        hidden_(model.config.at("n_embd")),
        heads_(model.config.at("n_head")),
        lanes_(hidden_ / heads_),
        layers_(model.config.at("n_layer")),
        every_(model.config.at("moe_every_n_layers")),
        experts_(model.config.at("num_experts")),
        used_(model.config.at("moe_top_k")),
        eps_(model.config.at("layer_norm_epsilon")),
        theta_(model.config.at("rotary_emb_base")) {}

  // tokens -> the last hidden state [tokens, hidden].
  Values Forward(const std::vector<std::int32_t>& tokens) {
    tokens_ = tokens.size();
    paritrace::Step(0, tokens);
    Values x = Embed(tokens);
    Record("embed", -1, x);
    x = Norm("emb_ln", 0, x);
    Record("embed.norm", -1, x);
    for (int layer = 0; layer < layers_; ++layer) x = Layer(layer, x);
    return x;
  }

 private:
  [[nodiscard]] Values Embed(const std::vector<std::int32_t>& tokens) const {
    const Values words = model_.Floats("embeddings.word_embeddings.weight");
    const Values types = model_.Floats("embeddings.token_type_embeddings.weight");
    const auto rows = static_cast<std::int32_t>(words.size() / hidden_);
    const std::int32_t shift = mistakes_.Makes("embed.row_offset") ? 1 : 0;
    Values x;
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= rows)
        throw std::runtime_error("token " + std::to_string(token) + " is not in the vocabulary");
      const std::size_t row = static_cast<std::size_t>((token + shift) % rows) * hidden_;
      for (std::size_t i = 0; i < hidden_; ++i)
        x.push_back(words[row + i] + (mistakes_.Makes("embed.type_missing") ? 0.0f : types[i]));
    }
    return x;
  }

  Values Layer(int layer, const Values& x) const {
    const std::string at = "encoder.layers." + std::to_string(layer) + ".";
    const Values attended = Attention(layer, at, x);
    const Values residual = mistakes_.Makes("residual.missing", layer) ? attended : engine::Add(attended, x);
    Record("attn.residual", layer, residual);
    const Values middle = Norm(at + "norm1", layer, residual);
    Record("attn.post_norm", layer, middle);
    const Values fed = layer % every_ == 1 ? Mixture(layer, at + "mlp.", middle) : Dense(layer, at + "mlp.", middle);
    const Values sum = engine::Add(fed, middle);
    Record("mlp.residual", layer, sum);
    Values out = Norm(at + "norm2", layer, sum);
    Record("out", layer, out);
    return out;
  }

  Values Attention(int layer, const std::string& at, const Values& x) const {
    const auto makes = [&](const char* id) { return mistakes_.Makes(id, layer); };
    Values weight = model_.Floats(at + "attn.Wqkv.weight"), bias = model_.Floats(at + "attn.Wqkv.bias");
    if (makes("linear.bias_missing")) bias.clear();
    const Values fused = engine::Linear(x, weight, bias, hidden_);
    Values q, k, v;
    for (std::size_t t = 0; t < tokens_; ++t) {
      const float* row = &fused[t * 3 * hidden_];
      q.insert(q.end(), row, row + hidden_);
      k.insert(k.end(), row + hidden_, row + 2 * hidden_);
      v.insert(v.end(), row + 2 * hidden_, row + 3 * hidden_);
    }
    if (makes("attn.kv_swapped")) std::swap(k, v);
    Record("attn.q", layer, q);
    Record("attn.k", layer, k);
    Record("attn.v", layer, v);
    if (!makes("rope.missing")) {
      const double theta = makes("rope.theta") ? 1000.0 : theta_;
      const auto pairs = makes("rope.interleaved") ? engine::Pairs::kInterleaved : engine::Pairs::kHalfSplit;
      engine::Rope(q, hidden_, lanes_, 0, theta, pairs);
      engine::Rope(k, hidden_, lanes_, 0, theta, pairs);
    }
    Record("attn.q_rope", layer, q);
    Record("attn.k_rope", layer, k);
    const float scale = makes("attn.scale") ? 1.0f : 1.0f / std::sqrt(static_cast<float>(lanes_));
    Values scores(heads_ * tokens_ * tokens_), context(x.size());
    for (std::size_t h = 0; h < heads_; ++h) {
      for (std::size_t t = 0; t < tokens_; ++t) {
        for (std::size_t s = 0; s < tokens_; ++s) {
          const bool hidden = makes("attn.mask_extra") && s > t;
          scores[(h * tokens_ + t) * tokens_ + s] =
              hidden ? -INFINITY
                     : scale * engine::Dot(&q[t * hidden_ + h * lanes_], &k[s * hidden_ + h * lanes_], lanes_);
        }
      }
    }
    RecordScores("attn.scores", layer, scores);
    for (std::size_t row = 0; row < scores.size(); row += tokens_) engine::Softmax(&scores[row], tokens_);
    RecordScores("attn.probs", layer, scores);
    for (std::size_t h = 0; h < heads_; ++h) {
      for (std::size_t t = 0; t < tokens_; ++t) {
        for (std::size_t s = 0; s < tokens_; ++s) {
          const float prob = scores[(h * tokens_ + t) * tokens_ + s];
          for (std::size_t i = 0; i < lanes_; ++i)
            context[t * hidden_ + h * lanes_ + i] += prob * v[s * hidden_ + h * lanes_ + i];
        }
      }
    }
    Record("attn.ctx", layer, context);
    weight = model_.Floats(at + "attn.out_proj.weight");
    if (makes("linear.transposed")) {
      const Values right = weight;
      for (std::size_t i = 0; i < hidden_; ++i) {
        for (std::size_t j = 0; j < hidden_; ++j) weight[i * hidden_ + j] = right[j * hidden_ + i];
      }
    }
    Values out = engine::Linear(context, weight, model_.Floats(at + "attn.out_proj.bias"), hidden_);
    Record("attn.out", layer, out);
    return out;
  }

  [[nodiscard]] float Activate(int layer, float x) const {
    return mistakes_.Makes("mlp.activation", layer) ? engine::GeluTanh(x) : engine::GeluErf(x);
  }

  Values Dense(int layer, const std::string& at, const Values& x) const {
    Values inner = engine::Linear(x, model_.Floats(at + "fc1.weight"), model_.Floats(at + "fc1.bias"), hidden_);
    Record("mlp.up", layer, inner);
    for (float& value : inner) value = Activate(layer, value);
    Record("mlp.act", layer, inner);
    const std::size_t width = inner.size() / tokens_;
    Values out = engine::Linear(inner, model_.Floats(at + "fc2.weight"), model_.Floats(at + "fc2.bias"), width);
    Record("mlp.out", layer, out);
    return out;
  }

  Values Mixture(int layer, const std::string& at, const Values& x) const {
    const auto makes = [&](const char* id) { return mistakes_.Makes(id, layer); };
    Values probs = engine::Linear(x, model_.Floats(at + "router.layer.weight"), {}, hidden_);
    Record("moe.router_logits", layer, probs);
    for (std::size_t t = 0; t < tokens_; ++t) engine::Softmax(&probs[t * experts_], experts_);
    Record("moe.probs", layer, probs);
    const std::size_t used = makes("moe.top_k") ? used_ - 1 : used_;
    std::vector<std::int32_t> chosen;
    Values weights;
    for (std::size_t t = 0; t < tokens_; ++t) {
      std::vector<std::int32_t> order(experts_);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
        return probs[t * experts_ + static_cast<std::size_t>(a)] > probs[t * experts_ + static_cast<std::size_t>(b)];
      });
      float sum = 0;
      for (std::size_t i = 0; i < used; ++i) sum += probs[t * experts_ + static_cast<std::size_t>(order[i])];
      for (std::size_t i = 0; i < used; ++i) {
        chosen.push_back(order[i]);
        const float prob = probs[t * experts_ + static_cast<std::size_t>(order[i])];
        weights.push_back(makes("moe.weights_normalised") ? prob / sum : prob);
      }
    }
    paritrace::Record("moe.experts", layer, chosen.data(), {tokens_, used});
    Record("moe.weights", layer, weights);

    const Values ways_in = model_.Floats(at + "experts.mlp.w1"), ways_out = model_.Floats(at + "experts.mlp.w2");
    const Values bias = model_.Floats(at + "experts.bias");
    const std::size_t width = ways_in.size() / experts_ / hidden_;
    Values out(x.size());
    for (std::size_t t = 0; t < tokens_; ++t) {
      for (std::size_t i = 0; i < used; ++i) {
        auto expert = static_cast<std::size_t>(chosen[t * used + i]);
        if (makes("moe.expert_order")) expert = (expert + 1) % experts_;
        const float* in = &ways_in[expert * width * hidden_];
        const float* back = &ways_out[expert * width * hidden_];
        Values inner(width), sum(hidden_);
        for (std::size_t w = 0; w < width; ++w)
          inner[w] = Activate(layer, engine::Dot(&x[t * hidden_], in + w * hidden_, hidden_));
        for (std::size_t w = 0; w < width; ++w) {  // stored as the way in: [width, hidden]
          for (std::size_t o = 0; o < hidden_; ++o) sum[o] += inner[w] * back[w * hidden_ + o];
        }
        for (std::size_t o = 0; o < hidden_; ++o) out[t * hidden_ + o] += sum[o] * weights[t * used + i];
      }
      for (std::size_t o = 0; o < hidden_; ++o) {
        if (makes("moe.scale")) out[t * hidden_ + o] *= 0.5f;
        if (!makes("moe.bias")) out[t * hidden_ + o] += bias[o];
      }
    }
    Record("moe.out", layer, out);
    return out;
  }

  [[nodiscard]] Values Norm(const std::string& name, int layer, const Values& x) const {
    Values bias = model_.Floats(name + ".bias");
    if (mistakes_.Makes("norm.bias_missing", layer)) bias.clear();
    const float eps = mistakes_.Makes("norm.eps", layer) ? 1e-2f : eps_;
    const Values weight = model_.Floats(name + ".weight");
    return mistakes_.Makes("norm.type", layer) ? engine::RmsNorm(x, weight, bias, eps)
                                               : engine::LayerNorm(x, weight, bias, eps);
  }

  void Record(const char* site, int layer, const Values& value) const {
    paritrace::Record(site, layer, value.data(), {tokens_, value.size() / tokens_});
  }
  void RecordScores(const char* site, int layer, const Values& value) const {
    paritrace::Record(site, layer, value.data(), {heads_, tokens_, tokens_});
  }

  const engine::ModelFolder& model_;
  const engine::Mistakes& mistakes_;
  std::size_t hidden_, heads_, lanes_;
  int layers_, every_;
  std::size_t experts_, used_;
  float eps_;
  double theta_;
  std::size_t tokens_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const engine::Arguments arguments = engine::Parse(argc, argv, kMistakes);
    const engine::ModelFolder model(arguments.model);
    const paritrace::Session session({.engine = "cpp-moe-encoder",
                                      .engine_version = "1.0",
                                      .architecture = "nomic-bert-moe",
                                      .model_file = arguments.model.c_str(),
                                      .arithmetic = "f32"});
    if (session.status() != PARITRACE_OK) return 1;  // the reason stands on standard error
    const Values states = Encoder(model, arguments.mistakes).Forward(arguments.tokens);
    const std::size_t hidden = states.size() / arguments.tokens.size();
    std::printf("mean of the last hidden state, first values:");
    for (std::size_t i = 0; i < 4; ++i) {
      float sum = 0;
      for (std::size_t at = i; at < states.size(); at += hidden) sum += states[at];
      std::printf(" %.6f", static_cast<double>(sum / static_cast<float>(arguments.tokens.size())));
    }
    std::printf("\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cpp_moe_encoder: %s\n", error.what());
    return 2;
  }
}
