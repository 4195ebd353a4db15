"""Hugging Face's form of nomic-bert-moe, run in bf16 and recorded. Its code stands in models/families, where it is trained."""

import json
import sys

import paritrace
import subjects
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(subjects.ROOT / "models"))

KEYS = dict(
    layers="n_layer", hidden="n_embd", heads="n_head", width="n_inner", experts="num_experts", used="moe_top_k", every="moe_every_n_layers",
    vocab="vocab_size", types="type_vocab_size", theta="rotary_emb_base", eps="layer_norm_epsilon",
)  # fmt: skip


def record(folder, tokens, trace):
    """Runs the model in `folder` on `tokens` in bf16 and leaves its trace in `trace`. Errors: EngineError for another architecture."""
    from families import nomic_moe

    said = json.loads((folder / "config.json").read_text())
    model = nomic_moe.make_model(nomic_moe.Shape(**{name: said[key] for name, key in KEYS.items()}))
    try:
        missing, unknown = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    except RuntimeError as error:
        raise subjects.EngineError(f"{folder}: not this architecture: {str(error).splitlines()[0]}") from error
    if set(missing) != {"guess"} or unknown:
        raise subjects.EngineError(f"{folder}: tensors missing {missing}, unknown {unknown}")
    model = model.to(torch.bfloat16).eval()
    with torch.no_grad(), paritrace.capture(model, trace, overwrite=True):
        model(torch.tensor([tokens]))
