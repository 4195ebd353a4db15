"""Capture of Hugging Face Transformers models, and, with module outputs only, of any torch.nn.Module."""

import contextlib
import os
from pathlib import Path

import torch

from paritrace import torch_threads
from paritrace.errors import InputError, check_tokens, first_line
from paritrace.recording import Recording
from paritrace.torch_tap import TorchTap
from paritrace.user_code import load_function

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
_ARITHMETIC = {
    torch.float32: "torch-f32",
    torch.bfloat16: "torch-bf16",
    torch.float16: "torch-f16",
    torch.float64: "f64",
}


@contextlib.contextmanager
def capture(model, path, mode="full", overwrite=False, text=None, inputs=None):
    """Records every forward call of a torch model as a step; yields the Recording.

    inputs  True: what goes into modules is recorded, too, where no other module made it. None: for models that are not
            Hugging Face's, whose sites already tell

    The model is used as it is: its dtype, device, attention function and any patch a user has put in. Scores and
    probabilities exist only where attention is eager; run.attention in the header says what ran.
    Errors: ValueError as of Recording. After an exception in the block the trace stays open and the model is as before.
    """
    if inputs is None:
        inputs = not hasattr(getattr(model, "config", None), "model_type")
    recording = Recording(path, header_of(getattr(model, "_orig_mod", model), text), mode, overwrite)
    torch_threads.lend(recording)
    try:
        with TorchTap(model, recording, inputs):
            yield recording
    except BaseException:
        recording.abandon()
        raise
    recording.close()


def header_of(model, text=None):
    """The trace header of a model that is already loaded."""
    config = getattr(model, "config", None)
    file = getattr(config, "name_or_path", "") or ""
    dtype = next((value.dtype for value in model.parameters() if value.is_floating_point()), None)
    run = {}
    if dtype in _ARITHMETIC:
        run["arithmetic"] = _ARITHMETIC[dtype]
    attention = getattr(config, "_attn_implementation", None)
    if attention:
        run["attention"] = attention
    experts = getattr(config, "_experts_implementation", None)
    if experts and any(hasattr(config, name) for name in ("num_experts", "num_local_experts")):
        run["experts"] = experts  # it decides how a token's experts are summed
    if text:
        run["text"] = [text] if isinstance(text, str) else list(text)
    if hasattr(config, "model_type"):
        import transformers

        engine = {"name": "hf", "version": transformers.__version__, "torch": torch.__version__}
    else:
        engine = {"name": "torch", "version": torch.__version__}
    name = Path(file).name if file else type(model).__name__
    architecture = getattr(config, "model_type", "") or type(model).__name__
    return {"engine": engine, "model": {"name": name, "architecture": architecture, "file": file}, "run": run}


def load(directory, dtype=None):
    """The model of a folder, with eager attention, ready to run.

    dtype: a key of DTYPES; None for what the folder says.
    Errors: InputError if there is no such folder or transformers cannot load it.
    """
    import transformers

    folder = Path(directory)
    if not (folder / "config.json").is_file():
        found = "no such file" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise InputError(directory, "model folder", "a folder with config.json", found)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        # The class the folder names: a head that AutoModel would leave off makes the logits.
        named = (config.architectures or [""])[0]
        loader = getattr(transformers, named, None) or transformers.AutoModelForCausalLM
        model = loader.from_pretrained(
            directory, dtype=DTYPES[dtype] if dtype else "auto", attn_implementation="eager", local_files_only=True
        )
    except Exception as error:
        raise InputError(directory, "model folder", "a model that transformers loads", first_line(error)) from error
    # The path as the user wrote it, not as transformers resolved it.
    model.config.name_or_path = os.fspath(directory)
    return model.eval()


def tokenize(directory, text):
    """Token ids of a text by the folder's tokenizer. Errors: InputError if it has none."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise InputError(
            directory, "tokenizer", "one that transformers loads (or use --tokens)", first_line(error)
        ) from error
    return tokenizer(text)["input_ids"]


@torch.no_grad()
def run(directory, path, tokens=None, text=None, dtype=None, decode=0, mode="full", overwrite=False, progress=None):
    """Loads a folder, runs one prompt and `decode` greedy steps, and records them. Returns the Recording.

    tokens    list of ids; or text, for the folder's tokenizer
    progress  called with a line of text before each long part
    Errors: InputError for a bad folder or token ids outside the vocabulary; ValueError if the trace cannot be written.
    """
    if tokens is None:
        tokens = tokenize(directory, text)
    say = progress or (lambda line: None)
    say(f"loading {directory}")
    model = load(directory, dtype)
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    if vocabulary is not None:
        check_tokens(tokens, vocabulary)
    with capture(model, path, mode, overwrite, text) as recording:
        say(f"prefill of {len(tokens)} tokens")
        options = {"use_cache": True} if decode else {}
        output = model(input_ids=torch.tensor([tokens]), **options)
        for step in range(1, decode + 1):
            if getattr(output, "past_key_values", None) is None:
                raise InputError(
                    "--decode", "", "a model that generates", f"{type(model).__name__}, which has no KV cache"
                )
            say(f"decode step {step} of {decode}")
            token = output.logits[:, -1:].argmax(-1)
            output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
    return recording


@torch.no_grad()
def run_function(function, path, tokens, mode="full", overwrite=False, progress=None):
    """Records a torch module of the user's own on one prompt. Returns the Recording.

    function  "FILE.py:NAME"; NAME() returns the module, which is called with an int64 tensor [1, tokens]
    Errors: InputError for a file or name that is not there, or that returns no module.
    """
    (progress or (lambda line: None))(f"loading {function}")
    model = load_function(function)()
    if not isinstance(model, torch.nn.Module):
        raise InputError(function, "function", "a torch.nn.Module", type(model).__name__)
    with capture(model.eval(), path, mode, overwrite) as recording:
        model(torch.tensor([tokens]))
    return recording
