"""Mistakes patched into Hugging Face's own BERT, Gemma 2, Mixtral and Qwen2-MoE: each is named at its site, and nothing else is."""

import paritrace
import pytest
import tiny_models
import torch
import transformers.models.bert.modeling_bert as bert
import transformers.models.mixtral.modeling_mixtral as mixtral
from paritrace import hf

TOKENS = tiny_models.prompt(24)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Function: a name of tiny_models.MODELS -> its folder."""
    root = tmp_path_factory.mktemp("models")

    def folder(name):
        if not (root / name).exists():
            tiny_models.build(name).save_pretrained(root / name)
        return root / name

    return folder


# ---- faults: each takes a loaded model and a pytest MonkeyPatch ----


def bert_tanh_gelu(model, patch):
    for layer in model.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.GELU("tanh")


def bert_types_missing(model, patch):
    model.embeddings.token_type_embeddings.weight.data.zero_()


def bert_type_one(model, patch):
    model.embeddings.token_type_ids.fill_(1)


def bert_positions_missing(model, patch):
    model.embeddings.position_embeddings.weight.data.zero_()


def bert_positions_from_two(model, patch):
    table = model.embeddings.position_embeddings.weight
    table.data = torch.roll(table.data, -2, 0)


def bert_eps(model, patch):
    model.encoder.layer[1].output.LayerNorm.eps = 1e-3


def bert_norm_bias_missing(model, patch):
    model.encoder.layer[0].attention.output.LayerNorm.bias.data.zero_()


def bert_rms_norm(model, patch):
    norm = model.encoder.layer[0].output.LayerNorm

    def forward(x):
        wide = torch.nn.functional.rms_norm(x.float(), (x.shape[-1],), norm.weight.float(), norm.eps)
        return wide.to(x.dtype) + norm.bias

    patch.setattr(norm, "forward", forward)


def bert_norm_before_the_sum(model, patch):
    output = model.encoder.layer[0].output
    patch.setattr(output, "forward", lambda hidden, stream: stream + output.LayerNorm(output.dense(hidden)))


def bert_causal(model, patch):
    eager = bert.eager_attention_forward

    def masked(module, query, key, value, mask, **kwargs):
        count = query.shape[-2]
        mask = torch.full((count, count), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)[None, None]
        return eager(module, query, key, value, mask, **kwargs)

    patch.setattr(bert, "eager_attention_forward", masked)


def gemma2_erf_gelu(model, patch):
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


def gemma2_embeddings_unscaled(model, patch):
    model.model.embed_tokens.embed_scale.fill_(1.0)


def weight_alone(norm, patch):
    patch.setattr(norm, "forward", lambda x: (norm._norm(x.float()) * norm.weight.float()).type_as(x))


def gemma2_plus_one_missing(model, patch):
    weight_alone(model.model.layers[1].input_layernorm, patch)


def gemma2_plus_one_missing_after_the_mlp(model, patch):
    weight_alone(model.model.layers[1].post_feedforward_layernorm, patch)


def gemma2_scores_uncapped(model, patch):
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = None


def gemma2_logits_uncapped(model, patch):
    patch.setattr(model.config, "final_logit_softcapping", None)


def gemma2_other_logit_cap(model, patch):
    patch.setattr(model.config, "final_logit_softcapping", 9.0)


def gemma2_no_window(model, patch):
    model.config.sliding_window = 4096


def gemma2_window_off_by_one(model, patch):
    model.config.sliding_window = 9


def gemma2_scale(model, patch):
    for layer in model.model.layers:
        layer.self_attn.scaling = 16**-0.5


def gemma2_norm_after_the_sum(model, patch):
    layer = model.model.layers[0]

    def forward(hidden_states, **kwargs):
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        stream = layer.post_attention_layernorm(hidden_states + attended)
        return stream + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(stream)))

    patch.setattr(layer, "forward", forward)


def route(change):
    """A fault: the router's (logits, weights, experts), changed."""

    def fault(model, patch):
        forward = mixtral.MixtralTopKRouter.forward
        patch.setattr(mixtral.MixtralTopKRouter, "forward", lambda self, x: change(self, *forward(self, x)))

    return fault


def not_normalised(router, logits, weights, experts):
    return logits, torch.softmax(logits.float(), -1).gather(-1, experts), experts


