"""The tour: one model, converted to GGUF rightly and wrongly, run by Hugging Face and by llama.cpp, compared and diagnosed.

The wrong file has the classic mistake of a conversion: the rows of q and k are left in Hugging Face's order, while
llama.cpp rotates neighbouring pairs. It loads, it runs, it writes plausible text.

Each command is shown as a user would type it, with its real output. Ends with four lines that say whether the answers
are the expected ones; exits 1 where they are not.

    .venv/bin/python scripts/demo.py        # in the project's folder; leaves everything under demo-out/
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = "models/paritrace-llama"
OUT = "demo-out"
PARITRACE = ".venv/bin/paritrace"
PYTHON = ".venv/bin/python"
TEXT = "The return value is a list of the names that the module defines, in the order of their use."
TOKENS_USED = 20
EXPECTED_CAUSE = "rope.interleaved"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
STARTED = time.monotonic()


class DemoError(Exception):
    """A step that the demo cannot go on without; the message is one line."""


def emphasise(text, code):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def heading(text):
    """Announces a part of the tour with the time so far: it is the progress shown."""
    print(f"\n{emphasise(f'[{time.monotonic() - STARTED:3.0f} s] {text}', '1')}", flush=True)


def run(arguments, allowed=(0,)):
    """Runs a command from the project's folder, shown first; returns its exit code, or DemoError if not in `allowed`."""
    print(emphasise("$ " + shlex.join(arguments), "36"), flush=True)
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    try:
        code = subprocess.run(arguments, cwd=ROOT, env=environment, check=False).returncode
    except OSError as error:
        raise DemoError(f"{arguments[0]}: {error.strerror}; make build makes it") from error
    if code not in allowed:
        raise DemoError(
            f"{shlex.join(arguments[:3])} ended with exit code {code}, expected {' or '.join(map(str, allowed))}"
        )
    return code


def read_json(name):
    """Returns the JSON file `name` of demo-out/, or DemoError."""
    path = ROOT / OUT / name
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DemoError(f"{OUT}/{name}: {error}") from error


def prompt_tokens():
    """Returns the first TOKENS_USED token ids of TEXT, the beginning-of-text token included."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(ROOT / MODEL / "tokenizer.json")).encode(TEXT).ids[:TOKENS_USED]


def expected_sites():
    """The sites at which the wrong file must be blamed: rotation of q and of k, in every layer."""
    layers = json.loads((ROOT / MODEL / "config.json").read_text())["num_hidden_layers"]
    return {f"layers.{layer}.attn.{name}" for layer in range(layers) for name in ("q_rope", "k_rope")}


def examine(name, tokens):
    """Captures llama.cpp on `tokens` with demo-out/NAME.gguf, compares and diagnoses it; returns (exit codes of both, diagnosis)."""
    run([PARITRACE, "capture", "llamacpp", f"{OUT}/{name}.gguf", "--tokens", tokens, "-o", f"{OUT}/{name}"])
    print()
    # 1 is an answer, not a failure: any pair of engines differs in its last bits, and diff cannot know why.
    diff = run([PARITRACE, "diff", f"{OUT}/hf", f"{OUT}/{name}"], allowed=(0, 1))
    print()
    diagnosis = f"{name}-diagnosis.json"
    code = run(
        [PARITRACE, "diagnose", f"{OUT}/{name}", "--model", MODEL, "--json", f"{OUT}/{diagnosis}"], allowed=(0, 1)
    )
    return diff, code, read_json(diagnosis)


def judge(right, wrong):
    """Prints the four closing lines; returns whether all is as expected."""
    wrong_diff, wrong_code, wrong_diagnosis = wrong
    _, right_code, right_diagnosis = right
    blamed = {defect["site"] for defect in wrong_diagnosis["defects"]}
    causes = {defect["cause"]["id"] for defect in wrong_diagnosis["defects"]}
    named = wrong_code == 1 and causes == {EXPECTED_CAUSE} and blamed == expected_sites()
    clean = (
        right_code == 0
        and right_diagnosis["verdict"] in ("identical", "within_noise")
        and not right_diagnosis["defects"]
    )
    seen = wrong_diff == 1

    def line(ok, text):
        print(f"{emphasise('as expected ', '32') if ok else emphasise('NOT EXPECTED', '31')}  {text}")

    heading("Summary")
    line(seen, f"wrong.gguf, diff: exit {wrong_diff}; it sees that something diverges, not what")
    line(
        named,
        f"wrong.gguf, diagnose: exit {wrong_code}; {', '.join(sorted(causes)) or 'no cause'} at {len(blamed)} sites"
        f" (q_rope and k_rope of {len(expected_sites()) // 2} layers: {'exactly these' if blamed == expected_sites() else 'no'})",
    )
    line(
        clean,
        f"right.gguf, diagnose: exit {right_code}; {right_diagnosis['verdict']}, {len(right_diagnosis['defects'])} defects",
    )
    print(
        f"{'done' if seen and named and clean else 'FAILED'} in {time.monotonic() - STARTED:.0f} s; all files are in {OUT}/"
    )
    return seen and named and clean


def main():
    if not (ROOT / MODEL / "config.json").exists():
        raise DemoError(f"{MODEL}/config.json is missing: the model is part of the repository")
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir()
    tokens = ",".join(map(str, prompt_tokens()))

    heading("One model as two GGUF files: converted rightly, and with q and k rows left in Hugging Face's order")
    run([PYTHON, "models/write_gguf.py", MODEL, f"{OUT}/right.gguf", "--type", "f32"])
    run([PYTHON, "models/write_gguf.py", MODEL, f"{OUT}/wrong.gguf", "--type", "f32", "--no-permute"])

    heading("The reference: Hugging Face Transformers in f32, on the tokens of a sentence")
    run([PARITRACE, "capture", "hf", MODEL, "--tokens", tokens, "--dtype", "f32", "-o", f"{OUT}/hf"])

    heading("The wrong file in llama.cpp: capture, compare, diagnose")
    wrong = examine("wrong", tokens)
    heading("The right file in llama.cpp: the same three commands")
    right = examine("right", tokens)
    return 0 if judge(right, wrong) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
