"""--model-explorer: what Model Explorer's own builder would write, its keys the engine's names and the sites."""

import json
import os
import subprocess
import sys

import jsonschema
import paritrace
import pytest
import torch
from conftest import MODEL

# GraphNodeData of the package ai-edge-model-explorer, as far as it is used; the package itself is asked below where it is there.
COLOUR = {"type": "string", "pattern": "^#[0-9a-f]{6}$"}
FORM = {
    "type": "object",
    "required": ["name", "results", "thresholds"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "results": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["value"],
                "additionalProperties": False,
                "properties": {
                    "value": {"type": "number", "minimum": 0, "maximum": 1e9},
                    "bgColor": COLOUR,
                    "textColor": COLOUR,
                },
            },
        },
        "thresholds": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["value", "bgColor"],
                "additionalProperties": False,
                "properties": {"value": {"type": "number"}, "bgColor": COLOUR},
            },
        },
    },
}


def program():
    named = os.environ.get("PARITRACE_BIN")
    return [named] if named else [sys.executable, "-m", "paritrace"]


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """A function: command -> (overlay, JSON). Traces right, wrong (eps in one norm, two steps) and nan lie in the folder it runs in."""
    from paritrace import hf

    folder = tmp_path_factory.mktemp("overlay")
    for name in ("right", "wrong", "nan"):
        model = hf.load(MODEL, "f32")
        if name == "wrong":
            model.model.layers[2].input_layernorm.variance_epsilon = 1e-2
        if name == "nan":
            model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
        with torch.no_grad(), paritrace.capture(model, folder / name):
            out = model(input_ids=torch.tensor([[17, 403, 1407, 261]]), use_cache=True)
            model(input_ids=torch.tensor([[5]]), past_key_values=out.past_key_values, use_cache=True)

    def run(*command):
        command = [*program(), *map(str, command), "--model-explorer", "o.json", "--json", "r.json", "-q"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280)
        assert done.returncode in (0, 1), done.stderr
        data = json.loads((folder / "o.json").read_text())
        jsonschema.validate(data, FORM)
        limits = [threshold["value"] for threshold in data["thresholds"]]
        assert limits == sorted(limits) and all(node["value"] <= limits[-1] for node in data["results"].values())
        return data, json.loads((folder / "r.json").read_text())

    run.folder = folder
    return run


def blamed(data):
    return {key for key, node in data["results"].items() if "bgColor" in node}


def test_a_diagnosis(overlay):
    data, result = overlay("diagnose", "wrong", "--model", MODEL)
    worst = {}
    for row in result["noise"]:
        worst[row["site"]] = max(worst.get(row["site"], 0), row["ratio"])
    for site, ratio in worst.items():
        assert data["results"][site]["value"] == ratio
    # The engine's own name stands beside the site.
    assert blamed(data) == {"layers.2.attn.norm", "model.layers.2.input_layernorm"}
    assert data["results"]["model.layers.2.input_layernorm"] == data["results"]["layers.2.attn.norm"]
    assert not blamed(overlay("diagnose", "right", "--model", MODEL)[0])


def test_a_diff(overlay):
    data, result = overlay("diff", "right", "wrong")
    diverged = {site["site"] for site in result["sites"] if site["status"] == "diverged"}
    assert diverged and diverged <= blamed(data)
    assert data["results"]["embed"]["value"] == 0
    first = next(site for site in result["sites"] if site["site"] == result["first_divergence"]["site"])
    at_least = (first["nmse"] / first["allowed_nmse"]) ** 0.5
    assert data["results"][first["site"]]["value"] >= 0.999 * at_least > 1


def test_what_is_not_finite_has_the_largest_value(overlay):
    for command in (("diff", "right", "nan"), ("diagnose", "nan", "--model", MODEL)):
        data, _ = overlay(*command)
        assert data["results"]["layers.1.mlp.up"]["value"] == 1e9, command
        assert "layers.1.mlp.up" in blamed(data)


def test_standard_output_takes_it_alone(overlay):
    done = subprocess.run(
        [*program(), "diff", "right", "wrong", "--model-explorer", "-"],
        cwd=overlay.folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    jsonschema.validate(json.loads(done.stdout), FORM)


def test_the_package_itself_takes_it(overlay):
    builder = pytest.importorskip("model_explorer.node_data_builder")
    data, _ = overlay("diagnose", "wrong", "--model", MODEL)
    results = {key: builder.NodeDataResult(**node) for key, node in data["results"].items()}
    thresholds = [builder.ThresholdItem(**threshold) for threshold in data["thresholds"]]
    theirs = json.loads(
        builder.GraphNodeData(results=results, name=data["name"], thresholds=thresholds).to_json_string()
    )
    assert {key: theirs[key] for key in data} == data
