"""The whole answer of the torch oracle on one subject, as paritrace/diagnosis/1."""

import re

import numpy as np

from paritrace.errors import InputError
from paritrace.torch_oracle.judge import Site
from paritrace.torch_oracle.search import explain


def diagnose(replay, arithmetic, inferred=False, progress=lambda line: None):
    """replay: of replay.py, not yet run. Returns a dict. Errors: InputError if the trace holds nothing that the model computes."""
    replay.run(progress)
    subject = replay.subject
    if not replay.sites:
        raise InputError(subject.path, "trace", f"a tensor that {type(replay.exact).__name__} computes", "none")
    result = {
        "schema": "paritrace/diagnosis/1",
        "verdict": "within_noise",
        "arithmetic": arithmetic,
        "arithmetic_inferred": inferred,
        "defects": [],
        "cleared": [],
        "noise": [],
        "routing": [],
        "equivalences": [],
        "remarks": [],
        "subject": subject.header,
    }
    totals = {"values": 0, "exact": 0, "one_ulp": 0, "error": 0.0}
    labels = {key: seen.site or seen.entry.site or key[1] for key, seen in replay.sites.items()}
    known = []  # hypotheses that explained a site: tried first at the others
    for count, seen in enumerate(replay.sites.values()):
        if seen.storage == "int":
            continue
        progress(f"site {count + 1} of {len(replay.sites)}")
        site = Site(replay, seen)
        stats = site.judge()
        _add_noise(result["noise"], site, stats, totals)
        if stats["count"] == 0:
            continue  # its inputs are not finite: it cannot be judged, and is not blamed
        finding = explain(replay, site, stats, known)
        if finding is not None:
            result["defects"].append(_defect(site, stats, finding, labels))
    for (step, name), (site, _, reason) in replay.mismatches.items():
        result["remarks"].append(f"{site or name} of step {step} was not compared: {reason}")
    _finish(result, replay, totals, labels)
    return result


def _number(value):
    return float(value) if np.isfinite(value) else None


def _add_noise(rows, site, stats, totals):
    count = max(stats["count"], 1)
    rows.append(
        {
            "step": site.step,
            "site": site.label,
            **{key: _number(stats[key]) for key in ("introduced_nmse", "floor_nmse", "ratio", "left_nmse")},
            "exact": stats["exact"] / count,
            "one_ulp": stats["one_ulp"] / count,
            "propagated_nmse": _number(stats["propagated_nmse"]),
            "values": stats["count"],
            "judged": stats["count"] > 0,
        }
    )
    totals["values"] += stats["count"]
    totals["exact"] += stats["exact"]
    totals["one_ulp"] += stats["one_ulp"]
    totals["error"] += stats["error"]


def _defect(site, stats, finding, labels):
    return {
        "side": "subject",
        "step": site.step,
        "site": site.label,
        "inputs": sorted({labels[key] for key in site.origin.inputs if key in labels}),
        "ratio": _number(stats["ratio"]),
        "cause": finding["cause"],
        "alternatives": finding["alternatives"],
        "where": finding["where"],
    }


def _finish(result, replay, totals, labels):
    values = max(totals["values"], 1)
    result["explained"] = {
        "values": totals["values"],
        "exact": totals["exact"] / values,
        "one_ulp": totals["one_ulp"] / values,
    }
    if result["defects"]:
        result["verdict"] = "diverged"
    elif totals["error"] == 0:
        result["verdict"] = "identical"
    layers = {int(match[1]) for label in labels.values() if (match := re.match(r"layers\.(\d+)\.", label))}
    counts = [step.get("count", 0) for step in replay.subject.steps]
    result["layout"] = {"layers": len(layers), "prefill": counts[0] if counts else 0, "tokens": sum(counts)}
    result["remarks"].insert(
        0,
        f"oracle torch: {type(replay.exact).__name__} of transformers computed every site in f64; {replay.casts} of its own "
        "casts to f32 (norms, softmax, RoPE) were widened",
    )
    unused = replay.subject.count - len(replay.subject.used)
    if unused > 0:
        result["remarks"].append(
            f"{unused} of the {replay.subject.count} recorded tensors are none that this model computes"
        )
