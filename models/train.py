#!/usr/bin/env python3
"""Trains one of the small models that stand in this folder.

Divergence tests need weights that are really trained: random weights have flat attention and tiny logits, so an error of
position, permutation or rounding hardly shows in them. A model of about a million parameters, trained for minutes on a
processor, already has peaked attention and large logits, and it is small enough to be committed.

Nothing is downloaded (corpus.py). Same Python, same package versions, same `--steps`, `--seed` and `--threads`: same model.

    python models/train.py llama                 # the committed model: writes models/paritrace-llama/
    python models/train.py qwen2 --minutes 1 --out /tmp/quick-qwen2
"""

import argparse
import importlib
import json
import math
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import corpus
import tokenizers
import torch
import transformers

FAMILIES = {"llama": "llama", "qwen2": "qwen2", "bitnet": "bitnet", "nomic-moe": "nomic_moe"}

# Sequences grow while the model trains: short ones are cheaper, and the last ones make every position up to the context's
# end a trained one. (share of the training after which the stage ends, tokens in a sequence)
STAGES = ((0.50, 128), (0.80, 256), (1.00, 512))
TOKENS_PER_STEP = 2048
PEAK_RATE = 1e-2
WARMUP_SHARE = 0.03
WEIGHT_DECAY = 0.1
GRADIENT_CLIP = 1.0
VALIDATION_LENGTH = 256


