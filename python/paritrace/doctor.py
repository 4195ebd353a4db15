"""`paritrace doctor`: what is installed, what works, which engines can be traced. One line each."""

import concurrent.futures
import importlib.metadata
import json
import os
import platform
import subprocess
import sys

from paritrace.arguments import EXIT_DIVERGED, EXIT_PARITY, Parser, guarded, write_file
from paritrace.engines import ENGINES, FEATURES, missing

SCHEMA = "paritrace/doctor/1"
_SECONDS_TO_IMPORT = 180  # torch on a cold disk

# What a broken part means: needed ones decide the exit code.
_NEEDED = ("program", "extension", "numpy")


def _check(name, state, detail):
    return {"name": name, "state": state, "detail": detail, "needed": name in _NEEDED}


def _last_line(text):
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no message"


def _program():
    import paritrace
    from paritrace.__main__ import program

    path = program()
    if path is None:
        return _check("program", "missing", "not beside the package: pip install --force-reinstall paritrace")
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _check("program", "broken", f"{path}: {error}")
    if done.returncode != 0:
        return _check("program", "broken", f"{path}: {_last_line(done.stderr)}")
    version = done.stdout.strip().removeprefix("paritrace ")
    if version != paritrace.__version__:
        return _check("program", "broken", f"{path}: version {version}, the package is {paritrace.__version__}")
    return _check("program", "ok", f"{version}, {path}")


def _extension():
    import paritrace

    try:
        from paritrace import _core
    except ImportError as error:
        return _check("extension", "broken", str(error))
    if _core.__version__ != paritrace.__version__:
        return _check("extension", "broken", f"version {_core.__version__}, the package is {paritrace.__version__}")
    target = getattr(_core, "cpu_target", lambda: "unknown")()
    return _check("extension", "ok", f"{_core.__version__}, CPU target {target}, {_core.__file__}")


def _packages(name, needed):
    """Whether all can be imported, in a process of its own: what crashes there must not crash us."""
    absent = missing(needed)
    if absent:
        return _check(name, "missing", f"pip install {' '.join(absent)}")
    modules = [module for module, _ in needed]
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {', '.join(modules)}"],
            capture_output=True, text=True, errors="replace", timeout=_SECONDS_TO_IMPORT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _check(name, "broken", f"importing it takes more than {_SECONDS_TO_IMPORT} s")
    if done.returncode < 0:
        return _check(name, "broken", f"importing it ends with signal {-done.returncode}")
    if done.returncode != 0:
        return _check(name, "broken", _last_line(done.stderr))
    return _check(name, "ok", ", ".join(f"{distribution} {_version(distribution)}" for _, distribution in needed))


def _version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def examine():
    """The result, `paritrace/doctor/1`: checks in order, each with name, state (ok, missing, broken), detail, needed."""
    asked = {"numpy": [("numpy", "numpy")]}
    asked |= {f"capture {engine}": needed for engine, needed in ENGINES.items()} | FEATURES
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        packages = list(pool.map(lambda entry: _packages(*entry), asked.items()))
    checks = [_program(), _extension(), *packages]
    sick = [check["name"] for check in checks if check["needed"] and check["state"] != "ok"]
    return {
        "schema": SCHEMA,
        "healthy": not sick,
        "python": f"{platform.python_version()}, {sys.executable}",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "checks": checks,
    }


def report(result):
    lines = []
    if not result["healthy"]:
        bad = [check["name"] for check in result["checks"] if check["needed"] and check["state"] != "ok"]
        lines.append(f"paritrace doctor: broken: {', '.join(bad)}")
    else:
        able = [c["name"].removeprefix("capture ") for c in result["checks"] if _is_engine(c) and c["state"] == "ok"]
        lines.append(
            f"paritrace doctor: all that is needed works; engines that can be traced: {', '.join(able) or 'C ABI only'}"
        )
    rows = [("python", "ok", result["python"]), ("machine", "ok", result["machine"])]
    rows += [(check["name"], check["state"], check["detail"]) for check in result["checks"]]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(lines + [f"  {name:<{width}}  {state:<7}  {detail}" for name, state, detail in rows]) + "\n"


def _is_engine(check):
    return check["name"].startswith("capture ")


def _parser():
    parser = Parser(
        prog="paritrace doctor",
        description="Says what is installed, whether it works, and which engines can be traced.",
        epilog="Exit codes: 0 all that is needed works, 1 something that is needed is broken. A missing engine is not.",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON to FILE (- is standard output)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit code is the answer")
    return parser


def main(arguments):
    """Runs `paritrace doctor ARGUMENTS`. Returns 0, or 1 where something that is needed is broken."""

    def run():
        options = _parser().parse_args(arguments)
        result = examine()
        if options.json:
            write_file(options.json, json.dumps(result, indent=1) + "\n")
        if not options.quiet and options.json != "-":
            sys.stdout.write(report(result))
        return EXIT_PARITY if result["healthy"] else EXIT_DIVERGED

    return guarded("doctor", run)
