"""llama.cpp on the same architectures: its runs are within noise of its own files, and of the folders they came from."""

import gguf
import gguf_faults
import pytest
import tiny_gguf
import tiny_models
from paritrace import llamacpp

import models

NAMES = ["bert", "gemma2", "mixtral", "qwen2_moe"]
MATMULS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "moe.router_logits")


@pytest.fixture(scope="module", params=NAMES)
def model(request, tmp_path_factory):
    """(name, the folder, a function: type name -> the GGUF)."""
    root = tmp_path_factory.mktemp(request.param)
    # llama.cpp divides Gemma's scores by the root of the head's width.
    built = tiny_models.build(request.param, **({"query_pre_attn_scalar": 16} if request.param == "gemma2" else {}))
    built.save_pretrained(root / "hf")

    def gguf(type_name):
        path = root / f"{type_name}.gguf"
        if not path.exists():
            tiny_gguf.write(built, path, type_name)
        return path

    return request.param, root / "hf", gguf


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("type_name", ["f32", "f16", "q8_0"])
def test_a_right_file_is_within_noise(model, type_name, flash, tmp_path):
    name, _, gguf = model
    llamacpp.run(
        gguf(type_name),
        tmp_path / "t",
        tokens=tiny_models.prompt(20),
        flash_attention=flash,
        decode=0 if name == "bert" else 3,
    )
    result = tiny_models.diagnose(tmp_path / "t", gguf(type_name))
    assert result["defects"] == [] and result["arithmetic"] == "ggml-cpu"
    assert result["remarks"] == []
    assert all(flip["benign"] for flip in result["routing"])
    sites = {row["site"] for row in result["noise"]}
    if name in ("mixtral", "qwen2_moe"):
        assert {f"layers.1.moe.{site}" for site in ("router_logits", "probs", "experts", "weights", "out")} <= sites
    for row in result["noise"]:
        site = row["site"].split(".", 2)[-1]
        if site in MATMULS or site == "logits":
            assert row["left_nmse"] <= 1e-12, row  # 1e-6 of the output
        if site == "mlp.act":  # GELU from a table of f16 numbers: 3e-4 of the output, and predicted
            assert row["left_nmse"] <= 1e-10, row


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("type_name", ["q4_0", *tiny_gguf.K_QUANTS])
@pytest.mark.parametrize("name", ["llama-wide", "qwen2-wide"])
def test_k_quants_leave_a_millionth_at_every_matmul(name, type_name, flash, tmp_path):
    """Rows of 256 and 512: whole super-blocks, quantised by llama.cpp itself."""
    file = tmp_path / "m.gguf"
    gguf_faults.write(models.folder_of(name, tmp_path), file, type_name)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(file).tensors if len(t.shape) > 1}
    assert set(kinds.values()) == {type_name.upper()} and len(kinds) == 2 + 2 * 7
    llamacpp.run(file, tmp_path / "t", tokens=tiny_models.prompt(20), flash_attention=flash, decode=2)
    result = tiny_models.diagnose(tmp_path / "t", file)
    assert result["defects"] == []
    rows = [row for row in result["noise"] if row["site"].split(".", 2)[-1] in (*MATMULS, "mlp.out", "logits")]
    assert len(rows) == 3 * (2 * 7 + 1)
    assert [row for row in rows if not row["left_nmse"] <= 1e-12] == []


@pytest.mark.parametrize("flash", ["on", "off"])
def test_the_right_file_against_the_folder_it_came_from(model, flash, tmp_path):
    name, folder, gguf = model
    llamacpp.run(gguf("f32"), tmp_path / "t", tokens=tiny_models.prompt(20), flash_attention=flash)
    result = tiny_models.diagnose(tmp_path / "t", folder)
    if name == "bert":  # llama.cpp has but one GELU for encoders, which is not the one that BERT's config names
        assert tiny_models.named(result) == {(f"layers.{layer}.mlp.act", "mlp.activation") for layer in range(2)}
        assert {defect["cause"]["found"] for defect in result["defects"]} == {"gelu_tanh"}
    else:
        assert result["defects"] == []


def test_a_table_of_another_curve_is_named(tmp_path):
    """Below the f16 table's own error of 3e-4: erf-GELU on one side, llama.cpp's table of tanh-GELU on the other."""
    built = tiny_models.build("bert-tanh")
    built.save_pretrained(tmp_path / "hf")
    tiny_gguf.write(built, tmp_path / "m.gguf", "f32")
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=tiny_models.prompt(20))
    assert tiny_models.diagnose(tmp_path / "t", tmp_path / "hf")["defects"] == []


def test_a_scale_that_a_gguf_cannot_state_is_named(tmp_path):
    """Gemma 2's query_pre_attn_scalar has no key in a GGUF."""
    built = tiny_models.build("gemma2", query_pre_attn_scalar=24)
    built.save_pretrained(tmp_path / "hf")
    tiny_gguf.write(built, tmp_path / "m.gguf", "f32")
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=tiny_models.prompt(20), flash_attention="off")
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "hf")
    assert tiny_models.named(result) == {(f"layers.{layer}.attn.probs", "attn.scale") for layer in range(2)}
    assert {defect["cause"]["found"] for defect in result["defects"]} == {0.25}


def test_q_and_k_rows_of_a_mixture_left_unpermuted_are_named(tmp_path, monkeypatch):
    built = tiny_models.build("mixtral")
    built.save_pretrained(tmp_path / "hf")
    monkeypatch.setattr(tiny_gguf, "permute_rows", lambda array, heads: array)
    tiny_gguf.write(built, tmp_path / "wrong.gguf", "f32")
    llamacpp.run(tmp_path / "wrong.gguf", tmp_path / "t", tokens=tiny_models.prompt(20))
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "hf")
    assert tiny_models.named(result) == {
        (f"layers.{layer}.attn.{part}_rope", "rope.interleaved") for layer in range(2) for part in "qk"
    }


def test_experts_stacked_in_another_order_are_named(tmp_path, monkeypatch):
    """A mistake of the converter: the experts of one layer rotated by one."""
    import numpy as np

    built = tiny_models.build("qwen2_moe")
    built.save_pretrained(tmp_path / "hf")
    tensors_of = tiny_gguf.tensors_of

    def rotated(model, kind):
        tensors = tensors_of(model, kind)
        for part in ("gate", "up", "down"):
            tensors[f"blk.1.ffn_{part}_exps.weight"] = np.roll(tensors[f"blk.1.ffn_{part}_exps.weight"], 1, axis=0)
        return tensors

    monkeypatch.setattr(tiny_gguf, "tensors_of", rotated)
    tiny_gguf.write(built, tmp_path / "wrong.gguf", "f32")
    llamacpp.run(tmp_path / "wrong.gguf", tmp_path / "t", tokens=tiny_models.prompt(20))
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "hf")
    assert tiny_models.named(result) == {("layers.1.moe.out", "moe.expert_order")}
