"""Qwen2 in JAX: jitted layers, a KV cache, bf16 or f32, from a Hugging Face folder. It records itself through tap().

An engine under test: --mistake makes it wrong in a known way.

    python engine.py FOLDER --tokens 0,15,27 --decode 2 --trace trace/
    python engine.py FOLDER --tokens 0,15,27 --mistake rope.interleaved --mistake norm.eps@3 --trace wrong/
"""

import argparse
import contextlib
import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from paritrace import jax as recorder
from paritrace.jax import tap
from safetensors import safe_open

MISTAKES = [
    "attn.kv_cache",
    "attn.kv_head_order",
    "attn.mask_missing",
    "attn.scale",
    "embed.row_offset",
    "head.final_norm_missing",
    "linear.bias_missing",
    "linear.transposed",
    "mlp.activation",
    "mlp.gate_up_swapped",
    "norm.eps",
    "norm.type",
    "norm.weight_missing",
    "norm.weight_plus_one",
    "residual.from_norm",
    "residual.missing",
    "rope.direction",
    "rope.interleaved",
    "rope.k_missing",
    "rope.missing",
    "rope.theta",
]


class Mistakes:
    """Ids, each perhaps in one layer only ("norm.eps@3")."""

    def __init__(self, texts):
        self.made = [(id, int(layer) if layer else None) for id, _, layer in (text.partition("@") for text in texts)]
        for id, _ in self.made:
            if id not in MISTAKES:
                raise SystemExit(f"jax_qwen2: --mistake {id}: not one of {' '.join(MISTAKES)}")

    def __call__(self, id, layer=0):
        return any(made == id and only in (None, layer) for made, only in self.made)


def rms_norm(x, weight, eps, makes, layer):
    """x [tokens, hidden]; in f32 but for the product with the weight, as transformers has it."""
    wide = x.astype(jnp.float32)
    if makes("norm.type", layer):
        wide = wide - wide.mean(-1, keepdims=True)
    eps = 1e-3 if makes("norm.eps", layer) else eps
    normed = (wide * jax.lax.rsqrt((wide * wide).mean(-1, keepdims=True) + eps)).astype(x.dtype)
    if makes("norm.weight_missing", layer):
        return normed
    return (weight + 1 if makes("norm.weight_plus_one", layer) else weight) * normed


