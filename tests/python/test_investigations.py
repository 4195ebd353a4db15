"""The engines of examples/, each written without a look at the oracle: right, they raise no alarm; with one mistake, it is named.

Llama runs the committed model. The other families have random weights, made here as their training begins.
"""

import importlib
import shutil
import sys

import pytest
import torch
from conftest import ROOT

sys.path += [str(ROOT / "investigations"), str(ROOT / "models")]

from investigation import Investigation, plan_of

IDS = [0, 436, 331, 277, 608, 12, 99, 500, 640, 33, 871, 5, 1200, 1]
FAMILIES = {"moe": "nomic_moe", "bitnet": "bitnet", "qwen2": "qwen2"}
# In bf16 an eps that moves values by less than their rounding is named where the rows are small, not everywhere.
ALL = {name: [mistake["id"] for mistake in plan_of(name)["mistake"]] for name in ("tinyllama", "moe", "bitnet")}
ALL["qwen2"] = ["attn.kv_head_order", "mlp.gate_up_swapped", "norm.weight_plus_one", "rope.interleaved"]


@pytest.fixture(scope="module")
def investigation(tmp_path_factory):
    """Function: name -> Investigation, its engine built once."""
    made = {}

    def of(name):
        if name not in made:
            if name == "tinyllama" and shutil.which("rustc") is None:
                pytest.skip("rustc is not installed")
            out = tmp_path_factory.mktemp(name)
            made[name] = Investigation(name, out, random_model(name, out), IDS)
        return made[name]

    return of


def random_model(name, out):
    if name not in FAMILIES:
        return None
    family = importlib.import_module(f"families.{FAMILIES[name]}")
    torch.manual_seed(3)
    model = family.make_model().eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms and biases lie away from where training begins
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "router" in path:  # a router that prefers some experts
                parameter.mul_(3)
    folder = out / "model"
    folder.mkdir()
    family.store(model, folder)
    return folder


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_engine_as_it_is_raises_no_alarm(investigation, name):
    subject = investigation(name)
    for kind in subject.plan.get("types", [None]):
        answer = subject.ask(kind=kind)
        assert answer.verdict == "within_noise" and answer.named == {}
        assert all(flip["benign"] for flip in answer.routing)


@pytest.mark.parametrize("name, mistake", [(name, id) for name in sorted(ALL) for id in ALL[name]])
def test_a_mistake_is_named_at_its_sites(investigation, name, mistake):
    subject = investigation(name)
    entry = next(row for row in subject.plan["mistake"] if row["id"] == mistake)
    answer = subject.ask([mistake], entry.get("type"))
    cause, sites = subject.expected(entry)
    assert {id: set(at) for id, at in answer.named.items()} == {cause: sites}


@pytest.mark.parametrize("name, first, second", [
    ("tinyllama", "rope.half_split@2", "norm.eps@4"),
    ("moe", "moe.bias@1", "rope.theta@3"),
    ("bitnet", "bitnet.weight_scale@0", "mlp.activation@3"),
])  # fmt: skip
def test_two_mistakes_are_both_named(investigation, name, first, second):
    answer = investigation(name).ask([first, second])
    assert set(answer.named) == {first.split("@")[0], second.split("@")[0]}
    for mistake in (first, second):
        id, layer = mistake.split("@")
        assert {site.split(".")[1] for site in answer.named[id]} == {layer}
