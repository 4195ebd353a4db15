"""BitNet b1.58: ternary weights with one scale a matrix, int8 activations with one scale a token.

Trained with straight-through estimators: the forward pass rounds, the backward pass looks through. Stored as the published
models are (arXiv:2504.12285): four codes of two bits a byte and one scale a matrix, the rest in bfloat16.
"""

import json

import corpus
import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations.bitnet import pack_weights

from families import decoders

STEPS = 300
SPECIALS, ENDS = corpus.SPECIAL_TOKENS, False
CONTEXT = 512
# Rows are multiples of 256 long, the block of llama.cpp's ternary types.
SHAPE = dict(
    vocab_size=corpus.VOCAB_SIZE,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    rms_norm_eps=1e-5,
    max_position_embeddings=CONTEXT,
    tie_word_embeddings=True,
)
ROPE_THETA = 500000.0


def ternary(weight):
    """(codes -1, 0 and 1; the scale they are multiplied by): arXiv:2402.17764, equations 1 to 3."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1), scale


class TernaryLinear(torch.nn.Linear):
    """Rounds weights and activations on the way forward."""

    def forward(self, x):
        codes, scale = ternary(self.weight)
        weight = self.weight + (codes * scale - self.weight).detach()
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
        x = x + ((x / step).round().clamp(-128, 127) * step - x).detach()
        return torch.nn.functional.linear(x, weight)


def make_model():
    config = decoders.config(transformers.BitNetConfig, SHAPE, ROPE_THETA, hidden_act="relu2")
    model = transformers.BitNetForCausalLM(config).float()
    for path, module in list(model.named_modules()):
        if path.endswith("_proj"):
            layer = TernaryLinear(module.in_features, module.out_features, bias=False)
            layer.weight = module.weight
            model.set_submodule(path, layer)
    return model


def settle(model):
    for path, parameter in model.named_parameters():
        if not path.endswith("_proj.weight"):
            parameter.data = parameter.data.bfloat16().float()


def store(model, folder):
    settle(model)
    stored = {}
    for name, value in model.state_dict().items():
        if name.endswith("_proj.weight"):
            codes, scale = ternary(value)
            stored[name] = pack_weights(codes.clone())
            stored[f"{name}_scale"] = scale.bfloat16().reshape(1)
        elif name != "lm_head.weight":  # the embedding is the head
            stored[name] = value.bfloat16().contiguous()
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(folder)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["architectures"] = ["BitNetForCausalLM"]
    content["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    }
    path.write_text(json.dumps(content, indent=2) + "\n")
    decoders.say_theta_at_the_top(folder, ROPE_THETA)


loss, largest_logit, sample = decoders.loss, decoders.largest_logit, True
