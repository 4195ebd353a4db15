"""The comparing commands as functions: `paritrace.diff(a, b)` and its kin return what `--json` writes, as an object.

A side is a path, an opened trace, or tensors in memory: `{"layers.0.attn.q": array}`, arrays of NumPy, torch, JAX or anything else
that speaks DLPack. Those are written to a temporary trace, which is gone when the function returns.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from paritrace.errors import InputError, first_line
from paritrace.results import Result

__all__ = ["diagnose", "diff", "growth", "logits", "weights"]


def diff(reference, subject, *, all_stats=False, map=None, min_confidence=None):
    """Two traces site by site. Returns a Result, `paritrace/diff/1`. Errors: ValueError for bad input, in one line."""
    options = ["--all-stats"] if all_stats else []
    options += _option("--map", map) + _option("--min-confidence", min_confidence)
    return _compare("diff", [reference, subject], options)


def diagnose(subject, model=None, *, reference=None, subject_model=None, arithmetic=None, oracle=None):
    """A trace replayed against MODEL, or against another trace alone. Returns a Result, `paritrace/diagnosis/1`.

    model          what the subject should be computing with: a Hugging Face folder or a .gguf
    reference      a trace of the reference; needed where there is no model
    subject_model  the file that the subject ran, where that is another one
    arithmetic     how the subject rounds, where neither its trace nor its values say it
    oracle         "torch": Transformers' own code replays the trace
    Errors: ValueError for bad input, in one line.
    """
    options = _option("--model", model) + _option("--subject-model", subject_model)
    options += _option("--arithmetic", arithmetic) + _option("--oracle", oracle)
    return _compare("diagnose", [subject], options, {"--ref": reference})


def logits(reference, subject, *, top=None, tokenizer=None):
    """What a difference of logits does to the answer. Returns a Result, `paritrace/logits/1`. Errors: ValueError."""
    return _compare("logits", [reference, subject], _option("--top", top) + _option("--tokenizer", tokenizer))


def growth(reference, subject):
    """How the error grows over layers and positions. Returns a Result, `paritrace/growth/1`. Errors: ValueError."""
    return _compare("growth", [reference, subject], [])


def weights(reference, subject):
    """Whether two files or folders hold the same weights. Returns a Result, `paritrace/weights/1`. Errors: ValueError."""
    return _compare("weights", [reference, subject], [])


def _option(name, value):
    return [] if value is None else [name, value]


def _compare(command, sides, options, named=None):
    """Runs the command and reads its JSON. named: {option: side or None}."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paritrace-")))
        words = [_path(side, folder / f"side-{i}") for i, side in enumerate(sides)]
        for option, side in (named or {}).items():
            if side is not None:
                words += [option, _path(side, folder / option.strip("-"))]
        result = folder / "result.json"
        line = [*_program(), command, *words, *options, "--json", result, "--quiet"]
        done = subprocess.run(
            [str(word) for word in line],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            env=os.environ | {"PARITRACE_PYTHON": sys.executable},
        )  # fmt: skip
        if done.returncode not in (0, 1, 3) or not result.exists():
            text = done.stderr.strip() or f"exit code {done.returncode}"
            raise ValueError(first_line(text).removeprefix("paritrace: "))
        return Result(json.loads(result.read_text(encoding="utf-8")), done.returncode)


def _program():
    """This package's own command, whichever of its halves runs it."""
    return [sys.executable, "-m", "paritrace"]


def _path(side, place):
    """Where a side lies; tensors in memory are written to `place`."""
    if isinstance(side, (str, os.PathLike)):
        return side
    if isinstance(side, Mapping):
        return _write(side, place)
    if isinstance(getattr(side, "path", None), str):  # an opened trace
        return side.path
    raise InputError("side", "", "a path, a trace, or a mapping of names to tensors", type(side).__name__)


def _write(tensors, place):
    """Tensors by name, or by (step, name), as a trace. The order is that of the mapping."""
    from paritrace import _core

    if not tensors:
        raise InputError("tensors", "", "at least one", "none")
    writer = _core.TraceWriter(str(place), json.dumps({"engine": {"name": "memory"}}), "full", False)
    for key, tensor in tensors.items():
        step, name = key if isinstance(key, tuple) else (0, key)
        array, dtype = _array(name, tensor)
        site = name if _core.is_site(name) else _site(name)
        writer.record(int(step), name, site, array, dtype, list(tensor.shape))
    writer.close()
    return place


def _site(name):
    """By the naming rules of Hugging Face, whose module names are the commonest; "" where none fits."""
    from paritrace import _core

    return _core.site_of("hf", name) or ""


def _array(name, tensor):
    """(NumPy array, its dtype where NumPy has none). Without a copy where the memory is the CPU's."""
    import numpy as np

    if isinstance(tensor, np.ndarray):
        if tensor.dtype.name == "bfloat16":  # ml_dtypes: NumPy cannot hand it on
            return np.ascontiguousarray(tensor).view(np.uint16), "bf16"
        return np.ascontiguousarray(tensor), None
    if hasattr(tensor, "detach"):  # torch: DLPack refuses what asks for a gradient
        tensor = tensor.detach().cpu().contiguous()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.view(torch.uint16).numpy(), "bf16"
    elif type(tensor).__module__.startswith("jax"):
        return _array(name, np.asarray(tensor))
    if not hasattr(tensor, "__dlpack__"):
        raise InputError(f"tensor {name!r}", "", "an array of NumPy, torch, JAX or DLPack", type(tensor).__name__)
    return np.ascontiguousarray(np.from_dlpack(tensor)), None
