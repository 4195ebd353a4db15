"""A tokenizer.json as the vocabulary of a GGUF: byte-level BPE, split in a way that llama.cpp has a name for."""

from dataclasses import dataclass

from gguf import TokenType

from gguf_twin.folder import InputError, read_json

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE vocabulary in the form of GGUF's metadata; `tokens` and `types` are as long as the embedding."""

    pre: str  # llama.cpp's name of the rule that splits a text before the merges
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos: int | None
    eos: int | None
    pad: int | None
    mask: int | None  # of encoders
    add_bos: bool
    add_eos: bool


def dummy_vocabulary(config):
    """Returns a vocabulary of `<tok0>`, `<tok1>`, ... for a model without a tokenizer: prompts are given as token ids."""
    return Vocabulary(
        pre="gpt-2",
        tokens=[f"<tok{token}>" for token in range(config.vocab_size)],
        types=[TokenType.NORMAL] * config.vocab_size,
        merges=["< t"],  # llama.cpp refuses a BPE vocabulary without merges; this one makes no token
        # llama.cpp takes id 11 where none is given, which a tiny vocabulary may not have.
        bos=config.bos if config.bos is not None else 0,
        eos=config.eos if config.eos is not None else 0,
        pad=config.pad,
        mask=None,
        add_bos=False,
        add_eos=False,
    )


def split_rule(path, tokenizer):
    """Returns llama.cpp's name for how a tokenizer.json splits a text before its merges. InputError if it is another way."""
    rule = tokenizer.get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", []) if rule.get("type") == "Sequence" else [rule]
    ignore_merges = bool(tokenizer["model"].get("ignore_merges", False))
    if parts and parts[-1].get("type") == "ByteLevel" and not parts[-1].get("add_prefix_space", True):
        by_regex = parts[-1].get("use_regex", True)
        if len(parts) == 1 and by_regex and not ignore_merges:
            return "gpt-2"
        if len(parts) == 2 and not by_regex and parts[0].get("type") == "Split" and ignore_merges:
            if parts[0].get("pattern") == {"Regex": LLAMA3_SPLIT}:
                return "llama-bpe"
    raise InputError(
        f"{path}: its way to split a text is none this script knows; --dummy-vocab leaves the tokenizer out"
    )


def template_tokens(path, tokenizer):
    """Returns (token put before a text or None, token put after it or None) of a tokenizer.json."""
    processor = tokenizer.get("post_processor") or {}
    parts = processor.get("processors", []) if processor.get("type") == "Sequence" else [processor]
    before = after = None
    for part in parts:
        if part.get("type") == "TemplateProcessing":
            names = [next(iter(piece.items())) for piece in part["single"]]
            text = next(place for place, (kind, _) in enumerate(names) if kind == "Sequence")
            if text > 1 or len(names) - text - 1 > 1:
                raise InputError(f"{path}: more than one token is put before or after a text, GGUF cannot say that")
            before = names[0][1]["id"] if text == 1 else None
            after = names[-1][1]["id"] if text + 1 < len(names) else None
        elif part and part.get("type") != "ByteLevel":
            raise InputError(
                f"{path}: post-processor {part.get('type')!r} is not supported; --dummy-vocab leaves the tokenizer out"
            )
    return before, after


def read_vocabulary(folder, config):
    """Returns the Vocabulary of the folder's tokenizer.json; a dummy one if there is no such file.

    InputError if the tokenizer is no byte-level BPE, splits a text in an unknown way or is larger than the embedding.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return dummy_vocabulary(config)
    try:
        return convert_tokenizer(path, read_json(path), read_token_names(folder), config)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(f"{path}: broken: {type(error).__name__}: {error}") from error


def read_token_names(folder):
    """Returns the special tokens of tokenizer_config.json, such as {"bos_token": "<s>"}; empty if there is no such file."""
    path = folder / "tokenizer_config.json"
    raw = read_json(path) if path.exists() else {}
    names = {}
    for role in ("bos_token", "eos_token", "pad_token", "mask_token"):
        value = raw.get(role)
        names[role] = value.get("content") if isinstance(value, dict) else value
    return names


def convert_tokenizer(path, tokenizer, names, config):
    """Returns the Vocabulary of the content of a tokenizer.json; `names` as read_token_names gives them."""
    model = tokenizer["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or tokenizer.get("normalizer"):
        raise InputError(f"{path}: not a plain byte-level BPE tokenizer; --dummy-vocab leaves the tokenizer out")
    pre = split_rule(path, tokenizer)
    ids = dict(model["vocab"])
    special, other_added = set(), set()
    for added in tokenizer.get("added_tokens") or []:
        ids[added["content"]] = added["id"]
        (special if added.get("special") else other_added).add(added["content"])
    outside = [token for token in ids.values() if not 0 <= token < config.vocab_size]
    if outside:
        raise InputError(f"{path}: token id {max(outside)} lies outside the embedding of {config.vocab_size} rows")
    # Rows of the embedding that no token uses: padding of the matrix.
    tokens = [f"[PAD{token}]" for token in range(config.vocab_size)]
    types = [TokenType.UNUSED] * config.vocab_size
    for text, token in ids.items():
        tokens[token] = text
        types[token] = (
            TokenType.CONTROL
            if text in special
            else TokenType.USER_DEFINED
            if text in other_added
            else TokenType.NORMAL
        )

    def role(name, from_config):
        """The tokenizer's own choice counts, as in Hugging Face; config.json helps out."""
        return ids.get(names[name], from_config)

    bos, eos = role("bos_token", config.bos), role("eos_token", config.eos)
    before, after = template_tokens(path, tokenizer)
    for place, token, known in (("before", before, bos), ("after", after, eos)):
        if token is not None and ids.get(token) != known:
            raise InputError(
                f"{path}: {token!r} is put {place} a text, but is not the {'bos' if place == 'before' else 'eos'} token"
            )
    return Vocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        bos=bos,
        eos=eos,
        pad=role("pad_token", config.pad),
        mask=role("mask_token", None),
        add_bos=before is not None,
        add_eos=after is not None,
    )


def add_vocabulary(writer, vocabulary):
    """Adds the vocabulary's keys to an open GGUFWriter."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    if vocabulary.bos is not None:
        writer.add_bos_token_id(vocabulary.bos)
    if vocabulary.eos is not None:
        writer.add_eos_token_id(vocabulary.eos)
    if vocabulary.pad is not None:
        writer.add_pad_token_id(vocabulary.pad)
    if vocabulary.mask is not None:
        writer.add_mask_token_id(vocabulary.mask)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
