"""Capture of llama.cpp: every node of the graph, mapped to the same sites and the same values as Hugging Face's.

llama-cpp-python must be there: an engine that cannot be imported is a failure, not a skipped test.
"""

import llama_cpp
import numpy as np
import paritrace
import pytest
import tiny_gguf
import torch
import transformers
from paritrace import hf, llamacpp

LAYER_SITES = (
    "attn.norm", "attn.q", "attn.q_rope", "attn.v", "attn.k", "attn.k_rope", "attn.probs", "attn.ctx", "attn.out",
    "attn.residual", "mlp.norm", "mlp.gate", "mlp.up", "mlp.act", "mlp.out", "out",
)  # fmt: skip


def llama_sites(layers, flash_attention=False):
    sites = [site for site in LAYER_SITES if not (flash_attention and site == "attn.probs")]
    return ["embed", *(f"layers.{layer}.{site}" for layer in range(layers) for site in sites), "final_norm", "logits"]


def sites_of(trace, step):
    return [entry.site for entry in trace.entries if entry.site and entry.step == step]


@pytest.fixture(scope="module")
def captured(gguf, tokens, tmp_path_factory):
    """Function: (type name, flash attention, kv type) -> trace of the committed model, two decode steps included."""
    folder, made = tmp_path_factory.mktemp("traces"), {}

    def trace(*variant):
        if variant not in made:
            name, flash, kv = variant
            path = folder / "-".join(variant)
            llamacpp.run(gguf(name), path, tokens=tokens, decode=2, flash_attention=flash, kv_type=kv)
            made[variant] = paritrace.open_trace(path)
        return made[variant]

    return trace


@pytest.mark.parametrize("flash", ["off", "on"])
def test_every_site_once_and_in_order(captured, flash):
    trace = captured("f32", flash, "f16")
    for step in range(3):
        assert sites_of(trace, step) == llama_sites(5, flash == "on")
    assert trace.header["run"]["flash_attention"] == (flash == "on")


def test_layouts(captured, tokens):
    trace, count = captured("f32", "off", "f32"), len(tokens)
    for step, rows in enumerate((count, 1, 1)):
        shapes = {entry.site: tuple(entry.shape) for entry in trace.entries if entry.step == step}
        assert shapes["layers.1.attn.q"] == shapes["layers.1.attn.q_rope"] == shapes["layers.1.attn.ctx"] == (rows, 128)
        assert shapes["layers.1.attn.k"] == shapes["layers.1.attn.k_rope"] == shapes["layers.1.attn.v"] == (rows, 64)
        assert shapes["layers.1.attn.probs"] == (8, rows, count + step)  # the cache's padding is cut off
        assert shapes["layers.1.mlp.act"] == (rows, 288)
        assert shapes["logits"] == (rows, 1536)
    probs = trace.values("layers.1.attn.probs")
    assert np.allclose(probs.sum(-1), 1, atol=count * 2**-24)
    assert not np.triu(probs, 1).any()


def test_header(captured, gguf, tokens):
    header = captured("q8_0", "off", "f16").header
    assert header["engine"] == {"name": "llamacpp", "version": llama_cpp.__version__}
    assert header["model"] == {"name": "q8_0", "architecture": "llama", "file": str(gguf("q8_0"))}
    run = header["run"]
    assert run["arithmetic"] == "ggml-cpu"
    assert run["kv_type"] == {"k": "f16", "v": "f16"}
    assert "q8_0" in run["weight_types"]
    assert captured("f32", "off", "f32").header["run"]["weight_types"] == ["f32"]
    assert run["tokens"][0][: len(tokens)] == tokens
    assert len(run["tokens"][0]) == len(tokens) + 2
    assert [(step["start"], step["count"]) for step in run["steps"]] == [(0, 12), (12, 1), (13, 1)]


def test_flash_attention_auto_says_what_ran(captured):
    trace = captured("f32", "auto", "f16")
    fused = any("FLASH_ATTN_EXT" in entry.name for entry in trace.entries)
    assert trace.header["run"]["flash_attention"] == fused
    assert sites_of(trace, 0) == llama_sites(5, fused)


