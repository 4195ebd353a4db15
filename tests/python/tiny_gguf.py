"""Writes a small Hugging Face model of another architecture than Llama as a GGUF, for tests of the capture.

gguf-py knows the tensors' names; what is added here is the metadata that llama.cpp needs, and a vocabulary of dummies.
"""

import gguf
import numpy as np


def write(model, path, pooling=gguf.PoolingType.NONE):
    """model: a transformers model in f32 of type qwen2, qwen3, gemma2 or bert; path: the file to write; pooling: of bert."""
    config = model.config
    kind = config.model_type
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if kind == "bert":
        writer.add_layer_norm_eps(config.layer_norm_eps)
        writer.add_causal_attention(False)
        writer.add_pooling_type(pooling)
        writer.add_token_type_count(config.type_vocab_size)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<tok{token}>" for token in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["< t"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)

    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name.startswith("pooler") or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        array = value.numpy().astype(np.float32)
        if kind == "gemma2" and name.endswith("norm.weight"):
            array = array + 1  # llama.cpp multiplies by the weight, Hugging Face by one plus it
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(target, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
