"""BitNet b1.58: transformers' own quantised layers in each of their three forms, and llama.cpp with ternary weights."""

import json

import paritrace
import pytest
import tiny_gguf
import tiny_models
import torch
from paritrace import llamacpp
from tiny_bitnet import FORMS, build, codes_of, make
from transformers.integrations.bitnet import BitLinear

TOKENS = tiny_models.prompt(24)


@pytest.fixture(autouse=True)
def uncompiled():
    """transformers compiles the rounding of activations; run as written, it needs no compiler and rounds step by step."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def record(model, trace, decode=2):
    with torch.no_grad(), paritrace.capture(model, trace):
        output = model(input_ids=torch.tensor([TOKENS]), use_cache=True)
        for _ in range(decode):
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_clean_run_raises_no_alarm(form, dtype, tmp_path):
    model = make(form, tmp_path / "model", torch.bfloat16 if dtype == "bf16" else torch.float32)
    record(model, tmp_path / "trace")
    result = tiny_models.diagnose(tmp_path / "trace", tmp_path / "model")
    assert result["defects"] == [] and result["remarks"] == []
    sites = {row["site"] for row in result["noise"]}
    assert {"layers.1.attn.ctx_norm", "layers.1.mlp.act_norm", "logits"} <= sites
    if dtype == "bf16":
        assert {
            row["site"]: row["exact"] for row in result["noise"] if row["values"] >= 1000 and not row["exact"] >= 0.999
        } == {}


@pytest.mark.parametrize("form", FORMS)
def test_the_oracle_gives_the_logits_of_hf(form, tmp_path):
    model = make(form, tmp_path / "model")
    ids = ",".join(map(str, TOKENS))
    done = tiny_models.paritrace(
        "run", tmp_path / "model", "--tokens", ids, "-o", tmp_path / "t", "--arithmetic", "f32"
    )
    assert done.returncode == 0, done.stderr
    got = next(entry.numpy() for entry in paritrace.open_trace(tmp_path / "t").entries if entry.site == "logits")
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([TOKENS])).logits[0].numpy()
    # An activation that lies between two int8 codes may fall either way, which moves whole tokens by a code's worth.
    rows = abs(got - expected).max(axis=1)
    assert (rows < 1e-4 * abs(expected).max()).mean() >= (1 if form == "plain" else 0.5)
    assert rows.max() < 0.05 * abs(expected).max()


def subnorm_missing(model, patch):
    patch.setattr(model.model.layers[1].self_attn.attn_sub_norm, "forward", lambda x: x)


def mlp_subnorm_missing(model, patch):
    patch.setattr(model.model.layers[0].mlp.ffn_sub_norm, "forward", lambda x: x)


def weight_scale_missing(model, patch):
    model.model.layers[1].mlp.up_proj.weight_scale.fill_(1.0)


def weight_scale_inverted(model, patch):
    scale = model.model.layers[0].self_attn.k_proj.weight_scale
    scale.copy_(1 / scale)


def int8_by_tensor(model, patch):
    def quantise(self, x, num_bits=8):
        scale = 127 / x.abs().max().clamp(min=1e-5).expand(*x.shape[:-1], 1)
        return (x * scale).round().clamp(-128, 127).to(torch.int8), scale

    patch.setattr(BitLinear, "activation_quant", quantise)


def silu(model, patch):
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.SiLU()


PROJECTIONS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.out")
FAULTS = [
    (subnorm_missing, "bitnet.subnorm", ["layers.1.attn.ctx_norm"]),
    (mlp_subnorm_missing, "bitnet.subnorm", ["layers.0.mlp.act_norm"]),
    (weight_scale_missing, "bitnet.weight_scale", ["layers.1.mlp.up"]),
    (weight_scale_inverted, "bitnet.weight_scale", ["layers.0.attn.k"]),
    (
        int8_by_tensor,
        "bitnet.activation_quant",
        [f"layers.{layer}.{site}" for layer in range(2) for site in PROJECTIONS],
    ),
    (silu, "mlp.activation", [f"layers.{layer}.mlp.act" for layer in range(2)]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("inject, cause, sites", FAULTS, ids=[row[0].__name__ for row in FAULTS])
def test_a_fault_is_named_at_its_site(inject, cause, sites, dtype, tmp_path, monkeypatch):
    model = make("bitlinear", tmp_path / "model", dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace", decode=0)
    result = tiny_models.diagnose(tmp_path / "trace", tmp_path / "model")
    assert tiny_models.named(result) == {(site, cause) for site in sites}


@pytest.fixture(scope="module")
def ternary():
    """The model with float weights that are ternary already, as llama.cpp's converter leaves them."""
    model = build()
    for path, parameter in model.named_parameters():
        if path.endswith("_proj.weight"):
            codes, scale = codes_of(parameter.data)
            parameter.data = codes * scale
    return model


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("type_name", ["f16", "tq1_0", "tq2_0"])
def test_llamacpp_with_ternary_weights_is_within_noise(ternary, type_name, flash, tmp_path):
    tiny_gguf.write(ternary, tmp_path / "m.gguf", type_name)
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=TOKENS, flash_attention=flash, decode=2)
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "m.gguf")
    assert result["defects"] == [] and result["remarks"] == []
    sites = [row for row in result["noise"] if row["site"].split(".", 2)[-1] in (*PROJECTIONS, "logits")]
    assert len(sites) == 3 * (2 * len(PROJECTIONS) + 1)
    assert all(row["left_nmse"] <= 1e-12 for row in sites)  # 1e-6 of the output


