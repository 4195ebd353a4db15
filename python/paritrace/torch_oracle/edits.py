"""What a hypothesis changes of a model, and how it is taken back: each function returns edit(model, tap), a context manager."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode


def together(*edits):
    """Several edits as one."""

    @contextlib.contextmanager
    def edit(model, tap):
        with contextlib.ExitStack() as stack:
            for each in edits:
                stack.enter_context(each(model, tap))
            yield

    return edit


def attribute(path, name, value):
    """Another value of a module's attribute (of its config's with name "config.X")."""

    @contextlib.contextmanager
    def edit(model, tap):
        owner = model.get_submodule(path)
        last = name
        if name.startswith("config."):
            owner, last = owner.config, name.removeprefix("config.")
        own = last in vars(owner)
        before = getattr(owner, last)
        setattr(owner, last, value)
        try:
            yield
        finally:
            setattr(owner, last, before) if own or not hasattr(type(owner), last) else delattr(owner, last)

    return edit


def parameter(path, name, change):
    """change(tensor, model) in place of a parameter or buffer."""

    @contextlib.contextmanager
    def edit(model, tap):
        tensor = getattr(model.get_submodule(path), name)
        before = tensor.data
        tensor.data = change(before, model).to(before.dtype).contiguous()
        try:
            yield
        finally:
            tensor.data = before

    return edit


def forward(path, wrap):
    """wrap(module, original, *args, **kwargs) in place of a module's forward."""

    @contextlib.contextmanager
    def edit(model, tap):
        module = model.get_submodule(path)
        own = vars(module).get("forward")
        original = module.forward
        module.forward = lambda *args, **kwargs: wrap(module, original, *args, **kwargs)
        try:
            yield
        finally:
            if own is None:
                del module.forward
            else:
                module.forward = own

    return edit


def function(space, name, replacement):
    """Another function under a name of a Python module."""

    @contextlib.contextmanager
    def edit(model, tap):
        before = space[name]
        space[name] = replacement
        try:
            yield
        finally:
            space[name] = before

    return edit


class _Calls(TorchFunctionMode):
    def __init__(self, tap, paths, change):
        super().__init__()
        self.tap, self.paths, self.change = tap, paths, change

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.tap._stack and self.tap._stack[-1].path in self.paths:
            changed = self.change(function, args, kwargs, self.tap)
            if changed is not None:
                return changed
        return function(*args, **kwargs)


def calls(paths, change):
    """make() -> change(function, args, kwargs, tap) sees the torch functions that run in some modules' own code; what it
    returns, unless None, is their result."""

    @contextlib.contextmanager
    def edit(model, tap):
        with _Calls(tap, paths, change()):
            yield

    return edit


ADDITIONS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
    torch.Tensor.add_,
}


def addition(paths, index, change):
    """change(older, newer) in place of the index-th sum of two tensors of one shape in the modules' own code.

    older, newer: by when the capture saw them; a value that it never saw is the newest.
    """

    def make():
        count = [-1]

        def see(function, args, kwargs, tap):
            if function not in ADDITIONS or len(args) < 2 or not all(isinstance(x, torch.Tensor) for x in args[:2]):
                return None
            if args[0].shape != args[1].shape or not args[0].is_floating_point() or args[0].dim() < 2:
                return None
            count[0] += 1
            if count[0] != index:
                return None
            ages = {key: age for age, key in enumerate(tap._known)}
            older, newer = sorted(args[:2], key=lambda x: ages.get(id(x), len(ages)))
            return change(older, newer).clone()

        return see

    return calls(paths, make)
