"""A small nomic-bert-moe of random weights, as a GGUF and as a folder with the names of the model's own code."""

import json
import tempfile
from pathlib import Path

import numpy as np
import tiny_models
import write_gguf as writer
from safetensors.numpy import save_file

LAYERS, HIDDEN, WIDTH, EXPERTS, USED = 4, 64, 160, 6, 2


def weights():
    """{name in the GGUF: array}, and the experts' shared bias of each mixture, which a GGUF has no place for."""
    random = np.random.default_rng(1)

    def matrix(*shape):
        return (random.standard_normal(shape) * 1.3 / np.sqrt(shape[-1])).astype(np.float32)

    def vector(size, around=0.0):
        return (around + 0.3 * random.standard_normal(size)).astype(np.float32)

    def norm(name):
        return {f"{name}.weight": vector(HIDDEN, 1.0), f"{name}.bias": vector(HIDDEN)}

    tensors = {
        "token_embd.weight": 4 * matrix(tiny_models.VOCABULARY, HIDDEN),
        "token_types.weight": 4 * matrix(1, HIDDEN),
    }
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
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_folder(Path(scratch) / "hf", tensors, {})
        writer.write_gguf(folder, path, type_name, dummy_vocab=True)


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
    config = dict(model_type="nomic_bert", n_layer=LAYERS, n_embd=HIDDEN, n_inner=WIDTH, n_head=4, vocab_size=tiny_models.VOCABULARY, type_vocab_size=1,
                  layer_norm_epsilon=1e-5, prenorm=False, rotary_emb_fraction=1.0, rotary_emb_base=10000.0, rotary_emb_interleaved=False,
                  activation_function="gelu_pytorch_tanh", moe_every_n_layers=2, num_experts=EXPERTS, moe_top_k=USED, num_shared_experts=0)  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder
