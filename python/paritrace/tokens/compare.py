"""Both comparisons of `paritrace tokens`, as the JSON `paritrace/tokens/1`."""

import contextlib

from paritrace.errors import InputError
from paritrace.tokens.base import Refused
from paritrace.tokens.explain import explain, refusal
from paritrace.tokens.gguf import GgufTokenizer
from paritrace.tokens.tokenizers import load

SCHEMA = "paritrace/tokens/1"
_AROUND = 8  # tokens shown behind the first that differs, and half as many before it


@contextlib.contextmanager
def opened(path):
    """A tokenizer that is closed at the end. Errors: InputError; ImportError if its library is not there."""
    tokenizer = load(path)
    try:
        yield tokenizer
    finally:
        if isinstance(tokenizer, GgufTokenizer):
            tokenizer.close()


def tokenizers(reference_path, subject_path, texts):
    """Two tokenizers on texts (bytes). Errors: InputError, ImportError."""
    with opened(reference_path) as reference, opened(subject_path) as subject:
        result = _result("tokenizers", reference.describe(), subject.describe())
        counts, not_compared = [0, 0], []
        for line, raw in enumerate(texts, start=1):
            ids = [_encoded(side, raw) for side in (reference, subject)]
            refused = [made for made in ids if isinstance(made, Refused)]
            if len(refused) == 2:
                not_compared.append(line)
                continue
            if refused:
                found = [refusal(ids)]
            else:
                counts = [count + len(made) for count, made in zip(counts, ids)]
                found = explain(reference, subject, raw, *ids)
            for difference in found:
                result["differences"].append(_described(reference, subject, difference, line, raw))
        differ = {entry["line"] for entry in result["differences"]}
        result["texts"] = {
            "total": len(texts), "differ": len(differ), "not_utf8": sum(not _is_utf8(raw) for raw in texts),
            "refused_by_both": not_compared, "tokens_reference": counts[0], "tokens_subject": counts[1],
        }  # fmt: skip
        result["vocabulary"] = _vocabularies(reference, subject)
    return _judge(result, len(texts) > len(not_compared), "there is no text that both take")


def _encoded(tokenizer, raw):
    try:
        return tokenizer.encode(raw)
    except Refused as refused:
        return refused


def _result(what, reference, subject):
    return {
        "schema": SCHEMA, "verdict": "", "compared": what, "reference": reference, "subject": subject, "texts": {},
        "causes": [], "differences": [], "remarks": [],
    }  # fmt: skip


def _judge(result, comparable, why_not):
    causes = {}
    for entry in result["differences"]:
        cause = causes.setdefault(
            (entry["cause"], entry["reason"]),
            {
                "id": entry["cause"], "reason": entry["reason"], "texts": set(), "first": entry["line"],
                "statement": entry["statement"],
            },
        )  # fmt: skip
        cause["texts"].add(entry["line"])
    result["causes"] = [cause | {"texts": len(cause["texts"])} for cause in causes.values()]
    result["verdict"] = "diverged" if causes else "identical" if comparable else "incomparable"
    if not comparable:
        result["remarks"].append(why_not)
    return result


def _described(reference, subject, difference, line, raw):
    def listed(side, ids):
        return [{"id": token, "text": side.text(token)} for token in ids]

    return {
        "line": line, "text": raw.decode("utf-8", errors="backslashreplace"), "position": difference.position,
        "cause": difference.cause, "reason": difference.reason, "statement": difference.statement,
        "reference": listed(reference, difference.reference), "subject": listed(subject, difference.subject),
    }  # fmt: skip


def _is_utf8(raw):
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _vocabularies(reference, subject):
    """Ids that stand for another text: no difference by themselves, for the texts may not use them."""
    common = min(reference.size, subject.size)
    other = [token for token in range(common) if reference.piece(token) != subject.piece(token)]
    found = {"reference": reference.size, "subject": subject.size, "other_text": len(other), "first": None}
    if other:
        token = other[0]
        found["first"] = {"id": token, "reference": reference.text(token), "subject": subject.text(token)}
    return found


def traces(reference_path, subject_path, tokenizer_path=None):
    """The tokens in two traces' headers. Errors: InputError; ValueError of the reader."""
    import paritrace
    from paritrace import _core

    sides = [paritrace.open_trace(path) for path in (reference_path, subject_path)]
    sequences = [_sequences(trace) for trace in sides]
    result = _result("traces", *(trace.header | {"path": trace.path} for trace in sides))
    with contextlib.ExitStack() as stack:
        vocabulary = _vocabulary_of(stack, sides, tokenizer_path, result["remarks"])
        mismatch = _core.compare_tokens(*sequences)
        if mismatch:
            first, place = mismatch["sequence"], mismatch["position"]
            window = slice(max(0, place - _AROUND // 2), place + _AROUND)
            shown = [
                [
                    {"id": token, "text": vocabulary(token)}
                    for token in (side[first] if first < len(side) else [])[window]
                ]
                for side in sequences
            ]
            result["differences"].append({
                "line": first + 1, "text": _text_of(sides, first), "position": place, "cause": mismatch["cause"],
                "reason": mismatch["cause"].removeprefix("tokens."), "statement": mismatch["statement"],
                "reference": shown[0], "subject": shown[1],
            })  # fmt: skip
    counts = [sum(map(len, side)) for side in sequences]
    result["texts"] = {
        "total": max(map(len, sequences)), "differ": len(result["differences"]), "not_utf8": 0,
        "tokens_reference": counts[0], "tokens_subject": counts[1],
    }  # fmt: skip
    if not result["differences"] and all(sequences) and counts[0] != counts[1]:
        result["remarks"].append(f"one goes on where the other ends: {counts[0]} tokens against {counts[1]}")
    missing = [name for name, side in zip(("reference", "subject"), sequences) if not side]
    return _judge(result, not missing, f"the header of the {' and the '.join(missing)} holds no tokens")


def _sequences(trace):
    tokens = trace.header.get("run", {}).get("tokens") or []
    if not all(isinstance(one, list) and all(isinstance(token, int) for token in one) for one in tokens):
        raise InputError(trace.path, "run.tokens", "lists of token ids", str(tokens)[:40])
    return tokens


def _text_of(traces, sequence):
    for trace in traces:
        texts = trace.header.get("run", {}).get("text") or []
        if sequence < len(texts):
            return texts[sequence]
    return ""


def _vocabulary_of(stack, traces, path, remarks):
    """Function: id -> text, "" where no tokenizer is known. A model that has moved away is no error."""
    if path:
        return stack.enter_context(opened(path)).text
    for trace in traces:
        file = trace.header.get("model", {}).get("file")
        if not file:
            continue
        try:
            return stack.enter_context(opened(file)).text
        except (InputError, ImportError, ValueError) as error:
            remarks.append(f"no texts of tokens from {file}: {error}")
    return lambda token: ""
