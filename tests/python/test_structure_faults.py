"""Mistakes of caches, softmaxes, shards and schedules in Hugging Face's own modules: each is named at its site, and nothing else is."""

import paritrace
import pytest
import tiny_models
import torch
import torch.nn.functional as F
import transformers.models.bert.modeling_bert as bert
import transformers.models.llama.modeling_llama as llama
import transformers.models.qwen3.modeling_qwen3 as qwen3
from paritrace import hf
from safetensors.torch import load_file, save_file

TOKENS = tiny_models.prompt(24)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, model_folder):
    """Function: "llama", "qwen3" or a name of tiny_models.MODELS -> its folder."""
    root = tmp_path_factory.mktemp("models")

    def folder(name):
        if name == "llama":
            return model_folder
        if not (root / name).exists():
            tiny_models.build(name).save_pretrained(root / name)
        return root / name

    return folder


def record(model, trace, steps=1, between=None, tokens=TOKENS):
    """between(cache, step) may change the cache before each decode step."""
    with torch.no_grad(), paritrace.capture(model, trace):
        output = model(input_ids=torch.tensor([tokens]), **({"use_cache": True} if steps > 1 else {}))
        for step in range(1, steps):
            if between is not None:
                between(output.past_key_values, step)
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)


def layers(count, *roles):
    return [f"layers.{i}.{role}" for i in range(count) for role in roles]


# ---- attention ----


def attention(change):
    """change(scores before the mask, mask, value) -> context, probabilities; in all layers."""

    def fault(model, patch):
        def forward(module, query, key, value, attention_mask, scaling, **rest):
            n = getattr(module, "num_key_value_groups", 1)
            scores = torch.matmul(query, llama.repeat_kv(key, n).transpose(2, 3)) * scaling
            context, probs = change(scores, attention_mask, llama.repeat_kv(value, n))
            return context.transpose(1, 2).contiguous(), probs

        for code in (llama, bert):
            patch.setattr(code, "eager_attention_forward", forward)

    return fault


def softmaxed(scores_of):
    def change(scores, mask, value):
        probs = F.softmax(scores_of(scores, mask), -1, dtype=torch.float32).to(value.dtype)
        return torch.matmul(probs, value), probs

    return attention(change)


def softmax_over_queries(scores, mask, value):
    probs = F.softmax(scores + mask, -2, dtype=torch.float32).to(value.dtype)
    return torch.matmul(probs, value), probs


def softmax_not_divided(scores, mask, value):
    scores = scores + mask
    F.softmax(scores, -1)  # what it is given is recorded
    probs = torch.exp((scores - scores.max(-1, keepdim=True).values).float()).to(value.dtype)
    return torch.matmul(probs, value), probs


def mask_after_softmax(scores, mask, value):
    probs = F.softmax(scores, -1, dtype=torch.float32).to(value.dtype) * (mask == 0)
    return torch.matmul(probs, value), probs


def null_sink(scores, mask, value):
    """One more in the denominator."""
    scores = scores + mask
    F.softmax(scores, -1)  # what it is given is recorded
    powers = torch.exp(scores.float())
    probs = (powers / (1 + powers.sum(-1, keepdim=True))).to(value.dtype)
    return torch.matmul(probs, value), probs


def sink_of_each_head(scores, mask, value):
    """One more column in the softmax, of which nothing is read, as learned sinks are computed; what it puts out is recorded."""
    sinks = torch.linspace(1, 4, scores.shape[1])[:, None, None].expand(-1, scores.shape[2], 1)[None].to(scores.dtype)
    probs = F.softmax(torch.cat((scores + mask, sinks), -1), -1, dtype=torch.float32)[..., :-1].to(value.dtype)
    return torch.matmul(probs, value), probs


def diagonal_at(offset):
    """offset: how many keys beyond its own a query sees."""

    def change(scores, mask, value):
        visible = torch.ones(scores.shape[-2:]).tril(offset).bool()
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        probs = F.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
        return torch.matmul(probs, value), probs

    return attention(change)


def alibi(factor):
    def scores_of(scores, mask):
        heads, count = scores.shape[1], scores.shape[-1]
        slopes = factor * 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)
        distance = (torch.arange(count)[None] - torch.arange(count)[:, None]).float()
        return scores + (slopes[:, None, None] * distance).to(scores.dtype) + mask

    return softmaxed(scores_of)


