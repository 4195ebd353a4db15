"""The models that faults are injected in: small, with random weights of the statistics of trained ones, one folder each."""

from dataclasses import dataclass, field

import torch
import transformers

SIZES = dict(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
    max_position_embeddings=512,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
GEMMA2 = dict(
    head_dim=16,
    query_pre_attn_scalar=24,
    sliding_window=8,
    attn_logit_softcapping=5.0,
    final_logit_softcapping=6.0,
)
QWEN2_MOE = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=96, shared_expert_intermediate_size=128)
# Ternary and K-quantised rows come in blocks of 256.
WIDE = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=2)

# name -> (configuration class, model class)
CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM"),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM"),
    "qwen2_moe": ("Qwen2MoeConfig", "Qwen2MoeForCausalLM"),
    "bert": ("BertConfig", "BertModel"),
    "bitnet": ("BitNetConfig", "BitNetForCausalLM"),
}


@dataclass
class Shape:
    """One model: what it is, and how its random weights are spread."""

    architecture: str
    options: dict = field(default_factory=dict)  # of the configuration, beside SIZES
    gain: float = 1.3  # rms of a projection's output for inputs of 1
    embed: float = 0.7  # rms of the embedding
    spread: float = 0.3  # of norm weights around their neutral value, and of biases around 0
    seed: int = 3


# No size of one architecture is that of another by chance.
SHAPES = {
    "llama": Shape("llama"),
    "llama-mha": Shape("llama", dict(num_key_value_heads=4)),
    "llama3": Shape("llama", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "mistral": Shape("mistral", dict(sliding_window=8)),
    "qwen2": Shape("qwen2", dict(num_attention_heads=8)),
    "qwen3": Shape("qwen3", dict(head_dim=32)),
    "gemma2": Shape("gemma2", GEMMA2),
    # What a GGUF can state: llama.cpp divides the scores by the root of the head's width.
    "gemma2-gguf": Shape("gemma2", GEMMA2 | dict(query_pre_attn_scalar=16)),
    "mixtral": Shape("mixtral", dict(num_hidden_layers=2, num_local_experts=6, num_experts_per_tok=2)),
    "qwen2_moe": Shape("qwen2_moe", dict(QWEN2_MOE, num_hidden_layers=2)),
    "bert": Shape("bert", dict(num_hidden_layers=2, max_position_embeddings=128)),
    "bert-tanh": Shape("bert", dict(num_hidden_layers=2, max_position_embeddings=128, hidden_act="gelu_new")),
    "bitnet": Shape("bitnet", WIDE | dict(hidden_act="relu2", tie_word_embeddings=True)),
    "bitnet-packed": Shape("bitnet", dict(num_hidden_layers=2)),  # built by tests/python/tiny_bitnet.py
    "nomic-bert-moe": Shape("nomic-bert-moe", dict(num_hidden_layers=4)),  # a GGUF alone: tests/python/tiny_nomic.py
    "llama-wide": Shape("llama", WIDE),
    "qwen2-wide": Shape("qwen2", WIDE),
}


def layers_of(name):
    """How many layers the model of that name has."""
    return (SIZES | SHAPES[name].options)["num_hidden_layers"]


def build(shape):
    """The model in f32, with eager attention and its weights drawn."""
    config_class, model_class = CLASSES[shape.architecture]
    options = SIZES | shape.options
    if shape.architecture == "bert":
        options.pop("num_key_value_heads")
    config = getattr(transformers, config_class)(**options)
    torch.manual_seed(shape.seed)
    model = getattr(transformers, model_class)._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(values * (shape.embed if "embed" in name else shape.gain / parameter.shape[-1] ** 0.5))
            else:
                is_norm = "norm" in name.lower() and name.endswith("weight")
                neutral = 1.0 if is_norm and shape.architecture != "gemma2" else 0.0
                parameter.copy_(neutral + shape.spread * values)
    return model.eval()


def folder_of(name, root):
    """Writes the model under `root` unless it is there; returns its folder."""
    folder = root / name
    if not (folder / "config.json").exists():
        build(SHAPES[name]).save_pretrained(folder)
    return folder
