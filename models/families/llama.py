"""Llama: RMSNorm, RoPE, two query heads to each key/value head, gated feed-forward, a head of its own."""

import functools

import corpus
import transformers

from families import decoders

STEPS = 2200
SPECIALS, ENDS = corpus.SPECIAL_TOKENS, False
CONTEXT = 512
# Every row length (hidden, heads * head_dim, intermediate) is a multiple of 32, the block of q8_0 and q4_0, so that every
# matrix can be quantised. theta is not the usual 10000, so that a tool that ignores the configured value is caught.
SHAPE = dict(
    vocab_size=corpus.VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=288,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position_embeddings=CONTEXT,
    tie_word_embeddings=False,
)
ROPE_THETA = 25000.0


def make_model():
    config = decoders.config(transformers.LlamaConfig, SHAPE, ROPE_THETA)
    return transformers.LlamaForCausalLM(config).float()


loss, settle, largest_logit, sample = decoders.loss, decoders.settle, decoders.largest_logit, True
store = functools.partial(decoders.store, theta=ROPE_THETA)
