"""Capture of Hugging Face models: what is recorded is what the engine computed, and the engine is left as it was."""

import json
import math
import resource
import subprocess
import sys
import types

import numpy as np
import paritrace
import pytest
import torch
import transformers
from paritrace import hf, torch_threads
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import AttentionInterface
from transformers.models.llama import modeling_llama

LAYER_SITES = (
    "in", "attn.norm", "attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.scores", "attn.probs", "attn.ctx",
    "attn.out", "attn.residual", "mlp.norm", "mlp.gate", "mlp.up", "mlp.act", "mlp.out", "out",
)  # fmt: skip


def llama_sites(layers):
    return [
        "embed",
        *(f"layers.{layer}.{site}" for layer in range(layers) for site in LAYER_SITES),
        "final_norm",
        "logits",
    ]


def record(model, path, *calls, **options):
    """Captures model(call) for each call's ids and opens the trace."""
    with torch.no_grad(), paritrace.capture(model, path, **options):
        for ids in calls:
            model(torch.tensor([ids]))
    return paritrace.open_trace(path)


def merge_heads(value):
    """[1, heads, tokens, dim] -> [tokens, heads*dim]"""
    return value[0].transpose(0, 1).flatten(1)


def test_every_llama_site_once_and_in_order(load_hf, tokens, tmp_path):
    model = load_hf()
    trace = record(model, tmp_path / "t", tokens)
    assert [entry.site for entry in trace.entries if entry.site] == llama_sites(model.config.num_hidden_layers)
    config, count = model.config, len(tokens)
    heads, width = config.num_attention_heads, config.head_dim
    shapes = {entry.site: tuple(entry.shape) for entry in trace.entries}
    assert shapes["layers.1.attn.q"] == shapes["layers.1.attn.q_rope"] == (count, heads * width)
    assert shapes["layers.1.attn.k"] == shapes["layers.1.attn.k_rope"] == (count, config.num_key_value_heads * width)
    assert shapes["layers.1.attn.scores"] == shapes["layers.1.attn.probs"] == (heads, count, count)
    assert shapes["layers.1.attn.ctx"] == (count, heads * width)
    assert shapes["layers.1.mlp.act"] == (count, config.intermediate_size)
    assert shapes["logits"] == (count, config.vocab_size)


def test_values_are_the_engines_own(load_hf, tokens, tmp_path):
    model = load_hf()
    trace = record(model, tmp_path / "t", tokens)
    with torch.no_grad():
        expected = model(torch.tensor([tokens]), output_hidden_states=True, output_attentions=True)
    for layer in range(model.config.num_hidden_layers):
        assert np.array_equal(trace.values(f"layers.{layer}.in"), expected.hidden_states[layer][0])
        assert np.array_equal(trace.values(f"layers.{layer}.attn.probs"), expected.attentions[layer][0])
        # Scores are scaled and masked: their softmax is the probabilities.
        scores = torch.from_numpy(trace.values(f"layers.{layer}.attn.scores"))
        assert torch.equal(torch.softmax(scores, -1), expected.attentions[layer][0])
        residual = trace.values(f"layers.{layer}.in") + trace.values(f"layers.{layer}.attn.out")
        assert np.array_equal(trace.values(f"layers.{layer}.attn.residual"), residual)
    assert np.array_equal(trace.values("logits"), expected.logits[0])


@pytest.mark.parametrize(
    ("dtype", "arithmetic"), [("f32", "torch-f32"), ("bf16", "torch-bf16"), ("f16", "torch-f16"), ("f64", "f64")]
)
def test_recorded_in_the_engines_dtype(load_hf, tokens, tmp_path, dtype, arithmetic):
    trace = record(load_hf(dtype), tmp_path / "t", tokens)
    assert {entry.dtype for entry in trace.entries if entry.site} == {dtype}
    assert trace.header["run"]["arithmetic"] == arithmetic
    assert all(np.isfinite(trace.values(site)).all() for site in ("logits", "layers.2.attn.probs", "layers.4.mlp.act"))


