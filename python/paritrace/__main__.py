"""The `paritrace` command: what needs engines, pickles or tokenizers runs here, because those are Python; all else is the
bundled program.
"""

import importlib
import importlib.util
import os
import sys
from itertools import pairwise
from pathlib import Path

# command -> the module whose main(arguments) returns the exit code
PYTHON_COMMANDS = {
    "capture": "cli",
    "import": "readers.cli",
    "tokens": "tokens.cli",
    "sweep": "sweep.cli",
    "doctor": "doctor",
}


def program():
    """Path of the bundled program, beside this file or (in an editable install) beside the extension module."""
    homes = [Path(__file__).parent]
    extension = importlib.util.find_spec("paritrace._core")
    if extension is not None and extension.origin:
        homes.append(Path(extension.origin).parent)
    for home in homes:
        candidate = home / "bin" / "paritrace"
        if candidate.exists():
            return candidate
    return None


def _asks_for_torch(arguments):
    """Is `--oracle torch` among the arguments?"""
    return "--oracle=torch" in arguments or ("--oracle", "torch") in pairwise(arguments)


def main():
    """Entry point of the console script; returns the exit code, or becomes the program."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["diagnose"] and _asks_for_torch(arguments):
        return importlib.import_module("paritrace.torch_oracle.cli").main(arguments[1:])
    if arguments and arguments[0] in PYTHON_COMMANDS:
        module = importlib.import_module(f"paritrace.{PYTHON_COMMANDS[arguments[0]]}")
        return module.main(arguments[1:])
    path = program()
    if path is None:
        print(
            "paritrace: the program is missing from this installation: pip install --force-reinstall paritrace",
            file=sys.stderr,
        )
        return 2
    # The program hands those commands back to Python, and must find the interpreter that has this package.
    os.environ["PARITRACE_PYTHON"] = sys.executable
    os.execv(path, [str(path), *arguments])


if __name__ == "__main__":
    sys.exit(main())
