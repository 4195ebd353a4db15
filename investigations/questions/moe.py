"""Is it routing at all? Is it within noise? Where is the first defect?"""

import evidence
import reference_nomic
import subjects

WRONG = ["mlp.activation", "moe.expert_order"]  # 1.6e-3 at a dense layer's output, and a mixture off by its own size

ROUTING = ("moe.router_logits", "moe.probs", "moe.experts", "moe.weights")


def answers(investigation):
    model = investigation.model_file()
    reference = investigation.out / "hf-bf16"
    tokens = investigation.long_prompt()
    reference_nomic.record(model, tokens, reference)
    clean = investigation.diagnose(investigation.trace(tokens=tokens, folder="clean-long"))
    published = investigation.diagnose(reference)
    trace = investigation.trace(WRONG, tokens=tokens)
    wrong = investigation.diagnose(trace)
    mixtures = len({row["site"] for row in wrong["noise"] if row["site"].endswith("moe.out")})

    yield "Is the engine right, without a mistake?", evidence.causes(clean)
    yield (
        f"Is it routing? ({len(tokens)} tokens through {mixtures} mixtures, {len(tokens) * mixtures} choices)",
        f"the engine in f32: {evidence.flips(clean)}. Hugging Face's form in bf16: {evidence.flips(published)}; "
        f"its verdict: {published['verdict'].replace('_', ' ')}",
    )
    difference = investigation.diff(reference, trace)
    first = difference["first_divergence"]
    yield (
        f"With {' and '.join(WRONG)} made: what does a comparison alone say?",
        f"diverged from {first['site']} on; the last layer differs by "
        f"{evidence.worst(difference, 'out'):.2g} at most. It cannot say why",
    )
    blamed = len(wrong["defects"])
    yield "Is that within noise?", f"{'no' if blamed else 'yes'}: {blamed} sites add what f32 cannot explain"
    yield (
        "Where is the first defect, and what is it?",
        f"{wrong['defects'][0]['site']}: {wrong['defects'][0]['cause']['statement']}",
    )
    yield "All of them?", evidence.causes(wrong)
    routers = [row for row in wrong["defects"] if row["site"].split(".", 2)[-1] in ROUTING]
    innocent = not routers and all(flip["benign"] for flip in wrong["routing"])
    yield (
        "Is it routing sensitivity, then?",
        (
            f"{'no' if innocent else 'it is not cleared'}: {evidence.flips(wrong)}: they are inherited from the mistakes, and "
            f"{len(routers) or 'no'} router is a defect "
            f"(mixture of experts: {evidence.cleared(wrong, 'mixture of experts')})"
        ),
    )
    yield (
        "What was cleared?",
        evidence.cleared(wrong, "token embedding", "norms", "RoPE", "attention scores, mask and softmax"),
    )
    if investigation.model is None:
        file = investigation.gguf("f32")
        trace = investigation.out / "llamacpp"
        subjects.capture("llamacpp", file, tokens, trace, "--flash-attn", "off")
        yield (
            "And llama.cpp, on a GGUF of the same model?",
            (
                f"against its file: {evidence.causes(investigation.diagnose(trace, file))}. Against the published folder: "
                f"{evidence.causes(investigation.diagnose(trace))}"
            ),
        )