def test_header(load_hf, tokens, tmp_path, model_folder):
    header = record(load_hf(), tmp_path / "t", tokens, text=["a prompt"]).header
    assert header["format"] == "paritrace/1"
    assert header["status"] == "complete"
    assert header["engine"]["name"] == "hf"
    assert header["engine"]["version"] == transformers.__version__
    assert header["model"] == {"name": model_folder.name, "architecture": "llama", "file": str(model_folder)}
    run = header["run"]
    assert run["tokens"] == [tokens]
    assert run["steps"] == [{"step": 0, "start": 0, "count": len(tokens)}]
    assert run["attention"] == "eager"
    assert run["text"] == ["a prompt"]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_forward_is_unchanged(load_hf, tokens, tmp_path, dtype):
    model, ids = load_hf(dtype), torch.tensor([tokens])
    with torch.no_grad():
        before = model(ids).logits
        with paritrace.capture(model, tmp_path / "t"):
            during = model(input_ids=ids).logits
        after = model(ids).logits
    assert torch.equal(before, during)
    assert torch.equal(before, after)


def test_gradients_still_flow(load_hf, tokens, tmp_path):
    model = load_hf()
    with paritrace.capture(model, tmp_path / "t"):
        model(torch.tensor([tokens])).logits.sum().backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0


def installed():
    """Everything that a capture replaces."""
    return (
        modeling_llama.apply_rotary_pos_emb, modeling_llama.eager_attention_forward, nn.functional.softmax,
        AttentionInterface.get_interface, Cache.update, torch.overrides._get_current_function_mode(),
    )  # fmt: skip


def hooks(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


@pytest.mark.parametrize("fails", [False, True], ids=["clean", "exception"])
def test_everything_is_put_back(load_hf, tokens, tmp_path, monkeypatch, fails):
    model, before = load_hf(), installed()
    if fails:
        # The engine itself fails, in the middle of a layer.
        monkeypatch.setattr(model.model.layers[2].mlp, "forward", lambda x: x @ x)
        with pytest.raises(RuntimeError):
            record(model, tmp_path / "t", tokens)
        trace = paritrace.open_trace(tmp_path / "t")
        assert not trace.complete
        assert trace.find("layers.2.attn.out") is not None
        assert trace.header["run"]["tokens"] == [tokens]
    else:
        record(model, tmp_path / "t", tokens)
    assert installed() == before
    assert hooks(model) == []


def test_works_again_after_a_failed_call(load_hf, tokens, tmp_path):
    model = load_hf()
    with torch.no_grad(), paritrace.capture(model, tmp_path / "t"):
        with pytest.raises(IndexError):
            model(torch.tensor([[10**6]]))
        model(torch.tensor([tokens]))
    trace = paritrace.open_trace(tmp_path / "t")
    assert [entry.site for entry in trace.entries if entry.site and entry.step == 1] == llama_sites(5)


# Faults that a user may have: each patch stands for one, and the trace must show what the patched engine computes.


def rope_missing(patch):
    patch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, cos, sin, **_: (q, k))


def check_rope_missing(trace, model):
    assert np.array_equal(trace.values("layers.1.attn.q_rope"), trace.values("layers.1.attn.q"))
    assert np.array_equal(trace.values("layers.1.attn.k_rope"), trace.values("layers.1.attn.k"))


def scale_missing(patch):
    real = modeling_llama.eager_attention_forward

    def unscaled(module, query, key, value, mask, scaling, **kwargs):
        return real(module, query, key, value, mask, scaling=1.0, **kwargs)

    patch.setattr(modeling_llama, "eager_attention_forward", unscaled)


def check_scale_missing(trace, model):
    q, k = (trace.values(f"layers.0.attn.{part}_rope").reshape(12, -1, 16) for part in "qk")
    k = k.repeat(2, axis=1)
    scores = trace.values("layers.0.attn.scores")
    assert np.allclose(scores[3, 5, :6], q[5, 3] @ k[:6, 3].T, rtol=1e-4, atol=1e-4)


def mask_missing(patch):
    real = modeling_llama.eager_attention_forward
    patch.setattr(
        modeling_llama,
        "eager_attention_forward",
        lambda module, query, key, value, mask, **kwargs: real(module, query, key, value, None, **kwargs),
    )


def check_mask_missing(trace, model):
    assert np.abs(trace.values("layers.0.attn.scores")).max() < 1e4
    assert (trace.values("layers.0.attn.probs")[:, 0, 1:] > 0).all()


def kv_heads_reordered(patch):
    patch.setattr(modeling_llama, "repeat_kv", lambda x, n: x.repeat(1, n, 1, 1))


