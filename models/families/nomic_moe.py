"""nomic-embed-text-v2-moe in small: a post-norm encoder with RoPE, and a mixture of experts in every second layer.

Neither transformers nor another package holds its code, so the forward pass stands here, written from the paper
(arXiv:2502.07972) and the published config. Parameters bear the published names: what is stored opens in the model's own code.
"""

import json
import math

import corpus
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

STEPS = 1000
SPECIALS, ENDS = [*corpus.SPECIAL_TOKENS, corpus.MASK_TOKEN], True
MASK = len(corpus.SPECIAL_TOKENS)
CONTEXT = 512
LAYERS, HIDDEN, HEADS, WIDTH, EXPERTS, USED = 4, 128, 4, 256, 8, 2
ROPE_THETA = 10000.0
NORM_EPS = 1e-5
MASKED_SHARE = 0.3
CAUSAL_SHARE = 0.5
BALANCE = 0.02  # weight of the loss that keeps all experts in use


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.Wqkv = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.out_proj = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x, causal=False):
        q, k, v = self.Wqkv(x).unflatten(-1, (3, HEADS, HIDDEN // HEADS)).permute(2, 0, 3, 1, 4)
        context = functional.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=causal)
        return self.out_proj(context.transpose(1, 2).flatten(2))


def turn(x):
    """RoPE in half-split pairs; x is [batch, heads, tokens, lanes]."""
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(x.shape[-2]), ROPE_THETA ** (-torch.arange(half) / half))
    left, right = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1).to(x.dtype)


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(HIDDEN, WIDTH)
        self.fc2 = nn.Linear(WIDTH, HIDDEN)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x), approximate=ACTIVATION_FORM))


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(HIDDEN, EXPERTS, bias=False)

    def forward(self, x):
        return self.layer(x)


class ExpertWeights(nn.Module):
    """All experts of a layer, one below the other; the way out is stored as the way in, [width, hidden]."""

    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(EXPERTS * WIDTH, HIDDEN) / math.sqrt(HIDDEN))
        self.w2 = nn.Parameter(torch.randn(EXPERTS * WIDTH, HIDDEN) / math.sqrt(WIDTH))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = ExpertWeights()
        self.bias = nn.Parameter(torch.zeros(HIDDEN))

    def forward(self, x, weights, chosen):
        """x [tokens, hidden]; weights and chosen [tokens, used]."""
        ways_in, ways_out = (w.unflatten(0, (EXPERTS, WIDTH)) for w in (self.mlp.w1, self.mlp.w2))
        out = torch.zeros_like(x)
        for expert in range(EXPERTS):
            token, place = (chosen == expert).nonzero(as_tuple=True)
            inner = functional.gelu(x[token] @ ways_in[expert].T, approximate=ACTIVATION_FORM)
            out = out.index_add(0, token, (inner @ ways_out[expert]) * weights[token, place, None])
        return out + self.bias


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.router = Router()
        self.experts = Experts()

    def forward(self, x):
        flat = x.flatten(0, -2)
        probs = self.router(flat).softmax(-1, dtype=torch.float32)
        weights, chosen = probs.topk(USED)  # not renormalised
        weights = weights.to(flat.dtype)
        share = functional.one_hot(chosen, EXPERTS).float().mean((0, 1))
        self.imbalance = EXPERTS * (share * probs.mean(0)).sum()
        return self.experts(flat, weights, chosen).view_as(x)


class Layer(nn.Module):
    def __init__(self, mixture):
        super().__init__()
        self.attn = Attention()
        self.norm1 = nn.LayerNorm(HIDDEN, eps=NORM_EPS)
        self.mlp = Mixture() if mixture else Dense()
        self.norm2 = nn.LayerNorm(HIDDEN, eps=NORM_EPS)

    def forward(self, x, causal=False):
        x = self.norm1(self.attn(x, causal) + x)
        return self.norm2(self.mlp(x) + x)


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.word_embeddings = nn.Embedding(corpus.VOCAB_SIZE, HIDDEN)
        self.token_type_embeddings = nn.Embedding(1, HIDDEN)

    def forward(self, tokens):
        return self.word_embeddings(tokens) + self.token_type_embeddings(torch.zeros_like(tokens))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Layer(mixture=index % 2 == 1) for index in range(LAYERS))

    def forward(self, x, causal=False):
        for layer in self.layers:
            x = layer(x, causal)
        return x


class NomicBertMoe(nn.Module):
    """tokens, int64 [batch, length] -> the last hidden state [batch, length, hidden]."""

    def __init__(self):
        super().__init__()
        self.embeddings = Embeddings()
        self.emb_ln = nn.LayerNorm(HIDDEN, eps=NORM_EPS)
        self.encoder = Encoder()
        self.guess = nn.Parameter(torch.zeros(corpus.VOCAB_SIZE))  # of the head that training asks; not stored

    def forward(self, tokens, causal=False):
        return self.encoder(self.emb_ln(self.embeddings(tokens)), causal)

    def logits(self, states):
        return states @ self.embeddings.word_embeddings.weight.T + self.guess

    def num_parameters(self):
        return sum(parameter.numel() for parameter in self.parameters()) - self.guess.numel()


ACTIVATION_FORM = "none"  # the published config says "gelu": erf, where llama.cpp has tanh


def make_model():
    model = NomicBertMoe()
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
    stored = {name: value.bfloat16().contiguous() for name, value in model.state_dict().items() if name != "guess"}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(
        architectures=["NomicBertModel"],
        model_type="nomic_bert",
        activation_function="gelu",
        causal=False,
        layer_norm_epsilon=NORM_EPS,
        mlp_fc1_bias=True,
        mlp_fc2_bias=True,
        moe_every_n_layers=2,
        moe_normalize_expert_weights=False,
        moe_top_k=USED,
        n_embd=HIDDEN,
        n_head=HEADS,
        n_inner=WIDTH,
        n_layer=LAYERS,
        n_positions=CONTEXT,
        num_experts=EXPERTS,
        num_shared_experts=0,
        prenorm=False,
        qkv_proj_bias=True,
        rotary_emb_base=ROPE_THETA,
        rotary_emb_fraction=1.0,
        rotary_emb_interleaved=False,
        rotary_emb_scale_base=None,
        rotary_scaling_factor=None,
        dtype="bfloat16",
        type_vocab_size=1,
        use_rms_norm=False,
        vocab_size=corpus.VOCAB_SIZE,
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


sample = False
