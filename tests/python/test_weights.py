"""`paritrace weights`: right conversions pass with the error that their types predict, each mistake of a conversion is found at
its tensor and named, and what looks suspicious but is right is cleared.

GGUF files are written by gguf-py and quantised by llama.cpp; safetensors by the safetensors package.
"""

import ctypes
import json
import shutil
import subprocess

import gguf
import llama_cpp
import numpy as np
import pytest
import torch
import transformers
from paritrace.__main__ import program
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch
from tiny_models import build

F32 = gguf.GGMLQuantizationType.F32


def weights(*arguments):
    # The program itself: Python's start would be most of the time.
    command = [program(), "weights", *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1, 3), done.stderr
    result = json.loads(done.stdout)
    assert result["schema"] == "paritrace/weights/1"
    codes = {"identical": 0, "within_noise": 0, "diverged": 1, "incomparable": 3}
    assert done.returncode == codes[result["verdict"]]
    return result


def named(result):
    return {(tensor["weight"], tensor["cause"]["id"]) for tensor in result["tensors"] if tensor["cause"]}


def tensor_of(result, key):
    return next(tensor for tensor in result["tensors"] if tensor["weight"] == key)


def read_gguf(path):
    """{name: float32 array}, in the file's order."""
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in gguf.GGUFReader(path).tensors
    }


def rewrite_gguf(source, path, edit, drop=()):
    """A copy of a GGUF: edit({name: float32 array}) changes it in place, each tensor keeps its type."""
    reader = gguf.GGUFReader(source)
    arrays = read_gguf(source)
    edit(arrays)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    for tensor in reader.tensors:
        if tensor.name in drop:
            continue
        array = np.ascontiguousarray(arrays[tensor.name], np.float32)
        kind = tensor.tensor_type if array.ndim > 1 else F32
        writer.add_tensor(tensor.name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "type_name, verdict",
    [("f32", "identical"), ("f16", "within_noise"), ("q8_0", "within_noise"), ("q4_0", "within_noise")],
)
def test_a_right_conversion_passes(model_folder, gguf, type_name, verdict):
    for pair in ((model_folder, gguf(type_name)), (gguf(type_name), model_folder)):
        result = weights(*pair)
        assert result["verdict"] == verdict and not named(result)
        if type_name[0] == "q":
            ratios = [t["rms_error"] / t["expected_rms_error"] for t in result["tensors"] if t["status"] != "identical"]
            assert len(ratios) > 30 and min(ratios) > 0.85 and max(ratios) < 1.15
        said = {entry["what"]: entry["evidence"] for entry in result["cleared"]}
        assert "11 norms" in said["norm weights"] and "10 tensors" in said["rows of q and k"]


def other_layer(arrays):
    arrays["blk.1.attn_v.weight"] = arrays["blk.3.attn_v.weight"].copy()


def swapped(arrays):
    a, b = "blk.2.ffn_gate.weight", "blk.2.ffn_up.weight"
    arrays[a], arrays[b] = arrays[b], arrays[a]


def scaled(arrays):
    arrays["blk.0.attn_output.weight"] = arrays["blk.0.attn_output.weight"] * 1.25


def norms_scaled(arrays):
    for name in arrays:
        if name.endswith("_norm.weight"):
            arrays[name] = arrays[name] / np.float32(np.sqrt(arrays[name].size))


def plus_one(arrays):
    arrays["blk.1.ffn_norm.weight"] = arrays["blk.1.ffn_norm.weight"] + 1


def wrong_norm(arrays):
    arrays["blk.1.ffn_norm.weight"] = arrays["blk.1.attn_norm.weight"].copy()


def transposed(arrays):
    arrays["blk.0.attn_output.weight"] = arrays["blk.0.attn_output.weight"].T.copy()


def shifted_rows(arrays):
    arrays["token_embd.weight"] = np.roll(arrays["token_embd.weight"], 1, axis=0)


def head_order(arrays):
    value = arrays["blk.0.attn_v.weight"]
    arrays["blk.0.attn_v.weight"] = value.reshape(-1, 16, value.shape[1])[::-1].reshape(value.shape)


def mixed_rows(arrays):
    order = np.random.default_rng(3).permutation(arrays["blk.4.ffn_up.weight"].shape[0])
    arrays["blk.4.ffn_up.weight"] = arrays["blk.4.ffn_up.weight"][order]