def turn(x, positions, theta, interleaved, sign):
    """RoPE on x [heads, tokens, lanes]."""
    half = x.shape[-1] // 2
    angles = positions[:, None].astype(jnp.float32) * theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    cos, sin = jnp.cos(angles).astype(x.dtype), (sign * jnp.sin(angles)).astype(x.dtype)
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class Qwen2:
    """folder: config.json and model.safetensors; dtype: what weights and activations are kept in."""

    def __init__(self, folder, dtype, makes):
        self.config = json.loads((folder / "config.json").read_text())
        self.makes, self.dtype = makes, dtype
        with safe_open(folder / "model.safetensors", "flax") as file:
            self.weights = {name: file.get_tensor(name).astype(dtype) for name in file.keys()}
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.lanes = self.config["hidden_size"] // self.heads
        self.cache = [None] * self.config["num_hidden_layers"]
        self.past = 0

    def forward(self, ids):
        """Logits of the last token; `ids` go behind those of earlier calls."""
        table = self.weights["model.embed_tokens.weight"]
        shift = 1 if self.makes("embed.row_offset") else 0
        x = tap("embed", table[(jnp.asarray(ids) + shift) % table.shape[0]])
        for layer in range(len(self.cache)):
            x, self.cache[layer] = self.layer(layer)(x, self.cache[layer], self.past)
        self.past += len(ids)
        if not self.makes("head.final_norm_missing"):
            x = rms_norm(x, self.weights["model.norm.weight"], self.config["rms_norm_eps"], self.makes, 0)
        head = self.weights.get("lm_head.weight", table)
        return tap("logits", tap("final_norm", x) @ head.T)[-1]

    def layer(self, index):
        return jax.jit(functools.partial(self.run_layer, index), static_argnums=2)

    def linear(self, name, x, transposed=False, biased=True):
        weight = self.weights[f"{name}.weight"]
        y = x @ (weight if transposed else weight.T)
        bias = self.weights.get(f"{name}.bias") if biased else None
        return y if bias is None else y + bias

    def run_layer(self, index, x, cache, past):
        makes, name, site = self.makes, f"model.layers.{index}", f"layers.{index}"
        norm = functools.partial(rms_norm, eps=self.config["rms_norm_eps"], makes=makes, layer=index)
        normed = tap(f"{site}.attn.norm", norm(x, self.weights[f"{name}.input_layernorm.weight"]))
        attended, cache = self.attend(index, normed, cache, past)
        if makes("residual.missing", index):
            stream = attended
        else:
            stream = (normed if makes("residual.from_norm", index) else x) + attended
        stream = tap(f"{site}.attn.residual", stream)
        normed = tap(f"{site}.mlp.norm", norm(stream, self.weights[f"{name}.post_attention_layernorm.weight"]))
        gate = tap(f"{site}.mlp.gate", self.linear(f"{name}.mlp.gate_proj", normed))
        up = tap(f"{site}.mlp.up", self.linear(f"{name}.mlp.up_proj", normed))
        if makes("mlp.gate_up_swapped", index):
            gate, up = up, gate
        activation = functools.partial(jax.nn.gelu, approximate=True) if makes("mlp.activation", index) else jax.nn.silu
        act = tap(f"{site}.mlp.act", activation(gate) * up)
        out = tap(f"{site}.mlp.out", self.linear(f"{name}.mlp.down_proj", act))
        return tap(f"{site}.out", stream + out), cache

    def attend(self, index, normed, cache, past):
        makes, name, site = self.makes, f"model.layers.{index}.self_attn", f"layers.{index}.attn"
        tokens = normed.shape[0]

        def project(part, transposed=False):
            biased = not makes("linear.bias_missing", index)
            return tap(f"{site}.{part}", self.linear(f"{name}.{part}_proj", normed, transposed, biased))

        def split(x, heads):
            return x.reshape(tokens, heads, self.lanes).transpose(1, 0, 2)

        def join(x):
            return x.transpose(1, 0, 2).reshape(tokens, -1)

        q = split(project("q", makes("linear.transposed", index)), self.heads)
        k, v = split(project("k"), self.kv_heads), split(project("v"), self.kv_heads)
        positions = past + jnp.arange(tokens)
        theta = 10000.0 if makes("rope.theta", index) else self.config["rope_theta"]
        turned = functools.partial(
            turn, positions=positions, theta=theta, interleaved=makes("rope.interleaved", index),
            sign=-1.0 if makes("rope.direction", index) else 1.0,
        )  # fmt: skip
        if not makes("rope.missing", index):
            q = turned(q)
            k = k if makes("rope.k_missing", index) else turned(k)
        q, k = split(tap(f"{site}.q_rope", join(q)), self.heads), split(tap(f"{site}.k_rope", join(k)), self.kv_heads)
        if cache is not None:
            kept = cache[0].at[:, -1:].set(k) if makes("attn.kv_cache", index) else cache[0]  # a slot one too low
            k, v = jnp.concatenate([kept, k], 1), jnp.concatenate([cache[1], v], 1)
        cache = (k, v)
        groups = self.heads // self.kv_heads
        spread = functools.partial(jnp.tile, reps=(groups, 1, 1))
        if not makes("attn.kv_head_order", index):
            spread = functools.partial(jnp.repeat, repeats=groups, axis=0)
        scale = 1.0 if makes("attn.scale", index) else self.lanes**-0.5
        scores = (q @ spread(k).transpose(0, 2, 1)) * jnp.asarray(scale, q.dtype)
        if not makes("attn.mask_missing", index):
            seen = jnp.arange(k.shape[1])[None] <= positions[:, None]
            scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        scores = tap(f"{site}.scores", scores)
        probs = tap(f"{site}.probs", jax.nn.softmax(scores.astype(jnp.float32), -1).astype(scores.dtype))
        context = tap(f"{site}.ctx", join(probs @ spread(v)))
        return tap(f"{site}.out", self.linear(f"{name}.o_proj", context)), cache


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", required=True, type=lambda text: [int(id) for id in text.split(",")])
    parser.add_argument("--decode", type=int, default=0)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--mistake", action="append", default=[], metavar="ID[@LAYER]", help=" ".join(MISTAKES))
    parser.add_argument("--trace", help="folder to record in")
    arguments = parser.parse_args(argv)
    dtype = {"f32": jnp.float32, "bf16": jnp.bfloat16}[arguments.dtype]
    model = Qwen2(arguments.model, dtype, Mistakes(arguments.mistake))
    about = {"name": arguments.model.name, "architecture": "qwen2", "file": str(arguments.model)}
    recording = contextlib.nullcontext()
    if arguments.trace:
        recording = recorder.capture(arguments.trace, tokens=[arguments.tokens], model=about)
    tokens, start = arguments.tokens, 0
    with recording:
        for step in range(arguments.decode + 1):
            if step and arguments.trace:
                recorder.next_step(start, [tokens])
            logits = np.asarray(model.forward(tokens), np.float32)
            start += len(tokens)
            tokens = [int(logits.argmax())]
            print(f"step {step}: token {tokens[0]}, logit {logits[tokens[0]]:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
