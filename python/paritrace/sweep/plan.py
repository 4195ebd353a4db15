"""A plan in TOML, read into scenarios: models x prompts x lengths x engines x arithmetic, in that order.

A scenario is a plain dict, ready for another process or machine. Its `id` is a hash of all that decides what it computes, the
model files' contents included: another plan, or a changed file, is another scenario and runs anew.
"""

import hashlib
import itertools
import json
import random
import tomllib
from pathlib import Path

from paritrace.engines import ENGINES
from paritrace.errors import InputError, first_line

KINDS = (*ENGINES, "command")
CHECKS = ("diagnose", "none")
_TOP = {"time_limit", "lengths", "arithmetic", "decode", "check", "model", "prompt", "engine"}
_MODEL = {"name", "path", "reference", "vocabulary"}
_PROMPT = {"name", "tokens", "text", "seed"}
_ENGINE = {"name", "kind", "command", "arithmetic", "options"}
_WHOLE_FILE = 64 << 20  # larger files are known by their size, start and end


class _Reader:
    def __init__(self, path):
        self.path = Path(path)
        try:
            with open(path, "rb") as file:
                self.raw = tomllib.load(file)
        except OSError as error:
            raise InputError(path, "", "a plan", error.strerror) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(path, "", "TOML", first_line(error)) from None

    def fail(self, place, expected, found):
        raise InputError(self.path, place, expected, found)

    def keys(self, table, allowed, place):
        for key in table:
            if key not in allowed:
                self.fail(place, f"one of {', '.join(sorted(allowed))}", f"{key!r}")

    def tables(self, key, allowed=None):
        entries = self.raw.get(key)
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            self.fail(key, f"[[{key}]] tables", "none" if entries is None else "something else")
        names = [entry.get("name") for entry in entries]
        for place, name in enumerate(names):
            if not isinstance(name, str) or not name:
                self.fail(f"{key}[{place}].name", "a name", repr(name))
            if names.index(name) != place:
                self.fail(f"{key}[{place}].name", "a name of its own", repr(name))
            if allowed:
                self.keys(entries[place], allowed, f"{key} {name!r}")
        return entries

    def number(self, key, default, least=0):
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
            self.fail(key, f"a number of at least {least}", repr(value))
        return value

    def strings(self, value, place):
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            self.fail(place, "a list of names", repr(value))
        return value

    def file(self, text, place):
        """A path relative to the plan. It must exist now: a typing mistake should not cost a night."""
        if not isinstance(text, str):
            self.fail(place, "a path", repr(text))
        path = (self.path.parent / text).resolve()
        if not path.exists():
            self.fail(place, "a file or folder that exists", text)
        return path


def read_plan(path):
    """The scenarios of a plan, in its order. Errors: InputError naming the place in the plan; of a tokenizer for `text`."""
    reader = _Reader(path)
    reader.keys(reader.raw, _TOP, "top level")
    lengths = reader.raw.get("lengths", [0])
    if not isinstance(lengths, list) or not lengths or not all(type(n) is int and n >= 0 for n in lengths):
        reader.fail("lengths", "a list of token counts (0: the whole prompt)", repr(lengths))
    common = {
        "time_limit": reader.number("time_limit", 600, 0.001),
        "decode": int(reader.number("decode", 0)),
        "check": reader.raw.get("check", "diagnose"),
    }
    if common["check"] not in CHECKS:
        reader.fail("check", " or ".join(CHECKS), repr(common["check"]))
    default_arithmetic = reader.strings(reader.raw.get("arithmetic", ["f32"]), "arithmetic")
    engines = _engines(reader, default_arithmetic)
    kinds = {engine["name"] for engine in engines}
    prints = {}
    scenarios = []
    for model in reader.tables("model", None):
        reader.keys(model, _MODEL | kinds, f"model {model['name']!r}")
        for prompt, length in itertools.product(reader.tables("prompt", _PROMPT), lengths):
            tokens = _tokens(reader, model, prompt, length)
            for engine in engines:
                for arithmetic in engine["arithmetic"]:
                    scenarios.append(_scenario(reader, common, model, prompt, tokens, engine, arithmetic, prints))
    seen = {}
    for scenario in scenarios:
        if (other := seen.setdefault(scenario["id"], scenario)) is not scenario:
            reader.fail("plan", "scenarios that differ", f"{label(other)} and {label(scenario)}, which are the same")
    return scenarios


def label(scenario):
    """A scenario for people."""
    return (
        f"{scenario['model']} {scenario['prompt']} {scenario['length']} {scenario['engine']} {scenario['arithmetic']}"
    )


