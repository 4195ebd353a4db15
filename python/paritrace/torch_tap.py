"""Sees what a torch model computes: hooks on every module, and wrappers around the functions between them.

Nothing is computed twice and nothing is changed: each tensor is the engine's own, copied out when it appears, because it
may be overwritten later. Whatever is installed when the capture starts is what runs, a user's own patches included.

Names (rules/hf.toml turns them into sites):
    PATH            output of the module at PATH (`PATH:1`, `PATH:2` for the further tensors of a tuple, `PATH.key` of a dict)
    PATH:in         its first tensor input, recorded where a rule asks for it, or (inputs=True) where no module made it;
                    further ones are then `PATH:in1`, `PATH:in.key`
    PATH:q, PATH:k  query and key as an attention module uses them, after RoPE; keys before they enter the cache
    PATH:scores, PATH:probs   what its softmax is given, and what is multiplied by V
"""

import inspect
import sys
import warnings
import weakref

import torch
from torch.overrides import TorchFunctionMode

_RAW_TYPES = {  # torch dtypes that NumPy lacks: the integers of the same size, and our name
    torch.bfloat16: (torch.uint16, "bf16"),
    torch.float8_e4m3fn: (torch.uint8, "f8_e4m3"),
    torch.float8_e5m2: (torch.uint8, "f8_e5m2"),
}

# Names that mean something else in these architectures than the rules say of all others. Gemma's norms of that name stand
# after the sublayer and before the residual sum; BitNet has a norm in front of these projections.
_OTHER_MEANING = {
    "gemma2": ("post_attention_layernorm", "post_attention_layernorm:in"),
    "gemma3_text": ("post_attention_layernorm", "post_attention_layernorm:in"),
    "bitnet": ("self_attn.o_proj:in", "mlp.down_proj:in"),
    "mixtral": ("mlp", "block_sparse_moe"),  # hands on what its experts give
}

_SOFTMAX = {torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax}
_PRODUCTS = {torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.bmm}


class _Call:
    """One running call of a module: what its functions have shown so far."""

    def __init__(self, path, module):
        self.path = path
        self.module = module
        self.heads = {}  # "q", "k" as last seen on their way to the attention; copies, [batch, heads, tokens, head_dim]
        self.cached = False  # the new keys went into a KV cache
        self.softmax = None  # output of the last softmax, until its probabilities are recorded


