"""Capture of ONNX models in ONNX Runtime: every value of the graph becomes an output.

Graph optimisations are off, because they fuse the very nodes that are to be seen. So this shows what the file computes,
op by op; what a fused kernel does differently is not shown.
"""

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from paritrace.errors import InputError, check_tokens, first_line
from paritrace.recording import Recording

_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
}
_ARITHMETIC = {"float32": "ort-f32", "float16": "ort-f16", "float64": "f64"}


class Graph:
    """An ONNX file whose inner values can all be asked for.

    Weights in files beside the model stay there and are read by ONNX Runtime, so that models beyond protobuf's 2 GB work.
    Errors: InputError if the file is missing, broken, or refused by ONNX Runtime.
    """

    def __init__(self, path):
        if not Path(path).is_file():
            raise InputError(path, "model file", "an ONNX file", "a folder" if Path(path).is_dir() else "no such file")
        self.path = os.fspath(path)
        try:
            model = onnx.load(self.path, load_external_data=False)
            own = {value.name for value in model.graph.output}
            self.values = []  # (name to record, name of the value), in the graph's order
            for node in model.graph.node:
                if node.op_type == "Constant":
                    continue
                if node.input and node.input[0]:
                    self.values.append((f"{node.name}:in", node.input[0]))
                self.values.extend((name, name) for name in node.output if name)
            known = own | {name for label, name in self.values if label == name}
            self.values = [(label, name) for label, name in self.values if name in known]
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(known - own))
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 4  # failures come as exceptions
            # The edited graph is handed over as bytes, which say nothing of where its external data are.
            folder = os.path.abspath(os.path.dirname(self.path) or ".")
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            self.opset = {value.domain or "ai.onnx": value.version for value in model.opset_import}
            self.producer = f"{model.producer_name} {model.producer_version}".strip()
            self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(path, "model file", "an ONNX file that ONNX Runtime loads", first_line(error)) from error
        self.outputs = [value.name for value in model.graph.output if value.name in own]

    def feeds(self, tokens, start, past):
        """Values of the graph's inputs for one step.

        tokens  ids that follow `start` earlier ones;  past: outputs of the step before, by name, {} at the start
        Errors: InputError for an input of another kind than those of language models.
        """
        feeds = {}
        for value in self.session.get_inputs():
            kind = _TYPES.get(value.type)
            name = value.name
            if name == "input_ids":
                array = [tokens]
            elif name == "attention_mask":
                array = [[1] * (start + len(tokens))]
            elif name == "position_ids":
                array = [list(range(start, start + len(tokens)))]
            elif name == "token_type_ids":
                array = [[0] * len(tokens)]
            elif name.startswith("past_key_values"):
                array = past.get(name.replace("past_key_values", "present"))
                if array is None:  # [batch, heads, positions, head_dim], of which the file names two
                    array = np.zeros(
                        [size if isinstance(size, int) else int(i == 0) for i, size in enumerate(value.shape)]
                    )
            elif name == "use_cache_branch":
                array = [start > 0]
            else:
                raise InputError(
                    self.path, f"input {name}", "input_ids, attention_mask, position_ids or a KV cache", value.type
                )
            feeds[name] = np.asarray(array, kind)
        return feeds


def _header(graph, run):
    return {
        "engine": {"name": "onnx", "version": onnxruntime.__version__},
        "model": {"name": Path(graph.path).stem, "architecture": "", "file": graph.path, "producer": graph.producer},
        "run": {"graph_optimization": "off", "opset": graph.opset, **run},
    }


class Session:
    """What `capture` yields: run(feeds) is one step. `recording` is the Recording."""

    def __init__(self, graph, recording):
        self._graph = graph
        self.recording = recording
        self.extra = {}

    def run(self, feeds, start=0):
        """Runs the graph on feeds, {input: array}, and records every value. Returns the outputs by name.

        start: position of the step's first token, where the input is text
        Errors: InputError where ONNX Runtime refuses the feeds.
        """
        ids = feeds.get("input_ids")
        self.recording.begin_step(start, [] if ids is None else np.atleast_2d(np.asarray(ids)).tolist())
        outputs = _step(self._graph, self.recording, feeds)
        for value in outputs.values():
            kind = str(getattr(value, "dtype", ""))
            if kind in _ARITHMETIC:
                self.extra["arithmetic"] = _ARITHMETIC[kind]
                break
        return outputs


