"""How vocabularies write bytes: GPT-2's letters, SentencePiece's "▁" and "<0x0A>", WordPiece's "##"; and BPE by its merges."""

import itertools
import re

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _letters():
    """GPT-2's bytes_to_unicode, from letter to byte: printable bytes stand for themselves, the other 68 for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


LETTERS = _letters()


def from_letters(text):
    """Bytes of a byte-level piece; of a text that is none (an added token) its UTF-8."""
    if all(letter in LETTERS for letter in text):
        return bytes(LETTERS[letter] for letter in text)
    return text.encode()


def from_sentencepiece(text):
    byte = byte_of(text)
    return bytes([byte]) if byte is not None else text.replace("▁", " ").encode()


def from_wordpiece(text):
    """A word's first piece carries the space before it, so that texts can be put together."""
    return text[2:].encode() if text.startswith("##") else b" " + text.encode()


def byte_of(text):
    """The byte that "<0x0A>" stands for, or None."""
    match = _BYTE.fullmatch(text)
    return int(match[1], 16) if match else None


def show(piece):
    """A piece for people: in quotes, with what cannot be printed escaped; bytes that are no UTF-8 as \\xNN."""
    text = piece.decode("utf-8", errors="backslashreplace")
    escaped = "".join(c if c.isprintable() or "\\x" in c else c.encode("unicode_escape").decode() for c in text)
    return '"' + escaped.replace('"', '\\"') + '"'


def cut_by_merges(symbols, ranks):
    """BPE: joins the neighbours of the lowest rank, leftmost first, until no pair has a rank.

    symbols: list of bytes; ranks: {(left, right): rank}. Returns (pieces, the pairs joined in order).
    """
    pieces, joined = list(symbols), []
    while True:
        pairs = [(ranks.get(pair), place) for place, pair in enumerate(itertools.pairwise(pieces)) if pair in ranks]
        if not pairs:
            return pieces, joined
        _, place = min(pairs)
        joined.append((pieces[place], pieces[place + 1]))
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
