#!/usr/bin/env python3
"""Writes models of full published shapes with random weights: for speed and memory, not for text.

    python models/synthesize.py tinyllama-1.1b tinyllama-q8_0.gguf --type q8_0
    python models/synthesize.py tinyllama-1.1b folder/            # a Hugging Face folder in bf16
    python models/synthesize.py qwen2.5-7b folder/ --layers 4

A GGUF is written of Llama's shapes; of the others, from their folder: models/write_gguf.py --dummy-vocab.

Weights are normal with 1/sqrt(inputs) as their deviation, norm weights lie around one: hidden states keep the size that trained
models have. One block of random numbers is used again at other offsets, so that writing takes seconds, not minutes. A tensor is in
memory at a time, not the model.
"""

import argparse
import json
import struct
import sys
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType

sys.path.insert(0, str(Path(__file__).resolve().parent))

import shapes
from gguf_twin import decoders
from gguf_twin.folder import Settings
from shapes import SHAPES

TYPES = {"f32": GGMLQuantizationType.F32, "f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
SEED = 11
MAX_HEADER = 100_000_000  # of the safetensors format


class Weights:
    """Random tensors by role and shape, the same for the same order of calls."""

    def __init__(self):
        self.block = np.random.default_rng(SEED).standard_normal(2**24 + 1, dtype=np.float32)
        self.used = 0

    def take(self, shape):
        start = (self.used * 7919) % 2**20
        self.used += 1
        return np.resize(self.block[start:], shape)

    def tensor(self, role, shape):
        """float32 [shape]; uint8 where the role is packed: four ternary codes a byte."""
        if role == "packed":
            quarters = [np.clip(np.rint(self.take(shape)), -1, 1).astype(np.int8) + 1 for _ in range(4)]
            return sum(quarter.astype(np.uint8) << (2 * place) for place, quarter in enumerate(quarters)).astype(
                np.uint8
            )
        if role == "scale":
            return np.full(shape, 0.02, np.float32)
        values = self.take(shape)
        factor = {"embedding": 0.7, "norm": 0.3, "bias": 0.3, "matrix": shape[-1] ** -0.5}[role]
        values = values * np.float32(factor)
        return values + 1 if role == "norm" else values


def write_gguf(shape, path, kind):
    """A Llama as GGUF. Its rows of q and k are random in either order."""
    if shape["family"] != "llama":
        sys.exit(f"{path}: {shape['family']} is written as a folder; models/write_gguf.py makes a GGUF of it")
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    writer.add_name(path.stem)
    config = decoders.read_config("llama", Settings.of(shapes.config(shape)))
    decoders.add_metadata(writer, config)
    add_vocabulary(writer, shape["vocab"])
    weights, names = Weights(), {plan.source: plan.name for plan in decoders.plan_tensors(config, ())}
    for source, role, dimensions in shapes.tensors(shape):
        name, values = names[source], weights.tensor(role, dimensions)
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


def add_vocabulary(writer, size):
    """A vocabulary of bytes and numbered pieces: llama.cpp does not load a model without one."""
    words = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    words = (words + [f"piece{i}".encode() for i in range(size)])[:size]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    kinds = (kinds + [gguf.TokenType.NORMAL] * size)[:size]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write_folder(shape, folder):
    """A Hugging Face folder in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, role, dimensions in shapes.tensors(shape):
        kind, width = ("U8", 1) if role == "packed" else ("BF16", 2)
        size = int(np.prod(dimensions)) * width
        header[name] = dict(dtype=kind, shape=dimensions, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    assert len(text) < MAX_HEADER
    weights = Weights()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, role, dimensions in shapes.tensors(shape):
            values = weights.tensor(role, dimensions)
            file.write((values if role == "packed" else values.astype(ml_dtypes.bfloat16)).tobytes())
    (folder / "config.json").write_text(json.dumps(shapes.config(shape), indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("output", type=Path, help="FILE.gguf, or a folder for Hugging Face")
    parser.add_argument("--type", choices=TYPES, default="q8_0", help="of the matrices in a GGUF file (default q8_0)")
    parser.add_argument("--layers", type=int, metavar="N", help="fewer layers than the published model has")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    if arguments.layers is not None:
        if not 1 <= arguments.layers <= shape["layers"]:
            parser.error(f"--layers: expected 1 to {shape['layers']}, found {arguments.layers}")
        shape = dict(shape, layers=arguments.layers)
    if arguments.output.exists():
        sys.exit(f"{arguments.output}: exists already")
    if arguments.output.suffix == ".gguf":
        write_gguf(shape, arguments.output, arguments.type)
    else:
        write_folder(shape, arguments.output)


if __name__ == "__main__":
    main()