@torch.no_grad()
def validation_loss(family, model, stream):
    """Returns (loss in nats a token, largest |logit|) over the whole held-out stream, in windows of VALIDATION_LENGTH."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    starts = list(range(0, len(stream) - VALIDATION_LENGTH + 1, VALIDATION_LENGTH))
    total, largest = 0.0, 0.0
    for first in range(0, len(starts), 16):
        batch = starts[first : first + 16]
        inputs, targets = corpus.windows(stream, batch, VALIDATION_LENGTH)
        total += family.loss(model, inputs, targets, generator).item() * len(batch)
        largest = max(largest, family.largest_logit(model, inputs))
    model.train()
    return total / len(starts), largest


def rate_at(share):
    """Returns the learning rate when `share` (0 to 1) of the training is done: linear up, then a half cosine down to 0."""
    if share < WARMUP_SHARE:
        return PEAK_RATE * (share + 1e-3) / (WARMUP_SHARE + 1e-3)
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (share - WARMUP_SHARE) / (1 - WARMUP_SHARE)))


class Optimizer:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms: what Muon is made for and what it is not.

    In the same minute of training, AdamW alone stays about 0.4 nats a token behind.
    """

    def __init__(self, model):
        inside = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
        outside = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
        self.parts = [
            torch.optim.Muon(inside, lr=PEAK_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            # No decay: it would pull the scales of the norms from 1 to 0.
            torch.optim.AdamW(outside, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0),
        ]

    def step(self, rate):
        """Moves every parameter by its gradient at learning rate `rate`, and clears the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)


def train(family, model, stream, seed, steps, seconds):
    """Trains `model` in place on `stream` (int64 [tokens]); returns the number of steps made.

    Stops after `steps` steps or, where `steps` is None, after `seconds` of time: only the former can be repeated exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = Optimizer(model)
    began = time.monotonic()
    last_report = began
    recent = []
    step = 0
    while True:
        elapsed = time.monotonic() - began
        share = step / steps if steps is not None else elapsed / seconds
        if share >= 1:
            return step
        length = next(length for end, length in STAGES if share < end)
        starts = torch.randint(len(stream) - length + 1, (TOKENS_PER_STEP // length,), generator=generator)
        rate = rate_at(share)
        loss = family.loss(model, *corpus.windows(stream, starts.tolist(), length), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step(rate)
        recent.append(loss.item())
        step += 1
        now = time.monotonic()
        if now - last_report >= 10:
            speed = step * TOKENS_PER_STEP / (now - began)
            done = step / steps if steps is not None else (now - began) / seconds
            left = max(0.0, (now - began) * (1 / done - 1))
            of = f"/{steps}" if steps is not None else ""
            print(
                f"step {step}{of}  loss {sum(recent) / len(recent):.3f}  rate {rate:.2e}  length {length}  "
                f"{speed:.0f} tokens/s  {left:.0f} s left",
                flush=True,
            )
            last_report, recent = now, []


def write_model(family, model, tokenizer, record, out):
    """Writes the Hugging Face folder `out`: whole or not at all. A folder in its place is replaced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh = temporary / "new"
        fresh.mkdir()
        family.store(model, fresh)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=corpus.SPECIAL_TOKENS[corpus.BOS],
            eos_token=corpus.SPECIAL_TOKENS[corpus.EOS],
            pad_token=corpus.SPECIAL_TOKENS[corpus.PAD],
            model_max_length=family.CONTEXT,
            clean_up_tokenization_spaces=False,
            **({"mask_token": corpus.MASK_TOKEN} if corpus.MASK_TOKEN in family.SPECIALS else {}),
        ).save_pretrained(fresh)
        name_tokenizer_class(fresh)
        (fresh / "training.json").write_text(json.dumps(record, indent=2) + "\n")
        for path in fresh.iterdir():
            path.chmod(0o644)  # save_pretrained leaves the weights readable by their owner only
        replace_folder(out, fresh, temporary / "old")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(out, fresh, parked):
    """Renames `fresh` to `out`; a folder at `out` is moved to `parked` first, and back if the rename fails."""
    if out.exists():
        os.rename(out, parked)
    try:
        os.rename(fresh, out)
    except OSError:
        if parked.exists():
            os.rename(parked, out)
        raise


def name_tokenizer_class(folder):
    """Writes `tokenizer_class` by its old name: transformers 4 does not know the new one."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    content["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def greedy_sample(model, tokenizer, prompt, count):
    """Returns `prompt` continued by `count` tokens, each the likeliest."""
    tokens = tokenizer.encode(prompt).ids
    for _ in range(count):
        tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokenizer.decode(tokens)


def parse_arguments(argv):
    """Returns the parsed command line; exits 2 with a message where it is wrong."""
    parser = argparse.ArgumentParser(
        description="Trains one of the small models of this folder on the text that ships with Python."
    )
    parser.add_argument("family", choices=FAMILIES, help="which model")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=int, help=f"training steps, {TOKENS_PER_STEP} tokens each (default: as the committed model)"
    )
    length.add_argument(
        "--minutes", type=float, help="train for so long instead; the result then depends on the machine's speed"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: paritrace-FAMILY beside this script)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and batches (default 1)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads; another number rounds sums in another order (default 2)"
    )
    arguments = parser.parse_args(argv)
    if arguments.out is None:
        arguments.out = Path(__file__).resolve().parent / f"paritrace-{arguments.family}"
    if arguments.steps is not None and arguments.steps < 1:
        parser.error("--steps must be at least 1")
    if arguments.minutes is not None and not arguments.minutes > 0:
        parser.error("--minutes must be more than 0")
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    if arguments.out.exists() and not (arguments.out / "config.json").is_file():
        parser.error(f"{arguments.out} exists and is not a model folder; it is not replaced")
    return arguments


def main(argv=None):
    """Trains, checks the stored weights and writes the folder; returns the exit code."""
    arguments = parse_arguments(argv)
    family = importlib.import_module(f"families.{FAMILIES[arguments.family]}")
    if arguments.steps is None and arguments.minutes is None:
        arguments.steps = family.STEPS
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)

    training, validation = corpus.split_documents(corpus.read_topics() + corpus.read_docstrings())
    tokenizer = corpus.train_tokenizer(training, family.SPECIALS, family.ENDS)
    random.Random(arguments.seed).shuffle(training)
    stream, held_out = corpus.encode_stream(tokenizer, training), corpus.encode_stream(tokenizer, validation)
    characters = sum(map(len, training))
    print(f"text: {characters} characters, {len(stream)} tokens to train on, {len(held_out)} held out", flush=True)

    model = family.make_model()
    print(f"model: {model.num_parameters()} parameters", flush=True)
    initial, _ = validation_loss(family, model, held_out)
    print(f"validation loss before training: {initial:.4f}", flush=True)
    seconds = None if arguments.minutes is None else arguments.minutes * 60
    began = time.monotonic()
    steps = train(family, model, stream, arguments.seed, arguments.steps, seconds)
    trained_for = time.monotonic() - began
    full, _ = validation_loss(family, model, held_out)
    family.settle(model)  # what is measured from here on are the weights as they are stored
    final, largest = validation_loss(family, model, held_out)
    print(f"validation loss after {steps} steps, {trained_for:.0f} s: {full:.4f} in float32, {final:.4f} as stored")
    print(f"largest |logit| on held-out text: {largest:.1f}")
    if family.sample:
        print("sample:", json.dumps(greedy_sample(model, tokenizer, "The return value is", 40)))

    record = {
        "steps": steps,
        "tokens_per_step": TOKENS_PER_STEP,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "training_seconds": round(trained_for),
        "training_tokens_in_text": len(stream),
        "validation_tokens": len(held_out),
        "validation_loss_before": round(initial, 4),
        "validation_loss_after": round(final, 4),
        "max_abs_logit": round(largest, 2),
        "parameters": model.num_parameters(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    write_model(family, model, tokenizer, record, arguments.out)
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
