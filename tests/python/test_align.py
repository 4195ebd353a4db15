"""Pairing of traces that no rule maps, on real engines: as many of the pairs that rules make as can be, and no wrong one.

Every engine runs the committed model. The rules make the truth; then sites are taken out of both indices, names are made
unreadable, and `paritrace align` has only values, shapes, order and what is left of the names.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import paritrace
import pytest
import torch
from paritrace import hf, llamacpp
from paritrace import jax as jax_adapter
from paritrace import onnx as onnx_adapter
from test_capture_onnx import exported  # noqa: F401, the ONNX file as a fixture
from transformers.models.llama import modeling_llama

FOUND = 0.95  # of the pairs that rules make


class JaxLlama:
    """The committed model, written plainly; every site is tapped."""

    def __init__(self, folder):
        model = hf.load(folder, "f32")
        self.config = model.config
        self.weights = {name: jnp.asarray(value.numpy()) for name, value in model.state_dict().items()}

    def norm(self, name, x):
        variance = jnp.mean(x * x, -1, keepdims=True)
        return x / jnp.sqrt(variance + self.config.rms_norm_eps) * self.weights[f"{name}.weight"]

    def rope(self, x):
        """x: [heads, tokens, dim], halves turned against each other."""
        half = x.shape[-1] // 2
        theta = self.config.rope_parameters["rope_theta"]
        angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def __call__(self, ids):
        tap, linear = jax_adapter.tap, lambda name, x: x @ self.weights[f"{name}.weight"].T
        config, count = self.config, ids.shape[0]
        heads, dim = config.num_attention_heads, config.head_dim
        x = tap("embed", self.weights["model.embed_tokens.weight"][ids])
        for i in range(config.num_hidden_layers):
            site, layer = f"layers.{i}", f"model.layers.{i}"
            h = tap(f"{site}.attn.norm", self.norm(f"{layer}.input_layernorm", tap(f"{site}.in", x)))
            q, k, v = (tap(f"{site}.attn.{p}", linear(f"{layer}.self_attn.{p}_proj", h)) for p in "qkv")
            q, k, v = (y.reshape(count, -1, dim).transpose(1, 0, 2) for y in (q, k, v))  # [heads, tokens, dim]
            q, k = tap(f"{site}.attn.q_rope", self.rope(q)), tap(f"{site}.attn.k_rope", self.rope(k))
            k, v = (jnp.repeat(y, heads // y.shape[0], 0) for y in (k, v))
            scores = jnp.where(jnp.tri(count, dtype=bool), q @ k.transpose(0, 2, 1) / dim**0.5, -jnp.inf)
            probs = tap(f"{site}.attn.probs", jax.nn.softmax(tap(f"{site}.attn.scores", scores)))
            ctx = tap(f"{site}.attn.ctx", (probs @ v).transpose(1, 0, 2).reshape(count, -1))
            x = tap(f"{site}.attn.residual", x + tap(f"{site}.attn.out", linear(f"{layer}.self_attn.o_proj", ctx)))
            h = tap(f"{site}.mlp.norm", self.norm(f"{layer}.post_attention_layernorm", x))
            gate, up = (tap(f"{site}.mlp.{p}", linear(f"{layer}.mlp.{p}_proj", h)) for p in ("gate", "up"))
            act = tap(f"{site}.mlp.act", jax.nn.silu(gate) * up)
            x = tap(f"{site}.out", x + tap(f"{site}.mlp.out", linear(f"{layer}.mlp.down_proj", act)))
        return tap("logits", linear("lm_head", tap("final_norm", self.norm("model.norm", x))))


@pytest.fixture(scope="module")
def traces(exported, gguf, write_gguf, model_folder, tokens, tmp_path_factory):  # noqa: F811
    """Function: name -> folder of a trace of the committed model."""
    folder = tmp_path_factory.mktemp("traces")

    def run_llamacpp(path, kind):
        file = folder / "unpermuted.gguf" if kind == "unpermuted" else gguf(kind)
        if kind == "unpermuted":
            write_gguf(model_folder, file, "f32", permute=False)
        llamacpp.run(file, path, tokens=tokens, flash_attention="off", kv_type="f32", decode=1)

    def run_jax(path):
        with jax_adapter.capture(path, tokens=[tokens], model={"name": "paritrace-llama", "architecture": "llama"}):
            jax.jit(JaxLlama(model_folder))(jnp.asarray(tokens))

    def run_hf_fault(path, patch):
        model = hf.load(model_folder, "f32")
        undo = patch(model)
        try:
            with torch.no_grad(), paritrace.capture(model, path):
                model(torch.tensor([tokens]))
        finally:
            undo()

    makers = {
        "hf": lambda path: hf.run(model_folder, path, tokens=tokens, dtype="f32", decode=1),
        "hf-bf16": lambda path: hf.run(model_folder, path, tokens=tokens, dtype="bf16", decode=1),
        "llamacpp": lambda path: run_llamacpp(path, "f32"),
        "llamacpp-q8_0": lambda path: run_llamacpp(path, "q8_0"),
        "llamacpp-unpermuted": lambda path: run_llamacpp(path, "unpermuted"),
        "onnx": lambda path: onnx_adapter.run(exported, path, tokens=tokens),
        "jax": run_jax,
        "hf-rope": lambda path: run_hf_fault(path, rope_missing_in_layer_2),
        "hf-embed": lambda path: run_hf_fault(path, embedding_scaled),
    }

    def trace(name):
        path = folder / name
        if not path.exists():
            makers[name](path)
        return path

    return trace


def rope_missing_in_layer_2(model):
    real, calls = modeling_llama.apply_rotary_pos_emb, []

    def faulty(q, k, cos, sin, **options):
        calls.append(None)
        return (q, k) if len(calls) == 3 else real(q, k, cos, sin, **options)

    modeling_llama.apply_rotary_pos_emb = faulty
    return lambda: setattr(modeling_llama, "apply_rotary_pos_emb", real)


def embedding_scaled(model):
    model.model.embed_tokens.weight.data *= 3
    return lambda: None


def unreadable(word):
    """The same for the same word, and without meaning."""
    return "".join(chr(ord("a") + byte % 26) for byte in hashlib.sha1(word.encode()).digest()[:7])


# How names are made unreadable. "running": nothing is left but the order. "words": as in an engine whose vocabulary nobody
# knows; what repeats from layer to layer, and the layer's number, are still there.
RENAME = {
    "running": lambda index, name: f"t{index:04d}",
    "words": lambda index, name: "eng/" + re.sub("[A-Za-z]+", lambda match: unreadable(match[0]), name),
}


class Stripped:
    """A copy of a trace without sites, and what each of its new names stands for."""

    def __init__(self, source, target, how):
        shutil.copytree(source, target)
        self.path, self.entries = target, {}
        lines, places = [], {}
        known = {(entry.step, entry.name): entry for entry in paritrace.open_trace(source).entries}
        for line in (source / "index.jsonl").read_text().splitlines():
            record = json.loads(line)
            index = places.setdefault(record["name"], len(places))  # a name is the same in every step
            entry = known[record["step"], record["name"]]
            record.pop("site", None)
            record["name"] = RENAME[how](index, record["name"]) if how else record["name"]
            self.entries.setdefault(record["name"], entry)  # the first step stands for all
            lines.append(json.dumps(record))
        if how:
            (target / "index.jsonl").write_text("\n".join(lines) + "\n")


def paritrace_program(*arguments):
    return subprocess.run([sys.executable, "-m", "paritrace", *map(str, arguments)], capture_output=True, text=True)


def align(reference, subject, tmp_path, *options):
    done = paritrace_program("align", reference.path, subject.path, "-o", tmp_path / "map.toml", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return tomllib.loads((tmp_path / "map.toml").read_text())["pair"]


def same_values(a, b):
    """True for a copy: the same values, in the same order or with heads in front instead of tokens."""
    a, b = a.numpy().squeeze(), b.numpy().squeeze()
    if a.size != b.size:
        return False
    layouts = [a, *([a.swapaxes(0, 1)] if a.ndim == 3 else [])]
    return any(np.array_equal(layout.reshape(-1), b.reshape(-1)) for layout in layouts) or (
        b.ndim == 3 and np.array_equal(a.reshape(-1), b.swapaxes(0, 1).reshape(-1))
    )


def judge(reference, subject, pairs):
    """(share of the rules' pairs that were found, wrong pairs, pairs of tensors that no rule maps).

    A pair with a copy of the right tensor is that pair: `layers.0.out` is `layers.1.in`. Wrong is a pair whose two sites
    are not the same, and a tensor without a site that is no copy of what the rules pair with its partner.
    """

    def by_site(stripped):
        sites = {}
        for entry in stripped.entries.values():
            if entry.site:
                sites.setdefault((entry.step, entry.site), entry)
        return sites

    ours, theirs = by_site(reference), by_site(subject)
    wanted, found, wrong, unmapped = set(ours) & set(theirs), set(), [], []
    for pair in pairs:
        a, b = reference.entries[pair["reference"]], subject.entries[pair["subject"]]
        # Each site that `a` is a copy of, with what the rules pair with it.
        sites = [key for key in wanted if key[0] == a.step and same_values(a, ours[key])]
        right = [key for key in sites if same_values(b, theirs[key])]
        found.update(right)
        if right:
            continue
        (wrong if sites or (b.site and a.site) else unmapped).append((a.name, b.name, pair["confidence"]))
    return len(found) / len(wanted), wrong, unmapped


@pytest.mark.parametrize(
    "how", [("running", "running"), (None, "running"), (None, "words"), ("words", "words")], ids=str
)
@pytest.mark.parametrize("engine", ["llamacpp", "onnx", "jax"])
def test_nearly_all_pairs_of_the_rules_and_none_wrongly(traces, tmp_path, engine, how, record_property):
    reference = Stripped(traces("hf"), tmp_path / "r", how[0])
    subject = Stripped(traces(engine), tmp_path / "s", how[1])
    share, wrong, unmapped = judge(reference, subject, align(reference, subject, tmp_path))
    record_property("found", share)
    assert wrong == []
    assert share >= FOUND
    # What no rule maps pairs only where it truly is the same: HF's rotary tables and activation, as ONNX computes them.
    if engine == "onnx":
        assert {a.rsplit(".", 1)[-1].split(":")[0] for a, _, _ in unmapped} <= {"rotary_emb", "act_fn", "self_attn"}
    else:
        assert unmapped == []


@pytest.mark.parametrize("how", ["running", "words"])
@pytest.mark.parametrize("pair", [("hf", "llamacpp-q8_0"), ("hf-bf16", "llamacpp"), ("hf-bf16", "jax")], ids="-".join)
def test_other_precisions(traces, tmp_path, pair, how):
    reference, subject = (Stripped(traces(name), tmp_path / name, how) for name in pair)
    share, wrong, _ = judge(reference, subject, align(reference, subject, tmp_path))
    assert wrong == []
    assert share >= FOUND


@pytest.mark.parametrize("how", ["running", "words"])
@pytest.mark.parametrize("engine", ["llamacpp-unpermuted", "hf-rope", "hf-embed"])
def test_where_the_values_diverge_order_and_names_carry(traces, tmp_path, engine, how):
    """Half of all pairs or more; what is not sure is a comment, never a wrong pair. Where a mistake at the very start spoils
    all values and names say nothing, only the order is left: then few pairs are sure.
    """
    reference, subject = Stripped(traces("hf"), tmp_path / "r", how), Stripped(traces(engine), tmp_path / "s", how)
    share, wrong, _ = judge(reference, subject, align(reference, subject, tmp_path))
    assert wrong == []
    assert share >= (0.5 if how == "words" or engine == "hf-rope" else 0.1)


def test_diff_uses_the_map_and_only_the_map(traces, tmp_path):
    reference = Stripped(traces("hf"), tmp_path / "r", None)
    subject = Stripped(traces("jax"), tmp_path / "s", "running")
    done = paritrace_program("diff", reference.path, subject.path)
    assert done.returncode == 3
    assert "paritrace align" in done.stdout

    pairs = align(reference, subject, tmp_path)
    done = paritrace_program(
        "diff",
        reference.path,
        subject.path,
        "--map",
        tmp_path / "map.toml",
        "--json",
        tmp_path / "diff.json",
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    sites = json.loads((tmp_path / "diff.json").read_text())["sites"]
    compared = [site for site in sites if site["status"] in ("identical", "within_noise")]
    assert {site["site"] for site in compared} >= {"embed", "layers.0.attn.q_rope", "layers.4.attn.scores", "logits"}
    assert len(compared) == len(pairs)


def test_a_mistake_is_found_through_the_map(traces, tmp_path):
    reference = Stripped(traces("hf"), tmp_path / "r", None)
    subject = Stripped(traces("hf-rope"), tmp_path / "s", "words")
    align(reference, subject, tmp_path)
    done = paritrace_program(
        "diff", reference.path, subject.path, "--map", tmp_path / "map.toml", "--json", "-", "--quiet"
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["first_divergence"]["site"] == "layers.2.attn.q_rope"


def test_other_tokens_are_said_first(traces, tmp_path):
    reference = Stripped(traces("hf"), tmp_path / "r", None)
    subject = Stripped(traces("jax"), tmp_path / "s", "running")
    header = json.loads((subject.path / "trace.json").read_text())
    header["run"]["tokens"][0].insert(0, 1)
    (subject.path / "trace.json").write_text(json.dumps(header))
    done = paritrace_program("align", reference.path, subject.path, "-o", tmp_path / "map.toml")
    assert done.returncode == 3
    assert "one token more in front, 1" in done.stderr
    assert not (tmp_path / "map.toml").exists()