def test_i2_s_as_model_in_the_arithmetic_of_bitnet_cpp(tmp_path, write_gguf):
    """transformers' BitLinear does what bitnet.cpp does: int8 codes by token, whole numbers multiplied, divided by both scales."""
    model = make("bitlinear", tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "m.gguf", "i2_s")
    record(model, tmp_path / "t", decode=0)
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "m.gguf", "--arithmetic", "bitnet-int8")
    assert result["defects"] == [] and result["arithmetic"] == "bitnet-int8"
    rows = {row["site"].split(".", 2)[-1]: row for row in result["noise"]}
    # Without the rounding to int8 a projection is off by a hundredth.
    assert all(rows[site]["left_nmse"] <= 1e-8 for site in PROJECTIONS)


def test_int8_codes_by_tensor_are_named_against_i2_s(tmp_path, monkeypatch, write_gguf):
    model = make("bitlinear", tmp_path / "model")
    write_gguf(tmp_path / "model", tmp_path / "m.gguf", "i2_s")
    int8_by_tensor(model, monkeypatch)
    record(model, tmp_path / "t", decode=0)
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "m.gguf", "--arithmetic", "bitnet-int8")
    causes = {(d["cause"]["id"], d["cause"]["found"]) for d in result["defects"]}
    assert causes == {("quant.activation", "int8, one scale for all tokens")}


def test_llamacpp_has_silu_where_the_model_has_squared_relu(ternary, tmp_path):
    ternary.save_pretrained(tmp_path / "hf")
    tiny_gguf.write(ternary, tmp_path / "m.gguf", "f32")
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=TOKENS, flash_attention="off")
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "hf")
    assert tiny_models.named(result) == {(f"layers.{layer}.mlp.act", "mlp.activation") for layer in range(2)}
    assert {(d["cause"]["expected"], d["cause"]["found"]) for d in result["defects"]} == {("relu2", "silu")}


@pytest.mark.parametrize("change, message", [
    ({"linear_class": "other"}, 'linear_class "other" is not supported'),
    ({"quant_method": "gptq"}, 'method "gptq" is not supported'),
    ({"use_rms_norm": True}, "use_rms_norm is not supported"),
])  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(change, message, tmp_path):
    make("bitlinear", tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    content = json.loads(config.read_text())
    content["quantization_config"] |= change
    config.write_text(json.dumps(content))
    done = tiny_models.paritrace("run", tmp_path / "model", "--tokens", "1,2", "-o", tmp_path / "t")
    assert done.returncode == 2 and message in done.stderr
