"""Is any of it more than bf16's noise? Mask, positions, cache, norm order, residual order?"""

import json

import evidence
import numpy as np
import subjects

TOLERANCE = 1e-4
LENGTHS = (2, 3, 5, 7, 9)
WRONG = "rope.theta"
KINDS = ("RoPE", "attention scores, mask and softmax", "norms", "residual sums")


def answers(investigation):
    short = [Short(investigation, length) for length in LENGTHS]
    yield (
        f"{len(short)} prompts of {LENGTHS[0]} to {LENGTHS[-1]} tokens, bf16 against f32, tolerance {TOLERANCE:g}: how many pass?",
        (
            f"{sum(run.passes for run in short)} of {len(short)}: {', '.join(f'{run.largest:.2g}' for run in short)} is the largest difference. "
            "A bf16 number has 8 bits: the tolerance can only fail"
        ),
    )
    yield (
        "Is any of it more than bf16's noise?",
        (
            f"{sum(run.diagnosis['verdict'] == 'within_noise' for run in short)} of {len(short)} are within noise; "
            f"{100 * min(run.diagnosis['explained']['exact'] for run in short):.1f} % of the values at least are jax-bf16's to the bit"
        ),
    )
    yield (
        "The error correlates with the position, by 0.59 to 1.0. Does it grow?",
        (
            f"correlations {', '.join(f'{run.correlation:.2f}' for run in short)} over {', '.join(map(str, LENGTHS))} positions; "
            f'over two it is always 1 or -1. paritrace growth says of the shortest: "{short[0].growth_says}"'
        ),
    )
    tokens = investigation.long_prompt()
    clean = Floors(investigation, tokens, [])
    wrong = Floors(investigation, tokens, [WRONG])
    yield f"Over {len(tokens)} positions, error against the floor of each?", clean.says()
    yield f"The same with {WRONG} made?", wrong.says()
    yield "And what is it then?", evidence.causes(wrong.diagnosis)
    trace = investigation.trace()
    diagnosis = investigation.diagnose(trace)
    yield (
        "Mask, positions, cache, norm order, residual order?",
        (
            f"{evidence.causes(diagnosis)}, in the prefill and in {investigation.plan['decode']} steps from the cache: {evidence.cleared(diagnosis, *KINDS)}"
        ),
    )
    yield "And if the cache is wrong?", evidence.causes(investigation.diagnose(investigation.trace(["attn.kv_cache"])))


class Short:
    """One short prompt: the engine in bf16 against f32, by what was done once and by what should have been."""

    def __init__(self, investigation, length):
        tokens = investigation.tokens()[:length]
        trace = investigation.trace(tokens=tokens, folder=f"short-{length}", decode=0)
        reference = investigation.oracle("f32", tokens, f"short-{length}-f32")
        rows = {row["site"]: row for row in investigation.diff(reference, trace)["sites"] if row["step"] == 0}
        self.largest = rows["logits"]["max_abs"]
        self.passes = self.largest <= TOLERANCE
        growth = json.loads(subjects.paritrace("growth", reference, trace, "--json", "-", allowed=(0, 1, 3)))
        errors = [point["error"] for point in growth["by_position"]["points"]]
        self.correlation = float(np.corrcoef(errors, range(len(errors)))[0, 1])
        self.growth_says = sentence(subjects.paritrace("growth", reference, trace, allowed=(0, 1, 3)))
        self.diagnosis = investigation.diagnose(trace)


def sentence(report):
    """The answer that a report begins with, in one line."""
    return " ".join(report.split("\n\n", 1)[0].split())


class Floors:
    """The engine's error at the logits by position, over that of jax-bf16 alone: the model run in it by our executor."""

    def __init__(self, investigation, tokens, mistakes):
        name = "+".join(mistakes) or "clean"
        trace = investigation.trace(mistakes, tokens=tokens, folder=f"long-{name}", decode=0)
        exact = investigation.oracle("f64", tokens, "long-f64")
        rounded = investigation.oracle("jax-bf16", tokens, "long-jax-bf16")
        self.errors, self.floors = by_position(exact, trace), by_position(exact, rounded)
        self.diagnosis = investigation.diagnose(trace)

    def says(self):
        ratio = np.array(self.errors) / np.array(self.floors)
        slope, p = evidence.trend(ratio)
        _, alone = evidence.trend(self.errors)
        explained = "noise explains it" if p > 0.01 and np.median(ratio) < 2 else "noise does not explain it"
        return (
            f"error / floor is {ratio.min():.2f} to {ratio.max():.2f}, {np.median(ratio):.2f} in the median; it changes by a factor "
            f"of {np.exp(slope * len(ratio)):.2f} from the first position to the last (p = {p:.2g}; of the error without its floor p = {alone:.2g}): "
            f"{explained}. Floors: {self.floors[0]:.2g} at the first position, {self.floors[-1]:.2g} at the last"
        )


def by_position(reference, trace):
    growth = json.loads(subjects.paritrace("growth", reference, trace, "--json", "-", allowed=(0, 1, 3)))
    return [point["error"] for point in growth["by_position"]["points"]]
