"""What a diagnosis of a 1.1B model costs: time and memory, beside one forward pass in Hugging Face.

    .venv/bin/python bench/diagnose_bench.py [--rounds 3] [--types q8_0,f16] [--dir SCRATCH] [--shape tinyllama-1.1b]

The model has TinyLlama-1.1B's shape and random weights (models/synthesize.py), the trace is llama.cpp's: 14 tokens, every site.
Its twin has one matrix of another layer in the place of its own: diagnosing it includes the full search for that one mistake, and
`search` is what that takes on top. Memory is the most that was resident, the mapped model included; limits are the project's own.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]
TOKENS = [1, 306, 411, 287, 518, 73, 1021, 17, 442, 905, 64, 33, 1200, 287]
MATRIX = "blk.{}.ffn_down.weight"
LIMIT_SECONDS, LIMIT_SEARCH, LIMIT_MEMORY = 30, 10, 1.5


def measured(command):
    """(seconds, peak resident bytes, exit code) of a process."""
    start = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - start, usage.ru_maxrss * 1024, process.returncode


def run(*command):
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def tensor_place(file, name):
    """(offset, bytes) of a tensor in a GGUF."""
    import gguf

    reader = gguf.GGUFReader(file)
    tensor = next(t for t in reader.tensors if t.name == name)
    return int(tensor.data_offset), int(tensor.n_bytes)


def capture(model, trace, tokens):
    run(sys.executable, "-m", "paritrace", "capture", "llamacpp", model, "--tokens", ",".join(map(str, tokens)),
        "-o", trace, "--flash-attn", "off", "--quiet")  # fmt: skip


def capture_with_a_wrong_layer(model, trace, tokens, layers):
    """The engine runs the file with one layer's matrix in another's place; the file is as it was afterwards."""
    wrong, right = layers // 4, layers // 2
    at, size = tensor_place(model, MATRIX.format(wrong))
    source, _ = tensor_place(model, MATRIX.format(right))
    with open(model, "r+b") as file:
        file.seek(at)
        own = file.read(size)
        file.seek(source)
        other = file.read(size)
        try:
            file.seek(at)
            file.write(other)
            file.flush()
            capture(model, trace, tokens)
        finally:
            file.seek(at)
            file.write(own)
    return f"layers.{wrong}.mlp.out"


def diagnoses(program, trace, model, rounds, report):
    times, memory = [], 0
    for _ in range(rounds):
        seconds, peak, code = measured([program, "diagnose", trace, "--model", model, "--quiet", "--json", report])
        if code not in (0, 1):
            sys.exit(f"diagnose ended with {code}")
        times.append(seconds)
        memory = max(memory, peak)
    return statistics.median(times), memory, json.loads(Path(report).read_text())


FORWARD = """
import json, sys, time, torch, transformers
shape, tokens = json.loads(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
config = transformers.LlamaConfig(hidden_size=shape["hidden"], intermediate_size=shape["intermediate"],
    num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
    vocab_size=shape["vocab"])
with torch.device("meta"):
    model = transformers.LlamaForCausalLM(config)
model = model.to_empty(device="cpu").float().eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(0.01)
    for name, buffer in model.named_buffers():
        buffer.fill_(0.5)
    times = []
    for _ in range(int(sys.argv[3]) + 1):
        start = time.monotonic()
        model(torch.tensor([tokens]), use_cache=False)
        times.append(time.monotonic() - start)
print(sorted(times[1:])[len(times[1:]) // 2])
"""


def forward_seconds(shape, tokens, rounds):
    command = [sys.executable, "-c", FORWARD, json.dumps(shape), json.dumps(tokens), str(rounds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def shape_of(name):
    sys.path.insert(0, str(ROOT / "models"))
    import synthesize

    return synthesize.SHAPES[name]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", default="q8_0,f16", help="weight types of the GGUF")
    parser.add_argument("--shape", default="tinyllama-1.1b")
    parser.add_argument("--dir", type=Path, help="for the model and its traces, some 4 GiB (default: a temporary one)")
    parser.add_argument("--program", default=os.environ.get("PARITRACE_BIN") or shutil.which("paritrace") or
                        str(ROOT / ".venv" / "bin" / "paritrace"))  # fmt: skip
    options = parser.parse_args()
    shape = shape_of(options.shape)
    tokens = [token % shape["vocab"] for token in TOKENS]
    print(f"{options.shape}, {len(tokens)} tokens, every site of llama.cpp; medians of {options.rounds} rounds")
    print(f"one forward pass of Hugging Face in f32: {forward_seconds(shape, tokens, options.rounds):.2f} s\n")
    print(
        "| weights | file | diagnose | limit | memory | of the file | limit | search for one mistake | limit | values to the bit |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    over = []
    for kind in options.types.split(","):
        with tempfile.TemporaryDirectory(dir=options.dir) as folder:
            folder = Path(folder)
            model, report = folder / f"{kind}.gguf", folder / "report.json"
            run(sys.executable, ROOT / "models" / "synthesize.py", options.shape, model, "--type", kind)
            capture(model, folder / "clean", tokens)
            site = capture_with_a_wrong_layer(model, folder / "wrong", tokens, shape["layers"])
            seconds, memory, clean = diagnoses(options.program, folder / "clean", model, options.rounds, report)
            searched, _, wrong = diagnoses(options.program, folder / "wrong", model, options.rounds, report)
            named = [(defect["site"], defect["cause"]["id"]) for defect in wrong["defects"]]
            if clean["defects"] or named != [(site, "linear.wrong_layer")]:
                sys.exit(f"{kind}: clean: {clean['defects']}, wrong: {named}")
            size = model.stat().st_size
            print(
                f"| {kind} | {size / 1e9:.2f} GB | {seconds:.1f} s | {LIMIT_SECONDS} s | {memory / 1e9:.2f} GB "
                f"| {memory / size:.2f} | {LIMIT_MEMORY} | {searched - seconds:.1f} s | {LIMIT_SEARCH} s "
                f"| {100 * clean['explained']['exact']:.2f} % of {clean['explained']['values']} |"
            )
            within = seconds < LIMIT_SECONDS and memory < LIMIT_MEMORY * size and searched - seconds < LIMIT_SEARCH
            over += [] if within else [kind]
    print(f"\n{'over a limit: ' + ', '.join(over) if over else 'all within their limits'}")


if __name__ == "__main__":
    main()
