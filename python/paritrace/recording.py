"""What every adapter needs between an engine and a trace: names to sites, repeated names, steps and their tokens.

Kept apart from the engines so that all of them number steps and spell names the same way.
"""

import json

from paritrace import _core


class Recording:
    """One trace being written.

    path       directory, or a file that ends in `.safetensors`
    header     dict: the keys of trace.json known at the start; header["engine"]["name"] picks the naming rules
    mode       "full", "digest" or "stats"
    Errors: ValueError if the path exists (without `overwrite`) or cannot be written.
    """

    def __init__(self, path, header, mode="full", overwrite=False):
        self.path = str(path)
        self._engine = header["engine"]["name"]
        self.step = -1
        self.count = 0
        self.tokens = []  # one list a sequence
        self.steps = []
        self._run = dict(header.get("run", {}))
        self._first = 0  # index of the first sequence of the running batch
        self._sites = {}
        self._seen = {}
        self._writer = _core.TraceWriter(self.path, json.dumps(header), mode, overwrite)

    def begin_step(self, start, tokens):
        """Starts the next forward call.

        start   position of its first token
        tokens  one list of ids a sequence ([sequences][count]); [] where unknown
        A step at position 0 starts new sequences, any other continues the last ones.
        """
        self.step += 1
        self._seen.clear()
        if start == 0 or len(tokens) != self._batch():
            self._first = len(self.tokens)
            self.tokens.extend([] for _ in tokens)
        for sequence, ids in zip(self.tokens[self._first :], tokens):
            sequence.extend(int(token) for token in ids)
        step = {"step": self.step, "start": int(start), "count": len(tokens[0]) if tokens else 0}
        if self._first:  # several independent prompts in one trace
            step["sequence"] = self._first
        self.steps.append(step)

    def _batch(self):
        return len(self.tokens) - self._first if self.steps else -1

    def site_of(self, name):
        """The site that the engine's rules give a name; "" where none does."""
        if name not in self._sites:
            self._sites[name] = _core.site_of(self._engine, name) or ""
        return self._sites[name]

    def record(self, name, array, site=None, dtype=None, shape=None):
        """Records one tensor; its memory may change afterwards. A name seen before in this step gets `#2`, `#3`, ...

        array         NumPy array of any strides; dtype and shape reinterpret its bytes (see TraceWriter.record)
        site          None: by the rules; "" for none
        """
        if self.step < 0:
            self.begin_step(0, [])
        occurrence = self._seen[name] = self._seen.get(name, 0) + 1
        if occurrence > 1:  # the site belongs to the first; the rules match no `#`
            name, site = f"{name}#{occurrence}", ""
        if site is None:
            site = self.site_of(name)
        self._writer.record(self.step, name, site, array, dtype, shape)
        self.count += 1

    def use_openmp(self, library, threads):
        """What this thread records is looked at on `threads` threads of the OpenMP library it computes with: a file of a libgomp
        that is loaded. Before the first tensor."""
        self._writer.use_openmp(library, threads)

    def flush(self):
        """Waits until all that was recorded is in the files. Errors: ValueError if it could not be written."""
        self._writer.flush()

    def close(self, run=None):
        """Completes the trace; `run` adds to the header's "run". Nothing may be recorded afterwards."""
        self._write_run(run)
        self._writer.close()
        self._writer = None

    def abandon(self, run=None):
        """Leaves the trace open (interrupted, or the engine failed), with what is known of the run."""
        if self._writer is not None:
            self._write_run(run)
            self._writer = None

    def _write_run(self, run):
        # Whole, not only what is new: merging may replace "run" at one stroke.
        self._run |= {"tokens": self.tokens, "steps": self.steps, **(run or {})}
        self._writer.update_header(json.dumps({"run": self._run}))
