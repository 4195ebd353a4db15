"""Embedding right? Layer 0 in and out? RoPE frequencies? Weights loaded right? Which tokens win? And the false leads."""

import json
import math
import shutil

import evidence
import published
import subjects

FIXED = "norm.weight_twice"  # the one that was found and taken out, with no effect
LEFT = "rope.half_split"
PROJECTIONS = "projections (weights, biases, their quantisation)"


def answers(investigation):
    file, tokens = investigation.model_file(), investigation.tokens()
    reference = investigation.out / "llamacpp"
    subjects.capture("llamacpp", file, tokens, reference)
    clean = investigation.trace()
    both, one = investigation.trace([FIXED, LEFT]), investigation.trace([LEFT])
    wrong, after = investigation.diagnose(both), investigation.diagnose(one)

    unharmed = investigation.diagnose(clean)
    yield "Is the engine right, without a mistake?", evidence.causes(unharmed)
    yield (
        "A norm weight applied twice was fixed with no effect. Why?",
        f"two mistakes, both named in one run: {evidence.causes(wrong)}. With the first fixed: {evidence.causes(after)}",
    )
    yield "Do the named causes explain the output?", wrong.get("counterfactual") or "it was not asked"
    yield "Is the embedding right, against the GGUF's own rows?", evidence.right(wrong, "token embedding")
    yield (
        "Layer 0, what goes in and what comes out?",
        f"{evidence.site(after, 'embed')}; {evidence.site(after, 'layers.0.out')}",
    )
    yield (
        "The RoPE frequencies?",
        (
            f"of all that is looked for in RoPE (theta, scaling, positions, direction, width, pairs) one fits: "
            f"{evidence.ids(after, 'rope.')}; without it: {evidence.cleared(unharmed, 'RoPE')}"
        ),
    )
    yield "Are the weights loaded right?", evidence.right(after, PROJECTIONS)
    for name, trace in (("both mistakes", both), (LEFT, one), ("none", clean)):
        yield f"Which tokens win, with {name}?", winners(investigation, reference, trace)
    if investigation.model is None:
        yield from false_leads(investigation)


def winners(investigation, reference, trace):
    """The best three tokens of the last prompt position on both sides, and how often both agree on the best."""
    folder = subjects.ROOT / investigation.plan["model"]
    tokenizer = investigation.model or folder / "tokenizer.json"
    answer = json.loads(subjects.paritrace("logits", reference, trace, "--tokenizer", tokenizer, "--json", "-"))
    last = [row for row in answer["positions"] if row["step"] == 0][-1]

    def best(side):
        return " ".join(json.dumps(row.get("text", str(row["id"])), ensure_ascii=False) for row in last[side][:3])

    return (
        f"llama.cpp {best('best_reference')}, the engine {best('best_subject')}; "
        f"the same best token at {100 * answer['summary']['top1_agreement']:.0f} % of the positions"
    )


def false_leads(investigation):
    """Each lead is built into a model that is right, and the engine is right: what was suspected is there, and is no cause."""
    folder = investigation.out / "published"
    published.with_small_norms_and_unused_rows(
        subjects.ROOT / investigation.plan["model"], folder, investigation.tokens()
    )
    for kind in ("q8_0", "q4_0"):
        file = folder.with_name(f"published-{kind}.gguf")
        shutil.rmtree(investigation.out / f"published-{kind}", ignore_errors=True)
        subjects.write_gguf(folder, file, kind)
        trace = investigation.trace(model=file, folder=f"published-{kind}")
        diagnosis = investigation.diagnose(trace, file)
        weights = investigation.weights(file, folder)
        if kind == "q8_0":
            yield (
                f"Norm weights 20 times too small (rms {published.NORM_RMS})?",
                (
                    f"{no_cause(diagnosis)}: {evidence.norms(weights)}; {evidence.site(diagnosis, 'layers.0.attn.norm')}; the run is {evidence.causes(diagnosis)}"
                ),
            )
            tiny, rows = published.tiny_scales(file, investigation.tokens())
            yield (
                f"q8_0 scales 10,000 times too small (2^{math.log2(tiny):.0f})?",
                (
                    f"{no_cause(diagnosis)}: all {rows} rows with such scales are tokens that are not in the prompt; "
                    f"token embedding: {evidence.cleared(diagnosis, 'token embedding')}; {evidence.tensor(weights, 'token_embd')}"
                ),
            )
            yield (
                "Shapes reversed?",
                (f"{evidence.pairs(weights)}; GGUF writes the row's length first, the same rows in the same order"),
            )
        else:
            worst = max(
                (row for row in diagnosis["noise"] if evidence.is_projection(row["site"])),
                key=lambda row: row["left_nmse"],
            )
            yield (
                "A fundamental limitation of 4 bits?",
                (
                    f"{no_cause(diagnosis)}: run from q4_0 the engine is {evidence.causes(diagnosis)}; after its rounding is emulated "
                    f"{math.sqrt(worst['left_nmse']):.1e} of a projection's output is left at most (at {worst['site']}); "
                    f"{evidence.rounding(weights)}"
                ),
            )


def no_cause(diagnosis):
    """What a run that carries the mark says of it."""
    return "it may be" if diagnosis["defects"] else "no cause"
