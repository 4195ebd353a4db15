"""Qwen2: as Llama, with biases on q, k and v, four query heads to each key/value head, and RoPE of a large theta."""

import functools

import corpus
import torch
import transformers

from families import decoders

STEPS = 600
SPECIALS, ENDS = corpus.SPECIAL_TOKENS, False
CONTEXT = 512
SHAPE = dict(
    vocab_size=corpus.VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    max_position_embeddings=CONTEXT,
    tie_word_embeddings=False,
)
ROPE_THETA = 1000000.0  # Qwen2.5's


def make_model():
    config = decoders.config(transformers.Qwen2Config, SHAPE, ROPE_THETA)
    model = transformers.Qwen2ForCausalLM(config).float()
    with torch.no_grad():  # biases that start at zero stay small; the published models' are large
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.bias"):
                parameter.normal_(0, 0.5)
    return model


loss, settle, largest_logit, sample = decoders.loss, decoders.settle, decoders.largest_logit, True
store = functools.partial(decoders.store, theta=ROPE_THETA)
