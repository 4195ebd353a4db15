"""The engines of examples/, each written without a look at the oracle: right, they raise no alarm; with one mistake, it is named.

They run the committed models. What a recipe of docs/investigations shows is what is answered here.
"""

import importlib
import re
import shutil
import sys

import pytest
from conftest import ROOT

sys.path[:0] = [str(ROOT / "investigations"), str(ROOT / "models")]

from investigation import Investigation, names, plan_of  # noqa: E402

MISTAKES = [(name, mistake["id"]) for name in names() for mistake in plan_of(name)["mistake"]]
NUMBER = re.compile(r"\d[\d.]*(?:e[+-]?\d+)?")


@pytest.fixture(scope="module")
def investigation(tmp_path_factory):
    """Function: name -> Investigation, its engine built once."""
    made = {}

    def of(name):
        if name not in made:
            if name == "tinyllama" and shutil.which("rustc") is None:
                pytest.skip("rustc is not installed")
            made[name] = Investigation(name, tmp_path_factory.mktemp(name))
        return made[name]

    return of


@pytest.mark.parametrize("name", names())
def test_the_engine_as_it_is_raises_no_alarm(investigation, name):
    subject = investigation(name)
    for kind in subject.plan.get("types", [None]):
        answer = subject.ask(kind=kind)
        assert answer.verdict == "within_noise" and answer.named == {}
        assert all(flip["benign"] for flip in answer.routing)


@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_a_mistake_is_named_at_its_sites(investigation, name, mistake):
    subject = investigation(name)
    entry = next(row for row in subject.plan["mistake"] if row["id"] == mistake)
    answer = subject.ask([mistake], entry.get("type"), subject.decode_of(entry))
    cause, sites = subject.expected(entry)
    assert {id: set(at) for id, at in answer.named.items()} == {cause: sites}


@pytest.mark.parametrize("name, first, second", [
    ("tinyllama", "rope.half_split@2", "norm.eps@4"),
    ("moe", "moe.bias@1", "rope.theta@3"),
    ("bitnet", "bitnet.weight_scale@0", "mlp.activation@3"),
    ("qwen2", "attn.kv_head_order@0", "residual.missing@2"),
])  # fmt: skip
def test_two_mistakes_are_both_named(investigation, name, first, second):
    answer = investigation(name).ask([first, second])
    assert set(answer.named) == {first.split("@")[0], second.split("@")[0]}
    for mistake in (first, second):
        id, layer = mistake.split("@")
        assert {site.split(".")[1] for site in answer.named[id]} == {layer}


def recipe(name):
    """The output that a recipe shows."""
    text = (ROOT / "docs" / "investigations" / f"{name}.md").read_text()
    return text.split("<!-- output -->\n```text\n")[1].split("```\n<!-- end of output -->")[0]


def words(text):
    """Text without its line breaks; numbers, which depend on the processor, are all alike."""
    return NUMBER.sub("#", " ".join(text.split()))


@pytest.mark.parametrize("name", names())
def test_a_recipe_shows_every_mistake_found(name):
    lines = recipe(name).splitlines()
    for mistake in plan_of(name)["mistake"]:
        (line,) = [
            line for line in lines if line.split()[1:2] == [mistake["id"]] and line.startswith(("right", "WRONG"))
        ]
        assert line.startswith("right") and mistake.get("cause", mistake["id"].split("@")[0]) in line.split(None, 2)[2]


@pytest.mark.parametrize("name", names())
def test_a_recipe_shows_what_is_answered(investigation, name):
    """`investigations/run.py NAME --write-recipe` pastes the output again."""
    shown = words(recipe(name))
    for question, answer in importlib.import_module(f"questions.{name}").answers(investigation(name)):
        assert words(question) in shown
        assert words(answer) in shown
