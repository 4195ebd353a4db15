"""Six mistakes that can be made in nearly any architecture, found by the module tree alone.

Each function takes a loaded model and returns (causes, paths, undo): the ids that are right, the module paths below which the first
defect may be placed, and what takes the mistake back; None where the architecture has no such thing.
"""

import importlib
import re

import torch
from torch.overrides import TorchFunctionMode
from transformers.activations import ACT2FN


def layers_of(model):
    """(path, [blocks]) of the longest list of equal blocks."""
    lists = [(path, list(module)) for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)]
    lists = [(path, blocks) for path, blocks in lists if len(blocks) >= 2 and type(blocks[0]) is type(blocks[1])]
    return min(lists, key=lambda row: row[0].count("."), default=None)


def linears(block):
    return [
        (name, m) for name, m in block.named_modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D"
    ]


def attention_of(block):
    """(name, module) of what splits heads."""
    for name, module in block.named_modules():
        if (
            hasattr(module, "scaling")
            and isinstance(module.scaling, float)
            and re.search("att", type(module).__name__, re.I)
        ):
            return name, module
    return None


def keeping(parameter, change):
    before = parameter.data
    parameter.data = change(before).contiguous()
    return lambda: setattr(parameter, "data", before)


def scalar(model, number):
    """The attention's scale, a norm's eps or RoPE's base, in turn."""
    found = layers_of(model)
    path, blocks = found
    kinds = [_scale, _eps, _theta]
    for kind in kinds[number % 3 :] + kinds[: number % 3]:
        result = kind(model, path, blocks)
        if result is not None:
            return result
    return None


def _scale(model, path, blocks):
    attention = attention_of(blocks[1])
    if attention is None:
        return None
    name, module = attention
    before = module.scaling
    module.scaling = before * 1.3
    return {"attn.scale"}, [f"{path}.1.{name}"], lambda: setattr(module, "scaling", before)


def _eps(model, path, blocks):
    for name, module in blocks[0].named_modules():
        for key in ("variance_epsilon", "eps"):
            if isinstance(getattr(module, key, None), float) and isinstance(
                getattr(module, "weight", None), torch.Tensor
            ):
                before = getattr(module, key)
                setattr(module, key, 0.02)
                return {"norm.eps"}, [f"{path}.0.{name}"], lambda m=module, k=key, b=before: setattr(m, k, b)
    return None


def _theta(model, path, blocks):
    for name, module in model.named_modules():
        table = getattr(module, "inv_freq", None)
        if isinstance(table, torch.Tensor) and table.numel() > 1 and float(table[0]) == 1.0 and float(table[1]) < 1.0:
            base = float(table[1]) ** (-table.numel())
            before = table.clone()
            table.copy_(before ** (torch.log(torch.tensor(0.2 * base)) / torch.log(torch.tensor(base))))
            return {"rope.theta"}, [path, name], lambda t=table, b=before: t.copy_(b)
    return None


def activation(model, number):
    path, blocks = layers_of(model)
    for name, module in blocks[1].named_modules():
        for key in (
            "act_fn",
            "act",
            "activation_fn",
            "activation",
            "intermediate_act_fn",
            "activation_function",
            "hidden_act",
        ):
            held = getattr(module, key, None)
            if callable(held) and not isinstance(held, type):
                right = held(torch.tensor([1.0, -1.0]))
                other = "silu" if not torch.allclose(right, ACT2FN["silu"](torch.tensor([1.0, -1.0]))) else "gelu"
                setattr(module, key, ACT2FN[other])
                return (
                    {"mlp.activation"},
                    [f"{path}.1.{name}".rstrip(".")],
                    lambda m=module, k=key, h=held: setattr(m, k, h),
                )
    return None