def _engines(reader, default_arithmetic):
    engines = []
    for entry in reader.tables("engine", _ENGINE):
        place = f"engine {entry['name']!r}"
        kind = entry.get("kind", entry["name"])
        if kind not in KINDS:
            reader.fail(f"{place}.kind", " or ".join(KINDS), repr(kind))
        if (kind == "command") != ("command" in entry):
            reader.fail(place, "`command` for the kind command, and only there", repr(entry))
        command = list(reader.strings(entry["command"], f"{place}.command")) if kind == "command" else []
        if command and "/" in command[0]:  # else it is looked for in PATH
            command[0] = str(reader.file(command[0], f"{place}.command"))
        options = entry.get("options", [])
        if options:
            reader.strings(options, f"{place}.options")
        arithmetic = reader.strings(entry.get("arithmetic", default_arithmetic), f"{place}.arithmetic")
        engines.append({
            "name": entry["name"], "kind": kind, "command": command, "options": options, "arithmetic": arithmetic,
        })  # fmt: skip
    return engines


def _path_for(reader, model, engine, arithmetic):
    """The file that an engine runs: its own entry in the model (a path, or one by arithmetic), else the model's path."""
    own = model.get(engine["name"], model.get("path"))
    if isinstance(own, dict):
        own = own.get(arithmetic)
    return reader.file(own, f"model {model['name']!r}.{engine['name']}") if own is not None else None


def _scenario(reader, common, model, prompt, tokens, engine, arithmetic, prints):
    path = _path_for(reader, model, engine, arithmetic)
    reference = model.get("reference")
    reference = reader.file(reference, f"model {model['name']!r}.reference") if reference else path
    scenario = {
        "model": model["name"], "prompt": prompt["name"], "length": len(tokens), "engine": engine["name"],
        "arithmetic": arithmetic, "kind": engine["kind"], "command": engine["command"], "options": engine["options"],
        "path": str(path) if path else None, "reference": str(reference) if reference else None, "tokens": tokens,
        **common,
    }  # fmt: skip
    # Where things lie does not decide what they compute; what they hold does.
    for file in (scenario["path"], scenario["reference"], *engine["command"][:1]):
        if file and file not in prints:
            prints[file] = fingerprint(file) if Path(file).is_absolute() else file
    content = scenario | {key: prints.get(scenario[key]) for key in ("path", "reference")}
    content["command"] = [prints[engine["command"][0]], *engine["command"][1:]] if engine["command"] else []
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    folder = str(reader.path.parent.resolve())
    return {"id": hashlib.sha256(canonical.encode()).hexdigest()[:20], **scenario, "folder": folder}


def fingerprint(path):
    """A hash of a file's contents, or of all files directly in a folder. Large files: size, first and last MiB."""
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as data:
            if size <= _WHOLE_FILE:
                digest.update(data.read())
            else:
                digest.update(data.read(1 << 20))
                data.seek(-(1 << 20), 2)
                digest.update(data.read())
    return digest.hexdigest()


def _tokens(reader, model, prompt, length):
    """A prompt's ids at a length: cut, or repeated from its start; 0 leaves them as they are."""
    place = f"prompt {prompt['name']!r}"
    given = [key for key in ("tokens", "text", "seed") if key in prompt]
    if len(given) != 1:
        reader.fail(place, "one of tokens, text, seed", " and ".join(given) or "none")
    if "tokens" in prompt:
        tokens = prompt["tokens"]
        if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
            reader.fail(f"{place}.tokens", "a list of token ids", repr(tokens)[:60])
    elif "text" in prompt:
        tokens = _tokenised(reader, model, prompt["text"], place)
    else:
        vocabulary = model.get("vocabulary")
        if type(vocabulary) is not int or vocabulary < 1 or not length:
            reader.fail(place, "`vocabulary` in each model and lengths above 0, for `seed`", "none")
        rng = random.Random(f"{prompt['seed']}")
        return [rng.randrange(vocabulary) for _ in range(length)]
    return [tokens[place % len(tokens)] for place in range(length)] if length else tokens


def _tokenised(reader, model, text, place):
    from paritrace.tokens.compare import opened

    if not isinstance(text, str):
        reader.fail(f"{place}.text", "a text", repr(text))
    source = model.get("reference", model.get("path"))
    if source is None:
        reader.fail(
            f"model {model['name']!r}", "`path` or `reference`, whose tokenizer reads the prompt's text", "none"
        )
    with opened(reader.file(source, f"model {model['name']!r}")) as tokenizer:
        tokens = tokenizer.encode(text.encode())
    if not tokens:
        reader.fail(f"{place}.text", "a text that makes tokens", repr(text))
    return tokens
