"""Other tokens and other models are told in one line, with what is known in the JSON, and no op is blamed for them."""

import json
import subprocess
import sys

import paritrace
import pytest
import safetensors.torch
import torch
from test_diagnose_faults import MODEL, TOKENS, load

COMMAND = [sys.executable, "-m", "paritrace"]
RUNS = {
    "right": TOKENS,
    "bos": [1, *TOKENS],
    "shift": [7, 7, 7, *TOKENS],
    "ids": [*TOKENS[:6], 999, *TOKENS[7:]],
}


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Traces of one model on each run's tokens; NAME.safetensors is the same without a header."""
    folder = tmp_path_factory.mktemp("tokens")
    model = load(MODEL)
    for name, tokens in RUNS.items():
        with torch.no_grad(), paritrace.capture(model, folder / name):
            model(input_ids=torch.tensor([tokens]))
        values = {}
        for line in (folder / name / "index.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if "site" not in entry:
                continue
            with safetensors.safe_open(folder / name / entry["file"], "pt") as file:
                values.setdefault(entry["site"], file.get_tensor(entry["key"]).contiguous())
        safetensors.torch.save_file(values, folder / f"{name}.safetensors")
    return folder


def run(*arguments):
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("ending", ["", ".safetensors"], ids=["by the header", "by the rows of embed"])
@pytest.mark.parametrize("name", ["bos", "shift", "ids"])
def test_diff_names_it(name, ending, traces, tmp_path):
    for subject, reference in ((name, "right"), ("right", name)):
        command = ["diff", traces / (reference + ending), traces / (subject + ending), "--json", tmp_path / "out.json"]
        done = run(*command)
        result = json.loads((tmp_path / "out.json").read_text())
        assert done.returncode == 3, done.stdout + done.stderr
        assert result["verdict"] == "incomparable" and result["first_divergence"] is None
        assert result["tokens"]["cause"] == f"tokens.{name}"
        assert result["tokens"]["position"] == (6 if name == "ids" else 0)


@pytest.mark.parametrize("with_model", [True, False])
@pytest.mark.parametrize("name", ["bos", "shift", "ids"])
def test_diagnose_names_it(name, with_model, traces, tmp_path):
    options = ["--model", MODEL] if with_model else []
    done = run("diagnose", traces / name, "--ref", traces / "right", "--json", tmp_path / "out.json", *options)
    result = json.loads((tmp_path / "out.json").read_text())
    assert done.returncode == 3
    assert result["verdict"] == "incomparable"
    assert [(d["site"], d["cause"]["id"]) for d in result["defects"]] == [("embed", f"tokens.{name}")]
    assert result["tokens"]["cause"] == f"tokens.{name}"
    if not with_model:
        assert len(done.stderr.strip().splitlines()) == 1


def test_one_wrong_value_or_a_scale_is_no_other_token(traces, tmp_path):
    """A mistake of the embedding itself must not look like another token."""
    right = safetensors.torch.load_file(traces / "right.safetensors")
    for change in (lambda x: x * 8, lambda x: x + 0.2 * x.flip(-1)):
        wrong = dict(right, embed=change(right["embed"]).contiguous())
        safetensors.torch.save_file(wrong, tmp_path / "wrong.safetensors")
        done = run("diff", traces / "right.safetensors", tmp_path / "wrong.safetensors", "--json", "-")
        assert json.loads(done.stdout).get("tokens") is None
        assert done.returncode == 1


def test_the_same_shapes_and_other_weights_are_another_model(traces, tmp_path):
    other = load(MODEL)
    generator = torch.Generator().manual_seed(5)
    for parameter in other.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 1 + 0.3 * noise if parameter.dim() == 1 else noise / parameter.shape[-1] ** 0.5
    other.save_pretrained(tmp_path / "other")
    done = run("diagnose", traces / "right", "--model", tmp_path / "other", "--json", tmp_path / "out.json")
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1 and "another model" in done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["verdict"] == "incomparable" and "another model" in result["reason"]
    junit = run("diagnose", traces / "right", "--model", tmp_path / "other", "--junit", "-").stdout
    assert 'errors="1"' in junit and "another model" in junit


def test_a_config_that_disagrees_with_the_weights_is_refused(traces, tmp_path):
    folder = tmp_path / "model"
    load(MODEL).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for key, value in (
        ("num_key_value_heads", 1),
        ("intermediate_size", 7),
        ("vocab_size", 12),
        ("num_hidden_layers", 9),
    ):
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        done = run("diagnose", traces / "right", "--model", folder)
        assert done.returncode == 2, (key, done.stdout)
        assert len(done.stderr.strip().splitlines()) == 1 and "expected" in done.stderr
