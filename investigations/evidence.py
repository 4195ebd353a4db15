"""What is read out of the JSON of paritrace's answers, and how it is said in a line."""

import numpy as np

ROUNDS = 10000  # of a permutation test


def places(sites):
    """The sites in short: "attn.q_rope and attn.k_rope of layers 0-4"."""
    parts, top = {}, []
    for site in sites:
        if site.startswith("layers."):
            _, layer, part = site.split(".", 2)
            parts.setdefault(part, []).append(int(layer))
        else:
            top.append(site)
    by_layers = {}
    for part, layers in parts.items():
        by_layers.setdefault(tuple(sorted(set(layers))), []).append(part)
    said = [
        f"{listed(names)} of layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"
        for layers, names in by_layers.items()
    ]
    return listed(said + top)


def listed(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def ranges(numbers):
    """[0, 1, 2, 5] as "0-2, 5"."""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def causes(diagnosis):
    """The answer in a line: each cause with its places, or the verdict."""
    groups = {}
    for defect in diagnosis["defects"]:
        groups.setdefault(defect["cause"]["id"], []).append(defect)
    said = []
    for id, defects in groups.items():
        found = defects[0]["cause"].get("found")
        number = f", found {found:.4g}" if isinstance(found, float) else f", found {found}"
        if found is None or isinstance(found, list) or found == id.split(".")[-1]:
            number = ""
        said.append(f"{id} at {places([defect['site'] for defect in defects])}{number}")
    return "; ".join(said) or diagnosis["verdict"].replace("_", " ")


def ids(diagnosis, prefix):
    """The causes named that begin so."""
    return listed(
        sorted({row["cause"]["id"] for row in diagnosis["defects"] if row["cause"]["id"].startswith(prefix)})
        or ["none"]
    )


def cleared(diagnosis, *kinds):
    """The evidence by which each of `kinds` was ruled out, or that it was not."""
    known = {row["what"]: row["evidence"] for row in diagnosis["cleared"]}
    found = [f"{f'{kind}: ' if len(kinds) > 1 else ''}{known.get(kind, 'not cleared')}" for kind in kinds]
    return "; ".join(found)


def right(diagnosis, kind):
    """An answer to "is it right?"."""
    known = cleared(diagnosis, kind)
    return known if known == "not cleared" else f"yes: {known}"


def suspect(diagnosis, *kinds):
    """An answer to "is it this?"."""
    known = cleared(diagnosis, *kinds)
    return "it is not cleared: " + known if "not cleared" in known else f"no: {known}"


def site(diagnosis, name):
    """How the worst of a site's steps replays."""
    row = max((row for row in diagnosis["noise"] if row["site"] == name), key=lambda row: row["ratio"])
    return f"{name} replays with {row['ratio']:.2f} of the floor, {row['introduced_nmse'] ** 0.5:.1e} of its size"


def flips(diagnosis):
    """Every changed choice of experts: how many, how many benign, and the closest call that was none."""
    routing = diagnosis["routing"]
    if not routing:
        return "no choice of experts falls otherwise than in f64"
    benign = [flip for flip in routing if flip["benign"]]
    text = f"{len(routing)} choices fall otherwise than in f64, {len(benign)} of them benign"
    if benign:
        worst = max(benign, key=lambda flip: flip["margin"] / flip["error"])
        text += f" (the widest margin, {worst['margin']:.2g} in probability, under an error of {worst['error']:.2g} that reached its router)"
    return text


def trend(values):
    """(slope of the logarithm over the index, two-sided p of a permutation test); (nan, nan) of fewer than five values."""
    logs = np.log(np.asarray(values, float))
    if len(logs) < 5 or not np.isfinite(logs).all():
        return float("nan"), float("nan")
    at = np.arange(len(logs)) - (len(logs) - 1) / 2

    def slope(rows):
        return rows @ at / (at @ at)

    shuffled = np.random.default_rng(0).permuted(np.tile(logs, (ROUNDS, 1)), axis=1)
    steeper = np.abs(slope(shuffled)) >= abs(slope(logs)) - 1e-15
    return float(slope(logs)), (1 + int(steeper.sum())) / (1 + ROUNDS)


def worst(difference, part):
    """The largest difference of the last layer's site `part` in a diff."""
    rows = [
        row for row in difference["sites"] if row["site"].startswith("layers.") and row["site"].split(".", 2)[2] == part
    ]
    return max(rows, key=lambda row: int(row["site"].split(".")[1]))["max_abs"]


def is_projection(name):
    return name.split(".", 2)[-1] in ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.out")


def is_norm(weight):
    return "norm" in weight["weight"]


def norms(weights):
    """Whether a file's norm weights are the trusted side's."""
    rows = [row for row in weights["tensors"] if is_norm(row)]
    same = sum(row["status"] == "identical" for row in rows)
    sizes = [row["rms_subject"] for row in rows]
    return f"{same} of {len(rows)} norm weights are the published ones to the bit (rms {min(sizes):.3g} to {max(sizes):.3g})"


def tensor(weights, name):
    row = next(row for row in weights["tensors"] if name in (row["subject"] or "") and not is_norm(row))
    share = row["rms_error"] / row["expected_rms_error"] if row["expected_rms_error"] else 0.0
    return f"{row['subject']} is off by {share:.2f} of what its rounding leaves"


def pairs(weights):
    rows = weights["tensors"]
    fine = sum(row["status"] in ("identical", "within_noise") for row in rows)
    return f"{fine} of {len(rows)} tensors hold the published values in place, none of them transposed"


def rounding(weights):
    """The error of the quantised tensors against what their steps predict."""
    shares = [
        row["rms_error"] / row["expected_rms_error"]
        for row in weights["tensors"]
        if row["dtype_subject"].startswith("q")
    ]
    return f"the weights are off by {min(shares):.2f} to {max(shares):.2f} of what rounding to 4 bits leaves"
