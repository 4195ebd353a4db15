"""Judges a replayed site by the statistics and thresholds of the program (src/diagnose: site_stats.h, verdict.h)."""

import numpy as np

from paritrace import _core
from paritrace.torch_oracle.subject import MASKED, fit


class Site:
    """A recorded site with everything that was replayed of it; arrays are [rows, features] or [heads, queries, keys]."""

    def __init__(self, replay, seen):
        self.key = seen.key
        self.seen = seen
        self.step, self.name = seen.key
        self.label = seen.site or seen.entry.site or self.name
        plain = self.name.partition("#")[0]  # of a repeated name
        self.is_scores = plain.endswith((":scores", ":probs")) or self.label.endswith(("attn.scores", "attn.probs"))
        self.storage = replay.storage.get(seen.key, "f32")
        self.origin = seen.origin
        recorded, _ = fit(replay.subject.values(seen.entry), seen.value.shape)
        self.recorded = self.layout(recorded)
        self.exact = self.layout(seen.value)
        predicted, unforced = replay.predicted.get(seen.key), replay.unforced.get(seen.key)
        self.predicted = self.layout(predicted) if predicted is not None else self.exact
        self.unforced = self.layout(unforced) if unforced is not None and unforced.shape == seen.value.shape else None
        self.head_width = seen.head_width if not self.is_scores and seen.head_width else 0
        if self.head_width and self.recorded.shape[-1] % self.head_width:
            self.head_width = 0
        # Each operation on the way rounds once; in f32 one sample of them may be exact by luck.
        self.roundings = min(max(self.origin.operations, 1), 4) if self.origin is not None else 1

    def layout(self, array):
        array = np.asarray(array, dtype=np.float64)
        if self.is_scores and array.ndim >= 2:
            array = array.reshape(-1, *array.shape[-2:])
            return np.ascontiguousarray(np.where(array <= MASKED, -np.inf, array))
        return np.ascontiguousarray(array.reshape(-1, array.shape[-1] if array.ndim else 1))

    def judge(self, exact=None, predicted=None):
        """dict of _core.judge_site; exact and predicted: those of a hypothesis, in the site's layout."""
        return _core.judge_site(
            self.recorded,
            self.exact if exact is None else exact,
            self.predicted if predicted is None else predicted,
            self.unforced if exact is None else None,
            self.storage,
            self.roundings,
            self.head_width,
        )
