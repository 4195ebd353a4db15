"""The forced forward: a model runs, and at every value that the subject recorded, what was just computed is kept and the
subject's value put in its place. What comes after is computed from the subject's own values, so each site shows the error
that it adds itself.

Names, order and layouts are those of the capture (torch_tap.py), because it is the capture that sees the values here, too.
"""

import re

import torch

from paritrace import _core
from paritrace.torch_oracle.lineage import Lineage, Origin
from paritrace.torch_oracle.subject import fit
from paritrace.torch_tap import TorchTap


class Reached(Exception):
    """The value that was asked for has been computed: the rest of the forward is not needed."""


class Seen:
    """One recorded value as a pass computes it."""

    __slots__ = ("entry", "head_width", "key", "origin", "rows", "site", "storage", "value")

    def __init__(self, key, site, entry, value, rows, storage, head_width, origin):
        self.key = key  # (step, name)
        self.site = site
        self.entry = entry
        self.value = value  # in f64, as recorded
        self.rows = rows  # None: all of them; else the last ones alone were recorded
        self.storage = storage  # name of the dtype that the pass holds it in
        self.head_width = head_width
        self.origin = origin


def _tables(model):
    """Paths of the modules that make RoPE's cosines and sines from positions alone."""
    for path, module in model.named_modules():
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False)):
            if not any(True for _ in module.parameters()):
                yield path


def _activations(model, products):
    """Paths of modules without weights in the feed-forward blocks whose product was recorded."""
    for path, module in model.named_modules():
        found = re.search(r"layers\.(\d+)\.mlp\.\w*act\w*$", path)
        if found and f"layers.{found[1]}.mlp.act" in products and not any(True for _ in module.parameters()):
            yield path


