"""BitNet's projections as Hugging Face stores them: four codes of two bits a byte and one scale, or the float weights."""

import numpy as np

from gguf_twin.encode import Ternary
from gguf_twin.folder import InputError

CODES_PER_BYTE = 4
LEAST_SCALE = np.float32(1e-5)


def unpack(settings, weights):
    """Makes every projection in `weights` (name -> array) a Ternary, and takes its scale out. InputError where codes are broken.

    Source: transformers, integrations/bitnet.py: the rows of quarter i stand in bits 2i and 2i + 1. BitLinear divides by its
    scale, AutoBitLinear multiplies by it.
    """
    kind = (settings.raw.get("quantization_config") or {}).get("linear_class", "autobitlinear")
    if kind not in ("bitlinear", "autobitlinear"):
        raise InputError(f"{settings.path}: linear_class {kind!r} is not supported")
    for name in [name for name in weights if name.endswith("_proj.weight")]:
        array = weights[name]
        stored = weights.pop(f"{name}_scale", None)
        if array.dtype != np.uint8:
            weights[name] = ternary_of(array)
            continue
        if stored is None or stored.size != 1 or not np.isfinite(stored).all() or not stored.reshape(-1)[0] > 0:
            raise InputError(f"{settings.path.parent}: {name!r} is packed, and has no scale above 0")
        scale = stored.reshape(-1)[0]
        quarters = [(array >> (2 * place)) & 3 for place in range(CODES_PER_BYTE)]
        codes = np.concatenate(quarters).astype(np.int8) - 1
        if codes.max() > 1:
            raise InputError(f"{settings.path.parent}: {name!r}: expected codes 0, 1 and 2, found 3")
        weights[name] = Ternary(codes, 1 / scale if kind == "bitlinear" else scale)


def ternary_of(weight):
    """The three values that BitNet rounds its master weights to: arXiv:2402.17764, equations 1 to 3."""
    scale = max(np.abs(weight).mean(dtype=np.float32), LEAST_SCALE)
    return Ternary(np.clip(np.round(weight / scale), -1, 1).astype(np.int8), scale)
