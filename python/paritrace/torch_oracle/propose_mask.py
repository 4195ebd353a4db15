"""Attention masks: missing, drawn where there is none, shifted, of another window."""

import inspect
import re

import torch

from paritrace.torch_oracle import edits
from paritrace.torch_oracle.hypothesis import Hypothesis


def propose(question):
    for path in question.nearby:
        module = question.module_of[path]
        try:
            accepted = inspect.signature(type(module).forward).parameters
        except (TypeError, ValueError):
            continue
        if "attention_mask" not in accepted or not re.search(r"att", type(module).__name__, re.I):
            continue
        place = list(accepted).index("attention_mask") - 1
        yield from _masks(question, path, place)


def _masked(path, place, change):
    def wrap(module, original, *args, **kwargs):
        args = list(args)
        hidden = next(
            (x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.is_floating_point()), None
        )
        mask = (
            kwargs.get("attention_mask") if "attention_mask" in kwargs else args[place] if place < len(args) else None
        )
        if mask is None:
            n = hidden.shape[1]
            mask = torch.zeros(1, 1, n, n, dtype=hidden.dtype)
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, torch.finfo(hidden.dtype).min)
        if mask.dim() == 4:
            mask = _drawn(mask, change)
        if "attention_mask" in kwargs or place >= len(args):
            kwargs["attention_mask"] = mask
        else:
            args[place] = mask
        return original(*args, **kwargs)

    return edits.forward(path, wrap)


def _drawn(mask, change):
    """change(distance, seen) -> what is to be seen; distance: of the query after the key."""
    queries, keys = mask.shape[-2:]
    distance = torch.arange(queries)[:, None] + (keys - queries) - torch.arange(keys)[None, :]
    seen = change(distance, mask > -1e30)
    return torch.zeros(seen.shape, dtype=mask.dtype).masked_fill(~seen, torch.finfo(mask.dtype).min).expand_as(mask)


def _masks(question, path, place):
    site = question.site
    tokens = site.recorded.shape[-2]
    state = {}

    def look(distance, seen):
        state["causal"] = not bool(seen[..., distance < 0].any())
        kept = distance[seen.reshape(-1, *distance.shape)[0]]
        state["window"] = (
            int(kept.max()) + 1 if kept.numel() and int(kept.max()) + 1 < int(distance.max()) + 1 else None
        )
        return seen

    if question.value(_masked(path, place, look)) is None or not state:
        return

    def made(change):
        return _masked(path, place, change)

    if state["causal"]:
        yield Hypothesis(
            "attn.mask_missing",
            made(lambda d, seen: torch.ones_like(seen)),
            f"{path}: queries see later keys",
            "mask them",
        )
        for offset in (1, -1, 2, -2):
            yield Hypothesis(
                "attn.mask_offset", made(lambda d, seen, o=offset: (d >= -o) | (d == d.max()) & False),
                f"{path}: the mask's diagonal is shifted by {offset}", "count the cached keys when placing the diagonal", 0, offset,
            )  # fmt: skip
    else:
        yield Hypothesis(
            "attn.mask_extra",
            made(lambda d, seen: seen & (d >= 0)),
            f"{path}: later keys are masked",
            "remove that mask",
        )
    for window in range(1, min(tokens, 64)):
        if window != state["window"]:
            yield Hypothesis(
                "attn.window", made(lambda d, seen, w=window: ((d >= 0) if state["causal"] else (d > -w)) & (d < w)),
                f"{path}: a query sees {window} keys" + (f" where {state['window']} are right" if state["window"] else " where all before it are right"),
                "the config's window, and only in the layers that have one", state["window"], window, parameters=1,
            )  # fmt: skip
    if state["window"] is not None and state["causal"]:
        yield Hypothesis(
            "attn.window",
            made(lambda d, seen: d >= 0),
            f"{path}: the sliding window is not applied",
            "the config's window",
            state["window"],
            None,
        )