def unpermuted(arrays):
    name = "blk.3.attn_q.weight"
    rows, columns = arrays[name].shape
    heads = rows // 16
    arrays[name] = arrays[name].reshape(heads, 8, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def random_weight(arrays):
    shape = arrays["blk.2.ffn_down.weight"].shape
    arrays["blk.2.ffn_down.weight"] = np.random.default_rng(5).normal(0, 0.02, shape).astype(np.float32)


def zeros(arrays):
    arrays["blk.2.ffn_down.weight"][:] = 0


def torn(arrays):
    arrays["blk.4.ffn_down.weight"][3, :32] = arrays["blk.4.ffn_down.weight"][9, :32] * -3


def not_a_number(arrays):
    arrays["blk.0.attn_norm.weight"][5] = np.nan


ATTN_NORMS = {f"layers.{layer}.{role}" for layer in range(5) for role in ("attn.norm", "mlp.norm")} | {"final_norm"}
MISTAKES = [
    (other_layer, {("layers.1.attn.v", "linear.wrong_layer")}),
    (swapped, {("layers.2.mlp.gate", "mlp.gate_up_swapped"), ("layers.2.mlp.up", "mlp.gate_up_swapped")}),
    (scaled, {("layers.0.attn.out", "linear.weight_scale")}),
    (norms_scaled, {(norm, "norm.weight_scale") for norm in ATTN_NORMS}),
    (plus_one, {("layers.1.mlp.norm", "norm.weight_plus_one")}),
    (wrong_norm, {("layers.1.mlp.norm", "norm.wrong_weight")}),
    (transposed, {("layers.0.attn.out", "linear.transposed")}),
    (shifted_rows, {("embed", "embed.row_offset")}),
    (head_order, {("layers.0.attn.v", "linear.permuted")}),
    (mixed_rows, {("layers.4.mlp.up", "linear.permuted")}),
    (unpermuted, {("layers.3.attn.q", "linear.permuted")}),
    (random_weight, {("layers.2.mlp.out", "weights.unloaded")}),
    (zeros, {("layers.2.mlp.out", "weights.unloaded")}),
    (torn, {("layers.4.mlp.out", "unknown")}),
    (not_a_number, {("layers.0.attn.norm", "unknown")}),
]


@pytest.mark.parametrize("type_name", ["f32", "q4_0"])
@pytest.mark.parametrize("edit, expected", MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_mistake_is_found_at_its_tensor_and_named(model_folder, gguf, tmp_path, type_name, edit, expected):
    wrong = rewrite_gguf(gguf(type_name), tmp_path / "wrong.gguf", edit)
    result = weights(model_folder, wrong)
    assert named(result) == expected
    # Against the right GGUF as well, where both sides are rounded.
    assert named(weights(gguf(type_name), wrong)) == expected


def test_what_was_found_is_said(model_folder, gguf, tmp_path):
    result = weights(model_folder, rewrite_gguf(gguf("f32"), tmp_path / "a.gguf", norms_scaled))
    tensor = tensor_of(result, "layers.2.attn.norm")
    assert tensor["relation"]["name"] == "1/sqrt(128)" and tensor["cause"]["found"] == pytest.approx(128**-0.5)
    result = weights(model_folder, rewrite_gguf(gguf("q8_0"), tmp_path / "b.gguf", other_layer))
    assert tensor_of(result, "layers.1.attn.v")["cause"]["found"] == 3
    result = weights(model_folder, rewrite_gguf(gguf("q8_0"), tmp_path / "c.gguf", shifted_rows))
    assert tensor_of(result, "embed")["cause"]["found"] == 1


def test_the_converter_that_forgot_the_permutation(model_folder, tmp_path, write_gguf):
    write_gguf(model_folder, tmp_path / "wrong.gguf", "q8_0", permute=False)
    result = weights(model_folder, tmp_path / "wrong.gguf")
    assert named(result) == {(f"layers.{i}.attn.{which}", "linear.permuted") for i in range(5) for which in "qk"}


def test_a_missing_weight(model_folder, gguf, tmp_path):
    wrong = rewrite_gguf(gguf("f32"), tmp_path / "wrong.gguf", lambda arrays: None, drop=("blk.2.ffn_norm.weight",))
    assert named(weights(model_folder, wrong)) == {("layers.2.mlp.norm", "weights.unloaded")}


def test_small_norms_that_are_the_published_ones_are_cleared(model_folder, gguf, tmp_path, write_gguf):
    """A reported false lead: rms 0.046 taken for "20 times too small"."""
    folder = tmp_path / "small"
    shutil.copytree(model_folder, folder)
    arrays = load_file_f32(folder / "model.safetensors")
    for name in arrays:
        if "norm" in name:
            arrays[name] = arrays[name] * np.float32(0.046 / np.sqrt(np.mean(arrays[name] ** 2)))
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    write_gguf(folder, tmp_path / "small.gguf", "q8_0")
    result = weights(folder, tmp_path / "small.gguf")
    assert result["verdict"] == "within_noise"
    said = {entry["what"]: entry["evidence"] for entry in result["cleared"]}["norm weights"]
    assert said.startswith("rms 0.046 to 0.046 in 11 norms, which is what the reference has")


def load_file_f32(path):
    return {name: value.float().numpy() for name, value in load_file(path).items()}


def quantise(source, target, type_name):
    """llama.cpp's own quantiser."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{type_name}")
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A random Llama whose rows are whole K-quant blocks, as a folder."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    torch.manual_seed(2)
    config = transformers.LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=320, max_position_embeddings=128,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # heavier tails than a normal distribution, as trained weights have
                parameter.copy_(torch.randn_like(parameter) * torch.randn_like(parameter).abs().sqrt() * 0.05)
            else:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "type_name", ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "TQ1_0", "TQ2_0"]
)
def test_llamacpps_quantisers(wide, tmp_path, write_gguf, type_name):
    """Right files of every quantiser pass; the same file with one matrix of another layer does not."""
    write_gguf(wide, tmp_path / "f32.gguf", "f32", dummy_vocab=True)
    quantised = tmp_path / "quantised.gguf"
    quantise(tmp_path / "f32.gguf", quantised, type_name)
    result = weights(wide, quantised)
    assert result["verdict"] == "within_noise" and not named(result)
    if type_name[0] == "Q":
        ratios = [t["rms_error"] / t["expected_rms_error"] for t in result["tensors"] if t["status"] == "within_noise"]
        assert 0.7 < min(ratios) and max(ratios) < 1.4
    rewrite_gguf(
        tmp_path / "f32.gguf",
        tmp_path / "wrong.gguf",
        lambda a: a.update({"blk.1.ffn_up.weight": a["blk.0.ffn_up.weight"]}),
    )
    quantise(tmp_path / "wrong.gguf", quantised, type_name)
    assert named(weights(wide, quantised)) == {("layers.1.mlp.up", "linear.wrong_layer")}


@pytest.mark.parametrize("name", ["gemma2", "mixtral", "qwen2_moe", "bert"])
def test_other_architectures(tmp_path, name):
    import tiny_gguf

    model = build(name)
    model.save_pretrained(tmp_path / "hf")
    tiny_gguf.write(model, tmp_path / "tiny.gguf", "q8_0")
    result = weights(tmp_path / "hf", tmp_path / "tiny.gguf")
    assert result["verdict"] == "within_noise" and not named(result), named(result)
    compared = [tensor for tensor in result["tensors"] if tensor["status"] in ("identical", "within_noise")]
    assert len(compared) >= len(model.state_dict()) - 3


def test_gemmas_norms_without_the_one(tmp_path):
    import tiny_gguf

    model = build("gemma2")
    model.save_pretrained(tmp_path / "hf")
    tiny_gguf.write(model, tmp_path / "right.gguf", "f32")
    arrays = read_gguf(tmp_path / "right.gguf")
    result = weights(tmp_path / "hf", tmp_path / "right.gguf")
    assert not named(result) and "norms plus one" in {entry["what"] for entry in result["cleared"]}
    with torch.no_grad():  # the converter that forgot it: the same file from a model whose norms are one less
        for path, parameter in model.named_parameters():
            if path.endswith("norm.weight"):
                parameter.sub_(1)
    tiny_gguf.write(model, tmp_path / "wrong.gguf", "f32")
    norms = [name for name in arrays if "norm" in name]
    result = weights(tmp_path / "hf", tmp_path / "wrong.gguf")
    assert len(named(result)) == len(norms) and {cause for _, cause in named(result)} == {"norm.weight_plus_one"}


@pytest.mark.parametrize("size", [1e-9, 3e-7, 4e-6])
@pytest.mark.parametrize("type_name", ["q8_0", "q4_0", "Q4_K_M", "Q6_K", "Q3_K_M"])
def test_rows_of_unused_tokens_are_no_finding(wide, tmp_path, write_gguf, type_name, size):
    """A reported false lead: block scales of 2^-23, "10,000 times too small". They are those of tokens never seen in training."""
    folder = tmp_path / "model"
    shutil.copytree(wide, folder)
    arrays = load_file_f32(folder / "model.safetensors")
    arrays["model.embed_tokens.weight"][200:] *= np.float32(size / 0.05)
    save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    path = tmp_path / "model.gguf"
    if type_name[0] == "q":
        write_gguf(folder, path, type_name, dummy_vocab=True)
    else:
        write_gguf(folder, tmp_path / "f32.gguf", "f32", dummy_vocab=True)
        quantise(tmp_path / "f32.gguf", path, type_name)
    result = weights(folder, path)
    assert result["verdict"] == "within_noise" and not named(result)


@pytest.mark.parametrize("cut", [False, True])
def test_bf16_that_was_cut_off_in_place_of_rounded(wide, tmp_path, cut):
    folder = tmp_path / "bf16"
    shutil.copytree(wide, folder)
    tensors = load_file(folder / "model.safetensors")
    bits = {name: value.view(torch.int32) >> 16 for name, value in tensors.items()}
    truncated = {name: value.to(torch.int16).view(torch.bfloat16) for name, value in bits.items()}
    rounded = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
    save_torch(truncated if cut else rounded, folder / "model.safetensors", {"format": "pt"})
    result = weights(wide, folder)
    assert result["verdict"] == ("diverged" if cut else "within_noise")
    assert {cause for _, cause in named(result)} == ({"precision"} if cut else set())


def test_an_architecture_whose_row_order_nobody_told_us(model_folder, gguf, tmp_path):
    """Llama's relatives are permuted under names of their own: neither order is called a mistake there."""
    raw = gguf("q8_0").read_bytes()
    other = tmp_path / "other.gguf"
    # The architecture's name, and the keys that begin with it, in a file of the same length.
    other.write_bytes(raw.replace(b"llama", b"olmos"))
    result = weights(model_folder, other)
    assert result["verdict"] == "within_noise" and not named(result)
    assert sum(bool(tensor.get("reordered")) for tensor in result["tensors"]) == 10


def test_bitnets_packed_codes(tmp_path):
    """HF keeps four codes in a byte and a scale beside them; a GGUF the values."""
    rng = np.random.default_rng(4)
    codes = rng.integers(-1, 2, (64, 256))
    packed = sum(((codes[i * 16 : (i + 1) * 16] + 1) << (2 * i) for i in range(4)), np.zeros((16, 256), np.int64))
    folder = tmp_path / "hf"
    folder.mkdir()
    name = "model.layers.0.self_attn.v_proj.weight"
    tensors = {name: packed.astype(np.uint8), f"{name}_scale": np.array([8.0], np.float32)}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "bitnet", "quantization_config": {"quant_method": "bitnet", "linear_class": "bitlinear"}}
    (folder / "config.json").write_text(json.dumps(config))
    for factor, expected in ((1, set()), (2, {("layers.0.attn.v", "linear.weight_scale")})):
        path = tmp_path / f"{factor}.gguf"
        writer = gguf.GGUFWriter(path, "bitnet")
        values = (codes / 8 * factor).astype(np.float32)
        kind = gguf.GGMLQuantizationType.TQ2_0
        writer.add_tensor("blk.0.attn_v.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        assert named(weights(folder, path)) == expected


def test_weights_that_an_engine_recorded(model_folder, tmp_path):
    import paritrace

    arrays = load_file_f32(model_folder / "model.safetensors")
    for wrong in (False, True):
        path = tmp_path / f"trace-{wrong}"
        writer = paritrace.TraceWriter(str(path), json.dumps({"engine": {"name": "own", "version": "1"}}))
        for name, value in arrays.items():
            sign = np.float32(-1 if wrong and name == "model.layers.2.mlp.down_proj.weight" else 1)
            writer.record(0, name, "", value * sign)
        writer.close()
        result = weights(model_folder, path)
        expected = {("layers.2.mlp.out", "linear.weight_scale")} if wrong else set()
        assert named(result) == expected
        assert result["verdict"] == ("diverged" if wrong else "identical")


def test_nothing_in_common(model_folder, tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    result = weights(model_folder, tmp_path / "a.safetensors")
    assert result["verdict"] == "incomparable" and "no weight in common" in result["reason"]


def test_bad_input_is_one_line(paritrace_cli, model_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "empty"):
        done = paritrace_cli("weights", model_folder, path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_the_result_does_not_depend_on_threads(model_folder, gguf, monkeypatch):
    results = []
    for threads in ("1", "5"):
        monkeypatch.setenv("PARITRACE_THREADS", threads)
        results.append(weights(model_folder, gguf("q4_0")))
    assert results[0] == results[1]


def test_a_safetensors_file_alone(model_folder, gguf):
    """Without a config the order of rows is not known: either is right."""
    result = weights(model_folder / "model.safetensors", gguf("q8_0"))
    assert result["verdict"] == "within_noise" and not named(result)
