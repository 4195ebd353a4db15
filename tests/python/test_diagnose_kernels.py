"""Kernels that compute another curve, overflow, or forget the end of a loop, patched into Hugging Face's own modules: each is
named at its site, and nothing else is."""

import paritrace
import pytest
import tiny_models
import torch
import transformers.models.gemma2.modeling_gemma2 as gemma2
import transformers.models.llama.modeling_llama as llama
from conftest import MODEL
from paritrace import hf

TOKENS = [0, 306, 411, 287, 518, 73, 1021, 17, 442, 905, 64, 33, 1200, 287, 700, 5, 88, 1333, 250, 411]
LAYERS = range(5)
DTYPES = pytest.mark.parametrize("dtype", ["f32", "bf16"])


def run(model, trace, folder, tokens=TOKENS):
    with torch.no_grad(), paritrace.capture(model, trace):
        model(input_ids=torch.tensor([tokens]))
    return tiny_models.diagnose(trace, folder)


class InF32(torch.nn.Module):
    """What a kernel does that stores its result in the tensor's dtype and computes in f32."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x.float()).to(x.dtype)


# ---- curves in place of SiLU ----


def pade(x):
    return (x * (27 + x * x) / (27 + 9 * x * x)).clamp(-1, 1)


def silu_by_pade(x):
    return x * (0.5 * pade(0.5 * x) + 0.5)


def hard_swish(x):
    return torch.nn.functional.hardswish(x)


def softsign_silu(x):
    return x * (0.5 * torch.nn.functional.softsign(x) + 0.5)


def clipped(x):
    return torch.nn.functional.silu(x).clamp(max=0.75)


def beta(x):
    return x * torch.sigmoid(1.25 * x)


def wavy(x):
    """A curve that no list has."""
    return torch.nn.functional.silu(x) + 0.03 * torch.sin(3 * x)


CURVES = [
    (silu_by_pade, "kernel.approximation", "silu with sigmoid by a Pade tanh"),
    (hard_swish, "kernel.approximation", "hard_swish"),
    (softsign_silu, "kernel.approximation", "silu with sigmoid by softsign, (x / (1 + |x|) + 1) / 2"),
    (clipped, "kernel.approximation", "silu clipped at 0.75"),
    (beta, "kernel.approximation", "x sigmoid(1.25 x)"),
    (wavy, "kernel.approximation", None),
    (torch.nn.functional.leaky_relu, "mlp.activation", "leaky_relu"),
    (torch.nn.functional.mish, "mlp.activation", "mish"),
]


@DTYPES
@pytest.mark.parametrize("curve, cause, found", CURVES, ids=[row[0].__name__ for row in CURVES])
def test_another_curve(curve, cause, found, dtype, tmp_path):
    model = hf.load(MODEL, dtype)
    for layer in model.model.layers:
        layer.mlp.act_fn = InF32(curve)
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {(f"layers.{i}.mlp.act", cause) for i in LAYERS}
    for defect in result["defects"]:
        if found is None:
            assert defect["cause"]["found"].startswith("largest error ")
        else:
            assert defect["cause"]["found"] == found


def test_a_table_in_f16_in_an_engine_of_f32(tmp_path):
    model = hf.load(MODEL, "f32")
    model.model.layers[3].mlp.act_fn = InF32(lambda x: torch.nn.functional.silu(x.half().float()).half().float())
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {("layers.3.mlp.act", "kernel.approximation")}
    assert result["defects"][0]["cause"]["found"] == "silu from a table in f16"


@DTYPES
def test_an_error_by_channel_is_no_curve(dtype, tmp_path):
    """What comes out depends on more than what goes in: nothing is called a curve."""
    model = hf.load(MODEL, dtype)
    width = model.config.intermediate_size
    factors = 1 + 0.2 * torch.randn(width, generator=torch.Generator().manual_seed(5))
    model.model.layers[2].mlp.act_fn = InF32(lambda x: torch.nn.functional.silu(x) * factors)
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {("layers.2.mlp.act", "unknown")}


@DTYPES
def test_tanh_of_a_soft_cap(dtype, tmp_path, monkeypatch):
    tiny_models.build("gemma2").save_pretrained(tmp_path / "model")

    def attend(module, query, key, value, mask, scaling, dropout=0.0, softcap=None, **_):
        key, value = (gemma2.repeat_kv(states, module.num_key_value_groups) for states in (key, value))
        scores = torch.matmul(query, key.transpose(2, 3)) * scaling
        scores = torch.nn.functional.softsign(scores / softcap) * softcap + mask
        probs = torch.nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(probs, value).transpose(1, 2).contiguous(), probs

    monkeypatch.setattr(gemma2, "eager_attention_forward", attend)
    result = run(hf.load(tmp_path / "model", dtype), tmp_path / "t", tmp_path / "model", tiny_models.prompt(24))
    causes = {defect["cause"]["id"] for defect in result["defects"]}
    assert causes == {"kernel.approximation"}
    assert {defect["site"] for defect in result["defects"]} <= {
        f"layers.{i}.attn.{site}" for i in range(2) for site in ("scores", "probs", "ctx")
    }


def with_softmax(softmax):
    """Llama's attention with another softmax."""

    def attend(module, query, key, value, mask, scaling, **_):
        key, value = (llama.repeat_kv(states, module.num_key_value_groups) for states in (key, value))
        scores = torch.matmul(query, key.transpose(2, 3)) * scaling + mask
        probs = softmax(scores.float()).to(query.dtype)
        return torch.matmul(probs, value).transpose(1, 2).contiguous(), probs

    return attend


