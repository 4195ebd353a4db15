"""`paritrace sweep`: every scenario has one receipt, whatever kills what in between; engines that are wrong, missing, crash or
hang are told apart, and the rest goes on.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

# Writes down when it starts and ends, and records an empty trace.
ENGINE = """#!/bin/sh
echo "start $1 $2 $3" >> log
sleep {pause}
mkdir -p "$4"
echo "end $1 $2 $3" >> log
"""
PLAN = """
lengths = {lengths}
arithmetic = ["f32", "bf16"]
check = "none"
time_limit = 60
[[model]]
name = "a"
path = "a.txt"
[[model]]
name = "b"
path = "b.txt"
{prompts}
[[engine]]
name = "one"
kind = "command"
command = ["./engine.sh", "one", "{{model}}", "{{tokens}}-{{arithmetic}}", "{{output}}"]
[[engine]]
name = "two"
kind = "command"
command = ["./engine.sh", "two", "{{model}}", "{{tokens}}-{{arithmetic}}", "{{output}}"]
"""


@pytest.fixture
def write_plan(tmp_path):
    """Function: (prompts, lengths, pause) -> a plan of 8 x prompts x lengths scenarios."""

    def write(prompts, lengths, pause):
        (tmp_path / "a.txt").write_text("a")
        (tmp_path / "b.txt").write_text("b")
        engine = tmp_path / "engine.sh"
        engine.write_text(ENGINE.replace("{pause}", str(pause)))
        engine.chmod(0o755)
        tables = "\n".join(f'[[prompt]]\nname = "p{i}"\ntokens = [{i}, {i + 1}]' for i in range(prompts))
        plan = tmp_path / "plan.toml"
        plan.write_text(PLAN.format(lengths=list(range(1, lengths + 1)), prompts=tables))
        return plan

    return write


def command(plan, *options):
    return [sys.executable, "-m", "paritrace", "sweep", str(plan), *map(str, options)]


def sweep(plan, *options, timeout=250):
    return subprocess.run(command(plan, *options), capture_output=True, text=True, timeout=timeout, cwd="/")


def receipts(plan):
    path = plan.with_name("plan-sweep") / "receipts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(count, plan, process):
    path = plan.with_name("plan-sweep") / "receipts.jsonl"
    deadline = time.monotonic() + 200
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def without_run(all_receipts):
    return sorted(json.dumps(receipt | {"run": None}, sort_keys=True) for receipt in all_receipts)


def test_two_hundred_killed_half_way_go_on_without_doing_any_twice(write_plan, tmp_path):
    plan = write_plan(prompts=5, lengths=5, pause=0.02)
    process = subprocess.Popen(command(plan, "-j", 3), start_new_session=True, stdout=subprocess.DEVNULL)
    wait_for(100, plan, process)
    os.kill(process.pid, signal.SIGKILL)  # the sweep alone: what it started must end by itself
    process.wait()
    before = receipts(plan)
    assert 100 <= len(before) < 200
    time.sleep(0.5)
    started_before = (tmp_path / "log").read_text().count("start")
    time.sleep(0.3)
    assert (tmp_path / "log").read_text().count("start") == started_before  # nothing runs on
    with open(plan.with_name("plan-sweep") / "receipts.jsonl", "a") as file:
        file.write('{"id": "torn')  # as if the kill had come within a write
    done = sweep(plan, "-j", 3)
    assert done.returncode == 0, done.stderr
    after = receipts(plan)
    assert after[: len(before)] == before
    assert len(after) == len({receipt["id"] for receipt in after}) == 200
    # Only what was under way at the kill (three at most) starts a second time.
    starts = (tmp_path / "log").read_text().count("start")
    assert starts <= 200 + 3 and starts == 200 + started_before - len(before)
    assert "200 scenarios: 200 recorded" in done.stdout
    again = sweep(plan)
    assert again.returncode == 0 and (tmp_path / "log").read_text().count("start") == starts


def test_the_same_plan_gives_the_same_receipts_and_summary(write_plan, tmp_path):
    plan = write_plan(prompts=1, lengths=1, pause=0)
    for name, jobs in (("x", 1), ("y", 4)):
        assert sweep(plan, "-o", tmp_path / name, "-j", jobs).returncode == 0
    lines = [(tmp_path / name / "receipts.jsonl").read_text().splitlines() for name in "xy"]
    assert without_run(map(json.loads, lines[0])) == without_run(map(json.loads, lines[1]))
    assert (tmp_path / "x" / "summary.md").read_bytes() == (tmp_path / "y" / "summary.md").read_bytes()


def test_a_changed_engine_or_model_runs_anew(write_plan, tmp_path):
    plan = write_plan(prompts=1, lengths=1, pause=0)
    assert sweep(plan).returncode == 0 and len(receipts(plan)) == 8
    (tmp_path / "b.txt").write_text("another b")
    assert sweep(plan).returncode == 0 and len(receipts(plan)) == 12


def test_engines_that_fail_are_told_apart_and_the_rest_goes_on(tmp_path):
    plan = tmp_path / "plan.toml"
    engines = {
        "good": ["sh", "-c", "mkdir {output}"],
        "crashes": ["sh", "-c", "kill -11 $$"],
        "hangs": ["sh", "-c", "sleep 60 & sleep 60"],
        "refuses": ["sh", "-c", "echo no such model >&2; exit 7"],
        "silent": ["true"],
        "absent": ["no-such-program-at-all"],
    }
    tables = "\n".join(
        f'[[engine]]\nname = "{n}"\nkind = "command"\ncommand = {json.dumps(c)}' for n, c in engines.items()
    )
    plan.write_text(
        f'check = "none"\ntime_limit = 1.5\n[[model]]\nname = "m"\n[[prompt]]\nname = "p"\ntokens = [1]\n{tables}\n'
    )
    done = sweep(plan, "-j", 2)
    assert done.returncode == 1, done.stderr
    found = {receipt["engine"]: (receipt["status"], receipt.get("error", "")) for receipt in receipts(plan)}
    assert {engine: status for engine, (status, _) in found.items()} == {
        "good": "done", "crashes": "crashed", "hangs": "timeout", "refuses": "failed", "silent": "failed",
        "absent": "missing",
    }  # fmt: skip
    assert "SIGSEGV" in found["crashes"][1]
    assert found["refuses"][1] == "exit code 7: no such model"
    assert found["absent"][1] == "no such program: no-such-program-at-all"
    summary = (tmp_path / "plan-sweep" / "summary.md").read_text()
    assert "6 scenarios: 1 recorded, 2 failed, 1 crashed, 1 timeout, 1 missing" in summary
    # Another try replaces those receipts and leaves the good one.
    assert sweep(plan, "--retry", "-j", 2).returncode == 1
    assert len(receipts(plan)) == 6


def test_real_engines_are_captured_and_diagnosed(tmp_path, model_folder, gguf, write_gguf):
    wrong = tmp_path / "wrong.gguf"
    write_gguf(model_folder, wrong, "f32", permute=False)
    plan = tmp_path / "plan.toml"
    plan.write_text(f"""
