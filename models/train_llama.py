#!/usr/bin/env python3
"""Trains the small Llama that stands in `models/paritrace-llama/`.

Divergence tests need weights that are really trained: random weights have flat attention and tiny logits, so an error of
position, permutation or rounding hardly shows in them. A model of about a million parameters, trained for minutes on a
processor, already has peaked attention and large logits, and it is small enough to be committed.

The text is what ships with Python: the language reference as `pydoc` carries it, and the docstrings of the standard
library. Nothing is downloaded. Same Python, same package versions, same `--steps`, `--seed` and `--threads`: same model.

    python models/train_llama.py                 # the committed model: writes models/paritrace-llama/
    python models/train_llama.py --minutes 1 --out /tmp/quick-llama
"""

import argparse
import ast
import importlib.util
import json
import math
import os
import platform
import random
import shutil
import sys
import sysconfig
import tempfile
import time
import warnings
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

DEFAULT_OUT = Path(__file__).resolve().parent / "paritrace-llama"
DEFAULT_STEPS = 2200

VOCAB_SIZE = 1536
SPECIAL_TOKENS = ["<s>", "</s>", "<pad>"]
BOS, EOS, PAD = 0, 1, 2

# Every row length (hidden, heads * head_dim, intermediate) is a multiple of 32, the block of q8_0 and q4_0, so that every
# matrix can be quantised. theta is not the usual 10000, so that a tool that ignores the configured value is caught.
SHAPE = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=288,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=16,
    rms_norm_eps=1e-5,
    max_position_embeddings=512,
    tie_word_embeddings=False,
)
ROPE_THETA = 25000.0

# Sequences grow while the model trains: short ones are cheaper, and the last ones make every position up to
# max_position_embeddings a trained one. (share of the training after which the stage ends, tokens in a sequence)
STAGES = ((0.50, 128), (0.80, 256), (1.00, 512))
TOKENS_PER_STEP = 2048
PEAK_RATE = 1e-2
WARMUP_SHARE = 0.03
WEIGHT_DECAY = 0.1
GRADIENT_CLIP = 1.0

VALIDATION_EVERY = 20  # one document in so many is held out
VALIDATION_LENGTH = 256

# Tests, tables and bundled tools: much text, little prose, and not installed everywhere.
SKIPPED_FOLDERS = {
    "__pycache__",
    "encodings",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "turtledemo",
}
MIN_DOCSTRING = 40  # characters; shorter ones are mostly "Return self."


def read_topics():
    """Returns the language reference that `pydoc` shows for `help("topic")`: a list of texts, in order of their topic."""
    spec = importlib.util.find_spec("pydoc_data.topics")
    if spec is None:
        raise SystemExit("train_llama.py: pydoc_data.topics is not installed with this Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [module.topics[name].strip() for name in sorted(module.topics)]


def read_docstrings():
    """Returns the docstrings of the standard library, one text a source file, in order of the files' paths.

    Files that are not UTF-8 or do not parse are left out. A docstring that several places repeat is taken once.
    """
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    seen = set()
    texts = []
    for path in sorted(stdlib.rglob("*.py")):
        folders = path.relative_to(stdlib).parts[:-1]
        if SKIPPED_FOLDERS.intersection(folders) or any(name.startswith("config-") for name in folders):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            continue
        found = []
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) >= MIN_DOCSTRING and text not in seen:
                    seen.add(text)
                    found.append(text)
        if found:
            texts.append("\n\n".join(found))
    return texts


def split_documents(documents):
    """Returns (training, validation): every VALIDATION_EVERY-th document is held out."""
    training = [text for index, text in enumerate(documents) if index % VALIDATION_EVERY]
    validation = documents[::VALIDATION_EVERY]
    return training, validation


def train_tokenizer(texts):
    """Returns a byte-level BPE tokenizer of VOCAB_SIZE tokens, split as GPT-2 does, that puts BOS before a text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # any text can be written, also bytes the corpus lacks
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIAL_TOKENS[BOS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, BOS)]
    )
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"train_llama.py: the text gives {tokenizer.get_vocab_size()} tokens, {VOCAB_SIZE} are wanted")
    return tokenizer


def encode_stream(tokenizer, documents):
    """Returns the documents' tokens, int64 [tokens], each document closed by EOS."""
    stream = []
    for encoding in tokenizer.encode_batch(documents, add_special_tokens=False):
        stream.extend(encoding.ids)
        stream.append(EOS)
    return torch.tensor(stream, dtype=torch.int64)


