"""Where a value comes from: the recorded values it was computed from since they were put in place, and the modules and
operations on the way. Followed through every torch function while a model runs.
"""

import weakref

import torch
from torch.overrides import TorchFunctionMode

_INDEXING = {torch.Tensor.__setitem__, torch.Tensor.index_put_, torch.Tensor.copy_, torch.Tensor.masked_scatter_}


class Origin:
    """inputs: keys of recorded values; modules: paths; operations: how many floating-point functions ran on the way."""

    __slots__ = ("inputs", "modules", "operations")

    def __init__(self, inputs=frozenset(), modules=frozenset(), operations=0):
        self.inputs = inputs
        self.modules = modules
        self.operations = operations


NOWHERE = Origin()


class Lineage(TorchFunctionMode):
    """Follows the tensors of a tap's model. A parameter brings the path of its module along."""

    def __init__(self, tap):
        super().__init__()
        self._tap = tap
        self._known = {}  # id -> (weak reference, Origin)
        self._owners = {}
        for path, module in tap.model.named_modules():
            for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._owners[id(value)] = path

    def of(self, value):
        known = self._known.get(id(value))
        return known[1] if known is not None and known[0]() is value else NOWHERE

    def set(self, value, origin):
        self._known[id(value)] = (weakref.ref(value), origin)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        target = args[0] if function in _INDEXING and args else result
        produced = list(_tensors(target))
        if not produced:
            return result
        inputs, modules, operations, owners = set(), set(), 0, set()
        for value in _tensors((args, kwargs)):
            owner = self._owners.get(id(value))
            if owner is not None:
                owners.add(owner)
                continue
            origin = self.of(value)
            inputs |= origin.inputs
            modules |= origin.modules
            operations = max(operations, origin.operations)
        modules |= owners
        if self._tap._stack:
            modules.add(self._tap._stack[-1].path)
        floating = any(value.is_floating_point() for value in produced)
        origin = Origin(frozenset(inputs), frozenset(modules), operations + floating)
        for value in produced:
            self.set(value, origin)
        return result


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
