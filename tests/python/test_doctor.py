"""`paritrace doctor`: what is there is said to be there, what is missing or broken is told, and only what is needed decides."""

import json
import sys

import numpy
import pytest
from paritrace import doctor


def states(result):
    return {check["name"]: check["state"] for check in result["checks"]}


def test_everything_here_works(paritrace_cli):
    done = paritrace_cli("doctor", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    found = states(result)
    assert result["healthy"] and result["schema"] == "paritrace/doctor/1"
    assert {"program", "extension", "numpy", "capture hf", "capture llamacpp"} <= found.keys()
    assert found["program"] == found["extension"] == found["capture hf"] == "ok"
    numpy_line = next(check for check in result["checks"] if check["name"] == "numpy")
    assert numpy.__version__ in numpy_line["detail"]


def test_a_missing_engine_is_no_fault():
    assert doctor._packages("capture x", [("no_such_package_at_all", "no-such")])["state"] == "missing"


@pytest.mark.parametrize(
    "content, said",
    [("import not_there_either\n", "not_there_either"), ("import os\nos.kill(os.getpid(), 11)\n", "signal 11")],
)
def test_a_package_that_cannot_be_imported_is_broken(tmp_path, monkeypatch, content, said):
    (tmp_path / "sick_package.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    check = doctor._packages("capture sick", [("sick_package", "sick")])
    assert check["state"] == "broken" and said in check["detail"]


def test_a_broken_program_is_a_fault(tmp_path, monkeypatch, capsys):
    program = tmp_path / "paritrace"
    program.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("paritrace.__main__.program", lambda: program)
    monkeypatch.setattr(doctor, "ENGINES", {})
    monkeypatch.setattr(doctor, "FEATURES", {})
    assert doctor.main([]) == 1
    said = capsys.readouterr().out
    assert said.startswith("paritrace doctor: broken: program\n") and "it is broken" in said


def test_bad_usage_is_one_line(paritrace_cli):
    done = paritrace_cli("doctor", "--nonsense")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
