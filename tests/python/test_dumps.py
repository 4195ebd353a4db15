"""Dumps of other programs, made by those programs (tests/samples/make_samples.py), against traces of the same model."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paritrace
import pytest
import torch

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
TOKENS = [3, 17, 5, 29, 8]


@pytest.fixture(scope="module")
def model():
    from paritrace import hf

    return hf.load(SAMPLES / "model")


@pytest.fixture(scope="module")
def trace(model, tmp_path_factory):
    """The samples' model in Hugging Face, recorded by us."""
    path = tmp_path_factory.mktemp("dumps") / "hf"
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # as when the samples were made: last bits follow the order of the sums
    try:
        with paritrace.capture(model, path), torch.no_grad():
            model(torch.tensor([TOKENS]))
    finally:
        torch.set_num_threads(threads)
    return path


@pytest.fixture
def diff(paritrace_cli, tmp_path):
    """Function: (reference, subject) -> the diff's JSON, its exit code checked against its verdict."""

    def run(reference, subject):
        out = tmp_path / "diff.json"
        result = paritrace_cli("diff", reference, subject, "--json", out, "--quiet")
        assert result.stderr == "", result.stderr
        report = json.loads(out.read_text())
        codes = {"identical": 0, "within_noise": 0, "diverged": 1, "incomparable": 3}
        assert result.returncode == codes[report["verdict"]]
        return report

    return run


def statuses(report, *wanted):
    return [site["site"] for site in report["sites"] if site["status"] in wanted]


def copied(name, tmp_path):
    target = tmp_path / name
    if (SAMPLES / name).is_dir():
        shutil.copytree(SAMPLES / name, target)
    else:
        shutil.copy(SAMPLES / name, target)
    return target


def test_bitnet_rs_hashes_are_those_of_our_values(trace, diff):
    report = diff(trace, SAMPLES / "bitnet_rs")
    assert report["verdict"] == "identical"
    assert len(statuses(report, "identical")) == 14
    assert {"embed", "layers.1.attn.q", "layers.0.mlp.out", "logits"} <= set(statuses(report, "identical"))


def test_an_entry_gives_the_hash_that_bitnet_rs_records(trace):
    record = json.loads((SAMPLES / "bitnet_rs" / "blk1_q_proj.trace").read_text())
    (entry,) = (entry for entry in paritrace.open_trace(trace).entries if entry.site == "layers.1.attn.q")
    assert entry.blake3() == f"blake3:{record['blake3']}"


def edit_record(folder, name, **fields):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_bitnet_rs_other_rms_is_a_divergence(trace, diff, tmp_path):
    folder = copied("bitnet_rs", tmp_path)
    edit_record(folder, "blk1_q_proj.trace", rms=1.5, blake3="0" * 64)
    report = diff(trace, folder)
    assert report["first_divergence"]["site"] == "layers.1.attn.q"
    site = next(site for site in report["sites"] if site["site"] == "layers.1.attn.q")
    assert "rms" in site["note"]
    assert site["max_abs"] is None


def test_equal_rms_under_another_hash_shows_nothing(trace, diff, tmp_path):
    folder = copied("bitnet_rs", tmp_path)
    edit_record(folder, "blk1_q_proj.trace", blake3="0" * 64)
    report = diff(trace, folder)
    assert report["verdict"] == "incomparable"
    assert "no values" in report["reason"]
    site = next(site for site in report["sites"] if site["site"] == "layers.1.attn.q")
    assert site["status"].startswith("missing")
    assert "no evidence" in site["note"]


@pytest.mark.parametrize(("factor", "name"), [(2560**-0.5, "1/sqrt(2560)"), (2560**-0.5 * 1.01, None)])
def test_bitnet_rs_a_scale_is_named_from_rms_and_hash_alone(diff, tmp_path, factor, name):
    """The norm's weights were stored divided by the root of the width (BitNet b1.58 2B in a Rust engine)."""
    for side, scale, digest in (("reference", 1, "ab"), ("subject", factor, "cd")):
        (tmp_path / side).mkdir()
        record = {"name": "blk0/attn_norm", "shape": [1, 5, 2560], "dtype": "F32", "num_elements": 5 * 2560, "layer": 0}
        record |= {"blake3": digest * 32, "rms": 1.00134 * scale, "seq": 0, "stage": "attn_norm"}
        (tmp_path / side / "blk0_attn_norm.trace").write_text(json.dumps(record))
    report = diff(tmp_path / "reference", tmp_path / "subject")
    assert report["first_divergence"]["site"] == "layers.0.attn.norm"
    (row,) = report["sites"][0]["evidence"]["statistics"]
    assert row.get("factor") == name


