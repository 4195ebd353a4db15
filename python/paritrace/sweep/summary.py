"""summary.md: the answer of a sweep, then a table of engines, then every scenario that is not at parity, in the plan's order.
Nothing in it depends on when or where a scenario ran, so that two runs of a plan give the same bytes.
"""

import collections
import json

from paritrace.sweep.plan import label

PARITY = ("identical", "within_noise")
# What stands in the table, in this order; `parity` and `diverged` are done scenarios.
STATES = ("parity", "diverged", "recorded", "incomparable", "failed", "crashed", "timeout", "missing")


def state_of(receipt):
    """One of STATES."""
    if receipt["status"] != "done":
        return receipt["status"]
    verdict = receipt.get("verdict")
    if verdict is None:
        return "recorded"
    return "parity" if verdict in PARITY else verdict


def count(receipts):
    """{state: number}, every state of STATES in it."""
    counted = collections.Counter(map(state_of, receipts))
    return {state: counted.get(state, 0) for state in STATES}


def sentence(counts, total):
    """The answer in one line."""
    parts = [f"{number} {state}" for state, number in counts.items() if number]
    open_ones = total - sum(counts.values())
    if open_ones:
        parts.append(f"{open_ones} not run")
    return f"{total} scenarios: {', '.join(parts) or 'none run'}"


def what_happened(receipt):
    """A scenario that is not at parity, in a few words."""
    if receipt["status"] != "done":
        return receipt.get("error", "")
    defects = receipt.get("defects") or []
    words = [f"{defect['site']}: {defect['cause']}" for defect in defects[:3]]
    return "; ".join(words) + (f"; and {len(defects) - 3} more" if len(defects) > 3 else "")


def _cell(text):
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def markdown(scenarios, receipts):
    """scenarios: of the plan; receipts: {id: receipt}."""
    present = [receipts[scenario["id"]] for scenario in scenarios if scenario["id"] in receipts]
    counts = count(present)
    lines = [f"# Sweep: {sentence(counts, len(scenarios))}", ""]
    used = [state for state in STATES if counts[state]]
    lines += [f"| engine | arithmetic | scenarios | {' | '.join(used)} |", f"|---|---|---:|{'---:|' * len(used)}"]
    groups = {}
    for scenario in scenarios:
        groups.setdefault((scenario["engine"], scenario["arithmetic"]), []).append(scenario["id"])
    for (engine, arithmetic), ids in groups.items():
        counted = count([receipts[one] for one in ids if one in receipts])
        cells = " | ".join(str(counted[state]) for state in used)
        lines.append(f"| {_cell(engine)} | {_cell(arithmetic)} | {len(ids)} | {cells} |")
    rest = [s for s in scenarios if s["id"] in receipts and state_of(receipts[s["id"]]) not in ("parity", "recorded")]
    if rest:
        lines += [
            "",
            "| model | prompt | tokens | engine | arithmetic | result | what |",
            "|---|---|---:|---|---|---|---|",
        ]
        for scenario in rest:
            receipt = receipts[scenario["id"]]
            cells = [scenario[key] for key in ("model", "prompt", "length", "engine", "arithmetic")]
            lines.append(f"| {' | '.join(map(_cell, [*cells, state_of(receipt), what_happened(receipt)]))} |")
    return "\n".join(lines) + "\n"


def terminal(scenarios, receipts):
    """The answer, and a line for each scenario that is not at parity (twelve at most)."""
    present = [receipts[scenario["id"]] for scenario in scenarios if scenario["id"] in receipts]
    lines = [f"paritrace sweep: {sentence(count(present), len(scenarios))}"]
    rest = [s for s in scenarios if s["id"] in receipts and state_of(receipts[s["id"]]) not in ("parity", "recorded")]
    for scenario in rest[:12]:
        receipt = receipts[scenario["id"]]
        lines.append(f"  {state_of(receipt):<12}  {label(scenario)}  {what_happened(receipt)}")
    if len(rest) > 12:
        lines.append(f"  and {len(rest) - 12} more: see summary.md")
    return "\n".join(lines) + "\n"


def html(scenarios, receipts):
    """summary.html: the same answer, and every scenario."""
    from paritrace import _core

    present = [receipts[scenario["id"]] for scenario in scenarios if scenario["id"] in receipts]
    counts = count(present)
    keys = ["model", "prompt", "length", "engine", "arithmetic"]
    rows = []
    for scenario in scenarios:
        receipt = receipts.get(scenario["id"])
        found = [state_of(receipt), what_happened(receipt)] if receipt else ["not run", ""]
        # What went wrong may hold bytes that are no UTF-8, which the extension module refuses.
        cells = [
            str(cell).encode("utf-8", errors="replace").decode() for cell in [*(scenario[key] for key in keys), *found]
        ]
        rows.append(cells)
    bad = any(counts[state] for state in ("diverged", "failed", "crashed", "timeout"))
    tone = "bad" if bad else "good" if counts["parity"] + counts["recorded"] else "odd"
    result = json.dumps({"schema": "paritrace/sweep/1", "counts": counts})
    sections = [("Scenarios", [*keys, "result", "what"], rows)]
    return _core.report_html(result, "paritrace sweep", tone, f"{sentence(counts, len(scenarios))}.", [], sections, [])