def next_expert(router, logits, weights, experts):
    return logits, weights, (experts + 1) % router.num_experts


def weights_reversed(router, logits, weights, experts):
    return logits, weights.flip(-1), experts


def three_experts(model, patch):
    for layer in model.model.layers:
        layer.mlp.gate.top_k = 3


def one_expert(model, patch):
    model.model.layers[1].mlp.gate.top_k = 1


def experts_of(model, layer):
    experts = model.model.layers[layer].mlp.experts
    return experts.gate_up_proj, experts.down_proj


def two_experts_exchanged(model, patch):
    for weight in experts_of(model, 0):
        weight.data[[1, 3]] = weight.data[[3, 1]]


def one_expert_twice(model, patch):
    for weight in experts_of(model, 0):
        weight.data[2] = weight.data[4]


def experts_rotated(model, patch):
    for weight in experts_of(model, 1):
        weight.data = torch.roll(weight.data, 1, 0)


def experts_gelu(model, patch):
    for layer in model.model.layers:
        layer.mlp.experts.act_fn = torch.nn.GELU()


def experts_gate_up_swapped(model, patch):
    for layer in range(2):
        weight = experts_of(model, layer)[0]
        weight.data = torch.roll(weight.data, weight.shape[1] // 2, 1)


def mixture_scaled(model, patch):
    experts = model.model.layers[0].mlp.experts
    forward = experts.forward
    patch.setattr(experts, "forward", lambda *args: 2.5 * forward(*args))


def normalised(model, patch):
    for layer in model.model.layers:
        layer.mlp.gate.norm_topk_prob = True


def block(layer, combine, patch):
    """Qwen2-MoE's block with other sums: combine(block, x, mixture, shared)."""
    mlp = layer.mlp

    def forward(x):
        rows = x.view(-1, x.shape[-1])
        _, weights, experts = mlp.gate(rows)
        return combine(mlp, rows, mlp.experts(rows, experts, weights), mlp.shared_expert(rows)).view(x.shape)

    patch.setattr(mlp, "forward", forward)


def shared_gate_missing(model, patch):
    for layer in model.model.layers:
        block(layer, lambda mlp, x, mixture, shared: mixture + shared, patch)


def shared_gate_on_the_mixture(model, patch):
    block(
        model.model.layers[1],
        lambda mlp, x, mixture, shared: torch.sigmoid(mlp.shared_expert_gate(x)) * mixture + shared,
        patch,
    )


def shared_gelu(model, patch):
    model.model.layers[0].mlp.shared_expert.act_fn = torch.nn.GELU()


def router_of_another_layer(model, patch):
    model.model.layers[0].mlp.gate.weight.data = model.model.layers[1].mlp.gate.weight.data.clone()


def both(role):
    return [f"layers.{layer}.{role}" for layer in range(2)]


FAULTS = [  # model, fault, cause, sites, found (None: not looked at; ... : null)
    ("bert", bert_tanh_gelu, "mlp.activation", both("mlp.act"), "gelu_tanh"),
    ("bert", bert_types_missing, "embed.type_missing", ["embed"], None),
    ("bert", bert_type_one, "embed.row_offset", ["embed"], 1),
    ("bert", bert_positions_missing, "embed.position_missing", ["embed"], None),
    ("bert", bert_positions_from_two, "embed.row_offset", ["embed"], 2),
    ("bert", bert_eps, "norm.eps", ["layers.1.out"], 1e-3),
    ("bert", bert_norm_bias_missing, "norm.bias_missing", ["layers.0.attn.post_norm"], None),
    ("bert", bert_rms_norm, "norm.type", ["layers.0.out"], "rms_norm"),
    ("bert", bert_norm_before_the_sum, "norm.order", ["layers.0.mlp.residual"], None),
    ("bert", bert_causal, "attn.mask_extra", both("attn.scores"), None),
    ("gemma2", gemma2_erf_gelu, "mlp.activation", both("mlp.act"), "gelu"),
    ("gemma2", gemma2_embeddings_unscaled, "embed.scale", ["embed"], 1.0),
    ("gemma2", gemma2_plus_one_missing, "norm.weight_plus_one", ["layers.1.attn.norm"], "weight"),
    ("gemma2", gemma2_plus_one_missing_after_the_mlp, "norm.weight_plus_one", ["layers.1.out"], "weight"),
    ("gemma2", gemma2_scores_uncapped, "attn.softcap", both("attn.scores"), ...),
    ("gemma2", gemma2_logits_uncapped, "head.softcap", ["logits"], ...),
    ("gemma2", gemma2_other_logit_cap, "head.softcap", ["logits"], 9.0),
    ("gemma2", gemma2_no_window, "attn.window", ["layers.0.attn.scores"], ...),
    ("gemma2", gemma2_window_off_by_one, "attn.window", ["layers.0.attn.scores"], 9),
    ("gemma2", gemma2_scale, "attn.scale", both("attn.scores"), 0.25),
    ("gemma2", gemma2_norm_after_the_sum, "norm.order", ["layers.0.attn.residual"], None),
    ("mixtral", route(not_normalised), "moe.weights_not_normalised", both("moe.weights"), None),
    ("mixtral", route(next_expert), "moe.expert_order", both("moe.experts"), "i + 1"),
    ("mixtral", route(weights_reversed), "moe.expert_order", both("moe.weights"), None),
    ("mixtral", three_experts, "moe.top_k", both("moe.experts"), 3),
    ("mixtral", one_expert, "moe.top_k", ["layers.1.moe.experts"], 1),
    ("mixtral", two_experts_exchanged, "moe.expert_order", ["layers.0.moe.out"], "1 and 3 exchanged"),
    ("mixtral", one_expert_twice, "moe.expert_order", ["layers.0.moe.out"], "4 for 2"),
    ("mixtral", experts_rotated, "moe.expert_order", ["layers.1.moe.out"], None),
    ("mixtral", experts_gelu, "mlp.activation", both("moe.out"), "gelu"),
    ("mixtral", experts_gate_up_swapped, "mlp.gate_up_swapped", both("moe.out"), None),
    ("mixtral", mixture_scaled, "moe.scale", ["layers.0.moe.out"], 2.5),
    ("qwen2_moe", normalised, "moe.weights_normalised", both("moe.weights"), None),
    ("qwen2_moe", shared_gate_missing, "moe.shared_gate", both("mlp.out"), None),
    ("qwen2_moe", shared_gate_on_the_mixture, "moe.shared_gate", ["layers.1.mlp.out"], None),
    ("qwen2_moe", shared_gelu, "mlp.activation", ["layers.0.mlp.act"], "gelu"),
    ("qwen2_moe", router_of_another_layer, "linear.wrong_layer", ["layers.0.moe.router_logits"], 1),
]


def record(model, trace, tokens=TOKENS):
    with torch.no_grad(), paritrace.capture(model, trace):
        model(input_ids=torch.tensor([tokens]))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "name, inject, cause, sites, found", FAULTS, ids=[f"{row[0]}-{row[2]}-{place}" for place, row in enumerate(FAULTS)]
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
            assert got == (
                None if found is ... else found if isinstance(found, (str, int)) else pytest.approx(found, rel=0.02)
            )


# ---- choices of experts ----


def test_a_flip_within_the_error_is_shown_and_blames_nothing(folder_of, tmp_path):
    """In bf16 some tokens go to other experts than in f64; the layers behind are replayed with the subject's."""
    record(hf.load(folder_of("mixtral"), "bf16"), tmp_path / "trace", tiny_models.prompt(400))
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("mixtral"))
    assert result["defects"] == [] and result["verdict"] == "within_noise"
    assert result["routing"], "a random router has close calls among 800"
    for flip in result["routing"]:
        assert flip["benign"] and 0 < flip["margin"] <= flip["error"]
        assert set(flip["reference"]) != set(flip["subject"]) and len(flip["subject"]) == 2


