"""Single steps run or rounded in another precision than declared, in Hugging Face's own modules: each is named, with the step.

Nothing but the patched step changes, so that whatever else the diagnosis names is a false name.
"""

import paritrace
import pytest
import tiny_models
import torch
import torch.nn.functional as F
import transformers.models.llama.modeling_llama as llama
import transformers.models.mixtral.modeling_mixtral as mixtral
from paritrace import hf

BF16, F16 = torch.bfloat16, torch.float16
SHORT, LONG = tiny_models.prompt(24), tiny_models.prompt(300)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, model_folder):
    """Function: "llama" or a name of tiny_models.MODELS, with changes of its config -> the model's folder."""
    root = tmp_path_factory.mktemp("models")

    def folder(name, **changes):
        if name == "llama":
            return model_folder
        path = root / "-".join([name, *map(str, changes.values())])
        if not path.exists():
            tiny_models.build(name, **changes).save_pretrained(path)
        return path

    return folder


def rounded(value, dtype=BF16):
    return value.to(dtype).to(value.dtype)


def cut(value):
    """To bf16 by dropping the bits that do not fit."""
    return (value.float().view(torch.int32) & -65536).view(torch.float32)


# ---- faults: each takes a loaded model and a pytest MonkeyPatch ----


def norm_run_in(dtype):
    def fault(model, patch):
        norm = model.model.layers[1].input_layernorm

        def forward(x):
            y = x.to(dtype)
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
            return (norm.weight.to(dtype) * y).to(x.dtype)

        patch.setattr(norm, "forward", forward)

    return fault


def norm_step(change_mean=lambda x: x, change_reciprocal=lambda x: x):
    def fault(model, patch):
        norm = model.model.layers[1].post_attention_layernorm

        def forward(x):
            y = x.float()
            mean = change_mean(y.pow(2).mean(-1, keepdim=True))
            y = y * change_reciprocal(torch.rsqrt(mean + norm.variance_epsilon))
            return norm.weight * y.to(x.dtype)

        patch.setattr(norm, "forward", forward)

    return fault


def norm_weight_before_the_cast(model, patch):
    norm = model.model.layers[0].input_layernorm

    def forward(x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)
        return (norm.weight.float() * y).to(x.dtype)

    patch.setattr(norm, "forward", forward)


def norm_weight_after_the_cast(model, patch):
    for layer in model.model.layers:
        norm = layer.input_layernorm
        patch.setattr(
            norm,
            "forward",
            lambda x, norm=norm: ((1.0 + norm.weight.float()) * norm._norm(x.float()).to(x.dtype)).to(x.dtype),
        )


def weight_plus_one(model, patch):
    norm = model.model.layers[1].input_layernorm
    patch.setattr(norm, "forward", lambda x: (norm._norm(x.float()) * rounded(1.0 + norm.weight.float())).type_as(x))


def rope_table(angles, table=lambda x: x):
    """angles(rotary, positions) -> [1, tokens, lanes / 2] in f32."""

    def fault(model, patch):
        rotary = model.model.rotary_emb

        def forward(x, position_ids, *_):
            half = angles(rotary, position_ids).float()
            both = torch.cat((half, half), -1)
            return table(both.cos()).to(x.dtype), table(both.sin()).to(x.dtype)

        patch.setattr(rotary, "forward", forward)

    return fault


def positions_in_bf16(rotary, positions):
    return positions[..., None].to(BF16).float() * rotary.inv_freq.float()


def frequencies_in_bf16(rotary, positions):
    return positions[..., None].float() * rounded(rotary.inv_freq.float())


def angles_in_bf16(rotary, positions):
    return positions[..., None].to(BF16) * rotary.inv_freq.to(BF16)


def right_angles(rotary, positions):
    return positions[..., None].float() * rotary.inv_freq.float()


def router_logits(model, patch):
    def forward(self, x):
        logits = rounded(F.linear(x.reshape(-1, self.hidden_dim), self.weight))
        weights, experts = torch.topk(F.softmax(logits.float(), dim=-1), self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), experts

    patch.setattr(mixtral.MixtralTopKRouter, "forward", forward)


def attention(scores_of, softmax):
    """scores_of(query, key, scaling) and softmax(scores), in all layers."""

    def fault(model, patch):
        def forward(module, query, key, value, attention_mask, scaling, **rest):
            n = module.num_key_value_groups
            scores = scores_of(query, llama.repeat_kv(key, n), scaling) + attention_mask
            probs = softmax(scores)
            return torch.matmul(probs, llama.repeat_kv(value, n)).transpose(1, 2).contiguous(), probs

        patch.setattr(llama, "eager_attention_forward", forward)

    return fault


def right_scores(query, key, scaling):
    return torch.matmul(query, key.transpose(2, 3)) * scaling


def scores_from_f16(query, key, scaling):
    return torch.matmul(rounded(query, F16), rounded(key, F16).transpose(2, 3)) * scaling