def check_kv_heads_reordered(trace, model):
    q, k = (trace.values(f"layers.0.attn.{part}_rope").reshape(12, -1, 16) for part in "qk")
    scores = trace.values("layers.0.attn.scores")
    assert np.allclose(scores[5, 5, :6], q[5, 5] @ k[:6, 5 % 4].T / 4, rtol=1e-4, atol=1e-4)


def norm_weight_missing(patch):
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    patch.setattr(modeling_llama.LlamaRMSNorm, "forward", forward)


def check_norm_weight_missing(trace, model):
    for site in ("layers.2.attn.norm", "layers.2.mlp.norm", "final_norm"):
        assert np.allclose((trace.values(site) ** 2).mean(-1), 1, atol=1e-3)


def gelu(patch):
    def forward(self, x):
        return self.down_proj(nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x))

    patch.setattr(modeling_llama.LlamaMLP, "forward", forward)


def check_gelu(trace, model):
    gate, up = (torch.from_numpy(trace.values(f"layers.3.mlp.{part}")) for part in ("gate", "up"))
    assert np.array_equal(trace.values("layers.3.mlp.act"), nn.functional.gelu(gate) * up)


def residual_missing(patch):
    def forward(self, hidden_states, **kwargs):
        hidden_states = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))

    patch.setattr(modeling_llama.LlamaDecoderLayer, "forward", forward)


def check_residual_missing(trace, model):
    assert np.array_equal(trace.values("layers.1.attn.residual"), trace.values("layers.1.attn.out"))
    total = trace.values("layers.1.attn.residual") + trace.values("layers.1.mlp.out")
    assert np.array_equal(trace.values("layers.1.out"), total)


def softmax_replaced(patch):
    def quiet(input, dim, dtype=None, **_):
        weights = torch.exp(input - input.amax(dim, keepdim=True))
        return weights / (1 + weights.sum(dim, keepdim=True))

    patch.setattr(nn.functional, "softmax", quiet)


def check_softmax_replaced(trace, model):
    assert trace.values("layers.0.attn.probs").sum(-1).max() < 0.95
    assert np.abs(trace.values("layers.0.attn.scores")[:, 0, 0]).max() < 1e3


