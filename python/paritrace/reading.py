"""Reading traces back in Python: the C++ reader with its header as a dict."""

import json

from paritrace import _core


class Trace:
    """An opened trace: `header` (dict), `entries` (in order of execution), `steps`, `complete`, `path`."""

    def __init__(self, opened):
        self._opened = opened
        self.header = json.loads(opened.header_json) or {}
        self.entries = opened.entries

    @property
    def path(self):
        return self._opened.path

    @property
    def complete(self):
        return self._opened.complete

    @property
    def steps(self):
        return self._opened.steps

    def find(self, site, step=0):
        """The first entry of that site and step, or None."""
        return self._opened.find(site, step)

    def values(self, site, step=0):
        """The values of a site as an array. Errors: KeyError if the trace has no such site."""
        entry = self.find(site, step)
        if entry is None:
            raise KeyError(f"{self.path}: step {step}: no site {site}")
        return entry.numpy()

    def __len__(self):
        return len(self.entries)

    def __repr__(self):
        return f"<Trace {self.path}: {len(self.entries)} tensors, steps {self.steps}>"


def open_trace(path):
    """Opens a trace directory or any `.safetensors` file. Errors: ValueError naming the file, the place, what was found."""
    return Trace(_core.open_trace(str(path)))
