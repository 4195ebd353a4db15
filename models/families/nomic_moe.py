"""nomic-embed-text-v2-moe in small: a post-norm encoder with RoPE, and a mixture of experts in every second layer.

Neither transformers nor another package holds its code, so the forward pass stands here, written from the paper
(arXiv:2502.07972) and the published config. Parameters bear the published names: what is stored opens in the model's own code.
"""

import json
import math
from dataclasses import dataclass

import corpus
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

STEPS = 500
SPECIALS, ENDS = [*corpus.SPECIAL_TOKENS, corpus.MASK_TOKEN], True
MASK = len(corpus.SPECIAL_TOKENS)
CONTEXT = 512
ACTIVATION_FORM = "none"  # the published config says "gelu": erf, where llama.cpp has tanh
MASKED_SHARE = 0.3
CAUSAL_SHARE = 0.5
BALANCE = 0.02  # weight of the loss that keeps all experts in use


@dataclass(frozen=True)
class Shape:
    layers: int = 4
    hidden: int = 128
    heads: int = 4
    width: int = 256
    experts: int = 8
    used: int = 2
    every: int = 2  # a mixture stands in the layers every - 1, 2 * every - 1, ...
    vocab: int = corpus.VOCAB_SIZE
    types: int = 1
    theta: float = 10000.0
    eps: float = 1e-5


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads, self.theta = shape.heads, shape.theta
        self.Wqkv = nn.Linear(shape.hidden, 3 * shape.hidden)
        self.out_proj = nn.Linear(shape.hidden, shape.hidden)

    def forward(self, x, causal=False):
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        context = functional.scaled_dot_product_attention(turn(q, self.theta), turn(k, self.theta), v, is_causal=causal)
        return self.out_proj(context.transpose(1, 2).flatten(2))


def turn(x, theta):
    """RoPE in half-split pairs; x is [batch, heads, tokens, lanes]."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]), theta ** (-torch.arange(half) / half))
    left, right = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)


class Dense(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.fc1 = nn.Linear(shape.hidden, shape.width)
        self.fc2 = nn.Linear(shape.width, shape.hidden)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x), approximate=ACTIVATION_FORM))


class Router(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(shape.hidden, shape.experts, bias=False)

    def forward(self, x):
        return self.layer(x)


class ExpertWeights(nn.Module):
    """All experts of a layer, one below the other; the way out is stored as the way in, [width, hidden]."""

    def __init__(self, shape):
        super().__init__()
        rows = shape.experts * shape.width
        self.w1 = nn.Parameter(torch.randn(rows, shape.hidden) / math.sqrt(shape.hidden))
        self.w2 = nn.Parameter(torch.randn(rows, shape.hidden) / math.sqrt(shape.width))


class Experts(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.count = shape.experts
        self.mlp = ExpertWeights(shape)
        self.bias = nn.Parameter(torch.zeros(shape.hidden))

    def forward(self, x, weights, chosen):
        """x [tokens, hidden]; weights and chosen [tokens, used]."""
        ways_in, ways_out = (w.unflatten(0, (self.count, -1)) for w in (self.mlp.w1, self.mlp.w2))
        out = torch.zeros_like(x)
        for expert in range(self.count):
            token, place = (chosen == expert).nonzero(as_tuple=True)
            inner = functional.gelu(x[token] @ ways_in[expert].T, approximate=ACTIVATION_FORM)
            out = out.index_add(0, token, (inner @ ways_out[expert]) * weights[token, place, None])
        return out + self.bias


class Mixture(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.used = shape.used
        self.router = Router(shape)
        self.experts = Experts(shape)

    def forward(self, x):
        flat = x.flatten(0, -2)
        probs = self.router(flat).softmax(-1, dtype=torch.float32)
        weights, chosen = probs.topk(self.used)  # not renormalised
        weights = weights.to(flat.dtype)
        share = functional.one_hot(chosen, probs.shape[-1]).float().mean((0, 1))
        self.imbalance = probs.shape[-1] * (share * probs.mean(0)).sum()
        return self.experts(flat, weights, chosen).view_as(x)


class Layer(nn.Module):
    def __init__(self, shape, mixture):
        super().__init__()
        self.attn = Attention(shape)
        self.norm1 = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.mlp = Mixture(shape) if mixture else Dense(shape)
        self.norm2 = nn.LayerNorm(shape.hidden, eps=shape.eps)

    def forward(self, x, causal=False):
        x = self.norm1(self.attn(x, causal) + x)
        return self.norm2(self.mlp(x) + x)


class Embeddings(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab, shape.hidden)
        self.token_type_embeddings = nn.Embedding(shape.types, shape.hidden)

    def forward(self, tokens):
        return self.word_embeddings(tokens) + self.token_type_embeddings(torch.zeros_like(tokens))


class Encoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        mixtures = [layer % shape.every == shape.every - 1 for layer in range(shape.layers)]
        self.layers = nn.ModuleList(Layer(shape, mixture) for mixture in mixtures)

    def forward(self, x, causal=False):
        for layer in self.layers:
            x = layer(x, causal)
        return x


class NomicBertMoe(nn.Module):
    """tokens, int64 [batch, length] -> the last hidden state [batch, length, hidden]."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.emb_ln = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.encoder = Encoder(shape)
        self.guess = nn.Parameter(torch.zeros(shape.vocab))  # of the head that training asks; not stored

    def forward(self, tokens, causal=False):
        return self.encoder(self.emb_ln(self.embeddings(tokens)), causal)

    def logits(self, states):
        return states @ self.embeddings.word_embeddings.weight.T + self.guess

    def num_parameters(self):
        return sum(parameter.numel() for parameter in self.parameters()) - self.guess.numel()


