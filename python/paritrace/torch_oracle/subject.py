"""The subject's trace, as the forced forward asks for it: by the engine's own name or by site, one step at a time."""

import numpy as np

from paritrace.errors import InputError

MASKED = -1e30  # a score at or below this is masked, however it is written (docs/trace-format.md)


class Subject:
    """trace: of paritrace.reading.open_trace."""

    def __init__(self, trace):
        self.path = trace.path
        self.header = trace.header
        run = trace.header.get("run") or {}
        self.arithmetic = run.get("arithmetic", "")
        self.engine = (trace.header.get("engine") or {}).get("name", "")
        self.tokens = run.get("tokens") or []
        self.count = len(trace.entries)
        self._names, self._sites, self._values = {}, {}, {}
        for entry in trace.entries:
            self._names.setdefault((entry.step, entry.name), entry)
            if entry.site:
                self._sites.setdefault((entry.step, entry.site), entry)
        self.steps = run.get("steps") or [{"step": step, "start": 0, "count": 0} for step in trace.steps]
        self.dtypes = {entry.dtype for entry in trace.entries if entry.dtype.startswith(("f", "bf"))}
        self.used = set()
        self.trace = trace

    def find(self, step, name, site):
        """The entry of a tensor that the oracle calls `name` and knows as `site` ("" for none), or None."""
        entry = self._names.get((step, name))
        if entry is None and site:
            entry = self._sites.get((step, site))
        return entry if entry is not None and entry.has_data else None

    def names(self):
        """(name, site) of every tensor."""
        return [(entry.name, entry.site) for entry in self.trace.entries]

    def inputs(self, step):
        """Entries of what was fed to the model as a whole, by name: `model:in`, `model:in.pixel_values`."""
        return {
            name: entry
            for (own, name), entry in self._names.items()
            if own == step and name.startswith("model:in") and entry.has_data
        }

    def values(self, entry):
        """The values of an entry in f64 or in integers, in the shape they were recorded in."""
        key = entry.seq
        if key not in self._values:
            array = entry.numpy()
            self._values[key] = array.astype(np.float64) if array.dtype.kind == "f" else array
        self.used.add(key)
        return self._values[key]

    def prompts(self, step):
        """Token ids of a step, [sequences][count]. Errors: InputError if the trace does not state them."""
        start, count, first = step["start"], step["count"], step.get("sequence", 0)
        rows = [ids[start : start + count] for ids in self.tokens[first:]]
        # Sequences of one batch are as long as each other; what follows belongs to later prompts.
        rows = [row for row in rows if len(row) == count]
        if count == 0 or not rows:
            raise InputError(self.path, f"step {step['step']}", "token ids in run.tokens of the header", "none")
        later = [other["sequence"] for other in self.steps if other.get("sequence", 0) > first]
        return rows[: min(later) - first] if later else rows


def fit(values, shape):
    """Recorded values in the shape of the computed ones, or (None, reason).

    Leading axes of one do not count; padded keys of scores are left off; fewer rows are the last ones.
    Returns (array, rows): rows is None for all of them, else how many of the last.
    """
    size = int(np.prod(shape))
    if values.size == size:
        return values.reshape(shape), None
    squeezed = [n for n in values.shape if n != 1] or [1]
    if (
        len(squeezed) >= 2
        and len(shape) >= 2
        and squeezed[-1] > shape[-1]
        and values.size * shape[-1] == size * squeezed[-1]
    ):
        return values.reshape(*shape[:-1], squeezed[-1])[..., : shape[-1]], None
    if len(shape) == 2 and values.shape[-1] == shape[-1] and values.size < size:
        return values.reshape(-1, shape[-1]), values.size // shape[-1]
    return None, f"{list(values.shape)} where {list(shape)} is computed"
