"""Pooling of embedding models: sentence-transformers folders with Hugging Face's BERT, the tail computed here with torch as
sentence-transformers does, and llama.cpp with a pooling type."""

import json

import gguf
import paritrace
import pytest
import tiny_gguf
import tiny_models
import torch
from paritrace import llamacpp
from safetensors.torch import load_file, save_file

TOKENS = tiny_models.prompt(24)
TYPE = "sentence_transformers.models."
FLAGS = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


def pool(x, mode):
    """x [tokens, width]; as sentence_transformers' Pooling computes it."""
    if mode == "cls":
        return x[0]
    if mode == "lasttoken":
        return x[-1]
    if mode == "max":
        return x.max(0).values
    count = len(x)
    if mode == "weightedmean":
        weights = torch.arange(1, count + 1, dtype=x.dtype)[:, None]
        return (x * weights).sum(0) / weights.sum()
    ones = torch.ones(count, dtype=x.dtype)
    return x.sum(0) / (ones.sum().sqrt() if mode == "mean_sqrt_len_tokens" else ones.sum())


def make(folder, mode="mean", dense=None, normalise=True, dtype=torch.float32):
    """A sentence-transformers folder; the model and the dense layer. dense: number of outputs."""
    model = tiny_models.build("bert")
    model.save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 64} | {f"pooling_mode_{flag}": name == mode for name, flag in FLAGS.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    layer = None
    if dense:
        torch.manual_seed(2)
        layer = torch.nn.Linear(64, dense)
        (folder / "2_Dense").mkdir()
        options = {"in_features": 64, "out_features": dense, "bias": True}
        options["activation_function"] = "torch.nn.modules.activation.Tanh"
        (folder / "2_Dense" / "config.json").write_text(json.dumps(options))
        save_file(
            {"linear.weight": layer.weight.data, "linear.bias": layer.bias.data},
            folder / "2_Dense" / "model.safetensors",
        )
        modules.append(("2_Dense", "Dense"))
        layer = layer.to(dtype)
    if normalise:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    entries = [{"idx": i, "name": str(i), "path": path, "type": TYPE + kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(entries))
    return model.to(dtype), layer


def record(model, tail, path):
    """Every site of a run, and the pooled row that `tail` makes of its last, in one file."""
    with torch.no_grad(), paritrace.capture(model, path / "t"):
        last = model(input_ids=torch.tensor([TOKENS])).last_hidden_state[0]
    tensors = {}
    for shard in sorted((path / "t").glob("tensors-*.safetensors")):
        tensors.update(load_file(shard))
    index = [json.loads(line) for line in (path / "t" / "index.jsonl").read_text().splitlines()]
    named = {entry["site"]: tensors[entry["key"]].contiguous() for entry in index if entry.get("site")}
    header = json.loads((path / "t" / "trace.json").read_text())
    with torch.no_grad():
        named["pooled"] = tail(last)[None].contiguous()
    save_file(named, path / "trace.safetensors", {"paritrace": json.dumps(header)})
    return path / "trace.safetensors"


def tail_of(mode="mean", layer=None, normalise=True, activation=torch.tanh):
    def tail(x):
        y = pool(x, mode)
        if layer is not None:
            y = activation(layer(y))
        return torch.nn.functional.normalize(y, dim=0) if normalise else y

    return tail


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("dense, normalise", [(None, True), (None, False), (48, True)])
@pytest.mark.parametrize("mode", FLAGS)
def test_a_clean_run_raises_no_alarm(mode, dense, normalise, dtype, tmp_path):
    model, layer = make(tmp_path / "model", mode, dense, normalise, dtype)
    trace = record(model, tail_of(mode, layer, normalise), tmp_path)
    result = tiny_models.diagnose(trace, tmp_path / "model")
    assert result["defects"] == [] and result["remarks"] == []
    assert "pooled" in {row["site"] for row in result["noise"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("right, wrong", [
    ("mean", "cls"), ("cls", "mean"), ("mean", "lasttoken"), ("lasttoken", "cls"), ("mean", "max"), ("mean", "weightedmean"),
])  # fmt: skip
def test_another_mode_is_named(right, wrong, dtype, tmp_path):
    model, _ = make(tmp_path / "model", right, dtype=dtype)
    result = tiny_models.diagnose(record(model, tail_of(wrong), tmp_path), tmp_path / "model")
    assert tiny_models.named(result) == {("pooled", "pool.mode")}
    cause = result["defects"][0]["cause"]
    assert (cause["expected"], cause["found"]) == (right, wrong) and cause["confidence"] >= 0.9


def test_a_mean_without_the_special_tokens(tmp_path):
    model, _ = make(tmp_path / "model")
    result = tiny_models.diagnose(record(model, lambda x: tail_of()(x[1:-1]), tmp_path), tmp_path / "model")
    assert tiny_models.named(result) == {("pooled", "pool.mode")}
    assert result["defects"][0]["cause"]["found"] == "mean without the first and the last token"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("normalise", [True, False])
def test_normalisation_is_named(normalise, dtype, tmp_path):
    model, _ = make(tmp_path / "model", normalise=normalise, dtype=dtype)
    result = tiny_models.diagnose(record(model, tail_of(normalise=not normalise), tmp_path), tmp_path / "model")
    assert tiny_models.named(result) == {("pooled", "pool.normalise")}


@pytest.mark.parametrize("dense", [64, 48])
def test_a_missing_projection_is_named(dense, tmp_path):
    model, _ = make(tmp_path / "model", dense=dense)
    result = tiny_models.diagnose(record(model, tail_of(), tmp_path), tmp_path / "model")
    assert tiny_models.named(result) == {("pooled", "pool.projection")}


def test_a_missing_activation_of_the_projection_is_named(tmp_path):
    model, layer = make(tmp_path / "model", dense=48)
    trace = record(model, tail_of(layer=layer, activation=lambda y: y), tmp_path)
    assert tiny_models.named(tiny_models.diagnose(trace, tmp_path / "model")) == {("pooled", "pool.projection")}


def test_a_vector_of_no_known_width_is_unknown(tmp_path):
    model, _ = make(tmp_path / "model")
    result = tiny_models.diagnose(record(model, lambda x: pool(x, "mean")[:40], tmp_path), tmp_path / "model")
    assert tiny_models.named(result) == {("pooled", "unknown")}


@pytest.mark.parametrize("pooling", ["MEAN", "CLS", "LAST"])
def test_llamacpp_pools_as_its_file_says(pooling, tmp_path):
    model = tiny_models.build("bert")
    tiny_gguf.write(model, tmp_path / "m.gguf", "f32", gguf.PoolingType[pooling])
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=TOKENS)
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "m.gguf")
    assert result["defects"] == []
    assert "pooled" in {row["site"] for row in result["noise"]}


def test_llamacpp_with_another_pooling_than_the_file_it_came_from(tmp_path):
    model = tiny_models.build("bert")
    for name in ("MEAN", "CLS"):
        tiny_gguf.write(model, tmp_path / f"{name}.gguf", "f32", gguf.PoolingType[name])
    llamacpp.run(tmp_path / "CLS.gguf", tmp_path / "t", tokens=TOKENS)
    result = tiny_models.diagnose(tmp_path / "t", tmp_path / "MEAN.gguf")
    assert tiny_models.named(result) == {("pooled", "pool.mode")}
    assert result["defects"][0]["cause"]["found"] == "cls"


def test_llamacpp_against_a_folder_leaves_the_normalisation_to_its_caller(tmp_path):
    torch_model, _ = make(tmp_path / "model")
    torch_model.config.hidden_act = "gelu_pytorch_tanh"  # what llama.cpp computes
    torch_model.save_pretrained(tmp_path / "model")
    tiny_gguf.write(torch_model, tmp_path / "m.gguf", "f32", gguf.PoolingType.MEAN)
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=TOKENS)
    assert tiny_models.diagnose(tmp_path / "t", tmp_path / "model")["defects"] == []


@pytest.mark.parametrize("change, message", [
    (("1_Pooling", {"pooling_mode": "median"}), 'pooling_mode "median" is not supported'),
    (("1_Pooling", {}), "at least one way of pooling"),
    (("2_Dense", {"in_features": 63, "out_features": 48}), "the width before it"),
    (("2_Dense", {"in_features": 64, "out_features": 47}), "[48, 64]"),
    (("2_Dense", {"in_features": 64, "out_features": 48, "activation_function": "a.Odd"}), '"Odd" is not supported'),
])  # fmt: skip
def test_a_broken_or_unknown_tail_is_refused_by_name(change, message, tmp_path):
    make(tmp_path / "model", dense=48)
    (tmp_path / "model" / change[0] / "config.json").write_text(json.dumps(change[1]))
    done = tiny_models.paritrace("run", tmp_path / "model", "--tokens", "1,2", "-o", tmp_path / "t")
    assert done.returncode == 2 and message in done.stderr


def test_an_unknown_module_is_refused_by_name(tmp_path):
    make(tmp_path / "model")
    entries = json.loads((tmp_path / "model" / "modules.json").read_text())
    entries[1]["type"] = TYPE + "LSTM"
    (tmp_path / "model" / "modules.json").write_text(json.dumps(entries))
    done = tiny_models.paritrace("run", tmp_path / "model", "--tokens", "1,2", "-o", tmp_path / "t")
    assert done.returncode == 2 and '"LSTM" is not supported' in done.stderr


def test_our_own_run_records_the_pooled_row(tmp_path):
    make(tmp_path / "model", dense=48)
    done = tiny_models.paritrace("run", tmp_path / "model", "--tokens", "5,6,7", "-o", tmp_path / "t")
    assert done.returncode == 0, done.stderr
    pooled = next(entry.numpy() for entry in paritrace.open_trace(tmp_path / "t").entries if entry.site == "pooled")
    assert pooled.shape == (1, 48) and abs((pooled**2).sum() - 1) < 1e-12
