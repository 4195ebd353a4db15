#!/usr/bin/env python3
"""The fault bench: known mistakes and clean runs of engines that are not ours, and what `paritrace diagnose` says of each.

make faults                                 # all; prints the table and writes build/faults.json
.venv/bin/python faults/bench.py --quick    # a part of it, spread over all causes
.venv/bin/python faults/bench.py --only rope_theta
"""

import argparse
import collections
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import gguf_faults  # noqa: E402
import hf_faults  # noqa: E402
import naive  # noqa: E402
import paritrace  # noqa: E402
import torch  # noqa: E402
from module_outputs import module_outputs  # noqa: E402
from paritrace import hf, llamacpp  # noqa: E402

import models  # noqa: E402

TOKENS = [7, 131, 262, 44, 44, 9, 201, 288, 65, 17, 90, 150, 3, 77, 222, 131, 5, 260, 31, 99, 180, 12, 250, 66]
WHOLE_NAMES = {"embed", "final_norm", "logits"}
GGUF_DEFAULTS = {"models": ["llama", "qwen2", "qwen3"], "arithmetic": ["f32", "q8_0"]}


@dataclass
class Case:
    """One run: a model with no, one or two mistakes, and what is right to say of it."""

    name: str
    model: str
    arithmetic: str
    recorded: str
    faults: list = field(default_factory=list)  # [(function, parameters, layers)]
    causes: list = field(default_factory=list)  # [(ids that are right, sites, found or None)]
    real: list = field(default_factory=list)
    attention: str = "eager"
    engine: str = "hf"  # or "llama.cpp": `arithmetic` is then the type of the file's matrices


@dataclass
class Outcome:
    case: Case
    verdict: str
    defects: list
    seconds: float
    naive_site: str | None


def sites_of(roles, layers):
    return [role if role in WHOLE_NAMES else f"layers.{i}.{role}" for i in layers for role in roles]


def load_catalogue():
    table = tomllib.loads((HERE / "catalogue.toml").read_text())
    entries = [table["defaults"] | entry for entry in table["fault"]]
    files = [GGUF_DEFAULTS | entry for entry in table["gguf"]]
    return entries, files, table["pair"]


def part_of(entry, recorded):
    """(function, parameters, layers), (ids, sites, found) of an entry."""
    layers = entry.get("layers", range(models.SIZES["num_hidden_layers"]))
    roles = entry["modules"] if recorded == "modules" else entry["sites"]
    ids = {entry["cause"], *entry.get("also", [])}
    sites = list(dict.fromkeys(sites_of(roles, layers)))
    return (entry["fault"], entry.get("with", {}), list(layers)), (ids, sites, entry.get("found"))


def fault_cases():
    entries, files, pairs = load_catalogue()
    for entry in files:
        for model, kind in itertools.product(entry["models"], entry["arithmetic"]):
            fault, cause = part_of(entry, "all")
            what = " ".join(str(value) for value in entry.get("with", {}).values())
            yield Case(
                f"gguf {entry['fault']} {what}, {model} {kind}",
                model, kind, "all", [fault], [cause], entry.get("real", []), engine="llama.cpp",
            )  # fmt: skip
    for entry in entries:
        for model, arithmetic, recorded in itertools.product(entry["models"], entry["arithmetic"], entry["recorded"]):
            fault, cause = part_of(entry, recorded)
            layers = f" layers {entry['layers']}" if "layers" in entry else ""
            parameters = "".join(f" {value}" for value in entry.get("with", {}).values())
            yield Case(
                f"{entry['fault']}{parameters}{layers}, {model} {arithmetic} {recorded}",
                model, arithmetic, recorded, [fault], [cause], entry.get("real", []),
            )  # fmt: skip
    by_name = {}
    for entry in entries:
        by_name.setdefault(entry["fault"], entry)
    for pair in pairs:
        chosen = [by_name[name] for name in pair["both"]]
        model = next(iter([m for m in chosen[0]["models"] if m in chosen[1]["models"]]), "llama")
        for arithmetic in ("f32", "bf16"):
            parts = [part_of(entry, "all") for entry in chosen]
            yield Case(
                f"{' and '.join(pair['both'])}, {model} {arithmetic}",
                model, arithmetic, "all", [part[0] for part in parts], [part[1] for part in parts],
            )  # fmt: skip


