"""One mistake in every layer, or in every norm, where little was recorded between the tokens and the logits: named as one, and clean
runs recorded as sparsely raise no alarm."""

import engines
import paritrace
import pytest
import random_weights
import tiny_models
import torch
import transformers
import transformers.models.llama.modeling_llama as llama
from paritrace import hf

TOKENS = tiny_models.prompt(24)
LAYERS = r"embed|layers\.\d+\.(in|out)|logits"


def record(model, trace, kept):
    """Runs the model; of its trace only the sites that `kept` matches stay, in one file."""
    with torch.no_grad(), paritrace.capture(model, trace):
        model(input_ids=torch.tensor([TOKENS]))
    return engines.keep_sites(trace, kept, trace.with_suffix(".safetensors"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama of two layers, with values of ordinary size, q and k biases included."""
    path = tmp_path_factory.mktemp("model") / "llama"
    torch.manual_seed(1)
    config = transformers.LlamaConfig(**tiny_models.DECODER, attention_bias=True)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    random_weights.fill(model).save_pretrained(path)
    return path


def norms(model):
    return [module for module in model.modules() if isinstance(module, llama.LlamaRMSNorm)]


def eps_of_all_norms(eps):
    def fault(model, patch):
        for norm in norms(model):
            norm.variance_epsilon = eps

    return fault


def one_more_than_the_weights(model, patch):
    for norm in norms(model):
        norm.weight.data += 1


def neighbouring_pairs(model, patch):
    def turned(x, cos, sin):
        half = x.shape[-1] // 2
        cos, sin = cos[:, None, :, :half].to(x.dtype), sin[:, None, :, :half].to(x.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)

    def apply(q, k, cos, sin, *args, **kwargs):
        return turned(q, cos, sin), turned(k, cos, sin)

    patch.setattr(llama, "apply_rotary_pos_emb", apply)


def scores_unscaled(model, patch):
    for layer in model.model.layers:
        layer.self_attn.scaling = 1.0


def gelu(model, patch):
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()


def no_query_bias(model, patch):
    for layer in model.model.layers:
        layer.self_attn.q_proj.bias.data.zero_()


FAULTS = [
    (neighbouring_pairs, "rope.interleaved", None),
    (scores_unscaled, "attn.scale", 1.0),
    (gelu, "mlp.activation", "gelu"),
    (no_query_bias, "linear.bias_missing", None),
    (one_more_than_the_weights, "norm.weight_plus_one", None),
    (eps_of_all_norms(0.5), "norm.eps", 0.5),
]
NAMES = ["rope", "scale", "activation", "bias", "plus-one", "eps"]


def check(result, sites, cause, found):
    assert tiny_models.named(result) == {(site, cause) for site in sites}
    for defect in result["defects"]:
        assert defect["cause"]["confidence"] >= 0.5
        if found is not None:
            assert defect["cause"]["found"] == pytest.approx(found)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("inject, cause, found", FAULTS, ids=NAMES)
def test_logits_alone_name_it(inject, cause, found, dtype, folder, tmp_path, monkeypatch):
    model = hf.load(folder, dtype)
    inject(model, monkeypatch)
    result = tiny_models.diagnose(record(model, tmp_path / "trace", "logits"), folder)
    check(result, ["logits"], cause, found)
    assert (
        " in every layer" in result["defects"][0]["cause"]["statement"]
        or " in all norms" in (result["defects"][0]["cause"]["statement"])
    )


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("inject, cause, found", [FAULTS[4], FAULTS[5]], ids=[NAMES[4], NAMES[5]])
def test_both_norms_of_a_layer_are_named_where_its_ends_were_recorded(
    inject, cause, found, dtype, folder, tmp_path, monkeypatch
):
    model = hf.load(folder, dtype)
    inject(model, monkeypatch)
    result = tiny_models.diagnose(record(model, tmp_path / "trace", LAYERS), folder)
    check(result, ["layers.0.out", "layers.1.out", "logits"], cause, found)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("kept", ["logits", LAYERS], ids=["logits", "layers"])
def test_a_clean_run_raises_no_alarm(kept, dtype, folder, tmp_path):
    result = tiny_models.diagnose(record(hf.load(folder, dtype), tmp_path / "trace", kept), folder)
    assert result["verdict"] in ("identical", "within_noise") and result["defects"] == []
