"""The text that the small models of this folder are trained on, and its tokens.

The text is what ships with Python: the language reference as `pydoc` carries it, and the docstrings of the standard
library. Nothing is downloaded. The same Python gives the same text.
"""

import ast
import importlib.util
import sysconfig
import warnings
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 1536
SPECIAL_TOKENS = ["<s>", "</s>", "<pad>"]
BOS, EOS, PAD = 0, 1, 2
MASK_TOKEN = "<mask>"  # of encoders, which are trained to guess it

VALIDATION_EVERY = 20  # one document in so many is held out

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
        raise SystemExit("pydoc_data.topics is not installed with this Python")
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


def train_tokenizer(texts, specials=SPECIAL_TOKENS, ends=False):
    """Returns a byte-level BPE tokenizer of VOCAB_SIZE tokens, split as GPT-2 does, that puts BOS before a text.

    specials: the first tokens of the vocabulary; ends: EOS is put after a text, as encoders have it.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # any text can be written, also bytes the corpus lacks
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos, eos = SPECIAL_TOKENS[BOS], SPECIAL_TOKENS[EOS]
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A {eos}",
            pair=f"{bos} $A {eos} {eos}:1 $B:1 {eos}:1",
            special_tokens=[(bos, BOS), (eos, EOS)],
        )
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, BOS)]
        )
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"the text gives {tokenizer.get_vocab_size()} tokens, {VOCAB_SIZE} are wanted")
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
