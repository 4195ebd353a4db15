"""Capture of llama.cpp through llama-cpp-python: the graph's evaluation callback shows every node.

The callback answers true to every question, which makes the scheduler compute node by node; the logits stay the same to
the bit (tests/python/test_capture_llamacpp.py). Logits are asked for every token, because else llama.cpp cuts its last
layer down to the last one.
"""

import contextlib
import ctypes
import os
import re
from pathlib import Path

import llama_cpp as api
import numpy as np

from paritrace.errors import InputError, check_tokens, first_line
from paritrace.ggml import Ggml, Tensor
from paritrace.recording import Recording

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # enum llama_flash_attn_type
KV_TYPES = {"f32": 0, "f16": 1}  # enum ggml_type
_MOVES = {"NONE", "RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE"}  # no arithmetic: recorded only where a rule names them
_CACHE_WRITES = {"SET_ROWS"}  # its result is the whole cache
_BY_TOKEN = (
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.q_norm",
    "attn.k_norm",
    "attn.q_rope",
    "attn.k_rope",
    "attn.ctx",
    "moe.weights",
)
_UNNAMED = re.compile(r"node_\d+|leaf_\d+|norm(-\d+)?")


class NodeTap:
    """Receives the nodes of a graph as they are computed, names them, and records them.

    Of several nodes of one site (a product, then its sum with a bias) the last is the site; the earlier ones are written
    as `NAME.partial`. So a node with a site waits until the next one is seen.
    """

    def __init__(self, recording, library):
        self.recording = recording
        self.ggml = Ggml(library)
        self.error = None  # an exception inside the callback, which C cannot pass on
        self.flash_attention = False
        self.weight_types = set()
        self.keys = 0  # positions in the cache, the running step's included
        self._count = 0  # tokens of the running step
        self._checked = False
        self._waiting = []  # [(name, site, array, dtype)]; only the first may have a site
        self.callback = api.ggml_backend_sched_eval_callback(self._on_node)  # must outlive the context

    def _on_node(self, address, asking, _):
        try:
            if not asking:
                self._see(address)
            return True
        except BaseException as error:  # Ctrl-C too: raised again once llama.cpp has returned
            self.error = error
            return False

    def begin_step(self, start, tokens):
        """start: position of the first token; tokens: their ids."""
        self.keys = start + len(tokens)
        self._count = len(tokens)
        self.recording.begin_step(start, [tokens])

    def end_step(self):
        """Writes what waits, and raises what went wrong inside the callback."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        self._release()

    def _see(self, address):
        if not self._checked:
            self.ggml.check_layout(address)
            self._checked = True
        tensor = Tensor.from_address(address)
        op = self.ggml.op(address)
        if op == "FLASH_ATTN_EXT":
            self.flash_attention = True
        if op in _CACHE_WRITES:
            return
        name = self._name(tensor, op)
        site = self.recording.site_of(name)
        if op in _MOVES and not site:
            return
        array, dtype = self.ggml.values(address)
        if array is None:
            return
        if site and self._waiting and self._waiting[0][1] == site:
            self._waiting[0] = (f"{self._waiting[0][0]}.partial", "", *self._waiting[0][2:])
        elif site:
            self._release()
        self._waiting.append((name, site, self._arrange(array, site), dtype))

    def _name(self, tensor, op):
        """The graph's name and the op; a node without a name of its own is called by the weight it uses."""
        weight = None
        for source in tensor.src[:2]:
            if source:
                other = Tensor.from_address(source)
                text = other.name.decode()
                if not other.src[0] and text.endswith((".weight", ".bias")):
                    weight = text
                    if text.endswith(".weight"):
                        self.weight_types.add(self.ggml.type_name(other.type))
        name = tensor.name.decode()
        # A sum with a bias takes the bias's name: in post-norm graphs its own is that of another site.
        if weight and (_UNNAMED.fullmatch(name) or (op == "ADD" and weight.endswith(".bias"))):
            name = weight
        return f"{name}:{op}"

    def _arrange(self, array, site):
        """From [ne3, ne2, ne1, ne0] to the trace's layout: no outer axes of one, heads side by side, keys without padding."""
        if site.endswith(_BY_TOKEN):
            return array.reshape(self._count, -1)  # [tokens, heads, head_dim], or [tokens, k, 1] for expert weights
        while array.ndim > 2 and array.shape[0] == 1:
            array = array[0]
        if site.endswith("attn.probs"):
            # [heads, queries, cells]: the cache is padded, and one sequence fills its cells in order.
            array = array.reshape(-1, *array.shape[-2:])[..., : self.keys]
        return np.ascontiguousarray(array)

    def _release(self):
        for name, site, array, dtype in self._waiting:
            self.recording.record(name, array, site, dtype, list(array.shape))
        self._waiting.clear()

    def run(self):
        """What the header can say only afterwards."""
        return {"flash_attention": self.flash_attention, "weight_types": sorted(self.weight_types)}


