"""What the decoders share: the loss of guessing the next token, and storing through transformers."""

import json

import corpus
import torch


def config(kind, shape, theta, **more):
    """A config of the class `kind`: what all decoders of this folder have alike beside their `shape` and RoPE's `theta`."""
    return kind(
        **shape,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        initializer_range=0.05,
        bos_token_id=corpus.BOS,
        eos_token_id=corpus.EOS,
        pad_token_id=corpus.PAD,
        attn_implementation="sdpa",
        **more,
    )


def loss(model, inputs, targets, generator=None):
    logits = model(input_ids=inputs, use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def largest_logit(model, inputs):
    return model(input_ids=inputs, use_cache=False).logits.abs().max().item()


def settle(model):
    model.to(torch.bfloat16).float()


def store(model, folder, theta):
    model.to(torch.bfloat16).save_pretrained(folder)
    say_theta_at_the_top(folder, theta)


def say_theta_at_the_top(folder, theta):
    """`rope_theta` at the top of config.json, where transformers 4 has it, not only under `rope_parameters`.

    Readers that look at the top would otherwise take the default of 10000 without a word.
    """
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["rope_theta"] = theta
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
