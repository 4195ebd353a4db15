"""A user's function, named on the command line as FILE.py:NAME."""

import importlib.util
import sys
from pathlib import Path

from paritrace.errors import InputError, first_line


def load_function(text):
    """The callable NAME of FILE.py. The file is run. Errors: InputError where either is missing or the file fails."""
    file, _, name = text.rpartition(":")
    if not file or not name.isidentifier():
        raise InputError(text, "", "FILE.py:NAME", text)
    if not Path(file).is_file():
        raise InputError(file, "file", "a Python file", "no such file")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(file).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(
            file, "file", "a Python file that runs", f"{type(error).__name__}: {first_line(error)}"
        ) from error
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(file, "file", f"a function {name}", "none")
    return function
