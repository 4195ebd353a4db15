"""A small model of any architecture of the installed transformers, from its own config class, with weights drawn."""

import random_weights
import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TOKENS = [5, 61, 7, 118, 9, 61, 240, 33, 2, 77, 150, 12]
# Whatever of these a config has is set; sizes of no two things are equal by chance, but for the hidden width.
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ffn_dim": 160,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_ffn_dim": 160,
    "encoder_ffn_dim": 160,
    "word_embed_proj_dim": 64,
    "embedding_size": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 128,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "sliding_window": 8,
    "rotary_dim": 8,
    "state_size": 8,
    "n_inner": 160,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def decoders():
    """Model types that transformers' table of causal language models holds, with the name of their class."""
    return dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def encoders():
    """Model types with a masked language model and no causal one, with the name of that class."""
    masked = dict(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return {kind: name for kind, name in masked.items() if kind not in decoders()}


def build(kind, class_name):
    """The model in f32 with eager attention. Errors: any exception of transformers, for what cannot be made so small."""
    config_class = CONFIG_MAPPING[kind]
    defaults = config_class()
    known = {**{key: getattr(defaults, key, None) for key in SIZES}, **getattr(defaults, "attribute_map", {})}
    options = {
        key: value for key, value in SIZES.items() if key in known and (known[key] is not None or key == "head_dim")
    }
    for key in LAYERS:
        if isinstance(getattr(defaults, key, None), int):
            options[key] = 2
    if getattr(defaults, "head_dim", None) is None:
        options.pop("head_dim", None)
    if "qk_rope_head_dim" in options:
        options["head_dim"] = options["qk_rope_head_dim"]  # latent attention: the lanes that RoPE turns
    config = None
    for attempt in (options, {key: value for key, value in options.items() if key != "num_key_value_heads"}):
        try:
            config = config_class(**attempt)
            break
        except Exception as error:
            reason = error
    if config is None:
        raise reason
    # A text config inside takes the sizes itself.
    for name in (
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "dropout",
        "attention_dropout",
        "resid_pdrop",
        "embd_pdrop",
        "attn_pdrop",
    ):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if hasattr(config, "is_decoder") and class_name in decoders().values():
        config.is_decoder = True
    model_class = getattr(transformers, class_name)
    torch.manual_seed(7)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class._from_config(config).parameters())
    if size > 5e6:
        raise ValueError(f"{size / 1e6:.0f} million parameters: it takes its sizes from elsewhere")
    torch.manual_seed(7)
    model = model_class._from_config(config, attn_implementation="eager")
    return fill(model).eval()


def fill(model):
    """Random weights of the statistics of trained ones; what is neither matrix nor norm keeps the model's own start."""
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    zero_centred = [
        name
        for name, value in start.items()
        if value.dim() == 1 and "norm" in name.lower() and name.endswith("weight") and float(value.abs().max()) == 0
    ]
    random_weights.fill(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.rpartition(".")[2]
            if name in zero_centred:
                parameter.sub_(1.0)
            elif leaf not in ("weight", "bias") and parameter.dim() < 2:
                parameter.copy_(start[name])  # decay rates, gates, thresholds
            elif (
                parameter.dim() == 1
                and leaf == "weight"
                and float(start[name].min()) == 1
                and "norm" not in name.lower()
            ):
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))  # a norm by another name
    return model
