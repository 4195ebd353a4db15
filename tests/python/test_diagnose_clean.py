"""No false alarm: Hugging Face's own models of every supported architecture and many of their options, run as they are."""

import json
import random
import subprocess
import sys

import pytest
import random_weights
import torch
import transformers
from paritrace import hf

SIZES = dict(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
)
CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
MODELS = {
    "llama": ("llama", {}),
    "llama-biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama-rope-llama3": ("llama", dict(rope_parameters=LLAMA3)),
    "llama-rope-linear": ("llama", dict(rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=4.0))),
    "llama-rope-yarn": (
        "llama",
        dict(
            rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=128)
        ),
    ),
    "llama-gelu": ("llama", dict(hidden_act="gelu")),
    "llama-gelu-tanh": ("llama", dict(hidden_act="gelu_pytorch_tanh")),
    "llama-relu": ("llama", dict(hidden_act="relu")),
    "llama-tied": ("llama", dict(tie_word_embeddings=True, num_key_value_heads=4)),
    "mistral-window": ("mistral", dict(sliding_window=8)),
    "mistral": ("mistral", dict(sliding_window=None)),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", dict(use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "qwen3": ("qwen3", dict(head_dim=32)),
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    kind, options = MODELS[request.param]
    config, model_class = CLASSES[kind]
    torch.manual_seed(1)
    model = random_weights.fill(model_class._from_config(config(**SIZES | options), attn_implementation="eager"))
    path = tmp_path_factory.mktemp("model") / request.param
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("count, decode", [(1, 0), (12, 3), (70, 0)])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_clean_run_raises_no_alarm(folder, dtype, count, decode, tmp_path):
    tokens = random.Random(count).choices(range(SIZES["vocab_size"]), k=count)
    hf.run(folder, tmp_path / "trace", tokens=tokens, dtype=dtype, decode=decode)
    command = [sys.executable, "-m", "paritrace", "diagnose", tmp_path / "trace", "--model", folder, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[:2000] + done.stderr
    result = json.loads(done.stdout)
    assert result["defects"] == [] and len(result["noise"]) >= 30
    if dtype == "bf16":
        # In erf-GELU's tail all that is left of 1 + erf is the last bits of the kernel's polynomial, which we do not have.
        share = 0.995 if "gelu" in folder.name else 0.998
        assert {
            row["site"]: row["exact"] for row in result["noise"] if row["values"] >= 1000 and not row["exact"] >= share
        } == {}