@DTYPES
def test_exp_of_a_softmax(dtype, tmp_path, monkeypatch):
    def softmax(scores):
        bits = 12102203.161561485 * (scores - scores.amax(-1, keepdim=True)).double() + 1065353216
        exp = bits.clamp(min=0).to(torch.int32).view(torch.float32)
        return exp / exp.sum(-1, keepdim=True)

    monkeypatch.setattr(llama, "eager_attention_forward", with_softmax(softmax))
    result = run(hf.load(MODEL, dtype), tmp_path / "t", MODEL)
    causes = {(defect["cause"]["id"], defect["cause"]["found"]) for defect in result["defects"]}
    assert causes == {("kernel.approximation", "exp by Schraudolph")}


# ---- overflow ----


def patched(module, monkeypatch, change):
    right = module.forward
    monkeypatch.setattr(module, "forward", lambda x: change(right(x)))


@DTYPES
def test_a_product_that_overflows_f16(dtype, tmp_path, monkeypatch):
    model = tiny_models.build("bert").to(hf.DTYPES[dtype])
    up = model.encoder.layer[1].intermediate.dense
    up.weight.data *= 30000
    model.save_pretrained(tmp_path / "model")
    patched(
        up, monkeypatch, lambda y: torch.where(y.abs() > 65504, torch.copysign(torch.full_like(y, torch.inf), y), y)
    )
    result = run(model, tmp_path / "t", tmp_path / "model", tiny_models.prompt(24))
    assert tiny_models.named(result) == {("layers.1.mlp.up", "kernel.overflow")}
    assert result["defects"][0]["cause"]["found"] == "f16"


@DTYPES
def test_values_that_saturate(dtype, tmp_path, monkeypatch):
    model = hf.load(MODEL, dtype)
    patched(model.model.layers[2].mlp.up_proj, monkeypatch, lambda y: y.clamp(-1.5, 1.5))
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {("layers.2.mlp.up", "kernel.overflow")}
    assert result["defects"][0]["cause"]["found"] == 1.5


@DTYPES
def test_squares_of_a_norm_that_overflow_f16(dtype, tmp_path, monkeypatch):
    model = hf.load(MODEL, dtype)
    model.model.embed_tokens.weight.data[TOKENS[4]] *= 4000
    model.save_pretrained(tmp_path / "model")
    norm = model.model.layers[0].input_layernorm

    def forward(x):
        mean = (x.half() ** 2).mean(-1, keepdim=True).float()  # infinite where a square is
        return norm.weight * (x.float() * torch.rsqrt(mean + norm.variance_epsilon)).to(x.dtype)

    assert torch.isfinite(forward(torch.ones(1, 2, 128))).all()
    wide = norm.forward
    overflowing = lambda x: torch.where((x.abs() > 255.9).any(-1, keepdim=True), forward(x), wide(x))  # noqa: E731
    monkeypatch.setattr(norm, "forward", overflowing)
    result = run(model, tmp_path / "t", tmp_path / "model")
    assert ("layers.0.attn.norm", "kernel.overflow") in tiny_models.named(result)


def test_a_softmax_without_its_maximum(tmp_path, monkeypatch):
    model = hf.load(MODEL, "f32")
    for name in ("q_proj", "k_proj"):
        getattr(model.model.layers[1].self_attn, name).weight.data *= 9
    model.save_pretrained(tmp_path / "model")

    def softmax(scores):
        exp = scores.exp()
        return exp / exp.sum(-1, keepdim=True)

    eager = llama.eager_attention_forward
    wrong = with_softmax(softmax)
    monkeypatch.setattr(
        llama,
        "eager_attention_forward",
        lambda module, *args, **kwargs: (wrong if module.layer_idx == 1 else eager)(module, *args, **kwargs),
    )
    result = run(model, tmp_path / "t", tmp_path / "model")
    # probs that hold NaN are not recorded as such here; from the scores to ctx two ops are in question.
    assert {site for site, _ in tiny_models.named(result)} == {"layers.1.attn.ctx"}
    assert {cause for _, cause in tiny_models.named(result)} <= {"kernel.overflow", "unknown"}


# ---- ends of loops ----


@DTYPES
def test_inputs_past_the_last_whole_tile(dtype, tmp_path, monkeypatch):
    """288 inputs, and a kernel that sums 64 at a time."""
    model = hf.load(MODEL, dtype)
    down = model.model.layers[3].mlp.down_proj
    monkeypatch.setattr(down, "forward", lambda x: x[..., :256] @ down.weight[:, :256].T)
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {("layers.3.mlp.out", "kernel.shape")}
    assert (result["defects"][0]["cause"]["expected"], result["defects"][0]["cause"]["found"]) == (288, 256)


@DTYPES
def test_outputs_past_the_last_whole_tile(dtype, tmp_path, monkeypatch):
    model = hf.load(MODEL, dtype)

    def cut(y):
        y = y.clone()
        y[..., 256:] = 0
        return y

    patched(model.model.layers[0].mlp.gate_proj, monkeypatch, cut)
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {("layers.0.mlp.gate", "kernel.shape")}
    assert result["defects"][0]["cause"]["found"] == 256


@DTYPES
def test_tokens_past_the_last_whole_tile(dtype, tmp_path, monkeypatch):
    model = hf.load(MODEL, dtype)

    def cut(y):
        y = y.clone()
        y[:, 16:] = 0
        return y

    patched(model.model.layers[2].self_attn.v_proj, monkeypatch, cut)
    result = run(model, tmp_path / "t", MODEL)
    assert tiny_models.named(result) == {("layers.2.attn.v", "kernel.shape")}
    assert result["defects"][0]["cause"]["found"] == 16
