"""The vocabulary of a GGUF in llama.cpp's own tokenizer, through llama-cpp-python."""

import base64
import contextlib
import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile

from paritrace.errors import InputError, first_line
from paritrace.tokens import pieces
from paritrace.tokens.base import Refused, Tokenizer

_ROOM = 256  # bytes for a piece, to begin with


class _Worker:
    """llama_worker.py, fed text by text."""

    def __init__(self, path):
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paritrace.tokens.llama_worker", path], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._said, env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        )  # fmt: skip

    def ask(self, raw, special):
        """The ids, or None if the process did not live through it."""
        request = json.dumps([special, base64.b64encode(raw).decode()])
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def complaint(self):
        """Ends the process; the last line it wrote on standard error."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        self._said.close()
        return lines[-1].removeprefix("what():").strip() if lines else f"exit code {self._process.returncode}"


class GgufTokenizer(Tokenizer):
    """The vocabulary of a GGUF in llama.cpp's own tokenizer; the weights are not loaded. Use within `opened`, or close()."""

    kind = "gguf"
    _NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

    def __init__(self, path):
        super().__init__(path)
        import llama_cpp

        from paritrace import _core

        self._api = llama_cpp
        self._model = self._worker = None
        metadata = json.loads(_core.metadata_json(str(path)))  # says what is wrong with a broken file better
        model, rule = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        if not model or model == "no_vocab":
            raise InputError(path, "tokenizer.ggml.model", "a vocabulary", "none")  # llama.cpp would abort
        with self._quiet() as complaints:
            llama_cpp.llama_backend_init()
            parameters = llama_cpp.llama_model_default_params()
            parameters.vocab_only = True
            parameters.n_gpu_layers = 0
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            found = first_line(complaints[0]) if complaints else "an error without a message"
            raise InputError(path, "vocabulary", "one that llama.cpp loads", found)
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        types = metadata.get("tokenizer.ggml.token_type") or [self._NORMAL] * self.size
        self.special = {token for token, kind in enumerate(types) if kind == self._CONTROL}
        self.added = self.special | {token for token, kind in enumerate(types) if kind == self._USER}
        self._bytes = {token for token, kind in enumerate(types) if kind == self._BYTE}
        self.unknown = next((token for token, kind in enumerate(types) if kind == self._UNKNOWN), None)
        self.letters = model == "gpt2"
        if metadata.get("tokenizer.ggml.merges") and self.letters:
            pairs = [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]]
            self.merges = {tuple(map(pieces.from_letters, pair)): rank for rank, pair in enumerate(pairs)}
        self.facts = [f"llama.cpp {llama_cpp.__version__}", f"vocabulary {model}"]
        self.facts += [f"pre-tokenizer {rule}"] if rule else []

    def close(self):
        if self._worker:
            self._worker.complaint()
        with self._quiet():
            if self._model:
                self._api.llama_model_free(self._model)
        self._model = None

    def encode(self, raw, special=True):
        if self._worker is None:
            self._worker = _Worker(self.path)
        ids = self._worker.ask(raw, special)
        if ids is None:
            complaint, self._worker = self._worker.complaint(), None
            raise Refused(f"llama.cpp aborts: {complaint}")
        return ids

    @functools.lru_cache(maxsize=1 << 18)  # noqa: B019
    def piece(self, token):
        room = _ROOM
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            length = self._api.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, True)
            if length >= 0:
                return buffer.raw[:length]
            room = -length
        return b""

    def is_byte(self, token):
        return token in self._bytes

    @contextlib.contextmanager
    def _quiet(self):
        """Keeps llama.cpp's log off the terminal; yields its errors."""
        complaints = []

        @self._api.llama_log_callback
        def keep(level, text, _):
            if level == 3:  # GGML_LOG_LEVEL_ERROR
                complaints.append(text.decode(errors="replace").strip())

        self._api.llama_log_set(keep, ctypes.c_void_p(0))
        try:
            yield complaints
        finally:
            from llama_cpp._logger import llama_log_callback

            self._api.llama_log_set(llama_log_callback, ctypes.c_void_p(0))
