"""Takes Hugging Face's inner f32 out of a model that is to compute in f64: norms, softmax and RoPE cast to f32 whatever the
model's dtype is. What asks for f32 gets f64; tables that were made in f32 when the model was built are made again.
"""

import contextlib
import inspect

import torch
from torch.overrides import TorchFunctionMode

_F32 = torch.float32


_GETTERS = {"__get__"}  # shapes and the like need no values
_TABLES = {torch.nn.functional.embedding, torch.embedding}


class Widen(TorchFunctionMode):
    """Inside: every request for f32 is one for f64 (`casts` counts them), and what is kept in f32 enters every function in f64: a
    model's weights need not be held twice as wide, only one of them at a time.
    """

    def __init__(self):
        super().__init__()
        self.casts = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _GETTERS:
            result = function(*args, **kwargs)
            return torch.float64 if result is _F32 else result
        if function in _TABLES:  # a few rows of a large table
            result = function(*args, **kwargs)
            return result.double() if result.dtype is _F32 else result
        # What is written to stays what it is.
        if not (name.endswith("_") and not name.endswith("__")) and name != "__setitem__" and "out" not in kwargs:
            args = tuple(_wide(value) for value in args)
            kwargs = {key: _wide(value) for key, value in kwargs.items()}
        if function is torch.Tensor.float:
            self.casts += 1
            return args[0].double()
        if any(value is _F32 for value in args) or any(value is _F32 for value in kwargs.values()):
            # A view of bits is no cast: its width is what it is about.
            if function is not torch.Tensor.view:
                self.casts += 1
                args = tuple(torch.float64 if value is _F32 else value for value in args)
                kwargs = {key: torch.float64 if value is _F32 else value for key, value in kwargs.items()}
        return function(*args, **kwargs)


def _wide(value):
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype is _F32 else value
    if type(value) in (tuple, list):
        return type(value)(_wide(item) for item in value)
    return value


@contextlib.contextmanager
def widened():
    """torch as it would be if f32 did not exist. Yields the Widen."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Widen() as mode:
            yield mode
    finally:
        torch.set_default_dtype(default)


def rebuild_tables(model):
    """Buffers that follow from the config alone (RoPE's frequencies), in f64. Returns how many were made again.

    Only what is the old table to f32's precision takes its place: anything else is left as the model has it.
    """
    count = 0
    for module in list(model.modules()):
        own = dict(module.named_buffers(recurse=False))
        if not own or any(True for _ in module.parameters(recurse=False)) or not hasattr(module, "config"):
            continue
        accepted = inspect.signature(type(module).__init__).parameters
        if "config" not in accepted:
            continue
        with widened():
            try:
                fresh = type(module)(config=module.config)
            except Exception:  # needs more than its config: stays as it is
                continue
        for name, table in fresh.named_buffers(recurse=False):
            old = own.get(name)
            if old is None or not old.is_floating_point() or old.shape != table.shape or table.dtype != torch.float64:
                continue
            if torch.allclose(table, old.double(), rtol=1e-6, atol=0):
                setattr(module, name, table)
                count += 1
    return count
