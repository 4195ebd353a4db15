"""Which known mistake explains a site? Proposes, ranks, and accepts only what brings the site back within its noise.

The rules and figures are those of src/diagnose/search.cc and sharpness.cc, for edits of Hugging Face's modules in place of
edits of a graph.
"""

import math

import numpy as np

from paritrace.torch_oracle import (
    propose_activation,
    propose_mask,
    propose_precision,
    propose_residual,
    propose_rope,
    propose_scalars,
    propose_weights,
)
from paritrace.torch_oracle.hypothesis import Question, residual

PROPOSERS = (
    propose_weights,
    propose_activation,
    propose_residual,
    propose_mask,
    propose_rope,
    propose_precision,
    propose_scalars,
)
WORTH_TRYING = 0.5  # a hypothesis is worth judging if it takes away at least half of the error
TRIED = 12
TIE = 1.5  # two explanations whose leftovers differ by less cannot be told apart on this input
CHANCE = 1e-6  # a mistake below the noise is named if chance would do so in fewer than one site of a million
ABOVE_ORDER = 8
FEWEST, HITS = 16, 0.97  # sharpness.cc


class Outcome:
    def __init__(self, hypothesis, stats):
        self.hypothesis = hypothesis
        self.stats = stats
        self.leftover = math.sqrt(stats["left"] + 0.1 * stats["order"])


def explain(replay, site, stats, known):
    """A finding (dict of cause, alternatives, where) or None where nothing is wrong. known: keys of what explained other sites."""
    if site.origin is None or (not stats["flagged"] and stats["explained"]):
        return None
    question = Question(replay, site)
    question.flagged = stats["flagged"]
    if not stats["flagged"]:
        # In f32 a whole row shares its sum's rounding: a mistake must stand well above what the order of summation leaves.
        hidden = site.storage not in ("bf16", "f16") and not stats["left"] >= ABOVE_ORDER * stats["order"]
        return None if hidden else _quiet(question, stats)
    outcomes = _try(question, stats)
    best = _best(outcomes)
    return _unknown(question, stats) if best is None else _finding(best, outcomes)


def _proposals(question):
    if not question.flagged:
        yield from propose_weights.propose_quiet(question)
        yield from propose_activation.propose(question)
        yield from propose_rope.propose(question)
        yield from propose_precision.propose(question)
        return
    for proposer in PROPOSERS:
        yield from proposer.propose(question)


def _try(question, stats):
    site = question.site
    before = residual(site.recorded, site.predicted)
    candidates = []
    for hypothesis in _proposals(question):
        value = question.value(hypothesis.edit, predicted=True)
        left = residual(site.recorded, value)
        if left < WORTH_TRYING * before:
            candidates.append((left, len(candidates), hypothesis, value))
    outcomes = []
    for _, _, hypothesis, predicted in sorted(candidates, key=lambda row: row[:2])[:TRIED]:
        exact = question.value(hypothesis.edit)
        if exact is None or _hides(site, exact, predicted):
            continue
        judged = site.judge(exact, predicted)
        fits = _is_sharp(site, predicted, stats) if hypothesis.sharp else not judged["flagged"]
        if judged["count"] > 0 and fits:
            outcomes.append(Outcome(hypothesis, judged))
    return outcomes


def _hides(site, exact, predicted):
    """Where a hypothesis computes nothing finite the recording must hold the same."""
    lost = np.isfinite(site.exact) & ~(np.isfinite(exact) & np.isfinite(predicted))
    same = (site.recorded == predicted) | (np.isnan(site.recorded) & np.isnan(predicted))
    return bool(np.any(lost & ~same))


def _best(outcomes):
    if not outcomes:
        return None
    least = min(outcome.leftover for outcome in outcomes)
    tied = [outcome for outcome in outcomes if outcome.leftover <= TIE * least + 1e-300]
    fewest = min(outcome.hypothesis.parameters for outcome in tied)
    best = next(outcome for outcome in tied if outcome.hypothesis.parameters == fewest)
    # Of the same cause with a fitted number, the one a person would have written.
    for outcome in tied:
        same = outcome.hypothesis.cause == best.hypothesis.cause and isinstance(outcome.hypothesis.found, float)
        if (
            same
            and len(repr(outcome.hypothesis.found)) < len(repr(best.hypothesis.found))
            and outcome.leftover <= 1.05 * best.leftover + 1e-300
        ):
            best = outcome
    return best


