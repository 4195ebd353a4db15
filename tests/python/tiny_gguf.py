"""Writes a small Hugging Face model of another architecture than Llama as a GGUF, for tests.

gguf-py knows the tensors' names, models/gguf_twin how a tensor is stored; what is added here is the metadata that llama.cpp needs,
a vocabulary of dummies, and the layout of stacked experts.
"""

import gguf
import llama_cpp
import numpy as np
from gguf_twin.encode import add_tensor, file_type
from gguf_twin.rope import permute_rows
from llama_cpp._utils import suppress_stdout_stderr

# Types that gguf-py cannot write: llama.cpp quantises the f32 file itself. Rows must be divisible by 256.
K_QUANTS = {
    "q4_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "q5_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q5_K_S,
    "q6_K": llama_cpp.LLAMA_FTYPE_MOSTLY_Q6_K,
}
# llama.cpp's name of an architecture, where it is another one than Hugging Face's.
ARCHITECTURES = {"mixtral": "llama", "qwen2_moe": "qwen2moe"}


def write(model, path, type_name="f32", pooling=gguf.PoolingType.NONE):
    """model: a transformers model in f32 of type qwen2, qwen3, gemma2, bert, mixtral, qwen2_moe or bitnet; path: the file to write.

    pooling: of bert.
    type_name: what the matrices are kept in, a key of gguf_twin's TYPES; ternary types hold the embedding and the head in f16.
    """
    config = model.config
    kind = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = start(path, kind, config, type_name)
    if kind == "bert":
        add_encoder(writer, config, pooling)
    else:
        add_decoder(writer, config)
    write_tensors(writer, tensors_of(model, kind), type_name)


def quantize(source, target, type_name):
    """Writes the f32 GGUF `source` with every matrix in a type of K_QUANTS. Errors: RuntimeError if llama.cpp refuses."""
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.pure, options.nthread = K_QUANTS[type_name], True, 1
    with suppress_stdout_stderr(disable=False):
        status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), options)
    if status != 0:
        raise RuntimeError(f"{source}: llama_model_quantize returned {status}")


def start(path, kind, config, type_name):
    """An open writer with what every architecture needs."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(file_type(type_name))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"<tok{token}>" for token in range(config.vocab_size)])
    writer.add_token_types([gguf.TokenType.NORMAL] * config.vocab_size)
    writer.add_token_merges(["< t"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id, writer.add_pad_token_id):
        add(0)
    return writer


def add_encoder(writer, config, pooling):
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_token_type_count(config.type_vocab_size)


def add_decoder(writer, config):
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "mixtral":
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if config.model_type == "qwen2_moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def tensors_of(model, kind):
    """{name in the GGUF: float32 array} of a transformers model."""
    config = model.config
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tensors = {}
    for name, value in model.state_dict().items():
        if name.startswith("pooler") or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        array = value.float().numpy()
        if config.model_type == "gemma2" and name.endswith("norm.weight"):
            array = array + 1  # llama.cpp multiplies by the weight, Hugging Face by one plus it
        if config.model_type == "mixtral" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = permute_rows(array, heads)
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            layer = name.split(".layers.")[1].split(".")[0]
            if name.endswith("down_proj"):
                tensors[f"blk.{layer}.ffn_down_exps.weight"] = array
            else:
                for part, half in zip(("gate", "up"), np.split(array, 2, axis=1)):
                    tensors[f"blk.{layer}.ffn_{part}_exps.weight"] = half
            continue
        if name.endswith("shared_expert_gate.weight"):
            array = array[0]  # a row that gives one number
        if config.model_type == "mixtral":
            name = name.replace("mlp.gate", "block_sparse_moe.gate")
        for inner, mapped in (
            ("attn_sub_norm", "inner_attn_ln"),
            ("ffn_sub_norm", "ffn_layernorm"),
        ):  # BitNet's first names
            name = name.replace(inner, mapped)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        tensors[target] = array
    return tensors


def write_tensors(writer, tensors, type_name):
    """Writes {name: float32 array} and closes the file."""
    for name, array in tensors.items():
        add_tensor(writer, name, array, type_name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
