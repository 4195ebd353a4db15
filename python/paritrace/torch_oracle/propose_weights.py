"""Mistakes of weights: another layer's, transposed, reordered, exchanged, scaled, without their bias; of norms also how the
weight is used and the value under the root.
"""

import re

import numpy as np
import torch

from paritrace.torch_oracle import edits
from paritrace.torch_oracle.hypothesis import Hypothesis, nice_numbers

PARTS = {
    "q": r"q_proj|query|q_lin|q|wq|to_q|query_proj|q_proj_linear",
    "k": r"k_proj|key|k_lin|k|wk|to_k|key_proj",
    "v": r"v_proj|value|v_lin|v|wv|to_v|value_proj",
    "gate": r"gate_proj|w1|wi_0|gate",
    "up": r"up_proj|w3|wi_1|up",
}
FUSED = r"qkv|qkv_proj|c_attn|query_key_value|Wqkv|in_proj_qkv|qkv_lin"
SWAPS = {("q", "k"): "attn.qk_swapped", ("k", "v"): "attn.kv_swapped", ("gate", "up"): "mlp.gate_up_swapped"}


def part_of(path):
    leaf = path.rpartition(".")[2]
    return next((part for part, names in PARTS.items() if re.fullmatch(names, leaf)), "")


def is_norm(module):
    weight = getattr(module, "weight", None)
    return "norm" in type(module).__name__.lower() and isinstance(weight, torch.Tensor) and weight.dim() == 1


def layer_of(path):
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", f".{path}")
    return int(numbers[-1]) if numbers else None


def same_place(model, path):
    """[(layer, path)] of the modules at the same place in other layers."""
    pattern = re.compile(re.sub(r"\\\.\d+(?=\\\.|$)", r"\\.\\d+", re.escape(f".{path}")))
    return [
        (layer_of(other), other)
        for other, _ in model.named_modules()
        if other != path and pattern.fullmatch(f".{other}")
    ]


def take(source, name):
    return lambda _, model: getattr(model.get_submodule(source), name).data.clone()


def propose(question):
    for path in question.paths:
        module = question.module_of[path]
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        if is_norm(module):
            yield from propose_norm(question, path, module)
        elif weight.dim() >= 2:
            yield from propose_linear(question, path, module)


def propose_quiet(question):
    for path in question.paths:
        if is_norm(question.module_of[path]):
            yield from propose_eps(question, path, question.module_of[path])


def propose_linear(question, path, module):
    model, weight = question.model, module.weight
    is_embedding = isinstance(module, torch.nn.Embedding)
    bias = getattr(module, "bias", None)
    if isinstance(bias, torch.Tensor):
        yield Hypothesis(
            "linear.bias_missing", edits.parameter(path, "bias", lambda b, _: torch.zeros_like(b)),
            f"the bias of {path} is not added", "add the bias",
        )  # fmt: skip
    if weight.dim() == 2 and weight.shape[0] == weight.shape[1] and not is_embedding:
        yield Hypothesis(
            "linear.transposed", edits.parameter(path, "weight", lambda w, _: w.T), f"{path} is multiplied transposed",
            "transpose on loading",
        )  # fmt: skip
    for layer, other in same_place(model, path):
        source = model.get_submodule(other)
        if getattr(getattr(source, "weight", None), "shape", None) != weight.shape:
            continue
        change = [edits.parameter(path, "weight", take(other, "weight"))]
        if isinstance(bias, torch.Tensor):
            yield _wrong_layer(path, other, layer, change[0], "the weight")
            change.append(edits.parameter(path, "bias", take(other, "bias")))
        yield _wrong_layer(path, other, layer, edits.together(*change), "the weights")
    own = part_of(path)
    parent = path.rpartition(".")[0]
    for pair, cause in SWAPS.items():
        if own not in pair:
            continue
        for name, sibling in model.get_submodule(parent).named_children():
            if (
                part_of(name) in pair
                and part_of(name) != own
                and getattr(sibling.weight, "shape", None) == weight.shape
            ):
                other = f"{parent}.{name}" if parent else name
                change = [edits.parameter(path, "weight", take(other, "weight"))]
                if isinstance(bias, torch.Tensor) and isinstance(sibling.bias, torch.Tensor):
                    change.append(edits.parameter(path, "bias", take(other, "bias")))
                yield Hypothesis(
                    cause,
                    edits.together(*change),
                    f"{path} holds the weights of {other}",
                    "correct the split or the names",
                )
    yield from propose_fused(question, path, module)
    yield from propose_rows(question, path, module, own)
    yield from propose_factor(question, path, "embed.scale" if is_embedding else "linear.weight_scale")
    if is_embedding:
        for offset in (1, -1, 2, -2):
            yield Hypothesis(
                "embed.row_offset", edits.parameter(path, "weight", lambda w, _, o=offset: torch.roll(w, -o, 0)),
                f"{path} gives the rows {offset} further", "look at added tokens and padding rows", 0, offset,
            )  # fmt: skip
    head = getattr(model, "get_output_embeddings", lambda: None)()
    table = getattr(model, "get_input_embeddings", lambda: None)()
    if module is head and table is not None and table.weight.shape == weight.shape and table.weight is not weight:
        yield Hypothesis(
            "head.untied", edits.parameter(path, "weight", lambda _, m: m.get_input_embeddings().weight.data.clone()),
            "the embedding is used where the model has a head of its own", "load the head's weight",
        )  # fmt: skip