def softmax_to_bf16(scores):
    return rounded(F.softmax(scores, -1, dtype=torch.float32)).to(scores.dtype)


def softmax_stepwise(scores):
    """Every step of the softmax stored in bf16, as a chain of elementwise operations does."""
    powers = torch.exp((scores - scores.max(-1, keepdim=True).values).to(BF16))
    return (powers / powers.sum(-1, keepdim=True)).to(scores.dtype)


def logits_in_bf16(model, patch):
    head = model.lm_head
    once = head.forward
    patch.setattr(head, "forward", lambda x: rounded(once(x)))


def residual(change):
    def fault(model, patch):
        layer = model.model.layers[2]

        def forward(hidden_states, **kwargs):
            attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
            middle = change(hidden_states, attended)
            return change(middle, layer.mlp(layer.post_attention_layernorm(middle)))

        patch.setattr(layer, "forward", forward)

    return fault


def linear_cut(model, patch):
    linear = model.model.layers[1].mlp.up_proj
    patch.setattr(linear, "forward", lambda x: cut(F.linear(x.float(), linear.weight.float())).to(x.dtype))


def weights_cut(model, patch):
    whole = tiny_models.build("mixtral").model.layers[1].self_attn.q_proj.weight
    model.model.layers[1].self_attn.q_proj.weight.data = cut(whole.data).to(BF16)


def sums_in_f16(model, patch):
    linear = model.model.layers[0].self_attn.o_proj

    def forward(x):
        total = torch.zeros(*x.shape[:-1], linear.out_features, dtype=F16)
        for i in range(x.shape[-1]):
            total = total + (x[..., i : i + 1] * linear.weight[:, i]).to(F16)
        return total.to(x.dtype)

    patch.setattr(linear, "forward", forward)


def embedding_scale(change):
    def fault(model, patch):
        embed = model.model.embed_tokens

        def forward(ids):
            rows = F.embedding(ids, embed.weight)
            return (rows.float() * change(torch.tensor(model.config.hidden_size**0.5))).to(rows.dtype)

        patch.setattr(embed, "forward", forward)

    return fault


def layers(count, *roles):
    return [f"layers.{i}.{role}" for i in range(count) for role in roles]


# hidden_size 96: its root is no number of bf16
WIDE = {"hidden_size": 96, "head_dim": 16}
FAULTS = [  # model, config, dtype, prompt, fault, sites, found
    ("llama", {}, "f32", SHORT, norm_run_in(BF16), ["layers.1.attn.norm"], "norm in bf16"),
    ("llama", {}, "bf16", SHORT, norm_run_in(BF16), ["layers.1.attn.norm"], "norm in bf16"),
    ("llama", {}, "f32", SHORT, norm_run_in(F16), ["layers.1.attn.norm"], "norm in f16"),
    ("llama", {}, "f32", SHORT, norm_step(change_mean=rounded), ["layers.1.mlp.norm"], "mean square in bf16"),
    ("llama", {}, "f32", SHORT, norm_step(change_reciprocal=rounded), ["layers.1.mlp.norm"], "1/rms in bf16"),
    ("llama", {}, "bf16", SHORT, norm_step(change_reciprocal=rounded), ["layers.1.mlp.norm"], "1/rms in bf16"),
    (
        "llama",
        {},
        "bf16",
        SHORT,
        norm_weight_before_the_cast,
        ["layers.0.attn.norm"],
        "value before the weight in f32",
    ),
    (
        "gemma2",
        {},
        "bf16",
        SHORT,
        norm_weight_after_the_cast,
        layers(2, "attn.norm"),
        "value before the weight in bf16",
    ),
    ("gemma2", {}, "f32", SHORT, weight_plus_one, ["layers.1.attn.norm"], "weight plus one in bf16"),
    ("gemma2", {}, "bf16", SHORT, weight_plus_one, ["layers.1.attn.norm"], "weight plus one in bf16"),
    (
        "gemma2",
        {},
        "f32",
        LONG,
        rope_table(positions_in_bf16),
        layers(2, "attn.q_rope", "attn.k_rope"),
        "positions in bf16",
    ),
    (
        "gemma2",
        {},
        "bf16",
        LONG,
        rope_table(positions_in_bf16),
        layers(2, "attn.q_rope", "attn.k_rope"),
        "positions in bf16",
    ),
    (
        "llama",
        {},
        "f32",
        SHORT,
        rope_table(frequencies_in_bf16),
        layers(5, "attn.q_rope", "attn.k_rope"),
        "inverse frequencies in bf16",
    ),
    (
        "llama",
        {},
        "bf16",
        SHORT,
        rope_table(angles_in_bf16),
        layers(5, "attn.q_rope", "attn.k_rope"),
        "angles in bf16",
    ),
    (
        "llama",
        {},
        "f32",
        SHORT,
        rope_table(right_angles, rounded),
        layers(5, "attn.q_rope", "attn.k_rope"),
        "cos and sin in bf16",
    ),
    ("mixtral", {}, "f32", SHORT, router_logits, layers(2, "moe.router_logits"), "router logits in bf16"),
    (
        "llama",
        {},
        "f32",
        SHORT,
        attention(right_scores, softmax_to_bf16),
        layers(5, "attn.probs"),
        "probabilities in bf16",
    ),
    (
        "llama",
        {},
        "f32",
        SHORT,
        attention(scores_from_f16, lambda scores: F.softmax(scores, -1)),
        layers(5, "attn.scores"),
        "queries and keys in f16",
    ),
    ("llama", {}, "f32", SHORT, logits_in_bf16, ["logits"], "logits in bf16"),
    (
        "llama",
        {},
        "f32",
        SHORT,
        residual(lambda stream, update: rounded(stream + update)),
        ["layers.2.attn.residual", "layers.2.out"],
        "residual in bf16",
    ),
    (
        "llama",
        {},
        "f32",
        SHORT,
        residual(lambda stream, update: rounded(stream + update, F16)),
        ["layers.2.attn.residual", "layers.2.out"],
        "residual in f16",
    ),
    (
        "llama",
        {},
        "bf16",
        SHORT,
        residual(lambda stream, update: cut(stream.float() + update.float()).to(stream.dtype)),
        ["layers.2.attn.residual", "layers.2.out"],
        "truncation",
    ),
    ("llama", {}, "bf16", SHORT, linear_cut, ["layers.1.mlp.up"], "truncation"),
    ("mixtral", {}, "bf16", SHORT, weights_cut, ["layers.1.attn.q"], "truncation"),
    ("llama", {}, "f32", SHORT, sums_in_f16, ["layers.0.attn.out"], "running sum in f16"),
    ("gemma2", WIDE, "f32", SHORT, embedding_scale(rounded), ["embed"], "embedding scale in bf16"),
    ("gemma2", WIDE, "bf16", SHORT, embedding_scale(lambda scale: scale), ["embed"], "embedding scale in f32"),
]


