#!/usr/bin/env python3
"""The fault bench: known mistakes and clean runs of engines that are not ours, and what `paritrace diagnose` says of each.

make faults                                     # the whole catalogue; prints the tables and writes build/faults.json
.venv/bin/python faults/bench.py --quick        # a part of it, spread over all causes
.venv/bin/python faults/bench.py --only rope_theta
.venv/bin/python faults/bench.py --random 200 --seed 1    # models, lengths, faults and their parameters drawn at random
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import cases  # noqa: E402
import engines  # noqa: E402
import naive  # noqa: E402
import numpy as np  # noqa: E402
import paritrace.errors  # noqa: E402
import random_cases  # noqa: E402
import score  # noqa: E402
import torch  # noqa: E402


class Bench:
    def __init__(self, folder, keep=None):
        self.folder, self.keep, self.references = folder, keep, {}
        self.engines = engines.Engines(folder)
        self.program = (
            [os.environ["PARITRACE_BIN"]] if "PARITRACE_BIN" in os.environ else [sys.executable, "-m", "paritrace"]
        )

    def values(self, trace):
        entries = paritrace.open_trace(trace).entries
        return {(entry.step, entry.site): entry.numpy() for entry in entries if entry.site}

    def reference(self, case):
        """Values of the model's clean f32 run: what the naive tool compares with."""
        key = (case.model, len(case.tokens), case.decode)
        if key not in self.references:
            trace = self.folder / "reference"
            engine = "llama.cpp" if case.model == "nomic-bert-moe" else "hf"
            clean = cases.Case("", engine, case.model, "f32", tokens=case.tokens, decode=case.decode)
            self.engines.record(clean, trace)
            self.references[key] = self.values(trace)
            shutil.rmtree(trace)
        return self.references[key]

    def run(self, case):
        """Records the case, has it diagnosed, and throws the trace away."""
        trace, few = self.folder / "trace", self.folder / "trace.safetensors"
        shutil.rmtree(trace, ignore_errors=True)
        self.engines.record(case, trace)
        subject = engines.reduce(trace, case.recorded, few)
        model = self.engines.model_of(case)
        command = [*self.program, "diagnose", subject, "--model", model, "--json", "-"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        seconds = time.perf_counter() - start
        verdict, defects = f"exit {done.returncode}: {done.stderr.strip()[-200:]}", []
        if done.returncode in (0, 1):
            result = json.loads(done.stdout)
            verdict, defects = result["verdict"], result["defects"]
        recorded = self.values(trace)
        if case.causes and verdict != "diverged" and self.is_clean(case, recorded):
            case.causes = []  # the parameters drawn change no value
            case.name += " (no effect)"
        outcome = score.Outcome(
            case, verdict, defects, seconds, naive.first_failing_site(self.reference(case), recorded)
        )
        if self.keep and score.wrong_marks(score.judge(outcome)):
            self.keep_evidence(case, trace, subject, model)
        return outcome

    def is_clean(self, case, recorded):
        """Is the run the one without the mistake, bit for bit?"""
        trace = self.folder / "clean"
        self.engines.record(dataclasses.replace(case, faults=[]), trace)
        clean = self.values(trace)
        shutil.rmtree(trace)
        return all(np.array_equal(clean[key], values, equal_nan=True) for key, values in recorded.items())

    def keep_evidence(self, case, trace, subject, model):
        """Trace and MODEL of a run that was judged wrongly, to be looked at."""
        place = self.keep / "".join(c if c.isalnum() or c in ".-" else "_" for c in case.name)[:150]
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(trace, place / "trace")
        if subject != trace:
            shutil.copy(subject, place)
        (shutil.copytree if model.is_dir() else shutil.copy)(model, place / f"model{model.suffix}")


def chosen(arguments):
    if arguments.random:
        return list(random_cases.draw(arguments.random, arguments.seed))
    rows = [*cases.faulty(), *cases.clean()]
    if arguments.only:
        rows = [case for case in rows if arguments.only in case.name]
    if arguments.list:
        print("\n".join(case.name for case in rows))
        sys.exit()
    return rows[:: arguments.every]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th case")
    parser.add_argument(
        "--quick", dest="every", action="store_const", const=13, help="a part that is spread over all causes"
    )
    parser.add_argument("--only", metavar="TEXT", help="cases with TEXT in their name")
    parser.add_argument("--list", action="store_true", help="print the cases' names and run nothing")
    parser.add_argument("--random", type=int, metavar="N", help="N cases drawn from the parameter ranges")
    parser.add_argument("--seed", type=int, default=1, help="of --random")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep trace and model of what was judged wrongly")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")  # BitNet's layers: run as written, they need no compiler
    rows, outcomes = chosen(arguments), []
    with tempfile.TemporaryDirectory(prefix="paritrace-faults-") as name:
        bench = Bench(Path(name), arguments.keep)
        for number, case in enumerate(rows):
            if sys.stderr.isatty():
                print(f"\r\033[K{number + 1} of {len(rows)}: {case.name}", end="", file=sys.stderr)
            try:
                outcomes.append(bench.run(case))
            except paritrace.errors.InputError as error:
                if not arguments.random:
                    raise
                print(f"the engine refuses {case.name}: {error}")  # a shape that it has no kernel for
                continue
            score.complain(outcomes[-1])
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    judged = score.report(outcomes)
    if arguments.json:
        content = [
            {"case": o.case.name, "verdict": o.verdict, "defects": o.defects, "seconds": o.seconds, "marks": marks}
            for o, marks in judged
        ]
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(1 if any(marks.get("alarm") or marks.get("false_name") for _, marks in judged) else 0)


if __name__ == "__main__":
    main()
