"""`paritrace.capture`: one name for all engines; picks the adapter by what it is given."""

import importlib.util
import sys


def capture(model, path, mode="full", overwrite=False, **options):
    """Context manager that records every forward call of `model` as one step of a trace.

        with paritrace.capture(model, "trace/"):
            model(input_ids)

    model      a torch.nn.Module (Hugging Face models show more than their modules), or a llama_cpp.Llama
    path       directory, or a file that ends in `.safetensors`
    mode       "full": values; "digest": hashes and sketches; "stats": statistics only
    overwrite  replace an existing trace there
    options    of the adapter: `text` (a prompt or a list of them, for the header)
    If the block raises, the trace stays open. Errors: ValueError (InputError) for a model of no known engine or a path
    that exists.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from paritrace.hf import capture as adapter
    elif type(model).__module__.startswith("llama_cpp") and importlib.util.find_spec("llama_cpp"):
        from paritrace.llamacpp import capture as adapter
    else:
        from paritrace.errors import InputError

        raise InputError("capture", "model", "a torch.nn.Module or a llama_cpp.Llama", type(model).__name__)
    return adapter(model, path, mode=mode, overwrite=overwrite, **options)
