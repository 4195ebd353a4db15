"""Mistakes in GGUF files, run by llama.cpp: a right file is written, and then edited in place with gguf-py."""

import importlib.util
import sys
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def load_module(path):
    """A script of this repository as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def write(folder, path, type_name):
    """Writes the Hugging Face model in `folder` as GGUF."""
    from paritrace import hf

    model = hf.load(folder, "f32")
    if model.config.model_type == "llama":
        load_module(ROOT / "models" / "write_gguf.py").write_gguf(folder, path, type_name)
    else:
        load_module(ROOT / "tests" / "python" / "tiny_gguf.py").write(model, path, type_name)


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
    file.set_number("attention.layer_norm_rms_epsilon", eps)


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
