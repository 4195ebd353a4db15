"""The committed models as GGUF: llama.cpp takes the files, and what it computes with them is within noise of both forms.

I2_S is bitnet.cpp's own type, which llama.cpp refuses: there our reading is held against the folder it came from.
"""

import json

import pytest
import tiny_models
from conftest import ROOT
from paritrace import llamacpp
from tokenizers import Tokenizer

TEXT = "The return value is a list of the names that the module defines."
DECODERS = [
    (family, type_name) for family in ("llama", "qwen2") for type_name in ("f32", "f16", "bf16", "q8_0", "q4_0")
]
BITNET = [("bitnet", type_name) for type_name in ("f16", "tq1_0", "tq2_0")]
MIXTURES = [("nomic-moe", type_name) for type_name in ("f32", "f16", "q8_0")]

PROJECTIONS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.out")


def folder_of(family):
    return ROOT / "models" / f"paritrace-{family}"


def prompt(family):
    return Tokenizer.from_file(str(folder_of(family) / "tokenizer.json")).encode(TEXT).ids


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("family, type_name", DECODERS + BITNET + MIXTURES)
def test_llamacpp_runs_the_file_within_noise(family, type_name, flash, tmp_path, write_gguf):
    file = tmp_path / "m.gguf"
    write_gguf(folder_of(family), file, type_name)
    tokens = prompt(family)
    llamacpp.run(file, tmp_path / "t", tokens=tokens, flash_attention=flash, decode=0 if family == "nomic-moe" else 2)
    result = tiny_models.diagnose(tmp_path / "t", file)
    assert result["defects"] == [] and result["remarks"] == [] and result["arithmetic"] == "ggml-cpu"
    assert all(flip["benign"] for flip in result["routing"])
    assert {"embed", "layers.0.attn.out", "layers.3.out"} <= {row["site"] for row in result["noise"]}


@pytest.mark.parametrize("family, expected", [
    ("llama", set()),
    ("qwen2", set()),
    # llama.cpp computes SiLU in its `bitnet`, where the published models have squared ReLU, and leaves activations as they are.
    ("bitnet", {(f"layers.{layer}.mlp.act", "mlp.activation") for layer in range(4)}
     | {(f"layers.{layer}.{site}", "bitnet.activation_quant") for layer in range(4) for site in PROJECTIONS}),
    # It computes GELU by tanh, and a GGUF has no place for the experts' shared bias: two departures in one op, in every mixture.
    ("nomic-moe", {(f"layers.{layer}.mlp.act", "mlp.activation") for layer in (0, 2)}
     | {(f"layers.{layer}.moe.out", cause) for layer in (1, 3) for cause in ("mlp.activation", "moe.bias")}),
])  # fmt: skip
def test_llamacpp_against_the_folder_the_file_came_from(family, expected, tmp_path, write_gguf):
    """What llama.cpp really does otherwise is named, and nothing else."""
    write_gguf(folder_of(family), tmp_path / "m.gguf", "f32")
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=prompt(family), flash_attention="off")
    assert tiny_models.named(tiny_models.diagnose(tmp_path / "t", folder_of(family))) == expected


@pytest.mark.parametrize("family", ["llama", "qwen2", "bitnet", "nomic-moe"])
def test_both_forms_have_one_tokenizer(family, tmp_path, write_gguf):
    file = tmp_path / "m.gguf"
    write_gguf(folder_of(family), file, "f16")
    done = tiny_models.paritrace(
        "tokens", folder_of(family), file, "--text", TEXT, "--text", "a  b\té 東京 🙂", "--json", "-"
    )
    assert json.loads(done.stdout)["verdict"] == "identical", done.stderr


@pytest.mark.parametrize("family, type_name", [("llama", "q8_0"), ("qwen2", "q8_0"), ("bitnet", "tq2_0")])
def test_the_weights_are_the_folders(family, type_name, tmp_path, write_gguf):
    write_gguf(folder_of(family), tmp_path / "m.gguf", type_name)
    done = tiny_models.paritrace("weights", folder_of(family), tmp_path / "m.gguf", "--json", "-")
    assert json.loads(done.stdout)["verdict"] in ("identical", "within_noise"), done.stdout[:2000]


def test_i2_s_holds_what_the_folder_holds(tmp_path, write_gguf):
    """llama.cpp refuses the file; our executor gives the folder's logits from it, to f32's rounding."""
    write_gguf(folder_of("bitnet"), tmp_path / "m.gguf", "i2_s")
    ids = ",".join(map(str, prompt("bitnet")))
    for model, trace in ((folder_of("bitnet"), "hf"), (tmp_path / "m.gguf", "i2_s")):
        done = tiny_models.paritrace(
            "run", model, "--tokens", ids, "-o", tmp_path / trace, "--arithmetic", "bitnet-int8"
        )
        assert done.returncode == 0, done.stderr
    assert tiny_models.paritrace("diff", tmp_path / "hf", tmp_path / "i2_s").returncode == 0
    with pytest.raises(Exception, match="load"):
        llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=prompt("bitnet"))


@pytest.mark.parametrize("family, type_name, message", [
    ("llama", "tq2_0", "holds three values, which only a BitNet's weights are"),
    ("nomic-moe", "i2_s", "holds three values, which only a BitNet's weights are"),
    ("qwen2", "q9", "is not one of"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(family, type_name, message, tmp_path, write_gguf):
    with pytest.raises(ValueError, match=message):
        write_gguf(folder_of(family), tmp_path / "m.gguf", type_name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change, message", [
    (dict(architectures=["GPT2LMHeadModel"]), "unsupported architecture"),
    (dict(hidden_act="gelu"), "hidden_act 'gelu' is not supported"),
    (dict(use_sliding_window=True), "use_sliding_window is not supported"),
    (dict(num_key_value_heads=3), "cannot share"),
    (dict(rms_norm_eps="small"), "rms_norm_eps: expected a number"),
])  # fmt: skip
def test_a_config_that_is_not_understood_is_refused(change, message, tmp_path, write_gguf):
    config = json.loads((folder_of("qwen2") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path, tmp_path / "m.gguf")