def mask(model, number):
    """Later keys are seen in one layer (an encoder hides them there)."""
    path, blocks = layers_of(model)
    attention = attention_of(blocks[1])
    space = importlib.import_module(type(model).__module__)
    real = getattr(space, "eager_attention_forward", None)
    if attention is None or real is None:
        return None
    name, target = attention
    used = []

    def wrong(module, query, key, value, attention_mask, *args, **kwargs):
        if module is target:
            used.append(1)
            n, m = query.shape[-2], key.shape[-2]
            hidden = torch.ones(n, m, dtype=torch.bool).triu(m - n + 1)
            causal = attention_mask is not None and bool((attention_mask[0, 0] < -1e30).any())
            attention_mask = torch.zeros(1, 1, n, m, dtype=query.dtype)
            if not causal:
                attention_mask = attention_mask.masked_fill(hidden, torch.finfo(query.dtype).min)
        return real(module, query, key, value, attention_mask, *args, **kwargs)

    space.eager_attention_forward = wrong
    return (
        {"attn.mask_missing", "attn.mask_extra", "attn.window"},
        [f"{path}.1.{name}"],
        lambda: setattr(space, "eager_attention_forward", real),
    )


def transposed(model, number):
    path, blocks = layers_of(model)
    for name, module in linears(blocks[0]):
        if module.weight.dim() == 2 and module.weight.shape[0] == module.weight.shape[1]:
            return {"linear.transposed"}, [f"{path}.0.{name}"], keeping(module.weight, lambda w: w.T)
    return None


class _SkipFirstSum(TorchFunctionMode):
    """The first sum of two tensors of the block's width in the block's own code gives the second of them."""

    def __init__(self, block, newest):
        super().__init__()
        self.block, self.depth, self.done, self.newest = block, 0, False, newest

    def __torch_function__(self, function, types, args=(), kwargs=None):
        sums = (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__)
        if (
            function in sums
            and self.depth == 0
            and not self.done
            and all(isinstance(a, torch.Tensor) for a in args[:2])
        ):
            if args[0].shape == args[1].shape and args[0].is_floating_point():
                self.done = True
                return next((a for a in args[:2] if a is self.newest[0]), args[1]).clone()
        return function(*args, **(kwargs or {}))


def residual(model, number):
    """A bias left out in one layer or, in turn and where there is none, the stream dropped at its first residual sum."""
    path, blocks = layers_of(model)
    biased = [(name, m) for name, m in linears(blocks[1]) if getattr(m, "bias", None) is not None]
    if biased and number % 2 == 0:
        name, module = biased[number % len(biased)]
        return {"linear.bias_missing"}, [f"{path}.1.{name}"], keeping(module.bias, torch.zeros_like)
    block, newest, used = blocks[1], [None], []
    real = block.forward

    def wrong(*args, **kwargs):
        with _SkipFirstSum(block, newest) as mode:
            hooks = []
            for child in block.children():
                hooks.append(child.register_forward_pre_hook(lambda *_: setattr(mode, "depth", mode.depth + 1)))

                def after(module, inputs, output):
                    mode.depth -= 1
                    newest[0] = output[0] if isinstance(output, tuple) else output

                hooks.append(child.register_forward_hook(after))
            try:
                return real(*args, **kwargs)
            finally:
                used.append(mode.done)
                for hook in hooks:
                    hook.remove()

    block.forward = wrong

    def undo():
        del block.forward
        return any(used)

    return {"residual.missing"}, [f"{path}.1", f"{path}.2"], undo


def swapped(model, number):
    """Two layers' weights of one kind exchanged."""
    path, blocks = layers_of(model)
    pairs = [(name, m, dict(linears(blocks[1])).get(name)) for name, m in linears(blocks[0])]
    pairs = [row for row in pairs if row[2] is not None and row[1].weight.shape == row[2].weight.shape]
    if not pairs:
        return None
    name, one, two = pairs[-1]
    first, second = one.weight.data, two.weight.data
    one.weight.data, two.weight.data = second.clone(), first.clone()

    def undo():
        one.weight.data, two.weight.data = first, second

    return {"linear.wrong_layer"}, [f"{path}.0.{name}"], undo


FAULTS = (scalar, activation, mask, transposed, residual, swapped)