def scaled_by_position(scores, mask):
    factors = 1 + 0.1 * torch.log(torch.floor((torch.arange(scores.shape[2]).float() + 1) / 8) + 1)
    return scores * factors.to(scores.dtype)[:, None] + mask


def bert_with_rope(model, patch):
    eager = bert.eager_attention_forward

    def forward(module, query, key, value, mask, **kwargs):
        half = query.shape[-1] // 2
        angles = torch.arange(query.shape[2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
        both = torch.cat((angles, angles), -1).float()
        cos, sin = both.cos().to(query.dtype), both.sin().to(query.dtype)
        turned = [x * cos + llama.rotate_half(x) * sin for x in (query, key)]
        return eager(module, *turned, value, mask, **kwargs)

    patch.setattr(bert, "eager_attention_forward", forward)


# ---- norms, products, weights ----


def linear_of(path, forward):
    """forward(linear, x) in place of the linear's own."""

    def fault(model, patch):
        linear = model.get_submodule(path)
        patch.setattr(linear, "forward", lambda x: forward(linear, x))

    return fault


def share(rank, ranks):
    def forward(linear, x):
        width = x.shape[-1] // ranks
        part = slice(rank * width, (rank + 1) * width)
        return F.linear(x[..., part], linear.weight[:, part])

    return forward


def share_missing(linear, x):
    quarter = x.shape[-1] // 4
    kept = x.clone()
    kept[..., 2 * quarter : 3 * quarter] = 0
    return F.linear(kept, linear.weight)


def outputs_exchanged(linear, x):
    return torch.cat(F.linear(x, linear.weight).chunk(4, -1)[::-1], -1)


def inputs_exchanged(linear, x):
    return F.linear(torch.cat(x.chunk(2, -1)[::-1], -1), linear.weight)


def weight_set(path, change):
    def fault(model, patch):
        weight = model.get_submodule(path).weight
        weight.data = change(weight.data)

    return fault


def initialised(weight):
    return 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)).to(weight.dtype)


FAULTS = [  # model, fault, cause, sites, found (None: not looked at)
    ("llama", attention(softmax_over_queries), "attn.softmax", layers(5, "attn.probs"), "over the queries"),
    ("llama", attention(softmax_not_divided), "attn.softmax", layers(5, "attn.probs"), "not divided"),
    ("llama", attention(mask_after_softmax), "attn.softmax", layers(5, "attn.probs"), "over hidden keys as well"),
    ("llama", attention(null_sink), "attn.sink", layers(5, "attn.probs"), 0.0),
    ("llama", attention(sink_of_each_head), "attn.sink", layers(5, "attn.probs"), None),
    ("llama", diagonal_at(3), "attn.mask_offset", layers(5, "attn.scores"), 3),
    ("llama", diagonal_at(7), "attn.mask_offset", layers(5, "attn.scores"), 7),
    ("llama", alibi(1), "attn.alibi", layers(5, "attn.scores"), None),
    ("llama", alibi(2), "attn.alibi", layers(5, "attn.scores"), None),
    ("llama", softmaxed(scaled_by_position), "attn.position_scale", layers(5, "attn.scores"), 1.13863),
    ("bert", bert_with_rope, "rope.extra", layers(2, "attn.scores"), 10000.0),
    ("llama", linear_of("model.layers.1.self_attn.o_proj", share(1, 2)), "dist.partial_sum", ["layers.1.attn.out"], "share 1 of 2"),
    ("llama", linear_of("model.layers.2.mlp.down_proj", share(2, 4)), "dist.partial_sum", ["layers.2.mlp.out"], "share 2 of 4"),
    ("llama", linear_of("model.layers.2.mlp.down_proj", share_missing), "dist.partial_sum", ["layers.2.mlp.out"], "all but share 2 of 4"),
    ("llama", linear_of("model.layers.3.mlp.up_proj", outputs_exchanged), "dist.shard", ["layers.3.mlp.up"], [3, 2, 1, 0]),
    ("llama", linear_of("model.layers.0.self_attn.o_proj", inputs_exchanged), "dist.shard", ["layers.0.attn.out"], [1, 0]),
    ("llama", weight_set("model.layers.1.mlp.down_proj", torch.zeros_like), "weights.unloaded", ["layers.1.mlp.out"], "zeros"),
    ("llama", weight_set("model.layers.1.post_attention_layernorm", torch.zeros_like), "weights.unloaded", ["layers.1.mlp.norm"], "zeros"),
    ("llama", weight_set("model.layers.1.self_attn.v_proj", initialised), "weights.unloaded", ["layers.1.attn.v"], None),
    ("llama", weight_set("model.layers.4.mlp.gate_proj", initialised), "weights.unloaded", ["layers.4.mlp.gate"], None),
    ("llama", weight_set("model.embed_tokens", initialised), "weights.unloaded", ["embed"], None),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "name, inject, cause, sites, found", FAULTS, ids=[f"{row[2]}-{place}" for place, row in enumerate(FAULTS)]
)
def test_a_fault_is_named_at_its_site(name, inject, cause, sites, found, dtype, folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of(name), dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of(name))
    assert tiny_models.named(result) == {(site, cause) for site in sites}
    for defect in result["defects"]:
        assert defect["cause"]["confidence"] >= 0.5
        if found is not None:
            got = defect["cause"]["found"]
            assert got == (pytest.approx(found, rel=0.01) if isinstance(found, float) else found)


