"""All passes over one subject: f64 and the subject's arithmetic, forced, and f64 from the tokens on; and single sites again
under an edit of the model.
"""

import contextlib

import torch

from paritrace.torch_oracle import widen
from paritrace.torch_oracle.forced import ForcedTap, Reached


class Replay:
    """
    subject  subject.Subject
    exact    the model in f64; own: the model in the subject's arithmetic
    After run(): `sites` (forced.Seen of the f64 pass by key, in order of execution), `predicted` and `unforced` (arrays by
    key), `mismatches`, `casts` (how many of HF's own f32 casts were widened).
    """

    def __init__(self, subject, exact, own, inputs):
        self.subject = subject
        self.exact = exact
        self.own = own
        self.inputs = inputs
        self.sites, self.predicted, self.unforced, self.mismatches = {}, {}, {}, {}
        self.storage = {}
        self.routes = None
        self.given = {False: {}, True: {}}
        self.layers = [
            (path, module)
            for path, module in exact.named_modules()
            if path and isinstance(exact.get_submodule(path.rpartition(".")[0]), torch.nn.ModuleList)
        ]
        self.casts = 0
        self.fitted = {}  # numbers that explained a site, by what was fitted
        self.gives_tensor = {}  # path -> does the module return one tensor, and not a tuple?

    def run(self, progress=lambda line: None):
        progress("f64, from the tokens on")
        free = ForcedTap(self.exact, self.subject, force=False)
        self._pass(free, wide=True)
        self.routes = free.routes
        self.unforced = {key: seen.value for key, seen in free.seen.items()}
        progress("f64, forced")
        exact = ForcedTap(self.exact, self.subject, follow=True, routes=self.routes)
        # With decode steps a layer that does not run would leave nothing in the cache.
        exact.keeps_given = len(self.subject.steps) == 1
        self._pass(exact, wide=True)
        self.given[False] = exact.given
        self.sites, self.mismatches = exact.seen, exact.mismatches
        progress("the subject's arithmetic, forced")
        own = ForcedTap(self.own, self.subject, routes=self.routes, keys=self.sites)
        own.keeps_given = exact.keeps_given
        self._pass(own, wide=False)
        self.given[True] = own.given
        self.gives_tensor = own.gives_tensor
        self.predicted = {key: seen.value for key, seen in own.seen.items()}
        self.storage = {key: seen.storage for key, seen in own.seen.items()}

    def evaluate(self, key, edit=None, predicted=False):
        """The value of a site computed from the subject's values with an edit applied; None if the model cannot run so."""
        model = self.own if predicted else self.exact
        tap = ForcedTap(model, self.subject, only=key, routes=self.routes, keys=self.sites)
        try:
            with self._other_layers_as_recorded(model, key, self.given[predicted]):
                self._pass(tap, wide=not predicted, edit=edit)
        except Reached:
            pass
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError, NotImplementedError):
            return None  # an edit that this model cannot compute with explains nothing
        seen = tap.seen.get(key)
        return None if seen is None else seen.value

    @contextlib.contextmanager
    def _other_layers_as_recorded(self, model, key, given):
        """Layers whose only output was recorded, and that the site is not computed in, need not run."""
        needed = [key[1].partition(":")[0], *self.sites[key].origin.modules]
        patched = []
        for path, _ in self.layers:
            value = given.get((key[0], path))
            if value is None or any(name == path or name.startswith(f"{path}.") for name in needed):
                continue
            if (key[0], f"{path}:1") in given:
                continue
            module = model.get_submodule(path)
            if "forward" in vars(module) or not self.gives_tensor.get(path):
                continue
            module.forward = lambda *args, _value=value, **kwargs: _value
            patched.append(module)
        try:
            yield
        finally:
            for module in patched:
                del module.forward

    def _pass(self, tap, wide, edit=None):
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if edit is not None:  # first: it changes weights as they are kept
                stack.enter_context(edit(tap.model, tap))
            mode = stack.enter_context(widen.widened()) if wide else None
            stack.enter_context(tap)
            self.inputs.feed(tap.model)
            if mode is not None:
                self.casts = max(self.casts, mode.casts)