_STORAGE = {torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class ForcedTap(TorchTap):
    """Context manager: while it is on, every forward of `model` is a pass over the subject's next step.

    force    put the subject's values in place; False: only keep what is computed
    follow   note each value's origin (slow)
    only     the key whose value ends the pass with Reached; nothing else is kept
    keys     those that may be put in place, None for all: passes are compared, so all must force the same values, also where
             one runs other kernels (a mixture's experts one by one, or together)
    routes   paths of attention modules that hand q and k to an attention function, and that keep keys in a cache: known
             after the first pass, and what later ones need to put q and k in place where they are used
    """

    def __init__(self, model, subject, force=True, follow=False, only=None, routes=None, keys=None):
        super().__init__(model, self)
        self.subject = subject
        self.force = force
        self.only = only
        self.keys = keys
        self.seen = {}
        self.gives_tensor = {}
        self.given = {}  # what was put in place, by key
        self.mismatches = {}
        self.routes = routes if routes is not None else {"function": set(), "cache": set()}
        self._lineage = Lineage(self) if follow else None
        self._steps = iter(subject.steps)
        self._occurrences = {}
        self._early = set()
        self._site_names = {}
        self.step = -1
        # Where q and k were recorded after RoPE, a wrong angle shows there, where the contract places it, and not in the table.
        turned = any(name.endswith(":q") or site.endswith("attn.q_rope") for name, site in subject.names())
        self._tables = tuple(_tables(model)) if turned else ()
        # Likewise an activation whose product with the other branch has a site of its own.
        products = {site for _, site in subject.names() if site.endswith("mlp.act")}
        self._tables += tuple(_activations(model, products)) if products else ()

    def _install(self):
        super()._install()
        if self._lineage is not None:
            self._lineage.__enter__()
            self._undo.append(lambda: self._lineage.__exit__(None, None, None))

    # What the capture asks of a recording

    def begin_step(self, start, ids):
        self.step = next(self._steps)["step"]
        self._occurrences.clear()
        self._early.clear()

    def site_of(self, name):
        if name not in self._site_names:
            self._site_names[name] = _core.site_of("hf", name) or ""
        return self._site_names[name]

    # Where values are put in place

    def _emit(self, name, site, value):
        if name in self._early:
            self._early.remove(name)
            return value
        occurrence = self._occurrences[name] = self._occurrences.get(name, 0) + 1
        if occurrence > 1:
            name, site = f"{name}#{occurrence}", ""
        if site is None:
            site = self._site(name)
        key = (self.step, name)
        if self.only is not None and not self.force and key != self.only:
            return value
        if self.keys is not None and key not in self.keys:
            return value
        entry = None if self._is_table(name) else self.subject.find(self.step, name, site)
        if entry is None or not (value.is_floating_point() or site.endswith("moe.experts")):
            return value
        arranged = self._arrange(value.detach(), site)
        recorded, rows = fit(self.subject.values(entry), tuple(arranged.shape))
        if recorded is None:
            self.mismatches[key] = (site, entry, rows)
            return value
        if self.only is None or key == self.only:
            self._keep(key, site, entry, value, arranged, rows)
        if key == self.only:
            raise Reached
        if not self.force:
            return value
        given = self._in_place(value, arranged, recorded, rows, site)
        if self.only is None and self.keeps_given:
            self.given[key] = given
        if self._lineage is not None:
            self._lineage.set(given, Origin(frozenset([key])))
        return given

    def _keep(self, key, site, entry, value, arranged, rows):
        kept = arranged if rows is None else arranged[-rows:]
        kept = kept.double().numpy().copy() if kept.is_floating_point() else kept.numpy().copy()
        origin = self._lineage.of(value) if self._lineage is not None else None
        width = self._width if key[1].partition("#")[0].endswith((":q", ":k")) else 0
        self.seen[key] = Seen(key, site, entry, kept, rows, _STORAGE.get(value.dtype, "int"), width, origin)

    def _in_place(self, value, arranged, recorded, rows, site):
        """The subject's values in the layout, dtype and strides of the computed one."""
        if rows is not None:
            full = arranged.double().numpy().copy() if arranged.is_floating_point() else arranged.numpy().copy()
            full[-rows:] = recorded
            recorded = full
        source = torch.from_numpy(recorded).to(value.dtype)
        places = torch.empty_like(value, dtype=torch.int64)
        places.copy_(torch.arange(value.numel()).view(value.shape))
        flat = source.new_empty(value.numel())
        flat[self._arrange(places, site).reshape(-1)] = source.reshape(-1)
        given = torch.empty_like(value)
        given.copy_(flat.view(value.shape))
        return given

    def _record_output(self, path, output, skip=None):
        self.gives_tensor[path] = isinstance(output, torch.Tensor)
        return super()._record_output(path, output, skip)

    def _is_table(self, name):
        return any(name == path or name.startswith(f"{path}:") for path in self._tables)

    # Query and key: put in place where the attention takes them

    def _heads(self, call, part, value):
        """The part as it goes on, observed now and not again when the capture comes to it."""
        if value.dim() != 4:
            return value
        flat = value.transpose(1, 2).flatten(2)
        if self._lineage is not None:
            self._lineage.set(flat, self._lineage.of(value))
        self._width = value.shape[-1]
        name = f"{call.path}:{part}"
        given = self._record(name, flat)
        self._early.add(name)
        return value if given is flat else given.unflatten(2, (value.shape[1], value.shape[3])).transpose(1, 2)

    _width = 0
    keeps_given = False

    def _flush_heads(self, call):
        query = call.heads.get("q")
        if query is not None and query.dim() == 4:
            self._width = query.shape[-1]
        return super()._flush_heads(call)

    def _after_rope(self, call, result):
        if call.path in self.routes["function"] or not self.force:
            return result
        query, key = result
        return self._heads(call, "q", query), self._heads(call, "k", key)

    def _before_cache(self, call, key):
        if not self.force:
            self.routes["cache"].add(call.path)
            return key
        return self._heads(call, "k", key) if call.path in self.routes["function"] else key

    def _wrap_attention(self, original):
        wrapped = super()._wrap_attention(original)
        if wrapped is original or self.force:
            return wrapped

        def attention(module, *args, **kwargs):
            if id(module) in self._paths:
                self.routes["function"].add(self._paths[id(module)])
            return wrapped(module, *args, **kwargs)

        attention._paritrace = True
        return attention

    # The head's output, before its cap

    def _hold(self, path, output):
        if self.subject.find(self.step, f"{path}:out", "") is None:
            return super()._hold(path, output)
        given = self._record(f"{path}:out", output, site="")
        return None if given is output else given
