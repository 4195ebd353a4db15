"""The cases of the bench: every combination that the files of catalogue/ stand for."""

import itertools
import random
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import models

CATALOGUE = Path(__file__).resolve().parent / "catalogue"
FILES = ("hf", "families", "gguf", "jax", "onnx")
WHOLE_NAMES = {"embed", "embed.norm", "final_norm", "logits"}
PROMPT = [7, 131, 262, 44, 44, 9, 201, 288, 65, 17, 90, 150, 3, 77, 222, 131, 5, 260, 31, 99, 180, 12, 250, 66]


@dataclass
class Case:
    """One run: a model with no, one or two mistakes, and what is right to say of it."""

    name: str
    engine: str  # "hf", "llama.cpp", "jax", "onnx"
    model: str
    arithmetic: str  # for llama.cpp the type of the file's matrices
    recorded: str = "all"  # what of the trace is kept, as engines.reduce has it
    faults: list = field(default_factory=list)  # [(function, parameters, layers)]
    causes: list = field(default_factory=list)  # [(ids that are right, sites, found or None)]
    real: list = field(default_factory=list)
    attention: str = "eager"
    tokens: list = field(default_factory=lambda: list(PROMPT))
    decode: int = 0
    against: str = ""  # "folder": a GGUF judged against the Hugging Face folder it came from


def prompt(count):
    """`count` ids; the prompt of the bench as far as it goes."""
    return (PROMPT + random.Random(count).choices(range(models.SIZES["vocab_size"]), k=max(0, count - 24)))[:count]


def sites_of(roles, layers):
    return list(dict.fromkeys(role if role in WHOLE_NAMES else f"layers.{i}.{role}" for i in layers for role in roles))


def sites_shown(entry, layers, recorded):
    """Where a mistake shows in what was recorded of the run."""
    if recorded == "modules":
        return sites_of(entry["modules"], layers)
    if recorded.startswith("layers"):
        return ["embed" if s == "embed" else "logits" if s in WHOLE_NAMES else ".".join([*s.split(".")[:2], "out"])
                for s in sites_of(entry["sites"], layers)]  # fmt: skip
    return ["logits"] if recorded == "logits" else sites_of(entry["sites"], layers)


def load(name):
    """The entries of one file of the catalogue, with its defaults filled in."""
    table = tomllib.loads((CATALOGUE / f"{name}.toml").read_text())
    return [{"engine": table["engine"], "recorded": ["all"]} | table["defaults"] | entry for entry in table["fault"]]


def part_of(entry, model, recorded):
    """(function, parameters, layers), (ids, sites, found) of an entry."""
    layers = entry.get("layers", list(range(models.layers_of(model))))
    ids = {entry["cause"], *entry.get("also", [])}
    return (entry["fault"], entry.get("with", {}), layers), (
        ids,
        sites_shown(entry, layers, recorded),
        entry.get("found"),
    )


def of_entry(entry):
    for model, arithmetic, recorded in itertools.product(entry["models"], entry["arithmetic"], entry["recorded"]):
        fault, cause = part_of(entry, model, recorded)
        what = "".join(f" {value}" for value in entry.get("with", {}).values())
        layers = f" layers {entry['layers']}" if "layers" in entry else ""
        yield Case(
            f"{entry['engine']} {entry['fault']}{what}{layers}, {model} {arithmetic} {recorded}",
            entry["engine"], model, arithmetic, recorded, [fault], [cause], entry.get("real", []),
            tokens=prompt(entry.get("tokens", 24)), decode=entry.get("decode", 0),
        )  # fmt: skip


def of_pair(pair, entries):
    engine = pair.get("engine", "hf")
    chosen = [next(e for e in entries if e["engine"] == engine and e["fault"] == name) for name in pair["both"]]
    model = pair.get("model") or next(
        m for m in [*chosen[0]["models"], "llama"] if m in [*chosen[1]["models"], "llama"]
    )
    for arithmetic in pair.get("arithmetic", ["f32", "bf16"]):
        parts = [part_of(entry, model, "all") for entry in chosen]
        yield Case(
            f"{engine} {' and '.join(pair['both'])}, {model} {arithmetic}",
            engine, model, arithmetic, "all", [part[0] for part in parts], [part[1] for part in parts],
        )  # fmt: skip


def faulty():
    entries = [entry for name in FILES for entry in load(name)]
    for entry in entries:
        yield from of_entry(entry)
    for pair in tomllib.loads((CATALOGUE / "pairs.toml").read_text())["pair"]:
        yield from of_pair(pair, entries)


def clean():
    for row in tomllib.loads((CATALOGUE / "clean.toml").read_text())["clean"]:
        for model, arithmetic, recorded, attention, against in itertools.product(
            row["models"], row["arithmetic"], row.get("recorded", ["all"]), row.get("attention", ["eager"]),
            row.get("against", [""]),
        ):  # fmt: skip
            flash = f" flash {attention}" if row["engine"] == "llama.cpp" else f" {attention}".replace(" eager", "")
            length = f" {row['tokens']}+{row.get('decode', 0)} tokens" if "tokens" in row else ""
            source = " against its folder" if against else ""
            yield Case(
                f"clean {row['engine']}, {model} {arithmetic} {recorded}{flash}{length}{source}",
                row["engine"], model, arithmetic, recorded, attention=attention,
                tokens=prompt(row.get("tokens", 24)), decode=row.get("decode", 0), against=against,
            )  # fmt: skip
