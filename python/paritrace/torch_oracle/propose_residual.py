"""Residual sums: the stream or the block left out, added twice, or times a factor."""

import numpy as np

from paritrace.torch_oracle import edits
from paritrace.torch_oracle.hypothesis import Hypothesis, nice_numbers


def propose(question):
    paths = frozenset(question.paths)
    for index in range(4):
        changed = question.value(edits.addition(paths, index, lambda older, newer: newer))
        if changed is None or np.array_equal(changed, question.site.exact, equal_nan=True):
            continue

        def made(change, index=index):
            return edits.addition(paths, index, change)

        yield Hypothesis(
            "residual.missing", made(lambda older, newer: newer), "the stream is not added", "add the stream"
        )
        yield Hypothesis(
            "residual.twice",
            made(lambda older, newer: older + older + newer),
            "the stream is added twice",
            "add it once",
        )
        yield from _residual_factor(question, made)


def _residual_factor(question, made):
    without = question.value(made(lambda older, newer: older))
    site = question.site
    if without is None:
        return
    step = site.exact - without
    good = np.isfinite(step) & np.isfinite(site.recorded)
    square = np.sum(step[good] ** 2)
    if square == 0:
        return
    factor = float(np.sum((site.recorded - without)[good] * step[good]) / square)
    numbers = [0.0] if abs(factor) < 1e-3 else nice_numbers(factor)
    for number in numbers:
        yield Hypothesis(
            "residual.scale", made(lambda older, newer, f=number: older + f * newer),
            f"the block's output is added {number:.5g} times" if number else "the block's output is not added",
            "add it as the model does", 1.0, number, parameters=0 if number == 0 else 1,
        )  # fmt: skip
