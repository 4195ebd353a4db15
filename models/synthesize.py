#!/usr/bin/env python3
"""Writes models of full published shapes with random weights: for speed and memory, not for text.

    python models/synthesize.py tinyllama-1.1b tinyllama-q8_0.gguf --type q8_0
    python models/synthesize.py tinyllama-1.1b folder/            # a Hugging Face folder in bf16

Weights are normal with 1/sqrt(inputs) as their deviation, norm weights lie around one: hidden states keep the size that trained
models have. One block of random numbers is used again at other offsets, so that writing takes seconds, not minutes.
"""

import argparse
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

SHAPES = {
    "tinyllama-1.1b": dict(
        layers=22,
        hidden=2048,
        intermediate=5632,
        heads=32,
        kv_heads=4,
        vocab=32000,
        context=2048,
        theta=10000.0,
        eps=1e-5,
    ),
    "llama-tiny": dict(
        layers=2, hidden=64, intermediate=160, heads=4, kv_heads=2, vocab=300, context=512, theta=10000.0, eps=1e-5
    ),
}
TYPES = {"f32": GGMLQuantizationType.F32, "f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
SEED = 11


class Weights:
    """Random matrices by shape, the same for the same order of calls."""

    def __init__(self):
        self.block = np.random.default_rng(SEED).standard_normal(2**24 + 1, dtype=np.float32)
        self.used = 0

    def take(self, count):
        start = (self.used * 7919) % 2**20
        self.used += 1
        return np.resize(self.block[start:], count)

    def matrix(self, rows, columns):
        return (self.take(rows * columns) / np.float32(columns**0.5)).reshape(rows, columns)

    def embedding(self, rows, columns):
        return (self.take(rows * columns) * np.float32(0.7)).reshape(rows, columns)

    def norm(self, width):
        return 1 + np.float32(0.3) * self.take(width)


def tensors(shape):
    """(Hugging Face's name, GGUF's name, values) of every tensor, in order."""
    weights = Weights()
    hidden, inner = shape["hidden"], shape["intermediate"]
    head = hidden // shape["heads"]
    kv = head * shape["kv_heads"]
    yield "model.embed_tokens.weight", "token_embd.weight", weights.embedding(shape["vocab"], hidden)
    for i in range(shape["layers"]):
        theirs, ours = f"model.layers.{i}", f"blk.{i}"
        yield f"{theirs}.input_layernorm.weight", f"{ours}.attn_norm.weight", weights.norm(hidden)
        yield f"{theirs}.self_attn.q_proj.weight", f"{ours}.attn_q.weight", weights.matrix(hidden, hidden)
        yield f"{theirs}.self_attn.k_proj.weight", f"{ours}.attn_k.weight", weights.matrix(kv, hidden)
        yield f"{theirs}.self_attn.v_proj.weight", f"{ours}.attn_v.weight", weights.matrix(kv, hidden)
        yield f"{theirs}.self_attn.o_proj.weight", f"{ours}.attn_output.weight", weights.matrix(hidden, hidden)
        yield f"{theirs}.post_attention_layernorm.weight", f"{ours}.ffn_norm.weight", weights.norm(hidden)
        yield f"{theirs}.mlp.gate_proj.weight", f"{ours}.ffn_gate.weight", weights.matrix(inner, hidden)
        yield f"{theirs}.mlp.up_proj.weight", f"{ours}.ffn_up.weight", weights.matrix(inner, hidden)
        yield f"{theirs}.mlp.down_proj.weight", f"{ours}.ffn_down.weight", weights.matrix(hidden, inner)
    yield "model.norm.weight", "output_norm.weight", weights.norm(hidden)
    yield "lm_head.weight", "output.weight", weights.matrix(shape["vocab"], hidden)


def write_gguf(shape, path, kind):
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_name(path.stem)
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["intermediate"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    writer.add_rope_freq_base(shape["theta"])
    writer.add_layer_norm_rms_eps(shape["eps"])
    writer.add_vocab_size(shape["vocab"])
    # A vocabulary of bytes and numbered pieces: llama.cpp does not load a model without one.
    words = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    words = (words + [f"piece{i}".encode() for i in range(shape["vocab"])])[: shape["vocab"]]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    kinds = (kinds + [gguf.TokenType.NORMAL] * shape["vocab"])[: shape["vocab"]]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for _, name, values in tensors(shape):
        if values.ndim == 1 or kind == "f32":
            writer.add_tensor(name, np.ascontiguousarray(values, np.float32))
        elif kind == "f16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            packed = gguf.quants.quantize(values, TYPES[kind])
            writer.add_tensor(name, packed, raw_dtype=TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_folder(shape, folder):
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = {name: torch.from_numpy(np.ascontiguousarray(array)).bfloat16() for name, _, array in tensors(shape)}
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    config = dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        vocab_size=shape["vocab"],
        max_position_embeddings=shape["context"],
        rope_theta=shape["theta"],
        rms_norm_eps=shape["eps"],
        hidden_act="silu",
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        dtype="bfloat16",
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("output", type=Path, help="FILE.gguf, or a folder for Hugging Face")
    parser.add_argument("--type", choices=TYPES, default="q8_0", help="of the matrices in a GGUF file (default q8_0)")
    arguments = parser.parse_args()
    if arguments.output.exists():
        sys.exit(f"{arguments.output}: exists already")
    if arguments.output.suffix == ".gguf":
        write_gguf(SHAPES[arguments.shape], arguments.output, arguments.type)
    else:
        write_folder(SHAPES[arguments.shape], arguments.output)


if __name__ == "__main__":
    main()
