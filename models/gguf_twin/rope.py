"""RoPE between the two formats: the config's rule, the rows' order, the frequencies' divisors."""

import math

import numpy as np

from gguf_twin.folder import InputError


def read_rope(path, raw):
    """Returns (theta, parameters with "rope_type") of a config.json.

    transformers 5 writes `rope_parameters`, with theta in it; older versions wrote `rope_theta` and `rope_scaling`. Where
    both give theta, the nested one counts, as in transformers 5.
    InputError for a type other than default, linear and llama3, or where a parameter of the type is missing.
    """
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(given, dict):
        raise InputError(f"{path}: rope_parameters: expected an object, found {given!r}")
    rope = dict(given)
    theta = rope.pop("rope_theta", None)
    if theta is None:
        theta = raw.get("rope_theta", 10000.0)
    kind = rope.pop("type", None)
    kind = rope.setdefault("rope_type", kind or "default")
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in needed:
        raise InputError(f"{path}: rope_type {kind!r} is not supported (supported: {', '.join(needed)})")
    for key, value in [("rope_theta", theta)] + [(key, rope.get(key)) for key in needed[kind]]:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InputError(f"{path}: {key}: expected a number above 0, found {value!r}")
    if kind == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        raise InputError(f"{path}: low_freq_factor must be less than high_freq_factor")
    return float(theta), rope


def permute_rows(array, heads):
    """Returns the rows of a q or k weight or bias in the order llama.cpp's `llama` architecture expects.

    array   [heads * head_dim] or [heads * head_dim, in]; `heads` is the number of key/value heads for k
    Hugging Face pairs lane i of a head with lane i + head_dim / 2 for RoPE (half-split), llama.cpp lane 2i with 2i + 1
    (interleaved): row i + j * head_dim / 2 of a head becomes row 2i + j.
    """
    head_dim = array.shape[0] // heads
    split = array.reshape(heads, 2, head_dim // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def llama3_rope_factors(config):
    """Returns the divisors of the RoPE frequencies, float32 [head_dim / 2], which llama.cpp reads as `rope_freqs.weight`.

    Source: transformers, `_compute_llama3_parameters`.
    """
    factor, original = config.rope["factor"], config.rope["original_max_position_embeddings"]
    low, high = config.rope["low_freq_factor"], config.rope["high_freq_factor"]
    factors = []
    for lane in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * config.rope_theta ** (lane / config.head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)
