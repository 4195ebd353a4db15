"""Real llama.cpp against the model it runs and against the Hugging Face folder it was converted from."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
HF = ROOT / "models" / "paritrace-llama"
SHARED = ROOT.parent / "shared" / "models"
TOKENS = "0,306,411,287,518,73,1021,17,442,905,64,33,1200,287"
MATMULS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.out", "logits")
LAYERS = 5


def paritrace(*arguments):
    return subprocess.run([sys.executable, "-m", "paritrace", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory):
    """Path of the committed model in a weight type; "wrong" has q and k rows left in Hugging Face's order."""
    folder = tmp_path_factory.mktemp("gguf")

    def convert(kind):
        file = folder / f"{kind}.gguf"
        if not file.exists():
            options = ["--type", "f32", "--no-permute"] if kind == "wrong" else ["--type", kind]
            subprocess.run(
                [sys.executable, ROOT / "models" / "write_gguf.py", HF, file, *options], check=True, capture_output=True
            )
        return file

    return convert


def capture(model, trace, flash, tokens=TOKENS, *options):
    done = paritrace("capture", "llamacpp", model, "--tokens", tokens, "-o", trace, "--flash-attn", flash, *options)
    assert done.returncode == 0, done.stderr
    return trace


def diagnose(trace, model):
    done = paritrace("diagnose", trace, "--model", model, "--json", "-")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def assert_clean(result):
    assert result["defects"] == []
    assert result["verdict"] == "within_noise"
    assert result["arithmetic"] == "ggml-cpu"
    assert all(row["ratio"] <= 4 for row in result["noise"])


@pytest.mark.parametrize("kept", [".+", r"embed|layers\.\d+\.(in|out)|logits"], ids=["all", "layers"])
@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_without_a_header_the_values_tell_whose_trace_it_is(kind, flash, kept, gguf, tmp_path):
    trace, file = capture(gguf(kind), tmp_path / "trace", flash), tmp_path / "bare.safetensors"
    values = {}
    for shard in trace.glob("*.safetensors"):
        values.update(load_file(shard))
    index = [json.loads(line) for line in (trace / "index.jsonl").read_text().splitlines()]
    sites = [entry for entry in index if re.fullmatch(kept, entry.get("site", ""))]
    save_file({f"{entry['step']}/{entry['site']}": values[entry["key"]].contiguous() for entry in sites}, file)
    result = diagnose(file, gguf(kind))
    assert result["arithmetic_inferred"] and result["arithmetic"] == "ggml-cpu"
    assert result["defects"] == [] and result["verdict"] == "within_noise"


@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_0"])
def test_a_right_file_is_within_noise(kind, flash, gguf, tmp_path):
    model = gguf(kind)
    result = diagnose(capture(model, tmp_path / "t", flash), model)
    assert_clean(result)
    for row in result["noise"]:
        if row["site"].split(".", 2)[-1] in MATMULS:
            assert row["left_nmse"] <= 1e-12, row  # 1e-6 of the output


@pytest.mark.parametrize("flash", ["on", "off"])
def test_the_right_file_against_the_folder_it_came_from(flash, gguf, tmp_path):
    assert_clean(diagnose(capture(gguf("f32"), tmp_path / "t", flash), HF))


@pytest.mark.parametrize("flash", ["on", "off"])
def test_rows_left_unpermuted_are_named(flash, gguf, tmp_path):
    result = diagnose(capture(gguf("wrong"), tmp_path / "t", flash), HF)
    named = {(defect["site"], defect["cause"]["id"]) for defect in result["defects"]}
    assert named == {(f"layers.{i}.attn.{x}_rope", "rope.interleaved") for i in range(LAYERS) for x in "qk"}
    assert [group["cause"] for group in result["summary"]] == ["rope.interleaved"]


def test_half_split_rotation_of_interleaved_rows_is_named(gguf, tmp_path):
    """The other way round: against a file whose rows are meant for adjacent pairs, Hugging Face's rotation is the wrong one."""
    trace = tmp_path / "hf"
    assert paritrace("capture", "hf", HF, "--tokens", TOKENS, "-o", trace, "--dtype", "f32").returncode == 0
    result = diagnose(trace, gguf("wrong"))
    named = {(defect["site"], defect["cause"]["id"]) for defect in result["defects"]}
    assert named == {(f"layers.{i}.attn.{x}_rope", "rope.half_split") for i in range(LAYERS) for x in "qk"}


def test_the_file_the_subject_ran_tells_conversion_from_execution(gguf, tmp_path):
    trace = capture(gguf("wrong"), tmp_path / "t", "on")
    done = paritrace("diagnose", trace, "--model", HF, "--subject-model", gguf("wrong"), "--json", "-")
    assert done.returncode == 1, done.stderr
    assert {defect["origin"] for defect in json.loads(done.stdout)["defects"]} == {"conversion"}


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_quantised_weights_against_the_published_ones_are_a_difference_of_weights(kind, gguf, tmp_path):
    result = diagnose(capture(gguf(kind), tmp_path / "t", "on"), HF)
    assert {(d["cause"]["id"], d["cause"]["found"]) for d in result["defects"]} == {("precision", f"weights in {kind}")}
    assert {d["site"].split(".", 2)[-1] for d in result["defects"]} == {*MATMULS, "embed"}


def test_diff_alone_shows_a_divergence_that_grows(gguf, tmp_path):
    reference = tmp_path / "hf"
    assert paritrace("capture", "hf", HF, "--tokens", TOKENS, "-o", reference, "--dtype", "f32").returncode == 0
    subject = capture(gguf("wrong"), tmp_path / "t", "off")
    done = paritrace("diff", reference, subject, "--json", "-")
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "diverged"
    assert result["first_divergence"]["site"] == "layers.0.attn.q_rope"
    outs = [site["nmse"] for site in result["sites"] if site["site"].endswith(".out") and site["site"].count(".") == 2]
    assert outs[-1] > outs[0]


def test_decode_steps_are_within_noise(gguf, tmp_path):
    model = gguf("q8_0")
    result = diagnose(capture(model, tmp_path / "t", "on", TOKENS, "--decode", "4"), model)
    assert_clean(result)
    assert {row["step"] for row in result["noise"]} == {0, 1, 2, 3, 4}


@pytest.mark.skipif(not SHARED.exists(), reason="needs the published weights of stories260K")
@pytest.mark.parametrize("flash", ["on", "off"])
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_published_weights_are_within_noise(kind, flash, tmp_path):
    model = SHARED / f"stories260K-{kind}.gguf"
    trace = capture(model, tmp_path / "t", flash, "1,403,407,261,378,500,12,7,99,44,321,5,17,260,9,88")
    assert_clean(diagnose(trace, model))
    if kind == "f32":
        assert_clean(diagnose(trace, SHARED / "stories260K-hf"))
