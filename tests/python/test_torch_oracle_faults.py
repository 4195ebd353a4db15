"""The torch oracle on a part of its fault bench (`make faults-hf`), and beside our own oracle."""

import json
import subprocess
import sys
from pathlib import Path

import cases
import engines
import pytest
import torch
from paritrace.torch_oracle import cli

BENCH = Path(__file__).resolve().parents[2] / "faults" / "hf_any.py"
# A learned position with q, k and v in one matrix; parallel blocks; norms after the sublayers.
SOME = ["gpt2", "gpt_neox", "olmo2"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small products: threads would only wait for each other. Other files' tests have theirs back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.timeout(400)
def test_a_part_of_the_bench(tmp_path):
    done = subprocess.run(
        [sys.executable, BENCH, "--only", ",".join(SOME), "--json", tmp_path / "out.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["architecture"] for row in rows] == sorted(SOME)
    assert all(run["defects"] == [] for row in rows for run in row["clean"].values())
    assert all(row["clean"]["bf16"]["exact"] == 1 for row in rows)
    faults = [fault for row in rows for fault in row["faults"]]
    assert len(faults) >= 16 and not any(fault["false_name"] for fault in faults)
    assert sum(fault["site"] for fault in faults) >= 0.97 * len(faults)
    assert sum(fault["cause"] for fault in faults) >= 0.85 * len(faults)


AGREE = {
    "rope_theta": "rope.theta",
    "norm_eps": "norm.eps",
    "linear_transposed": "linear.transposed",
    "mlp_activation": "mlp.activation",
    "linear_wrong_layer": "linear.wrong_layer",
    None: None,
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", AGREE)
def test_both_oracles_say_the_same(fault, tmp_path):
    everything = cases.faulty() if fault else cases.clean()
    case = next(
        case
        for case in everything
        if case.engine == "hf" and case.arithmetic == "bf16" and case.recorded == "all" and not case.decode
        and case.model in ("llama", "llama-mha", "qwen2") and [name for name, _, _ in case.faults] == ([fault] if fault else [])
    )  # fmt: skip
    bench = engines.Engines(tmp_path)
    bench.record(case, tmp_path / "trace")
    model = bench.model_of(case)
    theirs = cli.run(tmp_path / "trace", model)
    done = subprocess.run(
        [sys.executable, "-m", "paritrace", "diagnose", tmp_path / "trace", "--model", model, "--json", "-"],
        capture_output=True,
        text=True,
    )
    ours = json.loads(done.stdout)
    assert theirs["verdict"] == ours["verdict"] == ("diverged" if fault else "within_noise")
    assert {d["site"] for d in theirs["defects"]} == {d["site"] for d in ours["defects"]}
    assert {d["cause"]["id"] for d in theirs["defects"]} == {d["cause"]["id"] for d in ours["defects"]}
    if fault:
        assert theirs["defects"][0]["cause"]["id"] == AGREE[fault]
