"""`diagnose SUB --ref REF` without a model: what two traces alone prove, and no more.

Faults are those that test_diagnose_faults.py injects into Hugging Face's code, which diagnoses them with the weights.
"""

import json
import subprocess
import sys

import pytest
import test_diagnose_faults as faults
from test_diagnose_faults import LAYERS, MODEL, ROPE, every_layer, load, record

COMMAND = [sys.executable, "-m", "paritrace", "diagnose"]


def diagnose(subject, reference, *options):
    done = subprocess.run(
        [*COMMAND, subject, "--ref", reference, "--json", "-", *options], capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert (done.returncode == 1) == (result["verdict"] == "diverged")
    assert "--model" in result["unproven"][-1]["reason"]
    return result


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Clean traces of the committed model, by dtype."""
    folder = tmp_path_factory.mktemp("references")
    for dtype in ("f32", "bf16"):
        record(load(MODEL, dtype), folder / dtype)
    return folder


# Named by the values alone: the op is replayed from the subject's own inputs.
PROVEN = [
    ("rope.interleaved", faults.rope_interleaved, ROPE),
    ("rope.missing", faults.rope_missing, ROPE),
    ("rope.theta", faults.rope_theta, ROPE),
    ("rope.position_offset", faults.rope_position_offset_q, every_layer("attn.q_rope")),
    ("norm.eps", faults.norm_eps, ["layers.2.attn.norm"]),
    ("norm.weight_missing", faults.norm_weight_missing, ["layers.1.mlp.norm"]),
    ("norm.weight_twice", faults.norm_weight_twice, ["layers.3.attn.norm"]),
    ("attn.scale", faults.attn_scale, ["layers.2.attn.scores"]),
    ("attn.mask_missing", faults.attn_mask_missing, every_layer("attn.scores")),
    ("attn.kv_head_order", faults.attn_kv_head_order, every_layer("attn.scores", "attn.ctx")),
    ("mlp.activation", faults.mlp_activation, every_layer("mlp.act")),
    ("mlp.gate_up_swapped", faults.mlp_gate_up_swapped, ["layers.0.mlp.act"]),
    ("residual.missing", faults.residual_missing, ["layers.2.attn.residual"]),
]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("cause, inject, sites", PROVEN, ids=[fault[1].__name__ for fault in PROVEN])
def test_what_needs_no_weights_is_named(cause, inject, sites, dtype, references, tmp_path, monkeypatch):
    model = load(MODEL, dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", references / dtype)
    named = {(d["site"], d["cause"]["id"]) for d in result["defects"]}
    # Below bf16's noise an eps shows to the bit alone, and a norm's estimated weights are not known to the bit.
    proven = [] if (cause, dtype) == ("norm.eps", "bf16") else sites
    assert named == {(site, cause) for site in proven}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(
    "inject, site", [(faults.linear_transposed, "layers.1.attn.q"), (faults.linear_wrong_layer, "layers.3.mlp.up")]
)
def test_wrong_weights_are_placed_and_not_named(inject, site, dtype, references, tmp_path, monkeypatch):
    model = load(MODEL, dtype)
    inject(model, monkeypatch)
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", references / dtype)
    assert [(d["site"], d["cause"]["id"], d["cause"]["confidence"]) for d in result["defects"]] == [
        (site, "unknown", 0)
    ]
    assert "--model" in result["defects"][0]["cause"]["fix"]
    # Behind it, inputs differ from the reference's: nothing is said of those products, and that is said.
    assert any("inputs differ" in note["reason"] for note in result["unproven"])


def test_a_missing_bias_is_likely_and_no_more(tmp_path, monkeypatch, biased_model):
    record(load(biased_model), tmp_path / "right")
    model = load(biased_model)
    faults.linear_bias_missing(model, monkeypatch)
    record(model, tmp_path / "wrong")
    (defect,) = diagnose(tmp_path / "wrong", tmp_path / "right")["defects"]
    assert (defect["site"], defect["cause"]["id"]) == ("layers.2.attn.k", "linear.bias_missing")
    assert 0.5 <= defect["cause"]["confidence"] < 0.9
    assert "unknown" in {other["id"] for other in defect["alternatives"]}


biased_model = faults.biased_model


def test_exchanged_weights_are_named(references, tmp_path):
    model = load(MODEL)
    mlp = model.model.layers[0].mlp
    mlp.gate_proj.weight.data, mlp.up_proj.weight.data = mlp.up_proj.weight.data, mlp.gate_proj.weight.data
    record(model, tmp_path / "trace")
    named = {(d["site"], d["cause"]["id"]) for d in diagnose(tmp_path / "trace", references / "f32")["defects"]}
    assert named == {("layers.0.mlp.gate", "mlp.gate_up_swapped"), ("layers.0.mlp.up", "mlp.gate_up_swapped")}


@pytest.mark.parametrize("subject, reference", [("f32", "f32"), ("bf16", "bf16"), ("bf16", "f32"), ("f32", "bf16")])
def test_clean_runs_have_no_defects(subject, reference, references, tmp_path):
    result = diagnose(references / subject, references / reference)
    assert result["defects"] == []
    assert result["verdict"] == ("identical" if subject == reference else "within_noise")
    proven = {row["site"] for row in result["noise"]}
    assert set(every_layer("attn.q_rope", "attn.scores", "attn.probs", "attn.ctx", "mlp.act", "attn.norm")) <= proven


def test_two_faults_are_both_found(references, tmp_path, monkeypatch):
    model = load(MODEL)
    faults.rope_theta(model, monkeypatch)
    faults.norm_weight_twice(model, monkeypatch)
    record(model, tmp_path / "trace")
    named = {(d["site"], d["cause"]["id"]) for d in diagnose(tmp_path / "trace", references / "f32")["defects"]}
    assert named == {(site, "rope.theta") for site in ROPE} | {("layers.3.attn.norm", "norm.weight_twice")}


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_llamacpp_against_hugging_face_is_clean(kind, flash, references, gguf, tmp_path):
    """Another row order of q and k, another engine, other types of weights: none of it a defect."""
    tokens = ",".join(map(str, faults.TOKENS))
    command = [sys.executable, "-m", "paritrace", "capture", "llamacpp", gguf(kind), "--tokens", tokens]
    subprocess.run([*command, "-o", tmp_path / "trace", "--flash-attn", flash], check=True, capture_output=True)
    assert diagnose(tmp_path / "trace", references / "f32")["defects"] == []
    back = diagnose(references / "f32", tmp_path / "trace")
    assert back["defects"] == []


def test_a_reference_that_is_no_llama_teaches_its_own_parameters(tmp_path):
    """Scaled RoPE, soft caps, windows, another activation: fitted to the reference, and held against the subject."""
    import tiny_models

    model = tiny_models.build("gemma2")
    import paritrace
    import torch

    tokens = torch.tensor([tiny_models.prompt(20)])
    with torch.no_grad(), paritrace.capture(model, tmp_path / "right"):
        model(input_ids=tokens)
    model.model.layers[1].self_attn.scaling *= 2
    with torch.no_grad(), paritrace.capture(model, tmp_path / "wrong"):
        model(input_ids=tokens)
    assert diagnose(tmp_path / "right", tmp_path / "right")["defects"] == []
    result = diagnose(tmp_path / "wrong", tmp_path / "right")
    # A scale and a cap that were both fitted leave the name open; the place is certain.
    assert [d["site"] for d in result["defects"]] == ["layers.1.attn.scores"]
    assert result["defects"][0]["cause"]["id"] in ("attn.scale", "unknown")


def test_the_terminal_says_what_is_not_proven(references, tmp_path, monkeypatch):
    model = load(MODEL)
    faults.linear_transposed(model, monkeypatch)
    record(model, tmp_path / "trace")
    done = subprocess.run([*COMMAND, tmp_path / "trace", "--ref", references / "f32"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("Diverged: unknown at attn.q of layer 1")
    assert "Not proven" in done.stdout and LAYERS > 1


def test_without_model_and_reference_there_is_nothing_to_judge_by(references):
    done = subprocess.run([*COMMAND, references / "f32"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    for option in ("--subject-model", "--learn-arithmetic"):
        command = [*COMMAND, references / "f32", "--ref", references / "f32", option, "x.toml"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "--model" in done.stderr
