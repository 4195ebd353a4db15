"""nomic-bert-moe: llama.cpp on files of random weights, and against the same weights in a folder with the names of the model's own code."""

import gguf
import pytest
import tiny_models
from paritrace import llamacpp
from tiny_nomic import weights, write_folder, write_gguf

TOKENS = tiny_models.prompt(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(tensors, biases, a function: type name -> the GGUF)."""
    root = tmp_path_factory.mktemp("nomic")
    tensors, biases = weights()

    def file(type_name):
        if not (root / f"{type_name}.gguf").exists():
            write_gguf(root / f"{type_name}.gguf", tensors, type_name)
        return root / f"{type_name}.gguf"

    return tensors, biases, file


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("type_name", ["f32", "f16", "q8_0"])
def test_a_right_file_is_within_noise(model, type_name, flash, tmp_path):
    file = model[2](type_name)
    llamacpp.run(file, tmp_path / "t", tokens=TOKENS, flash_attention=flash)
    result = tiny_models.diagnose(tmp_path / "t", file)
    assert result["defects"] == [] and result["remarks"] == []
    sites = {row["site"]: row for row in result["noise"]}
    assert {
        "embed.norm",
        "layers.1.moe.router_logits",
        "layers.1.moe.experts",
        "layers.3.moe.out",
        "layers.3.out",
    } <= set(sites)
    for site, row in sites.items():
        if site.endswith(("attn.out", "mlp.up", "mlp.out", "router_logits")):
            assert row["left_nmse"] <= 1e-12, row


def test_the_same_weights_in_a_folder_are_within_noise(model, tmp_path):
    tensors, _, file = model
    folder = write_folder(tmp_path / "hf", tensors, {})
    llamacpp.run(file("f32"), tmp_path / "t", tokens=TOKENS, flash_attention="off")
    assert tiny_models.diagnose(tmp_path / "t", folder)["defects"] == []


def test_the_experts_bias_that_a_gguf_lacks_is_named(model, tmp_path):
    tensors, biases, file = model
    folder = write_folder(tmp_path / "hf", tensors, biases)
    llamacpp.run(file("f32"), tmp_path / "t", tokens=TOKENS, flash_attention="off")
    result = tiny_models.diagnose(tmp_path / "t", folder)
    assert tiny_models.named(result) == {(f"layers.{layer}.moe.out", "moe.bias") for layer in (1, 3)}
    assert {defect["cause"]["found"] for defect in result["defects"]} == {0.0}


def test_another_theta_is_named(model, tmp_path, monkeypatch):
    tensors, _, _ = model
    folder = write_folder(tmp_path / "hf", tensors, {}, rotary_emb_base=1000.0)
    llamacpp.run(model[2]("f32"), tmp_path / "t", tokens=TOKENS, flash_attention="off")
    result = tiny_models.diagnose(tmp_path / "t", folder)
    assert {defect["cause"]["id"] for defect in result["defects"]} == {"rope.theta"}
    assert all(defect["cause"]["found"] == pytest.approx(10000, rel=0.02) for defect in result["defects"])


@pytest.mark.parametrize("change, message", [
    ({"prenorm": True}, "prenorm is not supported"),
    ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction 0.5 is not supported"),
    ({"num_shared_experts": 1}, "num_shared_experts 1 is not supported"),
    ({"moe_every_n_layers": 0}, "without a mixture of experts is not supported"),
    ({"activation_function": "swiglu"}, 'activation "swiglu" is not supported'),
    ({"moe_top_k": 9}, "moe_top_k"),
])  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(model, change, message, tmp_path):
    folder = write_folder(tmp_path / "hf", *model[:2], **change)
    done = tiny_models.paritrace("run", folder, "--tokens", "1,2", "-o", tmp_path / "t")
    assert done.returncode == 2 and message in done.stderr


def test_gguf_py_knows_the_architecture():
    """The names above are llama.cpp's: a new version that renames them shows here."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == "nomic-bert-moe")
    known = {gguf.TENSOR_NAMES[tensor].format(bid=0) for tensor in gguf.MODEL_TENSORS[arch]}
    written = {
        name.rsplit(".", 1)[0].replace("blk.1.", "blk.0.")
        for name in weights()[0]
        if ".2." not in name and ".3." not in name
    }
    assert written <= known
