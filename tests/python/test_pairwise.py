"""One model in four engines that nobody here wrote: pairwise, rounding explains all that differs, in diff and in diagnose."""

import itertools
import json

import pytest
from test_align import traces  # noqa: F401, the four engines' traces of the committed model
from test_capture_onnx import exported  # noqa: F401, which `traces` needs

ENGINES = ("hf", "llamacpp", "onnx", "jax")


@pytest.mark.parametrize(("reference", "subject"), list(itertools.permutations(ENGINES, 2)))
def test_two_engines_are_within_noise_at_every_site(traces, paritrace_cli, tmp_path, reference, subject):  # noqa: F811
    out = tmp_path / "diff.json"
    result = paritrace_cli("diff", traces(reference), traces(subject), "--json", out, "--quiet")
    report = json.loads(out.read_text())
    assert (result.returncode, report["verdict"]) == (0, "within_noise"), report["first_divergence"]
    statuses = {
        site["status"] for site in report["sites"] if site["site"].startswith(("layers.", "embed", "final", "logits"))
    }
    assert statuses <= {"identical", "within_noise", "missing_in_subject", "missing_in_reference"}
    # 4 layers of at least 13 sites that all four engines show (llama.cpp's scores are inside its softmax), embed, norm, logits.
    compared = [
        site["site"]
        for site in report["sites"]
        if site["step"] == 0 and site["status"] in ("identical", "within_noise")
    ]
    layers = {site.split(".")[1] for site in compared if site.startswith("layers.")}
    assert len([site for site in compared if site.startswith("layers.")]) >= 13 * len(layers) >= 13 * 2
    assert {"embed", "final_norm", "logits"} <= set(compared)


# Both sides are replayed: the order makes no difference.
@pytest.mark.parametrize(("reference", "subject"), list(itertools.combinations(ENGINES, 2)))
def test_no_engine_has_a_defect(traces, paritrace_cli, model_folder, tmp_path, reference, subject):  # noqa: F811
    out = tmp_path / "diagnosis.json"
    result = paritrace_cli(
        "diagnose", traces(subject), "--model", model_folder, "--ref", traces(reference), "--json", out, "--quiet"
    )
    report = json.loads(out.read_text())
    assert report["defects"] == []
    assert (result.returncode, report["verdict"]) == (0, "within_noise")


def test_onnx_runtimes_sigmoid_is_predicted_to_the_bit(traces, paritrace_cli, model_folder, tmp_path):  # noqa: F811
    """Its quotient of polynomials loses relative precision where the sigmoid is small: no noise of f32 would explain it."""
    out = tmp_path / "diagnosis.json"
    paritrace_cli("diagnose", traces("onnx"), "--model", model_folder, "--json", out, "--quiet")
    shares = [row["exact"] for row in json.loads(out.read_text())["noise"] if row["site"].endswith("mlp.act")]
    assert len(shares) >= 2 and min(shares) == 1
