"""paritrace.testing: a test of an engine passes where the engine is right, and fails with the diagnosis where it is not."""

import subprocess
import sys

import pytest
from paritrace import llamacpp
from paritrace.testing import NotComparable, assert_parity


@pytest.fixture(scope="module")
def traces(tmp_path_factory, model_folder, gguf, write_gguf, tokens):
    """(right, wrong, other tokens): llama.cpp on a rightly and a wrongly converted file."""
    folder = tmp_path_factory.mktemp("traces")
    write_gguf(model_folder, folder / "wrong.gguf", "f32", permute=False)
    llamacpp.run(gguf("f32"), folder / "right", tokens=tokens)
    llamacpp.run(folder / "wrong.gguf", folder / "wrong", tokens=tokens)
    llamacpp.run(gguf("f32"), folder / "other", tokens=tokens[::-1])
    return folder / "right", folder / "wrong", folder / "other"


def test_a_right_engine_passes(traces, model_folder, tmp_path):
    result = assert_parity(traces[0], model_folder, json_file=tmp_path / "result.json")
    assert result["schema"] == "paritrace/diagnosis/1" and result["verdict"] == "within_noise"
    assert (tmp_path / "result.json").exists()


def test_the_failure_is_the_diagnosis(traces, model_folder):
    with pytest.raises(AssertionError) as failure:
        assert_parity(traces[1], model_folder)
    assert not isinstance(failure.value, NotComparable)
    said = str(failure.value)
    assert "layers.0.attn.q" in said and "diverged" in said.lower()


def test_against_another_trace(traces):
    assert assert_parity(traces[0], traces[0])["verdict"] == "identical"
    with pytest.raises(AssertionError, match=r"layers\.0\.attn"):
        assert_parity(traces[1], traces[0])


def test_nothing_to_compare_is_no_parity(traces):
    with pytest.raises(NotComparable):
        assert_parity(traces[2], traces[0])


def test_bad_input_is_no_assertion(traces, tmp_path, model_folder):
    with pytest.raises(ValueError, match="none"):
        assert_parity(tmp_path / "none", model_folder)
    with pytest.raises(ValueError, match="a model or a reference trace"):
        assert_parity(traces[0])


def test_the_fixture_in_a_pytest_of_its_own(traces, model_folder, tmp_path):
    (tmp_path / "test_engine.py").write_text(
        'pytest_plugins = ["paritrace.pytest_plugin"]\n'
        f"def test_right(assert_parity):\n    assert_parity({str(traces[0])!r}, {str(model_folder)!r})\n"
        f"def test_wrong(assert_parity):\n    assert_parity({str(traces[1])!r}, {str(model_folder)!r})\n"
    )
    # An installed paritrace is a plugin already; here the module names it itself.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--junitxml",
        "junit.xml",
        "test_engine.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert "layers.0.attn.q" in done.stdout and "parity-1.json" in (tmp_path / "junit.xml").read_text()
