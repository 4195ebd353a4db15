"""BERT, Gemma 2, Mixtral and Qwen2-MoE against Hugging Face: the oracle's outputs, and no false alarm on clean runs."""

import numpy as np
import paritrace
import pytest
import tiny_models
import torch
from paritrace import hf

MODELS = list(tiny_models.MODELS)
# In erf-GELU's tail all that is left of 1 + erf is the last bits of the kernel's polynomial.
LAYER_NORM_FAMILIES = ("bert", "bert-tanh")


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / request.param
    tiny_models.build(request.param).save_pretrained(path)
    return path


def load(folder, dtype):
    model = hf.load(folder, dtype)
    if dtype == "f64" and hasattr(model.config, "_experts_implementation"):
        model.set_experts_implementation("eager")  # torch multiplies grouped matrices in f32 at most
    return model


def output_of(trace, site):
    rows = [entry.numpy() for entry in paritrace.open_trace(trace).entries if entry.site == site]
    return np.concatenate(rows).astype(np.float64)


@torch.no_grad()
def run_hf(model, tokens, decode):
    """The logits of all steps, or an encoder's last hidden states."""
    output = model(input_ids=torch.tensor([tokens]), **({"use_cache": True} if decode else {}))
    if "logits" not in output:
        return output.last_hidden_state[0].double().numpy()
    rows = [output.logits[0]]
    for _ in range(decode):
        output = model(
            input_ids=output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True
        )
        rows.append(output.logits[0])
    return torch.cat(rows).double().numpy()


# HF's RMSNorm, RoPE and softmax compute in f32 whatever the model's dtype; BERT's LayerNorm and softmax in the dtype itself.
@pytest.mark.parametrize("dtype, limit", [("f32", 1e-4), ("f64", 1e-5)])
def test_the_oracle_gives_the_outputs_of_hf(folder, dtype, limit, tmp_path):
    decode = 0 if folder.name.startswith("bert") else 4
    tokens = tiny_models.prompt(24)
    ids = ",".join(map(str, tokens))
    done = tiny_models.paritrace(
        "run", folder, "--tokens", ids, "-o", tmp_path / "t", "--arithmetic", dtype, "--decode", decode
    )
    assert done.returncode == 0, done.stderr
    site = "logits" if decode else "layers.1.out"
    difference = np.abs(output_of(tmp_path / "t", site) - run_hf(load(folder, dtype), tokens, decode)).max()
    assert difference < (1e-12 if dtype == "f64" and not decode else limit)


@pytest.mark.parametrize("count, decode", [(1, 0), (12, 3), (70, 0)])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_clean_run_raises_no_alarm(folder, dtype, count, decode, tmp_path):
    decode = 0 if folder.name.startswith("bert") else decode
    hf.run(folder, tmp_path / "trace", tokens=tiny_models.prompt(count), dtype=dtype, decode=decode)
    result = tiny_models.diagnose(tmp_path / "trace", folder)
    assert result["defects"] == [] and len(result["noise"]) >= 30
    assert all(flip["benign"] for flip in result["routing"])
    assert not [remark for remark in result["remarks"] if "not part of MODEL" in remark]
    if dtype == "bf16" and count > 1:
        share = 0.995 if folder.name in LAYER_NORM_FAMILIES else 0.999
        exact = {
            row["site"]: row["exact"]
            for row in result["noise"]
            if row["values"] >= 500 and not row["site"].endswith("moe.probs")
        }
        assert {site: value for site, value in exact.items() if not value >= share} == {}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_clean_module_outputs_are_within_noise(folder, dtype, tmp_path):
    hf.run(folder, tmp_path / "trace", tokens=tiny_models.prompt(70), dtype=dtype)
    tiny_models.module_outputs(tmp_path / "trace", tmp_path / "modules.safetensors")
    result = tiny_models.diagnose(tmp_path / "modules.safetensors", folder)
    assert result["defects"] == [] and result["arithmetic"] == ("torch-bf16" if dtype == "bf16" else "f32")
    assert any("read off its embedding rows" in remark for remark in result["remarks"]) or folder.name.startswith(
        "bert"
    )


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_experts_summed_one_by_one_are_explained_as_well(name, dtype, tmp_path):
    """transformers has several ways to run the experts; they round in different places."""
    tiny_models.build(name).save_pretrained(tmp_path / "model")
    model = hf.load(tmp_path / "model", dtype)
    model.set_experts_implementation("eager")
    with torch.no_grad(), paritrace.capture(model, tmp_path / "trace"):
        model(input_ids=torch.tensor([tiny_models.prompt(40)]))
    result = tiny_models.diagnose(tmp_path / "trace", tmp_path / "model")
    assert result["defects"] == []
    if dtype == "bf16":
        assert all(row["exact"] >= 0.999 for row in result["noise"] if row["site"].endswith("moe.out"))


UNSUPPORTED = [
    ("bert", {"position_embedding_type": "relative_key"}, 'position_embedding_type "relative_key" is not supported'),
    ("bert", {"is_decoder": True}, "is_decoder is not supported"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
    ("gemma2", {"layer_types": ["sliding_attention", "chunked_attention"]}, "layer_types[1]"),
    ("mixtral", {"num_experts_per_tok": 7}, "num_experts_per_tok"),
    ("mixtral", {"num_local_experts": 0}, "num_local_experts"),
    ("qwen2_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step"),
    ("qwen2_moe", {"hidden_act": "softmax"}, 'activation "softmax" is not supported'),
    ("mixtral", {"model_type": "mixtral9"}, 'architecture "mixtral9" is not supported'),
    ("mixtral", {"num_local_experts": 7}, "expected [7, 64] as the config says, found [6, 64]"),
]


@pytest.mark.parametrize(
    "name, change, message", UNSUPPORTED, ids=[f"{row[0]}-{next(iter(row[1]))}" for row in UNSUPPORTED]
)
def test_what_is_not_supported_is_refused_by_name(name, change, message, tmp_path):
    import json

    tiny_models.build(name).save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    done = tiny_models.paritrace("run", tmp_path / "model", "--tokens", "1,2", "-o", tmp_path / "t")
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
