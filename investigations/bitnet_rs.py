"""A trace as BitNet-rs would have dumped it: for each tensor its hash, rms and shape, and not a value."""

import json
import shutil

import numpy as np
import paritrace

NAMES = {
    "attn.norm": "attn_norm",
    "attn.q": "q_proj",
    "attn.k": "k_proj",
    "attn.v": "v_proj",
    "attn.out": "attn_out",
    "mlp.out": "ffn_out",
}


def write(trace, folder):
    """Writes the dump of the prefill of `trace` into `folder`, which is emptied first; returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry in paritrace.open_trace(trace).entries:
        if entry.step != 0:
            continue
        part = entry.site.split(".", 2)
        if entry.site == "logits":
            name, stage, layer = "logits", "logits", -1
        elif part[0] == "layers" and part[2] in NAMES:
            stage, layer = NAMES[part[2]], int(part[1])
            name = f"blk{layer}/{stage}"
        else:
            continue
        values = entry.numpy().astype(np.float64)
        record = dict(name=name, shape=list(values.shape), dtype="F32", blake3=entry.blake3().removeprefix("blake3:"),
                      rms=float(np.sqrt(np.mean(values * values))), num_elements=values.size, seq=0, layer=layer, stage=stage)  # fmt: skip
        (folder / f"{name.replace('/', '_')}.trace").write_text(json.dumps(record, indent=2))
    return folder
