"""The models that faults are injected in: small, with random weights of the statistics of trained ones, one folder each."""

import torch
import transformers

SIZES = dict(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=300,
    max_position_embeddings=512,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
# name -> (configuration class, model class, options). No size of one architecture is that of another by chance.
MODELS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "llama-mha": ("LlamaConfig", "LlamaForCausalLM", dict(num_key_value_heads=4)),
    "llama3": ("LlamaConfig", "LlamaForCausalLM", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    "mistral": ("MistralConfig", "MistralForCausalLM", dict(sliding_window=8)),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", dict(num_attention_heads=8)),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", dict(head_dim=32)),
}
SEED = 3


def folder_of(name, root):
    """Writes the model under `root` unless it is there; returns its folder."""
    folder = root / name
    if (folder / "config.json").exists():
        return folder
    config_class, model_class, options = MODELS[name]
    config = getattr(transformers, config_class)(**SIZES | options)
    torch.manual_seed(SEED)
    model = getattr(transformers, model_class)._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if parameter.dim() == 2:
                parameter.copy_(values * (0.7 if "embed" in parameter_name else 1.3 / parameter.shape[1] ** 0.5))
            else:
                parameter.copy_((1.0 if "norm" in parameter_name else 0.0) + 0.3 * values)
    model.save_pretrained(folder)
    return folder
