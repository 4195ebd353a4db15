"""Llama, Qwen2 and BitNet b1.58: what llama.cpp calls their tensors and settings."""

from dataclasses import dataclass

import gguf

from gguf_twin import rope, ternary
from gguf_twin.folder import InputError


@dataclass(frozen=True)
class Config:
    """What config.json says, with the defaults of Hugging Face's config classes filled in."""

    architecture: str  # llama.cpp's name
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context: int
    rms_eps: float
    rope_theta: float
    rope: dict  # "rope_type" ("default", "linear" or "llama3") and that type's own parameters
    tied_head: bool
    bos: int | None
    eos: int | None
    pad: int | None


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to write: its name and shape in the folder, its name in the file."""

    source: str
    name: str
    shape: tuple[int, ...]  # row-major, as numpy has it; GGUF stores the dimensions in reverse
    permuted_heads: int = 0  # heads whose rows are reordered; 0: rows stay as they are


ACTIVATIONS = {"llama": "silu", "qwen2": "silu", "bitnet": "relu2"}


def read_config(architecture, settings):
    """Returns the Config of a folder's Settings. InputError where config.json is broken or asks for what is not written."""
    path, raw, integer = settings.path, settings.raw, settings.integer
    if raw.get("quantization_config") and architecture != "bitnet":
        raise InputError(
            f"{path}: the weights are quantised already (quantization_config), floating-point ones are needed"
        )
    settings.expect("hidden_act", [ACTIVATIONS[architecture]], ACTIVATIONS[architecture])
    if raw.get("use_sliding_window"):
        raise InputError(f"{path}: use_sliding_window is not supported")
    hidden, heads = integer("hidden_size"), integer("num_attention_heads")
    kv_heads, head_dim = integer("num_key_value_heads", heads), integer("head_dim", hidden // heads)
    vocab_size = integer("vocab_size")
    if heads % kv_heads:
        raise InputError(f"{path}: {heads} query heads cannot share {kv_heads} key/value heads evenly")
    if head_dim % 2:
        raise InputError(f"{path}: head_dim {head_dim} is odd, RoPE needs pairs")
    theta, rule = rope.read_rope(path, raw)
    return Config(
        architecture=architecture,
        hidden=hidden,
        intermediate=integer("intermediate_size"),
        layers=integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        context=integer("max_position_embeddings", 2048),
        rms_eps=settings.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope=rule,
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        bos=settings.token("bos_token_id", vocab_size),
        eos=settings.token("eos_token_id", vocab_size),
        pad=settings.token("pad_token_id", vocab_size),
    )


def plan_tensors(config, present):
    """Returns the TensorPlan of every tensor of the model, in llama.cpp's order.

    `present`: names in the folder. It only decides which of the optional biases are written.
    """
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    plans = [TensorPlan("model.embed_tokens.weight", "token_embd.weight", (config.vocab_size, config.hidden))]
    if not config.tied_head:
        plans.append(TensorPlan("lm_head.weight", "output.weight", (config.vocab_size, config.hidden)))
    plans.append(TensorPlan("model.norm.weight", "output_norm.weight", (config.hidden,)))
    # llama.cpp turns adjacent pairs in its architecture `llama` alone.
    turned = (config.heads, config.kv_heads) if config.architecture == "llama" else (0, 0)
    linears = (
        ("self_attn.q_proj", "attn_q", (q_rows, config.hidden), turned[0]),
        ("self_attn.k_proj", "attn_k", (kv_rows, config.hidden), turned[1]),
        ("self_attn.v_proj", "attn_v", (kv_rows, config.hidden), 0),
        ("self_attn.o_proj", "attn_output", (config.hidden, q_rows), 0),
        ("mlp.gate_proj", "ffn_gate", (config.intermediate, config.hidden), 0),
        ("mlp.up_proj", "ffn_up", (config.intermediate, config.hidden), 0),
        ("mlp.down_proj", "ffn_down", (config.hidden, config.intermediate), 0),
    )
    norms = [
        ("input_layernorm", "attn_norm", config.hidden),
        ("post_attention_layernorm", "ffn_norm", config.hidden),
    ]
    if config.architecture == "bitnet":
        norms += [
            ("self_attn.attn_sub_norm", "attn_sub_norm", q_rows),
            ("mlp.ffn_sub_norm", "ffn_sub_norm", config.intermediate),
        ]
    for layer in range(config.layers):
        source, name = f"model.layers.{layer}", f"blk.{layer}"
        for module, target, width in norms:
            plans.append(TensorPlan(f"{source}.{module}.weight", f"{name}.{target}.weight", (width,)))
        for module, target, shape, heads in linears:
            plans.append(TensorPlan(f"{source}.{module}.weight", f"{name}.{target}.weight", shape, heads))
            if f"{source}.{module}.bias" in present:
                plans.append(TensorPlan(f"{source}.{module}.bias", f"{name}.{target}.bias", shape[:1], heads))
    return plans


def check_weights(folder, config, plans, weights):
    """InputError unless `weights` holds exactly the planned tensors, in the planned shapes."""
    for plan in plans:
        if plan.source not in weights:
            raise InputError(f"{folder}: tensor {plan.source!r} is missing")
        found = weights[plan.source].shape
        if found != plan.shape:
            raise InputError(f"{folder}: {plan.source!r}: expected shape {list(plan.shape)}, found {list(found)}")
    known = {plan.source for plan in plans}
    if config.tied_head:
        known.add("lm_head.weight")  # some exporters store the copy; the tie makes it without meaning
    for name in weights:
        if name not in known and not name.endswith("rotary_emb.inv_freq"):
            raise InputError(f"{folder}: tensor {name!r} has no place in a GGUF of this model")


def tensors(folder, config, settings, weights, permute):
    """Yields (name in the GGUF, float32 array or Ternary); takes them out of `weights`."""
    if config.architecture == "bitnet":
        ternary.unpack(settings, weights)
    plans = plan_tensors(config, weights)
    check_weights(folder, config, plans, weights)
    if config.rope["rope_type"] == "llama3":
        yield "rope_freqs.weight", rope.llama3_rope_factors(config)
    for plan in plans:
        array = weights.pop(plan.source)
        if permute and plan.permuted_heads:
            array = rope.permute_rows(array, plan.permuted_heads)
        yield plan.name, array


def add_metadata(writer, config):
    """Adds every key that llama.cpp needs for the architecture to an open GGUFWriter."""
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    if config.heads * config.head_dim != config.hidden:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope["factor"])
