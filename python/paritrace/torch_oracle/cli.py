"""The command line of `paritrace diagnose --oracle torch`: parse, replay, write the outputs, exit code."""

import argparse
import json
import shutil
import sys

from paritrace import _core
from paritrace.arguments import (
    EXIT_DIVERGED,
    EXIT_INCOMPARABLE,
    EXIT_PARITY,
    Parser,
    add_outputs,
    guarded,
    write_outputs,
)
from paritrace.errors import InputError
from paritrace.reading import open_trace


def _parser():
    parser = Parser(
        prog="paritrace diagnose",
        description="Replays a trace in Hugging Face's own code of the model, and names what is wrong.",
        epilog="Exit codes: 0 parity, 1 diverged, 2 bad usage or input, 3 nothing to compare.",
    )
    parser.add_argument("subject", metavar="SUB", help="trace of the engine under test")
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="Hugging Face folder that the subject should compute with"
    )
    parser.add_argument("--oracle", choices=("torch",), default="torch", help="what computes the right values")
    parser.add_argument(
        "--chosen-for", metavar="ARCHITECTURE", help=argparse.SUPPRESS
    )  # by the program: it has no file for it
    parser.add_argument(
        "--arithmetic", default="", metavar="NAME", help="how the subject rounds (default: as its trace says)"
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that the model folder brings along"
    )
    parser.add_argument("--sites", action="store_true", help="show the noise of every site")
    add_outputs(parser)
    return parser


def run(subject_path, model, arithmetic="", trust_remote_code=False, progress=lambda line: None):
    """The diagnosis as a dict. Errors: InputError; ValueError of the trace reader."""
    from paritrace.torch_oracle import diagnosis, inputs, load, replay, widen
    from paritrace.torch_oracle.subject import Subject

    subject = Subject(open_trace(subject_path))
    name, dtype, inferred = load.choose_arithmetic(arithmetic, subject)
    progress(f"loading {model}")
    # Grouped kernels know no f64.
    exact = load.load(model, "f32", trust_remote_code, experts="eager")  # widen.py makes it f64, a weight at a time
    experts = "eager" if dtype == "f64" else (subject.header.get("run") or {}).get("experts")
    own = load.twin(exact, experts) if dtype == "f32" else load.load(model, dtype, trust_remote_code, experts=experts)
    widen.rebuild_tables(exact)
    passes = replay.Replay(subject, exact, own, inputs.Inputs(subject, exact))
    return diagnosis.diagnose(passes, name, inferred, progress)


def _progress(options):
    if options.quiet or not sys.stderr.isatty():
        return lambda line: None
    return lambda line: print(f"\r\033[Kparitrace: {line}", end="", file=sys.stderr, flush=True)


def _command(arguments):
    options = _parser().parse_args(arguments)
    progress = _progress(options)
    try:
        result = run(options.subject, options.model, options.arithmetic, options.trust_remote_code, progress)
    except InputError as error:
        if options.chosen_for:
            raise ValueError(
                f'{error}; architecture "{options.chosen_for}" is not supported by our own oracle'
            ) from error
        raise
    if options.chosen_for:
        result["remarks"].insert(
            0, f'no architecture file of ours knows "{options.chosen_for}": Hugging Face\'s own code is the oracle'
        )
    if sys.stderr.isatty() and not options.quiet:
        print("\r\033[K", end="", file=sys.stderr)
    plain = json.dumps(result)
    forms = {form: (lambda form=form: _core.report_diagnosis(plain, form)) for form in ("md", "html", "junit", "sarif")}
    width = shutil.get_terminal_size().columns
    colour = sys.stdout.isatty()
    forms["terminal"] = lambda: _core.report_diagnosis(plain, "terminal", width, colour, options.sites)
    write_outputs(options, json.loads(_core.report_diagnosis(plain, "json")), forms)
    return {"diverged": EXIT_DIVERGED, "incomparable": EXIT_INCOMPARABLE}.get(result["verdict"], EXIT_PARITY)


def main(arguments):
    """Runs `paritrace diagnose ARGUMENTS` with the torch oracle. Returns the exit code."""
    return guarded("diagnose --oracle torch", lambda: _command(arguments))