def half_split(values, heads):
    """Rows of q or k from llama.cpp's interleaved order to Hugging Face's: [tokens, heads*head_dim]."""
    count, width = values.shape
    pairs = values.reshape(count, heads, width // heads // 2, 2)
    return pairs.swapaxes(2, 3).reshape(count, width)


def assert_same_model(reference, subject, heads, kv_heads, width, steps):
    """Every site of the subject against the reference, at f32 rounding.

    A sum of n products is rounded n times, each at most half an ulp of 2^-24; errors of the layers before add up, and
    attention sharpens them: the bound is width * 2^-24 a layer, on the root mean square.
    """
    for step in steps:
        for entry in subject.entries:
            if not entry.site or entry.step != step:
                continue
            values, expected = entry.numpy(), reference.values(entry.site, step)
            kind = entry.site.rsplit(".", 1)[-1]
            if kind in ("q", "q_rope"):
                values = half_split(values, heads)
            elif kind in ("k", "k_rope"):
                values = half_split(values, kv_heads)
            assert values.shape == expected.shape, entry.site
            depth = int(entry.site.split(".")[1]) + 1 if entry.site.startswith("layers.") else 5
            error = np.sqrt(np.mean((values - expected.astype(np.float64)) ** 2))
            bound = depth * width * 2**-24 * np.sqrt(np.mean(expected.astype(np.float64) ** 2))
            assert error <= bound, f"step {step}, {entry.site}: {error:.2e} > {bound:.2e}"


def test_agrees_with_hugging_face_at_every_site(captured, model_folder, tokens, tmp_path):
    subject = captured("f32", "off", "f32")
    hf.run(model_folder, tmp_path / "hf", tokens=tokens, dtype="f32", decode=2)
    reference = paritrace.open_trace(tmp_path / "hf")
    assert reference.header["run"]["tokens"] == subject.header["run"]["tokens"]
    assert_same_model(reference, subject, heads=8, kv_heads=4, width=288, steps=range(3))


def test_agrees_on_published_weights(tmp_path, tokens):
    from conftest import SHARED_MODELS

    folder = SHARED_MODELS / "stories260K-hf"
    if not folder.exists():
        pytest.skip("stories260K is not here")
    prompt = [1] + [token % 512 for token in tokens]
    hf.run(folder, tmp_path / "hf", tokens=prompt, dtype="f32")
    llamacpp.run(
        SHARED_MODELS / "stories260K-f32.gguf", tmp_path / "lc", tokens=prompt, flash_attention="off", kv_type="f32"
    )
    reference, subject = (paritrace.open_trace(tmp_path / name) for name in ("hf", "lc"))
    assert_same_model(reference, subject, heads=8, kv_heads=4, width=172, steps=[0])


@pytest.mark.parametrize("flash", ["off", "on"])
@pytest.mark.parametrize("name", ["f32", "f16", "q8_0"])
def test_logits_are_unchanged_to_the_bit(captured, gguf, tokens, name, flash):
    trace = captured(name, flash, "f16")
    fed = trace.header["run"]["tokens"][0]
    with llamacpp.Session(gguf(name), flash, "f16", len(fed)) as session:
        plain = [session.decode(tokens), session.decode(fed[12:13]), session.decode(fed[13:14])]
    for step in range(3):
        assert np.array_equal(trace.values("logits", step), plain[step])


def test_views_are_read_through_their_strides(captured, tokens):
    """kqv_out is a copy of the permuted kqv: heads must come out side by side."""
    trace = captured("f32", "off", "f32")
    kqv = next(entry for entry in trace.entries if entry.name == "kqv-2:MUL_MAT").numpy()  # [heads, tokens, head_dim]
    assert np.array_equal(trace.values("layers.2.attn.ctx"), kqv.transpose(1, 0, 2).reshape(len(tokens), -1))


def test_repeated_names_are_told_apart(captured):
    names = [entry.name for entry in captured("f32", "off", "f32").entries if entry.step == 0]
    assert len(names) == len(set(names))
    assert {"Qcur-0:MUL_MAT", "Qcur-0:ROPE", "norm-0:RMS_NORM", "norm-0:RMS_NORM#2"} <= set(names)


def test_raw_scores_have_no_site(captured):
    """kq is neither scaled nor masked, so it is no attn.scores."""
    trace = captured("f32", "off", "f32")
    assert {entry.site for entry in trace.entries if entry.name.startswith("kq-")} == {""}
    assert trace.find("layers.0.attn.scores") is None


def test_failing_writer_stops_llama_cpp_and_is_told(gguf, tokens, tmp_path, monkeypatch):
    real = llamacpp.Recording.record

    def full(self, name, *args):
        if name == "ffn_up-2:MUL_MAT":
            raise OSError(28, "No space left on device")
        return real(self, name, *args)

    monkeypatch.setattr(llamacpp.Recording, "record", full)
    with pytest.raises(OSError, match="No space left"):
        llamacpp.run(gguf("f32"), tmp_path / "t", tokens=tokens)
    trace = paritrace.open_trace(tmp_path / "t")
    assert not trace.complete
    assert sites_of(trace, 0)[-1] == "layers.2.mlp.gate"


def test_interrupt_leaves_an_open_trace(gguf, tokens, tmp_path, monkeypatch):
    def interrupted(self, address):
        raise KeyboardInterrupt

    monkeypatch.setattr(llamacpp.NodeTap, "_see", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llamacpp.run(gguf("f32"), tmp_path / "t", tokens=tokens)
    assert not paritrace.open_trace(tmp_path / "t").complete


def test_unknown_layout_is_refused(gguf, tokens, tmp_path, monkeypatch):
    """A ggml whose struct differs must not be believed."""
    import ctypes

    from paritrace import ggml

    class Shifted(ctypes.Structure):
        _fields_ = [("new_field", ctypes.c_int64), *ggml.Tensor._fields_]

    monkeypatch.setattr(ggml, "Tensor", Shifted)
    with pytest.raises(RuntimeError, match="another struct ggml_tensor"):
        llamacpp.run(gguf("f32"), tmp_path / "t", tokens=tokens)


def test_capture_of_a_llama_object(gguf, tokens, tmp_path):
    model = llama_cpp.Llama(str(gguf("f32")), n_ctx=64, logits_all=True, verbose=False)
    model.eval(tokens)
    before = model.scores[: len(tokens)].copy()
    context = model._ctx
    with paritrace.capture(model, tmp_path / "t"):
        model.eval(tokens)
        model.eval([5])
    assert model._ctx is context
    assert model.n_tokens == len(tokens)
    assert np.array_equal(model.scores[: len(tokens)], before)
    assert model.input_ids[: len(tokens)].tolist() == tokens
    trace = paritrace.open_trace(tmp_path / "t")
    assert trace.header["run"]["tokens"] == [[*tokens, 5]]
    assert np.array_equal(trace.values("logits"), before)
    assert trace.header["run"]["kv_type"] == {"k": "f16", "v": "f16"}
    assert trace.complete
    model.eval([7])  # goes on where it was
    assert model.n_tokens == len(tokens) + 1


def test_command(paritrace_cli, gguf, tmp_path):
    done = paritrace_cli(
        "capture",
        "llamacpp",
        gguf("f16"),
        "--tokens",
        "17,403,1407",
        "-o",
        "t",
        "--decode",
        "1",
        "--flash-attn",
        "off",
        "--kv-type",
        "f32",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("t: ")
    run = paritrace.open_trace(tmp_path / "t").header["run"]
    assert (run["flash_attention"], run["kv_type"], run["weight_types"]) == (
        False,
        {"k": "f32", "v": "f32"},
        ["f16", "f32"],
    )


def test_command_with_text(paritrace_cli, gguf, model_folder, tmp_path):
    done = paritrace_cli("capture", "llamacpp", gguf("f32"), "--text", "The value is", "-o", "t")
    assert done.returncode == 0, done.stderr
    run = paritrace.open_trace(tmp_path / "t").header["run"]
    assert run["text"] == ["The value is"]
    assert run["tokens"] == [transformers.AutoTokenizer.from_pretrained(model_folder)("The value is")["input_ids"]]


def broken(path, gguf, kind):
    whole = gguf("f32").read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2]}[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_broken_file_is_one_line_and_exit_2(paritrace_cli, gguf, tmp_path, kind):
    broken(tmp_path / "bad.gguf", gguf, kind)
    done = paritrace_cli("capture", "llamacpp", "bad.gguf", "--tokens", "1", "-o", "t")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("paritrace: bad.gguf: model file: expected a GGUF that llama.cpp loads, found ")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.gguf", "--tokens", "1"], "absent.gguf: model file: expected a GGUF, found no such file"),
        ([".", "--tokens", "1"], ".: model file: expected a GGUF, found a folder"),
        (["MODEL", "--tokens", "1,5000"], "--tokens: expected ids from 0 to 1535, found 5000"),
        (["MODEL", "--tokens", "-3"], "--tokens: expected ids from 0 to 1535, found -3"),
    ],
)
def test_bad_command(paritrace_cli, gguf, tmp_path, arguments, message):
    arguments = [gguf("f32") if argument == "MODEL" else argument for argument in arguments]
    done = paritrace_cli("capture", "llamacpp", *arguments, "-o", "t")
    assert (done.returncode, done.stderr) == (2, f"paritrace: {message}\n")
    assert not (tmp_path / "t").exists()


