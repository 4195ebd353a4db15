"""How fast `paritrace diff` compares beside what people use: numpy, torch, Polygraphy, msProbe, on the same pairs of tensors.

    .venv/bin/python bench/peers.py [--megabytes N] [--rounds N]

Each contestant runs in a process of its own, in turn, round after round, so that a busy machine slows all of them; files lie in
the page cache. A peer's tensors are in memory and have been read once before its clock starts. `paritrace diff` gets no such
start: its time is that of the whole command, with opening, mapping, page faults and the report. Memory is the process's largest
resident set without the pages of mapped files, and for peers without the tensors themselves.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv" / "peers"
ROWS, COLUMNS = 2048, 4096  # 32 MiB a tensor in f32
SLOW = {"polygraphy", "msprobe"}  # a sixteenth of the tensors is enough to time these


def write_pair(folder, megabytes):
    """Writes reference and subject, `megabytes` together: the subject is the reference with the relative noise of f32."""
    import numpy as np
    from safetensors.numpy import save_file

    count = max(2, megabytes * 2**20 // (2 * 4 * ROWS * COLUMNS))
    random = np.random.default_rng(1)
    values = random.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    noise = random.standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(1e-7)
    sides = {"reference": {}, "subject": {}}
    for i in range(count):
        tensor = np.roll(values, 997 * i)
        sides["reference"][f"layers.{i}.out"] = tensor
        sides["subject"][f"layers.{i}.out"] = tensor * (1 + noise)
    for side, tensors in sides.items():
        save_file(tensors, folder / f"{side}.safetensors")
    return 2 * count * 4 * ROWS * COLUMNS


def numpy_f32(a, b):
    import numpy as np

    d = a - b
    absolute = np.abs(d)
    np.argmax(absolute), absolute.max(), absolute.mean(), np.dot(a.ravel(), b.ravel()), np.dot(a.ravel(), a.ravel())
    (
        np.dot(b.ravel(), b.ravel()),
        np.dot(d.ravel(), d.ravel()),
        np.isfinite(a).all(),
        np.isfinite(b).all(),
        (a == b).sum(),
    )


def numpy_f64(a, b):
    import numpy as np

    numpy_f32(a.astype(np.float64), b.astype(np.float64))


def torch_metrics(a, b):
    import torch

    d = a - b
    absolute = d.abs()
    absolute.argmax(), absolute.max(), absolute.mean(), torch.dot(a.flatten(), b.flatten())
    torch.dot(a.flatten(), a.flatten()), torch.dot(b.flatten(), b.flatten()), torch.dot(d.flatten(), d.flatten())
    torch.isfinite(a).all(), torch.isfinite(b).all(), (a == b).sum()


def torch_f32(a, b):
    import torch

    torch_metrics(torch.from_numpy(a), torch.from_numpy(b))


def torch_f64(a, b):
    import torch

    torch_metrics(torch.from_numpy(a).double(), torch.from_numpy(b).double())


def assert_close(a, b):
    import torch

    torch.testing.assert_close(torch.from_numpy(a), torch.from_numpy(b), rtol=1, atol=1)


def polygraphy(a, b):
    from polygraphy.comparator import Comparator, CompareFunc, IterationResult, RunResults
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.CRITICAL
    runs = RunResults([(name, [IterationResult({"out": value})]) for name, value in (("reference", a), ("subject", b))])
    Comparator.compare_accuracy(runs, compare_func=CompareFunc.simple(rtol=1e-2, atol=1e-2))


def msprobe(a, b):
    from msprobe.core.compare.npy_compare import compare_ops_apply

    compare_ops_apply(a, b, False, "")


CONTESTANTS = [numpy_f32, numpy_f64, torch_f32, torch_f64, assert_close, polygraphy, msprobe]


def anonymous_bytes():
    """Resident memory of this process that is no page of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class PeakMemory:
    """The largest `read()` while the block runs, looked at a hundred times a second."""

    def __init__(self, read):
        self.read, self.peak, self.stop = read, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while not self.stop.wait(0.01):
            self.peak = max(self.peak, self.read())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def run_peer(name, folder):
    """One contestant in this process; prints {"bytes", "seconds", "memory"}."""
    sys.path.append(str(PEERS))
    from safetensors.numpy import load_file

    compare = {peer.__name__: peer for peer in CONTESTANTS}[name]
    a, b = load_file(folder / "reference.safetensors"), load_file(folder / "subject.safetensors")
    names = sorted(a)[: max(1, len(a) // 16) if name in SLOW else None]
    compare(a[names[0]][:8], b[names[0]][:8])  # imports
    held = anonymous_bytes()
    with PeakMemory(anonymous_bytes) as memory:
        start = time.perf_counter()
        for key in names:
            compare(a[key], b[key])
        seconds = time.perf_counter() - start
    size = sum(a[key].nbytes + b[key].nbytes for key in names)
    print(json.dumps({"bytes": size, "seconds": seconds, "memory": max(0, memory.peak - held)}))


def measure_peer(name, folder):
    done = subprocess.run(
        [sys.executable, __file__, "--one", name, "--folder", str(folder)], capture_output=True, text=True, timeout=600
    )
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1])


def measure_paritrace(folder, size, options):
    program = shutil.which("paritrace", path=str(ROOT / ".venv" / "bin")) or os.environ["PARITRACE_BIN"]
    command = [program, "diff", str(folder / "reference.safetensors"), str(folder / "subject.safetensors"), *options]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)

    def anonymous():
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return 0
        return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))

    with PeakMemory(anonymous) as memory:
        process.wait()
        seconds = time.perf_counter() - start
    if process.returncode not in (0, 1):
        return f"exit code {process.returncode}"
    return {"bytes": size, "seconds": seconds, "memory": memory.peak}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024, help="both sides together (default 1024)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each is measured; the median counts (default 5)"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return run_peer(arguments.one, arguments.folder)

    with tempfile.TemporaryDirectory(prefix="paritrace-bench-") as name:
        folder = Path(name)
        size = write_pair(folder, arguments.megabytes)
        contestants = {"paritrace diff": [], "paritrace diff --all-stats": ["--all-stats"]}
        contestants |= {peer.__name__: None for peer in CONTESTANTS}
        figures = {contestant: [] for contestant in contestants}
        failed = {}
        for _ in range(arguments.rounds):
            for contestant, options in contestants.items():
                if contestant in failed:
                    continue
                peer = options is None
                result = measure_peer(contestant, folder) if peer else measure_paritrace(folder, size, options)
                failed.update({contestant: result} if isinstance(result, str) else {})
                figures[contestant] += [] if isinstance(result, str) else [result]

    rates = {
        name: statistics.median(figure["bytes"] / figure["seconds"] / 1e9 for figure in runs)
        for name, runs in figures.items()
        if runs
    }
    ours = rates["paritrace diff"]
    print(
        f"pairs of f32 tensors [{ROWS}, {COLUMNS}], {size / 2**20:.0f} MiB in all; medians of {arguments.rounds} rounds\n"
    )
    print("| contestant | GB/s | paritrace diff is | memory above the tensors |")
    print("|---|---|---|---|")
    for contestant, runs in figures.items():
        if contestant in failed:
            print(f"| {contestant} | not measured: {failed[contestant]} | | |")
            continue
        memory = statistics.median(figure["memory"] for figure in runs) / 2**20
        print(f"| {contestant} | {rates[contestant]:.2f} | {ours / rates[contestant]:.1f}× | {memory:.0f} MiB |")


if __name__ == "__main__":
    main()
