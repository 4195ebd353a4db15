"""--learn-arithmetic: an engine that rounds where no policy does, and the recipe that explains its values to the bit."""

import json
import subprocess
import sys

import pytest
import torch
from test_diagnose_faults import MODEL, load, record

COMMAND = [sys.executable, "-m", "paritrace", "diagnose"]


class SiluInSteps(torch.nn.Module):
    """SiLU as a chain of bf16 operations, as a new chip's compiler might lower it."""

    def forward(self, x):
        return x * (1 / (1 + torch.exp(-x)))


class FusedNorm(torch.nn.Module):
    """RMSNorm whose weight is multiplied in f32, with a single rounding at the end."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight.float()
        return wide.to(x.dtype)


def odd_engine(dtype="bf16"):
    model = load(MODEL, dtype)
    for layer in model.model.layers:
        layer.mlp.act_fn = SiluInSteps()
    return model


def share(result, role):
    rows = [row for row in result["noise"] if row["site"].endswith(role)]
    return sum(row["exact"] * row["values"] for row in rows) / sum(row["values"] for row in rows)


def diagnose(trace, *options):
    done = subprocess.run(
        [*COMMAND, trace, "--model", MODEL, "--json", "-", *map(str, options)], capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_an_odd_rounding_is_learned_and_loads(tmp_path):
    record(odd_engine(), tmp_path / "trace")
    before = diagnose(tmp_path / "trace")
    assert share(before, "mlp.act") < 0.9
    file = tmp_path / "odd.toml"
    learned = diagnose(tmp_path / "trace", "--learn-arithmetic", file)
    assert share(learned, "mlp.act") >= 0.999
    assert any(remark.startswith("learned, activation") for remark in learned["remarks"])
    # Another run of the engine, with the file: as well explained, and nothing else is changed by it.
    text = file.read_text()
    assert 'family = "activation"' in text and text.count("[[op]]") == 1
    again = diagnose(tmp_path / "trace", "--arithmetic", file)
    assert share(again, "mlp.act") >= 0.999
    assert share(again, "attn.norm") == share(before, "attn.norm")
    assert again["arithmetic"] == "torch-bf16+learned"


def test_a_single_rounding_in_norms_is_learned(tmp_path, monkeypatch):
    model = load(MODEL, "bf16")
    for layer in model.model.layers:
        layer.input_layernorm = FusedNorm(layer.input_layernorm)
        layer.post_attention_layernorm = FusedNorm(layer.post_attention_layernorm)
    model.model.norm = FusedNorm(model.model.norm)
    record(model, tmp_path / "trace")
    assert share(diagnose(tmp_path / "trace"), "norm") < 0.95
    result = diagnose(tmp_path / "trace", "--learn-arithmetic", tmp_path / "norm.toml")
    assert share(result, "norm") >= 0.999
    assert "fused = true" in (tmp_path / "norm.toml").read_text()


def test_a_known_engine_teaches_nothing(tmp_path):
    record(load(MODEL, "bf16"), tmp_path / "trace")
    result = diagnose(tmp_path / "trace", "--learn-arithmetic", tmp_path / "none.toml")
    assert "[[op]]" not in (tmp_path / "none.toml").read_text()
    assert any(remark.startswith("nothing was learned") for remark in result["remarks"])
    assert result["defects"] == []


def test_a_mistake_is_not_learned_as_an_arithmetic(tmp_path, monkeypatch):
    model = load(MODEL, "bf16")
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    record(model, tmp_path / "trace")
    result = diagnose(tmp_path / "trace", "--learn-arithmetic", tmp_path / "none.toml")
    assert {d["cause"]["id"] for d in result["defects"]} == {"mlp.activation"}
    assert "[[op]]" not in (tmp_path / "none.toml").read_text()


def test_an_unknown_name_in_the_header_is_said(tmp_path):
    record(odd_engine(), tmp_path / "trace")
    header = json.loads((tmp_path / "trace" / "trace.json").read_text())
    header["run"]["arithmetic"] = "newchip-bf16"
    (tmp_path / "trace" / "trace.json").write_text(json.dumps(header))
    result = diagnose(tmp_path / "trace")
    assert result["arithmetic"] == "torch-bf16" and result["arithmetic_inferred"]
    assert any('"newchip-bf16"' in remark for remark in result["remarks"])


@pytest.mark.parametrize(
    "text, place",
    [
        ("not toml [", "line 1"),
        ('schema = "paritrace/arithmetic/2"', "schema"),
        ('schema = "paritrace/arithmetic/1"\nbase = "f33"', "base"),
        ('schema = "paritrace/arithmetic/1"\nbase = "f32"\n[[op]]\nfamily = "nrom"', "line 4"),
        ('schema = "paritrace/arithmetic/1"\nbase = "f32"\n[[op]]\nfamily = "norm"\ninner = "f8"', "line 5"),
        ('schema = "paritrace/arithmetic/1"\nbase = "f32"\n[[op]]\nfamily = "norm"\ncolour = "red"', "line 5"),
        ('schema = "paritrace/arithmetic/1"\nbase = "f32"\n[[op]]\ninner = "f32"', "line 3"),
    ],
)
def test_a_broken_policy_file_is_one_line(text, place, tmp_path):
    record(load(MODEL), tmp_path / "trace")
    file = tmp_path / "policy.toml"
    file.write_text(text)
    done = subprocess.run(
        [*COMMAND, tmp_path / "trace", "--model", MODEL, "--arithmetic", file], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and place in done.stderr, done.stderr