def test_two_bitnet_rs_runs(diff, tmp_path):
    assert diff(SAMPLES / "bitnet_rs", SAMPLES / "bitnet_rs")["verdict"] == "identical"
    folder = copied("bitnet_rs", tmp_path)
    edit_record(folder, "logits.trace", rms=2.0, blake3="1" * 64)
    assert diff(SAMPLES / "bitnet_rs", folder)["first_divergence"]["site"] == "logits"


def test_bitnet_rs_records_a_line(trace, diff, tmp_path):
    lines = [json.dumps(json.loads(path.read_text())) for path in sorted((SAMPLES / "bitnet_rs").iterdir())]
    file = tmp_path / "all.jsonl"
    file.write_text("\n".join(lines) + "\n")
    assert len(statuses(diff(trace, file), "identical")) == 14


def test_eval_callback_agrees_as_far_as_it_was_printed(trace, diff):
    report = diff(trace, SAMPLES / "eval_callback.log")
    assert report["verdict"] == "within_noise"
    assert statuses(report, "identical", "diverged", "shape_mismatch") == []
    agreed = {site["site"]: site for site in report["sites"] if site["status"] == "within_noise"}
    assert {"embed", "layers.0.attn.q", "layers.1.attn.k_rope", "layers.0.attn.probs", "logits"} <= set(agreed)
    q = agreed["layers.0.attn.q_rope"]
    assert q["relation"]["kind"] == "rope_row_order"
    assert q["evidence"]["printed"] < q["evidence"]["of"]
    assert q["max_abs"] is None and q["nmse"] is None
    # llama.cpp keeps the last row only behind its last attention.
    assert (
        "the last" in json.dumps(agreed["layers.1.mlp.out"]) or agreed["layers.1.mlp.out"]["evidence"]["printed"] == 6
    )


def test_prints_and_hashes_have_no_error_that_could_grow(trace, paritrace_cli):
    result = paritrace_cli("growth", trace, SAMPLES / "eval_callback.log", "--json", "-")
    report = json.loads(result.stdout)
    assert result.returncode == 3 and report["verdict"] == "incomparable"
    assert "values" in report["reason"]
    assert paritrace_cli("growth", trace, SAMPLES / "bitnet_rs").returncode == 0  # identical, by their hashes


def test_printed_logits_are_no_logits(trace, paritrace_cli):
    result = paritrace_cli("logits", trace, SAMPLES / "eval_callback.log")
    assert result.returncode == 3
    assert "printed" in result.stdout + result.stderr


@pytest.mark.parametrize("what", ["value", "sum"])
def test_eval_callback_contradiction_is_seen(trace, diff, tmp_path, what):
    text = (SAMPLES / "eval_callback.log").read_text()
    start = text.index("Qcur-0 = (f32)    MUL_MAT")
    head, tail = text[:start], text[start:]
    tail = (
        tail.replace("2.1020", "2.2020", 1)
        if what == "value"
        else tail.replace("sum = 16.667202", "sum = 26.667202", 1)
    )
    file = tmp_path / "edited.log"
    file.write_text(head + tail)
    report = diff(trace, file)
    assert report["first_divergence"]["site"] == "layers.0.attn.q"


