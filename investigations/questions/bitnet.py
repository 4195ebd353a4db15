"""Is it the norm weights, the quantised kernels, attention, or the model?"""

import math

import bitnet_rs
import evidence
import subjects

WRONG = ["norm.weight_scale"]


def answers(investigation):
    clean_trace, trace = investigation.trace(), investigation.trace(WRONG)
    clean, wrong = investigation.diagnose(clean_trace), investigation.diagnose(trace)
    width = investigation.values(trace, "layers.0.attn.norm").shape[-1]
    sizes = [investigation.rms(trace, f"layers.{layer}.attn.norm") for layer in range(investigation.layers(trace))]

    yield "Is the engine right, without a mistake?", evidence.causes(clean)
    yield (
        f"attn_norm has rms {min(sizes):.3f} to {max(sizes):.3f} in all layers (1/sqrt({width}) = {1 / math.sqrt(width):.4f}). Is that it?",
        by_width(wrong, width),
    )
    kinds = "projections (weights, biases, their quantisation)"
    yield "Is it the quantised kernels?", evidence.suspect(wrong, kinds)
    yield "Is it attention?", evidence.suspect(wrong, "RoPE", "attention scores, mask and softmax")
    yield (
        "Is it the model?",
        f"the same file without the mistake: {evidence.causes(clean)}. {wrong.get('counterfactual') or ''}",
    )

    dumps = []
    for name, source in (("right", clean_trace), ("wrong", trace)):
        dumps.append(bitnet_rs.write(source, investigation.out / f"bitnet-rs-{name}"))
    difference = investigation.diff(*dumps)
    factors = {}
    for row in difference["sites"]:
        for statistic in (row.get("evidence") or {}).get("statistics", []):
            if statistic.get("factor"):
                factors.setdefault(statistic["factor"], []).append(row["site"])
    first = next(iter(factors), None)
    yield (
        "And from rms and hash alone, in two BitNet-rs dumps without a value?",
        f"first at {difference['first_divergence']['site']}, by {first}: {evidence.places(factors[first])}"
        if first else "nothing",
    )  # fmt: skip
    if investigation.model is None:
        file = investigation.gguf("tq2_0")
        ours, plain = llamacpp(investigation, "tq2_0"), llamacpp(investigation, "f32")
        yield (
            '"llama.cpp does not expose intermediates"?',
            f"it does: {len(subjects.show(ours)['tensors'])} tensors of a run of the TQ2_0 file, {evidence.causes(investigation.diagnose(ours, file))} "
            f"of that file. Run from an f32 file, against the published folder: {evidence.causes(investigation.diagnose(plain))}",
        )
        weights = investigation.weights(file)
        yield "Are the norm weights of the GGUF the published ones?", evidence.norms(weights)


def llamacpp(investigation, kind):
    """llama.cpp's trace of the plan's model, as GGUF of that type."""
    trace = investigation.out / f"llamacpp-{kind}"
    subjects.capture(
        "llamacpp", investigation.gguf(kind), investigation.tokens(), trace, "--decode", investigation.plan["decode"]
    )
    return trace


def by_width(diagnosis, width):
    """The answer with the factor in terms of the width, where the norms' weights are named."""
    scales = [row["cause"]["found"] for row in diagnosis["defects"] if row["cause"]["id"] == "norm.weight_scale"]
    if not scales:
        return f"no: {evidence.causes(diagnosis)}"
    return f"yes: {evidence.causes(diagnosis)}, which is {scales[0] * math.sqrt(width):.3f} / sqrt({width})"
