"""The types that a matrix may be stored in, and the bytes of each."""

import math

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType

from gguf_twin.folder import InputError

# --type -> (type of the matrices, file type in the metadata, largest |weight| it can hold)
# A block's scale is float16: q8_0 stores max / 127, q4_0 max / 8, the ternary types the largest value itself.
F16_MAX = 65504.0
TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32, math.inf),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16, F16_MAX),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16, math.inf),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0, F16_MAX * 127),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0, F16_MAX * 16),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0, F16_MAX * 8),
    "q4_1": (GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1, F16_MAX),
    "tq1_0": (GGMLQuantizationType.TQ1_0, LlamaFileType.MOSTLY_TQ1_0, F16_MAX),
    "tq2_0": (GGMLQuantizationType.TQ2_0, LlamaFileType.MOSTLY_TQ2_0, F16_MAX),
}
# Types of three values: only for what is ternary, so the embedding and the head stay F16.
TERNARY = ("tq1_0", "tq2_0", "i2_s")
# bitnet.cpp's own type and file type: neither gguf-py nor llama.cpp knows them, and other numbers of theirs may come to mean something else.
I2_S, MOSTLY_I2_S = 36, 40
I2_S_RUN = 128  # codes in 32 bytes
# Kept in F32 by llama.cpp's own converter, whatever the file's type.
KEPT = ("position_embd", "token_types", "ffn_gate_inp")


def file_type(type_name):
    """The number that general.file_type holds."""
    return MOSTLY_I2_S if type_name == "i2_s" else TYPES[type_name][1]


def tensor_type(name, shape, type_name):
    """Returns the GGUF type of a tensor: vectors stay F32, rows that blocks do not fill stay F16.

    I2_S is for encode_i2_s: here its file's other matrices are F16.
    """
    if len(shape) == 1 or any(kept in name for kept in KEPT):
        return GGMLQuantizationType.F32
    if type_name == "i2_s" or (type_name in TERNARY and not name.startswith("blk.")):
        return GGMLQuantizationType.F16
    wanted = TYPES[type_name][0]
    return GGMLQuantizationType.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def encode_tensor(name, array, kind):
    """Returns `array` (float32) as numpy data of GGUF type `kind`. InputError where a finite value would become infinite."""
    limit = next(limit for other, _, limit in TYPES.values() if other == kind)
    finite = np.abs(array[np.isfinite(array)])
    if finite.size and finite.max() > limit:
        raise InputError(f"{name}: |{finite.max():g}| does not fit {kind.name} (at most {limit:g})")
    return gguf.quants.quantize(np.ascontiguousarray(array, np.float32), kind)


def encode_i2_s(name, codes, scale):
    """Returns codes -1, 0, 1 (int8 [rows, columns]) as the bytes of I2_S, int8: two bits a code, then the scale as f32 in 32 bytes.

    128 codes lie in 32 bytes, the first 32 of them in the top bits. Source: bitnet.cpp, ggml-bitnet-mad.cpp.
    """
    if codes.shape[1] % I2_S_RUN:
        raise InputError(f"{name}: rows of {codes.shape[1]} do not fill I2_S's runs of {I2_S_RUN}")
    runs = (codes + 1).astype(np.uint8).reshape(-1, 4, I2_S_RUN // 4)
    packed = runs[:, 0] << 6 | runs[:, 1] << 4 | runs[:, 2] << 2 | runs[:, 3]
    tail = np.zeros(8, np.float32)
    tail[0] = scale
    return np.concatenate([packed.reshape(-1), tail.view(np.uint8)]).view(np.int8)


def add_tensor(writer, name, array, type_name):
    """Adds a float32 array, or a Ternary, to an open GGUFWriter; returns the name of the type it got."""
    if isinstance(array, Ternary) and type_name == "i2_s":
        writer.add_tensor(
            name, encode_i2_s(name, array.codes, array.scale), raw_shape=array.codes.shape, raw_dtype=I2_S
        )
        return "I2_S"
    values = array.values() if isinstance(array, Ternary) else array
    kind = tensor_type(name, values.shape, type_name)
    writer.add_tensor(name, encode_tensor(name, values, kind), raw_dtype=kind)
    return kind.name


class Ternary:
    """A matrix of three values: codes int8 [rows, columns] times one scale."""

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, np.float32(scale)

    @property
    def shape(self):
        return self.codes.shape

    def values(self):
        return self.codes.astype(np.float32) * self.scale
