"""paritrace: finds out why an inference engine does not give the same answer as the reference.

The Python package holds the capture adapters, and the comparing commands as functions. Everything is imported when it is first used, because `import paritrace`
is part of the command's start-up and torch alone takes seconds.

    with paritrace.capture(model, "trace/"):
        model(input_ids)
    trace = paritrace.open_trace("trace/")
    result = paritrace.diagnose("trace/", "models/llama")
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "capture": "capturing",
    "Trace": "reading",
    "open_trace": "reading",
    "TraceWriter": "_core",
    "site_of": "_core",
    "is_site": "_core",
    "InputError": "errors",
    "Result": "results",
    "diff": "comparing",
    "diagnose": "comparing",
    "logits": "comparing",
    "growth": "comparing",
    "weights": "comparing",
    "schema": "schemas",
}
__all__ = sorted(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'paritrace' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"paritrace.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(_HOMES))
