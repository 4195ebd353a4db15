"""Writes src/core/iq_grids.cc: the codebooks of ggml's IQ types, as gguf-py holds them.

    .venv/bin/python scripts/iq_grids.py > src/core/iq_grids.cc

A codebook is data of the format, like a code page: it follows from no formula. Each entry is packed into 16 bits, two bits
a value (three for IQ3), the first value lowest; the values that the bits stand for are in block_quant_iq.cc.
"""

import sys

import numpy as np
from gguf import quants

GRIDS = {
    "kIq2XxsGrid": ("IQ2_XXS", 2), "kIq2XsGrid": ("IQ2_XS", 2), "kIq2SGrid": ("IQ2_S", 2), "kIq3XxsGrid": ("IQ3_XXS", 3),
    "kIq3SGrid": ("IQ3_S", 3), "kIq1Grid": ("IQ1_S", 2),
}  # fmt: skip


def packed(kind, bits):
    quant = getattr(quants, kind)
    quant.init_grid()
    grid = quant.grid.reshape(quant.grid_shape)
    codes = np.zeros(grid.shape, np.uint32)
    for code, value in enumerate(quant.grid_map):
        codes[grid == value] = code
    assert (np.asarray(quant.grid_map, np.float32)[codes] == grid).all()
    return (codes << (bits * np.arange(grid.shape[1], dtype=np.uint32))).sum(axis=1)


def main():
    out = ["// Written by scripts/iq_grids.py.", '#include "core/iq_grids.h"', "", "namespace paritrace {"]
    for name, (kind, bits) in GRIDS.items():
        entries = packed(kind, bits)
        out += ["", f"const std::array<std::uint16_t, {len(entries)}> {name} = {{"]
        for start in range(0, len(entries), 14):
            out.append("    " + ", ".join(f"0x{entry:04x}" for entry in entries[start : start + 14]) + ",")
        out.append("};")
    out += ["", "}  // namespace paritrace", ""]
    sys.stdout.write("\n".join(out))


if __name__ == "__main__":
    main()
