"""Where two tokenizers part on one text, and why.

What both put around every text (BOS, EOS) is judged apart from the text itself. In the text, the two lists are walked until
they differ, on to the next place where both have a border at the same text, and so on: each stretch between is one
difference, with one reason.
"""

import unicodedata
from dataclasses import dataclass, field

from paritrace.tokens.base import Refused
from paritrace.tokens.pieces import cut_by_merges, show

# reason -> the contract's cause
CAUSES = {
    "bos": "tokens.bos", "front": "tokens.shift", "eos": "tokens.ids", "ids": "tokens.ids", "utf8": "tokens.ids",
    "unknown": "tokens.ids", "added_token": "tokens.ids", "normalisation": "tokens.ids", "byte_fallback": "tokens.ids",
    "piece_missing": "tokens.ids", "merges": "tokens.ids", "pre_tokenizer": "tokens.ids", "cut": "tokens.ids",
    "refused": "tokens.ids",
}  # fmt: skip
_LONGEST_SIMULATED = 400  # pieces; BPE here is the plain quadratic one


@dataclass
class Difference:
    """position: index of the first token that differs, in the reference's list; reference, subject: ids of the stretch."""

    reason: str
    statement: str
    position: int
    reference: list = field(default_factory=list)
    subject: list = field(default_factory=list)

    @property
    def cause(self):
        return CAUSES[self.reason]


def explain(reference, subject, raw, ids_reference, ids_subject):
    """All differences of one text, [] if there is none.

    reference, subject: Tokenizers; raw: the text in bytes; ids_…: what each made of it
    """
    if ids_reference == ids_subject:
        return []
    bodies, found = [], []
    for tokenizer, ids in ((reference, ids_reference), (subject, ids_subject)):
        before, after = tokenizer.template
        whole = ids[: len(before)] == before and ids[len(ids) - len(after) :] == after
        bodies.append((ids[len(before) : len(ids) - len(after)], len(before)) if whole else (ids, 0))
    found += _templates(reference, subject)
    (body_reference, start), (body_subject, _) = bodies
    found += _Walk(reference, subject, raw, body_reference, body_subject, start).differences()
    if not found:  # the templates were not where they should be: say no more than is known
        place = next((i for i, pair in enumerate(zip(ids_reference, ids_subject)) if pair[0] != pair[1]), 0)
        found.append(Difference("cut", "the two lists differ", place, ids_reference, ids_subject))
    return found


def refusal(ids):
    """The difference of a text that one side gives no ids for; ids: of each side, or its Refused."""
    for number, made in enumerate(ids):
        if isinstance(made, Refused):
            shown = [[], []]
            shown[1 - number] = ids[1 - number]
            return Difference("refused", f"{_SIDES[number]} gives no ids: {made}", 0, *shown)
    raise ValueError("neither side refused")


def _templates(reference, subject):
    """What one side puts before or after every text and the other does not."""
    found = []
    for place, before in ((0, True), (1, False)):
        ours, theirs = reference.template[place], subject.template[place]
        if ours == theirs:
            continue
        reason = ("bos" if abs(len(ours) - len(theirs)) <= 1 else "front") if before else "eos"
        where = "in front of" if before else "after"
        said = [
            f"{name} puts {' '.join(_named(side, token) for token in ids) or 'nothing'} {where} every text"
            for name, side, ids in (("the reference", reference, ours), ("the subject", subject, theirs))
        ]
        found.append(Difference(reason, ", ".join(said), 0 if before else -1, list(ours), list(theirs)))
    return found


def _named(tokenizer, token):
    return f"{token} {show(tokenizer.piece(token))}"


