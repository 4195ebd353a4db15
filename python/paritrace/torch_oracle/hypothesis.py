"""A known mistake as an edit of the model, and what every proposer needs of the site it is asked about."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch

EXPLAINS = 0.05  # a fit that leaves less of the error needs no other start


@dataclass
class Hypothesis:
    cause: str
    edit: object  # edit(model, tap), a context manager
    statement: str
    fix: str
    expected: object = None
    found: object = None
    parameters: int = 0  # numbers that were fitted: of two that explain equally well the one with fewer stands
    sharp: bool = False  # a matter of rounding: stands only if the values equal it to the bit
    quiet: bool = False  # can be smaller than the rounding
    key: tuple = field(default=())  # what the same mistake is at another site


class Question:
    """A site and the stretch of the model between it and the recorded values before it.

    paths    modules whose own code or weights lie in the stretch; nearby: these and what holds them
    """

    def __init__(self, replay, site):
        self.replay = replay
        self.site = site
        self.model = replay.exact
        self.paths = sorted(path for path in site.origin.modules if path)
        nearby = set(self.paths)
        for path in self.paths:
            parent = path.rpartition(".")[0]
            if parent and not isinstance(self.model.get_submodule(parent), torch.nn.ModuleList):
                nearby.add(parent)
        self.nearby = sorted(nearby)
        self.module_of = {path: self.model.get_submodule(path) for path in self.nearby}
        self.config = (
            self.model.config.get_text_config() if hasattr(self.model.config, "get_text_config") else self.model.config
        )

    def value(self, edit, predicted=False):
        """The site in its layout with an edit applied, or None."""
        value = self.replay.evaluate(self.site.key, edit, predicted)
        if value is None or value.shape != self.site.seen.value.shape:
            return None
        return self.site.layout(value)

    def residual(self, edit, predicted=False):
        value = (
            self.value(edit, predicted) if edit is not None else (self.site.predicted if predicted else self.site.exact)
        )
        return residual(self.site.recorded, value)

    def changes(self, edit):
        """Does the site depend on it at all?"""
        value = self.value(edit)
        return value is not None and not np.array_equal(value, self.site.exact, equal_nan=True)

    def fit(self, low, high, make, steps=12, start=1.0, kind=None):
        """The x in [low, high] of the smallest residual in f64, searched on log(x): Gauss-Newton from `start`, else from the best
        point of a scan. kind: what is fitted; a number that explained another site is tried before anything else."""
        recorded = self.site.recorded
        before = residual(recorded, self.site.exact)
        found = [math.log(x) for x in self.replay.fitted.get(kind, ())]
        first, last = math.log(low), math.log(high)

        def cost(at):
            return self.residual(make(math.exp(at)))

        def descend(at, width):
            value = self.value(make(math.exp(at)))
            best = residual(recorded, value)
            for _ in range(8):
                step = 1e-4
                beside = self.value(make(math.exp(at + step)))
                if value is None or beside is None:
                    break
                slope = (beside - value) / step
                good = np.isfinite(slope) & np.isfinite(recorded) & np.isfinite(value)
                square = float(np.sum(slope[good] ** 2))
                if square == 0:
                    break
                move = float(np.sum((recorded - value)[good] * slope[good])) / square
                move = min(max(move, -width), width)
                there = min(max(at + move, first), last)
                value = self.value(make(math.exp(there)))
                now = residual(recorded, value)
                if not now < best:
                    break
                at, best = there, now
                if abs(move) < 1e-9:
                    break
            return best, at

        results = [(cost(at), at) for at in found]
        if not results or not min(results)[0] < EXPLAINS * before:
            width = (last - first) / steps
            results.append(descend(math.log(start), width))
            if not min(results)[0] < EXPLAINS * before:
                scanned = min((cost(first + i * width), first + i * width) for i in range(steps + 1))
                results.append(descend(scanned[1], width))
        best, at = min(results)
        if kind is not None and best < EXPLAINS * before:
            self.replay.fitted.setdefault(kind, []).append(math.exp(at))
        return math.exp(at)


def residual(recorded, value):
    """Root of sum (recorded - value)^2 over sum recorded^2; each value that is finite on one side only counts like one wrong
    by ten times its size (as src/diagnose/hypothesis.cc)."""
    if value is None or value.shape != recorded.shape:
        return math.inf
    both = np.isfinite(recorded) & np.isfinite(value)
    broken = np.count_nonzero(~both & ~((recorded == value) | (np.isnan(recorded) & np.isnan(value))))
    error = np.sum((recorded[both] - value[both]) ** 2)
    signal = np.sum(recorded[both] ** 2) or 1.0
    return math.sqrt(error / signal + 100.0 * broken / max(recorded.size, 1))


def nice_numbers(value):
    """Numbers near `value` that a person would have written: 1, 2, 3 and 5 digits, and itself last."""
    if not math.isfinite(value) or value == 0:
        return []
    numbers = []
    for digits in (1, 2, 3, 5):
        nice = float(f"{value:.{digits - 1}e}")
        if nice not in numbers:
            numbers.append(nice)
    return [*numbers, value]
