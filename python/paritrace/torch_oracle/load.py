"""Loads MODEL with transformers, once for each arithmetic that the oracle runs it in."""

import contextlib
import copy
import os
from pathlib import Path

from paritrace.errors import InputError, first_line
from paritrace.hf import DTYPES

TORCH_ARITHMETIC = {
    "f64": "f64",
    "f32": "f32",
    "torch-f32": "f32",
    "jax-f32": "f32",
    "ort-f32": "f32",
    "torch-bf16": "bf16",
    "jax-bf16": "bf16",
    "torch-f16": "f16",
}


def load(directory, dtype, trust_remote_code=False, attention="eager", experts=None):
    """The model of a folder, ready to run. dtype: a key of DTYPES; experts: how a mixture's experts are computed.

    Errors: InputError if there is no such folder, transformers cannot load it, or it needs code of its own.
    """
    import transformers

    folder = Path(directory)
    if not (folder / "config.json").is_file():
        found = "no such file" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise InputError(directory, "model folder", "a folder with config.json", found)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options = dict(local_files_only=True, trust_remote_code=trust_remote_code)
    try:
        config = transformers.AutoConfig.from_pretrained(directory, **options)
        named = (config.architectures or [""])[0]
        loader = getattr(transformers, named, None)
        if loader is None:
            auto = getattr(config, "auto_map", None) or {}
            loader = transformers.AutoModelForCausalLM if "AutoModelForCausalLM" in auto else transformers.AutoModel
        options["dtype"] = DTYPES[dtype]
        try:
            model = loader.from_pretrained(directory, attn_implementation=attention, **options)
        except (ValueError, TypeError) as error:
            if "attn" not in str(error):
                raise
            model = loader.from_pretrained(directory, **options)  # has one way to attend, and takes no choice
    except Exception as error:
        hint = (
            "" if trust_remote_code or "trust_remote_code" not in str(error) else " (--trust-remote-code runs its code)"
        )
        raise InputError(
            directory, "model folder", "a model that transformers loads", first_line(error) + hint
        ) from error
    model.config.name_or_path = os.fspath(directory)
    if experts is not None and hasattr(model, "set_experts_implementation"):
        with contextlib.suppress(ValueError):  # an implementation that only the subject's transformers has
            model.set_experts_implementation(experts)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def twin(model, experts=None):
    """The same model once more, with the same weights in memory."""
    shared = {id(value): value for value in model.parameters()}
    other = copy.deepcopy(model, shared)
    if hasattr(other, "set_experts_implementation") and experts is not None:
        with contextlib.suppress(ValueError):
            other.set_experts_implementation(experts)
    return other


def choose_arithmetic(asked, subject):
    """(name, key of DTYPES, inferred) for a subject. Errors: InputError for one that torch cannot run."""
    name = asked or subject.arithmetic
    if name in TORCH_ARITHMETIC:
        return name, TORCH_ARITHMETIC[name], False
    if name:
        raise InputError(
            subject.path if not asked else "--arithmetic", "arithmetic" if not asked else "",
            f"one that torch computes in ({', '.join(TORCH_ARITHMETIC)})", name,
        )  # fmt: skip
    for dtype in ("bf16", "f16", "f32"):
        if dtype in subject.dtypes:
            return ("f32" if dtype == "f32" else f"torch-{dtype}"), dtype, True
    return "f64", "f64", True
