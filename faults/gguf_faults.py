"""Mistakes in GGUF files, run by llama.cpp: a right file is written, and then edited in place with gguf-py."""

import sys
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "models"), str(ROOT / "tests" / "python")]

import tiny_gguf  # noqa: E402
import write_gguf  # noqa: E402


def write(folder, path, type_name):
    """Writes the Hugging Face model in `folder` as GGUF. type_name: of the matrices, a key of tiny_gguf.TYPES or K_QUANTS."""
    from paritrace import hf

    if type_name in tiny_gguf.K_QUANTS:
        plain = path.with_suffix(".f32")
        write(folder, plain, "f32")
        tiny_gguf.quantize(plain, path, type_name)
        plain.unlink()
        return
    model = hf.load(folder, "f32")
    if model.config.model_type == "llama":
        write_gguf.write_gguf(folder, path, type_name)
    else:
        tiny_gguf.write(model, path, type_name)


class File:
    """A GGUF file that is edited where it lies."""

    def __init__(self, path, layers):
        self.reader = gguf.GGUFReader(path, "r+")
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.layers = layers
        self.architecture = str(self.reader.fields["general.architecture"].contents())

    def data(self, name):
        """The tensor's values, or the bytes of its blocks."""
        return self.tensors[name].data

    def has(self, part):
        return f"blk.{self.layers[0]}.{part}" in self.tensors

    def each(self, part):
        return [self.data(f"blk.{i}.{part}") for i in self.layers]

    def set_number(self, key, value):
        field = self.reader.fields[f"{self.architecture}.{key}"]
        field.parts[field.data[0]][0] = value

    def close(self):
        self.reader.data.flush()


def rope_theta(file, base):
    file.set_number("rope.freq_base", base)


def norm_eps(file, eps):
    key = "attention.layer_norm_epsilon" if "bert" in file.architecture else "attention.layer_norm_rms_epsilon"
    file.set_number(key, eps)


def experts_used(file, count):
    file.set_number("expert_used_count", count)


def softcap(file, key, cap):
    file.set_number(key, cap)


def experts_exchanged(file, first, second):
    """Two experts' weights, the router left as it is."""
    for part in ("gate", "up", "down"):
        for data in file.each(f"ffn_{part}_exps.weight") if file.has(f"ffn_{part}_exps.weight") else []:
            kept = data[first].copy()
            data[first] = data[second]
            data[second] = kept


def rows_rolled(file, tensor, by):
    """Rows of a table, all shifted: token ids or positions that are off."""
    data = file.data(tensor)
    data[:] = np.roll(data, -by, 0)


def rows_unpermuted(file, tensor, heads):
    """Rows in half-split order where llama.cpp rotates neighbours: a converter that left out the permutation."""
    for data in file.each(tensor):
        split = data.reshape(heads, data.shape[0] // heads // 2, 2, *data.shape[1:])
        data[:] = split.swapaxes(1, 2).reshape(data.shape)


def block_scales(file, tensor, factor, blocks):
    """The f16 scale of every `blocks`-th block of a q8_0 tensor is off by a factor."""
    for data in file.each(tensor):
        scales = data.reshape(-1, 34)[::blocks, :2].copy().view(np.float16)
        data.reshape(-1, 34)[::blocks, :2] = (scales * np.float16(factor)).view(np.uint8)


def nibbles_exchanged(file, tensor):
    """Low and high nibbles of a q4_0 tensor change places."""
    for data in file.each(tensor):
        blocks = data.reshape(-1, 18)
        blocks[:, 2:] = (blocks[:, 2:] >> 4) | (blocks[:, 2:] << 4)


def zero_point(file, tensor, by):
    """Every code of a q8_0 tensor is off by one."""
    for data in file.each(tensor):
        codes = data.reshape(-1, 34)[:, 2:]
        codes[:] = np.clip(codes.view(np.int8).astype(np.int16) + by, -128, 127).astype(np.int8).view(np.uint8)


def norm_weight_scale(file, tensor, factor):
    for data in file.each(tensor):
        data *= np.float32(factor)


def norm_weight_plus_one(file, tensor):
    for data in file.each(tensor):
        data += np.float32(1)


def norm_weight_missing(file, tensor):
    for data in file.each(tensor):
        data[:] = 1


def copied_from_layer(file, tensor, source):
    for data in file.each(tensor):
        data[:] = file.data(f"blk.{source}.{tensor}")


def swapped(file, first, second):
    for a, b in zip(file.each(first), file.each(second), strict=True):
        kept = a.copy()
        a[:] = b
        b[:] = kept


def transposed(file, tensor):
    for data in file.each(tensor):
        data[:] = data.T.copy()


def scaled(file, tensor, factor):
    for data in file.each(tensor):
        data *= data.dtype.type(factor)


def zeroed(file, tensor):
    for data in file.each(tensor):
        data[:] = 0


def head_is_embedding(file):
    file.data("output.weight")[:] = file.data("token_embd.weight")


def edit(path, name, parameters, layers):
    """Applies the fault `name` of this file to the file at `path`."""
    file = File(path, layers)
    globals()[name](file, **parameters)
    file.close()
