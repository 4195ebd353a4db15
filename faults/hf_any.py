#!/usr/bin/env python3
"""The bench of the torch oracle: every architecture of the installed transformers that can be made small, clean and with six
mistakes each, recorded in Hugging Face's own code and diagnosed with `--oracle torch`.

make faults-hf                                       # all; prints the table by architecture, writes build/faults-hf.json
.venv/bin/python faults/hf_any.py --only gpt2,opt    # some
"""

import argparse
import collections
import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import hf_any_faults  # noqa: E402
import hf_any_models  # noqa: E402
import paritrace  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from paritrace import hf  # noqa: E402
from paritrace.reading import open_trace  # noqa: E402
from paritrace.torch_oracle import cli as oracle  # noqa: E402


def record(model, trace):
    with torch.no_grad(), paritrace.capture(model, trace, overwrite=True):
        return model(input_ids=torch.tensor([hf_any_models.TOKENS]))


def judge_clean(model, folder, trace):
    record(model, trace)
    result = oracle.run(trace, folder)
    return {"verdict": result["verdict"], "exact": result["explained"]["exact"], "defects": brief(result)}


def brief(result):
    return [
        {key: defect[key] for key in ("site", "ratio")}
        | {key: defect["cause"].get(key) for key in ("id", "found", "confidence")}
        for defect in result["defects"]
    ]


def judge_fault(fault, number, dtype, folder, trace):
    """A row, or None where the architecture has no such thing or the mistake changes nothing."""
    model = hf.load(folder, dtype)
    right = record(model, trace)[0]
    injected = fault(model, number) if hf_any_faults.layers_of(model) is not None else None
    if injected is None:
        return None
    causes, paths, undo = injected
    wrong = record(model, trace)[0]
    undo()
    if torch.equal(right, wrong):
        return None
    result = oracle.run(trace, folder)
    names = {entry.site or entry.name: entry.name for entry in open_trace(trace).entries}
    first = result["defects"][0] if result["defects"] else None
    name = names.get(first["site"], first["site"]) if first else ""
    below = any(name == path or name.startswith((f"{path}.", f"{path}:")) for path in paths)
    confident = [d for d in result["defects"] if d["cause"]["id"] != "unknown" and d["cause"]["confidence"] >= 0.5]
    return {
        "fault": fault.__name__,
        "dtype": dtype,
        "causes": sorted(causes),
        "verdict": result["verdict"] == "diverged",
        "site": below,
        "cause": first is not None and first["cause"]["id"] in causes,
        "false_name": any(defect["cause"]["id"] not in causes for defect in confident),
        "defects": brief(result),
    }


def judge_architecture(kind, class_name, number, folder, faulty=True):
    """Rows of one architecture. Errors: whatever transformers raises for a model that cannot be made or run so."""
    model = hf_any_models.build(kind, class_name)
    model.save_pretrained(folder)
    del model
    trace = folder / "trace"
    clean, faults = {}, []
    model = hf.load(folder, "f32")
    one, two = record(model, trace)[0], record(model, trace)[0]
    if not torch.equal(one, two):
        raise ValueError("two runs differ: it draws random numbers")
    if not torch.isfinite(one).all():
        raise ValueError("its output is not finite with these weights")
    clean["f32"] = judge_clean(model, folder, trace)
    try:
        model.set_attn_implementation("sdpa")
        clean["sdpa"] = judge_clean(model, folder, trace)
    except (ValueError, NotImplementedError):
        pass  # has one way to attend
    del model
    clean["bf16"] = judge_clean(hf.load(folder, "bf16"), folder, trace)
    for index, fault in enumerate(hf_any_faults.FAULTS if faulty else ()):
        row = judge_fault(fault, number + index, "bf16" if (number + index) % 3 == 0 else "f32", folder, trace)
        if row is not None:
            faults.append(row)
    return {"architecture": kind, "clean": clean, "faults": faults}


def share(values):
    values = list(values)
    return f"{sum(values)} of {len(values)} ({100 * sum(values) / len(values):.1f} %)" if values else "-"


def report(rows, left_out):
    faults = [fault for row in rows for fault in row["faults"]]
    clean = [run for row in rows for run in row["clean"].values()]
    print(
        "\n| architecture | clean | to the bit, bf16 | faults | site | cause | false names | s |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        alarms = [name for name, run in row["clean"].items() if run["defects"]]
        print(
            f"| {row['architecture']} | {'ALARM ' + ' '.join(alarms) if alarms else len(row['clean'])} | {100 * row['clean']['bf16']['exact']:.2f} % | {len(row['faults'])} "
            f"| {sum(f['site'] for f in row['faults'])} | {sum(f['cause'] for f in row['faults'])} | {sum(f['false_name'] for f in row['faults'])} | {row['seconds']:.0f} |"
        )
    print("\nLeft out:")
    reasons = collections.defaultdict(list)
    for kind, reason in left_out.items():
        reasons[reason].append(kind)
    for reason, kinds in sorted(reasons.items()):
        print(f"- {', '.join(kinds)}: {reason}")
    alarms = sum(bool(run["defects"]) for run in clean)
    print(f"\n{len(rows)} architectures, {len(clean)} clean runs, {len(faults)} faults, {len(left_out)} left out")
    print(
        f"false alarms {alarms}; site {share(f['site'] for f in faults)}; cause {share(f['cause'] for f in faults)}; confident false names {sum(f['false_name'] for f in faults)}"
    )
    by = collections.defaultdict(list)
    for fault in faults:
        by[fault["fault"]].append(fault)
    for name, some in sorted(by.items()):
        print(f"  {name}: site {share(f['site'] for f in some)}, cause {share(f['cause'] for f in some)}")
    return alarms


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--part", default="0/1", help="K/N: every Nth architecture, from the Kth on")
    parser.add_argument("--clean", action="store_true", help="the clean runs alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    kinds = hf_any_models.decoders() | hf_any_models.encoders()
    wanted = [kind for kind in arguments.only.split(",") if kind]
    if unknown := set(wanted) - set(kinds):
        parser.error(f"no such architecture here: {', '.join(sorted(unknown))}")
    first, step = map(int, arguments.part.split("/"))
    rows, left_out = [], {}
    for number, (kind, class_name) in enumerate(sorted(kinds.items())):
        if (wanted and kind not in wanted) or number % step != first:
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-hf-") as folder:
            try:
                row = judge_architecture(kind, class_name, number, Path(folder), not arguments.clean)
            except Exception as error:  # whatever transformers raises: the table says so
                left_out[kind] = f"{type(error).__name__}: {str(error).splitlines()[0][:110] if str(error) else ''}"
                print(f"- {kind}: {left_out[kind]}", flush=True)
                continue
        row["seconds"] = time.monotonic() - start
        rows.append(row)
        wrong = [f"{name}: {run['defects'][:2]}" for name, run in row["clean"].items() if run["defects"]]
        wrong += [
            f"{f['fault']} {f['dtype']}: {f['defects'][:3]}"
            for f in row["faults"]
            if not (f["site"] and f["cause"]) or f["false_name"]
        ]
        print(
            f"{kind}: {len(row['faults'])} faults, {row['seconds']:.0f} s"
            + "".join(f"\n    ! {line}" for line in wrong),
            flush=True,
        )
        if arguments.json:
            arguments.json.write_text(json.dumps({"rows": rows, "left_out": left_out}, indent=1) + "\n")
    alarms = report(rows, left_out)
    sys.exit(1 if alarms else 0)


if __name__ == "__main__":
    main()
