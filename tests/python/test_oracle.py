"""The oracle against Hugging Face: the same logits in f32 and in f64, prefill and decode."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import paritrace
import pytest
import torch
import transformers.models.llama.modeling_llama as llama
from paritrace import hf

ROOT = Path(__file__).resolve().parents[2]
MODELS = [ROOT / "models" / "paritrace-llama"]
SHARED = ROOT.parent / "shared" / "models" / "stories260K-hf"
if SHARED.exists():
    MODELS.append(SHARED)
TOKENS = [1, 306, 411, 287, 218, 73, 21, 17, 442, 405, 64, 33, 200, 287, 100, 5, 88, 333, 250, 411, 7, 7, 301, 12]


def oracle(model, trace, arithmetic, decode=0):
    """Logits [tokens, vocabulary] of `paritrace run`, all steps one after another."""
    ids = ",".join(map(str, TOKENS))
    command = [
        sys.executable,
        "-m",
        "paritrace",
        "run",
        model,
        "--tokens",
        ids,
        "-o",
        trace,
        "--arithmetic",
        arithmetic,
    ]
    subprocess.run([*command, "--decode", str(decode)], check=True)
    rows = [entry.numpy() for entry in paritrace.open_trace(trace).entries if entry.site == "logits"]
    return np.concatenate(rows).astype(np.float64)


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.tensor([TOKENS])).logits[0].double().numpy()


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_f32_logits_equal_those_of_hf(model, tmp_path):
    assert np.abs(oracle(model, tmp_path / "t", "f32") - logits(hf.load(model, "f32"))).max() < 1e-4


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_f64_logits_equal_those_of_hf_but_for_its_inner_f32(model, tmp_path):
    # HF's RMSNorm, RoPE and softmax compute in f32 whatever the model's dtype.
    limit = 1e-5 if model == MODELS[0] else 2e-5
    assert np.abs(oracle(model, tmp_path / "t", "f64") - logits(hf.load(model, "f64"))).max() < limit


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_f64_logits_equal_those_of_hf_with_its_f32_casts_taken_out(model, tmp_path, monkeypatch):
    loaded = hf.load(model, "f64")
    take_out_f32(loaded, monkeypatch)
    assert np.abs(oracle(model, tmp_path / "t", "f64") - logits(loaded)).max() < 1e-10


def take_out_f32(loaded, monkeypatch):
    """RMSNorm, RoPE and softmax of HF's Llama in f64 throughout."""

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    config = loaded.config
    theta = float(config.rope_parameters["rope_theta"])
    frequencies = theta ** -(torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)

    def rotary(self, x, position_ids):
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(llama.LlamaRotaryEmbedding, "forward", rotary)
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim))


def test_decode_steps_continue_the_prefill(tmp_path):
    """The greedy tokens and logits of six decode steps are those of HF with its KV cache."""
    model = MODELS[0]
    got = oracle(model, tmp_path / "t", "f32", decode=6)
    loaded = hf.load(model, "f32")
    with torch.no_grad():
        output = loaded(input_ids=torch.tensor([TOKENS]), use_cache=True)
        rows = [output.logits[0]]
        for _ in range(6):
            output = loaded(
                input_ids=output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True
            )
            rows.append(output.logits[0])
    assert np.abs(got - torch.cat(rows).double().numpy()).max() < 1e-4
