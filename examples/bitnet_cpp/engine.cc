// BitNet b1.58 in C++, from a Hugging Face folder in its packed form: ternary weights with one scale a matrix, activations
// rounded to int8 with one scale a token, whole-number products. An engine under test: --mistake makes it wrong in a known way.
//
//   PARITRACE_DIR=trace ./bitnet_cpp FOLDER --tokens 0,15,27 --decode 2
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include <paritrace/paritrace.hpp>

#include "../cpp_common/command_line.hpp"
#include "../cpp_common/model_folder.hpp"
#include "../cpp_common/ops.hpp"

namespace {

using engine::Values;

const std::vector<std::string> kMistakes = {
    "attn.kv_head_order",  "attn.mask_missing",   "attn.scale",          "bitnet.activation_quant",
    "bitnet.subnorm",      "bitnet.weight_scale", "embed.row_offset",    "head.final_norm_missing",
    "linear.wrong_layer",  "mlp.activation",      "mlp.gate_up_swapped", "norm.eps",
    "norm.weight_missing", "norm.weight_scale",   "quant.nibble_order",  "quant.zero_point",
    "residual.missing",    "rope.interleaved",    "rope.missing",        "rope.theta"};

// A matrix of codes -1, 0, 1 and the scale they are multiplied by.
struct Ternary {
  std::vector<std::int8_t> codes;  // [rows, columns]
  float scale = 1;
};

class BitNet {
 public:
  BitNet(const engine::ModelFolder& model, const engine::Mistakes& mistakes)
      : model_(model),
        mistakes_(mistakes),
        hidden_(model.config.at("hidden_size")),
        heads_(model.config.at("num_attention_heads")),
        kv_heads_(model.config.at("num_key_value_heads")),
        lanes_(hidden_ / heads_),
        layers_(model.config.at("num_hidden_layers")),
        eps_(model.config.at("rms_norm_eps")),
        theta_(model.config.at("rope_theta")),
        embedding_(model.Floats("model.embed_tokens.weight")),
        keys_(static_cast<std::size_t>(layers_)),
        values_(static_cast<std::size_t>(layers_)) {}

  // Logits of the last token; `tokens` go behind those of earlier calls.
  Values Forward(const std::vector<std::int32_t>& tokens) {
    tokens_ = tokens.size();
    paritrace::Step(static_cast<std::int64_t>(past_), tokens);
    Values x = Embed(tokens);
    Record("embed", -1, x);
    for (int layer = 0; layer < layers_; ++layer) x = Layer(layer, x);
    past_ += tokens_;
    if (!mistakes_.Makes("head.final_norm_missing")) x = Norm("model.norm", 0, x);
    Record("final_norm", -1, x);
    const Values logits = engine::Linear(x, embedding_, {}, hidden_);
    Record("logits", -1, logits);
    return {logits.end() - static_cast<std::ptrdiff_t>(embedding_.size() / hidden_), logits.end()};
  }