def record(model, trace, tokens):
    with torch.no_grad(), paritrace.capture(model, trace):
        model(input_ids=torch.tensor([tokens]))


def name_of(fault):
    return f"{fault[0]}-{fault[2]}-{fault[6].replace(' ', '_').replace('/', '_over_')}"


@pytest.mark.parametrize("fault", FAULTS, ids=map(name_of, FAULTS))
def test_a_step_in_another_precision_is_named(fault, folder_of, tmp_path, monkeypatch):
    name, changes, dtype, tokens, inject, sites, found = fault
    folder = folder_of(name, **changes)
    model = hf.load(folder, dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace", tokens)
    result = tiny_models.diagnose(tmp_path / "trace", folder)
    assert tiny_models.named(result) == {(site, "precision") for site in sites}
    assert {defect["cause"]["found"] for defect in result["defects"]} == {found}
    assert all(defect["cause"]["confidence"] >= 0.9 and not defect["where"] for defect in result["defects"])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name, changes, tokens", [("gemma2", WIDE, LONG), ("llama", {}, SHORT), ("mixtral", {}, LONG)])
def test_the_clean_twin_is_accused_of_nothing(name, changes, tokens, dtype, folder_of, tmp_path):
    folder = folder_of(name, **changes)
    record(hf.load(folder, dtype), tmp_path / "trace", tokens)
    assert tiny_models.diagnose(tmp_path / "trace", folder)["defects"] == []


def test_a_softmax_in_bf16_steps_is_named(folder_of, tmp_path, monkeypatch):
    """exp, sum and quotient each stored in bf16: far below what a tolerance on probabilities sees in a bf16 model."""
    folder = folder_of("llama")
    model = hf.load(folder, "bf16")
    attention(right_scores, softmax_stepwise)(model, monkeypatch)
    record(model, tmp_path / "trace", SHORT)
    result = tiny_models.diagnose(tmp_path / "trace", folder)
    # Without torch's softmax our adapter sees no scores: the context is what is replayed.
    assert tiny_models.named(result) == {(f"layers.{layer}.attn.ctx", "precision") for layer in range(5)}


def test_an_engine_that_rounds_less_than_declared_is_no_defect(folder_of, tmp_path, monkeypatch):
    """A rotation inside f32 with one rounding at the end, as fused kernels do it."""

    def apply(q, k, cos, sin, *_, **__):
        def turned(x):
            wide, c, s = x.float(), cos.float().unsqueeze(1), sin.float().unsqueeze(1)
            return (wide * c + llama.rotate_half(wide) * s).to(x.dtype)

        return turned(q), turned(k)

    monkeypatch.setattr(llama, "apply_rotary_pos_emb", apply)
    folder = folder_of("llama")
    record(hf.load(folder, "bf16"), tmp_path / "trace", SHORT)
    assert tiny_models.diagnose(tmp_path / "trace", folder)["defects"] == []
