"""The JSON Schemas (2020-12) of all outputs, one file each: what a program may rely on. docs/schemas.md lists their keys."""

import json
from pathlib import Path

_FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.stem for file in _FOLDER.glob("*.json")))


def schema(name):
    """The schema of an output, a dict. name: "diff", "diagnosis", …, one of NAMES. Errors: KeyError for another name."""
    if name not in NAMES:
        raise KeyError(f"no schema {name!r}; there are {', '.join(NAMES)}")
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
