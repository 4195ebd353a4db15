"""Runs an investigation from nothing: the engine as it is, then with each of its mistakes, and prints what paritrace answers.

    .venv/bin/python investigations/run.py tinyllama
    .venv/bin/python investigations/run.py tinyllama --model TinyLlama-1.1B.q8_0.gguf --mistake rope.half_split

Exit code 1 where an answer is not the mistake that was made, or a run without one raises an alarm.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

import subjects
from investigation import Investigation, names

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=names())
    parser.add_argument(
        "--model", metavar="FILE", help="the model to run instead of the small one: the published weights"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: build/investigations/NAME")
    parser.add_argument("--mistake", action="append", metavar="ID[@LAYER]", help="only these, all in one run")
    return parser.parse_args(argv)


def heading(text):
    print(f"\n== {text}", flush=True)


def describe(answer):
    if not answer.named:
        return answer.verdict
    parts = []
    for id, sites in answer.named.items():
        found = answer.found.get(id)
        parts.append(f"{id} at {sites[0]}{f' and {len(sites) - 1} more' if len(sites) > 1 else ''}"
                     + (f", found {found}" if found is not None else ""))  # fmt: skip
    return "; ".join(parts)


def main(argv=None):
    arguments = parse_arguments(argv)
    out = arguments.out or ROOT / "build" / "investigations" / arguments.name
    try:
        investigation = Investigation(arguments.name, out, arguments.model)
        plan = investigation.plan
        if arguments.mistake:
            trace = investigation.trace(arguments.mistake)
            print(subjects.paritrace("diagnose", trace, "--model", investigation.model_file()))
            return 0
        heading(f"{plan['engine']} as it is")
        clean = {}
        for kind in plan.get("types", [None]):
            began = time.monotonic()
            clean[kind] = investigation.ask(kind=kind)
            label = f"{kind}: " if kind else ""
            print(f"{label}{clean[kind].verdict}, {time.monotonic() - began:.1f} s")
        print(subjects.paritrace("diagnose", out / "clean", "--model", investigation.model_file(kind)))
        heading(f"{plan['engine']} with one mistake at a time")
        wrong = [kind for kind, answer in clean.items() if answer.verdict == "diverged"]
        width = max(len(mistake["id"]) for mistake in plan["mistake"])
        for mistake in plan["mistake"]:
            answer = investigation.ask([mistake["id"]], mistake.get("type"))
            cause, sites = investigation.expected(mistake)
            right = set(answer.named) == {cause} and set(answer.named[cause]) == sites
            print(f"{'right' if right else 'WRONG'}  {mistake['id']:{width}}  {describe(answer)}", flush=True)
            if not right:
                wrong.append(mistake["id"])
            shutil.rmtree(out / mistake["id"], ignore_errors=not right)
        print(f"\n{len(plan['mistake']) - len(wrong)} of {len(plan['mistake'])} mistakes found at their sites and named; "
              f"the engine as it is: {', '.join(answer.verdict for answer in clean.values())}")  # fmt: skip
        return 1 if wrong else 0
    except subjects.EngineError as error:
        print(f"investigate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
