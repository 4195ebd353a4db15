"""Mistakes injected into Hugging Face's own Llama, in f32 and in bf16: each is named at its site, and nothing else is.

The faults are patches of transformers' code and modules; our executor is not involved in making them.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import paritrace
import pytest
import torch
import transformers.models.llama.modeling_llama as llama
from module_outputs import module_outputs

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "paritrace-llama"
TOKENS = [0, 306, 411, 287, 518, 73, 1021, 17, 442, 905, 64, 33, 1200, 287, 700, 5, 88, 1333, 250, 411]
LAYERS = 5
COMMAND = [sys.executable, "-m", "paritrace"]


@pytest.fixture(scope="session")
def biased_model(tmp_path_factory):
    """The committed model with biases on its projections, saved as a folder of its own."""
    folder = tmp_path_factory.mktemp("biased") / "model"
    model = load(MODEL)
    config = model.config
    config.attention_bias = True
    biased = transformers_llama(config)
    biased.load_state_dict(model.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in biased.named_parameters():
        if name.endswith("bias"):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    biased.save_pretrained(folder)
    return folder


def transformers_llama(config):
    return llama.LlamaForCausalLM._from_config(config, attn_implementation="eager")


def load(folder, dtype="f32"):
    from paritrace import hf

    return hf.load(folder, dtype)


def diagnose(trace, model, *options):
    done = subprocess.run(
        [*COMMAND, "diagnose", trace, "--model", model, "--json", "-", *options], capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert (done.returncode == 1) == (result["verdict"] == "diverged")
    return result


def record(model, trace, steps=1):
    with torch.no_grad(), paritrace.capture(model, trace):
        output = model(input_ids=torch.tensor([TOKENS]), use_cache=steps > 1)
        for _ in range(1, steps):
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)


# ---- faults: each takes a loaded model and a pytest MonkeyPatch ----


def turned(x, cos, sin):
    return x * cos.unsqueeze(1) + llama.rotate_half(x) * sin.unsqueeze(1)


def interleaved(x, cos, sin):
    half = cos.shape[-1] // 2
    cos, sin = (t[..., :half].repeat_interleave(2, -1).unsqueeze(1) for t in (cos, sin))
    other = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
    return x * cos + other * sin


def rope_interleaved(model, patch):
    patch.setattr(
        llama,
        "apply_rotary_pos_emb",
        lambda q, k, cos, sin, *_, **__: (interleaved(q, cos, sin), interleaved(k, cos, sin)),
    )


def rope_missing(model, patch):
    patch.setattr(llama, "apply_rotary_pos_emb", lambda q, k, *_, **__: (q.clone(), k.clone()))


def rope_theta(model, patch):
    rotary = model.model.rotary_emb
    dim = model.config.head_dim
    rotary.inv_freq = 1.0 / 10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def shifted(model, cos, offset):
    positions = torch.arange(cos.shape[1]).unsqueeze(0) + offset
    return model.model.rotary_emb(cos, positions)


def rope_position_offset_q(model, patch):
    def apply(q, k, cos, sin, *_, **__):
        return turned(q, *shifted(model, cos, 1)), turned(k, cos, sin)

    patch.setattr(llama, "apply_rotary_pos_emb", apply)


def norm_eps(model, patch):
    # 1e-3 changes three of 2560 values in bf16, which a clean run's inner roundings may do as well.
    model.model.layers[2].input_layernorm.variance_epsilon = 1e-2


def norm_eps_final(model, patch):
    model.model.norm.variance_epsilon = 1e-2


def norm_weight_missing(model, patch):
    model.model.layers[1].post_attention_layernorm.weight.data.fill_(1.0)


def norm_weight_twice(model, patch):
    norm = model.model.layers[3].input_layernorm
    once = norm.forward
    patch.setattr(norm, "forward", lambda x: norm.weight * once(x))


def attn_scale(model, patch):
    model.model.layers[2].self_attn.scaling = 1.0 / model.config.head_dim


def attn_mask_missing(model, patch):
    eager = llama.eager_attention_forward

    def unmasked(module, query, key, value, attention_mask, *args, **kwargs):
        return eager(module, query, key, value, None, *args, **kwargs)

    patch.setattr(llama, "eager_attention_forward", unmasked)


def attn_kv_head_order(model, patch):
    patch.setattr(llama, "repeat_kv", lambda states, n: states.repeat(1, n, 1, 1))


def linear_transposed(model, patch):
    weight = model.model.layers[1].self_attn.q_proj.weight
    weight.data = weight.data.T.contiguous()


def linear_wrong_layer(model, patch):
    model.model.layers[3].mlp.up_proj.weight.data = model.model.layers[1].mlp.up_proj.weight.data.clone()


def linear_bias_missing(model, patch):
    model.model.layers[2].self_attn.k_proj.bias = None


def mlp_activation(model, patch):
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


def mlp_gate_up_swapped(model, patch):
    mlp = model.model.layers[0].mlp
    patch.setattr(mlp, "forward", lambda x: mlp.down_proj(mlp.gate_proj(x) * mlp.act_fn(mlp.up_proj(x))))


def residual_missing(model, patch):
    layer = model.model.layers[2]

    def forward(hidden_states, **kwargs):
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        return attended + layer.mlp(layer.post_attention_layernorm(attended))

    patch.setattr(layer, "forward", forward)


def every_layer(*roles):
    return [f"layers.{i}.{role}" for i in range(LAYERS) for role in roles]


ROPE = every_layer("attn.q_rope", "attn.k_rope")
FAULTS = [
    ("rope.interleaved", rope_interleaved, ROPE, None),
    ("rope.missing", rope_missing, ROPE, None),
    ("rope.theta", rope_theta, ROPE, 10000),
    ("rope.position_offset", rope_position_offset_q, every_layer("attn.q_rope"), 1),
    ("norm.eps", norm_eps, ["layers.2.attn.norm"], 1e-2),
    ("norm.eps", norm_eps_final, ["final_norm"], 1e-2),
    ("norm.weight_missing", norm_weight_missing, ["layers.1.mlp.norm"], None),
    ("norm.weight_twice", norm_weight_twice, ["layers.3.attn.norm"], None),
    ("attn.scale", attn_scale, ["layers.2.attn.scores"], 1 / 16),
    ("attn.mask_missing", attn_mask_missing, every_layer("attn.scores"), None),
    ("attn.kv_head_order", attn_kv_head_order, every_layer("attn.scores", "attn.ctx"), None),
    ("linear.transposed", linear_transposed, ["layers.1.attn.q"], None),
    ("linear.wrong_layer", linear_wrong_layer, ["layers.3.mlp.up"], 1),
    ("linear.bias_missing", linear_bias_missing, ["layers.2.attn.k"], None),
    ("mlp.activation", mlp_activation, every_layer("mlp.act"), "gelu"),
    ("mlp.gate_up_swapped", mlp_gate_up_swapped, ["layers.0.mlp.act"], None),
    ("residual.missing", residual_missing, ["layers.2.attn.residual"], None),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("cause, inject, sites, found", FAULTS, ids=[fault[1].__name__ for fault in FAULTS])
def test_an_injected_fault_is_named_at_its_site(
    cause, inject, sites, found, dtype, tmp_path, monkeypatch, biased_model
):
    folder = biased_model if cause == "linear.bias_missing" else MODEL
    model = load(folder, dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", folder)
    assert result["verdict"] == "diverged"
    named = {(defect["site"], defect["cause"]["id"]) for defect in result["defects"]}
    assert named == {(site, cause) for site in sites}
    assert result["counterfactual"].endswith("everything.")
    for defect in result["defects"]:
        assert defect["side"] == "subject"
        assert defect["cause"]["confidence"] >= 0.5
        if found is not None:
            got = defect["cause"]["found"]
            assert got == found if isinstance(found, str) else got == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_clean_run_has_no_defects(dtype, steps, tmp_path):
    record(load(MODEL, dtype), tmp_path / "trace", steps)
    result = diagnose(tmp_path / "trace", MODEL)
    assert result["defects"] == []
    assert result["verdict"] == "within_noise"
    assert len({row["site"] for row in result["noise"]}) >= 17 * LAYERS


def test_bf16_is_explained_to_the_bit(tmp_path):
    record(load(MODEL, "bf16"), tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    assert result["arithmetic"] == "torch-bf16"
    poor = {row["site"]: row["exact"] for row in result["noise"] if not row["exact"] >= 0.999}
    assert poor == {}
    assert result["explained"]["exact"] >= 0.9995


def test_two_faults_in_one_run_are_both_found(tmp_path, monkeypatch):
    model = load(MODEL, "bf16")
    rope_theta(model, monkeypatch)
    mlp_activation(model, monkeypatch)
    linear_wrong_layer(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    named = {(defect["site"], defect["cause"]["id"]) for defect in result["defects"]}
    expected = {(site, "rope.theta") for site in ROPE} | {(site, "mlp.activation") for site in every_layer("mlp.act")}
    assert named == expected | {("layers.3.mlp.up", "linear.wrong_layer")}
    assert {group["cause"] for group in result["summary"]} == {"rope.theta", "mlp.activation", "linear.wrong_layer"}


def test_positions_all_shifted_alike_change_nothing(tmp_path, monkeypatch):
    model = load(MODEL)

    def apply(q, k, cos, sin, *_, **__):
        moved = shifted(model, cos, 3)
        return turned(q, *moved), turned(k, *moved)

    monkeypatch.setattr(llama, "apply_rotary_pos_emb", apply)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    assert result["verdict"] == "within_noise"
    assert [entry["site"] for entry in result["equivalences"]] == every_layer("attn.q_rope")


def test_a_fault_in_one_head_says_which(tmp_path, monkeypatch):
    model = load(MODEL, "bf16")

    def apply(q, k, cos, sin, *_, **__):
        right = turned(q, cos, sin)
        right[:, 5] = q[:, 5]
        return right, turned(k, cos, sin)

    monkeypatch.setattr(llama, "apply_rotary_pos_emb", apply)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    assert {(d["site"], d["cause"]["id"]) for d in result["defects"]} == {
        (s, "rope.missing") for s in every_layer("attn.q_rope")
    }
    assert all(d["where"]["heads"] == [5] for d in result["defects"])


def test_the_counterfactual_run_speaks_for_all_defects_or_not_at_all(tmp_path, monkeypatch):
    """Said only where every defect has a name."""
    model = load(MODEL)
    norm_weight_twice(model, monkeypatch)
    residual_missing(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    assert result["counterfactual"].endswith("they explain everything.")
    unnamed = load(MODEL)
    norm_weight_twice(unnamed, monkeypatch)
    head = unnamed.lm_head
    once = head.forward
    monkeypatch.setattr(head, "forward", lambda x: once(x) + 0.1 * once(x).pow(2))
    record(unnamed, tmp_path / "unnamed")
    result = diagnose(tmp_path / "unnamed", MODEL)
    assert [defect["cause"]["id"] for defect in result["defects"]] == ["norm.weight_twice", "unknown"]
    assert "counterfactual" not in result


def test_an_error_that_no_cause_explains_is_unknown(tmp_path, monkeypatch):
    model = load(MODEL)
    norm = model.model.layers[1].input_layernorm
    once = norm.forward
    patch = torch.sin(torch.arange(128.0) * 37)
    monkeypatch.setattr(norm, "forward", lambda x: once(x) * (1 + 0.1 * patch))
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    assert [(d["site"], d["cause"]["id"]) for d in result["defects"]] == [("layers.1.attn.norm", "unknown")]
    assert result["defects"][0]["cause"]["confidence"] < 0.5


def test_an_eps_below_the_noise_is_found(tmp_path):
    """At bf16's noise a change of eps moves one value in many by one ULP: no tolerance sees it, the emulation does."""
    model = load(MODEL, "bf16")
    model.model.layers[0].input_layernorm.variance_epsilon = 1e-4
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", MODEL)
    assert [(d["site"], d["cause"]["id"]) for d in result["defects"]] == [("layers.0.attn.norm", "norm.eps")]
    assert result["defects"][0]["cause"]["found"] == pytest.approx(1e-4, rel=0.1)
    assert result["defects"][0]["ratio"] < 4


