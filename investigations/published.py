"""A model that computes what another does, and carries the marks that were once taken for mistakes."""

import json
import shutil

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

NORM_RMS = 0.046
TINY = 127 * 2.0**-23  # the largest value of an unused row; its q8_0 scale is then 2^-23
FEEDS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def with_small_norms_and_unused_rows(source, folder, tokens):
    """Writes the Llama in `source` to `folder` with its layers' norm weights scaled to an rms of NORM_RMS, the matrices behind them scaled
    back, and the embedding's rows of every second token that is not in `tokens` near zero, as those of tokens that training never met.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    weights = {name: value.float() for name, value in load_file(source / "model.safetensors").items()}
    for name in list(weights):
        for norm, matrices in FEEDS.items():
            if name.endswith(f"{norm}.weight"):
                factor = torch.sqrt(torch.mean(weights[name] ** 2)) / NORM_RMS
                weights[name] /= factor
                for matrix in matrices:
                    weights[name.replace(norm, matrix)] *= factor
    embedding = weights["model.embed_tokens.weight"]
    unused = [row for row in range(3, len(embedding), 2) if row not in tokens]
    embedding[unused] *= TINY / embedding[unused].abs().amax(-1, keepdim=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2))


def tiny_scales(file, tokens):
    """(the largest q8_0 scale of the embedding below 2^-20, how many rows have such). AssertionError if one of them is in `tokens`."""
    tensor = next(tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == "token_embd.weight")
    blocks = np.ascontiguousarray(tensor.data).reshape(tensor.data.shape[0], -1, 34)
    scales = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16).astype(np.float64)
    small = np.nonzero((scales < 2.0**-20).any(axis=(1, 2)))[0]
    assert not set(small.tolist()) & set(tokens)
    return float(scales[scales < 2.0**-20].max()), len(small)
