"""The command line of `paritrace sweep`."""

import argparse
import contextlib
import os
import sys
import time

from paritrace.arguments import EXIT_DIVERGED, EXIT_INCOMPARABLE, EXIT_PARITY, Parser, guarded, write_file


def _whole(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {text!r}")
    return int(text)


def _parser():
    parser = Parser(
        prog="paritrace sweep",
        description="Runs models x prompts x lengths x engines x arithmetic, each in its own process with a time limit, and "
        "diagnoses each. Writes receipts.jsonl as it goes, summary.md and summary.html at the end. Start it again to go on "
        "where it ended.",
        epilog="Exit codes: 0 all at parity, 1 some diverged, failed, crashed or ran too long, 2 bad usage or plan, "
        "3 nothing was judged.",
    )
    parser.add_argument("plan", metavar="PLAN.toml")
    parser.add_argument("-o", "--output", metavar="DIR", help="where receipts lie (default: the plan's name, -sweep)")
    parser.add_argument("-j", "--jobs", type=_whole, default=1, metavar="N", help="scenarios at a time on this machine")
    parser.add_argument("--threads", type=_whole, default=1, metavar="N", help="threads of each scenario (default 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run on this Ray cluster (auto: the one of this machine)")
    parser.add_argument(
        "--retry", action="store_true", help="run again what failed, crashed, was missing or took too long"
    )
    parser.add_argument("--list", action="store_true", help="print the scenarios and run nothing")
    parser.add_argument("--html", metavar="FILE", help="write summary.html to FILE as well (- is standard output)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no summary on the terminal")
    return parser


def _progress(total, quiet):
    """Function: (scenarios done, of those in this run, counts) -> None. Draws a line on a terminal."""
    if quiet or not sys.stderr.isatty():
        return lambda done, now, wrong: None
    start = time.monotonic()

    def draw(done, now, wrong):
        left = (time.monotonic() - start) * (total - done) / max(now, 1)
        end = "\n" if done == total else ""
        print(
            f"\r\033[Ksweep: {done} of {total}, {wrong} not at parity, {left:.0f} s left",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    return draw


def _run(options):
    from paritrace.sweep import pools, summary
    from paritrace.sweep.plan import label, read_plan
    from paritrace.sweep.receipts import Receipts, write_whole

    scenarios = read_plan(options.plan)
    if options.list:
        for scenario in scenarios:
            print(scenario["id"], label(scenario))
        return EXIT_PARITY
    folder = options.output or f"{os.path.splitext(options.plan)[0]}-sweep"
    with Receipts(folder) as receipts:
        if options.retry:
            receipts.forget({"failed", "crashed", "timeout", "missing"})
        to_do = [scenario for scenario in scenarios if scenario["id"] not in receipts.by_id]
        done = len(scenarios) - len(to_do)
        if done and not options.quiet:
            print(f"paritrace: {folder}: going on, {done} of {len(scenarios)} are done", file=sys.stderr)
        draw, wrong = _progress(len(scenarios), options.quiet), 0
        if options.ray:
            runs = pools.run_on_ray(to_do, options.ray, options.threads) if to_do else iter(())
        else:
            runs = pools.run_here(to_do, options.jobs, options.threads)
        with contextlib.closing(runs) if to_do else contextlib.nullcontext():
            for now, receipt in enumerate(runs, start=1):
                receipts.add(receipt)
                wrong += summary.state_of(receipt) not in ("parity", "recorded")
                draw(done + now, now, wrong)
        write_whole(receipts.folder / "summary.md", summary.markdown(scenarios, receipts.by_id))
        page = summary.html(scenarios, receipts.by_id)
        write_whole(receipts.folder / "summary.html", page)
        if options.html:
            write_file(options.html, page)
        if not options.quiet and options.html != "-":
            sys.stdout.write(summary.terminal(scenarios, receipts.by_id))
        return _exit_code(summary.count([receipts.by_id[scenario["id"]] for scenario in scenarios]))


def _exit_code(counts):
    if any(counts[state] for state in ("diverged", "failed", "crashed", "timeout")):
        return EXIT_DIVERGED
    return EXIT_PARITY if counts["parity"] + counts["recorded"] else EXIT_INCOMPARABLE


def main(arguments):
    """Runs `paritrace sweep ARGUMENTS`. Returns the exit code."""
    return guarded("sweep", lambda: _run(_parser().parse_args(arguments)))
