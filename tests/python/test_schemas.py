"""Real outputs of every kind against the JSON Schemas that are shipped: a key that no schema knows fails here."""

import json
import os
import shutil
import subprocess
import sys
import tomllib

import jsonschema
import paritrace
import pytest
import torch
from conftest import MODEL, ROOT
from paritrace import schemas

TOKENS = [17, 403, 1407, 261, 378, 261, 9, 1203]


def program():
    named = os.environ.get("PARITRACE_BIN")
    return [named] if named else [sys.executable, "-m", "paritrace"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A function: (schema's name, command, exit codes) -> the JSON, validated. `.folder` holds traces."""
    from paritrace import hf

    folder = tmp_path_factory.mktemp("schemas")

    def record(name, dtype="f32", change=None, tokens=TOKENS, decode=False):
        model = hf.load(MODEL, dtype)
        if change:
            change(model)
        with torch.no_grad(), paritrace.capture(model, folder / name):
            first = model(input_ids=torch.tensor([tokens]), use_cache=True)
            if decode:
                model(input_ids=torch.tensor([[5]]), past_key_values=first.past_key_values, use_cache=True)

    def eps(model):
        model.model.layers[2].input_layernorm.variance_epsilon = 1e-2

    def broken(model):
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")

    record("right", decode=True)
    record("right16", "bf16")
    record("wrong", change=eps, decode=True)
    record("nan", change=broken)
    record("others", tokens=[1, 2, 3])

    def run(schema, *command, codes=(0, 1)):
        file = folder / "out.json"
        file.unlink(missing_ok=True)
        done = subprocess.run(
            [*program(), *map(str, command), "--json", str(file)],
            capture_output=True, text=True, timeout=280, cwd=folder,
        )  # fmt: skip
        assert done.returncode in codes, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
        return check(schema, json.loads(file.read_text()))

    run.folder = folder
    return run


def check(name, value):
    jsonschema.Draft202012Validator(paritrace.schema(name)).validate(value)
    return value


@pytest.mark.parametrize("name", schemas.NAMES)
def test_a_schema_is_one_and_says_what_each_key_is(name):
    schema = paritrace.schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)

    def walk(part, path):
        for key, value in part.get("properties", {}).items():
            assert value.get("description"), f"{name}: {path}.{key} has no description"
            walk(value, f"{path}.{key}")
        for inner in (part.get("items"), *part.get("$defs", {}).values()):
            if inner:
                walk(inner, path)

    walk(schema, "")


def test_a_schema_refuses_what_it_does_not_know(outputs):
    result = outputs("diff", "diff", "right", "wrong")
    for change in (
        lambda r: r.update(new=1),
        lambda r: r["sites"][0].update(new=1),
        lambda r: r.update(verdict="good"),
        lambda r: r.pop("counts"),
        lambda r: r["sites"][0].update(max_abs="1"),
    ):
        other = json.loads(json.dumps(result))
        change(other)
        with pytest.raises(jsonschema.ValidationError):
            check("diff", other)
    with pytest.raises(KeyError, match="there are"):
        paritrace.schema("dif")


@pytest.mark.parametrize("sides", ["right right", "right wrong", "wrong nan", "right right16", "right others"])
def test_diff_and_its_kin(outputs, sides):
    sides = sides.split()
    codes = (3,) if "others" in sides else (0, 1)
    outputs("diff", "diff", *sides, "--all-stats", codes=codes)
    outputs("growth", "growth", *sides, codes=codes)
    outputs("logits", "logits", *sides, codes=codes)


def test_diff_of_a_digest_and_of_a_dump(outputs):
    if not (outputs.folder / "digest").exists():
        subprocess.run([*program(), "digest", "right", "-o", "digest"], cwd=outputs.folder, check=True)
    outputs("diff", "diff", "digest", "wrong")
    outputs("show", "show", "digest")
    samples = ROOT / "tests/samples"
    for dump in ("eval_callback.log", "msprobe_statistics", "polygraphy.json"):
        outputs("show", "show", samples / dump)
        outputs("diff", "diff", samples / dump, samples / dump, codes=(0, 1, 3))


def test_diagnose(outputs):
    assert outputs("diagnosis", "diagnose", "wrong", "--model", MODEL)["defects"]
    outputs("diagnosis", "diagnose", "right16", "--model", MODEL, "--ref", "wrong")
    outputs("diagnosis", "diagnose", "nan", "--model", MODEL)
    assert outputs("diagnosis", "diagnose", "wrong", "--ref", "right")["unproven"]
    outputs("diagnosis", "diagnose", "right", "--model", MODEL, "--ref", "others", codes=(3,))
    outputs("diagnosis", "diagnose", "wrong", "--model", MODEL, "--subject-model", MODEL)


def test_diagnose_through_torch(outputs):
    done = subprocess.run(
        [sys.executable, "-m", "paritrace", "diagnose", "wrong", "--model", MODEL, "--oracle", "torch", "--json", "torch.json"],
        cwd=outputs.folder, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    check("diagnosis", json.loads((outputs.folder / "torch.json").read_text()))


def test_weights(outputs):
    from safetensors.torch import load_file, save_file

    outputs("weights", "weights", MODEL, MODEL)
    wrong = outputs.folder / "weights"
    if not wrong.exists():
        shutil.copytree(MODEL, wrong)
        tensors = load_file(wrong / "model.safetensors")
        names = sorted(tensors)
        for scale, name in zip((2.0, 1.001, 0.0), (n for n in names if n.endswith("q_proj.weight"))):
            tensors[name] = tensors[name] * scale
        norm = next(n for n in names if "input_layernorm" in n)
        tensors[norm] = tensors[norm] + 1
        save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    assert outputs("weights", "weights", MODEL, wrong)["verdict"] == "diverged"


def test_tokens_and_doctor(outputs):
    def run(*command, codes=(0, 1, 3)):
        done = subprocess.run(
            [sys.executable, "-m", "paritrace", *map(str, command), "--json", "out.json", "-q"],
            cwd=outputs.folder, capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode in codes, done.stderr
        return json.loads((outputs.folder / "out.json").read_text())

    check("tokens", run("tokens", "right", "others"))
    check("tokens", run("tokens", "right", "right"))
    check("tokens", run("tokens", MODEL, MODEL, "--text", "return value", "--text", ""))
    check("doctor", run("doctor"))


def test_receipts(outputs):
    """As the sweep writes them: of a command that records what another run recorded, of one that is not there, of one that fails."""
    plan = outputs.folder / "plan.toml"
    plan.write_text(
        'time_limit = 120\n[[model]]\nname = "m"\n'
        f'path = "{MODEL}"\n[[prompt]]\nname = "p"\ntokens = [1, 2, 3]\n'
        '[[engine]]\nname = "copy"\nkind = "command"\ncommand = ["cp", "-r", "wrong", "{output}"]\n'
        '[[engine]]\nname = "none"\nkind = "command"\ncommand = ["no-such-engine"]\n'
        '[[engine]]\nname = "fails"\nkind = "command"\ncommand = ["false"]\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "paritrace", "sweep", plan, "-q", "--html", "page.html"],
        cwd=outputs.folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    page = (outputs.folder / "page.html").read_text()
    assert "no-such-engine" in page and page == (outputs.folder / "plan-sweep/summary.html").read_text()
    receipts = [json.loads(line) for line in (outputs.folder / "plan-sweep/receipts.jsonl").read_text().splitlines()]
    assert {check("receipt", receipt)["status"] for receipt in receipts} == {"done", "missing", "failed"}


def test_a_trace_and_its_index(outputs):
    for name in ("right", "digest"):
        if name == "digest" and not (outputs.folder / name).exists():
            subprocess.run([*program(), "digest", "right", "-o", "digest"], cwd=outputs.folder, check=True)
        check("trace", json.loads((outputs.folder / name / "trace.json").read_text()))
        for line in (outputs.folder / name / "index.jsonl").read_text().splitlines():
            check("index", json.loads(line))
    outputs("show", "show", "right")


def test_a_map(outputs):
    subprocess.run([*program(), "align", "right", "wrong", "-o", "map.toml", "-q"], cwd=outputs.folder, check=True)
    check("map", tomllib.loads((outputs.folder / "map.toml").read_text()))