def attention_inline(patch):
    """A whole attention module of the user's own, which calls none of the library's functions but the rotary one."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **_):
        shape = (1, hidden_states.shape[1], -1, self.head_dim)
        q, k, v = (part(hidden_states).view(shape).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = modeling_llama.apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = (part.repeat_interleave(self.num_key_value_groups, 1) for part in (k, v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scaling + attention_mask
        weights = torch.softmax(scores, -1)
        return self.o_proj((weights @ v).transpose(1, 2).flatten(2)), None

    patch.setattr(modeling_llama.LlamaAttention, "forward", forward)


def check_attention_inline(trace, model):
    scores = torch.from_numpy(trace.values("layers.2.attn.scores"))
    assert torch.equal(torch.softmax(scores, -1), torch.from_numpy(trace.values("layers.2.attn.probs")))


def keys_not_rotated(patch):
    """RoPE is computed, but the attention uses the keys from before it."""
    real = modeling_llama.apply_rotary_pos_emb

    class Attention(modeling_llama.LlamaAttention):
        pass

    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **kwargs):
        shape = (1, hidden_states.shape[1], -1, self.head_dim)
        q, k, v = (part(hidden_states).view(shape).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, _ = real(q, k, *position_embeddings)
        output, weights = modeling_llama.eager_attention_forward(self, q, k, v, attention_mask, self.scaling)
        return self.o_proj(output.flatten(2)), weights

    patch.setattr(modeling_llama.LlamaAttention, "forward", forward)


def check_keys_not_rotated(trace, model):
    assert np.array_equal(trace.values("layers.1.attn.k_rope"), trace.values("layers.1.attn.k"))
    assert not np.array_equal(trace.values("layers.1.attn.q_rope"), trace.values("layers.1.attn.q"))


PATCHES = [
    rope_missing, scale_missing, mask_missing, kv_heads_reordered, norm_weight_missing, gelu, residual_missing,
    softmax_replaced, attention_inline, keys_not_rotated,
]  # fmt: skip


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_patched_engine_is_what_is_recorded(load_hf, tokens, tmp_path, monkeypatch, patch):
    model = load_hf()
    patch(monkeypatch)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    trace = record(model, tmp_path / "t", tokens)
    assert np.array_equal(trace.values("logits"), logits)
    assert [entry.site for entry in trace.entries if entry.site] == llama_sites(5)
    globals()[f"check_{patch.__name__}"](trace, model)


def test_recorded_when_it_appears_not_as_it_is_later(tmp_path):
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            y = self.inner(x)
            y.mul_(2)
            return y

    model, x = Doubling(), torch.ones(2, 3)
    with torch.no_grad(), paritrace.capture(model, tmp_path / "t"):
        model(x)
    trace = paritrace.open_trace(tmp_path / "t")
    values = {entry.name: entry.numpy() for entry in trace.entries}
    with torch.no_grad():
        assert np.array_equal(values["inner"], model.inner(x))
        assert np.array_equal(values["output"], model.inner(x) * 2)


def test_any_torch_module_shows_its_modules(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.GRU(8, 5, batch_first=True)

        def forward(self, *, x):
            states, last = self.second(self.first(x))
            return {"states": states, "last": last, "count": 3}

    with paritrace.capture(Pair(), tmp_path / "t") as recording:
        pass
    assert recording.count == 0
    model = Pair()
    with paritrace.capture(model, tmp_path / "u"):
        model(x=torch.ones(1, 3, 4))
    trace = paritrace.open_trace(tmp_path / "u")
    assert {entry.name: tuple(entry.shape) for entry in trace.entries} == {
        "model:in.x": (3, 4),
        "first": (3, 8),
        "second": (3, 5),
        "second:1": (1, 5),
    }
    assert trace.header["engine"]["name"] == "torch"


def test_inputs_that_no_module_made_are_recorded(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(x) * 2)  # b's input is nobody's output; a's is the model's own

    model = Scaled()
    with paritrace.capture(model, tmp_path / "t"), torch.no_grad():
        model(torch.ones(3, 4))
    trace = paritrace.open_trace(tmp_path / "t")
    values = {entry.name: entry.numpy() for entry in trace.entries}
    assert list(values) == ["model:in", "a", "b:in", "b"]
    assert np.array_equal(values["b:in"], 2 * values["a"])
    with paritrace.capture(model, tmp_path / "u", inputs=False), torch.no_grad():
        model(torch.ones(3, 4))
    assert [entry.name for entry in paritrace.open_trace(tmp_path / "u").entries] == ["a", "b"]


@pytest.mark.parametrize("how", ["function", "method", "inner"])
def test_compiled_models_run_uncompiled_with_a_warning(tmp_path, how):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))
    expected = model(torch.ones(3, 4)).detach()
    compiled = model
    if how == "function":
        compiled = torch.compile(model, backend="eager")
    elif how == "method":
        model.compile(backend="eager")
    else:
        model[1] = torch.compile(model[1], backend="eager")
    compiled(torch.ones(3, 4))  # compiled already when the capture begins
    with pytest.warns(UserWarning, match="uncompiled"), paritrace.capture(compiled, tmp_path / "t"):
        compiled(torch.ones(3, 4))
    trace = paritrace.open_trace(tmp_path / "t")
    last = [entry for entry in trace.entries if not entry.name.endswith(":in")][-1]
    assert np.array_equal(last.numpy(), expected)
    assert sum("Linear" not in entry.name for entry in trace.entries) >= 3
    assert torch.equal(compiled(torch.ones(3, 4)).detach(), expected)  # and compiled again afterwards


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_tensors_are_recorded(tmp_path):
    model = nn.Linear(4, 4).cuda()
    with paritrace.capture(model, tmp_path / "t"), torch.no_grad():
        output = model(torch.ones(3, 4, device="cuda"))
    assert np.array_equal(paritrace.open_trace(tmp_path / "t").entries[-1].numpy(), output.cpu())


def test_calls_are_steps_and_prompts_are_sequences(load_hf, tokens, tmp_path):
    trace = record(load_hf(), tmp_path / "t", tokens, tokens[:4])
    assert trace.steps == [0, 1]
    assert trace.header["run"]["tokens"] == [tokens, tokens[:4]]
    assert trace.header["run"]["steps"][1] == {"step": 1, "start": 0, "count": 4, "sequence": 1}
    assert len(trace.values("logits", 1)) == 4


def test_decode(model_folder, tokens, tmp_path):
    recording = hf.run(model_folder, tmp_path / "t", tokens=tokens, dtype="f32", decode=3)
    trace, count = paritrace.open_trace(tmp_path / "t"), len(tokens)
    assert recording.steps == trace.header["run"]["steps"]
    assert [(step["start"], step["count"]) for step in recording.steps] == [
        (0, count),
        (count, 1),
        (count + 1, 1),
        (count + 2, 1),
    ]
    (fed,) = trace.header["run"]["tokens"]
    assert fed[:count] == tokens
    whole = record(hf.load(model_folder, "f32"), tmp_path / "whole", fed)
    for step in range(1, 4):
        assert (
            trace.values("layers.3.attn.k_rope", step).shape == trace.values("layers.3.attn.v", step).shape == (1, 64)
        )
        assert trace.values("layers.3.attn.probs", step).shape == (8, 1, count + step)
        assert fed[count + step - 1] == trace.values("logits", step - 1)[-1].argmax()
        for site in ("layers.3.attn.q_rope", "layers.3.attn.k_rope", "layers.3.attn.v", "layers.4.out", "logits"):
            row, expected = trace.values(site, step)[0], whole.values(site)[count + step - 1]
            # The same sums in another order: f32 rounding of 288 terms over five layers.
            assert np.abs(row - expected).max() <= 5 * 288 * 2**-24 * np.abs(expected).max()


def test_generate_is_recorded(load_hf, tokens, tmp_path):
    model = load_hf()
    with paritrace.capture(model, tmp_path / "t"):
        output = model.generate(torch.tensor([tokens]), max_new_tokens=3, do_sample=False, eos_token_id=None)
    header = paritrace.open_trace(tmp_path / "t").header
    assert header["run"]["tokens"] == [output[0, :-1].tolist()]
    assert [step["start"] for step in header["run"]["steps"]] == [0, 12, 13]


def test_sdpa_shows_all_but_scores_and_probs(model_folder, tokens, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder, attn_implementation="sdpa", dtype=torch.float32
    )
    trace = record(model, tmp_path / "t", tokens)
    assert trace.header["run"]["attention"] == "sdpa"
    missing = {"scores", "probs"}
    expected = [site for site in llama_sites(5) if site.rsplit(".", 1)[-1] not in missing]
    assert [entry.site for entry in trace.entries if entry.site] == expected


def test_batch_keeps_its_axis(load_hf, tokens, tmp_path):
    model = load_hf()
    with torch.no_grad(), paritrace.capture(model, tmp_path / "t"):
        model(torch.tensor([tokens, tokens[::-1]]))
    trace = paritrace.open_trace(tmp_path / "t")
    assert trace.values("layers.0.attn.q_rope").shape == (2, 12, 128)
    assert trace.header["run"]["tokens"] == [tokens, tokens[::-1]]


def test_inference_mode(load_hf, tokens, tmp_path):
    model = load_hf()
    with torch.inference_mode(), paritrace.capture(model, tmp_path / "t"):
        model(torch.tensor([tokens]))
    assert paritrace.open_trace(tmp_path / "t").complete


TINY = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    vocab_size=64,
    max_position_embeddings=64,
)
DECODER = dict(TINY, num_key_value_heads=2, head_dim=8, attn_implementation="eager")
MOE_SITES = ("moe.router_logits", "moe.probs", "moe.weights", "moe.experts", "moe.out")
OTHERS = {
    "qwen2": (lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**DECODER)), {*LAYER_SITES}),
    "qwen3": (lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER)), {*LAYER_SITES, "attn.q_norm", "attn.k_norm"}),
    "gemma2": (lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**DECODER)), {*LAYER_SITES}),
    "mixtral": (
        lambda: transformers.MixtralForCausalLM(transformers.MixtralConfig(**DECODER, num_local_experts=4)),
        {*(site for site in LAYER_SITES if site[:4] != "mlp."), "mlp.norm", *MOE_SITES},
    ),
    "bert": (
        lambda: transformers.BertModel(transformers.BertConfig(**TINY, attn_implementation="eager")),
        {"in", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.probs", "attn.ctx", "attn.out", "attn.residual",
         "attn.post_norm", "mlp.up", "mlp.act", "mlp.out", "mlp.residual", "out"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_sites_of_other_architectures(name, tmp_path):
    make, expected = OTHERS[name]
    torch.manual_seed(1)
    model = make().eval()
    ids = [5, 9, 33, 2]  # as many tokens as heads: no shape tells the two axes apart
    trace = record(model, tmp_path / "t", ids)
    sites = [entry.site for entry in trace.entries if entry.site]
    assert len(sites) == len(set(sites))
    assert {site.removeprefix("layers.1.") for site in sites if site.startswith("layers.1.")} == expected
    assert trace.values("embed").shape == (4, 32)
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    assert np.array_equal(trace.values("layers.0.out"), output.hidden_states[1][0])
    if "logits" in output:
        assert np.array_equal(trace.values("logits"), output.logits[0])
        assert np.array_equal(trace.values("final_norm"), output.hidden_states[-1][0])
    if name == "gemma2":  # two norms a sublayer: the residual stream is what the second pair sees
        layer = model.model.layers[1]
        with torch.no_grad():
            norm = layer.pre_feedforward_layernorm(torch.from_numpy(trace.values("layers.1.attn.residual")))
        assert np.array_equal(trace.values("layers.1.mlp.norm"), norm)
        assert np.abs(trace.values("logits")).max() <= model.config.final_logit_softcapping
    if name == "qwen3":  # [tokens, heads*head_dim], each head normalised
        q, normed = (trace.values(f"layers.0.attn.{site}").reshape(4, 4, 8) for site in ("q", "q_norm"))
        rms = np.sqrt((q**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)
        assert np.allclose(normed, q / rms, atol=1e-5)
    if name == "mixtral":
        probs, experts, weights = (trace.values(f"layers.1.moe.{site}") for site in ("probs", "experts", "weights"))
        assert np.array_equal(experts, np.argsort(-probs, -1)[:, :2])
        chosen = np.take_along_axis(probs, experts, -1)
        assert np.allclose(weights, chosen / chosen.sum(-1, keepdims=True), atol=1e-6)


def test_modes_without_values(load_hf, tokens, tmp_path):
    for mode in ("digest", "stats"):
        trace = record(load_hf(), tmp_path / mode, tokens, mode=mode)
        entry = trace.find("layers.0.attn.q")
        assert not entry.has_data
        assert tuple(entry.shape) == (12, 128)
        with pytest.raises(ValueError, match=r"expected values"):
            entry.numpy()


def test_existing_trace_is_replaced_only_when_asked(load_hf, tokens, tmp_path):
    model = load_hf()
    record(model, tmp_path / "t", tokens)
    with pytest.raises(ValueError, match=r"t"):
        record(model, tmp_path / "t", tokens)
    assert len(record(model, tmp_path / "t", tokens[:3], overwrite=True).values("logits")) == 3


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(paritrace.InputError, match=r"expected a torch.nn.Module or a llama_cpp.Llama, found dict"):
        paritrace.capture({}, tmp_path / "t")


# The command


def test_command(paritrace_cli, model_folder, tmp_path):
    done = paritrace_cli(
        "capture", "hf", model_folder, "--tokens", "17,403,1407", "-o", "t", "--dtype", "bf16", "--decode", "2"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("t: ")
    assert "3 steps" in done.stdout
    trace = paritrace.open_trace(tmp_path / "t")
    assert trace.header["run"]["arithmetic"] == "torch-bf16"
    assert len(trace.header["run"]["tokens"][0]) == 5
    assert json.loads((tmp_path / "t" / "trace.json").read_text())["status"] == "complete"


def test_command_with_text(paritrace_cli, model_folder, tmp_path):
    done = paritrace_cli("capture", "hf", model_folder, "--text", "The value is", "-o", "t", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    run = paritrace.open_trace(tmp_path / "t").header["run"]
    assert run["text"] == ["The value is"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    assert run["tokens"] == [tokenizer("The value is")["input_ids"]]


BAD_COMMANDS = {
    "no_folder": (
        ["hf", "absent", "--tokens", "1", "-o", "t"],
        r"absent: model folder: expected .*config.json.*, found no such folder",
    ),
    "token_outside": (
        ["hf", "MODEL", "--tokens", "1,99999", "-o", "t"],
        r"--tokens: expected ids from 0 to 1535, found 99999",
    ),
    "tokens_not_numbers": (
        ["hf", "MODEL", "--tokens", "1,a", "-o", "t"],
        r"expected token ids separated by commas, found '1,a'",
    ),
    "no_prompt": (["hf", "MODEL", "-o", "t"], r"one of the arguments --tokens --text is required"),
    "no_output": (["hf", "MODEL", "--tokens", "1"], r"-o/--output"),
    "unknown_engine": (["vllm", "MODEL"], r"invalid choice: 'vllm'"),
    "output_is_a_file": (["hf", "MODEL", "--tokens", "1", "-o", "file"], r"file"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_bad_command_is_one_line_and_exit_2(paritrace_cli, model_folder, tmp_path, name):
    arguments, message = BAD_COMMANDS[name]
    (tmp_path / "file").write_text("precious")
    done = paritrace_cli("capture", *(model_folder if argument == "MODEL" else argument for argument in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("paritrace: ")
    pytest.importorskip("re").search(message, line) or pytest.fail(line)
    assert not (tmp_path / "t").exists()
    assert (tmp_path / "file").read_text() == "precious"


def test_broken_folder(paritrace_cli, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text('{"model_type": "llama", "hidden_size": 64')
    done = paritrace_cli("capture", "hf", "bad", "--tokens", "1", "-o", "t")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("paritrace: bad: model folder: expected a model that transformers loads, found ")


def test_help(paritrace_cli):
    done = paritrace_cli("capture", "hf", "--help")
    assert done.returncode == 0
    for option in ("--tokens", "--text", "--decode", "--dtype", "--mode", "--overwrite"):
        assert option in done.stdout


def test_softmax_scale_is_the_configured_one(load_hf, tokens, tmp_path):
    """Guards check_scale_missing's opposite: a clean engine's scores carry the scale."""
    trace = record(load_hf(), tmp_path / "t", tokens)
    q, k = (trace.values(f"layers.0.attn.{part}_rope").reshape(12, -1, 16) for part in "qk")
    scores = trace.values("layers.0.attn.scores")
    assert math.isclose(scores[3, 5, 2], q[5, 3] @ k[2, 1] / 4, rel_tol=1e-4, abs_tol=1e-5)


def test_user_module_with_a_function_as_forward(tmp_path):
    """Instances whose forward was replaced keep working: the hook sits on the module, not on its forward."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[0].forward = types.MethodType(lambda self, x: x + 1, model[0])
    with paritrace.capture(model, tmp_path / "t"):
        model(torch.zeros(1, 2))
    values = {entry.name: entry.numpy() for entry in paritrace.open_trace(tmp_path / "t").entries}
    assert np.array_equal(values["0"], np.ones((1, 2), np.float32))


