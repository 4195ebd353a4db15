"""nomic-bert-moe: llama.cpp on files of random weights, and against the same weights in a folder with the names of the model's own code."""

import json
import types

import gguf
import numpy as np
import pytest
import tiny_gguf
import tiny_models
from paritrace import llamacpp
from safetensors.numpy import save_file

LAYERS, HIDDEN, WIDTH, EXPERTS, USED = 4, 64, 160, 6, 2
CONFIG = types.SimpleNamespace(max_position_embeddings=128, hidden_size=HIDDEN, num_hidden_layers=LAYERS, intermediate_size=WIDTH,
                               num_attention_heads=4, vocab_size=tiny_models.VOCABULARY, layer_norm_eps=1e-5, type_vocab_size=1)  # fmt: skip
TOKENS = tiny_models.prompt(20)


def weights():
    """{name in the GGUF: array}, and the experts' shared bias of each mixture, which a GGUF has no place for."""
    random = np.random.default_rng(1)

    def matrix(*shape):
        return (random.standard_normal(shape) * 1.3 / np.sqrt(shape[-1])).astype(np.float32)

    def vector(size, around=0.0):
        return (around + 0.3 * random.standard_normal(size)).astype(np.float32)

    def norm(name):
        return {f"{name}.weight": vector(HIDDEN, 1.0), f"{name}.bias": vector(HIDDEN)}

    tensors = {"token_embd.weight": 4 * matrix(CONFIG.vocab_size, HIDDEN), "token_types.weight": 4 * matrix(1, HIDDEN)}
    tensors |= norm("token_embd_norm")
    biases = {}
    for layer in range(LAYERS):
        at = f"blk.{layer}"
        tensors |= {f"{at}.attn_qkv.weight": matrix(3 * HIDDEN, HIDDEN), f"{at}.attn_qkv.bias": vector(3 * HIDDEN)}
        tensors |= {f"{at}.attn_output.weight": matrix(HIDDEN, HIDDEN), f"{at}.attn_output.bias": vector(HIDDEN)}
        tensors |= norm(f"{at}.attn_output_norm") | norm(f"{at}.layer_output_norm")
        if layer % 2:
            tensors |= {f"{at}.ffn_gate_inp.weight": matrix(EXPERTS, HIDDEN)}
            tensors |= {
                f"{at}.ffn_up_exps.weight": matrix(EXPERTS, WIDTH, HIDDEN),
                f"{at}.ffn_down_exps.weight": matrix(EXPERTS, HIDDEN, WIDTH),
            }
            biases[layer] = vector(HIDDEN)
        else:
            tensors |= {f"{at}.ffn_up.weight": matrix(WIDTH, HIDDEN), f"{at}.ffn_up.bias": vector(WIDTH)}
            tensors |= {f"{at}.ffn_down.weight": matrix(HIDDEN, WIDTH), f"{at}.ffn_down.bias": vector(HIDDEN)}
    return tensors, biases


def write_gguf(path, tensors, type_name):
    writer = tiny_gguf.start(path, "nomic-bert-moe", CONFIG, type_name)
    tiny_gguf.add_encoder(writer, CONFIG, gguf.PoolingType.NONE)
    writer.add_rope_freq_base(10000.0)
    writer.add_moe_every_n_layers(2)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    tiny_gguf.write_tensors(writer, tensors, type_name)


def write_folder(folder, tensors, biases, **changes):
    """The same model as its own code stores it. The config's activation is the one that llama.cpp has."""
    names = {"token_embd": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings", "token_embd_norm": "emb_ln",
             "attn_qkv": "attn.Wqkv", "attn_output": "attn.out_proj", "attn_output_norm": "norm1", "layer_output_norm": "norm2",
             "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2", "ffn_gate_inp": "mlp.router.layer"}  # fmt: skip
    stored = {}
    for name, array in tensors.items():
        *block, role, kind = name.split(".")
        prefix = f"encoder.layers.{block[1]}." if block else ""
        if role == "ffn_up_exps":
            stored[f"{prefix}mlp.experts.mlp.w1"] = array.reshape(-1, HIDDEN)
        elif role == "ffn_down_exps":  # each expert's way out is stored as its way in: [width, hidden]
            stored[f"{prefix}mlp.experts.mlp.w2"] = np.ascontiguousarray(array.transpose(0, 2, 1)).reshape(-1, HIDDEN)
        else:
            stored[f"{prefix}{names[role]}.{kind}"] = array
    for layer, bias in biases.items():
        stored[f"encoder.layers.{layer}.mlp.experts.bias"] = bias
    folder.mkdir()
    save_file(stored, folder / "model.safetensors")
    config = dict(model_type="nomic_bert", n_layer=LAYERS, n_embd=HIDDEN, n_inner=WIDTH, n_head=4, vocab_size=CONFIG.vocab_size, type_vocab_size=1,
                  layer_norm_epsilon=1e-5, prenorm=False, rotary_emb_fraction=1.0, rotary_emb_base=10000.0, rotary_emb_interleaved=False,
                  activation_function="gelu_pytorch_tanh", moe_every_n_layers=2, num_experts=EXPERTS, moe_top_k=USED, num_shared_experts=0)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


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