class _Walk:
    def __init__(self, reference, subject, raw, ours, theirs, start):
        self.sides = (reference, subject)
        self.raw = raw
        self.lists = (ours, theirs)
        self.start = start
        self.places = [0, 0]
        self.offsets = [0, 0]  # bytes of text that each side has behind it

    def differences(self):
        found = []
        while True:
            while self._both_left() and self.lists[0][self.places[0]] == self.lists[1][self.places[1]]:
                for number, side in enumerate(self.sides):
                    self.offsets[number] += len(side.piece(self.lists[number][self.places[number]]))
                self.places = [place + 1 for place in self.places]
            rest = [ids[place:] for ids, place in zip(self.lists, self.places)]
            if not rest[0] and not rest[1]:
                return found
            lengths, texts, same = self._stretch(*rest)
            stretch = [ids[:length] for ids, length in zip(rest, lengths)]
            reason, statement = self._reason(stretch, texts, same)
            found.append(Difference(reason, statement, self.start + self.places[0], *stretch))
            self.places = [place + length for place, length in zip(self.places, lengths)]
            self.offsets = [offset + len(text) for offset, text in zip(self.offsets, texts)]

    def _both_left(self):
        return all(place < len(ids) for ids, place in zip(self.lists, self.places))

    def _stretch(self, ours, theirs):
        """How many tokens of each side lie before the next common border: (counts, their texts, whether these are equal).

        Where the texts differ, the stretch goes on to where the rest of both lists is the same again.
        """
        counts, texts = [1 if ours else 0, 1 if theirs else 0], [self._join(0, ours[:1]), self._join(1, theirs[:1])]
        lists = (ours, theirs)
        while all(counts):
            if len(texts[0]) == len(texts[1]):
                if texts[0] == texts[1]:
                    return counts, texts, True
                break
            short = 0 if len(texts[0]) < len(texts[1]) else 1
            if not texts[1 - short].startswith(texts[short]) or counts[short] == len(lists[short]):
                break
            texts[short] += self._join(short, lists[short][counts[short] : counts[short] + 1])
            counts[short] += 1
        return self._common_rest(ours, theirs)

    def _common_rest(self, ours, theirs):
        """The first place from which both go on alike for some tokens; else the end of both."""
        enough = 3
        for total in range(1, min(len(ours) + len(theirs), 64)):
            for first in range(max(0, total - len(theirs)), min(total, len(ours)) + 1):
                a, b = ours[first : first + enough], theirs[total - first : total - first + enough]
                at_end = first + len(a) == len(ours) and total - first + len(b) == len(theirs)
                if a == b and a and (len(a) == enough or at_end):
                    counts = [first, total - first]
                    return counts, [self._join(0, ours[:first]), self._join(1, theirs[: total - first])], False
        return [len(ours), len(theirs)], [self._join(0, ours), self._join(1, theirs)], False

    def _join(self, side, ids):
        return b"".join(self.sides[side].piece(token) for token in ids)

    # ---- the reason -------------------------------------------------------------------------------------------------

    def _reason(self, stretch, texts, same):
        ours, theirs = stretch
        if not same and (broken := self._broken()) is not None and broken <= min(self.offsets) + max(map(len, texts)):
            return "utf8", (
                f"the text is no UTF-8 from byte {broken} on: the reference reads {_quoted(texts[0])}, "
                f"the subject {_quoted(texts[1])}"
            )
        for number, (side, ids) in enumerate(zip(self.sides, stretch)):
            if side.unknown in ids:
                other = texts[1 - number]
                return (
                    "unknown",
                    f"{_SIDES[number]} has no piece for {_quoted(other)} and gives {_named(side, side.unknown)}",
                )
        for number, (side, ids) in enumerate(zip(self.sides, stretch)):
            other, other_ids = self.sides[1 - number], stretch[1 - number]
            cut_out = [token for token in ids if token in side.added | side.special]
            if cut_out and not any(token in other.added | other.special for token in other_ids):
                return "added_token", (
                    f"{_SIDES[number]} takes {show(side.piece(cut_out[0]))} for its token {cut_out[0]}, "
                    f"{_SIDES[1 - number]} for text"
                )
        if not same:
            return self._text_reason(texts)
        if len(ours) == len(theirs) == 1:
            return "ids", f"{_quoted(texts[0])} is {ours[0]} in the reference, {theirs[0]} in the subject"
        return self._cut_reason(stretch, texts[0])

    def _broken(self):
        try:
            self.raw.decode()
        except UnicodeDecodeError as error:
            return error.start
        return None

    def _text_reason(self, texts):
        for number in (0, 1):
            if not texts[number]:
                return self._empty_reason(number, texts[1 - number])
        try:
            before = texts[0].decode(), texts[1].decode()
        except UnicodeDecodeError:
            before = None
        if before:
            for name, form in FORMS:
                for number in (0, 1):
                    if form(before[1 - number]) == before[number]:
                        return "normalisation", (
                            f"{_SIDES[number]} {name}: it reads {_quoted(texts[number])} "
                            f"where {_SIDES[1 - number]} reads {_quoted(texts[1 - number])}"
                        )
        return "normalisation", (f"the reference reads {_quoted(texts[0])} where the subject reads {_quoted(texts[1])}")

    def _empty_reason(self, number, text):
        """Side `number` has nothing where the other has `text`: the text itself tells which of them is right."""
        if self.raw.startswith(text, self.offsets[number]):
            return "unknown", f"{_SIDES[number]} drops {_quoted(text)}: it has neither a piece nor bytes for it"
        return "normalisation", f"{_SIDES[1 - number]} adds {_quoted(text)}, which is not in the text"

    def _cut_reason(self, stretch, text):
        cuts = [[side.piece(token) for token in ids] for side, ids in zip(self.sides, stretch)]
        shown = f"{_quoted(text)} is {_row(cuts[0])} in the reference, {_row(cuts[1])} in the subject"
        for number in (0, 1):
            if any(map(self.sides[number].is_byte, stretch[number])) and not any(
                map(self.sides[1 - number].is_byte, stretch[1 - number])
            ):
                return "byte_fallback", f"{shown}: {_SIDES[number]} has no piece for it and spells its bytes"
        for number in (0, 1):
            missing = [piece for piece in cuts[number] if piece not in self.sides[1 - number].ids]
            if missing:
                return "piece_missing", (
                    f"{shown}: {_quoted(missing[0])} is not in the vocabulary of {_SIDES[1 - number]}"
                )
        return self._merge_reason(cuts, text, shown)

    def _merge_reason(self, cuts, text, shown):
        ranks = [side.merges for side in self.sides]
        if None in ranks:
            return "cut", f"{shown}: both have all these pieces; the merges of one side are not told"
        if ranks[0] != ranks[1] and len(text) <= _LONGEST_SIMULATED:
            runs = [cut_by_merges(_symbols(side, text), table) for side, table in zip(self.sides, ranks)]
            if [run[0] for run in runs] == cuts:
                return "merges", f"{shown}: {_merge_difference(ranks, runs)}"
        why = "by the same merges" if ranks[0] == ranks[1] else "and the merges do not explain it"
        for number, side in enumerate(self.sides):
            borders = side.borders(self.raw)
            if borders is None:
                continue
            if inside := _border_inside(borders, self.offsets[number], cuts[1 - number]):
                return "pre_tokenizer", (
                    f"{shown}, {why}: {_SIDES[number]} cuts the text before {_quoted(inside)} ahead of any merge, "
                    f"{_SIDES[1 - number]} does not"
                )
        reason = "pre_tokenizer" if ranks[0] == ranks[1] else "cut"
        return reason, f"{shown}, {why}: the two cut the text otherwise before they merge"