def test_a_flip_beyond_the_error_is_a_defect(folder_of, tmp_path, monkeypatch):
    """One token's second expert replaced by the least likely one."""
    forward = mixtral.MixtralTopKRouter.forward

    def other(self, x):
        logits, weights, experts = forward(self, x)
        experts[7, 1] = logits[7].argmin()
        return logits, weights, experts

    monkeypatch.setattr(mixtral.MixtralTopKRouter, "forward", other)
    record(hf.load(folder_of("mixtral"), "bf16"), tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("mixtral"))
    assert {defect["site"] for defect in result["defects"]} == set(both("moe.experts"))
    assert all(defect["where"] == {"tokens": [7]} for defect in result["defects"])
    assert [flip["benign"] for flip in result["routing"] if flip["token"] == 7] == [False, False]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_fault_behind_flips_is_still_named(dtype, folder_of, tmp_path):
    """A wrong embedding scale moves many tokens to other experts: that is propagated, and the mixture is not blamed."""
    model = hf.load(folder_of("mixtral"), dtype)
    model.model.embed_tokens.weight.data *= 3
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("mixtral"))
    assert tiny_models.named(result) == {("embed", "embed.scale")}
    assert result["routing"] and all(flip["benign"] for flip in result["routing"])


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_open_choices_are_recovered_from_the_outputs(dtype, folder_of, tmp_path):
    """Only each layer's output is recorded: how a close call fell can be told from it alone."""
    record(hf.load(folder_of("mixtral"), dtype), tmp_path / "trace", tiny_models.prompt(160))
    trace = paritrace.open_trace(tmp_path / "trace")
    kept = {"embed", "layers.0.out", "layers.1.out", "logits"}
    from safetensors.torch import load_file, save_file

    values = {}
    for shard in sorted((tmp_path / "trace").glob("*.safetensors")):
        values.update(load_file(shard))
    save_file(
        {entry.site: values[f"0/{entry.site}"].contiguous() for entry in trace.entries if entry.site in kept},
        tmp_path / "few.safetensors",
    )
    result = tiny_models.diagnose(tmp_path / "few.safetensors", folder_of("mixtral"))
    assert result["defects"] == []


