"""One scenario, in a process of its own: `python -m paritrace.sweep.worker` reads it from standard input as one line of
JSON, runs the engine and the check, and prints one line of JSON: what became of it.

The parent keeps standard input open. When it closes, the parent is gone: a killed sweep leaves nothing running behind it.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from paritrace.engines import ENGINES, missing

# Of a defect, what a receipt keeps.
_KEPT = ("side", "step", "site")


def _watch_parent():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)  # we lead our own group, and what the engine started is in it


def _failed(line):
    return {"status": "failed", "error": line}


def _first(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else "no message"


def _fill(scenario, output):
    values = {
        "model": scenario["path"] or "", "tokens": ",".join(map(str, scenario["tokens"])), "output": output,
        "arithmetic": scenario["arithmetic"], "decode": str(scenario["decode"]),
    }  # fmt: skip
    filled = []
    for word in scenario["command"]:
        for key, value in values.items():
            word = word.replace("{" + key + "}", value)
        filled.append(word)
    return filled


def _own_engine(scenario, output):
    """Runs a user's command. Returns None if it recorded something."""
    try:
        done = subprocess.run(
            _fill(scenario, output),
            cwd=scenario["folder"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        return {"status": "missing", "error": f"no such program: {scenario['command'][0]}"}
    except OSError as error:
        return _failed(f"{scenario['command'][0]}: {error.strerror}")
    if done.returncode < 0:
        return {"status": "crashed", "error": f"signal {-done.returncode} ({signal.Signals(-done.returncode).name})"}
    if done.returncode != 0:
        return _failed(f"exit code {done.returncode}: {_first(done.stderr)}")
    return None if Path(output).exists() else _failed("the engine wrote no trace")


def _capture(scenario, output):
    """Runs one of our adapters. Returns None if it recorded something."""
    absent = missing(ENGINES[scenario["kind"]])
    if absent:
        return {"status": "missing", "error": f"not installed: {', '.join(absent)}"}
    if scenario["path"] is None:
        return {"status": "missing", "error": f"the plan has no file of this model for {scenario['engine']}"}
    from paritrace import cli

    arguments = [scenario["kind"], scenario["path"], "--tokens", ",".join(map(str, scenario["tokens"]))]
    arguments += ["-o", output, "--quiet"]
    if scenario["decode"]:
        arguments += ["--decode", str(scenario["decode"])]
    if scenario["kind"] == "hf":
        arguments += ["--dtype", scenario["arithmetic"]]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = cli.main(arguments + scenario["options"])
    return None if code == 0 else _failed(_first(said.getvalue()))


def _diagnose(scenario, trace, folder):
    from paritrace.__main__ import program

    path, result = program(), Path(folder) / "diagnosis.json"
    if path is None:
        return {"status": "missing", "error": "the paritrace program"}
    if scenario["reference"] is None:
        return _failed("the plan names no model to diagnose against: `reference`")
    command = [path, "diagnose", trace, "--model", scenario["reference"], "--json", result, "--quiet"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode not in (0, 1, 3) or not result.exists():
        return _failed(f"diagnose: exit code {done.returncode}: {_first(done.stderr)}")
    diagnosis = json.loads(result.read_text(encoding="utf-8", errors="replace"))
    defects = [
        {key: defect.get(key) for key in _KEPT} | {"cause": (defect.get("cause") or {}).get("id")}
        for defect in diagnosis.get("defects", [])
    ]
    return {
        "status": "done", "verdict": diagnosis["verdict"], "exit_code": done.returncode, "defects": defects,
        "explained": diagnosis.get("explained"),
    }  # fmt: skip


def outcome(scenario):
    """status: done, failed, crashed or missing; with `verdict`, `exit_code`, `defects` or `error`."""
    with tempfile.TemporaryDirectory(prefix="paritrace-sweep-") as folder:
        trace = os.path.join(folder, "trace")
        run = _own_engine if scenario["kind"] == "command" else _capture
        trouble = run(scenario, trace)
        if trouble:
            return trouble
        if scenario["check"] == "none":
            return {"status": "done", "verdict": None}
        return _diagnose(scenario, trace, folder)


def main():
    scenario = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_watch_parent, daemon=True).start()
    # Whatever an engine prints must not mix with the answer.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        result = outcome(scenario)
    except Exception as error:
        result = _failed(f"{type(error).__name__}: {_first(str(error))}")
    os.write(answer, (json.dumps(result) + "\n").encode())
    os._exit(0)  # some engines crash in their own destructors: the answer is out


if __name__ == "__main__":
    main()
