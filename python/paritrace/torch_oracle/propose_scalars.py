"""Scalars of the modules and of the config: each is changed, and where the site depends on it, fitted."""

import re

from paritrace.torch_oracle import edits
from paritrace.torch_oracle.hypothesis import Hypothesis, nice_numbers

# name of an attribute or config field -> (cause, what `found` is)
MEANINGS = [
    (r".*(norm_topk_prob|norm_top_k|normalize_expert|renormalize|moe_renormalize|router_norm).*", "moe.normalised", "value"),
    (r".*(top_k|topk|num_experts_per_tok|num_selected).*", "moe.top_k", "value"),
    (r".*(routed_scaling|router_scal|moe_scal).*", "moe.scale", "factor"),
    (r".*(final_logit_softcap|final_logits?_cap).*", "head.softcap", "value"),
    (r".*(softcap|soft_cap|logit_cap).*", "attn.softcap", "value"),
    (r".*(embed\w*_(scale|multiplier)|embed_scale|scalar_embed_scale|input_scale).*", "embed.scale", "factor"),
    (r".*(residual_(multiplier|scale)|depth_scale|scale_depth).*", "residual.scale", "factor"),
    (r".*(logits?_(scaling|scale|multiplier)|lm_head_multiplier|output_scale).*", "linear.weight_scale", "factor"),
    (r"(scaling|scale|softmax_scale|attn_scale|scale_attn|attention_multiplier|query_pre_attn_scalar|inv_norm_factor|norm_factor|multiplier|attention_scale|sqrt_d)", "attn.scale", "factor"),
    (r".*(window|attention_chunk).*", "attn.window", "value"),
]  # fmt: skip
_SHAPES = re.compile(
    r".*(hidden|size|dim|heads|groups|layer_idx|num_layers|layers|vocab|positions|token_id|_id|in_features|out_features|dropout|prob$|initializer|"
    r"training|seed|length|chunk_size|version|block|kernel|stride|padding).*"
)


def meaning_of(name):
    for pattern, cause, what in MEANINGS:
        if re.fullmatch(pattern, name):
            return cause, what
    return None


def scalars(question):
    """(path, attribute name, value) of everything that may be tried."""
    for path in question.nearby:
        for name, value in vars(question.module_of[path]).items():
            if not name.startswith("_") and isinstance(value, (bool, int, float)):
                yield path, name, value
    for name, value in vars(question.config).items():
        if not name.startswith("_") and isinstance(value, (bool, int, float)):
            # The first module that holds this config: setting it there sets it for all.
            yield from (
                (path, f"config.{name}", value)
                for path in [
                    next(
                        (
                            p
                            for p in question.nearby
                            if getattr(question.module_of[p], "config", None) is question.config
                        ),
                        None,
                    )
                ]
                if path is not None
            )


def propose(question):
    for path, name, value in scalars(question):
        plain = name.removeprefix("config.")
        meaning = meaning_of(plain)
        if "eps" in plain or (meaning is None and _SHAPES.match(plain)):
            continue

        def made(number, path=path, name=name):
            return edits.attribute(path, name, number)

        if isinstance(value, bool):
            if question.changes(made(not value)):
                yield _hypothesis(made(not value), path, plain, meaning, value, not value, 0)
        elif isinstance(value, int):
            for number in range(max(value - 4, 1), value + 5) if meaning is not None else (value - 1, value + 1):
                if number != value and number >= 0 and question.changes(made(number)):
                    yield _hypothesis(made(number), path, plain, meaning, value, number, 1)
        elif value and question.changes(made(value * 1.5)):
            if question.flagged:
                factor = question.fit(
                    0.02, 50.0, lambda x, made=made, value=value: made(x * value), kind=("scalar", plain)
                )
                numbers = nice_numbers(factor * value) + [value * n for n in nice_numbers(factor)]
                for number in dict.fromkeys(numbers):
                    yield _hypothesis(made(number), path, plain, meaning, value, number, 1)


def _hypothesis(edit, path, name, meaning, value, number, parameters):
    cause, what = meaning or ("unknown", "value")
    if cause == "moe.normalised":
        cause = "moe.weights_normalised" if number else "moe.weights_not_normalised"
    if cause == "linear.weight_scale" and re.search(r"scaling$", name):
        expected, found = 1.0, value / number
    elif name == "query_pre_attn_scalar":
        expected, found = 1.0, (value / number) ** 0.5
    elif what == "factor" and not isinstance(value, bool):
        expected, found = 1.0, number / value
    else:
        expected, found = value, number
    shown = f"{number:.5g}" if isinstance(number, float) else str(number)
    usual = f"{value:.5g}" if isinstance(value, float) else str(value)
    return Hypothesis(
        cause, edit, f"{name} of {path} is {shown} where {usual} is right", f"take {name} from the config", expected, found,
        parameters=parameters, key=("scalar", name),
    )  # fmt: skip
