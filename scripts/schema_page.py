"""docs/schemas.md, from the schemas of python/paritrace/schemas/: one table an output, a row a key."""

import json
from pathlib import Path

SCHEMAS = Path(__file__).resolve().parents[1] / "python/paritrace/schemas"
ORDER = (
    "diff",
    "diagnosis",
    "logits",
    "growth",
    "weights",
    "tokens",
    "show",
    "doctor",
    "receipt",
    "trace",
    "index",
    "map",
)


def _type(schema):
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " ".join(f"`{json.dumps(word)}`" for word in schema["enum"])
    kinds = schema.get("type", "object" if "$ref" in schema else "any")
    return " or ".join(kinds) if isinstance(kinds, list) else kinds


def _rows(schema, root, prefix=""):
    if "$ref" in schema:
        if prefix != "reference.":  # both headers are alike: one of them is spelled out
            return
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for key, value in schema.get("properties", {}).items():
        path, inner = f"{prefix}{key}", value
        while inner.get("type") == "array" or (isinstance(inner.get("type"), list) and "items" in inner):
            path, inner = f"{path}[]", inner["items"]
        yield path, _type(value), value.get("description", ""), key in schema.get("required", [])
        yield from _rows(inner, root, f"{path}.")


def page():
    """The page as Markdown."""
    lines = [
        "# JSON outputs and their schemas",
        "",
        "Written by `make shell-files` from the JSON Schemas (2020-12) that the package ships in `paritrace/schemas/`. Tests hold real",
        "outputs against them. An object admits only the keys that stand here; headers of traces and tokenizers may hold more, which",
        "their writers put there. `*`: always there. Version numbers (`paritrace/diff/1`) change where a key goes or means something else,",
        "not where one is added.",
        "",
        "```python",
        "import json, jsonschema, paritrace",
        "",
        'jsonschema.validate(json.load(open("result.json")), paritrace.schema("diff"))',
        "```",
    ]
    for name in ORDER:
        schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
        lines += [
            "",
            f"## `{name}`",
            "",
            f"`{schema['title']}`."
            if schema["title"].startswith("paritrace")
            else f"{schema['title'][0].upper()}{schema['title'][1:]}.",
            "",
            "| key | type | what |",
            "|---|---|---|",
        ]
        for path, kind, text, required in _rows(schema, schema):
            lines.append(f"| `{path}`{'*' if required else ''} | {kind} | {text} |")
    return "\n".join(lines) + "\n"
