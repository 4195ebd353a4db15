"""What the Python commands share: a parser whose errors are one line, the outputs of the contract, the exit codes."""

import argparse
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

from paritrace.errors import InputError, first_line

EXIT_PARITY = 0
EXIT_DIVERGED = 1
EXIT_BAD_INPUT = 2
EXIT_INCOMPARABLE = 3
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Parser(argparse.ArgumentParser):
    """Errors in one line, like every other error of ours."""

    def error(self, message):
        raise InputError(self.prog.removeprefix("paritrace "), "", "see --help", message)


def add_outputs(parser):
    """The outputs that every comparing command takes."""
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON to FILE (- is standard output)")
    parser.add_argument("--md", metavar="FILE", help="write the report as Markdown")
    parser.add_argument("--html", metavar="FILE", help="write the report as one self-contained HTML file")
    parser.add_argument("--junit", metavar="FILE", help="write the result as JUnit XML")
    parser.add_argument("--sarif", metavar="FILE", help="write the result as SARIF")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing; the exit code is the answer")


def write_outputs(options, result, forms):
    """result: for --json; forms: functions that make the texts: md, html, junit, sarif, terminal."""
    if options.json:
        write_file(options.json, json.dumps(result, ensure_ascii=False, indent=1) + "\n")
    files = {form: getattr(options, form) for form in ("md", "html", "junit", "sarif")}
    for form, file in files.items():
        if file:
            write_file(file, forms[form]())
    if not options.quiet and "-" not in (options.json, *files.values()):
        sys.stdout.write(forms["terminal"]())


def write_file(path, text):
    """Writes a file whole or not at all; "-" is standard output. Errors: InputError if it cannot be written."""
    if path == "-":
        sys.stdout.write(text)
        return
    target = Path(path)
    try:
        with tempfile.NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            file.write(text.encode("utf-8", errors="replace"))
        os.chmod(file.name, 0o644)
        os.replace(file.name, target)
    except OSError as error:
        raise InputError(path, "", "a file that can be written", error.strerror) from None


def guarded(command, run):
    """Calls run() and turns what a user can cause into one line and an exit code."""
    try:
        return run()
    except InputError as error:
        line = str(error)
    except ImportError as error:
        line = f"{command} needs a package that is not installed: pip install {error.name}"
    except (ValueError, OSError) as error:
        line = first_line(error)
    except KeyboardInterrupt:
        print("paritrace: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:  # a mistake of ours must not leave with Python's own 1, which says "diverged"
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        print(f"paritrace: {where}: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
        return EXIT_INTERNAL
    print(f"paritrace: {line}", file=sys.stderr)
    return EXIT_BAD_INPUT