def _finding(best, outcomes):
    hypothesis = best.hypothesis
    rivals = {}
    for outcome in outcomes:
        other = outcome.hypothesis
        if other.cause != hypothesis.cause and outcome.leftover <= TIE * best.leftover + 1e-300:
            rivals.setdefault(other.cause, other)
    tied = any(rival.parameters <= hypothesis.parameters for rival in rivals.values())
    confidence = 0.99 / (1 + len(rivals)) if tied else 0.99
    statement = hypothesis.statement
    if hypothesis.cause == "unknown":  # a scalar that no cause of ours stands for: found, and not given another's name
        confidence = 0.0
    alternatives = [{"id": cause, "confidence": confidence if tied else 0.01} for cause in rivals]
    if tied:
        alternatives.insert(0, {"id": hypothesis.cause, "confidence": confidence})
        statement += f"; this input cannot tell it from {next(iter(rivals))}: use a longer prompt with other tokens, or record the sites between"
    cause = {"id": hypothesis.cause, "confidence": confidence, "statement": statement, "fix": hypothesis.fix}
    if hypothesis.expected is not None or hypothesis.found is not None:
        cause |= {"expected": hypothesis.expected, "found": hypothesis.found}
    return {"cause": cause, "alternatives": alternatives, "where": {}}


def _unknown(question, stats):
    size = residual(question.site.recorded, question.site.exact)
    cause = {
        "id": "unknown",
        "confidence": 0.0,
        "statement": f"{stats['broken']} of {stats['count']} values are masked on one side only or not finite, and no known mistake explains them"
        if stats["broken"]
        else f"the error is {size:.2g} of the output, {stats['ratio']:.3g} times the noise, and no known mistake explains it",
        "fix": "look at this op with the recorded inputs; its replay in f64 is what it should give",
    }
    where = {name: list(stats[name]) for name in ("tokens", "heads", "channels") if stats[name]}
    return {"cause": cause, "alternatives": [], "where": where}


def _is_sharp(site, wrong, stats):
    """Do the values that the hypothesis moves equal it? (sharpness.cc)"""
    right, recorded = site.predicted, site.recorded
    good = np.isfinite(recorded) & np.isfinite(right) & np.isfinite(wrong)
    if np.any(~good & (recorded != wrong) & ~(np.isnan(recorded) & np.isnan(wrong))):
        return False
    if site.storage in ("bf16", "f16"):
        tolerance = 0.0
    else:
        tolerance = 4 * math.sqrt(stats["floor"] / max(stats["count"], 1))
    hit = np.abs(recorded - wrong) <= tolerance
    moved = good & (np.abs(wrong - right) > 4 * tolerance)
    still = good & ~moved
    telling, silent = np.count_nonzero(moved), np.count_nonzero(still)
    return (
        telling >= FEWEST
        and np.count_nonzero(hit & moved) >= HITS * telling
        and np.count_nonzero(still & ~hit) <= (1 - HITS) * silent
    )


def _quiet(question, stats):
    """A mistake below the noise: the values that miss the prediction all lie where it would put them (ExplainQuiet)."""
    site = question.site
    proposals = [h for h in _proposals(question) if h.quiet]
    outcomes = []
    for hypothesis in proposals:
        wrong = question.value(hypothesis.edit, predicted=True)
        if wrong is None:
            continue
        right, recorded = site.predicted, site.recorded
        good = np.isfinite(recorded) & np.isfinite(right) & np.isfinite(wrong)
        if np.any(np.isfinite(right) != np.isfinite(wrong)):
            continue
        x, p, h = recorded[good], right[good], wrong[good]
        moved = h != p
        wins = int(np.count_nonzero(moved & (np.abs(x - h) < np.abs(x - p))))
        losses = int(np.count_nonzero(moved)) - wins
        square = float(np.sum((h - p)[moved] ** 2))
        if wins == 0 or square == 0:
            continue
        along = float(np.sum((x - p)[moved] * (h - p)[moved])) / square
        left = float(np.sum((x - h) ** 2))
        place = (wins + losses) / (2.0 * max(x.size, 1))
        chance = place**wins * len(proposals)
        coarse = site.storage in ("bf16", "f16")
        above_order = coarse or square >= ABOVE_ORDER**2 * stats["order"]
        decisive = (
            above_order
            and chance < CHANCE
            and 10 * losses <= wins
            and abs(along - 1) <= 0.1
            and left <= 0.25 * stats["left"]
        )
        if not decisive or (hypothesis.sharp and not _is_sharp(site, wrong, stats)):
            continue
        exact = question.value(hypothesis.edit)
        if exact is not None:
            outcomes.append(Outcome(hypothesis, site.judge(exact, wrong)))
    best = _best(outcomes)
    return None if best is None else _finding(best, outcomes)