def test_a_full_disk_is_one_line_and_exit_2(model_folder, tmp_path):
    """The write fails inside a hook, and torch calls the hooks of all modules around it: none may add to the line."""
    trace = tmp_path / "t"
    command = [
        sys.executable,
        "-m",
        "paritrace",
        "capture",
        "hf",
        str(model_folder),
        "--tokens",
        "0,454,404",
        "--decode",
        "40",
    ]
    done = subprocess.run(
        [*command, "-o", str(trace)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("tensors-00000.safetensors: cannot be written: File too large")
    assert json.loads((trace / "trace.json").read_text())["status"] == "open"
    assert len(paritrace.open_trace(trace).entries) > 10


def test_values_that_two_modules_share_are_stored_once(tmp_path):
    """BERT's activation is a module of its own, and what enters the down projection."""
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=256, vocab_size=50
    )
    trace = record(transformers.BertModel(config).eval(), tmp_path / "t", list(range(1, 49)) * 2)
    lines = [json.loads(line) for line in (tmp_path / "t" / "index.jsonl").read_text().splitlines()]
    places = {line["name"]: (line["file"], line["key"]) for line in lines}
    given, handed_on = "encoder.layer.0.output.dense:in", "encoder.layer.0.intermediate.intermediate_act_fn"
    assert places[given] == places[handed_on]
    values = {entry.name: entry.numpy() for entry in trace.entries}
    assert np.array_equal(values[given], values[handed_on])
    assert len(trace.values("layers.0.mlp.act")) == 96


def test_torch_lends_its_threads(tmp_path):
    """Where torch computes with one libgomp, what appears is written from where it is: it is there when the call is over."""
    linear = nn.Linear(512, 512)
    with paritrace.capture(linear, tmp_path / "t") as recording, torch.no_grad():
        assert (torch_threads._loaded_library() is not None) == torch.backends.openmp.is_available()
        lent = torch.backends.openmp.is_available() and torch.get_num_threads() > 1
        result = linear(torch.ones(256, 512))
        if lent:  # on one thread there is none to lend
            assert len(paritrace.open_trace(tmp_path / "t").entries) == recording.count == 2
    trace = paritrace.open_trace(tmp_path / "t")
    assert np.array_equal(trace.entries[-1].numpy(), result.numpy())