TINY = dict(num_hidden_layers=2, num_attention_heads=4, vocab_size=64, max_position_embeddings=64)
TINY |= dict(hidden_size=32, intermediate_size=64, attn_implementation="eager")
DECODER = dict(TINY, num_key_value_heads=2, head_dim=8)
OTHERS = {
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**DECODER)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**DECODER, query_pre_attn_scalar=8)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**TINY)),
}
# llama.cpp builds these without a node of their own: the layer's input is the node before, scores are inside SOFT_MAX.
# In BERT's graph the sums before a norm are unnamed.
NO_NODE = {"in", "attn.scores"}
NO_NODE_IN_BERT = NO_NODE | {"attn.residual", "mlp.residual"}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_agree_with_hugging_face(name, tmp_path):
    torch.manual_seed(1)
    model = OTHERS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of one and biases of zero would hide a wrong site
            parameter += 0.1 * torch.randn_like(parameter)
    tiny_gguf.write(model, tmp_path / "tiny.gguf")
    ids = [5, 9, 33, 2, 60]
    with torch.no_grad(), paritrace.capture(model, tmp_path / "hf"):
        model(torch.tensor([ids]))
    llamacpp.run(tmp_path / "tiny.gguf", tmp_path / "lc", tokens=ids, flash_attention="off", kv_type="f32")
    reference, subject = (paritrace.open_trace(tmp_path / side) for side in ("hf", "lc"))
    assert subject.header["model"]["architecture"] == name

    missing = {entry.site for entry in reference.entries if entry.site} - set(sites_of(subject, 0))
    unbuilt = NO_NODE_IN_BERT if name == "bert" else NO_NODE
    assert missing == {f"layers.{layer}.{site}" for layer in range(2) for site in unbuilt}
    inexact = False
    for entry in subject.entries:
        if not entry.site:
            continue
        # ggml reads GELU from a table, its index and its value rounded to f16: from there on, that is the precision.
        inexact = inexact or (entry.site.endswith("mlp.act") and name in ("gemma2", "bert"))
        values, expected = entry.numpy().astype(np.float64), reference.values(entry.site)
        error = np.sqrt(np.mean((values - expected) ** 2) / np.mean(expected.astype(np.float64) ** 2))
        a_layer = 2 * 2**-11 if inexact else 64 * 2**-24  # two f16 roundings; or the f32 sum of up to 64 products
        assert error <= 2 * a_layer, f"{entry.site}: {error:.2e}"