# ---- norms over other lanes ----


@pytest.fixture(scope="module")
def qwen3_folder(tmp_path_factory):
    import transformers

    config = transformers.Qwen3Config(**tiny_models.DECODER, head_dim=32)
    torch.manual_seed(2)
    model = transformers.Qwen3ForCausalLM._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            scale = 0.7 if "embed" in name else 1.3 / parameter.shape[-1] ** 0.5
            parameter.copy_(values * scale if parameter.dim() > 1 else 1 + 0.3 * values)
    path = tmp_path_factory.mktemp("model") / "qwen3"
    model.save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_norm_of_the_whole_projection_is_named(dtype, qwen3_folder, tmp_path, monkeypatch):
    """q and k normalised over all heads together, where the model takes each head."""

    def forward(self, x):
        wide = x.float()
        axes = (-1, -2) if x.dim() == 4 and x.shape[-1] == 32 else (-1,)
        wide = wide * torch.rsqrt(wide.pow(2).mean(axes, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)

    monkeypatch.setattr(qwen3.Qwen3RMSNorm, "forward", forward)
    record(hf.load(qwen3_folder, dtype), tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", qwen3_folder)
    assert tiny_models.named(result) == {(site, "norm.axis") for site in layers(2, "attn.q_norm", "attn.k_norm")}
    assert {defect["cause"]["found"] for defect in result["defects"]} == {128, 64}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_norm_of_each_shard_alone_is_named(dtype, folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of("llama"), dtype)
    norm = model.model.layers[2].input_layernorm

    def forward(x):
        halves = [half * torch.rsqrt(half.pow(2).mean(-1, keepdim=True) + 1e-5) for half in x.float().chunk(2, -1)]
        return norm.weight * torch.cat(halves, -1).to(x.dtype)

    monkeypatch.setattr(norm, "forward", forward)
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("llama"))
    assert tiny_models.named(result) == {("layers.2.attn.norm", "norm.axis")}
    assert result["defects"][0]["cause"]["found"] == 64


# ---- the cache ----


def copy_row(states, to, source):
    states[:, :, to] = states[:, :, source].clone()


def stale_key(cache, step):
    if step == 1:
        copy_row(cache.layers[1].keys, 5, 4)


def stale_value(cache, step):
    if step == 1:
        copy_row(cache.layers[1].values, 5, 4)


def key_lost(cache, step):
    if step == 2:
        cache.layers[0].keys[:, :, 7] = 0


def keys_shifted(cache, step):
    if step == 1:
        cache.layers[1].keys.copy_(torch.roll(cache.layers[1].keys, 1, 2))


def values_rolled(by):
    def fault(cache, step):
        if step == 1:
            cache.layers[1].values.copy_(torch.roll(cache.layers[1].values, by, 2))

    fault.__name__ = f"values_rolled_by_{by}"
    return fault


def values_moved_up(cache, step):
    """The first row stays, and stands in the second slot as well."""
    if step == 1:
        values = cache.layers[1].values
        values[:, :, 1:] = values[:, :, :-1].clone()


CACHE_FAULTS = [
    (stale_key, ["layers.1.attn.scores"], [25, 26]),
    (stale_value, ["layers.1.attn.ctx"], [25, 26]),
    (key_lost, ["layers.0.attn.scores"], [26]),
    (keys_shifted, ["layers.1.attn.scores"], [25, 26]),
    (values_rolled(1), ["layers.1.attn.ctx"], [24, 25, 26]),
    (values_rolled(-2), ["layers.1.attn.ctx"], [24, 25, 26]),
    (values_moved_up, ["layers.1.attn.ctx"], [24, 25, 26]),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("between, sites, tokens", CACHE_FAULTS, ids=[row[0].__name__ for row in CACHE_FAULTS])
def test_a_wrong_row_of_the_cache_is_named(between, sites, tokens, dtype, folder_of, tmp_path):
    """Right in the prefill, wrong in the decode steps that read the row."""
    record(hf.load(folder_of("llama"), dtype), tmp_path / "trace", 4, between, TOKENS)
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("llama"))
    assert tiny_models.named(result) == {(site, "attn.kv_cache") for site in sites}
    assert result["defects"][0]["step"] >= 1
    assert "decode" in result["summary"][0]["statement"]


# ---- the head, mixtures ----


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_head_of_its_own_where_it_is_tied_is_named(dtype, folder_of, tmp_path, monkeypatch):
    """The file holds a head that its config does not use; the subject does."""
    folder = tmp_path / "model"
    tiny_models.build("gemma2", tie_word_embeddings=True).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    head = 0.1 * torch.randn(weights["model.embed_tokens.weight"].shape, generator=torch.Generator().manual_seed(4))
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    model = hf.load(folder, dtype)
    model.lm_head.weight = torch.nn.Parameter(head.to(model.lm_head.weight.dtype))
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder)
    assert tiny_models.named(result) == {("logits", "head.tied")}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_mixture_without_its_experts_is_named(dtype, folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of("qwen2_moe"), dtype)
    mlp = model.model.layers[1].mlp

    def forward(x):
        return torch.sigmoid(mlp.shared_expert_gate(x)) * mlp.shared_expert(x)

    monkeypatch.setattr(mlp, "forward", forward)
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("qwen2_moe"))
    assert tiny_models.named(result) == {("layers.1.mlp.out", "moe.schedule")}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_mixture_in_a_dense_layer_is_named(dtype, folder_of, tmp_path):
    name = "qwen2_moe-normalised"
    model = hf.load(folder_of(name), dtype)
    model.model.layers[0].mlp = model.model.layers[1].mlp
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of(name))
    assert ("layers.0.mlp.out", "moe.schedule") in tiny_models.named(result)
    assert {cause for _, cause in tiny_models.named(result)} == {"moe.schedule"}