_SIDES = ("the reference", "the subject")


def _strip_accents(text):
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


# What a normaliser does, by what it does to the other side's text.
FORMS = [
    ("normalises to NFC", lambda text: unicodedata.normalize("NFC", text)),
    ("normalises to NFD", lambda text: unicodedata.normalize("NFD", text)),
    ("normalises to NFKC", lambda text: unicodedata.normalize("NFKC", text)),
    ("normalises to NFKD", lambda text: unicodedata.normalize("NFKD", text)),
    ("writes lower case", str.lower),
    ("puts a space in front", lambda text: " " + text),
    ("strips spaces at the ends", str.strip),
    ("joins runs of spaces", lambda text: " ".join(text.split())),
    ("strips accents", _strip_accents),
    ("writes lower case and strips accents", lambda text: _strip_accents(text).lower()),
]


def _symbols(side, text):
    if side.letters:
        return [bytes([byte]) for byte in text]
    return [letter.encode() for letter in text.decode("utf-8", errors="replace")]


def _merge_difference(ranks, runs):
    """Which merge of the two runs is the first that the other side does not do, or does later."""
    for number in (0, 1):
        others = set(runs[1 - number][1])
        for pair in runs[number][1]:
            if pair in others:
                continue
            ours, theirs = ranks[number][pair], ranks[1 - number].get(pair)
            joined = f"{show(pair[0])} + {show(pair[1])} is merge {ours} of {_SIDES[number]}"
            if theirs is None:
                return f"{joined}, {_SIDES[1 - number]} has no such merge"
            if theirs != ours:
                return f"{joined}, merge {theirs} of {_SIDES[1 - number]}"
    return "their merges stand in another order"


def _border_inside(borders, offset, cut):
    """The piece of `cut` that runs over a border, from the border on; b"" if there is none."""
    for piece in cut:
        for border in borders:
            if offset < border < offset + len(piece):
                return piece[border - offset :]
        offset += len(piece)
    return b""


def _quoted(piece):
    return show(piece if len(piece) <= 60 else piece[:57] + b"...")


def _row(cut):
    return " ".join(_quoted(piece) for piece in cut[:12]) + (" ..." if len(cut) > 12 else "")