def pooled_bert(tmp_path):
    torch.manual_seed(1)
    model = OTHERS["bert"]().eval()
    tiny_gguf.write(model, tmp_path / "pooled.gguf", pooling=tiny_gguf.gguf.PoolingType.MEAN)
    return model


def test_embedding_models_are_recorded_down_to_the_pooled_vector(tmp_path):
    model = pooled_bert(tmp_path)
    ids = [5, 9, 33, 2, 60]
    llamacpp.run(tmp_path / "pooled.gguf", tmp_path / "t", tokens=ids, flash_attention="off", kv_type="f32")
    trace = paritrace.open_trace(tmp_path / "t")
    with torch.no_grad():
        states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
    pooled = [entry for entry in trace.entries if entry.name.startswith("result_embd_pooled")]
    assert len(pooled) == 1
    # GELU from an f16 table.
    assert np.abs(pooled[0].numpy().ravel() - states.mean(0)).max() <= 4 * 2**-11 * np.abs(states).max()
    assert trace.header["run"]["embeddings"] is True
    assert trace.header["run"]["kv_type"] == {"k": "f32", "v": "f32"}
    assert trace.header["run"]["flash_attention"] is False
    with pytest.raises(ValueError, match="an embedding model"):
        llamacpp.run(tmp_path / "pooled.gguf", tmp_path / "u", tokens=ids, decode=1)


@pytest.mark.parametrize("mode", ["stats", "digest"])
def test_modes_without_values(gguf, tokens, tmp_path, mode):
    llamacpp.run(gguf("f32"), tmp_path / "t", tokens=tokens, mode=mode)
    entry = paritrace.open_trace(tmp_path / "t").find("layers.0.attn.q")
    assert not entry.has_data and "rms" in entry.stats_json
