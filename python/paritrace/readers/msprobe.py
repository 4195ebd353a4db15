"""Dumps of msProbe (mindstudio-probe) of task "tensor": dump.json with a .pt or .npy file for each tensor.

Without its .pt files the program reads such a dump by itself, with the statistics alone (src/formats/msprobe.cc, whose
names these are).
"""

import json
import re
from pathlib import Path

import numpy as np
import torch

from paritrace.errors import InputError, first_line
from paritrace.readers.torch_file import load
from paritrace.readers.writing import TensorWriter

_CALL = re.compile(r"Module\.(.+)\.[^.]+\.forward\.(\d{1,9})")


def _tensors(value, name):
    """(name, dump entry) in nested lists and dictionaries, named as our torch adapter names outputs."""
    if isinstance(value, dict) and "shape" in value and "dtype" in value:
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            nested = isinstance(item, dict) and "shape" not in item  # a ModelOutput in the tuple
            yield from _tensors(item, name if index == 0 or nested else f"{name}:{index}")


def _values(folder, entry, place):
    """The tensor of a dump entry, or None where it was not saved."""
    name = entry.get("data_name")
    if not name:
        return None
    path = (folder / "dump_tensor_data" / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(folder / "dump.json", place, "a file inside the dump", name)
    if not path.is_file():
        raise InputError(folder / "dump.json", place, f"the file {name} inside the dump", "no such file")
    if path.suffix == ".npy":
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (ValueError, TypeError) as error:
            raise InputError(path, "array", "an .npy of numbers", first_line(error)) from error
    value = load(path)
    if not isinstance(value, torch.Tensor):
        raise InputError(path, "pickle", "a tensor", type(value).__name__)
    return value


def read(folder, output, overwrite=False):
    """Writes the forward calls of a dump as a trace; call N of a module is step N. Returns the Recording.

    Errors: InputError for a broken dump, or one without any saved tensor; ValueError if the trace cannot be written.
    """
    folder = Path(folder)
    file = folder / "dump.json"
    try:
        data = json.loads(file.read_text())["data"]
        calls = list(data.items())
    except OSError as error:
        raise InputError(file, "file", "a dump.json of msProbe", error.strerror) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(file, "JSON", 'an object with "data"', first_line(error)) from error
    found = []
    for key, call in calls:
        match = _CALL.fullmatch(key)
        if ".backward" in key or not isinstance(call, dict):
            continue
        name, step = (match[1], int(match[2])) if match else (key, 0)
        inputs = [*_tensors(call.get("input_args", []), name), *_tensors(call.get("input_kwargs", {}), name)]
        entries = [(f"{name}:in", entry) for _, entry in inputs[:1]] + list(_tensors(call.get("output", []), name))
        found += [(step, label, entry, key) for label, entry in entries if entry.get("data_name")]
    if not found:
        raise InputError(
            file, "data", "tensors that were saved (task tensor)", "statistics only; diff reads those as they are"
        )
    with TensorWriter(output, "hf", folder, overwrite) as writer:
        for step, label, entry, key in sorted(found, key=lambda item: item[0]):
            writer.begin_step(step)
            writer.record(label, _values(folder, entry, key))
    return writer.recording