class Session:
    """A model and a context of llama.cpp with the tap in place. Use as a context manager.

    path             .gguf
    flash_attention  "auto" (the engine's default), "on", "off"
    kv_type          "f16" (the engine's default) or "f32"
    positions        room in the KV cache
    Errors: InputError if llama.cpp cannot load the file or make the context, with its own last complaint.
    """

    def __init__(self, path, flash_attention="auto", kv_type="f16", positions=512, threads=0, callback=None):
        if not Path(path).is_file():
            raise InputError(path, "model file", "a GGUF", "a folder" if Path(path).is_dir() else "no such file")
        self.path = os.fspath(path)
        self.position = 0
        self._complaints = []
        self._model = self._context = None
        with self._quiet():
            api.llama_backend_init()
            parameters = api.llama_model_default_params()
            parameters.n_gpu_layers = 0
            self._model = api.llama_model_load_from_file(self.path.encode(), parameters)
            if not self._model:
                raise InputError(path, "model file", "a GGUF that llama.cpp loads", self._complaint())
            options = api.llama_context_default_params()
            options.n_ctx = positions
            # A prompt in one piece: a step is one graph.
            options.n_batch = options.n_ubatch = positions
            options.flash_attn_type = FLASH_ATTENTION[flash_attention]
            options.type_k = options.type_v = KV_TYPES[kv_type]
            options.n_threads = options.n_threads_batch = threads or os.cpu_count() or 1
            options.offload_kqv = options.op_offload = False
            # An embedding model has no head; its pooled vector is computed only where embeddings are asked for.
            options.embeddings = self.is_embedding_model = self._pools()
            if callback is not None:
                options.cb_eval = callback
            self._context = api.llama_init_from_model(self._model, options)
            if not self._context:
                complaint = self._complaint()
                self.close()
                raise InputError(path, "context", "one that llama.cpp makes", complaint)
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with self._quiet():
            if self._context:
                api.llama_free(self._context)
            if self._model:
                api.llama_model_free(self._model)
        self._context = self._model = None

    @contextlib.contextmanager
    def _quiet(self):
        """Keeps llama.cpp's log off the terminal, and its errors for our message."""

        @api.llama_log_callback
        def keep(level, text, _):
            if level == 3:  # GGML_LOG_LEVEL_ERROR
                self._complaints.append(text.decode(errors="replace").strip())

        api.llama_log_set(keep, ctypes.c_void_p(0))
        try:
            yield
        finally:
            from llama_cpp._logger import llama_log_callback

            api.llama_log_set(llama_log_callback, ctypes.c_void_p(0))

    def _complaint(self):
        # The first error is the cause; later ones say only that loading failed.
        return first_line(self._complaints[0]) if self._complaints else "an error without a message"

    def _pools(self):
        # enum llama_pooling_type: 0 is none, 1 to 4 are mean, CLS, last and rank
        return self.metadata(f"{self.metadata('general.architecture')}.pooling_type") in ("1", "2", "3", "4")

    def metadata(self, key):
        """A value of the GGUF as text; "" where it is absent."""
        buffer = ctypes.create_string_buffer(1024)
        length = api.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode(errors="replace") if length >= 0 else ""

    def tokenize(self, text):
        """Token ids, with the special tokens that the model asks for."""
        vocabulary = api.llama_model_get_vocab(self._model)
        raw = text.encode()
        buffer = (api.llama_token * (len(raw) + 8))()
        count = api.llama_tokenize(vocabulary, raw, len(raw), buffer, len(buffer), True, True)
        if count < 0:
            raise InputError(
                self.path, "tokenizer", "a tokenizer (or use --tokens)", f"llama_tokenize returned {count}"
            )
        return list(buffer[:count])

    def decode(self, tokens):
        """One forward call. tokens: ids that follow those before. Returns the logits, [tokens, vocabulary] float32.

        Errors: InputError if llama.cpp refuses the batch.
        """
        batch = api.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = self.position + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = 1
            with self._quiet():
                status = api.llama_decode(self._context, batch)
        finally:
            api.llama_batch_free(batch)
        # 2 is an abort: the callback stopped the graph, and its owner knows why.
        if status not in (0, 2):
            raise InputError(self.path, "llama_decode", "status 0", f"{status} ({self._complaint()})")
        self.position += len(tokens)
        values = api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(values, (len(tokens), self.vocabulary)).copy() if values else None