# ---- what it is limited to ----


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_window_lost_in_one_kind_of_layers_is_said_so(dtype, tmp_path):
    folder = tmp_path / "model"
    tiny_models.build("gemma2", num_hidden_layers=4).save_pretrained(folder)
    model = hf.load(folder, dtype)
    model.config.sliding_window = 4096
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder)
    assert tiny_models.named(result) == {(f"layers.{i}.attn.scores", "attn.window") for i in (0, 2)}
    assert "only the layers with a sliding window" in result["summary"][0]["statement"]


def test_a_fault_in_decode_only_is_said_so(folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of("llama"), "bf16")
    rotary = model.model.rotary_emb
    once = rotary.forward
    monkeypatch.setattr(
        rotary, "forward", lambda x, position_ids: once(x, position_ids + (position_ids.shape[1] == 1) * 2)
    )
    record(model, tmp_path / "trace", 4)
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("llama"))
    assert {cause for _, cause in tiny_models.named(result)} == {"rope.position_offset"}
    assert all(defect["where"]["tokens"] == [24, 25, 26] for defect in result["defects"])
    assert "only in decode steps" in result["summary"][0]["statement"]


def test_a_fault_in_all_rows_but_the_first_is_said_so(folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of("llama"), "f32")
    linear = model.model.layers[1].mlp.up_proj
    monkeypatch.setattr(
        linear, "forward", lambda x: F.linear(x, linear.weight) * (1 + (torch.arange(x.shape[1]) > 0)[:, None])
    )
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("llama"))
    assert tiny_models.named(result) == {("layers.1.mlp.up", "linear.weight_scale")}
    assert "only in rows above 0" in result["summary"][0]["statement"]