def test_a_print_that_resolves_nothing_is_no_evidence(diff, tmp_path):
    """Values far below the last printed digit: 0.0000 agrees with anything that small."""
    lines = ["common_debug_cb_eval: attn_norm-0 = (f32) MUL(a{2, 2, 1, 1}, b.weight{2, 1, 1, 1}}) = {2, 2, 1, 1}",
             "    [", "        [", "            [      0.0000,      -0.0000  ],", "            [      0.0000,       0.0000  ],",
             "        ],", "    ]", "    sum = 0.000004"]  # fmt: skip
    log = tmp_path / "log.txt"
    log.write_text("\n".join(lines) + "\n")
    np.savez(tmp_path / "ref.npz", **{"layers.0.attn.norm": np.array([[1e-6, 2e-6], [3e-6, -2e-6]], np.float32)})
    report = diff(tmp_path / "ref.npz", log)
    assert report["verdict"] == "incomparable"


def test_older_llama_cpp_prefix(diff, tmp_path):
    file = tmp_path / "old.log"
    file.write_text((SAMPLES / "eval_callback.log").read_text().replace("common_debug_cb_eval:", "ggml_debug:"))
    assert diff(SAMPLES / "eval_callback.log", file)["verdict"] == "within_noise"


@pytest.mark.parametrize("name", ["hf_debug", "hf_debug/LlamaForCausalLM_debug_tree_FULL_TENSORS.json"])
def test_hf_debugger_prints(trace, diff, name):
    report = diff(trace, SAMPLES / name)
    assert report["verdict"] == "within_noise"
    assert report["subject"]["run"]["tokens"] == [TOKENS]
    agreed = statuses(report, "within_noise")
    assert {"embed", "layers.0.attn.q", "layers.1.mlp.act", "layers.1.attn.residual", "logits"} <= set(agreed)
    assert statuses(report, "identical", "diverged") == []


def test_hf_debugger_of_today_with_cut_prints(model_folder, tokens, diff, tmp_path):
    """Tensors of more than 1000 values are printed with "..." by torch; the model in models/ has them."""
    from paritrace import hf
    from transformers import model_addition_debugger_context

    model = hf.load(model_folder)
    with torch.no_grad():
        with paritrace.capture(model, tmp_path / "ours"):
            model(torch.tensor([tokens]))
        try:
            with model_addition_debugger_context(model, str(tmp_path / "theirs"), do_prune_layers=False):
                model(input_ids=torch.tensor([tokens]))
        finally:
            torch.set_printoptions(profile="default", sci_mode=False)
    report = diff(tmp_path / "ours", tmp_path / "theirs")
    assert report["verdict"] == "within_noise"
    logits = next(site for site in report["sites"] if site["site"] == "logits")
    assert logits["evidence"]["printed"] == 36  # 3 + 3 of 12 tokens, 3 + 3 of the vocabulary
    other = json.loads((tmp_path / "theirs" / "LlamaForCausalLM_debug_tree_FULL_TENSORS.json").read_text())
    lines = other["children"][-1]["outputs"]["value"]
    lines[-1] = lines[-1].replace("e+00", "e+01").replace("e-01", "e+00")
    (tmp_path / "edited.json").write_text(json.dumps(other))
    assert diff(tmp_path / "ours", tmp_path / "edited.json")["first_divergence"] == {
        "step": 0, "site": "logits", "position": len(tokens) - 1}  # fmt: skip


def test_hf_debugger_summary_can_only_contradict(trace, diff, tmp_path):
    summary = SAMPLES / "hf_debug" / "LlamaForCausalLM_debug_tree_SUMMARY.json"
    assert diff(trace, summary)["verdict"] == "incomparable"
    edited = tmp_path / "edited.json"
    edited.write_text(summary.read_text().replace("tensor(3.0724e-01)", "tensor(3.1724e-01)", 1))
    report = diff(trace, edited)
    assert report["first_divergence"]["site"] == "embed"
    assert "std" in next(site["note"] for site in report["sites"] if site["status"] == "diverged")


def test_hf_debugger_with_files(trace, diff):
    report = diff(trace, SAMPLES / "hf_debug_tensors")
    assert "layers.0.attn.q" in statuses(report, "identical")
    assert statuses(report, "diverged") == []
    assert report["subject"]["run"]["tokens"] == [TOKENS]


