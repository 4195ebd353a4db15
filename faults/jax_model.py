"""A plain JAX model of the Llama family: Llama, Mistral, Qwen2, Qwen3, with every site tapped.

Each step of a layer is a part that can be replaced, in all layers or in some: that is how mistakes get in (jax_faults.py).
Weights, RoPE frequencies and sizes come from the Hugging Face folder; none of paritrace's own code computes a value.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
from paritrace import hf
from paritrace.jax import tap

DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
LINEARS = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
}


def rms_norm(x, weight, eps):
    """x: [..., width]; mean and root in f32, the product with the weight in x's own type."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps)
    return weight * normed.astype(x.dtype)


def rotate(x, cos, sin):
    """x: [heads, tokens, dim], the first half of each head turned against the second; cos, sin: [tokens, dim / 2]."""
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def softmax(scores):
    """In f32, rounded to the scores' own type."""
    return jax.nn.softmax(scores.astype(jnp.float32), -1).astype(scores.dtype)


class Model:
    """A folder's weights in one dtype, and the parts of each layer.

    folder  of a Llama, Mistral, Qwen2 or Qwen3;  arithmetic: a key of DTYPES
    """

    def __init__(self, folder, arithmetic):
        source = hf.load(folder, "f32")
        self.config, self.dtype = source.config, DTYPES[arithmetic]
        self.weights = {name: jnp.asarray(v.numpy(), self.dtype) for name, v in source.state_dict().items()}
        if self.config.tie_word_embeddings:
            self.weights["lm_head.weight"] = self.weights["model.embed_tokens.weight"]
        self.dim = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        rotary = source.model.rotary_emb
        frequencies, magnitude = jnp.asarray(rotary.inv_freq.numpy()), float(rotary.attention_scaling)
        self.top = SimpleNamespace(
            embed=lambda table, ids: table[ids], norm=rms_norm, head=lambda stream, normed: normed
        )
        self.layers = [
            SimpleNamespace(
                norm=rms_norm,  # attn.norm
                mlp_norm=rms_norm,
                eps=self.config.rms_norm_eps,
                mlp_eps=self.config.rms_norm_eps,
                rotate_q=rotate,
                rotate_k=rotate,
                frequencies=frequencies,
                magnitude=magnitude,
                shift_q=0,
                scale=self.dim**-0.5,
                window=self._window(i),
                mask=lambda rows, columns: columns <= rows,
                softmax=softmax,
                spread=lambda x, groups: jnp.repeat(x, groups, 0),
                join=lambda context: context.transpose(1, 0, 2).reshape(context.shape[1], -1),
                activation=jax.nn.silu,
                mix=lambda gate, up, activation: activation(gate) * up,
                add_attention=lambda stream, normed, update, entry: stream + update,
                add_mlp=lambda stream, normed, update, entry: stream + update,
            )
            for i in range(self.config.num_hidden_layers)
        ]

    def _window(self, layer):
        kinds = getattr(self.config, "layer_types", None)
        window = getattr(self.config, "sliding_window", None)
        return window if window and (kinds is None or kinds[layer] == "sliding_attention") else None

    def linear(self, name, x):
        y = x @ self.weights[f"{name}.weight"].T
        bias = self.weights.get(f"{name}.bias")
        return y if bias is None else y + bias

    def heads(self, x):
        return x.reshape(x.shape[0], -1, self.dim).transpose(1, 0, 2)  # [heads, tokens, dim]

    def turned(self, part, x, positions, turn):
        angle = positions[:, None].astype(jnp.float32) * part.frequencies
        cos, sin = jnp.cos(angle) * part.magnitude, jnp.sin(angle) * part.magnitude
        return turn(x, cos.astype(x.dtype), sin.astype(x.dtype))

    def attention(self, i, h, cache, start):
        """h: [tokens, hidden]; cache: k and v of earlier steps or None. Returns the output and the longer cache."""
        part, site, path = self.layers[i], f"layers.{i}.attn", f"model.layers.{i}.self_attn"
        q, k, v = (tap(f"{site}.{p}", self.linear(f"{path}.{p}_proj", h)) for p in "qkv")
        q, k, v = self.heads(q), self.heads(k), self.heads(v)
        if f"{path}.q_norm.weight" in self.weights:
            q, k = (rms_norm(x, self.weights[f"{path}.{p}_norm.weight"], part.eps) for p, x in (("q", q), ("k", k)))
            q, k = tap(f"{site}.q_norm", flat(q)), tap(f"{site}.k_norm", flat(k))
            q, k = self.heads(q), self.heads(k)
        positions = start + jnp.arange(h.shape[0])
        q = self.turned(part, q, positions + part.shift_q, part.rotate_q)
        k = self.turned(part, k, positions, part.rotate_k)
        q, k = self.heads(tap(f"{site}.q_rope", flat(q))), self.heads(tap(f"{site}.k_rope", flat(k)))
        if cache is not None:
            k, v = jnp.concatenate([cache[0], k], 1), jnp.concatenate([cache[1], v], 1)
        groups = q.shape[0] // k.shape[0]
        rows, columns = positions[:, None], jnp.arange(k.shape[1])[None]
        seen = part.mask(rows, columns)
        if part.window:
            seen = seen & (rows - columns < part.window)
        scores = (q @ part.spread(k, groups).transpose(0, 2, 1)) * jnp.asarray(part.scale, q.dtype)
        scores = tap(f"{site}.scores", jnp.where(seen, scores, jnp.finfo(scores.dtype).min))
        probs = tap(f"{site}.probs", part.softmax(scores))
        context = tap(f"{site}.ctx", part.join(probs @ part.spread(v, groups)))
        return tap(f"{site}.out", self.linear(f"{path}.o_proj", context)), (k, v)

    def layer(self, i, entry, cache, start):
        part, site, path = self.layers[i], f"layers.{i}", f"model.layers.{i}"
        tap(f"{site}.in", entry)
        normed = part.norm(entry, self.weights[f"{path}.input_layernorm.weight"], part.eps)
        update, cache = self.attention(i, tap(f"{site}.attn.norm", normed), cache, start)
        stream = tap(f"{site}.attn.residual", part.add_attention(entry, normed, update, entry))
        normed = part.mlp_norm(stream, self.weights[f"{path}.post_attention_layernorm.weight"], part.mlp_eps)
        tap(f"{site}.mlp.norm", normed)
        gate, up = (tap(f"{site}.mlp.{p}", self.linear(f"{path}.mlp.{p}_proj", normed)) for p in ("gate", "up"))
        mixed = tap(f"{site}.mlp.act", part.mix(gate, up, part.activation))
        update = tap(f"{site}.mlp.out", self.linear(f"{path}.mlp.down_proj", mixed))
        return tap(f"{site}.out", part.add_mlp(stream, normed, update, entry)), cache

    def __call__(self, ids, cache):
        """ids: [tokens]; cache: [(k, v)] a layer, or None. Returns logits, [tokens, vocabulary], and the longer cache."""
        start = 0 if cache is None else cache[0][0].shape[1]
        x = tap("embed", self.top.embed(self.weights["model.embed_tokens.weight"], ids))
        longer = []
        for i in range(len(self.layers)):
            x, kept = self.layer(i, x, None if cache is None else cache[i], start)
            longer.append(kept)
        normed = tap("final_norm", self.top.norm(x, self.weights["model.norm.weight"], self.config.rms_norm_eps))
        return tap("logits", self.linear("lm_head", self.top.head(x, normed))), longer

    def compiled(self):
        return jax.jit(self.__call__)


def flat(x):
    """[heads, tokens, dim] to [tokens, heads * dim]."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)