def test_a_wrong_expert_is_said_to_be_that_one(folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of("mixtral"), "bf16")
    two_experts_exchanged(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("mixtral"))
    assert [defect["where"] for defect in result["defects"]] == [{"experts": [1, 3]}]


def test_a_router_in_bf16_is_named(folder_of, tmp_path, monkeypatch):
    """Its probabilities and weights are rounded where the model keeps them in f32."""

    def route(self, x):
        logits = torch.nn.functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
        weights, experts = torch.topk(torch.nn.functional.softmax(logits, dim=-1), self.top_k, dim=-1)
        return logits, weights / weights.sum(-1, keepdim=True), experts

    monkeypatch.setattr(mixtral.MixtralTopKRouter, "forward", route)
    record(hf.load(folder_of("mixtral"), "bf16"), tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", folder_of("mixtral"))
    assert tiny_models.named(result) == {
        (site, "precision") for role in ("moe.probs", "moe.weights") for site in both(role)
    }
    assert {defect["cause"]["found"] for defect in result["defects"]} == {"router in bf16"}


# ---- module outputs only ----

SPARSE = [
    ("bert", bert_tanh_gelu, "mlp.activation", both("mlp.out")),
    ("bert", bert_norm_before_the_sum, "norm.order", None),
    ("gemma2", gemma2_scores_uncapped, "attn.softcap", both("attn.out")),
    ("gemma2", gemma2_no_window, "attn.window", ["layers.0.attn.out"]),
    ("mixtral", route(not_normalised), "moe.weights_not_normalised", both("out")),
    ("mixtral", three_experts, "moe.top_k", both("out")),
    ("qwen2_moe", shared_gate_missing, "moe.shared_gate", both("mlp.out")),
]


@pytest.mark.parametrize("name, inject, cause, sites", SPARSE, ids=[f"{row[0]}-{row[2]}" for row in SPARSE])
def test_a_fault_between_modules_is_named(name, inject, cause, sites, folder_of, tmp_path, monkeypatch):
    model = hf.load(folder_of(name), "f32")
    inject(model, monkeypatch)
    record(model, tmp_path / "trace")
    tiny_models.module_outputs(tmp_path / "trace", tmp_path / "modules.safetensors")
    result = tiny_models.diagnose(tmp_path / "modules.safetensors", folder_of(name))
    if sites is None:
        assert {identity for _, identity in tiny_models.named(result)} == {cause}
    else:
        assert tiny_models.named(result) == {(site, cause) for site in sites}