def test_msprobe_statistics_can_only_contradict(trace, diff, tmp_path):
    report = diff(trace, SAMPLES / "msprobe_statistics")
    assert report["verdict"] == "incomparable"
    assert statuses(report, "diverged", "identical", "within_noise") == []
    folder = copied("msprobe_statistics", tmp_path)
    dump = json.loads((folder / "dump.json").read_text())
    dump["data"]["Module.model.layers.1.mlp.gate_proj.Linear.forward.0"]["output"][0]["Norm"] *= 1.01
    (folder / "dump.json").write_text(json.dumps(dump))
    report = diff(trace, folder)
    assert report["first_divergence"]["site"] == "layers.1.mlp.gate"
    assert "norm" in next(site["note"] for site in report["sites"] if site["status"] == "diverged")


def test_msprobe_tensors_are_imported(trace, diff, paritrace_cli, tmp_path):
    result = paritrace_cli("diff", trace, SAMPLES / "msprobe_tensor")
    assert result.stderr.count("\n") == 1 and "paritrace import msprobe" in result.stderr
    result = paritrace_cli("import", "msprobe", SAMPLES / "msprobe_tensor", "-o", "msprobe")
    assert (result.returncode, result.stderr) == (0, "")
    report = diff(trace, tmp_path / "msprobe")
    assert report["verdict"] == "identical"
    assert {"layers.0.attn.q", "layers.1.out", "final_norm", "logits"} <= set(statuses(report, "identical"))


def test_polygraphy(trace, diff):
    report = diff(trace, SAMPLES / "polygraphy.json")
    assert report["verdict"] == "identical"
    assert statuses(report, "identical") == ["layers.0.attn.q", "layers.0.mlp.out", "logits"]


def test_torch_save(trace, diff, paritrace_cli, tmp_path):
    values = {
        f"{entry.step}/{entry.name}": torch.from_numpy(entry.numpy()) for entry in paritrace.open_trace(trace).entries
    }
    torch.save(values, tmp_path / "dump.pt")
    refused = paritrace_cli("show", "dump.pt")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "paritrace import torch" in refused.stderr
    assert paritrace_cli("import", "torch", "dump.pt", "-o", "saved").returncode == 0
    assert diff(trace, tmp_path / "saved")["verdict"] == "identical"


def test_torch_save_nested_and_bf16(paritrace_cli, tmp_path):
    torch.save({"layers.0.attn.q": torch.ones(2, 4, dtype=torch.bfloat16), "a": {"b": (torch.zeros(3), torch.ones(1))}},
               tmp_path / "dump.pt")  # fmt: skip
    assert paritrace_cli("import", "torch", "dump.pt", "-o", "out", "--quiet").returncode == 0
    entries = {entry.name: entry for entry in paritrace.open_trace(tmp_path / "out").entries}
    assert set(entries) == {"layers.0.attn.q", "a.b", "a.b:1"}
    assert entries["layers.0.attn.q"].dtype == "bf16" and entries["layers.0.attn.q"].site == "layers.0.attn.q"


class Evil:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_a_pickle_runs_no_code(paritrace_cli, tmp_path):
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    result = paritrace_cli("import", "torch", "evil.pt", "-o", "out")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "weights-only" in result.stderr
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_folder_of_npy_npz_and_raw(trace, diff, paritrace_cli, tmp_path):
    opened = paritrace.open_trace(trace)
    q = opened.values("layers.0.attn.q")
    folder = tmp_path / "folder"
    folder.mkdir()
    for site in ("embed", "layers.0.attn.q", "logits"):
        np.save(folder / f"{site}.npy", opened.values(site))
    assert statuses(diff(trace, folder), "identical") == ["embed", "layers.0.attn.q", "logits"]
    np.savez_compressed(tmp_path / "some.npz", **{"0/layers.0.attn.q": q})
    assert statuses(diff(trace, tmp_path / "some.npz"), "identical") == ["layers.0.attn.q"]
    q.tofile(tmp_path / "layers.0.attn.q.bin")
    assert statuses(diff(trace, f"{tmp_path}/layers.0.attn.q.bin:f32:5x16"), "identical") == ["layers.0.attn.q"]
    np.savetxt(tmp_path / "q.txt", q, fmt="%.9g")
    result = paritrace_cli("import", "raw", "q.txt", "--shape", "5,16", "--name", "layers.0.attn.q", "-o", "raw")
    assert result.returncode == 0, result.stderr
    assert statuses(diff(trace, tmp_path / "raw"), "identical") == ["layers.0.attn.q"]