 private:
  [[nodiscard]] Values Embed(const std::vector<std::int32_t>& tokens) const {
    const auto rows = static_cast<std::int32_t>(embedding_.size() / hidden_);
    Values x;
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= rows)
        throw std::runtime_error("token " + std::to_string(token) + " is not in the vocabulary");
      const std::int32_t row = (token + (mistakes_.Makes("embed.row_offset") ? 1 : 0)) % rows;
      const float* from = &embedding_[static_cast<std::size_t>(row) * hidden_];
      x.insert(x.end(), from, from + hidden_);
    }
    return x;
  }

  Values Layer(int layer, const Values& x) {
    const auto makes = [&](const char* id) { return mistakes_.Makes(id, layer); };
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    const std::size_t kv_row = kv_heads_ * lanes_;
    const Values normed = Norm(at + "input_layernorm", layer, x);
    Record("attn.norm", layer, normed);
    Values q = Project(layer, at + "self_attn.q_proj", normed, hidden_);
    Values k = Project(layer, at + "self_attn.k_proj", normed, hidden_);
    const Values v = Project(layer, at + "self_attn.v_proj", normed, hidden_);
    Record("attn.q", layer, q);
    Record("attn.k", layer, k);
    Record("attn.v", layer, v);
    if (!makes("rope.missing")) {
      const double theta = makes("rope.theta") ? 10000.0 : theta_;
      const auto pairs = makes("rope.interleaved") ? engine::Pairs::kInterleaved : engine::Pairs::kHalfSplit;
      engine::Rope(q, hidden_, lanes_, past_, theta, pairs);
      engine::Rope(k, kv_row, lanes_, past_, theta, pairs);
    }
    Record("attn.q_rope", layer, q);
    Record("attn.k_rope", layer, k);
    Values& keys = keys_[static_cast<std::size_t>(layer)];
    Values& values = values_[static_cast<std::size_t>(layer)];
    keys.insert(keys.end(), k.begin(), k.end());
    values.insert(values.end(), v.begin(), v.end());

    const Values context = Attend(layer, q, keys, values);
    Record("attn.ctx", layer, context);
    const Values inner = makes("bitnet.subnorm") ? context : Norm(at + "self_attn.attn_sub_norm", layer, context);
    Record("attn.ctx_norm", layer, inner);
    const Values attended = Project(layer, at + "self_attn.o_proj", inner, hidden_);
    Record("attn.out", layer, attended);
    const Values residual = makes("residual.missing") ? attended : engine::Add(x, attended);
    Record("attn.residual", layer, residual);

    const Values second = Norm(at + "post_attention_layernorm", layer, residual);
    Record("mlp.norm", layer, second);
    Values gate = Project(layer, at + "mlp.gate_proj", second, hidden_);
    Values up = Project(layer, at + "mlp.up_proj", second, hidden_);
    Record("mlp.gate", layer, gate);
    Record("mlp.up", layer, up);
    if (makes("mlp.gate_up_swapped")) std::swap(gate, up);
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const float positive = gate[i] > 0 ? gate[i] : 0;
      gate[i] = (makes("mlp.activation") ? gate[i] / (1 + std::exp(-gate[i])) : positive * positive) * up[i];
    }
    Record("mlp.act", layer, gate);
    const Values normal = Norm(at + "mlp.ffn_sub_norm", layer, gate);
    Record("mlp.act_norm", layer, normal);
    const Values fed = Project(layer, at + "mlp.down_proj", normal, normal.size() / tokens_);
    Record("mlp.out", layer, fed);
    Values out = engine::Add(residual, fed);
    Record("out", layer, out);
    return out;
  }

  // q [tokens, heads * lanes], keys and values [positions, kv_heads * lanes]: as q.
  Values Attend(int layer, const Values& q, const Values& keys, const Values& values) const {
    const auto makes = [&](const char* id) { return mistakes_.Makes(id, layer); };
    const std::size_t kv_row = kv_heads_ * lanes_, total = keys.size() / kv_row;
    const float scale = makes("attn.scale") ? 1.0f : 1.0f / std::sqrt(static_cast<float>(lanes_));
    const auto kv = [&](std::size_t h) {
      return makes("attn.kv_head_order") ? h % kv_heads_ : h / (heads_ / kv_heads_);
    };
    Values scores(heads_ * tokens_ * total, -INFINITY), context(q.size());
    for (std::size_t h = 0; h < heads_; ++h) {
      for (std::size_t t = 0; t < tokens_; ++t) {
        const std::size_t seen = makes("attn.mask_missing") ? total : past_ + t + 1;
        for (std::size_t s = 0; s < seen; ++s) {
          scores[(h * tokens_ + t) * total + s] =
              scale * engine::Dot(&q[t * hidden_ + h * lanes_], &keys[s * kv_row + kv(h) * lanes_], lanes_);
        }
      }
    }
    paritrace::Record("attn.scores", layer, scores.data(), {heads_, tokens_, total});
    for (std::size_t row = 0; row < scores.size(); row += total) engine::Softmax(&scores[row], total);
    paritrace::Record("attn.probs", layer, scores.data(), {heads_, tokens_, total});
    for (std::size_t h = 0; h < heads_; ++h) {
      for (std::size_t t = 0; t < tokens_; ++t) {
        for (std::size_t s = 0; s < total; ++s) {
          const float prob = scores[(h * tokens_ + t) * total + s];
          for (std::size_t i = 0; i < lanes_; ++i)
            context[t * hidden_ + h * lanes_ + i] += prob * values[s * kv_row + kv(h) * lanes_ + i];
        }
      }
    }
    return context;
  }

  // Four codes of two bits a byte, each plus one: byte row r holds rows r, r + rows / 4, … of the matrix, lowest bits first.
  // (transformers.integrations.bitnet.pack_weights)
  [[nodiscard]] Ternary Unpack(int layer, const std::string& name, std::size_t columns) const {
    const std::vector<std::uint8_t> packed = model_.Bytes(name + ".weight");
    const std::size_t quarter = packed.size() / columns, rows = 4 * quarter;
    Ternary matrix{.codes = std::vector<std::int8_t>(rows * columns),
                   .scale = model_.Floats(name + ".weight_scale")[0]};
    const bool neighbours = mistakes_.Makes("quant.nibble_order", layer) && name.ends_with("up_proj");
    const int zero = mistakes_.Makes("quant.zero_point", layer) && name.ends_with("v_proj") ? 0 : 1;
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t column = 0; column < columns; ++column) {
        const std::size_t byte = neighbours ? row / 4 : row % quarter, place = neighbours ? row % 4 : row / quarter;
        matrix.codes[row * columns + column] =
            static_cast<std::int8_t>((packed[byte * columns + column] >> (2 * place) & 3) - zero);
      }
    }
    return matrix;
  }

  // x [tokens, in] rounded to int8, times the codes in whole numbers, times both scales: [tokens, out].
  Values Project(int layer, std::string name, const Values& x, std::size_t in) const {
    if (mistakes_.Makes("linear.wrong_layer", layer) && name.ends_with("k_proj")) {
      const std::string own = "layers." + std::to_string(layer) + ".";
      name.replace(name.find(own), own.size(), "layers." + std::to_string((layer + 1) % layers_) + ".");
    }
    const Ternary weight = Unpack(layer, name, in);
    const float factor =
        mistakes_.Makes("bitnet.weight_scale", layer) && name.ends_with("o_proj") ? 1.0f : weight.scale;
    const std::size_t out = weight.codes.size() / in;
    const auto largest = [&](std::size_t begin, std::size_t end) {
      float most = 1e-5f;
      for (std::size_t i = begin; i < end; ++i) most = std::fmax(most, std::fabs(x[i]));
      return most;
    };
    const bool by_tensor = mistakes_.Makes("bitnet.activation_quant", layer);
    Values y(tokens_ * out);
    std::vector<std::int8_t> rounded(in);
    for (std::size_t t = 0; t < tokens_; ++t) {
      const float step = 127.0f / (by_tensor ? largest(0, x.size()) : largest(t * in, (t + 1) * in));
      for (std::size_t i = 0; i < in; ++i)
        rounded[i] =
            static_cast<std::int8_t>(std::fmin(127.0f, std::fmax(-128.0f, std::nearbyint(x[t * in + i] * step))));
      for (std::size_t o = 0; o < out; ++o) {
        std::int32_t sum = 0;
        for (std::size_t i = 0; i < in; ++i) sum += rounded[i] * weight.codes[o * in + i];
        y[t * out + o] = static_cast<float>(sum) / step * factor;
      }
    }
    return y;
  }

  [[nodiscard]] Values Norm(const std::string& name, int layer, const Values& x) const {
    Values weight = model_.Floats(name + ".weight");
    for (float& value : weight) {
      if (mistakes_.Makes("norm.weight_missing", layer)) value = 1;
      if (mistakes_.Makes("norm.weight_scale", layer)) value /= std::sqrt(static_cast<float>(weight.size()));
    }
    return engine::RmsNorm(x, weight, {}, mistakes_.Makes("norm.eps", layer) ? 1e-2f : eps_);
  }

  void Record(const char* site, int layer, const Values& value) const {
    paritrace::Record(site, layer, value.data(), {tokens_, value.size() / tokens_});
  }

  const engine::ModelFolder& model_;
  const engine::Mistakes& mistakes_;
  std::size_t hidden_, heads_, kv_heads_, lanes_;
  int layers_;
  float eps_;
  double theta_;
  Values embedding_;                   // [vocabulary, hidden], and the head
  std::vector<Values> keys_, values_;  // of each layer [positions, kv_heads * lanes]
  std::size_t past_ = 0, tokens_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const engine::Arguments arguments = engine::Parse(argc, argv, kMistakes);
    const engine::ModelFolder model(arguments.model);
    const paritrace::Session session({.engine = "bitnet-cpp",
                                      .engine_version = "1.0",
                                      .architecture = "bitnet",
                                      .model_file = arguments.model.c_str(),
                                      .arithmetic = "bitnet-int8"});
    if (session.status() != PARITRACE_OK) return 1;  // the reason stands on standard error
    BitNet bitnet(model, arguments.mistakes);
    std::vector<std::int32_t> tokens = arguments.tokens;
    for (int step = 0; step <= arguments.decode; ++step) {
      const Values logits = bitnet.Forward(tokens);
      const auto best = std::max_element(logits.begin(), logits.end());
      tokens = {static_cast<std::int32_t>(best - logits.begin())};
      std::printf("step %d: token %d, logit %.4f\n", step, tokens[0], static_cast<double>(*best));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bitnet_cpp: %s\n", error.what());
    return 2;
  }
}
