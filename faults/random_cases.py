"""Cases drawn at random: shape of the model, spread of its weights, length, engine, arithmetic, recorded sites, mistake."""

import math
import random
import tomllib

import cases

import models

ENGINES = {  # engine: (architectures, arithmetics)
    "hf": (["llama", "mistral", "qwen2", "qwen3", "gemma2", "mixtral", "qwen2_moe", "bert"], ["f32", "bf16", "f16"]),
    "jax": (["llama", "mistral", "qwen2", "qwen3"], ["f32", "bf16"]),
    "onnx": (["llama", "mistral", "qwen2", "qwen3", "bert"], ["f32"]),
    "llama.cpp": (["llama", "qwen2", "qwen3", "gemma2", "mixtral", "qwen2_moe"], ["f32", "f16", "q8_0", "q4_0"]),
}


def log_even(rng, low, high):
    value = math.exp(rng.uniform(math.log(low), math.log(high)))
    return float(f"{value:.3g}")


def draw_shape(rng, architecture, engine):
    """A models.Shape whose sizes an actual model could have, at a hundredth of the scale."""
    dim = rng.choice([8, 16, 32, 64])
    kv_heads = rng.choice([1, 2, 3, 4])
    groups = rng.choice([1, 2, 3, 4])
    heads = kv_heads * groups
    own_width = architecture in ("qwen3", "gemma2") or (architecture == "llama" and rng.random() < 0.3)
    hidden = heads * rng.choice([8, 12, 16]) if own_width else heads * dim
    while hidden > 256 or (not own_width and hidden < 32):
        dim, hidden = (dim // 2, hidden // 2) if hidden > 256 else (dim * 2, hidden * 2)
    options = dict(
        hidden_size=hidden,
        intermediate_size=rng.choice([80, 96, 160, 256]),
        num_hidden_layers=rng.choice([1, 2, 3, 4]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=rng.choice([131, 300, 1000]),
        max_position_embeddings=256,
    )
    if own_width:
        options["head_dim"] = dim
    if architecture == "bert":
        options |= dict(layer_norm_eps=rng.choice([1e-12, 1e-5]), hidden_act=rng.choice(["gelu", "gelu_new"]))
        options["num_hidden_layers"] = max(2, options["num_hidden_layers"])
    else:
        options |= dict(rms_norm_eps=rng.choice([1e-6, 1e-5]), tie_word_embeddings=rng.random() < 0.4)
        options["rope_parameters"] = dict(rope_type="default", rope_theta=rng.choice([1e4, 5e5, 1e6]))
    if architecture == "llama" and engine != "llama.cpp" and rng.random() < 0.2:
        options["rope_parameters"] = models.LLAMA3
    if architecture == "mistral":
        options["sliding_window"] = rng.choice([None, 4, 8, 17])
    if architecture == "gemma2":
        options |= models.GEMMA2 | dict(head_dim=dim, query_pre_attn_scalar=dim, sliding_window=rng.choice([4, 9]))
        options["tie_word_embeddings"] = True
    if architecture == "mixtral":
        options |= dict(num_local_experts=rng.choice([4, 6, 8]), num_experts_per_tok=2)
    if architecture == "qwen2_moe":
        options |= models.QWEN2_MOE | dict(norm_topk_prob=rng.random() < 0.5, num_experts_per_tok=rng.choice([2, 4]))
    return models.Shape(
        architecture,
        options,
        gain=rng.choice([0.3, 1.0, 1.3, 2.0]),
        embed=rng.choice([0.02, 0.1, 0.7, 2.0]),
        spread=rng.choice([0.02, 0.3]),
        seed=rng.randrange(10**6),
    )


def draw_value(rng, rule, shape, count, ill):
    if not isinstance(rule, dict):
        return rule
    if "log" in rule:
        value = log_even(rng, *rule["log"])
        return -value if rule.get("sign") and rng.random() < 0.3 else value
    if "int" in rule:
        return rng.randint(*rule["int"])
    if "of" in rule:
        return rng.choice(rule["of"])
    if "layer" in rule:
        return rng.choice([i for i in range(shape.options["num_hidden_layers"]) if i not in ill])
    return rng.randrange(max(1, count - 1))  # a token


def fits(range_, engine, architecture, arithmetic, shape):
    if engine not in range_["engines"] or architecture not in range_["architectures"]:
        return False
    if arithmetic not in range_.get("arithmetic", [arithmetic]):
        return False
    options = shape.options
    if range_["fault"] == "bert_activation" and options["hidden_act"] != "gelu":
        return False  # gelu_new is the tanh form already
    if range_["fault"] == "rope_theta" and options["rope_parameters"]["rope_type"] != "default":
        return False  # another base without the scaling is two mistakes
    if range_.get("needs") == "gqa":
        return options["num_attention_heads"] > options["num_key_value_heads"] > 1
    if range_.get("needs") == "untied":
        return not options.get("tie_word_embeddings")
    if any(isinstance(rule, dict) and "layer" in rule for rule in range_.get("with", {}).values()):
        return options["num_hidden_layers"] > 1
    return not (range_["fault"] == "moe_top_k" and options["num_experts_per_tok"] > 4)


def draw_fault(rng, ranges, case, shape):
    """Puts one mistake into the case. False where the catalogue has none for this engine and model."""
    rows = [r for r in ranges if fits(r, case.engine, shape.architecture, case.arithmetic, shape)]
    if not rows:
        return False
    row = rng.choice(rows)
    layers = list(range(shape.options["num_hidden_layers"]))
    ill = [rng.choice(layers)] if row.get("one") or rng.random() < 0.4 else layers
    whole_file = case.engine == "llama.cpp" or (case.engine == "onnx" and row["fault"] == "rope_theta")
    ill = layers if whole_file and row["fault"] in ("rope_theta", "norm_eps") else ill
    parameters = {key: draw_value(rng, rule, shape, len(case.tokens), ill) for key, rule in row.get("with", {}).items()}
    options = shape.options
    dim = options.get("head_dim", options["hidden_size"] // options["num_attention_heads"])
    found = row.get("found")
    if isinstance(found, str) and found.startswith("= "):
        found = eval(found[2:], {"__builtins__": {}}, parameters | {"dim": dim})
    sites = [site.format(**parameters) for site in row["sites"]]
    case.faults = [(row["fault"], parameters, ill)]
    shown = cases.sites_shown({"sites": sites, "modules": sites}, ill, case.recorded)
    case.causes = [({row["cause"], *row.get("also", [])}, shown, found)]
    what = " ".join(f"{key}={value}" for key, value in parameters.items())
    case.name += f" {row['fault']} {what} layers {ill}"
    return True


def draw(count, seed):
    """`count` cases, one in four of them clean; the same for the same seed."""
    ranges = tomllib.loads((cases.CATALOGUE / "ranges.toml").read_text())["range"]
    made = 0
    for number in range(20 * count):
        if made == count:
            return
        rng = random.Random(f"{seed}/{number}")
        engine = rng.choices(list(ENGINES), [5, 2, 2, 2])[0]
        architecture = rng.choice(ENGINES[engine][0])
        arithmetic = rng.choice(ENGINES[engine][1])
        shape = draw_shape(rng, architecture, engine)
        name = f"random-{seed}-{number}"
        models.SHAPES[name] = shape
        length = rng.choice([2, 3, 5, 9, 16, 24, 40, 70])
        tokens = [rng.randrange(shape.options["vocab_size"]) for _ in range(length)]
        decode = rng.choice([0, 0, 1, 3]) if architecture != "bert" and engine != "onnx" else 0
        recorded = rng.choices(["all", "layers", "logits"], [8, 1, 1] if engine != "llama.cpp" else [1, 0, 0])[0]
        if architecture == "bert" and recorded == "logits":
            recorded = "layers"  # an encoder has none
        attention = rng.choice(["on", "off"]) if engine == "llama.cpp" else "eager"
        case = cases.Case(
            f"{name} {engine} {architecture} {arithmetic} {recorded} {length}+{decode}",
            engine, name, arithmetic, recorded, attention=attention, tokens=tokens, decode=decode,
        )  # fmt: skip
        if rng.random() < 0.25 or draw_fault(rng, ranges, case, shape):
            made += 1
            yield case
