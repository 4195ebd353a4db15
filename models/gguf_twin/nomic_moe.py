"""nomic-bert-moe, the architecture of nomic-embed-text-v2-moe: an encoder with a mixture of experts in every second layer."""

from dataclasses import dataclass

import gguf

from gguf_twin.folder import InputError


@dataclass(frozen=True)
class Config:
    """What config.json says, by the names of the model's own code."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab_size: int
    context: int
    types: int
    norm_eps: float
    rope_theta: float
    every: int  # the mixture stands in layers every - 1, 2 * every - 1, ...
    experts: int
    used: int
    bos: int | None
    eos: int | None
    pad: int | None


def read_config(settings):
    """Returns the Config of a folder's Settings. InputError for what llama.cpp's architecture does not have.

    `activation_function` gelu is written although llama.cpp computes its tanh form: the file has no key for it.
    """
    integer = settings.integer
    settings.expect("activation_function", ["gelu", "gelu_pytorch_tanh"])
    settings.expect("prenorm", [False], False)
    settings.expect("rotary_emb_fraction", [1.0, 1], 1.0)
    settings.expect("rotary_emb_interleaved", [False], False)
    settings.expect("moe_normalize_expert_weights", [False], False)
    settings.expect("num_shared_experts", [0, None], 0)
    vocab_size = integer("vocab_size")
    return Config(
        hidden=integer("n_embd"),
        intermediate=integer("n_inner"),
        layers=integer("n_layer"),
        heads=integer("n_head"),
        vocab_size=vocab_size,
        context=integer("n_positions", 512),
        types=integer("type_vocab_size", 1),
        norm_eps=settings.number("layer_norm_epsilon", 1e-5),
        rope_theta=settings.number("rotary_emb_base", 10000.0),
        every=integer("moe_every_n_layers"),
        experts=integer("num_experts"),
        used=integer("moe_top_k"),
        bos=settings.token("bos_token_id", vocab_size),
        eos=settings.token("eos_token_id", vocab_size),
        pad=settings.token("pad_token_id", vocab_size),
    )


def plan(config):
    """{name in the folder: (name in the GGUF, shape in the folder)}."""
    hidden, width = config.hidden, config.intermediate
    places = {
        "embeddings.word_embeddings.weight": ("token_embd.weight", (config.vocab_size, hidden)),
        "embeddings.token_type_embeddings.weight": ("token_types.weight", (config.types, hidden)),
    }

    def add(source, target, rows, columns=None, bias=True):
        places[f"{source}.weight"] = (f"{target}.weight", (rows, columns) if columns else (rows,))
        if bias:
            places[f"{source}.bias"] = (f"{target}.bias", (rows,))

    add("emb_ln", "token_embd_norm", hidden)
    for layer in range(config.layers):
        source, target = f"encoder.layers.{layer}", f"blk.{layer}"
        add(f"{source}.attn.Wqkv", f"{target}.attn_qkv", 3 * hidden, hidden)
        add(f"{source}.attn.out_proj", f"{target}.attn_output", hidden, hidden)
        add(f"{source}.norm1", f"{target}.attn_output_norm", hidden)
        add(f"{source}.norm2", f"{target}.layer_output_norm", hidden)
        if layer % config.every == config.every - 1:
            add(f"{source}.mlp.router.layer", f"{target}.ffn_gate_inp", config.experts, hidden, bias=False)
            for part, role in (("w1", "ffn_up_exps"), ("w2", "ffn_down_exps")):
                places[f"{source}.mlp.experts.mlp.{part}"] = (
                    f"{target}.{role}.weight",
                    (config.experts * width, hidden),
                )
        else:
            add(f"{source}.mlp.fc1", f"{target}.ffn_up", width, hidden)
            add(f"{source}.mlp.fc2", f"{target}.ffn_down", hidden, width)
    return places


def tensors(folder, config, weights):
    """Yields (name in the GGUF, float32 array) of every tensor. The experts' shared output bias has no place there and is left out."""
    places = plan(config)
    for name in weights:
        if name not in places and not name.endswith("mlp.experts.bias"):
            raise InputError(f"{folder}: tensor {name!r} has no place in a GGUF of this model")
    for source, (target, shape) in places.items():
        if source not in weights:
            raise InputError(f"{folder}: tensor {source!r} is missing")
        array = weights.pop(source)
        if array.shape != shape:
            raise InputError(f"{folder}: {source!r}: expected shape {list(shape)}, found {list(array.shape)}")
        if target.endswith("_exps.weight"):
            array = array.reshape(config.experts, config.intermediate, config.hidden)
            if "down" in target:  # an expert's way out is stored as its way in
                array = array.transpose(0, 2, 1)
        yield target, array


def add_metadata(writer, config):
    """Adds every key that llama.cpp needs for the architecture to an open GGUFWriter."""
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.NONE)
    writer.add_token_type_count(config.types)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_moe_every_n_layers(config.every)
    writer.add_expert_count(config.experts)
    writer.add_expert_used_count(config.used)
