"""Tokenizers that run in this process: Hugging Face's `tokenizers` and `sentencepiece`; and the door to all kinds, `load`."""

import functools
import json
from pathlib import Path

from paritrace.errors import InputError, first_line
from paritrace.tokens import pieces
from paritrace.tokens.base import Refused, Tokenizer
from paritrace.tokens.gguf import GgufTokenizer


class HfTokenizer(Tokenizer):
    """A tokenizer.json. A text that is no UTF-8 is decoded with U+FFFD first, as Python programs do: the library takes str."""

    kind = "hf"

    def __init__(self, path):
        super().__init__(path)
        import tokenizers

        try:
            text = Path(path).read_text(encoding="utf-8")
            config = json.loads(text)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except OSError as error:
            raise InputError(path, "", "a tokenizer.json", error.strerror) from None
        except Exception as error:  # the library raises plain Exception
            raise InputError(path, "", "a tokenizer.json", first_line(error)) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        model = config["model"]
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        # An added token that the vocabulary has already keeps that id, whatever the file says.
        added = {self._tokenizer.token_to_id(entry["content"]): entry for entry in config.get("added_tokens") or []}
        self.added = set(added)
        self.special = {token for token, entry in added.items() if entry.get("special")}
        self.letters = '"ByteLevel"' in json.dumps([config.get("pre_tokenizer"), config.get("decoder")])
        self._wordpiece = model.get("type") == "WordPiece"
        self._fallback = bool(model.get("byte_fallback"))
        unknown = model.get("unk_token")
        if unknown is not None:
            self.unknown = self._tokenizer.token_to_id(unknown)
        elif model.get("type") == "Unigram":
            self.unknown = model.get("unk_id")
        if model.get("type") == "BPE":
            pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in model.get("merges", [])]
            read = pieces.from_letters if self.letters else pieces.from_sentencepiece
            self.merges = {(read(left), read(right)): rank for rank, (left, right) in enumerate(pairs)}
        normaliser = (config.get("normalizer") or {}).get("type")
        level = "byte-level " if self.letters else ""
        self.facts = [f"{level}{model.get('type', 'model')}"]
        self.facts += ["byte fallback"] if self._fallback else []
        self.facts += [f"normaliser {normaliser}"] if normaliser else []

    def encode(self, raw, special=True):
        try:
            return self._tokenizer.encode(raw.decode("utf-8", errors="replace"), add_special_tokens=special).ids
        except Exception as error:
            raise Refused(first_line(error)) from None

    @functools.lru_cache(maxsize=1 << 18)  # noqa: B019 (one tokenizer a run)
    def piece(self, token):
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""
        if token in self.added:
            return text.encode()
        if self.letters:
            return pieces.from_letters(text)
        return pieces.from_wordpiece(text) if self._wordpiece else pieces.from_sentencepiece(text)

    def is_byte(self, token):
        text = self._tokenizer.id_to_token(token)
        return self._fallback and text is not None and pieces.byte_of(text) is not None

    def borders(self, raw):
        rule = self._tokenizer.pre_tokenizer
        text = raw.decode("utf-8", errors="replace")
        if rule is None or self._tokenizer.normalizer is not None:
            return None
        return {len(text[:start].encode()) for _, (start, _) in rule.pre_tokenize_str(text)}


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; the library itself adds neither BOS nor EOS unless asked."""

    kind = "sentencepiece"

    def __init__(self, path, bos=False, eos=False):
        super().__init__(path)
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise InputError(path, "", "a SentencePiece model", first_line(error)) from None
        self.size = self._model.get_piece_size()
        self._bos, self._eos = bos and self._model.bos_id() >= 0, eos and self._model.eos_id() >= 0
        self.special = {token for token in range(self.size) if self._model.is_control(token)}
        self.unknown = self._model.unk_id()
        self.facts = ["SentencePiece"]
        self.facts += ["byte fallback"] if any(self._model.is_byte(token) for token in range(self.size)) else []

    def encode(self, raw, special=True):
        # The library replaces what is no UTF-8 itself, but its binding takes bytes only where they are UTF-8.
        text = raw.decode("utf-8", errors="replace")
        return self._model.encode(text, out_type=int, add_bos=special and self._bos, add_eos=special and self._eos)

    @functools.lru_cache(maxsize=1 << 18)  # noqa: B019
    def piece(self, token):
        return pieces.from_sentencepiece(self._model.id_to_piece(token))

    def is_byte(self, token):
        return self._model.is_byte(token)


def load(path):
    """The tokenizer of a folder, a tokenizer.json, a SentencePiece model or a .gguf. Errors: InputError; ImportError."""
    path = Path(path)
    if path.is_dir():
        if (path / "tokenizer.json").exists():
            return HfTokenizer(path / "tokenizer.json")
        if (path / "tokenizer.model").exists():
            return _slow(path)
        raise InputError(path, "", "a folder with tokenizer.json or tokenizer.model", "neither")
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(path, "", "a tokenizer", error.strerror) from None
    if start.startswith(b"GGUF"):
        return GgufTokenizer(path)
    return HfTokenizer(path) if start.lstrip().startswith(b"{") else SentencePieceTokenizer(path)


def _slow(folder):
    """SentencePiece with what tokenizer_config.json says about BOS and EOS; without it Llama's habit, BOS alone."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return SentencePieceTokenizer(
        folder / "tokenizer.model", config.get("add_bos_token", True), config.get("add_eos_token", False)
    )
