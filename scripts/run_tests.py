"""Runs the C++, the Python and the report's tests and ends with one line over all of them: `N passed, N failed`, `, N skipped` where some were.

The count is read from the JUnit files of ctest, pytest, Vitest and Playwright, never from their screens. What is not counted there must not be
lost: a runner that crashes, hangs, finds no tests, or fails without naming a test is one more failure.

    .venv/bin/python scripts/run_tests.py                 # all
    .venv/bin/python scripts/run_tests.py --only python   # one side; cpp and report are the others
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPP_BUILD = ROOT / "build" / "release"
REPORTS = ROOT / "build" / "test-reports"
SECONDS_A_TEST = 300  # the slowest test captures real engines; ten times what it takes on two cores
SECONDS_A_RUNNER = 3000  # the Python tests take a third of it on two idle cores


@dataclass
class Tally:
    """Counts of one runner. `notes` says what failed that no test stands for."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)  # (test, what it printed)
    notes: list[str] = field(default_factory=list)

    def add_failure(self, note):
        """Counts a failure that no test case stands for."""
        self.failed += 1
        self.notes.append(note)


def count_cases(path):
    """Returns the Tally of a JUnit file; ET.ParseError or OSError where there is no whole one."""
    tally = Tally()
    for case in ET.parse(path).getroot().iter("testcase"):
        children = {child.tag for child in case}
        owner, name = case.get("classname"), case.get("name")
        name = f"{owner}::{name}" if owner and owner != name else name  # ctest writes the name twice
        skipped = case.find("skipped")
        # ctest calls a test whose program is missing "notrun", in the same words as a skip that the test asked for.
        asked_for = skipped is not None and (
            case.get("status") is None or (skipped.get("message") or "").upper().startswith("SKIP")
        )
        if children & {"failure", "error"} or case.get("status") == "fail" or (skipped is not None and not asked_for):
            tally.failed += 1
            tally.failures.append((name, case.findtext("system-out") or ""))
        elif skipped is not None or case.get("status") == "disabled":
            tally.skipped += 1
        else:
            tally.passed += 1
    return tally


def run_bounded(command, environment, output):
    """Runs `command` in its own process group; returns its exit code, or None where it ran past SECONDS_A_RUNNER.

    output: an open file that takes what it prints, or None for the screen.
    """
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        return process.wait(timeout=SECONDS_A_RUNNER)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:  # timeout or Ctrl-C: take down what the tests started, too
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run(name, command, report, environment, clean_exits, log=None):
    """Runs one runner and returns its Tally.

    clean_exits: {exit code: how many failures it stands for, at least}
    log: takes the runner's screen, where only what failed is worth showing
    """
    print(f"== {name} tests", flush=True)
    report.unlink(missing_ok=True)
    started = time.monotonic()
    with open(log, "wb") if log else contextlib.nullcontext() as output:
        try:
            code = run_bounded(command, environment, output)
        except OSError as error:
            code = f"{command[0]}: {error.strerror}"
    try:
        tally = count_cases(report)
    except (OSError, ET.ParseError):
        tally = Tally()
        tally.add_failure(f"{name}: the runner wrote no report (exit code {code})")
    if code is None:
        tally.add_failure(f"{name}: stopped after {SECONDS_A_RUNNER} s")
    elif code not in clean_exits and tally.failed == 0:
        tally.add_failure(f"{name}: the runner ended with exit code {code}")
    elif tally.failed < clean_exits.get(code, 1):
        tally.add_failure(f"{name}: the runner reports a failure (exit code {code}) that no test stands for")
    if tally.passed + tally.failed == 0:
        tally.add_failure(f"{name}: no test ran")
    if log:
        for test, printed in tally.failures:
            print(f"-- {test}\n{printed.strip()}")
        if tally.notes:
            print(f"-- the end of {log.relative_to(ROOT)}")
            print("\n".join(log.read_text(errors="replace").splitlines()[-25:]))
    print(f"== {name}: {summary(tally)} in {time.monotonic() - started:.0f} s", flush=True)
    return tally


def run_cpp(environment):
    """Runs ctest over the build folder."""
    report = REPORTS / "cpp.xml"
    command = [
        "ctest", "--test-dir", str(CPP_BUILD), "--output-junit", str(report), "--output-on-failure", "--no-tests=error",
        "--timeout", str(SECONDS_A_TEST), "--parallel", str(os.cpu_count() or 1),
    ]  # fmt: skip
    return run("C++", command, report, environment, {0: 0, 8: 1}, REPORTS / "cpp.log")


def run_python(environment):
    """Runs pytest over tests/python, against the installed package."""
    report = REPORTS / "python.xml"
    command = [
        sys.executable, "-m", "pytest", "tests/python", "-q", "--timeout", str(SECONDS_A_TEST),
        "--junitxml", str(report), "--durations", "5", "--durations-min", "10",
    ]  # fmt: skip
    return run("Python", command, report, environment, {0: 0, 1: 1})


def run_report(environment):
    """Runs the tests of the page that --html fills: its logic, and its views in chromium."""
    if not shutil.which("npm"):
        print("== report tests skipped: there is no npm", flush=True)
        return [Tally(skipped=1)]
    built = subprocess.run([str(ROOT / "scripts" / "report.sh")], cwd=ROOT, env=environment, check=False)
    if built.returncode != 0:
        tally = Tally()
        tally.add_failure("report: the page could not be built")
        return [tally]
    npm = ["npm", "--prefix", "report", "run"]
    tallies = [
        run(
            "report logic",
            [*npm, "test:unit"],
            REPORTS / "report-unit.xml",
            environment,
            {0: 0, 1: 1},
            REPORTS / "report-unit.log",
        )
    ]
    if not environment.get("CHROMIUM") and not shutil.which("chromium"):
        print("== report views skipped: there is no chromium", flush=True)
        return [*tallies, Tally(skipped=1)]
    return [
        *tallies,
        run(
            "report views",
            [*npm, "test:pages"],
            REPORTS / "report-pages.xml",
            environment,
            {0: 0, 1: 1},
            REPORTS / "report-pages.log",
        ),
    ]


def summary(tally):
    """Returns the line that scripts read."""
    line = f"{tally.passed} passed, {tally.failed} failed"
    return f"{line}, {tally.skipped} skipped" if tally.skipped else line


def main():
    parser = argparse.ArgumentParser(description="Runs all tests and sums them.")
    parser.add_argument("--only", choices=["cpp", "python", "report"], help="run one side")
    arguments = parser.parse_args()

    REPORTS.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(ROOT / ".venv" / "bin"), environment.get("PATH", "")])
    # A test that needs the network is a test that fails on another day.
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}

    tallies = []
    if arguments.only in (None, "cpp"):
        tallies.append(run_cpp(environment))
    if arguments.only in (None, "report"):
        tallies.extend(run_report(environment))
    if arguments.only in (None, "python"):
        tallies.append(run_python(environment))

    total = Tally()
    for tally in tallies:
        total.passed += tally.passed
        total.failed += tally.failed
        total.skipped += tally.skipped
        for line in [test for test, _ in tally.failures] + tally.notes:
            print(f"FAILED {line}")
    print(summary(total), flush=True)
    return 0 if total.failed == 0 and total.passed > 0 else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("0 passed, 1 failed", flush=True)
        sys.exit(130)
