"""`paritrace diagnose --oracle torch`: Hugging Face's own code as the oracle, with and without an architecture file of ours."""

import json
import subprocess
import sys

import paritrace
import pytest
import random_weights
import torch
import transformers
from paritrace import hf
from paritrace.torch_oracle import cli

TOKENS = [5, 61, 7, 118, 9, 61, 240, 33, 2, 77]
SIZES = dict(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
    max_position_embeddings=512,
)


def diagnose(trace, model, *options, code=None):
    done = subprocess.run(
        [sys.executable, "-m", "paritrace", "diagnose", trace, "--model", model, *options, "--json", "-"],
        capture_output=True,
        text=True,
    )
    assert done.returncode in ((0, 1) if code is None else (code,)), done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stablelm(tmp_path_factory):
    """A folder of an architecture that no file of ours knows."""
    folder = tmp_path_factory.mktemp("stablelm")
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(transformers.StableLmConfig(**SIZES))
    random_weights.fill(model).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_clean_run_is_explained_to_the_bit(dtype, model_folder, tokens, tmp_path):
    hf.run(model_folder, tmp_path / "t", tokens=tokens, dtype=dtype, decode=2)
    result = diagnose(tmp_path / "t", model_folder, "--oracle", "torch", code=0)
    assert result["verdict"] == "within_noise" and result["defects"] == []
    assert result["explained"]["exact"] == 1.0
    assert all(row["ratio"] is not None and row["ratio"] < 2 for row in result["noise"])


def test_the_f64_pass_holds_no_f32(model_folder, tokens, tmp_path):
    """A run in f64 with HF's inner casts differs from the oracle by what those casts round."""
    hf.run(model_folder, tmp_path / "t", tokens=tokens, dtype="f64")
    result = diagnose(tmp_path / "t", model_folder, "--oracle", "torch")
    errors = {row["site"]: row["introduced_nmse"] for row in result["noise"]}
    assert 1e-16 < errors["layers.0.attn.norm"] < 1e-12
    assert errors["layers.0.mlp.out"] < 1e-28


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_it_is_chosen_where_no_file_of_ours_knows_the_architecture(dtype, stablelm, tmp_path):
    hf.run(stablelm, tmp_path / "t", tokens=TOKENS, dtype=dtype)
    result = diagnose(tmp_path / "t", stablelm, code=0)
    assert result["verdict"] == "within_noise"
    assert 'no architecture file of ours knows "stablelm"' in result["remarks"][0]


def test_each_site_shows_the_error_that_it_adds_itself(stablelm, tmp_path):
    model = hf.load(stablelm, "f32")
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight.mul_(1.01)
        model.model.layers[1].mlp.down_proj.weight.mul_(0.98)
        with paritrace.capture(model, tmp_path / "t"):
            model(input_ids=torch.tensor([TOKENS]))
    result = diagnose(tmp_path / "t", stablelm, code=1)
    assert [defect["site"] for defect in result["defects"]] == ["layers.0.attn.v", "layers.1.mlp.out"]
    assert result["defects"][1]["inputs"] == ["layers.1.mlp.act"]


def test_a_scalar_below_the_noise_is_named(stablelm, tmp_path):
    """An eps in bf16 that no tolerance sees: the values that miss the prediction lie where that eps puts them."""
    model = hf.load(stablelm, "bf16")
    model.model.layers[1].input_layernorm.eps = 0.02
    with torch.no_grad(), paritrace.capture(model, tmp_path / "t"):
        model(input_ids=torch.tensor([list(range(2, 26))]))
    result = cli.run(tmp_path / "t", stablelm)
    assert [(d["site"], d["cause"]["id"], d["cause"]["found"]) for d in result["defects"]] == [
        ("layers.1.attn.norm", "norm.eps", 0.02)
    ]
    assert result["defects"][0]["ratio"] < 2


def test_a_folder_that_nobody_knows_is_refused_in_one_line(stablelm, tmp_path):
    hf.run(stablelm, tmp_path / "t", tokens=TOKENS, dtype="f32")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in stablelm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "nobody9", "architectures": ["Nobody9"]}
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "paritrace", "diagnose", tmp_path / "t", "--model", folder],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert 'architecture "nobody9" is not supported' in done.stderr
