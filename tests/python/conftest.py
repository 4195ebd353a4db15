"""Shared by the Python tests: the committed model in every dtype, its GGUF files, and stories260K where it is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[2]
SHARED_MODELS = ROOT.parent / "shared" / "models"
MODEL = ROOT / "models" / "paritrace-llama"
sys.path[:0] = [str(ROOT / "faults"), str(ROOT / "models")]  # tests share module_outputs and what writes models


@pytest.fixture(scope="session")
def model_folder():
    """The committed Llama, as a Hugging Face folder."""
    return MODEL


@pytest.fixture(scope="session")
def tokens():
    """A prompt: token ids from all over the vocabulary, one of them twice, the first not special."""
    return [17, 403, 1407, 261, 378, 261, 9, 1203, 77, 640, 1011, 58]


@pytest.fixture(scope="session")
def write_gguf():
    """models/write_gguf.py's function: (folder, file, type_name, permute)."""
    import write_gguf

    return write_gguf.write_gguf


@pytest.fixture(scope="session")
def gguf(tmp_path_factory, write_gguf, model_folder):
    """Function: type name -> the committed model as a GGUF of that type."""
    folder = tmp_path_factory.mktemp("gguf")

    def path_of(type_name):
        path = folder / f"{type_name}.gguf"
        if not path.exists():
            write_gguf(model_folder, path, type_name)
        return path

    return path_of


@pytest.fixture
def load_hf(model_folder):
    """Function: dtype name -> a freshly loaded model that a test may patch."""
    from paritrace import hf

    return lambda dtype="f32", folder=model_folder: hf.load(folder, dtype)


@pytest.fixture
def paritrace_cli(tmp_path):
    """Function: arguments -> the finished `python -m paritrace`, run in an empty folder."""

    def run(*arguments):
        command = [sys.executable, "-m", "paritrace", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)

    return run
