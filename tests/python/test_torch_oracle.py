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


def test_experts_that_run_together_are_judged_by_experts_that_run_one_by_one(tmp_path):
    """Grouped kernels know no f64: what only one of the two ways computes is put in place in neither."""
    torch.manual_seed(3)
    config = transformers.GraniteMoeConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)
    random_weights.fill(transformers.GraniteMoeForCausalLM(config)).save_pretrained(tmp_path / "model")
    model = hf.load(tmp_path / "model", "f32")
    model.model.layers[1].block_sparse_moe.experts.act_fn = torch.nn.GELU()
    with torch.no_grad(), paritrace.capture(model, tmp_path / "t"):
        model(input_ids=torch.tensor([TOKENS]))
    result = cli.run(tmp_path / "t", tmp_path / "model")
    assert [(d["site"], d["cause"]["id"], d["cause"]["found"]) for d in result["defects"]] == [
        ("layers.1.moe.out", "mlp.activation", "gelu")
    ]
    assert all(row["floor_nmse"] < 1e-11 for row in result["noise"])


def small(kind):
    """(model in f32, what to feed it) of an architecture that is no decoder of tokens alone."""
    torch.manual_seed(4)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    ids = torch.tensor([TOKENS])
    if kind == "vit":
        config = transformers.ViTConfig(**shape, image_size=16, patch_size=4)
        model, feed = transformers.ViTModel(config), {"pixel_values": torch.randn(1, 3, 16, 16)}
    elif kind == "t5":
        config = transformers.T5Config(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
        model = transformers.T5ForConditionalGeneration(config)
        feed = {"input_ids": ids, "decoder_input_ids": torch.tensor([[0, 9, 41, 17]])}
    elif kind == "whisper":
        sizes = dict(
            d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4
        )
        sizes |= dict(encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20)
        config = transformers.WhisperConfig(
            **sizes,
            vocab_size=300,
            max_target_positions=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=3,
        )
        model = transformers.WhisperForConditionalGeneration(config)
        feed = {"input_features": torch.randn(1, 8, 40), "decoder_input_ids": ids}
    else:
        config = transformers.MambaConfig(vocab_size=300, hidden_size=32, state_size=8, num_hidden_layers=2)
        model, feed = transformers.MambaForCausalLM(config), {"input_ids": ids}
    return random_weights.fill(model, embed=0.5).eval(), feed


# What is doubled in each, and where that shows.
PLACES = {
    "vit": ("layers.1.mlp.fc1", "encoder.layer.1.intermediate.dense", "layer.1"),
    "t5": ("decoder.block.1.layer.1.EncDecAttention.k",),
    "whisper": ("model.encoder.layers.1.fc1",),
    "mamba": ("backbone.layers.1.mixer.in_proj",),
}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("kind", PLACES)
def test_models_that_are_fed_more_than_tokens(kind, dtype, tmp_path):
    made, feed = small(kind)
    made.save_pretrained(tmp_path / "model")
    model = hf.load(tmp_path / "model", dtype)
    feed = {key: value.to(hf.DTYPES[dtype]) if value.is_floating_point() else value for key, value in feed.items()}
    with torch.no_grad(), paritrace.capture(model, tmp_path / "clean"):
        model(**feed)
    result = cli.run(tmp_path / "clean", tmp_path / "model")
    assert result["defects"] == [] and result["explained"]["values"] > 1000
    # Mamba's scan runs over views: which lanes its kernels take together, and so the last bit, depends on where they lie in memory.
    assert result["explained"]["exact"] >= (0.9 if (kind, dtype) == ("mamba", "f32") else 1)
    linears = [(path, m) for path, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".1." in path]
    path, module = next((row for row in linears if row[0] in PLACES[kind]), linears[0])
    with torch.no_grad():
        module.weight.mul_(2)
        with paritrace.capture(model, tmp_path / "wrong"):
            model(**feed)
    result = cli.run(tmp_path / "wrong", tmp_path / "model")
    causes = [(defect["site"], defect["cause"]["id"], defect["cause"].get("found")) for defect in result["defects"]]
    named = {entry.name: entry.site or entry.name for entry in paritrace.open_trace(tmp_path / "wrong").entries}
    assert causes == [(named[path], "linear.weight_scale", 2.0)]