@contextlib.contextmanager
def capture(path, output, mode="full", overwrite=False):
    """Opens an ONNX file for any inputs, and records each call as a step.

        with paritrace.onnx.capture("model.onnx", "trace/") as session:
            session.run({"pixels": image})
    Errors: InputError for a bad file; ValueError as of Recording. After an exception the trace stays open.
    """
    graph = Graph(path)
    session = Session(graph, Recording(output, _header(graph, {}), mode, overwrite))
    with _open_until_done(session.recording, session.extra):
        yield session


def run_feeds(path, output, feeds, mode="full", overwrite=False, progress=None):
    """Runs an ONNX file once on arrays, {input: array or path of an .npy}. Returns the Recording.

    Errors: as of capture; InputError for an .npy that cannot be read or an input that the model does not have.
    """
    (progress or (lambda line: None))(f"loading {path}")
    arrays = {}
    for name, value in feeds.items():
        try:
            arrays[name] = np.load(value, allow_pickle=False) if isinstance(value, (str, os.PathLike)) else value
        except (OSError, ValueError) as error:
            raise InputError(value, "array", "an .npy of numbers", first_line(error)) from error
    with capture(path, output, mode, overwrite) as session:
        session.run(arrays)
    return session.recording


def run(path, output, tokens, decode=0, mode="full", overwrite=False, progress=None):
    """Runs an ONNX language model on one prompt and `decode` greedy steps, and records every value. Returns the Recording.

    Errors: InputError for a bad file, or `decode` of a file without a KV cache; ValueError if the trace cannot be written.
    """
    say = progress or (lambda line: None)
    say(f"loading {path}")
    graph = Graph(path)
    inputs = [value.name for value in graph.session.get_inputs()]
    if "input_ids" not in inputs:
        raise InputError(path, "inputs", "input_ids (or use --input)", ", ".join(inputs) or "none")
    if decode and not any(name.startswith("past_key_values") for name in inputs):
        raise InputError("--decode", "", "a model with inputs past_key_values", path)
    check_tokens(tokens, 2**31)
    graph.feeds(tokens, 0, {})  # an input of another kind is refused before a trace is begun
    session = Session(graph, Recording(output, _header(graph, {}), mode, overwrite))
    start, past = 0, {}
    with _open_until_done(session.recording, session.extra):
        for step in range(decode + 1):
            say(f"decode step {step} of {decode}" if step else f"prefill of {len(tokens)} tokens")
            past = session.run(graph.feeds(tokens, start, past), start)
            start += len(tokens)
            if step < decode:
                tokens = [int(past[graph.outputs[0]][0, -1].argmax())]
    return session.recording


@contextlib.contextmanager
def _open_until_done(recording, extra):
    try:
        yield
    except BaseException:
        recording.abandon(extra)
        raise
    recording.close(extra)


def _step(graph, recording, feeds):
    """Runs one call and records it. Returns the graph's own outputs by name."""
    names = list(dict.fromkeys(name for _, name in graph.values))
    try:
        results = dict(zip(names, graph.session.run(names, feeds)))
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise InputError(graph.path, "run", "outputs", first_line(error)) from error
    sites = {label: recording.site_of(label) for label, _ in graph.values}
    last = {site: label for label, site in sites.items() if site}  # of a product and its biased sum, the sum
    for label, name in graph.values:
        site, value = sites[label], results[name]
        if not isinstance(value, np.ndarray) or value.dtype == object or (label != name and not site):
            continue
        if site and last[site] != label:
            label, site = f"{label}.partial", ""
        recording.record(label, _arrange(value, site), site)
    return {name: results[name] for name in graph.outputs if name in results}


def _arrange(value, site):
    """[1, heads, tokens, head_dim] of q and k to [tokens, heads*head_dim]; no batch axis of one."""
    if site.endswith(("attn.q_rope", "attn.k_rope")) and value.ndim == 4:
        value = value.swapaxes(1, 2).reshape(*value.shape[:1], value.shape[2], -1)
    elif site.endswith(("attn.q_norm", "attn.k_norm")) and value.ndim == 4:
        value = value.reshape(*value.shape[:2], -1)
    if value.ndim > 2 and value.shape[0] == 1:
        value = value[0]
    return np.ascontiguousarray(value)
