"""Runs one scenario's process, with its time limit, and writes its receipt: the same on this machine and on a Ray node."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time

RECEIPT = "paritrace/receipt/1"
_IDENTITY = ("id", "model", "prompt", "length", "engine", "arithmetic")


def receipt_of(scenario, outcome, seconds):
    """`run` is what differs from one run to the next; all else is the same again on the same machine."""
    run = {"seconds": round(seconds, 3), "host": platform.node()}
    return {"schema": RECEIPT} | {key: scenario[key] for key in _IDENTITY} | outcome | {"run": run}


def run_scenario(scenario, threads=1, processes=None):
    """Runs the worker to its end or its limit. Returns the receipt; None if `processes` was closed meanwhile.

    threads: for the engine; processes: a Processes that may end us early
    """
    start = time.monotonic()
    count = str(threads)
    environment = os.environ | {
        "PARITRACE_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0",
    }  # fmt: skip
    # Files, not pipes: a grandchild that outlives the worker would hold a pipe open for ever.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "paritrace.sweep.worker"], stdin=subprocess.PIPE, stdout=answer, stderr=said,
            env=environment, start_new_session=True,
        )  # fmt: skip
        if processes is not None and not processes.add(process):
            kill(process)
            return None
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(scenario).encode() + b"\n")
                process.stdin.flush()
            try:
                process.wait(timeout=scenario["time_limit"])
                outcome = _outcome(process, answer, said)
            except subprocess.TimeoutExpired:
                outcome = {"status": "timeout", "error": f"longer than {scenario['time_limit']:g} s"}
        finally:
            kill(process)
            if processes is not None:
                processes.remove(process)
    if processes is not None and processes.closed:
        return None
    return receipt_of(scenario, outcome, time.monotonic() - start)


def _outcome(process, answer, said):
    answer.seek(0)
    line = answer.read()
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return {"status": "crashed", "error": f"signal {-process.returncode} ({name})"}
    try:
        return json.loads(line)
    except ValueError:
        said.seek(0)
        text = said.read().decode(errors="replace").strip().splitlines()
        return {"status": "crashed", "error": f"exit code {process.returncode}: {text[-1] if text else 'no message'}"}


def kill(process):
    """Ends a worker with all that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        with contextlib.suppress(OSError):
            process.stdin.close()
