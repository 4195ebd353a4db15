"""What a comparison returned: the JSON itself, with what a notebook and a table need."""

import html
import json
from collections.abc import Mapping

# The list that makes the rows of to_pandas(), by schema.
_ROWS = {
    "paritrace/diff/1": "sites",
    "paritrace/diagnosis/1": "noise",
    "paritrace/logits/1": "positions",
    "paritrace/weights/1": "tensors",
    "paritrace/tokens/1": "differences",
}
_COLOURS = {"identical": "#1a6fb0", "within_noise": "#1a6fb0", "diverged": "#a65a00", "incomparable": "#666666"}
_SHOWN = 12


class Result(Mapping):
    """A result as its JSON: `result["sites"]`, `dict(result)`; equal to it, too. Read only.

    exit_code   as the command's: 0 parity, 1 diverged, 3 nothing to compare. True in a condition means parity.
    """

    def __init__(self, values, exit_code):
        self._values = values
        self.exit_code = exit_code

    def __getitem__(self, key):
        return self._values[key]

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __eq__(self, other):
        return self._values == (other._values if isinstance(other, Result) else other)

    __hash__ = None

    def __bool__(self):
        return self.exit_code == 0

    @property
    def verdict(self):
        return self._values["verdict"]

    @property
    def defects(self):
        """Of a diagnosis: the defects in order of execution; [] of anything else."""
        return self._values.get("defects", [])

    def to_json(self, indent=1):
        return json.dumps(self._values, ensure_ascii=False, indent=indent)

    def to_pandas(self, rows=None):
        """A DataFrame of one list of the result: by default the one with a row a site, position, weight or text.

        rows: the list's key, such as "defects". Errors: ImportError without pandas; KeyError for a key that is no list.
        """
        import pandas

        key = rows or _ROWS.get(self._values["schema"])
        if key is None:
            raise KeyError(f"{self._values['schema']} has no list of its own; name one: rows=…")
        value = self
        for part in key.split("."):
            value = value[part]
        if not isinstance(value, list):
            raise KeyError(f"{key} is no list")
        return pandas.json_normalize(value, max_level=1)

    def _summary(self):
        """[(what, where, how to mend it)] of at most _SHOWN causes or sites."""
        values = self._values
        if values["schema"] == "paritrace/diagnosis/1":
            groups = values["summary"][:_SHOWN]
            return [(f"{g['cause']}: {g['statement']}", ", ".join(g["sites"][:6]), g.get("fix", "")) for g in groups]
        if values["schema"] == "paritrace/diff/1":
            wrong = [site for site in values["sites"] if site["status"] == "diverged"][:_SHOWN]
            return [(f"nmse {_short(site['nmse'])}", f"step {site['step']} {site['site']}", "") for site in wrong]
        rows = values.get("causes") or values.get("summary")
        if not isinstance(rows, list):
            return []
        return [
            (row.get("id", row.get("cause", "")), ", ".join(map(str, row.get("weights", []))), row["statement"])
            for row in rows[:_SHOWN]
        ]

    def __repr__(self):
        lines = [f"<{self._values['schema']}: {self.verdict}"]
        lines += [f"  {what}" + (f" at {where}" if where else "") for what, where, _ in self._summary()]
        return "\n".join(lines) + ">"

    def _repr_html_(self):
        """For notebooks: the verdict, and a table of what is wrong."""
        colour = _COLOURS.get(self.verdict, "#666666")
        head = f'<p><b style="color:{colour}">{html.escape(self.verdict)}</b> <code>{html.escape(self._values["schema"])}</code></p>'
        rows = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
            for row in self._summary()
        )
        return f"<div>{head}<table>{rows}</table></div>" if rows else f"<div>{head}</div>"


def _short(value):
    return "not finite" if value is None else f"{value:.2g}"
