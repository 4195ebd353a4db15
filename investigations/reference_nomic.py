"""Hugging Face's form of nomic-bert-moe, run in bf16 and recorded. Its code stands in models/families, where it is trained."""

import sys

import paritrace
import subjects
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(subjects.ROOT / "models"))


def record(folder, tokens, trace):
    """Runs the model in `folder` on `tokens` in bf16 and leaves its trace in `trace`. Errors: EngineError for another shape."""
    from families import nomic_moe

    model = nomic_moe.make_model()
    try:
        missing, unknown = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    except RuntimeError as error:
        raise subjects.EngineError(f"{folder}: not of the small model's shape: {str(error).splitlines()[0]}") from error
    if set(missing) != {"guess"} or unknown:
        raise subjects.EngineError(f"{folder}: tensors missing {missing}, unknown {unknown}")
    model = model.to(torch.bfloat16).eval()
    with torch.no_grad(), paritrace.capture(model, trace, overwrite=True):
        model(torch.tensor([tokens]))
