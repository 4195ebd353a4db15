"""Quantised weights that an engine reads wrongly: GGUF files edited in one tensor and run by llama.cpp, and Hugging Face's modules
with weights that were decoded wrongly from the right file. MODEL is the right file; each mistake is named where it was made."""

import gguf
import numpy as np
import paritrace
import pytest
import tiny_gguf
import tiny_models
import torch
import transformers
from paritrace import llamacpp

TOKENS = tiny_models.prompt(24)
SIZES = dict(tiny_models.DECODER, max_position_embeddings=128, tie_word_embeddings=False)
TENSOR, SITE = "blk.1.ffn_up.weight", "layers.1.mlp.up"
MODULES = {
    "blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj",
}


def build():
    torch.manual_seed(3)
    model = transformers.Qwen2ForCausalLM._from_config(transformers.Qwen2Config(**SIZES), attn_implementation="eager")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if parameter.dim() > 1:
                # Blocks of unlike size, as trained weights have them.
                sizes = torch.exp(0.5 * torch.randn(parameter.shape[0], parameter.shape[1] // 32)).repeat_interleave(
                    32, 1
                )
                scale = 0.7 if "embed" in path else 1.3 / parameter.shape[-1] ** 0.5
                parameter.copy_(values * sizes * scale)
            else:
                parameter.copy_((1.0 if "norm" in path else 0.0) + 0.3 * values)
    return model.eval()


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """Function: type name -> the model as a GGUF of that type."""
    folder, model = tmp_path_factory.mktemp("gguf"), build()

    def file(kind):
        if not (folder / f"{kind}.gguf").exists():
            tiny_gguf.write(model, folder / f"{kind}.gguf", kind)
        return folder / f"{kind}.gguf"

    return file


def blocks_of(data, kind):
    """The bytes of a tensor, [blocks, bytes a block]; a view."""
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]][1]
    return data.reshape(-1, size)


def halves(blocks, start):
    """The f16 at byte `start` of each block; a copy."""
    return blocks[:, start : start + 2].copy().view(np.float16)


# ---- edits of blocks: each takes the bytes and gives others, in place ----


def swap_nibbles(blocks):
    blocks[:, 2:] = blocks[:, 2:] << 4 | blocks[:, 2:] >> 4


def pair_nibbles(blocks):
    """What an engine has that takes the two nibbles of a byte for neighbours."""
    codes = blocks[:, 2:].copy()
    row = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), 32)
    blocks[:, 2:] = row[:, :16] | row[:, 16:] << 4


def next_scale(blocks):
    blocks[:-1, :2] = blocks[1:, :2].copy()


def previous_scale(blocks):
    blocks[1:, :2] = blocks[:-1, :2].copy()


def one_scale_for_two(blocks):
    blocks[1::2, :2] = blocks[::2, :2]


def exchanged_scale_bytes_of_one(blocks):
    """A factor on a single block."""
    blocks[7, :2] = (halves(blocks, 0)[7] * np.float16(2.5)).view(np.uint8)


def every_fifth_scale_doubled(blocks):
    """More rows than are looked at one by one for other mistakes."""
    blocks[::5, :2] = (halves(blocks, 0)[::5] * np.float16(2)).view(np.uint8).reshape(-1, 2)


def one_more_in_every_code(blocks):
    """An error of some times the rounding of the activations, below what is flagged by its size."""
    codes = blocks[:, 2:].view(np.int8)
    codes[:] = np.minimum(codes.astype(np.int16) + 1, 127)


def minimum_missing(blocks):
    blocks[:, 2:4] = 0


def minimum_negated(blocks):
    blocks[:, 3] ^= 0x80


EDITS = [
    ("q4_0", swap_nibbles, "quant.nibble_order", "high nibbles first"),
    ("q4_0", pair_nibbles, "quant.nibble_order", "neighbours, low first"),
    ("q4_0", next_scale, "quant.block_scale", "the next block's"),
    ("q8_0", next_scale, "quant.block_scale", "the next block's"),
    ("q8_0", previous_scale, "quant.block_scale", "the previous block's"),
    ("q4_0", one_scale_for_two, "quant.block_scale", "one for two blocks"),
    ("q8_0", exchanged_scale_bytes_of_one, "quant.block_scale", None),
    ("q8_0", every_fifth_scale_doubled, "quant.block_scale", None),
    ("q8_0", one_more_in_every_code, "quant.zero_point", "-1"),
    ("q4_1", minimum_missing, "quant.zero_point", "no minimum"),
    ("q4_1", minimum_negated, "quant.zero_point", "the minimum with the other sign"),
]


