"""For the tests of an engine: parity as an assertion whose message is the diagnosis.

    from paritrace.testing import assert_parity

    def test_the_engine_computes_the_model(tmp_path):
        run_my_engine(trace=tmp_path / "trace")
        assert_parity(tmp_path / "trace", "models/llama")

Installed with pytest, `assert_parity` is also a fixture, which keeps the JSON of every comparison beside the test's other files.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from paritrace.__main__ import program
from paritrace.errors import InputError, first_line

__all__ = ["NotComparable", "assert_parity"]


class NotComparable(AssertionError):
    """Nothing to compare: other tokens, another model, no site in common. A test that compares nothing must not pass."""


def _is_model(path):
    path = Path(path)
    if path.is_dir():
        return (path / "config.json").exists() and not (path / "trace.json").exists()
    return path.suffix == ".gguf"


def assert_parity(trace, reference=None, *, model=None, subject_model=None, arithmetic=None, json_file=None):
    """Fails unless a trace is right within its arithmetic's rounding. Returns the result as a dict.

    trace          what the engine under test recorded
    reference      a model (Hugging Face folder or .gguf), which diagnoses the trace; or another trace, which it is compared with
    model          the model, where `reference` is a trace that is to be replayed as well
    subject_model  the file that the engine ran, where that is another than the model
    arithmetic     how the engine rounds, where its trace does not say
    json_file      also write the result there
    Errors: AssertionError with the report; NotComparable, which is one too; ValueError for bad input.
    """
    __tracebackhide__ = True
    if model is None and reference is not None and _is_model(reference):
        model, reference = reference, None
    if model is None and reference is None:
        raise InputError("assert_parity", "", "a model or a reference trace", "neither")
    if model is not None:
        command = ["diagnose", trace, "--model", model]
        command += ["--ref", reference] if reference is not None else []
        command += ["--subject-model", subject_model] if subject_model is not None else []
        command += ["--arithmetic", arithmetic] if arithmetic is not None else []
    elif subject_model is not None or arithmetic is not None:
        raise InputError("assert_parity", "", "a model with subject_model or arithmetic", "a reference trace alone")
    else:
        command = ["diff", reference, trace]
    code, report, result = _run(command, json_file)
    if code == 0:
        return result
    if code == 1:
        raise AssertionError(f"\n{report.rstrip()}")
    if code == 3:
        raise NotComparable(f"\n{report.rstrip()}")
    raise ValueError(first_line(report))


def _run(command, json_file):
    path = program()
    if path is None:
        raise InputError("paritrace", "program", "a whole installation", "none; run: paritrace doctor")
    with tempfile.TemporaryDirectory(prefix="paritrace-") as folder:
        file = Path(json_file) if json_file else Path(folder) / "result.json"
        done = subprocess.run(
            [path, *map(str, command), "--json", file], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace",
        )  # fmt: skip
        result = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() and done.returncode in (0, 1, 3) else None
        )
    return done.returncode, done.stdout or done.stderr, result