def _wrong_layer(path, other, layer, change, what):
    return Hypothesis(
        "linear.wrong_layer", change, f"{path} has {what} of {other}", "correct the index in the weight's name",
        layer_of(path), layer,
    )  # fmt: skip


def propose_fused(question, path, module):
    """q, k and v in one matrix whose thirds are exchanged."""
    if not re.fullmatch(FUSED, path.rpartition(".")[2]):
        return
    axis = 1 if type(module).__name__ == "Conv1D" else 0
    if module.weight.shape[axis] % 3:
        return
    for cause, order in (("attn.qk_swapped", (1, 0, 2)), ("attn.kv_swapped", (0, 2, 1))):

        def thirds(tensor, _, order=order):
            parts = tensor.chunk(3, axis if tensor.dim() > 1 else 0)
            return torch.cat([parts[i] for i in order], axis if tensor.dim() > 1 else 0)

        change = [edits.parameter(path, "weight", thirds)]
        if isinstance(module.bias, torch.Tensor):
            change.append(edits.parameter(path, "bias", thirds))
        yield Hypothesis(
            cause, edits.together(*change), f"thirds of {path} are exchanged", "correct the split or the names"
        )


def head_widths(config):
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (
        config.hidden_size // heads if isinstance(heads, int) and heads else None
    )
    return [width] if isinstance(width, int) and width > 0 else []