def make_model(shape=None):
    model = NomicBertMoe(shape or Shape())
    for name, parameter in model.named_parameters():
        if name.endswith("embeddings.weight"):
            nn.init.normal_(parameter, 0, 0.05)  # small guesses at first; a norm follows where it matters
    return model.float()


def loss(model, inputs, targets, generator=None):
    """Of guessing the tokens that were hidden, through the embedding as head.

    Half of the training batches ask for the next token instead, and see only what is before it: hidden tokens alone teach too
    little in minutes (the loss stays at that of counting words).
    """
    causal = model.training and bool(torch.rand((), generator=generator) < CAUSAL_SHARE)
    if causal:
        logits, wanted = model.logits(model(inputs, causal=True)).flatten(0, 1), targets.flatten()
    else:
        tokens = torch.cat([inputs, torch.full_like(inputs[:, :1], corpus.EOS)], 1)
        hidden = torch.rand(tokens.shape, generator=generator) < MASKED_SHARE
        hidden[:, 0] = hidden[:, -1] = False
        logits, wanted = model.logits(model(tokens.masked_fill(hidden, MASK))[hidden]), tokens[hidden]
    guessed = functional.cross_entropy(logits, wanted)
    if not model.training:
        return guessed
    balance = sum(layer.mlp.imbalance for layer in model.encoder.layers if isinstance(layer.mlp, Mixture))
    return guessed + BALANCE * balance


def largest_logit(model, inputs):
    return model.logits(model(inputs)).abs().max().item()


def settle(model):
    model.to(torch.bfloat16).float()


def store(model, folder):
    settle(model)
    shape = model.shape
    stored = {name: value.bfloat16().contiguous() for name, value in model.state_dict().items() if name != "guess"}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(
        architectures=["NomicBertModel"],
        model_type="nomic_bert",
        activation_function="gelu",
        causal=False,
        layer_norm_epsilon=shape.eps,
        mlp_fc1_bias=True,
        mlp_fc2_bias=True,
        moe_every_n_layers=shape.every,
        moe_normalize_expert_weights=False,
        moe_top_k=shape.used,
        n_embd=shape.hidden,
        n_head=shape.heads,
        n_inner=shape.width,
        n_layer=shape.layers,
        n_positions=CONTEXT,
        num_experts=shape.experts,
        num_shared_experts=0,
        prenorm=False,
        qkv_proj_bias=True,
        rotary_emb_base=shape.theta,
        rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False,
        rotary_emb_scale_base=None,
        rotary_scaling_factor=None,
        dtype="bfloat16",
        type_vocab_size=shape.types,
        use_rms_norm=False,
        vocab_size=shape.vocab,
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


sample = False