def clean_cases():
    for model, arithmetic, recorded in itertools.product(models.MODELS, ("f32", "bf16", "f16"), ("all", "modules")):
        yield Case(f"clean, {model} {arithmetic} {recorded}", model, arithmetic, recorded)
    for model, arithmetic in itertools.product(models.MODELS, ("f32", "bf16")):
        yield Case(f"clean sdpa, {model} {arithmetic}", model, arithmetic, "all", attention="sdpa")
    for model, kind, flash in itertools.product(GGUF_DEFAULTS["models"], ("f32", "f16", "q8_0"), ("off", "on")):
        name = f"clean llama.cpp, {model} {kind}, flash attention {flash}"
        yield Case(name, model, kind, "all", attention=flash, engine="llama.cpp")


class Bench:
    def __init__(self, folder):
        self.folder, self.references = folder, {}
        self.program = os.environ.get("PARITRACE_BIN")

    def model_of(self, case):
        """The MODEL that is right for the case: a folder, or a GGUF file of the subject's type."""
        folder = models.folder_of(case.model, self.folder / "models")
        if case.engine == "hf":
            return folder
        file = self.folder / "models" / f"{case.model}-{case.arithmetic}.gguf"
        if not file.exists():
            gguf_faults.write(folder, file, case.arithmetic)
        return file

    def record(self, case, trace):
        if case.engine == "hf":
            return self.record_hf(case, trace)
        file = self.folder / "subject.gguf"
        shutil.copyfile(self.model_of(case), file)
        for function, parameters, layers in case.faults:
            gguf_faults.edit(file, function, parameters, layers)
        flash = case.attention if case.attention in ("on", "off") else "off"
        llamacpp.run(file, trace, tokens=TOKENS, flash_attention=flash)

    def record_hf(self, case, trace):
        model = hf.load(models.folder_of(case.model, self.folder / "models"), case.arithmetic)
        model.set_attn_implementation(case.attention)
        patients = []
        try:
            for function, parameters, layers in case.faults:
                patients.append(hf_faults.Patient(model, layers))
                hf_faults.inject(patients[-1], function, parameters)
            with torch.no_grad(), paritrace.capture(model, trace):
                model(input_ids=torch.tensor([TOKENS]), use_cache=False)
        finally:
            for patient in reversed(patients):
                patient.heal()

    def values(self, trace):
        return {entry.site: entry.numpy() for entry in paritrace.open_trace(trace).entries if entry.site}

    def reference(self, model):
        """Values of the model's clean f32 run: what the naive tool compares with."""
        if model not in self.references:
            trace = self.folder / f"reference-{model}"
            self.record(Case("", model, "f32", "all"), trace)
            self.references[model] = self.values(trace)
        return self.references[model]

    def run(self, number, case):
        trace = self.folder / f"trace-{number}"
        self.record(case, trace)
        subject = trace
        if case.recorded == "modules":
            subject = self.folder / f"trace-{number}.safetensors"
            module_outputs(trace, subject)
        model = self.model_of(case)
        program = [self.program] if self.program else [sys.executable, "-m", "paritrace"]
        start = time.perf_counter()
        done = subprocess.run(
            [*program, "diagnose", subject, "--model", model, "--json", "-"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        seconds = time.perf_counter() - start
        if done.returncode not in (0, 1):
            return Outcome(case, f"exit {done.returncode}: {done.stderr.strip()[-200:]}", [], seconds, None)
        result = json.loads(done.stdout)
        return Outcome(
            case, result["verdict"], result["defects"], seconds,
            naive.first_failing_site(self.reference(case.model), self.values(trace)),
        )  # fmt: skip


def is_near(found, expected):
    if expected is None:
        return True
    if isinstance(expected, str):
        return found == expected
    return isinstance(found, (int, float)) and abs(found - expected) <= 0.02 * abs(expected)


def judge(outcome):
    """{"verdict", "site", "cause", "all", "false_name"}: booleans; None where it does not apply."""
    case, defects = outcome.case, outcome.defects
    if not case.causes:
        clean = outcome.verdict in ("identical", "within_noise") and not defects
        return {"alarm": not clean}
    right_sites = {site for _, sites, _ in case.causes for site in sites}
    first = defects[0] if defects else None
    known = not any("unknown" in ids for ids, _, _ in case.causes)
    named = {(defect["site"], defect["cause"]["id"]) for defect in defects}

    def is_right(defect):
        return any(
            defect["site"] in sites and defect["cause"]["id"] in ids and is_near(defect["cause"].get("found"), found)
            for ids, sites, found in case.causes
        )

    first_sites = case.causes[0][1] + (case.causes[1][1] if len(case.causes) > 1 else [])
    return {
        "verdict": outcome.verdict == "diverged",
        "site": first is not None and first["site"] in first_sites,
        "cause": None if not known else first is not None and is_right(first),
        "all": None
        if len(case.causes) < 2
        else all(any(site in sites and id in ids for site, id in named) for ids, sites, _ in case.causes),
        "false_name": any(
            not is_right(defect) and defect["cause"]["id"] != "unknown" and defect["cause"]["confidence"] >= 0.5
            for defect in defects
        ),
        "elsewhere": any(defect["site"] not in right_sites for defect in defects),
        "naive_site": outcome.naive_site in first_sites,
    }


def describe(outcome):
    said = [
        f"{d['site']}={d['cause']['id']}"
        + (f"({d['cause']['found']})" if d["cause"].get("found") is not None else "")
        + f" {d['cause']['confidence']:.2f}"
        for d in outcome.defects[:6]
    ]
    return f"{outcome.verdict}: {', '.join(said)}{', …' if len(outcome.defects) > 6 else ''}"


def share(values):
    values = [value for value in values if value is not None]
    return f"{sum(values)} of {len(values)} ({100 * sum(values) / len(values):.1f} %)" if values else "-"


def report(outcomes):
    """Prints the table; returns the figures."""
    judged = [(outcome, judge(outcome)) for outcome in outcomes]
    faulty = [(o, j) for o, j in judged if o.case.causes]
    clean = [(o, j) for o, j in judged if not o.case.causes]
    for outcome, marks in judged:
        wrong = [key for key in ("verdict", "site", "cause", "all") if marks.get(key) is False]
        wrong += [key for key in ("false_name", "elsewhere", "alarm") if marks.get(key)]
        if wrong:
            print(f"! {outcome.case.name}: {', '.join(wrong)}\n    {describe(outcome)}")
    column = lambda key, rows: [marks.get(key) for _, marks in rows]  # noqa: E731
    real = sorted({number for outcome, _ in faulty for number in outcome.case.real})
    print(f"\n{len(faulty)} faults ({sum(bool(o.case.real) for o, _ in faulty)} of them copies of {len(real)} real bugs), "
          f"{len(clean)} clean runs\n")  # fmt: skip
    print("| | paritrace | naive: allclose 1e-2, cosine 0.999 |\n|---|---|---|")
    print(f"| verdict | {share(column('verdict', faulty))} | {share([o.naive_site is not None for o, _ in faulty])} |")
    print(f"| first defect's site | {share(column('site', faulty))} | {share(column('naive_site', faulty))} |")
    print(f"| cause first | {share(column('cause', faulty))} | 0 |")
    print(f"| both of two defects | {share(column('all', faulty))} | 0 |")
    print(f"| confident false names | {sum(map(bool, column('false_name', faulty)))} | - |")
    print(f"| runs with a defect elsewhere | {sum(map(bool, column('elsewhere', faulty)))} | - |")
    alarms = sum(map(bool, column("alarm", clean)))
    print(
        f"| false alarms | {alarms} of {len(clean)} | {sum(o.naive_site is not None for o, _ in clean)} of {len(clean)} |"
    )
    print(f"| median time | {statistics.median(o.seconds for o, _ in judged):.2f} s | - |")
    by_cause = collections.defaultdict(list)
    for outcome, marks in faulty:
        if len(outcome.case.causes) == 1:
            by_cause[sorted(outcome.case.causes[0][0])[0]].append(marks)
    print("\n| cause | runs | site | named |\n|---|---|---|---|")
    for cause, rows in sorted(by_cause.items()):
        print(f"| `{cause}` | {len(rows)} | {share([r['site'] for r in rows])} | {share([r['cause'] for r in rows])} |")
    return judged


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fifth case")
    parser.add_argument("--only", metavar="TEXT", help="cases with TEXT in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome")
    arguments = parser.parse_args()
    cases = [*fault_cases(), *clean_cases()]
    if arguments.only:
        cases = [case for case in cases if arguments.only in case.name]
    if arguments.quick:
        cases = cases[::5]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="paritrace-faults-") as name:
        bench = Bench(Path(name))
        for number, case in enumerate(cases):
            if sys.stderr.isatty():
                print(f"\r\033[K{number + 1} of {len(cases)}: {case.name}", end="", file=sys.stderr)
            outcomes.append(bench.run(number, case))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    judged = report(outcomes)
    if arguments.json:
        rows = [
            {"case": o.case.name, "verdict": o.verdict, "defects": o.defects, "seconds": o.seconds, "marks": marks}
            for o, marks in judged
        ]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    bad = any(marks.get("alarm") or marks.get("false_name") for _, marks in judged)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
