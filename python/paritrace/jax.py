"""Capture of JAX programs: `tap(name, x)` hands x on unchanged and records it, under jit too.

    with paritrace.jax.capture("trace/", tokens=[[1, 403, 407]]):
        logits = model(parameters, ids)          # calls tap("layers.0.attn.q", q) and so on

Outside a capture `tap` costs nothing: it is decided when a function is traced. A function jitted before the capture, or
inside another one, is therefore traced again: capture() clears jax's compiled functions at both ends.
"""

import contextlib
import functools
import threading

import jax
import numpy as np

from paritrace.errors import InputError
from paritrace.recording import Recording
from paritrace.user_code import load_function

_RAW_TYPES = {
    "bfloat16": (np.uint16, "bf16"),
    "float8_e4m3fn": (np.uint8, "f8_e4m3"),
    "float8_e5m2": (np.uint8, "f8_e5m2"),
}
_ARITHMETIC = {"float32": "jax-f32", "bfloat16": "jax-bf16", "float16": "jax-f16", "float64": "f64"}

_lock = threading.Lock()
_recording = None
_dtypes = set()


def tap(name, x):
    """Records x under a name, which is best a site ("layers.3.attn.q"). Returns x itself.

    x: an array or a tracer, in the layout of the trace: activations [tokens, features], scores [heads, queries, keys].
    Under vmap the mapped calls come one by one; under scan, every round is one record, named NAME, NAME#2, ...
    """
    if _recording is not None:
        jax.debug.callback(functools.partial(_record, name), x, ordered=True)
    return x


def _record(name, value):
    value = np.asarray(value)
    with _lock:
        recording = _recording
        if recording is None:
            return
        shape = list(value.shape[1:] if value.ndim > 2 and value.shape[0] == 1 else value.shape)
        raw, dtype = _RAW_TYPES.get(str(value.dtype), (None, None))
        if np.issubdtype(value.dtype, np.floating) or dtype:
            _dtypes.add(str(value.dtype))
        value = np.ascontiguousarray(value)
        recording.record(name, value.view(raw) if raw else value, dtype=dtype, shape=shape)


@contextlib.contextmanager
def capture(path, tokens=None, model=None, mode="full", overwrite=False):
    """Records every tap in the block as one step; `next_step()` begins another. Yields the Recording.

    tokens  one list of ids a sequence, of the first step
    model   dict for the header's "model": name, architecture, file
    Errors: ValueError as of Recording; RuntimeError if a capture is already running.
    """
    global _recording
    if _recording is not None:
        raise RuntimeError("paritrace.jax.capture: a capture is already running")
    header = {"engine": {"name": "jax", "version": jax.__version__}, "model": dict(model or {}), "run": {}}
    recording = Recording(path, header, mode, overwrite)
    recording.begin_step(0, tokens or [])
    _dtypes.clear()
    jax.clear_caches()
    _recording = recording
    try:
        yield recording
        jax.effects_barrier()
    except BaseException:
        with _lock:
            _recording = None
        recording.abandon()
        raise
    finally:
        with _lock:
            _recording = None
        jax.clear_caches()
    kinds = {_ARITHMETIC[dtype] for dtype in _dtypes if dtype in _ARITHMETIC}
    recording.close({"arithmetic": kinds.pop()} if len(kinds) == 1 else None)


def record_intermediates(intermediates, prefix=""):
    """Records what Flax's capture_intermediates collected, named by module path: `layers_0/attn/q`.

        logits, state = model.apply(variables, ids, capture_intermediates=True, mutable=["intermediates"])
        paritrace.jax.record_intermediates(state["intermediates"])

    intermediates  nested dictionaries of tuples of arrays, as Flax's sow makes them; `__call__` is the module itself, a
                   module's second call is NAME#2. Order is Flax's: by name, not by execution.
    """
    for key, value in intermediates.items():
        name = prefix if key == "__call__" else f"{prefix}/{key}" if prefix else str(key)
        if hasattr(value, "items"):
            record_intermediates(value, name)
        else:
            for leaf in jax.tree_util.tree_leaves(value):
                tap(name or "__call__", leaf)


def run(function, output, tokens, mode="full", overwrite=False, progress=None):
    """Calls function(ids) once, ids an int32 array [1, tokens], and records its taps. Returns the Recording.

    function  a callable, or "FILE.py:NAME" for one that is defined there. If it returns (result, state) and state has Flax's
              "intermediates", those are recorded, too.
    Errors: InputError for a file or name that is not there; ValueError as of Recording.
    """
    (progress or (lambda line: None))(f"running {function}")
    if isinstance(function, str):
        function = load_function(function)
    with capture(output, tokens=[list(tokens)], mode=mode, overwrite=overwrite) as recording:
        result = function(np.asarray([tokens], np.int32))
        state = result[1] if isinstance(result, tuple) and len(result) == 2 else None
        if hasattr(state, "get") and state.get("intermediates"):
            record_intermediates(state["intermediates"])
    if recording.count == 0:
        raise InputError(output, "trace", "a function that calls paritrace.jax.tap", "no tap")
    return recording


def next_step(start, tokens):
    """Begins the next forward call. start: position of its first token; tokens: one list of ids a sequence."""
    jax.effects_barrier()
    if _recording is not None:
        _recording.begin_step(start, tokens)