time_limit = 200
lengths = [6]
arithmetic = ["f32"]
[[model]]
name = "right"
path = "{gguf("f32")}"
hf = "{model_folder}"
[[model]]
name = "wrong"
llamacpp = "{wrong}"
reference = "{model_folder}"
[[prompt]]
name = "text"
text = "Once upon a time there was a little girl"
[[engine]]
name = "hf"
[[engine]]
name = "llamacpp"
""")
    done = sweep(plan)
    assert done.returncode == 1, done.stderr
    found = {(receipt["model"], receipt["engine"]): receipt for receipt in receipts(plan)}
    assert found["right", "hf"]["verdict"] in ("identical", "within_noise")
    assert found["right", "llamacpp"]["verdict"] in ("identical", "within_noise")
    assert found["wrong", "llamacpp"]["verdict"] == "diverged" and found["wrong", "llamacpp"]["defects"]
    assert found["wrong", "hf"]["status"] == "missing"  # the plan has no file for it


@pytest.mark.parametrize(
    "text, said",
    [
        ("lengths = [1", "expected TOML"),
        ("[[model]]\nname = 'm'", "prompt"),
        ("time_limit = -1", "time_limit: expected a number"),
        ("colour = 1", "expected one of"),
        ("[[engine]]\nname = 'e'\nkind = 'vllm'", "engine 'e'.kind: expected hf or"),
        ("[[engine]]\nname = 'hf'\n[[engine]]\nname = 'hf'", "a name of its own"),
        ("[[model]]\nname = 'm'\npath = 'none.gguf'\n[[prompt]]\nname='p'\ntokens=[1]\n[[engine]]\nname='hf'", "none.gguf"),
        ("[[model]]\nname = 'm'\n[[prompt]]\nname='p'\ntokens=[-1]\n[[engine]]\nname='hf'", "prompt 'p'.tokens"),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_line_and_nothing_runs(tmp_path, text, said):
    plan = tmp_path / "plan.toml"
    if "[[engine]]" not in text:
        text += "\n[[engine]]\nname = 'hf'\n"
    plan.write_text(text)
    done = sweep(plan)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "plan-sweep").exists()


def test_one_sweep_at_a_time(write_plan):
    plan = write_plan(prompts=1, lengths=1, pause=4)  # a busy machine takes seconds to start the second
    first = subprocess.Popen(command(plan), stdout=subprocess.DEVNULL)
    wait_for(1, plan, first)
    second = sweep(plan)
    assert second.returncode == 2 and "no other sweep at work" in second.stderr
    first.send_signal(signal.SIGINT)
    assert first.wait(60) == 130


def test_a_ray_cluster_that_loses_a_node(write_plan):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    plan = write_plan(prompts=1, lengths=5, pause=0.3)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        others = [cluster.add_node(num_cpus=1) for _ in range(3)]
        process = subprocess.Popen(command(plan, "--ray", cluster.address), stderr=subprocess.PIPE, text=True)
        wait_for(12, plan, process)
        cluster.remove_node(others[1], allow_graceful=False)
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    finally:
        cluster.shutdown()
    found = receipts(plan)
    assert len(found) == len({receipt["id"] for receipt in found}) == 40
    assert all(receipt["status"] == "done" for receipt in found)
    # The same receipts as on this machine alone.
    done = sweep(plan, "-o", plan.with_name("here"), "-j", 4)
    assert done.returncode == 0
    here = (plan.with_name("here") / "receipts.jsonl").read_text().splitlines()
    assert without_run(found) == without_run(map(json.loads, here))
