"""The page of --html as the program writes it: the same data as --json, self-contained, small; and its views in chromium."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import paritrace
import pytest
import torch
from conftest import ROOT

PAGE_DATA = re.compile(r'<script type="application/json" id="paritrace-data">(.*?)</script>', re.DOTALL)
REPORT = ROOT / "report"


def program():
    """The command that runs paritrace: a build under test where PARITRACE_BIN names one, else the installed package."""
    named = os.environ.get("PARITRACE_BIN")
    return [named] if named else [sys.executable, "-m", "paritrace"]


def payload_of(page):
    """The data a page holds; None for the plain page of a build without Node.js."""
    found = PAGE_DATA.search(page.read_text())
    return json.loads(found[1]) if found else None


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Folder of NAME.html and NAME.json: a diagnosis with a defect, a clean one, a diff, logits, growth."""
    from paritrace import hf

    folder = tmp_path_factory.mktemp("pages")
    model_folder = ROOT / "models" / "paritrace-llama"
    tokens = [17, 403, 1407, 261, 378, 261, 9, 1203, 77, 640, 1011, 58]

    def record(name, dtype, eps=None):
        model = hf.load(model_folder, dtype)
        if eps is not None:
            model.model.layers[2].input_layernorm.variance_epsilon = eps
        with torch.no_grad(), paritrace.capture(model, folder / name):
            model(input_ids=torch.tensor([tokens]))

    def write(name, *arguments):
        done = subprocess.run(
            [*program(), *map(str, arguments), "--html", folder / f"{name}.html", "--json", folder / f"{name}.json"],
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode in (0, 1), done.stderr

    record("right", "f32")
    record("wrong", "f32", eps=1e-2)
    write("defect", "diagnose", folder / "wrong", "--model", model_folder)
    write("clean", "diagnose", folder / "right", "--model", model_folder)
    write("diff", "diff", folder / "right", folder / "wrong")
    write("logits", "logits", folder / "right", folder / "wrong")
    write("growth", "growth", folder / "right", folder / "wrong")
    if payload_of(folder / "defect.html") is None:
        assert not (REPORT / "dist" / "report.html").exists(), "the page was built, but this program does not hold it"
        pytest.skip("this build has no page: there is no npm")
    return folder


def without(mapping, *keys):
    return {key: value for key, value in mapping.items() if key not in keys}


@pytest.mark.parametrize("name", ["defect", "clean", "diff", "logits", "growth"])
def test_a_page_holds_what_the_json_holds(pages, name):
    payload, result = payload_of(pages / f"{name}.html"), json.loads((pages / f"{name}.json").read_text())
    if name == "diff":  # positions are packed in the page
        assert [without(site, "positions") for site in payload["result"].pop("sites")] == [
            without(site, "per_position") for site in result.pop("sites")
        ]
    assert payload["result"] == result
    assert payload["page"]["command"] == ("diagnose" if name in ("defect", "clean") else name)


@pytest.mark.parametrize("name", ["defect", "clean", "diff", "logits", "growth"])
def test_a_page_needs_nothing_else(pages, name):
    text = (pages / f"{name}.html").read_text()
    assert len(text) < 5e6
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:|@import|url\(\s*["']?https?:""", PAGE_DATA.sub("", text))
    assert "default-src 'none'" in text


def test_every_judged_site_has_its_evidence(pages):
    payload = payload_of(pages / "defect.html")
    views = payload["views"]["sites"]
    for row in payload["result"]["noise"]:
        view = views[row["site"]]
        assert view["values"] == row["values"] and view["samples"]["rows"] and view["tokens"]["error"]
    assert payload["page"]["tokens"][1], "the model's own tokenizer names the tokens"


def test_a_page_of_22_layers_stays_small(tmp_path):
    """TinyLlama's number of layers and heads; the widths do not matter to the page."""
    import transformers
    from paritrace import hf

    torch.manual_seed(1)
    sizes = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=22, num_attention_heads=32)
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=300)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    model = hf.load(tmp_path / "model", "bf16")
    with torch.no_grad(), paritrace.capture(model, tmp_path / "trace"):
        model(input_ids=torch.randint(0, 300, (1, 128)))
    page = tmp_path / "page.html"
    done = subprocess.run(
        [*program(), "diagnose", tmp_path / "trace", "--model", tmp_path / "model", "--html", page],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert page.stat().st_size < 5e6
    payload = payload_of(page)
    assert payload is None or len(payload["views"]["sites"]) >= 22 * 15


def test_python_commands_write_the_same_page(tmp_path):
    """`tokens`, and what `sweep` calls: tables, and texts that are no UTF-8."""
    from paritrace.sweep import summary

    model_folder = ROOT / "models" / "paritrace-llama"
    outputs = ["--html", tmp_path / "tokens.html", "--json", tmp_path / "tokens.json", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "paritrace", "tokens", model_folder, model_folder, "--text", "return value", *outputs],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    payload = payload_of(tmp_path / "tokens.html")
    if payload is None:
        pytest.skip("this build has no page: there is no npm")
    assert payload["result"] == json.loads((tmp_path / "tokens.json").read_text())
    assert payload["page"]["tone"] == "good"

    keys = ("model", "prompt", "length", "engine", "arithmetic")
    scenarios = [{"id": str(i)} | dict.fromkeys(keys, f"v{i}") for i in range(3)]
    receipts = {"0": {"status": "done", "verdict": "identical"}, "1": {"status": "crashed", "error": "</b>\udcff"}}
    (tmp_path / "sweep.html").write_text(summary.html(scenarios, receipts))
    page = payload_of(tmp_path / "sweep.html")["page"]
    assert page["tone"] == "bad" and page["sentence"].startswith("3 scenarios: 1 parity, 1 crashed")
    assert [row[5:] for row in page["sections"][0]["rows"]] == [["parity", ""], ["crashed", "</b>?"], ["not run", ""]]


def test_the_views_in_chromium(pages):
    """Each page that the program wrote, opened and clicked through; the views themselves are tested in report/tests."""
    for tool in ("npm", "chromium"):
        if not shutil.which(tool):
            pytest.skip(f"there is no {tool}")
    if not (REPORT / "node_modules").exists():
        pytest.fail("report/node_modules is missing: make report")
    junit = pages / "junit.xml"
    done = subprocess.run(
        ["npm", "--prefix", str(REPORT), "run", "test:pages", "--", "--reporter=junit"],
        env=os.environ | {"PARITRACE_PAGES": str(pages), "PLAYWRIGHT_JUNIT_OUTPUT_NAME": str(junit)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    cases = [case for case in ET.parse(junit).iter("testcase") if case.find("skipped") is None]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert len(cases) == 6
