"""models/synthesize.py: every family's shape is one that our executor, the engines and the other libraries take."""

import json
import subprocess
import sys

import pytest
import tiny_models
from conftest import ROOT
from paritrace import llamacpp
from safetensors import safe_open

SHAPES = ["llama-tiny", "qwen2-tiny", "bitnet-tiny", "nomic-tiny"]
TOKENS = [1, 17, 203, 9, 44, 150]


def synthesize(*arguments):
    return subprocess.run([sys.executable, ROOT / "models" / "synthesize.py", *map(str, arguments)], capture_output=True, text=True)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_our_executor_runs_the_folder(shape, tmp_path):
    assert synthesize(shape, tmp_path / "hf").returncode == 0
    done = tiny_models.paritrace(
        "run", tmp_path / "hf", "--tokens", "1,17,203", "-o", tmp_path / "t", "--arithmetic", "f32"
    )
    assert done.returncode == 0, done.stderr
    done = tiny_models.paritrace("diagnose", tmp_path / "t", "--model", tmp_path / "hf", "--json", "-")
    assert json.loads(done.stdout)["verdict"] in ("identical", "within_noise")


@pytest.mark.parametrize("shape", SHAPES)
def test_llamacpp_runs_its_gguf(shape, tmp_path, write_gguf):
    synthesize(shape, tmp_path / "hf")
    write_gguf(tmp_path / "hf", tmp_path / "m.gguf", "f16", dummy_vocab=True)
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=TOKENS)
    assert tiny_models.diagnose(tmp_path / "t", tmp_path / "m.gguf")["defects"] == []


def test_a_llama_is_written_as_gguf_at_once(tmp_path):
    assert synthesize("llama-tiny", tmp_path / "m.gguf", "--type", "q8_0").returncode == 0
    llamacpp.run(tmp_path / "m.gguf", tmp_path / "t", tokens=TOKENS)
    assert tiny_models.diagnose(tmp_path / "t", tmp_path / "m.gguf")["defects"] == []
    done = synthesize("qwen2-tiny", tmp_path / "q.gguf")
    assert done.returncode != 0 and "written as a folder" in done.stderr and not (tmp_path / "q.gguf").exists()


def test_fewer_layers_and_the_same_bytes_again(tmp_path):
    for name in ("a", "b"):
        assert synthesize("nomic-tiny", tmp_path / name, "--layers", 2).returncode == 0
    first, second = (tmp_path / name / "model.safetensors" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, "np") as file:
        assert max(int(name.split(".")[2]) for name in file.keys() if ".layers." in name) == 1
    assert synthesize("nomic-tiny", tmp_path / "c", "--layers", 9).returncode == 2
