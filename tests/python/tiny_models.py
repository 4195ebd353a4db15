"""Small random models of every architecture beside Llama's, built from transformers' own config classes."""

import json
import random
import re
import subprocess
import sys

import random_weights
import torch
import transformers
from module_outputs import module_outputs as save_module_outputs

VOCABULARY = 300
SIZES = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCABULARY)
DECODER = dict(SIZES, num_key_value_heads=2)
GEMMA2 = dict(
    DECODER,
    head_dim=16,
    query_pre_attn_scalar=24,
    sliding_window=8,
    attn_logit_softcapping=5.0,
    final_logit_softcapping=6.0,
)
QWEN2_MOE = dict(
    DECODER, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=96, shared_expert_intermediate_size=128
)
CLASSES = {
    "bert": (transformers.BertConfig, transformers.BertModel),
    "gemma2": (transformers.Gemma2Config, transformers.Gemma2ForCausalLM),
    "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
    "qwen2_moe": (transformers.Qwen2MoeConfig, transformers.Qwen2MoeForCausalLM),
}
# name: (architecture, config)
MODELS = {
    "bert": ("bert", dict(SIZES, max_position_embeddings=128)),
    "gemma2": ("gemma2", GEMMA2),
    "mixtral": ("mixtral", dict(DECODER, num_local_experts=6, num_experts_per_tok=2)),
    "qwen2_moe": ("qwen2_moe", QWEN2_MOE),
    "bert-tanh": ("bert", dict(SIZES, max_position_embeddings=128, hidden_act="gelu_new", type_vocab_size=3)),
    "gemma2-uncapped": (
        "gemma2",
        dict(GEMMA2, attn_logit_softcapping=None, final_logit_softcapping=None, num_hidden_layers=3),
    ),
    "mixtral-window": ("mixtral", dict(DECODER, num_local_experts=4, num_experts_per_tok=3, sliding_window=8)),
    "qwen2_moe-normalised": (
        "qwen2_moe",
        dict(QWEN2_MOE, norm_topk_prob=True, num_hidden_layers=3, mlp_only_layers=[0], qkv_bias=False),
    ),
}


def build(name, **changes):
    """A model of MODELS in f32, with its config changed."""
    kind, options = MODELS[name]
    config, model_class = CLASSES[kind]
    torch.manual_seed(1)
    model = model_class._from_config(config(**options | changes), attn_implementation="eager")
    return random_weights.fill(model, norms_add_one=kind == "gemma2").eval()


def in_dtype(model, dtype):
    """The model in `dtype` as from_pretrained leaves it: `to` alone would round the frequencies of RoPE, which is a mistake."""
    rotary = getattr(model.model, "rotary_emb", None)
    frequencies = rotary.inv_freq.clone() if rotary is not None else None
    model = model.to(dtype)
    if rotary is not None:
        rotary.inv_freq = frequencies
    return model


def prompt(count):
    return random.Random(count).choices(range(VOCABULARY), k=count)


def paritrace(*arguments):
    return subprocess.run([sys.executable, "-m", "paritrace", *map(str, arguments)], capture_output=True, text=True)


def diagnose(trace, model, *options):
    """The diagnosis as a dict; the exit code and the verdict must agree."""
    done = paritrace("diagnose", trace, "--model", model, "--json", "-", *options)
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert (done.returncode == 1) == (result["verdict"] == "diverged")
    return result


def named(result):
    return {(defect["site"], defect["cause"]["id"]) for defect in result["defects"]}


# A router's tuple and its experts are seen by our adapter alone.
PLAIN = re.compile(r"(?!.*(\.gate|\.experts|:.*)$)[\w.]+")


def module_outputs(trace, file):
    """What plain forward hooks on modules of these models would have recorded."""
    save_module_outputs(trace, file, PLAIN)
