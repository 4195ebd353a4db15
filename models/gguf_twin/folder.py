"""Reads a Hugging Face folder: strictly, because a test that blames an engine must be sure of the file the engine ran."""

import json
import math

import numpy as np
from safetensors import SafetensorError, deserialize


class InputError(ValueError):
    """The folder cannot be written as GGUF; the message is one line and names the file."""


def read_json(path):
    """Returns the JSON object in `path`. InputError if the file is missing, is not JSON or holds no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


class Settings:
    """A config.json whose values are checked as they are taken. Errors: InputError."""

    def __init__(self, path):
        self.path, self.raw = path, read_json(path)

    @classmethod
    def of(cls, content):
        """The settings of a config that is in no file."""
        settings = cls.__new__(cls)
        settings.path, settings.raw = "config", content
        return settings

    def integer(self, key, default=None, lowest=1):
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise InputError(f"{self.path}: {key}: expected an integer of at least {lowest}, found {value!r}")
        return value

    def number(self, key, default):
        """A finite number of at least 0."""
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise InputError(f"{self.path}: {key}: expected a number, found {value!r}")
        return float(value)

    def token(self, key, vocab_size):
        """A token id, the first of a list of them; None where there is none in the vocabulary."""
        value = self.raw.get(key)
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int) and 0 <= value < vocab_size else None

    def expect(self, key, allowed, default=None):
        """InputError unless the value is one of `allowed`; returns it."""
        value = self.raw.get(key, default)
        if value not in allowed:
            known = ", ".join(map(repr, allowed))
            raise InputError(f"{self.path}: {key} {value!r} is not supported (supported: {known})")
        return value


def to_float32(path, name, dtype, shape, data):
    """Returns the bytes of a safetensors entry as float32 of `shape`, every value kept exactly; U8 stays uint8."""
    if dtype == "BF16":
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype == "U8":
        array = np.frombuffer(data, np.uint8)  # packed codes: what they mean, the architecture knows
    elif dtype in ("F16", "F32"):
        array = np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)
    else:
        raise InputError(f"{path}: {name!r} is {dtype}, only F32, F16, BF16 and packed U8 are read")
    return array.reshape(shape)


def read_weights(folder):
    """Returns the folder's weights, name -> array, from model.safetensors or from the shards of its index.

    InputError if a file is missing, is not safetensors or holds another type than F32, F16, BF16 and U8.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        files = ["model.safetensors"]
    else:
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise InputError(f"{index}: no weight_map of names to files")
        files = sorted(set(places.values()))
    weights = {}
    for file in files:
        path = folder / file
        try:
            entries = deserialize(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise InputError(f"{path}: not a safetensors file: {error}") from error
        for name, entry in entries:
            weights[name] = to_float32(path, name, entry["dtype"], entry["shape"], entry["data"])
    return weights