def propose_rows(question, path, module, part):
    if part not in ("q", "k"):
        return
    for width in head_widths(question.config):
        if module.weight.dim() != 2 or module.weight.shape[0] % width or width % 2:
            continue
        for first, second in ((2, width // 2), (width // 2, 2)):

            def reorder(tensor, _, first=first, second=second, width=width):
                rest = tensor.shape[1:]
                return tensor.view(-1, first, second, *rest).transpose(1, 2).reshape(tensor.shape)

            change = [edits.parameter(path, "weight", reorder)]
            if isinstance(module.bias, torch.Tensor):
                change.append(edits.parameter(path, "bias", reorder))
            yield Hypothesis(
                "linear.permuted",
                edits.together(*change),
                f"the rows of {path} stand in RoPE's other order",
                "undo the permutation",
            )


def propose_factor(question, path, cause, name="weight"):
    """The weight times a factor, from what doubling it does: the site is linear in it, or this explains nothing."""
    doubled = question.value(edits.parameter(path, name, lambda w, _: 2 * w))
    if doubled is None:
        return
    site = question.site
    step = doubled - site.exact
    good = np.isfinite(step) & np.isfinite(site.recorded) & np.isfinite(site.exact)
    square = np.sum(step[good] ** 2)
    if square == 0:
        return
    factor = 1 + float(np.sum((site.recorded - site.exact)[good] * step[good]) / square)
    fix = "do not rescale norm weights on loading" if cause.startswith("norm") else "apply the scale once"
    if abs(factor) < 1e-9:
        yield Hypothesis(
            "weights.unloaded",
            edits.parameter(path, name, lambda w, _: 0 * w),
            f"{path} gives zeros: its weight is not there",
            "make the loader fail on names that it does not find",
        )
        return
    for number in nice_numbers(factor):
        yield Hypothesis(
            cause, edits.parameter(path, name, lambda w, _, f=number: f * w), f"the weight of {path} is taken {number:.5g} times",
            fix, 1.0, number, parameters=1,
        )  # fmt: skip


EPS = ("variance_epsilon", "eps", "epsilon", "layer_norm_eps", "norm_eps")


def propose_norm(question, path, module):
    model = question.model
    weight, bias = module.weight, getattr(module, "bias", None)
    with torch.no_grad():  # does the module multiply by the weight, or by one more than it?
        probe = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype)[None]
        before, weight.data = weight.data, torch.zeros_like(weight)
        try:
            try:
                zero = module(probe)
            except Exception:
                zero = torch.zeros_like(probe)
        finally:
            weight.data = before
        shifted = isinstance(zero, torch.Tensor) and bool(
            (zero - (bias if isinstance(bias, torch.Tensor) else 0)).abs().max() > 1e-3
        )
    neutral = 0.0 if shifted else 1.0

    def weighted(cause, change, statement, fix, **more):
        return Hypothesis(cause, edits.parameter(path, "weight", change), f"{path}: {statement}", fix, **more)

    yield weighted(
        "norm.weight_missing",
        lambda w, _: torch.full_like(w, neutral),
        "its weight is not applied",
        "multiply by the weight",
    )
    twice = (lambda w, _: (1 + w) ** 2 - 1) if shifted else (lambda w, _: w * w)
    yield weighted(
        "norm.weight_twice",
        twice,
        "its weight is applied twice",
        "multiply once; look for a loader that folded it already",
    )
    other = -1.0 if shifted else 1.0
    yield weighted(
        "norm.weight_plus_one", lambda w, _: w + other,
        "weight where one plus weight is meant" if shifted else "one plus weight where weight is meant",
        "follow the model's convention; converters often add the 1 already",
    )  # fmt: skip
    if isinstance(bias, torch.Tensor):
        yield Hypothesis(
            "norm.bias_missing", edits.parameter(path, "bias", lambda b, _: torch.zeros_like(b)), f"{path}: its bias is not added",
            "add it",
        )  # fmt: skip
    for name, norm in model.named_modules():
        if name != path and is_norm(norm) and norm.weight.shape == weight.shape:
            change = [edits.parameter(path, "weight", take(name, "weight"))]
            if isinstance(bias, torch.Tensor) and isinstance(getattr(norm, "bias", None), torch.Tensor):
                change.append(edits.parameter(path, "bias", take(name, "bias")))
            yield Hypothesis(
                "norm.wrong_weight",
                edits.together(*change),
                f"{path} has the weight of {name}",
                "correct the name that the weight is loaded by",
            )
    yield from propose_kind(path, module)
    yield from propose_eps(question, path, module)
    if not shifted:
        yield from propose_factor(question, path, "norm.weight_scale")


def propose_kind(path, module):
    if isinstance(module, torch.nn.LayerNorm):

        def uncentred(norm, original, x):
            y = x.double() if x.dtype == torch.float64 else x.float()
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.eps)
            return (y.to(x.dtype) * norm.weight) + (norm.bias if norm.bias is not None else 0)

        yield Hypothesis(
            "norm.type",
            edits.forward(path, uncentred),
            f"{path}: the mean is not subtracted",
            "LayerNorm subtracts the mean",
        )
    else:

        def centred(norm, original, x, *args, **kwargs):
            wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            return original((x - wide.mean(-1, keepdim=True).to(x.dtype)), *args, **kwargs)

        yield Hypothesis(
            "norm.type",
            edits.forward(path, centred),
            f"{path}: the mean is subtracted",
            "RMSNorm does not subtract the mean",
        )


def propose_eps(question, path, module):
    for name in EPS:
        value = getattr(module, name, None)
        if not isinstance(value, float):
            continue

        def made(number, name=name):
            return edits.attribute(path, name, number)

        if not question.changes(made(value * 10 + 1e-3)):
            continue
        tried = [1e-5, 1e-6, 1e-8, 1e-12, 0.0, 1e-3]
        tried += nice_numbers(question.fit(1e-12, 1.0, made, steps=16, start=1e-4, kind="eps"))
        for number in dict.fromkeys(tried):
            if number != value:
                yield Hypothesis(
                    "norm.eps", made(number), f"{path} computes with eps {number:.5g}, where {value:g} is right",
                    "take eps from the config", value, number, parameters=1, quiet=True,
                )  # fmt: skip
