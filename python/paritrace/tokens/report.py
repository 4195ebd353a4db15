"""The report of `paritrace tokens`: the answer, both sides, the causes, the first differences; for people and for build servers."""

import json

from paritrace.tokens.pieces import show

_SHOWN = 5


def _answer(result):
    texts, unit = result["texts"], "line" if result["compared"] == "tokenizers" else "sequence"
    if result["verdict"] == "incomparable":
        return f"nothing to compare: {result['remarks'][-1]}"
    if result["verdict"] == "identical":
        return (
            f"the same token ids in {texts['total']} {unit}{'s' if texts['total'] != 1 else ''}, "
            f"{texts['tokens_reference']} tokens"
        )
    first = result["differences"][0]
    total = f"{texts['differ']} of {texts['total']} {unit}s differ"
    return f"{total}, first {unit} {first['line']}: {first['statement']}"


def _side(side):
    if "kind" not in side:
        engine = side.get("engine", {})
        return f"{side['path']}  {engine.get('name', '')} {engine.get('version', '')}".rstrip()
    facts = [*side["facts"], f"{side['vocabulary']} tokens"]
    for key, word in (("before", "in front"), ("after", "behind")):
        facts += [f"{' '.join(_token(token) for token in side[key])} {word}"] if side[key] else []
    return f"{side['path']}  {', '.join(facts)}"


def _token(token):
    text = token["text"].encode("utf-8", errors="replace")
    return f"{token['id']} {show(text)}" if text else str(token["id"])


def _remarks(result):
    remarks = list(result["remarks"]) if result["verdict"] != "incomparable" else []
    vocabulary = result.get("vocabulary")
    if vocabulary and vocabulary["other_text"]:
        first = vocabulary["first"]
        remarks.append(
            f"{vocabulary['other_text']} ids stand for another text, first {first['id']}: "
            f"{show(first['reference'].encode())} in the reference, {show(first['subject'].encode())} in the subject"
        )
    if vocabulary and vocabulary["reference"] != vocabulary["subject"]:
        remarks.append(f"vocabularies of {vocabulary['reference']} and {vocabulary['subject']} tokens")
    if result["texts"].get("not_utf8"):
        remarks.append(
            f"{result['texts']['not_utf8']} lines are no UTF-8; tokenizers of Python get U+FFFD there, "
            "llama.cpp gets the bytes"
        )
    if result["texts"].get("refused_by_both"):
        remarks.append(f"{len(result['texts']['refused_by_both'])} lines are refused by both and not compared")
    return remarks


def _rows(result):
    return [(cause["id"], cause["reason"], str(cause["texts"]), str(cause["first"])) for cause in result["causes"]]


def terminal(result, everything=False):
    lines = [f"paritrace tokens: {result['verdict']}: {_answer(result)}"]
    lines += [f"  reference  {_side(result['reference'])}", f"  subject    {_side(result['subject'])}"]
    if result["causes"]:
        rows = [("cause", "reason", "lines", "first"), *_rows(result)]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines += [""] + [
            f"  {r[0]:<{widths[0]}}  {r[1]:<{widths[1]}}  {r[2]:>{widths[2]}}  {r[3]:>{widths[3]}}" for r in rows
        ]
    for entry in result["differences"] if everything else _first_of_each(result):
        lines += ["", f"  line {entry['line']}, token {entry['position']}: {entry['statement']}"]
        for side in ("reference", "subject"):
            shown = "  ".join(_token(token) for token in entry[side][:16]) or "nothing"
            lines.append(f"    {side:<9}  {shown}")
    remarks = _remarks(result)
    lines += [""] + [f"  {remark}" for remark in remarks] if remarks else []
    return "\n".join(lines) + "\n"


def _first_of_each(result):
    """The first difference of each reason, and no more than a handful."""
    seen, chosen = set(), []
    for entry in result["differences"]:
        if entry["reason"] not in seen:
            seen.add(entry["reason"])
            chosen.append(entry)
    return chosen[:_SHOWN]


def _cell(text):
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("`", "'")


def markdown(result, everything=False):
    lines = [f"**paritrace tokens: {result['verdict']}**: {_cell(_answer(result))}", ""]
    lines += [f"- reference: {_cell(_side(result['reference']))}", f"- subject: {_cell(_side(result['subject']))}"]
    if result["causes"]:
        lines += ["", "| cause | reason | lines | first |", "|---|---|---:|---:|"]
        lines += [f"| `{row[0]}` | {row[1]} | {row[2]} | {row[3]} |" for row in _rows(result)]
        lines += ["", "| line | token | what |", "|---:|---:|---|"]
        for entry in result["differences"] if everything else _first_of_each(result):
            lines.append(f"| {entry['line']} | {entry['position']} | {_cell(entry['statement'])} |")
    lines += ["", *(f"- {_cell(remark)}" for remark in _remarks(result))] if _remarks(result) else []
    return "\n".join(lines) + "\n"


def html(result):
    """Everything on one page: every difference, too."""
    from paritrace import _core

    tone = {"identical": "good", "diverged": "bad"}.get(result["verdict"], "odd")
    facts = [(side, _side(result[side])) for side in ("reference", "subject")]
    sections = []
    if result["causes"]:
        sections.append(("causes", ["cause", "reason", "lines", "first"], [list(row) for row in _rows(result)]))
        rows = [
            [str(entry["line"]), str(entry["position"]), entry["cause"], entry["statement"]]
            for entry in result["differences"]
        ]
        sections.append(("differences", ["line", "token", "cause", "what"], rows))
    text = json.dumps(result)
    return _core.report_html(text, "paritrace tokens", tone, _answer(result), facts, sections, _remarks(result))


def _checks(result):
    """A check a line; of two traces a check a sequence."""
    if result["verdict"] == "incomparable":
        return [("tokens", "error", _answer(result))]
    said = {}
    for entry in result["differences"]:
        said.setdefault(entry["line"], []).append(f"{entry['cause']}: {entry['statement']}")
    unit = "line" if result["compared"] == "tokenizers" else "sequence"
    refused = set(result["texts"].get("refused_by_both", []))
    checks = []
    for line in range(1, result["texts"]["total"] + 1):
        outcome = "failed" if line in said else "skipped" if line in refused else "passed"
        checks.append(
            (f"{unit} {line}", outcome, "; ".join(said.get(line, ["refused by both"] if line in refused else [])))
        )
    return checks


def junit(result):
    from paritrace import _core

    return _core.report_junit("paritrace tokens", _checks(result))


def sarif(result):
    from paritrace import _core

    return _core.report_sarif("paritrace.tokens", result["subject"]["path"], _checks(result))