def _library():
    return Path(api.__file__).parent / "lib"


def _header(path, kv_types, text=None):
    """kv_types: {"k": dtype, "v": dtype}; text: a prompt, or a list of them."""
    run = {"arithmetic": "ggml-cpu", "kv_type": kv_types}
    if text:
        run["text"] = [text] if isinstance(text, str) else list(text)
    return {
        "engine": {"name": "llamacpp", "version": api.__version__},
        "model": {"name": Path(path).stem, "architecture": "", "file": os.fspath(path)},
        "run": run,
    }


def run(path, output, tokens=None, text=None, decode=0, flash_attention="auto", kv_type="f16", threads=0, mode="full",
        overwrite=False, progress=None):  # fmt: skip
    """Runs a GGUF on one prompt and `decode` greedy steps, and records every node. Returns the Recording.

    tokens    list of ids; or text, for the model's own tokenizer
    Errors: InputError for a bad file or bad ids; ValueError if the trace cannot be written.
    """
    say = progress or (lambda line: None)
    say(f"loading {path}")
    if tokens is None:
        with Session(path) as session:
            tokens = session.tokenize(text)
    tap = NodeTap(None, _library())
    with Session(path, flash_attention, kv_type, len(tokens) + decode, threads, tap.callback) as session:
        check_tokens(tokens, session.vocabulary)
        header = _header(path, {"k": kv_type, "v": kv_type}, text)
        header["model"]["architecture"] = session.metadata("general.architecture")
        if session.is_embedding_model:
            header["run"]["embeddings"] = True
            if decode:
                raise InputError("--decode", "", "a model that generates", f"{path}, an embedding model")
        recording = tap.recording = Recording(output, header, mode, overwrite)
        try:
            for step in range(decode + 1):
                say(f"decode step {step} of {decode}" if step else f"prefill of {len(tokens)} tokens")
                tap.begin_step(session.position, tokens)
                logits = session.decode(tokens)
                tap.end_step()
                if step < decode:
                    tokens = [int(logits[-1].argmax())]
        except BaseException:
            recording.abandon(tap.run())
            raise
        recording.close(tap.run())
    return recording


@contextlib.contextmanager
def capture(model, path, mode="full", overwrite=False, text=None):
    """Records what a llama_cpp.Llama computes; yields the Recording. Every llama_decode is a step.

    The callback can be set only when a context is made, so the model gets a second context of the same parameters for
    the length of the block, with an empty KV cache; then the old one comes back.
    Errors: ValueError as of Recording. After an exception in the block the trace stays open.
    """
    from llama_cpp._internals import LlamaContext

    tap = NodeTap(None, _library())
    kinds = {value: name for name, value in KV_TYPES.items()}
    parameters = model.context_params
    types = {part: kinds.get(getattr(parameters, f"type_{part}"), "other") for part in "kv"}
    header = _header(model.model_path, types, text)
    header["model"]["architecture"] = model.metadata.get("general.architecture", "")
    recording = tap.recording = Recording(path, header, mode, overwrite)
    saved = {name: getattr(model, name) for name in ("_ctx", "n_tokens", "input_ids", "scores")}
    callback = parameters.cb_eval
    try:
        parameters.cb_eval = tap.callback
        context = LlamaContext(model=model._model, params=parameters, verbose=False)
        model._ctx, model.n_tokens = context, 0
        model.input_ids, model.scores = np.empty_like(model.input_ids), np.empty_like(model.scores)
        decode = context.decode

        def recorded(batch):
            raw = batch.batch
            tokens = [raw.token[index] for index in range(raw.n_tokens)]
            tap.begin_step(raw.pos[0], tokens)
            decode(batch)
            tap.end_step()

        context.decode = recorded
        yield recording
    except BaseException:
        recording.abandon(tap.run())
        raise
    else:
        recording.close(tap.run())
    finally:
        parameters.cb_eval = callback
        if model._ctx is not saved["_ctx"]:
            model._ctx.close()
        for name, value in saved.items():
            setattr(model, name, value)
