"""Digests of real runs against the traces they were made of: what is estimated is what comparing the values gives."""

import json

from safetensors import safe_open


def compare(cli, reference, subject):
    done = cli("diff", reference, subject, "--json", "-")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_digest_of_an_hf_trace_against_its_full_twin(paritrace_cli, model_folder, tmp_path):
    for dtype in ("f32", "bf16"):
        done = paritrace_cli(
            "capture", "hf", model_folder, "--tokens", "17,403,1407,261,9", "-o", tmp_path / dtype, "--dtype", dtype
        )
        assert done.returncode == 0, done.stderr
        done = paritrace_cli("digest", tmp_path / dtype, "-o", tmp_path / f"{dtype}.digest")
        assert done.returncode == 0, done.stderr
        assert not list((tmp_path / f"{dtype}.digest").glob("*.safetensors"))
        assert compare(paritrace_cli, tmp_path / dtype, tmp_path / f"{dtype}.digest")["verdict"] == "identical"

    full = compare(paritrace_cli, tmp_path / "f32", tmp_path / "bf16")
    measured = {(site["step"], site["site"]): site for site in full["sites"]}
    for reference, subject in (("f32.digest", "bf16.digest"), ("f32", "bf16.digest"), ("f32.digest", "bf16")):
        found = compare(paritrace_cli, tmp_path / reference, tmp_path / subject)
        assert found["verdict"] == full["verdict"]
        estimated = [site for site in found["sites"] if site.get("estimated")]
        assert estimated
        held = 0
        for site in estimated:
            low, high = site["nmse_interval"]
            held += low <= measured[(site["step"], site["site"])]["nmse"] * (1 + 1e-6) and (
                measured[(site["step"], site["site"])]["nmse"] <= high * (1 + 1e-6)
            )
        assert held >= 0.95 * len(estimated)


def test_a_digest_is_not_digested_again(paritrace_cli, model_folder, tmp_path):
    done = paritrace_cli("capture", "hf", model_folder, "--tokens", "17,403", "-o", tmp_path / "t", "--mode", "digest")
    assert done.returncode == 0, done.stderr
    done = paritrace_cli("digest", tmp_path / "t", "-o", tmp_path / "d")
    assert done.returncode == 2
    assert "expected values" in done.stderr


def test_an_exported_trace_is_the_same_trace_in_one_file(paritrace_cli, model_folder, tmp_path):
    done = paritrace_cli(
        "capture", "hf", model_folder, "--tokens", "17,403,9", "-o", tmp_path / "t", "--dtype", "bf16", "--decode", "1"
    )
    assert done.returncode == 0, done.stderr
    file = tmp_path / "t.safetensors"
    done = paritrace_cli("export", tmp_path / "t", "-o", file)
    assert done.returncode == 0, done.stderr
    found = compare(paritrace_cli, tmp_path / "t", file)
    assert found["verdict"] == "identical"
    assert found["counts"]["identical"] == found["counts"]["total"] > 100
    with safe_open(file, "np") as opened:
        # No two entries share a key: both steps are there.
        assert len(opened.keys()) == found["counts"]["total"]
    assert paritrace_cli("export", tmp_path / "t", "-o", file).returncode == 2
    assert paritrace_cli("export", tmp_path / "t", "-o", file, "--overwrite").returncode == 0
    assert paritrace_cli("export", tmp_path / "t", "-o", tmp_path / "other").returncode == 2