def test_the_program_alone_hands_import_to_python(tmp_path, monkeypatch):
    program = os.environ.get("PARITRACE_BIN")
    if not program:
        pytest.skip("PARITRACE_BIN is not set")
    np.zeros(4, np.float32).tofile(tmp_path / "x.bin")
    environment = dict(os.environ, PARITRACE_PYTHON=sys.executable)
    result = subprocess.run([program, "import", "raw", "x.bin", "--shape", "2x2", "-o", "t"], cwd=tmp_path, env=environment,
                            capture_output=True, text=True)  # fmt: skip
    assert result.returncode == 0, result.stderr


def bomb_npz():
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        content = io.BytesIO()
        np.save(content, np.zeros(2))
        archive.writestr("../../outside.npy", content.getvalue())
    return out.getvalue()


def npy_claim():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


BOMBS = {
    "claim.safetensors": (b'=\x00\x00\x00\x00\x00\x00\x00{"x":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,8]}}', "x"),
    "claim.npy": (npy_claim(), "1152921504606846976"),
    "claim.gguf": (b"GGUF\x03\x00\x00\x00" + (1 << 60).to_bytes(8, "little") + bytes(8), "tensors"),
    "claim.trace": (b'{"name":"x","shape":[1152921504606846976,64],"dtype":"F32","blake3":"' + b"0" * 64 + b'","rms":1,"num_elements":1}', "shape"),
    "claim.log": (b"ggml_debug: embd = (f32) GET_ROWS(a{1, 1, 1, 1}, }) = {1152921504606846976, 64, 1, 1}\n [[[ 1.0 ]]]\n sum = 1\n", "shape"),
    "deep.json": (b"[" * 100_000, "64 levels"),
    "deep_object.json": (b'{"a":' * 100_000, "64 levels"),
    "outside.npz": (bomb_npz(), "outside"),
    "hf.json": (b'{"module_path":"M","children":[{"module_path":"M.a","outputs":{"shape":"torch.Size([2])","dtype":"torch.float32","value":"./../../x.safetensors"}}]}', "inside the trace"),
    "dump.json": (b'{"task":"tensor","level":"L0","data":{"Module.a.B.forward.0":{"output":[{"type":"torch.Tensor","dtype":"torch.float32","shape":[2],"data_name":"../../../x.npy"}]}}}', "inside the trace"),
    "poly.json": (b'{"polygraphy_class":"RunResults","lst":[["r",[{"outputs":{"x":{"array":"!!!!"}}}]]]}', "base64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_one_line(paritrace_cli, tmp_path, name):
    content, says = BOMBS[name]
    (tmp_path / name).write_bytes(content)
    result = paritrace_cli("diff", name, name)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert name in result.stderr and says in result.stderr and ": expected " in result.stderr


@pytest.mark.parametrize("kind", ["npy", "trace", "json"])
def test_links_out_of_a_dump_are_refused(paritrace_cli, tmp_path, kind):
    np.save(tmp_path / "secret.npy", np.zeros(3, np.float32))
    folder = tmp_path / "dump"
    folder.mkdir()
    name = {"npy": "a.npy", "trace": "a.trace", "json": "dump.json"}[kind]
    (folder / name).symlink_to(tmp_path / "secret.npy")
    result = paritrace_cli("show", "dump")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "a link out of it" in result.stderr


def test_msprobe_import_refuses_a_path_outside(paritrace_cli, tmp_path):
    folder = tmp_path / "dump"
    folder.mkdir()
    torch.save(torch.zeros(2), tmp_path / "x.pt")
    (folder / "dump.json").write_text(
        '{"task":"tensor","level":"L0","data":{"Module.a.B.forward.0":{"output":'
        '[{"type":"torch.Tensor","dtype":"torch.float32","shape":[2],"data_name":"../../x.pt"}]}}}'
    )
    result = paritrace_cli("import", "msprobe", "dump", "-o", "out")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "inside the dump" in result.stderr
