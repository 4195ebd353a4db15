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
        f"yes: {evidence.causes(wrong)}, which is {wrong['defects'][0]['cause']['found'] * math.sqrt(width):.3f} / sqrt({width})",
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
        file, ours = investigation.gguf("tq2_0"), investigation.out / "llamacpp"
        subjects.capture("llamacpp", file, investigation.tokens(), ours, "--decode", investigation.plan["decode"])
        listing = subjects.show(ours)
        yield (
            '"llama.cpp does not expose intermediates"?',
            (
                f"it does: {len(listing['tensors'])} tensors of a run of the TQ2_0 file, {evidence.causes(investigation.diagnose(ours, file))} "
                f"of that file. Against the published folder: {evidence.causes(investigation.diagnose(ours))}"
            ),
        )
        weights = investigation.weights(file)
        yield "Are the norm weights of the GGUF the published ones?", evidence.norms(weights)
