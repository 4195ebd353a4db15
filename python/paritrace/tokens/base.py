"""The one face that the comparison sees of every tokenizer. Texts come as bytes, because files do."""

import functools


class Refused(Exception):
    """A tokenizer that gives no ids for a text. Its words are for people."""


class Tokenizer:
    """What the comparison asks of every kind.

    path, kind   what it was made from; "hf", "sentencepiece", "gguf"
    size         ids in the vocabulary
    special      ids that stand for no text of their own: BOS, EOS, …; added: ids cut out of the text before anything else
    unknown      id for what has no piece, or None
    merges       {(left, right): rank} in bytes, or None where it is no BPE or its merges are not told
    letters      True where pieces are of bytes, False where they are of characters
    facts        short texts for people
    """

    kind = ""

    def __init__(self, path):
        self.path = str(path)
        self.special, self.added, self.unknown, self.merges = set(), set(), None, None
        self.letters = False
        self.facts = []

    def encode(self, raw, special=True):
        """Token ids of a text (bytes); special: with BOS, EOS as the tokenizer adds them. Errors: Refused."""
        raise NotImplementedError

    def piece(self, token):
        """The bytes that an id stands for."""
        raise NotImplementedError

    def is_byte(self, token):
        """Whether an id is a byte of a character that has no piece."""
        return False

    def borders(self, raw):
        """Offsets in the text at which it is cut before any merge, or None where that is not told."""
        return None

    @functools.cached_property
    def template(self):
        """(ids put before every text, ids put after it)."""
        probe = b"a"
        body, whole = self.encode(probe, special=False), self.encode(probe)
        for start in range(len(whole) - len(body) + 1):
            if whole[start : start + len(body)] == body:
                return whole[:start], whole[start + len(body) :]
        return [], []

    @functools.cached_property
    def ids(self):
        """{piece: the ids that stand for it}."""
        found = {}
        for token in range(self.size):
            found.setdefault(self.piece(token), []).append(token)
        return found

    def describe(self):
        """The tokenizer in the JSON."""
        before, after = self.template
        name = [{"id": token, "text": self.text(token)} for token in before]
        end = [{"id": token, "text": self.text(token)} for token in after]
        return {
            "kind": self.kind, "path": self.path, "vocabulary": self.size, "before": name, "after": end,
            "facts": self.facts,
        }  # fmt: skip

    def text(self, token):
        return self.piece(token).decode("utf-8", errors="backslashreplace")
