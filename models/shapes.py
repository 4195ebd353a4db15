"""The published shapes that synthesize.py fills with random numbers: what tensors there are, and what the config says.

A tensor is (name in the Hugging Face folder, role, shape); the role says how its numbers are drawn.
"""

LLAMA = dict(family="llama", kv_heads=2, context=512, theta=10000.0, eps=1e-5, tied=False)
QWEN2 = dict(family="qwen2", context=32768, theta=1e6, eps=1e-6, tied=False)
BITNET = dict(family="bitnet", context=4096, theta=500000.0, eps=1e-5, tied=True)
NOMIC = dict(family="nomic-moe", context=2048, theta=10000.0, eps=1e-5, experts=8, used=2, every=2)

SHAPES = {
    "tinyllama-1.1b": dict(
        LLAMA, layers=22, hidden=2048, intermediate=5632, heads=32, kv_heads=4, vocab=32000, context=2048
    ),
    "llama-tiny": dict(LLAMA, layers=2, hidden=64, intermediate=160, heads=4, vocab=300),
    "qwen2.5-7b": dict(QWEN2, layers=28, hidden=3584, intermediate=18944, heads=28, kv_heads=4, vocab=152064),
    "qwen2-tiny": dict(QWEN2, layers=2, hidden=64, intermediate=160, heads=4, kv_heads=2, vocab=300),
    "bitnet-2b": dict(BITNET, layers=30, hidden=2560, intermediate=6912, heads=20, kv_heads=5, vocab=128256),
    "bitnet-tiny": dict(BITNET, layers=2, hidden=128, intermediate=256, heads=4, kv_heads=2, vocab=300),
    "nomic-v2-moe": dict(NOMIC, layers=12, hidden=768, intermediate=3072, heads=12, vocab=250048),
    "nomic-tiny": dict(NOMIC, layers=4, hidden=64, intermediate=160, heads=4, vocab=300),
}


def tensors(shape):
    """Yields (name, role, dimensions) of every tensor, in order."""
    yield from nomic(shape) if shape["family"] == "nomic-moe" else decoder(shape)


def decoder(shape):
    hidden, inner, family = shape["hidden"], shape["intermediate"], shape["family"]
    kv = hidden // shape["heads"] * shape["kv_heads"]
    yield "model.embed_tokens.weight", "embedding", (shape["vocab"], hidden)
    for layer in range(shape["layers"]):
        at = f"model.layers.{layer}"

        def linear(name, rows, columns, bias=False, at=at):
            if family == "bitnet":
                yield f"{at}.{name}.weight", "packed", (rows // 4, columns)
                yield f"{at}.{name}.weight_scale", "scale", (1,)
            else:
                yield f"{at}.{name}.weight", "matrix", (rows, columns)
            if bias:
                yield f"{at}.{name}.bias", "bias", (rows,)

        yield f"{at}.input_layernorm.weight", "norm", (hidden,)
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)):
            yield from linear(f"self_attn.{name}", rows, hidden, bias=family == "qwen2")
        if family == "bitnet":
            yield f"{at}.self_attn.attn_sub_norm.weight", "norm", (hidden,)
        yield from linear("self_attn.o_proj", hidden, hidden)
        yield f"{at}.post_attention_layernorm.weight", "norm", (hidden,)
        yield from linear("mlp.gate_proj", inner, hidden)
        yield from linear("mlp.up_proj", inner, hidden)
        if family == "bitnet":
            yield f"{at}.mlp.ffn_sub_norm.weight", "norm", (inner,)
        yield from linear("mlp.down_proj", hidden, inner)
    yield "model.norm.weight", "norm", (hidden,)
    if not shape["tied"]:
        yield "lm_head.weight", "matrix", (shape["vocab"], hidden)


def nomic(shape):
    hidden, inner, experts = shape["hidden"], shape["intermediate"], shape["experts"]

    def both(name, role, *dimensions):
        yield f"{name}.weight", role, dimensions
        yield f"{name}.bias", "bias", dimensions[:1]

    yield "embeddings.word_embeddings.weight", "embedding", (shape["vocab"], hidden)
    yield "embeddings.token_type_embeddings.weight", "embedding", (1, hidden)
    yield from both("emb_ln", "norm", hidden)
    for layer in range(shape["layers"]):
        at = f"encoder.layers.{layer}"
        yield from both(f"{at}.attn.Wqkv", "matrix", 3 * hidden, hidden)
        yield from both(f"{at}.attn.out_proj", "matrix", hidden, hidden)
        yield from both(f"{at}.norm1", "norm", hidden)
        if layer % shape["every"] == shape["every"] - 1:
            yield f"{at}.mlp.router.layer.weight", "matrix", (experts, hidden)
            for part in ("w1", "w2"):
                yield f"{at}.mlp.experts.mlp.{part}", "matrix", (experts * inner, hidden)
            yield f"{at}.mlp.experts.bias", "bias", (hidden,)
        else:
            yield from both(f"{at}.mlp.fc1", "matrix", inner, hidden)
            yield from both(f"{at}.mlp.fc2", "matrix", hidden, inner)
        yield from both(f"{at}.norm2", "norm", hidden)


def config(shape):
    """What config.json holds."""
    if shape["family"] == "nomic-moe":
        return dict(
            architectures=["NomicBertModel"], model_type="nomic_bert", activation_function="gelu", causal=False, dtype="bfloat16",
            layer_norm_epsilon=shape["eps"], mlp_fc1_bias=True, mlp_fc2_bias=True, moe_every_n_layers=shape["every"],
            moe_normalize_expert_weights=False, moe_top_k=shape["used"], n_embd=shape["hidden"], n_head=shape["heads"],
            n_inner=shape["intermediate"], n_layer=shape["layers"], n_positions=shape["context"], num_experts=shape["experts"],
            num_shared_experts=0, prenorm=False, qkv_proj_bias=True, rotary_emb_base=shape["theta"], rotary_emb_fraction=1.0,
            rotary_emb_interleaved=False, type_vocab_size=1, use_rms_norm=False, vocab_size=shape["vocab"],
        )  # fmt: skip
    names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "bitnet": "BitNetForCausalLM"}
    common = dict(
        architectures=[names[shape["family"]]], model_type=shape["family"], hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"], num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], vocab_size=shape["vocab"], max_position_embeddings=shape["context"],
        rope_theta=shape["theta"], rms_norm_eps=shape["eps"], hidden_act="relu2" if shape["family"] == "bitnet" else "silu",
        tie_word_embeddings=shape["tied"], bos_token_id=1, eos_token_id=2, dtype="bfloat16",
    )  # fmt: skip
    if shape["family"] == "bitnet":
        common["quantization_config"] = dict(
            quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline"
        )
    return common
