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


class WithCache(nn.Module):
    """The committed model as exporters for generation write it: the KV cache goes in and comes out."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head, self.layers = model.model, model.lm_head, model.config.num_hidden_layers

    def forward(self, input_ids, attention_mask, position_ids, *past):
        import transformers

        cache = transformers.DynamicCache()
        for layer in range(self.layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        states = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache
        ).last_hidden_state
        present = [part for layer in cache.layers for part in (layer.keys, layer.values)]
        return (self.lm_head(states), *present)


@pytest.fixture(scope="module")
def with_cache(model_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "decoder.onnx"
    model = hf.load(model_folder, "f32")
    config = model.config
    ids = torch.tensor([[17, 403, 1407, 261]])
    heads = [1, config.num_key_value_heads, 3, config.head_dim]
    past = [torch.randn(heads) for _ in range(2 * config.num_hidden_layers)]
    parts = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    names = [f"past_key_values.{part}" for part in parts]
    axes = {"input_ids": {1: "tokens"}, "attention_mask": {1: "all"}, "position_ids": {1: "tokens"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WithCache(model),
            (ids, torch.ones(1, 7, dtype=torch.long), torch.arange(3, 7)[None], *past),
            path,
            dynamo=False,
            input_names=["input_ids", "attention_mask", "position_ids", *names],
            output_names=["logits", *(f"present.{part}" for part in parts)],
            dynamic_axes=axes | {name: {2: "past"} for name in names},
            opset_version=18,
        )
    return path


def test_decode_steps_use_the_cache(with_cache, model_folder, tokens, tmp_path):
    adapter.run(with_cache, tmp_path / "onnx", tokens=tokens, decode=3)
    hf.run(model_folder, tmp_path / "hf", tokens=tokens, dtype="f32", decode=3)
    subject, reference = (paritrace.open_trace(tmp_path / name) for name in ("onnx", "hf"))
    assert subject.header["run"]["tokens"] == reference.header["run"]["tokens"]
    assert subject.steps == [0, 1, 2, 3]
    assert [step["start"] for step in subject.header["run"]["steps"]] == [0, 12, 13, 14]
    for step in subject.steps:
        logits, expected = subject.values("logits", step), reference.values("logits", step)
        assert logits.shape == expected.shape
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
        assert subject.find("layers.1.attn.q_rope", step).shape[0] == (12 if step == 0 else 1)


def test_header_keeps_the_opset(exported, tokens, tmp_path):
    adapter.run(exported, tmp_path / "t", tokens=tokens)
    header = paritrace.open_trace(tmp_path / "t").header
    assert header["run"]["opset"]["ai.onnx"] == 18
    assert header["engine"]["version"]
    assert "pytorch" in header["model"]["producer"]


def test_weights_in_files_beside_the_model(exported, tokens, tmp_path):
    """How models beyond 2 GB are saved; from another folder than the current one."""
    folder = tmp_path / "large"
    folder.mkdir()
    onnx.save_model(
        onnx.load(exported), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    assert (folder / "m.onnx").stat().st_size < 500_000 < (folder / "m.data").stat().st_size
    adapter.run(folder / "m.onnx", tmp_path / "t", tokens=tokens)
    adapter.run(exported, tmp_path / "whole", tokens=tokens)
    subject, reference = (paritrace.open_trace(tmp_path / name) for name in ("t", "whole"))
    assert [entry.hash for entry in subject.entries] == [entry.hash for entry in reference.entries]
    (folder / "m.data").unlink()
    with pytest.raises(ValueError, match=r"m\.onnx: model file"):
        adapter.run(folder / "m.onnx", tmp_path / "u", tokens=tokens)


def test_a_graph_of_any_inputs(paritrace_cli, tmp_path):
    nodes = [
        helper.make_node("MatMul", ["pixels", "weight"], ["hidden"], name="n0"),
        helper.make_node("Relu", ["hidden"], ["result"], name="n1"),
    ]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 2], np.arange(6, dtype=np.float32) - 2)
    value = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [value], [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    pixels = np.array([[1, -1, 2], [0, 1, 0]], np.float32)
    np.save(tmp_path / "pixels.npy", pixels)
    with adapter.capture(tmp_path / "m.onnx", tmp_path / "t") as session:
        outputs = session.run({"pixels": pixels})
        session.run({"pixels": pixels + 1})
    trace = paritrace.open_trace(tmp_path / "t")
    hidden = pixels @ (np.arange(6, dtype=np.float32) - 2).reshape(3, 2)
    by_name = {entry.name: entry.numpy() for entry in trace.entries if entry.step == 0}
    assert np.array_equal(by_name["hidden"], hidden)
    assert np.array_equal(outputs["result"], np.maximum(hidden, 0))
    assert trace.steps == [0, 1]
    for mode in ("stats", "digest"):
        done = paritrace_cli("capture", "onnx", "m.onnx", "--input", "pixels=pixels.npy", "-o", mode, "--mode", mode)
        assert done.returncode == 0, done.stderr
        assert [entry.has_data for entry in paritrace.open_trace(tmp_path / mode).entries] == [False, False]
    for arguments in (["--input", "pixels=absent.npy"], ["--input", "other=pixels.npy"], ["--input", "pixels"], []):
        done = paritrace_cli("capture", "onnx", "m.onnx", *arguments, "-o", "bad", "--overwrite")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
