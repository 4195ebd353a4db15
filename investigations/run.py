"""Runs an investigation from nothing: the engine as it is, then with each of its mistakes, then what was never answered.

    .venv/bin/python investigations/run.py tinyllama
    .venv/bin/python investigations/run.py tinyllama --model TinyLlama-1.1B.q8_0.gguf --mistake rope.half_split

Exit code 1 where an answer is not the mistake that was made, or a run without one raises an alarm.
"""

import argparse
import importlib
import shutil
import sys
import textwrap
import time
from pathlib import Path

import evidence
import subjects
from investigation import Investigation, names

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 118
QUESTIONS = "what was never answered"


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=names())
    parser.add_argument(
        "--model", type=Path, metavar="FILE", help="the model to run instead of the small one: the published weights"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: build/investigations/NAME")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--mistake", action="append", metavar="ID[@LAYER]", help="only these, all in one run")
    only.add_argument("--questions", action="store_true", help="only what was never answered")
    parser.add_argument("--write-recipe", action="store_true", help="paste the output into docs/investigations/NAME.md")
    return parser.parse_args(argv)


class Report:
    """What is printed, kept for the recipe as well."""

    def __init__(self):
        self.lines = []

    def say(self, text="", first="", rest=""):
        lines = textwrap.wrap(
            text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
        )
        for line in lines or [""]:
            self.lines.append(line)
            print(line, flush=True)

    def heading(self, text):
        self.say()
        self.say(f"== {text}")


def run_clean(investigation, report):
    """The engine without a mistake, from each type of its model. Returns what went wrong."""
    plan = investigation.plan
    report.heading(f"{plan['engine']} as it is")
    wrong = []
    for kind in plan.get("types", [None]) if investigation.model is None else [None]:
        diagnosis = investigation.diagnose(investigation.trace(kind=kind), kind=kind)
        explained = diagnosis["explained"]
        report.say(f"{f'{kind}: ' if kind else ''}{evidence.causes(diagnosis)}; {100 * explained['exact']:.2f} % of {explained['values']} values "
                   f"equal {diagnosis['arithmetic']} to the bit")  # fmt: skip
        if diagnosis["verdict"] == "diverged":
            wrong.append(f"{kind or 'clean'} run")
    return wrong


def run_mistakes(investigation, report):
    """The engine with one mistake at a time. Returns those that were not found as they should be."""
    plan, wrong = investigation.plan, []
    report.heading(f"{plan['engine']} with one mistake at a time")
    width = max(len(mistake["id"]) for mistake in plan["mistake"])
    for mistake in plan["mistake"]:
        kind = mistake.get("type")
        if kind and investigation.model:
            report.say(f"left   {mistake['id']:{width}}  needs a {kind} file")
            continue
        trace = investigation.trace([mistake["id"]], kind, decode=investigation.decode_of(mistake))
        diagnosis = investigation.diagnose(trace, kind=kind)
        named = {(defect["cause"]["id"], defect["site"]) for defect in diagnosis["defects"]}
        cause, sites = investigation.expected(mistake)
        right = named == {(cause, site) for site in sites}
        report.say(
            f"{'right' if right else 'WRONG'}  {mistake['id']:{width}}  {evidence.causes(diagnosis)}", rest=" " * 7
        )
        if not right:
            wrong.append(mistake["id"])
        else:
            shutil.rmtree(trace)
    report.say()
    report.say(f"{len(plan['mistake']) - len(wrong)} of {len(plan['mistake'])} mistakes found at their sites and named")
    return wrong


def run_questions(investigation, report):
    report.heading(QUESTIONS)
    for question, answer in importlib.import_module(f"questions.{investigation.name}").answers(investigation):
        report.say(question)
        report.say(answer, "    ", "    ")


def paste(name, lines, only_questions=False):
    """Puts the output in the place of the one that the recipe holds, or of its questions alone."""
    path = ROOT / "docs" / "investigations" / f"{name}.md"
    before, rest = path.read_text().split("<!-- output -->\n", 1)
    old, after = rest.split("<!-- end of output -->\n", 1)
    body = "\n".join(lines).strip("\n")
    if only_questions:
        body = old.removeprefix("```text\n").split(f"== {QUESTIONS}")[0] + body
    path.write_text(f"{before}<!-- output -->\n```text\n{body}\n```\n<!-- end of output -->\n{after}")


def main(argv=None):
    arguments = parse_arguments(argv)
    out = arguments.out or ROOT / "build" / "investigations" / arguments.name
    began, report, wrong = time.monotonic(), Report(), []
    try:
        investigation = Investigation(arguments.name, out, arguments.model)
        if arguments.mistake:
            trace = investigation.trace(arguments.mistake)
            print(subjects.paritrace("diagnose", trace, "--model", investigation.model_file()))
            return 0
        if not arguments.questions:
            wrong += run_clean(investigation, report)
            wrong += run_mistakes(investigation, report)
        run_questions(investigation, report)
    except subjects.EngineError as error:
        print(f"investigate: {error}", file=sys.stderr)
        return 2
    print(f"\n{time.monotonic() - began:.0f} s; all of it is in {out}")
    if arguments.write_recipe:
        paste(arguments.name, report.lines, arguments.questions)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
