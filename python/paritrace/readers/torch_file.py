"""Dictionaries of tensors as torch.save writes them. Only tensors and plain containers are unpickled (weights_only): a
pickle can run any code, and a dump may come from anywhere.
"""

from pathlib import Path

import torch

from paritrace.errors import InputError, first_line
from paritrace.readers.writing import TensorWriter

_MOST_DEPTH = 32


def load(path):
    """What is in the file, on the CPU. Errors: InputError if it is no torch file, or holds more than tensors."""
    if not Path(path).is_file():
        raise InputError(path, "file", "a file of torch.save", "a folder" if Path(path).is_dir() else "no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own
        raise InputError(
            path, "pickle", "tensors in plain containers (weights-only loading)", first_line(error)
        ) from error


def tensors_of(value, prefix="", depth=0):
    """(name, tensor) of all tensors in nested dictionaries, lists and tuples: keys joined by dots, places by colons.

    A dictionary's only tensor list, {"layer": (a, b)}, gives `layer` and `layer:1`, as our adapter names outputs.
    """
    if depth > _MOST_DEPTH:
        raise ValueError(f"{prefix}: expected at most {_MOST_DEPTH} levels, found more")
    if isinstance(value, torch.Tensor):
        yield prefix or "tensor", value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_of(item, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            name = prefix if index == 0 and prefix else f"{prefix}:{index}" if prefix else str(index)
            yield from tensors_of(item, name, depth + 1)


def read(path, output, overwrite=False):
    """Writes the file's tensors as a trace; keys `STEP/NAME` are steps. Returns the Recording.

    Errors: InputError, also for a file without tensors; ValueError if the trace cannot be written.
    """
    found = []
    for key, tensor in tensors_of(load(path)):
        step, _, name = key.partition("/")
        found.append((int(step), name, tensor) if name and step.isdecimal() else (0, key, tensor))
    if not found:
        raise InputError(path, "pickle", "at least one tensor", "none")
    with TensorWriter(output, "", path, overwrite) as writer:
        for step, name, tensor in sorted(found, key=lambda item: item[0]):
            writer.begin_step(step)
            writer.record(name, tensor)
    return writer.recording
