"""RoPE: angles of another base, positions, direction or rule, other pairs, none."""

import inspect

import numpy as np
import torch

from paritrace.torch_oracle import edits
from paritrace.torch_oracle.hypothesis import Hypothesis, nice_numbers


def _spaces(question):
    seen = {}
    for path in question.nearby:
        space = inspect.unwrap(type(question.module_of[path]).forward).__globals__
        if callable(space.get("rotate_half")):
            seen[id(space)] = space
    return list(seen.values())


def propose(question):
    for path in question.nearby:
        module = question.module_of[path]
        tables = [
            name
            for name, _ in module.named_buffers(recurse=False)
            if name.endswith("inv_freq") and "original" not in name
        ]
        if tables:
            yield from _angles(question, path, module, tables)


def _turned(path, change):
    """change(cos, sin) after the rotary module."""

    def wrap(module, original, *args, **kwargs):
        result = original(*args, **kwargs)
        return change(*result) if isinstance(result, tuple) and len(result) == 2 else result

    return edits.forward(path, wrap)


def _shifted(path, offset):
    def wrap(module, original, *args, **kwargs):
        def move(x):
            return x + offset if isinstance(x, torch.Tensor) and not x.is_floating_point() else x

        return original(*[move(x) for x in args], **{key: move(x) for key, x in kwargs.items()})

    return edits.forward(path, wrap)


def _angles(question, path, module, tables):
    def frequencies(change):
        return edits.together(*[edits.parameter(path, name, lambda f, _: change(f)) for name in tables])

    if not question.changes(frequencies(lambda f: f * 1.5)):
        return
    base = getattr(module, "config", question.config)
    base = getattr(base, "rope_parameters", None) or {}
    base = base.get("rope_theta") or next(
        (v.get("rope_theta") for v in base.values() if isinstance(v, dict) and v.get("rope_theta")), None
    )
    plain = [
        (
            "rope.missing",
            _turned(path, lambda c, s: (torch.ones_like(c), torch.zeros_like(s))),
            "RoPE is not applied",
            "apply RoPE",
        ),
        ("rope.direction", _turned(path, lambda c, s: (c, -s)), "turned the other way", "swap the sign of the sine"),
        ("rope.twice", frequencies(lambda f: 2 * f), "turned by twice the angle", "apply it once"),
    ]
    for cause, edit, statement, fix in plain:
        yield Hypothesis(cause, edit, statement, fix)
    for offset in (1, -1, 2, -2, 3):
        yield Hypothesis(
            "rope.position_offset",
            _shifted(path, offset),
            f"positions are shifted by {offset}",
            "number the positions from the sequence's first token",
            0,
            offset,
        )
    for space in _spaces(question):
        right = space["rotate_half"](torch.arange(1.0, 5.0))
        half = right.tolist() == [-3.0, -4.0, 1.0, 2.0]

        def other(x, half=half):
            if half:
                return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            first, second = x.chunk(2, -1)
            return torch.cat((-second, first), -1)

        def lanes(c, s, half=half):
            n = c.shape[-1] // 2
            if half:
                return c[..., :n].repeat_interleave(2, -1), s[..., :n].repeat_interleave(2, -1)
            return torch.cat((c[..., ::2],) * 2, -1), torch.cat((s[..., ::2],) * 2, -1)

        yield Hypothesis(
            "rope.interleaved" if half else "rope.half_split",
            edits.together(edits.function(space, "rotate_half", other), _turned(path, lanes)),
            "neighbouring lanes are turned where the model pairs lanes half a head apart" if half else "lanes half a head apart are turned where neighbours are right",
            "turn the pairs of the model, or permute the rows of q and k when converting",
        )  # fmt: skip
    if base and base > 1:
        scale = question.fit(0.25, 4.0, lambda x: frequencies(lambda f: f**x), steps=16, kind=("theta", path))
        for number in nice_numbers(float(base) ** scale):
            if number > 1:
                exponent = float(np.log(number) / np.log(base))
                yield Hypothesis(
                    "rope.theta", frequencies(lambda f, e=exponent: f**e), f"angles of base {number:.6g} where {base:g} is right",
                    "read the base from the config", float(base), number, parameters=1, quiet=True,
                )  # fmt: skip
    if not question.flagged:
        return
    factor = question.fit(0.02, 50.0, lambda x: frequencies(lambda f: f * x), steps=16, kind=("frequencies", path))
    for number in nice_numbers(factor):
        yield Hypothesis(
            "rope.scaling",
            frequencies(lambda f, n=number: f * n),
            f"angles are {number:.5g} times those of the config",
            "implement the config's rule with its parameters",
            1.0,
            number,
            parameters=1,
        )
    size = question.fit(0.1, 10.0, lambda x: _turned(path, lambda c, s: (c * x, s * x)), kind=("magnitude", path))
    for number in nice_numbers(size):
        yield Hypothesis(
            "rope.magnitude",
            _turned(path, lambda c, s, n=number: (c * n, s * n)),
            f"q and k are {number:.5g} times as long",
            "apply the scaling rule's attention factor once",
            1.0,
            number,
            parameters=1,
        )
