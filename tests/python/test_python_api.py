"""`paritrace.diff(a, b)` and its kin: equal to the JSON, good in notebooks and tables; tensors in memory as sides."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import paritrace
import pytest
import torch
from conftest import MODEL, ROOT

TOKENS = [17, 403, 1407, 261, 378]


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """(right, wrong, the right one's hidden states by site): wrong has another eps in one norm."""
    from paritrace import hf

    folder = tmp_path_factory.mktemp("api")
    model = hf.load(MODEL, "f32")
    for name in ("right", "wrong"):
        if name == "wrong":
            model.model.layers[2].input_layernorm.variance_epsilon = 1e-2
        with torch.no_grad(), paritrace.capture(model, folder / name):
            model(input_ids=torch.tensor([TOKENS]))
    return folder / "right", folder / "wrong"


def test_a_result_is_the_json(traces, tmp_path):
    _, wrong = traces
    result = paritrace.diagnose(wrong, MODEL)
    command = [
        sys.executable,
        "-m",
        "paritrace",
        "diagnose",
        wrong,
        "--model",
        MODEL,
        "--json",
        tmp_path / "r.json",
        "-q",
    ]
    assert subprocess.run([str(word) for word in command], check=False).returncode == 1
    expected = json.loads((tmp_path / "r.json").read_text())
    assert result == expected and dict(result) == expected and json.loads(result.to_json()) == expected
    assert result.verdict == "diverged" and not result and result.exit_code == 1
    assert [defect["cause"]["id"] for defect in result.defects] == ["norm.eps"]
    with pytest.raises(TypeError):
        result["verdict"] = "identical"


def test_every_command(traces):
    right, wrong = traces
    assert paritrace.diff(right, wrong, all_stats=True)["first_divergence"]["site"] == "layers.2.attn.norm"
    assert paritrace.diff(right, right) and paritrace.diff(right, right).verdict == "identical"
    assert paritrace.diff(paritrace.open_trace(right), right)
    assert paritrace.logits(right, wrong, top=3)["summary"]["top_k"] == 3
    assert paritrace.growth(right, wrong)["schema"] == "paritrace/growth/1"
    assert paritrace.weights(MODEL, MODEL)
    assert paritrace.diagnose(wrong, reference=right)["unproven"]
    assert paritrace.diagnose(right, MODEL, arithmetic="torch-f32")["arithmetic"] == "torch-f32"


def test_bad_input_is_one_line(traces, tmp_path):
    right, _ = traces
    for call in (
        lambda: paritrace.diff(right, tmp_path / "none"),
        lambda: paritrace.diagnose(right),
        lambda: paritrace.diff(right, 7),
        lambda: paritrace.diff(right, {}),
        lambda: paritrace.diff(right, {"logits": "text"}),
        lambda: paritrace.diagnose(right, MODEL, arithmetic="f1"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) and "\n" not in str(error.value) and "Traceback" not in str(error.value)


def test_notebooks(traces):
    right, wrong = traces
    result = paritrace.diagnose(wrong, MODEL)
    page = result._repr_html_()
    assert "diverged" in page and "norm.eps" in page and "layers.2.attn.norm" in page
    assert "norm.eps" in repr(result)
    assert "layers.2.attn.norm" in paritrace.diff(right, wrong)._repr_html_()
    assert "<table" not in paritrace.diff(right, right)._repr_html_()
    odd = paritrace.Result({"schema": "paritrace/diff/1", "verdict": "<b>", "sites": []}, 3)
    assert "<b>&lt;b&gt;" not in odd._repr_html_() and "&lt;b&gt;" in odd._repr_html_()


def test_pandas(traces, monkeypatch):
    """pandas may be absent: what it is asked for is the list of the result, flat by one level."""
    asked = types.SimpleNamespace(json_normalize=lambda rows, max_level: rows)
    monkeypatch.setitem(sys.modules, "pandas", asked)
    right, wrong = traces
    result = paritrace.diagnose(wrong, MODEL)
    assert result.to_pandas() == result["noise"] and result.to_pandas("defects") == result["defects"]
    assert paritrace.diff(right, wrong).to_pandas()[0]["site"] == "embed"
    growth = paritrace.growth(right, wrong)
    assert growth.to_pandas("by_layer.points") == growth["by_layer"]["points"]
    with pytest.raises(KeyError):
        growth.to_pandas()
    with pytest.raises(KeyError):
        result.to_pandas("explained")


def in_memory(trace):
    opened = paritrace.open_trace(trace)
    return {entry.site or entry.name: entry.numpy() for entry in opened.entries}


@pytest.mark.parametrize("kind", ["numpy", "torch", "jax", "dlpack"])
def test_tensors_in_memory(traces, kind):
    right, wrong = traces
    tensors = in_memory(wrong)
    if kind == "torch":
        tensors = {
            name: torch.from_numpy(value).requires_grad_(value.dtype == np.float32) for name, value in tensors.items()
        }
    elif kind == "jax":
        jnp = pytest.importorskip("jax.numpy")
        tensors = {name: jnp.asarray(value) for name, value in tensors.items()}
    elif kind == "dlpack":

        class Other:  # any library's array
            def __init__(self, value):
                self._value, self.shape = value, value.shape

            def __dlpack__(self, **options):
                return self._value.__dlpack__(**options)

            def __dlpack_device__(self):
                return self._value.__dlpack_device__()

        tensors = {name: Other(value) for name, value in tensors.items()}
    result = paritrace.diff(right, tensors)
    assert result["first_divergence"]["site"] == "layers.2.attn.norm"
    assert [d["cause"]["id"] for d in paritrace.diagnose(tensors, MODEL, arithmetic="torch-f32").defects] == [
        "norm.eps"
    ]


def test_tensors_in_bf16_strided_and_of_several_steps():
    values = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    ml_dtypes = pytest.importorskip("ml_dtypes")
    same = values.float().numpy().astype(ml_dtypes.bfloat16)
    assert paritrace.diff({"logits": values}, {"logits": same}).verdict == "identical"
    wide = torch.randn(6, 16)
    assert paritrace.diff({"logits": wide[:, ::2]}, {"logits": wide[:, ::2].contiguous()}).verdict == "identical"
    steps = {(0, "layers.0.out"): wide, (1, "layers.0.out"): wide[:1]}
    assert [site["step"] for site in paritrace.diff(steps, steps)["sites"]] == [0, 1]
    # A module's name of Hugging Face means a site.
    named = paritrace.diff({"model.layers.0.self_attn.q_proj": wide}, {"layers.0.attn.q": wide})
    assert named.verdict == "identical"


def test_the_stub_names_what_the_package_offers():
    package = ROOT / "python/paritrace"
    stub = (package / "__init__.pyi").read_text()
    for name in paritrace.__all__:
        assert f"def {name}(" in stub or f"class {name}:" in stub or f"import {name} as {name}" in stub, name
    assert (package / "py.typed").exists() and os.path.getsize(package / "py.typed") == 0