def test_the_terminal_answer_reads_from_the_top(tmp_path, monkeypatch):
    model = load(MODEL)
    rope_interleaved(model, monkeypatch)
    record(model, tmp_path / "trace")
    done = subprocess.run([*COMMAND, "diagnose", tmp_path / "trace", "--model", MODEL], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("Diverged: rope.interleaved at attn.q_rope and attn.k_rope of layers 0-4")
    assert re.search(r"Fix: .*half-split", done.stdout)
    assert "Ruled out" in done.stdout
    assert "\033" not in done.stdout


# ---- sparse traces: module outputs in one file, as any program may write them ----

SPARSE = [
    ("rope.interleaved", rope_interleaved, "attn.out"),
    ("rope.theta", rope_theta, "attn.out"),
    ("attn.mask_missing", attn_mask_missing, "attn.out"),
    ("attn.kv_head_order", attn_kv_head_order, "attn.out"),
    ("mlp.activation", mlp_activation, "mlp.out"),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("cause, inject, role", SPARSE, ids=[fault[1].__name__ for fault in SPARSE])
def test_a_fault_between_recorded_modules_is_named(cause, inject, role, dtype, tmp_path, monkeypatch):
    model = load(MODEL, dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace")
    module_outputs(tmp_path / "trace", tmp_path / "modules.safetensors")
    result = diagnose(tmp_path / "modules.safetensors", MODEL)
    named = {(defect["site"], defect["cause"]["id"]) for defect in result["defects"]}
    assert named == {(site, cause) for site in every_layer(role)}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_clean_module_outputs_are_within_noise(dtype, tmp_path):
    record(load(MODEL, dtype), tmp_path / "trace")
    module_outputs(tmp_path / "trace", tmp_path / "modules.safetensors")
    result = diagnose(tmp_path / "modules.safetensors", MODEL)
    assert result["verdict"] == "within_noise"
    assert any("token ids" in remark for remark in result["remarks"])


def test_sdpa_in_bf16_is_clean(tmp_path):
    """Another kernel rounds elsewhere: not explained to the bit, and no defect."""
    model = load(MODEL, "bf16")
    model.set_attn_implementation("sdpa")
    record(model, tmp_path / "trace")
    assert diagnose(tmp_path / "trace", MODEL)["verdict"] == "within_noise"


# ---- bad input ----


def test_bad_input_is_one_line_and_a_known_exit_code(tmp_path):
    record(load(MODEL), tmp_path / "trace")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((MODEL / "config.json").read_text())
    data = (MODEL / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(data[: len(data) // 2])
    cases = [
        (["diagnose", tmp_path / "none", "--model", MODEL], 2),
        (["diagnose", tmp_path / "trace"], 2),
        (["diagnose", tmp_path / "trace", "--model", broken], 2),
        (["diagnose", tmp_path / "trace", "--model", tmp_path], 2),
        (["diagnose", tmp_path / "trace", "--model", MODEL, "--arithmetic", "f33"], 2),
        (["diagnose", tmp_path / "trace", "--model", MODEL, "--json", tmp_path / "no" / "such.json"], 2),
    ]
    for command, code in cases:
        done = subprocess.run([*COMMAND, *command], capture_output=True, text=True)
        assert done.returncode == code, (command, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stderr.startswith("paritrace: ")


def test_weights_with_nan_are_refused(tmp_path):
    model = load(MODEL)
    record(model, tmp_path / "trace")
    model.model.layers[2].mlp.up_proj.weight.data[3, 4] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    done = subprocess.run(
        [*COMMAND, "diagnose", tmp_path / "trace", "--model", tmp_path / "nan"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert 'tensor "model.layers.2.mlp.up_proj.weight"' in done.stderr


def test_a_config_with_fewer_layers_than_the_trace_is_refused(tmp_path):
    record(load(MODEL), tmp_path / "trace")
    shutil.copytree(MODEL, tmp_path / "short")
    config = json.loads((MODEL / "config.json").read_text()) | {"num_hidden_layers": LAYERS - 2}
    (tmp_path / "short" / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [*COMMAND, "diagnose", tmp_path / "trace", "--model", tmp_path / "short"], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"layers.{LAYERS - 2}." in done.stderr and f"expected {LAYERS - 2} layers" in done.stderr


def test_a_trace_of_another_model_is_refused(tmp_path, biased_model):
    other = transformers_llama(
        load(MODEL).config.__class__(
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_hidden_layers=2,
            vocab_size=1536,
        )
    )
    record(other, tmp_path / "trace")
    done = subprocess.run([*COMMAND, "diagnose", tmp_path / "trace", "--model", MODEL], capture_output=True, text=True)
    assert done.returncode == 3
    assert "another model" in done.stderr
