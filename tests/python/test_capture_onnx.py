"""Capture of ONNX Runtime: every value of a graph, and for torch's exports the sites of Hugging Face's with its values."""

import warnings

import numpy as np
import onnx
import paritrace
import pytest
import torch
from onnx import TensorProto, helper
from paritrace import hf
from paritrace import onnx as adapter
from torch import nn


class LogitsOnly(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head

    def forward(self, input_ids, attention_mask):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return self.lm_head(states)


@pytest.fixture(scope="module")
def exported(model_folder, tmp_path_factory):
    """The committed model as torch's exporter writes it."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    ids = torch.tensor([[17, 403, 1407, 261]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            LogitsOnly(hf.load(model_folder, "f32")),
            (ids, torch.ones_like(ids)),
            path,
            dynamo=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {1: "tokens"}, "attention_mask": {1: "tokens"}},
            opset_version=18,
        )
    return path


def test_agrees_with_hugging_face_at_every_site(exported, model_folder, tokens, tmp_path):
    adapter.run(exported, tmp_path / "onnx", tokens=tokens)
    hf.run(model_folder, tmp_path / "hf", tokens=tokens, dtype="f32")
    subject, reference = (paritrace.open_trace(tmp_path / name) for name in ("onnx", "hf"))
    sites = [entry.site for entry in subject.entries if entry.site]
    assert len(sites) == len(set(sites))
    # The layer's input is the layer before's output: the graph has no other value for it.
    wanted = {entry.site for entry in reference.entries if entry.site and not entry.site.endswith(".in")}
    assert set(sites) == wanted
    for site in sites:
        values, expected = subject.values(site), reference.values(site)
        assert values.shape == expected.shape
        if site.endswith("scores"):  # masked scores are the lowest number in both
            assert np.array_equal(values < -1e30, expected < -1e30)
            values, expected = values[expected > -1e30], expected[expected > -1e30]
        # Sums of up to 288 products in another order, five layers deep.
        bound = 5 * 288 * 2**-24 * np.sqrt(np.mean(expected.astype(np.float64) ** 2))
        assert np.sqrt(np.mean((values.astype(np.float64) - expected) ** 2)) <= bound, site
    run = subject.header["run"]
    assert run["arithmetic"] == "ort-f32"
    assert run["tokens"] == [tokens]


def write(path, nodes, outputs, inputs=("input_ids",), **types):
    values = [helper.make_tensor_value_info(name, types.get(name, TensorProto.INT64), [1, None]) for name in inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    table = helper.make_tensor("table", TensorProto.FLOAT, [5, 3], np.arange(15, dtype=np.float32))
    graph = helper.make_graph(nodes, "g", values, results, [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_any_graph_shows_every_value(tmp_path):
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["a"], name="n0"),
        helper.make_node("Relu", ["a"], ["b"], name="n1"),
        helper.make_node("Add", ["b", "a"], ["result"], name="n2"),
    ]
    write(tmp_path / "m.onnx", nodes, ["result"])
    adapter.run(tmp_path / "m.onnx", tmp_path / "t", tokens=[4, 1])
    trace = paritrace.open_trace(tmp_path / "t")
    values = {entry.name: entry.numpy() for entry in trace.entries}
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)[[4, 1]]
    assert list(values) == ["a", "b", "result"]
    assert np.array_equal(values["a"], rows)
    assert np.array_equal(values["result"], 2 * rows)


def test_bad_files_and_commands(paritrace_cli, tmp_path):
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["result"], name="n0")]
    write(tmp_path / "m.onnx", nodes, ["result"])
    write(tmp_path / "other.onnx", nodes, ["result"], inputs=("input_ids", "pixels"), pixels=TensorProto.FLOAT)
    (tmp_path / "bad.onnx").write_bytes(b"\x00hello")
    for arguments, message in [
        (["absent.onnx", "--tokens", "1"], "absent.onnx: model file: expected an ONNX file, found no such file"),
        (["bad.onnx", "--tokens", "1"], "bad.onnx: model file: expected an ONNX file that ONNX Runtime loads, found "),
        (
            ["other.onnx", "--tokens", "1"],
            "other.onnx: input pixels: expected input_ids, attention_mask, position_ids or a",
        ),
        (["m.onnx", "--tokens", "1", "--decode", "1"], "--decode: expected a model with inputs past_key_values, found"),
        (["m.onnx", "--tokens", "9"], "m.onnx: run: expected outputs, found"),
    ]:
        done = paritrace_cli("capture", "onnx", *arguments, "-o", "t", "--overwrite")
        assert done.returncode == 2, message
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"paritrace: {message}"), line
    assert paritrace_cli("capture", "onnx", "m.onnx", "--tokens", "1,2", "-o", "t", "--overwrite").returncode == 0