class TorchTap:
    """Context manager: records every forward call of `model` into `recording`, one step a call.

    model       any torch.nn.Module; for a Hugging Face model also the functions between modules
    recording   paritrace.recording.Recording; the caller closes it
    inputs      every tensor that goes into a module is recorded, too, unless it was recorded as another's output
    Models compiled with torch.compile run uncompiled for as long, with a warning: compiled code calls no hooks.
    Everything is put back on exit, after an exception too.
    """

    def __init__(self, model, recording, inputs=False):
        self.model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        self._was_wrapped = self.model is not model
        model = self.model
        self.inputs = inputs
        self.recording = recording
        self._undo = []
        self._stack = []
        self._paths = {}
        self._known = {}  # id of a recorded tensor -> (weak reference, version, site)
        getter = getattr(model, "get_output_embeddings", None)
        self._head = getter() if getter is not None else None
        self._held = None  # the head's output, until the model's own logits are seen
        self._in_softmax = False
        self._failed = False  # to record this call
        self._has_rope = False
        self._count = 0  # tokens of the running step
        self._architecture = getattr(getattr(model, "config", None), "model_type", "")

    # Installing and removing

    def __enter__(self):
        try:
            self._install()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_):
        self._remove()

    def _install(self):
        self._run_uncompiled()
        for path, module in self.model.named_modules():
            self._paths[id(module)] = path
            self._undo.append(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            self._undo.append(module.register_forward_hook(self._after, with_kwargs=True, always_call=True).remove)
        spaces = {}
        for module in self.model.modules():
            # The class's own file, and the one its forward was written in: a user's patch may live elsewhere.
            for function in (type(module).__init__, type(module).forward, module.forward):
                for layer in (function, inspect.unwrap(function)):
                    space = getattr(getattr(layer, "__func__", layer), "__globals__", None)
                    if space is not None and not space["__name__"].startswith("torch."):
                        spaces[id(space)] = space
        for space in spaces.values():
            if callable(space.get("apply_rotary_pos_emb")):
                self._has_rope = True
                self._replace_item(space, "apply_rotary_pos_emb", self._wrap_rope)
            if callable(space.get("eager_attention_forward")):
                self._replace_item(space, "eager_attention_forward", self._wrap_attention)
        self._replace_attribute(torch.nn.functional, "softmax", self._wrap_softmax)
        if "transformers" in sys.modules:
            from transformers.cache_utils import Cache
            from transformers.modeling_utils import AttentionInterface

            self._replace_attribute(AttentionInterface, "get_interface", self._wrap_get_interface)
            self._replace_attribute(Cache, "update", self._wrap_cache_update)
        mode = _Functions(self)
        mode.__enter__()
        self._undo.append(lambda: mode.__exit__(None, None, None))

    def _run_uncompiled(self):
        compiled = [
            path or type(module).__name__
            for path, module in self.model.named_modules(remove_duplicate=False)
            if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        ]
        if not compiled and not self._was_wrapped:
            return
        warnings.warn(
            f"torch.compile: {compiled[0] if compiled else 'the model'} runs uncompiled while it is captured; "
            "compiled code may round differently",
            stacklevel=6,
        )
        stance = torch.compiler.set_stance("force_eager")
        stance.__enter__()
        self._undo.append(lambda: stance.__exit__(None, None, None))

    def _remove(self):
        while self._undo:
            self._undo.pop()()
        self._known.clear()

    def _replace_item(self, space, name, wrap):
        original = space[name]
        space[name] = wrap(original)
        self._undo.append(lambda: space.__setitem__(name, original))

    def _replace_attribute(self, owner, name, wrap):
        original = vars(owner)[name]
        setattr(owner, name, wrap(original))
        self._undo.append(lambda: setattr(owner, name, original))

    # Modules

    def _before(self, module, args, kwargs):
        path = self._paths[id(module)]
        if module is self.model:
            self._stack.clear()  # a call before this one may have ended in an exception
            self._known.clear()
            self._held = None
            self._failed = False
            self._begin_step(args, kwargs)
        self._stack.append(_Call(path, module))
        name = f"{path}:in"
        changed = False
        if self._site(name):
            value = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
            if value is not None:
                given = self._record(name, value)
                changed = given is not value
                args = tuple(given if other is value else other for other in args)
                kwargs = {key: given if other is value else other for key, other in kwargs.items()}
        if self.inputs:
            self._record_inputs(path or "model", args, kwargs)
        elif module is self.model and self._needs_inputs(args, kwargs):
            self._record_inputs("model", args, kwargs)
        return (args, kwargs) if changed else None

    def _needs_inputs(self, args, kwargs):
        """Is there more than token ids to feed the model again with: an image, sound, a mask, a decoder's own ids?"""
        others = [value for key, value in kwargs.items() if key != "input_ids"]
        others += [
            value for index, value in enumerate(args) if index or (value is not None and value.is_floating_point())
        ]
        return self._architecture != "" and any(isinstance(value, torch.Tensor) for value in others)

    def _record_inputs(self, path, args, kwargs):
        for index, value in [*enumerate(args), *kwargs.items()]:
            if not isinstance(value, torch.Tensor):
                continue
            known = self._known.get(id(value))
            version = 0 if value.is_inference() else value._version
            if known is not None and known[0]() is value and known[1] == version:
                continue  # another module's output, or an input already recorded
            suffix = f".{index}" if isinstance(index, str) else str(index) if index else ""
            self._record(f"{path}:in{suffix}", value, site="")

    def _after(self, module, args, kwargs, output):
        call = self._stack[-1] if self._stack else None
        if call is None or call.module is not module:
            return None  # a call that began before the capture
        self._stack.pop()
        self._flush(call)
        if output is None:  # the module raised
            return None
        if module is self.model:
            return self._record_result(call.path, output)
        if module is self._head and isinstance(output, torch.Tensor):
            return self._hold(call.path, output)
        return self._record_output(call.path, output)

    def _hold(self, path, output):
        self._held = (path, weakref.ref(output), output.detach().clone())

    def _record_output(self, path, output, skip=None):
        """Returns what the module gives instead, or None."""
        given = {}
        for key, value in _parts(output):
            if not isinstance(value, torch.Tensor) or value is skip:
                continue
            if isinstance(key, str):
                name = f"{path}.{key}" if path else key
            else:
                name = f"{path}:{key}" if key else path or "output"
            after = self._record(name, value)
            if after is not value:
                given[key] = after
        return _with_parts(output, given) if given else None

    def _record_result(self, path, output):
        """The model's own result. Its logits decide what the head's output is called: a cap may stand between the two."""
        logits = None
        if self._held is not None:
            name, reference, copy = self._held
            self._held = None
            logits = next((value for _, value in _parts(output) if value is reference()), None)
            if logits is None:
                self._record(f"{name}:out", copy, site="")
            else:
                self._record(name, copy, site="logits")
        return self._record_output(path, output, skip=logits)

    # Functions between modules

    def _wrap_rope(self, original):
        def apply_rotary_pos_emb(*args, **kwargs):
            result = original(*args, **kwargs)
            if self._stack and isinstance(result, tuple) and len(result) == 2:
                result = self._after_rope(self._stack[-1], result)
                self._stack[-1].heads = {part: value.detach().clone() for part, value in zip("qk", result)}
            return result

        return apply_rotary_pos_emb

    def _after_rope(self, call, result):
        """What the rotary function gives; a subclass may give something else."""
        return result

    def _wrap_get_interface(self, original):
        def get_interface(interface, *args, **kwargs):
            return self._wrap_attention(original(interface, *args, **kwargs))

        return get_interface

    def _wrap_attention(self, original):
        if getattr(original, "_paritrace", False):
            return original

        def attention(module, *args, **kwargs):
            call = next((call for call in reversed(self._stack) if call.module is module), None)
            query, key = (
                kwargs.get(name, args[index] if index < len(args) else None)
                for index, name in enumerate(("query", "key"))
            )
            if call is None:
                return original(module, *args, **kwargs)
            if self._has_rope and isinstance(query, torch.Tensor) and isinstance(key, torch.Tensor):
                # What the attention is given is what counts, whatever the rotary function returned.
                call.heads["q"] = query
                if not call.cached:  # else the keys of earlier steps stand before the new ones
                    call.heads["k"] = key[..., -query.shape[-2] :, :]
                given = self._flush_heads(call)
                if given:
                    new = query.shape[-2]
                    key = (
                        key if call.cached else torch.cat((key[..., :-new, :], given.get("k", key[..., -new:, :])), -2)
                    )
                    named = {"query": given.get("q", query), "key": key}
                    args = tuple(list(named.values())[: len(args)]) + args[2:]
                    kwargs |= {name: value for name, value in named.items() if name in kwargs}
            result = original(module, *args, **kwargs)
            weights = result[1] if isinstance(result, tuple) and len(result) > 1 else None
            if call.softmax is not None and isinstance(weights, torch.Tensor) and weights.shape == call.softmax.shape:
                self._record_probs(call, weights)
            return result

        attention._paritrace = True
        return attention

    def _wrap_cache_update(self, original):
        def update(cache, key_states, value_states, *args, **kwargs):
            if self._stack and self._has_rope:
                call = self._stack[-1]
                call.cached = True
                key_states = self._before_cache(call, key_states)
                call.heads["k"] = key_states.detach().clone()
            return original(cache, key_states, value_states, *args, **kwargs)

        return update

    def _before_cache(self, call, key):
        """The new keys that enter the cache; a subclass may give others."""
        return key

    def _wrap_softmax(self, original):
        def softmax(input, *args, **kwargs):
            nested, self._in_softmax = self._in_softmax, True
            try:
                if not nested:
                    input = self.before_softmax(input)
                result = original(input, *args, **kwargs)
                if not nested:
                    self.after_softmax(result)
                return result
            finally:
                self._in_softmax = nested

        return softmax

    def before_softmax(self, value):
        call = self._stack[-1] if self._stack else None
        if call is not None and self._site(f"{call.path}:scores"):
            self._flush(call)
            return self._record(f"{call.path}:scores", value)
        return value

    def after_softmax(self, value):
        call = self._stack[-1] if self._stack else None
        if call is not None and self._site(f"{call.path}:probs"):
            call.softmax = value.detach()

    def before_product(self, left):
        """The first product after a softmax whose left side has its shape is probs times V."""
        call = self._stack[-1] if self._stack else None
        if (
            call is not None
            and call.softmax is not None
            and isinstance(left, torch.Tensor)
            and left.shape == call.softmax.shape
        ):
            return self._record_probs(call, left)
        return left

    def _record_probs(self, call, value):
        call.softmax = None
        return self._record(f"{call.path}:probs", value)

    def _flush_probs(self, call):
        if call.softmax is not None:
            self._record_probs(call, call.softmax)

    def _flush_heads(self, call):
        """q and k, from [batch, heads, tokens, head_dim] to [batch, tokens, heads*head_dim]; returns those to go on with instead."""
        given = {}
        for part in sorted(call.heads, reverse=True):
            value = call.heads[part]
            flat = value.transpose(1, 2).flatten(2) if value.dim() == 4 else value
            after = self._record(f"{call.path}:{part}", flat)
            if after is not flat:
                heads = (
                    after.unflatten(2, (value.shape[1], value.shape[3])).transpose(1, 2) if value.dim() == 4 else after
                )
                given[part] = heads
        call.heads = {}
        return given

    def _flush(self, call):
        """What no later function showed."""
        self._flush_heads(call)
        self._flush_probs(call)

    # Recording

    def _begin_step(self, args, kwargs):
        tokens = kwargs.get("input_ids", args[0] if args else None)
        count = 0
        ids = []
        if isinstance(tokens, torch.Tensor) and not tokens.is_floating_point():
            ids = tokens.tolist() if tokens.dim() == 2 else [tokens.flatten().tolist()]
            count = len(ids[0])
        cache = kwargs.get("past_key_values")
        start = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
        self._count = count
        self.recording.begin_step(int(start), ids)

    def _site(self, name):
        """The site of a name in this architecture; "" where it has none."""
        if any(name.endswith(f".{other}") for other in _OTHER_MEANING.get(self._architecture, ())):
            return ""
        return self.recording.site_of(name)

    def _record(self, name, value, site=None):
        """Returns the value to go on with: a subclass may put another one in its place (_emit)."""
        if self._failed or value.is_meta or value.is_sparse or value.is_complex():
            return value
        if site is None:
            site = self._site(name)
        known = self._known.get(id(value))
        version = 0 if value.is_inference() else value._version
        # A module that hands its child's tensor on adds nothing, unless it stands for another site.
        if known is not None and known[0]() is value and known[1] == version and site in ("", known[2]):
            return value
        if not site and self.recording.site_of(name):
            name = f"{name}:out"  # so that no reader maps it by the rules
        value = self._emit(name, site, value)
        version = 0 if value.is_inference() else value._version
        self._known[id(value)] = (weakref.ref(value), version, site)
        return value

    def _emit(self, name, site, value):
        array, dtype, shape = to_numpy(self._arrange(value.detach(), site))
        try:
            self.recording.record(name, array, site, dtype, shape)
        except ValueError:
            # Told once: torch calls the hooks of the modules around this one as the exception passes them.
            self._failed = True
            raise
        return value

    def _arrange(self, value, site):
        """The layout of the trace: no batch axis of one; heads side by side in q and k."""
        if site.endswith(("attn.q_norm", "attn.k_norm")) and value.dim() == 4:
            # [batch, tokens, heads, dim] or [batch, heads, tokens, dim]: the step's tokens tell, else the strides.
            heads_first = value.shape[2] == self._count != value.shape[1] or (
                value.shape[1] == value.shape[2] and value.stride(1) < value.stride(2)
            )
            value = (value.transpose(1, 2) if heads_first else value).flatten(2)
        if value.dim() > 2 and value.shape[0] == 1:
            value = value[0]
        return value


class _Functions(TorchFunctionMode):
    """Sees the torch functions that no module and no patchable name stands for."""

    def __init__(self, tap):
        super().__init__()
        self._tap = tap

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tap = self._tap
        if function in _PRODUCTS and args:
            args = (tap.before_product(args[0]), *args[1:])
        elif function in _SOFTMAX and not tap._in_softmax:
            value = tap.before_softmax(args[0] if args else kwargs.get("input"))
            if args:
                args = (value, *args[1:])
            else:
                kwargs = {**kwargs, "input": value}
            result = function(*args, **kwargs)
            tap.after_softmax(result)
            return result
        return function(*args, **kwargs)


def _parts(output):
    """(key, value) of what a module returns: a dict's own keys (a ModelOutput's too), else the place in a tuple."""
    if isinstance(output, dict):
        return list(output.items())
    return list(enumerate(output)) if isinstance(output, (tuple, list)) else [(0, output)]


def _with_parts(output, given):
    """The output with some of its parts exchanged."""
    if isinstance(output, dict):
        for key, value in given.items():
            output[key] = value  # a ModelOutput keeps its attributes in step
        return output
    if isinstance(output, (tuple, list)):
        parts = [given.get(key, value) for key, value in enumerate(output)]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return given[0]


def to_numpy(value):
    """(array, dtype name or None, shape or None) of a tensor on any device; bf16 and 8-bit floats as raw integers."""
    value = value.cpu().resolve_conj().resolve_neg()
    raw = _RAW_TYPES.get(value.dtype)
    if raw is None:
        return value.numpy(), None, None
    return value.view(raw[0]).numpy(), raw[1], list(value.shape)