@pytest.mark.parametrize("kind, edit, cause, found", EDITS, ids=[f"{row[0]}-{row[1].__name__}" for row in EDITS])
def test_an_edited_file_run_by_llamacpp(kind, edit, cause, found, file_of, tmp_path):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(file_of(kind).read_bytes())
    reader = gguf.GGUFReader(wrong, "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == TENSOR)
    edit(blocks_of(tensor.data, kind))
    reader.data.flush()
    llamacpp.run(wrong, tmp_path / "t", tokens=TOKENS, flash_attention="off", decode=1)
    result = tiny_models.diagnose(tmp_path / "t", file_of(kind))
    assert tiny_models.named(result) == {(SITE, cause)}
    assert found is None or result["defects"][0]["cause"]["found"] == found


@pytest.fixture(scope="module")
def k_quants(tmp_path_factory):
    """A file of K-quants, as llama.cpp's own quantiser writes it; rows must be whole blocks of 256."""
    folder = tmp_path_factory.mktemp("k")
    torch.manual_seed(4)
    config = transformers.Qwen2Config(**SIZES | dict(hidden_size=256, intermediate_size=512))
    model = transformers.Qwen2ForCausalLM._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(
                    torch.randn_like(parameter) * (0.7 if "embed" in path else 1.3 / parameter.shape[-1] ** 0.5)
                )
    tiny_gguf.write(model.eval(), folder / "f32.gguf", "f32")
    tiny_gguf.quantize(folder / "f32.gguf", folder / "k.gguf", "q4_K")
    return folder / "k.gguf"


def k_swap_nibbles(blocks):
    blocks[:, 16:] = blocks[:, 16:] << 4 | blocks[:, 16:] >> 4


def k_minimum_missing(blocks):
    blocks[:, 2:4] = 0


def k_next_scale(blocks):
    blocks[:-1, :4] = blocks[1:, :4].copy()


K_EDITS = [
    (k_swap_nibbles, "quant.nibble_order"),
    (k_minimum_missing, "quant.zero_point"),
    (k_next_scale, "quant.block_scale"),
    (lambda blocks: None, None),
]


@pytest.mark.parametrize("edit, cause", K_EDITS, ids=["swap_nibbles", "minimum_missing", "next_scale", "clean"])
def test_k_quants_edited_and_run_by_llamacpp(edit, cause, k_quants, tmp_path):
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(k_quants.read_bytes())
    reader = gguf.GGUFReader(wrong, "r+")
    tensor = next(tensor for tensor in reader.tensors if tensor.name == TENSOR)
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q4_K
    edit(blocks_of(tensor.data, "q4_k"))
    reader.data.flush()
    llamacpp.run(wrong, tmp_path / "t", tokens=TOKENS, flash_attention="off")
    result = tiny_models.diagnose(tmp_path / "t", k_quants)
    assert tiny_models.named(result) == ({(SITE, cause)} if cause else set())


def weights_of(path):
    """{name: decoded values} of a GGUF, right."""
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def load_into(model, values):
    """Gives a transformers model the weights of a GGUF."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, model.config.num_hidden_layers)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            name = names.get_name(path, try_suffixes=(".weight", ".bias"))
            parameter.copy_(torch.from_numpy(np.array(values[name])).reshape(parameter.shape))


# ---- wrong ways to decode: each takes the blocks of a tensor and gives [blocks, values] ----


def q4_0(blocks, zero=8, scale=None):
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(np.float32)
    return (codes - zero) * (halves(blocks, 0).astype(np.float32) if scale is None else scale)


def bf16(blocks):
    return (blocks[:, :2].copy().view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def q4_0_zero_7(blocks):
    return q4_0(blocks, zero=7)


def q4_0_zero_0(blocks):
    return q4_0(blocks, zero=0)


def q4_0_scale_as_bf16(blocks):
    return q4_0(blocks, scale=bf16(blocks))


def q4_0_without_scale(blocks):
    return q4_0(blocks, scale=np.float32(1))


def q4_0_scales_transposed(blocks):
    """The grid of scales [rows, blocks a row] read as [blocks a row, rows]."""
    rows = SIZES["intermediate_size"]
    scale = halves(blocks, 0).astype(np.float32).reshape(-1, rows).T.reshape(-1, 1)
    return q4_0(blocks, scale=scale)


def q8_0_unsigned(blocks):
    return blocks[:, 2:].astype(np.float32) * halves(blocks, 0).astype(np.float32)


def f16_as_bf16(blocks):
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def bf16_as_f16(blocks):
    return blocks.view(np.float16).astype(np.float32)


DECODINGS = [
    ("q4_0", q4_0_zero_7, "quant.zero_point", "7"),
    ("q4_0", q4_0_zero_0, "quant.zero_point", "0"),
    ("q4_0", q4_0_scale_as_bf16, "quant.block_scale", "taken for bf16"),
    ("q4_0", q4_0_without_scale, "quant.scale_lost", "none"),
    ("q4_0", q4_0_scales_transposed, "quant.block_scale", "transposed"),
    ("q8_0", q8_0_unsigned, "kernel.dtype", "u8"),
    ("f16", f16_as_bf16, "kernel.dtype", "bf16"),
    ("bf16", bf16_as_f16, "kernel.dtype", "f16"),
]


def record(model, trace):
    with torch.no_grad(), paritrace.capture(model, trace):
        model(input_ids=torch.tensor([TOKENS]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("kind, decode, cause, found", DECODINGS, ids=[row[1].__name__ for row in DECODINGS])
def test_a_weight_decoded_wrongly_in_hf(kind, decode, cause, found, dtype, file_of, tmp_path):
    values = weights_of(file_of(kind))
    tensor = next(tensor for tensor in gguf.GGUFReader(file_of(kind)).tensors if tensor.name == TENSOR)
    raw = np.ascontiguousarray(tensor.data).view(np.uint8)
    values[TENSOR] = decode(blocks_of(raw, kind) if kind[0] == "q" else raw)
    assert np.isfinite(values[TENSOR]).all()
    model = build()
    load_into(model, values)
    record(tiny_models.in_dtype(model, dtype), tmp_path / "t")
    result = tiny_models.diagnose(tmp_path / "t", file_of(kind))
    assert tiny_models.named(result) == {(SITE, cause)}
    assert result["defects"][0]["cause"]["found"] == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q8_0", "f16", "bf16"])
def test_weights_decoded_rightly_raise_no_alarm(kind, dtype, file_of, tmp_path):
    model = build()
    load_into(model, weights_of(file_of(kind)))
    record(tiny_models.in_dtype(model, dtype), tmp_path / "t")
    assert tiny_models.diagnose(tmp_path / "t", file_of(kind))["defects"] == []


@pytest.mark.parametrize("kind", ["q4_0", "q4_1", "q5_0", "q8_0", "f16", "bf16"])
def test_the_right_file_in_llamacpp_raises_no_alarm(kind, file_of, tmp_path):
    llamacpp.run(file_of(kind), tmp_path / "t", tokens=TOKENS, flash_attention="off", decode=1)
    assert tiny_models.diagnose(tmp_path / "t", file_of(kind))["defects"] == []


# ---- what goes into a product, and the cache ----


def quantised(x, scale):
    return (x / scale).round().clamp(-127, 127) * scale


def by_token(x):
    return quantised(x, x.abs().amax(-1, keepdim=True) / 127)


def by_tensor(x):
    return quantised(x, x.abs().amax() / 127)


def e4m3_by_token(x):
    scale = x.abs().amax(-1, keepdim=True) / 448
    return (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale


ROUNDINGS = [
    (by_token, "int8, one scale a token"),
    (by_tensor, "int8, one scale for all tokens"),
    (e4m3_by_token, "f8 e4m3, one scale a token"),
]


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    build().save_pretrained(folder)
    return folder


def load(folder, dtype=torch.float32):
    return transformers.Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


@pytest.mark.parametrize("round_, found", ROUNDINGS, ids=[row[0].__name__ for row in ROUNDINGS])
def test_activations_rounded_where_the_model_rounds_none(round_, found, hf_folder, tmp_path, monkeypatch):
    model = load(hf_folder)
    projection = model.model.layers[0].mlp.down_proj
    right = projection.forward
    monkeypatch.setattr(projection, "forward", lambda x: right(round_(x)))
    record(model, tmp_path / "t")
    result = tiny_models.diagnose(tmp_path / "t", hf_folder)
    assert tiny_models.named(result) == {("layers.0.mlp.out", "quant.activation")}
    assert result["defects"][0]["cause"]["found"] == found


def test_int8_codes_without_their_rows_scale(hf_folder, tmp_path):
    model = load(hf_folder)
    weight = model.model.layers[1].self_attn.o_proj.weight.data
    weight.copy_((weight / (weight.abs().amax(-1, keepdim=True) / 127)).round())
    record(model, tmp_path / "t")
    result = tiny_models.diagnose(tmp_path / "t", hf_folder)
    assert tiny_models.named(result) == {("layers.1.attn.out", "quant.scale_lost")}


@pytest.mark.parametrize("which", ["keys", "values"])
def test_a_cache_read_without_its_scale(which, hf_folder, tmp_path):
    """Prefill is right; in each decode step what comes from the cache is twelve times too small."""
    model = load(hf_folder)
    with torch.no_grad(), paritrace.capture(model, tmp_path / "t"):
        output = model(input_ids=torch.tensor([TOKENS]), use_cache=True)
        cache = output.past_key_values.layers[1]
        name = "keys" if which == "keys" else "values"
        setattr(cache, name, getattr(cache, name) / 12)
        token = output.logits[:, -1:].argmax(-1)
        model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
    result = tiny_models.diagnose(tmp_path / "t", hf_folder)
    site = "layers.1.attn.scores" if which == "keys" else "layers.1.attn.ctx"
    assert tiny_models.named(result) == {(site, "quant.kv_scale")}
    assert result["defects"][0]["cause"]["found"] == pytest.approx(1 / 12, rel=1e-4)