def windows(stream, starts, length):
    """Returns inputs and targets, both int64 [len(starts), length]. An input is BOS and the stream from a start on.

    BOS stands first in every window, as it does in use: the model learns to rest its attention on it.
    """
    targets = torch.stack([stream[start : start + length] for start in starts])
    inputs = torch.cat([torch.full((len(starts), 1), BOS), targets[:, :-1]], dim=1)
    return inputs, targets


def loss_of(model, inputs, targets):
    """Returns the mean cross-entropy in nats a token (scalar tensor); inputs and targets are int64 [batch, length]."""
    logits = model(input_ids=inputs, use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def validation_loss(model, stream):
    """Returns (loss in nats a token, largest |logit|) over the whole held-out stream, in windows of VALIDATION_LENGTH."""
    model.eval()
    starts = list(range(0, len(stream) - VALIDATION_LENGTH + 1, VALIDATION_LENGTH))
    total, largest = 0.0, 0.0
    for first in range(0, len(starts), 16):
        batch = starts[first : first + 16]
        inputs, targets = windows(stream, batch, VALIDATION_LENGTH)
        logits = model(input_ids=inputs, use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        total += loss.item() * len(batch)
        largest = max(largest, logits.abs().max().item())
    model.train()
    return total / len(starts), largest


def make_model():
    """Returns an untrained LlamaForCausalLM in float32."""
    config = transformers.LlamaConfig(
        **SHAPE,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=0.05,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config).float()


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


def train(model, stream, seed, steps, seconds):
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
        loss = loss_of(model, *windows(stream, starts.tolist(), length))
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


def write_model(model, tokenizer, record, out):
    """Writes the Hugging Face folder `out` (weights bfloat16): whole or not at all. A folder in its place is replaced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh = temporary / "new"
        fresh.mkdir()
        model.to(torch.bfloat16).save_pretrained(fresh)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=SPECIAL_TOKENS[BOS],
            eos_token=SPECIAL_TOKENS[EOS],
            pad_token=SPECIAL_TOKENS[PAD],
            model_max_length=SHAPE["max_position_embeddings"],
            clean_up_tokenization_spaces=False,
        ).save_pretrained(fresh)
        keep_old_readers_right(fresh)
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


def keep_old_readers_right(folder):
    """Says two things in the folder's JSON files also the way transformers 4 does; transformers 5 reads both.

    - `rope_theta` at the top of config.json, not only under `rope_parameters`: readers that look at the top would
      otherwise take the default of 10000 without a word.
    - `tokenizer_class` by its old name: transformers 4 does not know the new one.
    """
    for name, change in (
        ("config.json", {"rope_theta": ROPE_THETA}),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ):
        content = json.loads((folder / name).read_text())
        content.update(change)
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


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
        description="Trains the small Llama of models/paritrace-llama/ on the text that ships with Python."
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=int, help=f"training steps, {TOKENS_PER_STEP} tokens each (default {DEFAULT_STEPS})"
    )
    length.add_argument(
        "--minutes", type=float, help="train for so long instead; the result then depends on the machine's speed"
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder to write (default: paritrace-llama beside this script)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and batches (default 1)")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads; another number rounds sums in another order (default 2)"
    )
    arguments = parser.parse_args(argv)
    if arguments.steps is None and arguments.minutes is None:
        arguments.steps = DEFAULT_STEPS
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
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(arguments.seed)

    training, validation = split_documents(read_topics() + read_docstrings())
    tokenizer = train_tokenizer(training)
    random.Random(arguments.seed).shuffle(training)
    stream, held_out = encode_stream(tokenizer, training), encode_stream(tokenizer, validation)
    characters = sum(map(len, training))
    print(f"text: {characters} characters, {len(stream)} tokens to train on, {len(held_out)} held out", flush=True)

    model = make_model()
    print(f"model: {model.num_parameters()} parameters", flush=True)
    initial, _ = validation_loss(model, held_out)
    print(f"validation loss before training: {initial:.4f}", flush=True)
    seconds = None if arguments.minutes is None else arguments.minutes * 60
    began = time.monotonic()
    steps = train(model, stream, arguments.seed, arguments.steps, seconds)
    trained_for = time.monotonic() - began
    full, _ = validation_loss(model, held_out)
    model.to(torch.bfloat16).float()  # what is measured from here on are the weights as they are stored
    final, largest = validation_loss(model, held_out)
    print(
        f"validation loss after {steps} steps, {trained_for:.0f} s: {full:.4f} in float32, {final:.4f} stored as bfloat16"
    )
    print(f"largest |logit| on held-out text: {largest:.1f}")
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
    write_model(model, tokenizer, record, arguments.out)
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
