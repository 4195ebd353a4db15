"""Mistakes, patched into Hugging Face's own modules and functions. Each function takes a Patient and the fault's parameters.

Nothing of paritrace computes the faulty values: what is patched is the code and the weights of transformers.
"""

import functools

import hf_families
import torch
import torch.nn.functional as F
from hf_patient import Patient

__all__ = ["Patient", "inject"]


# ---- rope ----


def patch_rope(patient, turn):
    """turn(q, k, cos, sin) in the layers that are ill; elsewhere the real function. Called once a layer, in order."""
    real, calls = patient.code.apply_rotary_pos_emb, []

    def apply(q, k, cos, sin, *args, **kwargs):
        layer = len(calls) % len(patient.inner.layers)
        calls.append(None)
        return turn(q, k, cos, sin) if layer in patient.layers else real(q, k, cos, sin, *args, **kwargs)

    patient.patch(patient.code, "apply_rotary_pos_emb", apply)
    rotary = patient.inner.rotary_emb
    forward = rotary.forward

    def noted(x, position_ids, *args, **kwargs):
        patient.positions = position_ids
        return forward(x, position_ids, *args, **kwargs)

    patient.patch(rotary, "forward", noted)
    return real


def half_split(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos.unsqueeze(1) + torch.cat((-second, first), -1) * sin.unsqueeze(1)


def neighbours(x, cos, sin):
    half = cos.shape[-1] // 2
    cos, sin = (t[..., :half].repeat_interleave(2, -1).unsqueeze(1) for t in (cos, sin))
    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin


def both(turn):
    return lambda q, k, cos, sin: (turn(q, cos, sin), turn(k, cos, sin))


def angles(patient, like, base=None, offset=0):
    """cos and sin as the model's own rotary module makes them, for another base or other positions than it was last asked for."""
    rotary = patient.inner.rotary_emb
    asked = patient.positions
    positions = asked + offset
    if base is None:
        found = rotary(like, positions)
        patient.positions = asked
        return found
    dim = like.shape[-1]
    frequencies = base ** (-torch.arange(0, dim, 2).float() / dim)
    phase = positions[..., None].float() * frequencies
    phase = torch.cat((phase, phase), -1)
    return phase.cos().to(like.dtype), phase.sin().to(like.dtype)


def rope_interleaved(patient):
    patch_rope(patient, both(neighbours))


def rope_missing(patient):
    patch_rope(patient, lambda q, k, cos, sin: (q.clone(), k.clone()))


def rope_k_missing(patient):
    patch_rope(patient, lambda q, k, cos, sin: (half_split(q, cos, sin), k.clone()))


def rope_twice(patient):
    patch_rope(patient, both(lambda x, cos, sin: half_split(half_split(x, cos, sin), cos, sin)))


def rope_direction(patient):
    patch_rope(patient, both(lambda x, cos, sin: half_split(x, cos, -sin)))


def rope_theta(patient, base):
    patch_rope(patient, lambda q, k, cos, sin: both(half_split)(q, k, *angles(patient, cos, base=base)))


def rope_scaling(patient):
    base = patient.model.config.rope_parameters["rope_theta"]
    rope_theta(patient, base)


def rope_magnitude(patient, factor):
    patch_rope(patient, both(lambda x, cos, sin: half_split(x, cos * factor, sin * factor)))


def rope_position_offset(patient, offset):
    def turn(q, k, cos, sin):
        return half_split(q, *angles(patient, cos, offset=offset)), half_split(k, cos, sin)

    patch_rope(patient, turn)


def rope_partial(patient, width):
    def turn(x, cos, sin):
        base = patient.model.config.rope_parameters["rope_theta"]
        positions = torch.arange(x.shape[2]).float()
        phase = positions[:, None] * base ** (-torch.arange(0, width, 2).float() / width)
        phase = torch.cat((phase, phase), -1).unsqueeze(0)
        turned = half_split(x[..., :width], phase.cos().to(x.dtype), phase.sin().to(x.dtype))
        return torch.cat((turned, x[..., width:]), -1)

    patch_rope(patient, both(turn))


# ---- norm ----


def norm_eps(patient, role, eps):
    for norm in patient.modules(role):
        setattr(norm, "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps", eps)


def norm_weight_missing(patient, role):
    for norm in patient.modules(role):
        norm.weight.data.fill_(1)


def patch_norms(patient, role, forward):
    for norm in patient.modules(role):
        patient.patch(norm, "forward", functools.partial(forward, norm, norm.forward))


def norm_weight_twice(patient, role):
    patch_norms(patient, role, lambda norm, once, x: norm.weight * once(x))


def norm_weight_plus_one(patient, role):
    for norm in patient.modules(role):
        norm.weight.data += 1


def norm_weight_scale(patient, role, factor):
    for norm in patient.modules(role):
        norm.weight.data *= factor


def norm_type(patient, role):
    patch_norms(patient, role, lambda norm, once, x: once(x - x.float().mean(-1, keepdim=True).to(x.dtype)))


def norm_wrong_weight(patient, role, source):
    other = patient.modules_of_layer(role, source).weight.data.clone()
    for norm in patient.modules(role):
        norm.weight.data = other.clone()


def norm_axis(patient, role):
    """Each head's norm taken over the whole projection."""

    def whole(norm, once, x):
        wide = x.float()
        mean = wide.pow(2).mean((-2, -1), keepdim=True)
        return norm.weight * (wide * torch.rsqrt(mean + norm.variance_epsilon)).to(x.dtype)

    patch_norms(patient, role, whole)


def norm_low_precision(patient, role):
    """Mean square and root in the model's own type, as where the cast to f32 was forgotten."""

    def narrow(norm, once, x):
        return norm.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon))

    patch_norms(patient, role, narrow)


# ---- attention ----


def patch_attention(patient, compute):
    """compute(real, module, query, key, value, mask, scaling, **rest) in the ill layers."""
    real = patient.code.eager_attention_forward

    def forward(module, query, key, value, attention_mask, scaling, **rest):
        if module.layer_idx not in patient.layers:
            return real(module, query, key, value, attention_mask, scaling=scaling, **rest)
        return compute(real, module, query, key, value, attention_mask, scaling, **rest)

    patient.patch(patient.code, "eager_attention_forward", forward)


def attn_scale(patient, factor):
    for _, block in patient.blocks():
        block.self_attn.scaling *= factor


def attn_softcap(patient, cap):
    def compute(real, module, query, key, value, mask, scaling, **rest):
        n = module.num_key_value_groups
        key, value = patient.code.repeat_kv(key, n), patient.code.repeat_kv(value, n)
        scores = cap * torch.tanh(torch.matmul(query, key.transpose(2, 3)) * scaling / cap)
        probs = F.softmax(scores if mask is None else scores + mask, -1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(probs, value).transpose(1, 2).contiguous(), probs

    patch_attention(patient, compute)


def with_mask(change):
    def compute(real, module, query, key, value, mask, scaling, **rest):
        count, keys = query.shape[2], key.shape[2]
        allowed = torch.ones(count, keys, dtype=torch.bool).tril(keys - count) if mask is None else mask[0, 0] == 0
        row, column = torch.arange(count)[:, None] + keys - count, torch.arange(keys)[None]
        changed = torch.where(change(allowed, row, column), 0.0, torch.finfo(query.dtype).min).to(query.dtype)
        return real(module, query, key, value, changed[None, None], scaling=scaling, **rest)

    return compute


def attn_mask_missing(patient):
    patch_attention(patient, with_mask(lambda allowed, row, column: torch.ones_like(allowed)))


def attn_mask_offset(patient, offset):
    patch_attention(patient, with_mask(lambda allowed, row, column: column <= row + offset))


def attn_mask_extra(patient, key):
    """One key that everybody should see is masked, but for its own query."""
    patch_attention(patient, with_mask(lambda allowed, row, column: allowed & ((column != key) | (row == key))))


def attn_window(patient, width):
    patch_attention(
        patient,
        with_mask(lambda allowed, row, column: (column <= row) & ((row - column < width) if width else column >= 0)),
    )


def attn_kv_head_order(patient):
    def compute(real, module, query, key, value, mask, scaling, **rest):
        n = module.num_key_value_groups
        spread = [states.repeat(1, n, 1, 1) for states in (key, value)]
        scores = torch.matmul(query, spread[0].transpose(2, 3)) * scaling
        probs = F.softmax(scores if mask is None else scores + mask, -1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(probs, spread[1]).transpose(1, 2).contiguous(), probs

    patch_attention(patient, compute)


def attn_head_layout(patient):
    """Heads are joined as they lie, without the transposition."""

    def compute(real, module, query, key, value, mask, scaling, **rest):
        context, probs = real(module, query, key, value, mask, scaling=scaling, **rest)
        heads, dim = context.shape[2:]
        return context.transpose(-1, -2).reshape(*context.shape[:2], heads, dim).contiguous(), probs

    patch_attention(patient, compute)


def swap_weights(first, second):
    for name in ("weight", "bias"):
        a, b = getattr(first, name), getattr(second, name)
        if a is not None:
            a.data, b.data = b.data.clone(), a.data.clone()


def attn_qk_swapped(patient):
    for _, block in patient.blocks():
        swap_weights(block.self_attn.q_proj, block.self_attn.k_proj)


def attn_kv_swapped(patient):
    for _, block in patient.blocks():
        swap_weights(block.self_attn.k_proj, block.self_attn.v_proj)


# ---- linears ----


def linear_bias_missing(patient, role):
    for linear in patient.modules(role):
        linear.bias = None


def linear_transposed(patient, role):
    for linear in patient.modules(role):
        linear.weight.data = linear.weight.data.T.contiguous()


def linear_wrong_layer(patient, role, source):
    other = patient.modules_of_layer(role, source)
    for linear in patient.modules(role):
        linear.load_state_dict(other.state_dict())


def linear_permuted(patient, role):
    """Rows as a converter for interleaved pairs would lay them out."""
    for linear in patient.modules(role):
        rows, columns = linear.weight.shape
        dim = rows // 4
        linear.weight.data = linear.weight.data.view(4, 2, dim // 2, columns).transpose(1, 2).reshape(rows, columns)


def linear_weight_scale(patient, role, factor):
    for linear in patient.modules(role):
        linear.weight.data *= factor


# ---- mlp, residual, embedding, head ----

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}


def mlp_activation(patient, name):
    for _, block in patient.blocks():
        patient.patch(block.mlp.act_fn, "forward", ACTIVATIONS[name])


def mlp_gate_up_swapped(patient):
    for _, block in patient.blocks():
        mlp = block.mlp
        patient.patch(mlp, "forward", lambda x, mlp=mlp: mlp.down_proj(mlp.gate_proj(x) * mlp.act_fn(mlp.up_proj(x))))


def patch_residual(patient, combine):
    """combine(stream, normed, update, layer input) in place of stream + update, at both residuals or one of them."""
    for _, block in patient.blocks():

        def forward(hidden_states, *args, block=block, **kwargs):
            normed = block.input_layernorm(hidden_states)
            attended, _ = block.self_attn(hidden_states=normed, **kwargs)
            middle = combine("attn.residual", hidden_states, normed, attended, hidden_states)
            normed = block.post_attention_layernorm(middle)
            return combine("out", middle, normed, block.mlp(normed), hidden_states)

        patient.patch(block, "forward", forward)


def at(role, wrong):
    """The mistake at one of the two residuals."""
    return lambda where, stream, normed, update, entry: (
        wrong(stream, normed, update, entry) if where == role else stream + update
    )


def residual_missing(patient, role):
    patch_residual(patient, at(role, lambda stream, normed, update, entry: update.clone()))


def residual_from_norm(patient, role):
    patch_residual(patient, at(role, lambda stream, normed, update, entry: normed + update))


def residual_source(patient, role):
    patch_residual(patient, at(role, lambda stream, normed, update, entry: entry + update))


def residual_twice(patient, role):
    patch_residual(patient, at(role, lambda stream, normed, update, entry: stream + (stream + update)))


def residual_scale(patient, role, factor):
    patch_residual(patient, at(role, lambda stream, normed, update, entry: stream + update * factor))


def embed_scale(patient, factor):
    embed = patient.inner.embed_tokens
    real = embed.forward
    patient.patch(embed, "forward", lambda ids: real(ids) * factor)


def embed_row_offset(patient, offset):
    embed = patient.inner.embed_tokens
    real = embed.forward
    patient.patch(embed, "forward", lambda ids: real((ids + offset) % embed.num_embeddings))


def head_untied(patient):
    patient.model.lm_head.weight = torch.nn.Parameter(patient.inner.embed_tokens.weight.data.clone())


def head_final_norm_missing(patient):
    head = patient.model.lm_head
    stream = []
    patient.inner.norm.register_forward_pre_hook(lambda module, args: stream.append(args[0]))
    real = head.forward
    patient.patch(head, "forward", lambda x: real(stream[-1][:, -x.shape[1] :]))


# ---- outside the catalogue: the site must be found, and no cause may be made up ----


def noise(patient, role, size):
    """Random errors of `size` of the value, from a fixed seed."""
    for linear in patient.modules(role):
        real, generator = linear.forward, torch.Generator().manual_seed(5)

        def forward(x, real=real, generator=generator):
            y = real(x)
            return y * (1 + size * torch.randn(y.shape, generator=generator).to(y.dtype))

        patient.patch(linear, "forward", forward)


def channel_dead(patient, role, channel):
    """One output channel stays zero, as of a tile that was never written."""
    for linear in patient.modules(role):
        real = linear.forward

        def forward(x, real=real):
            y = real(x).clone()
            y[..., channel] = 0
            return y

        patient.patch(linear, "forward", forward)


def cubic(patient, role, size):
    """An output that bends: y + size * y^3."""
    for linear in patient.modules(role):
        real = linear.forward
        patient.patch(linear, "forward", lambda x, real=real: (lambda y: y + size * y**3)(real(x)))


def rows_mixed(patient, role, share):
    """Each token's output leaks into the next token's."""
    for linear in patient.modules(role):
        real = linear.forward

        def forward(x, real=real):
            y = real(x)
            return y + share * F.pad(y, (0, 0, 1, 0))[..., :-1, :]

        patient.patch(linear, "forward", forward)


def softmax_power(patient, power):
    """The probabilities are bent and no longer sum to one."""

    def compute(real, module, query, key, value, mask, scaling, **rest):
        n = module.num_key_value_groups
        scores = torch.matmul(query, patient.code.repeat_kv(key, n).transpose(2, 3)) * scaling
        probs = F.softmax(scores if mask is None else scores + mask, -1, dtype=torch.float32) ** power
        probs = probs.to(query.dtype)
        return torch.matmul(probs, patient.code.repeat_kv(value, n)).transpose(1, 2).contiguous(), probs

    patch_attention(patient, compute)


def norm_power(patient, role, power):
    """Divided by another power of the root mean square."""
    patch_norms(
        patient,
        role,
        lambda norm, once, x: once(x) * x.float().pow(2).mean(-1, keepdim=True).pow((1 - power) / 2).to(x.dtype),
    )


def weight_noise(patient, role, size):
    """A weight of another training step: everywhere a little different."""
    generator = torch.Generator().manual_seed(9)
    for linear in patient.modules(role):
        linear.weight.data *= 1 + size * torch.randn(linear.weight.shape, generator=generator).to(linear.weight.dtype)


# ---- in a part of a site only: one head, one row, some tokens ----


def part_scaled(patient, role, factor, channels=None, tokens=None):
    """Some channels, or the tokens from the `tokens`-th on (negative: from the end), of a linear are off by a factor."""
    for linear in patient.modules(role):
        real = linear.forward

        def forward(x, real=real):
            y = real(x).clone()
            rows = slice(tokens, None) if tokens is not None else slice(None)
            columns = slice(*channels) if channels is not None else slice(None)
            y[..., rows, columns] *= factor
            return y

        patient.patch(linear, "forward", forward)


def row_replaced(patient, role, row, source):
    """One row of a weight is another one's."""
    for linear in patient.modules(role):
        linear.weight.data[row] = linear.weight.data[source].clone()


def heads_exchanged(patient, role, first, second, width):
    """The rows of two heads of a weight are exchanged."""
    for linear in patient.modules(role):
        rows = linear.weight.data.clone()
        a, b = slice(first * width, (first + 1) * width), slice(second * width, (second + 1) * width)
        linear.weight.data[a], linear.weight.data[b] = rows[b], rows[a]


def last_token_unmasked(patient, key):
    """The last query alone misses one key."""
    patch_attention(
        patient,
        with_mask(lambda allowed, row, column: allowed & ~((row == row.max()) & (column == key))),
    )


# ---- the precision of one step ----


def rope_table_in_bf16(patient):
    """cos and sin rounded to bf16, in a model of any type."""
    patch_rope(patient, both(lambda x, cos, sin: half_split(x, *(t.bfloat16().to(x.dtype) for t in (cos, sin)))))


def linear_in_f16(patient, role):
    """The output of a linear is rounded to f16."""
    for linear in patient.modules(role):
        real = linear.forward
        patient.patch(linear, "forward", lambda x, real=real: real(x).half().to(x.dtype))


def weights_in_bf16(patient, role):
    for linear in patient.modules(role):
        linear.weight.data = linear.weight.data.bfloat16().to(linear.weight.dtype)


def scores_overflow(patient, limit):
    """Scores saturate at a limit, as in a type that is too narrow."""

    def compute(real, module, query, key, value, mask, scaling, **rest):
        n = module.num_key_value_groups
        scores = torch.matmul(query, patient.code.repeat_kv(key, n).transpose(2, 3)) * scaling
        scores = scores.clamp(-limit, limit)
        probs = F.softmax(scores if mask is None else scores + mask, -1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(probs, patient.code.repeat_kv(value, n)).transpose(1, 2).contiguous(), probs

    patch_attention(patient, compute)


def inject(patient, name, parameters):
    """Applies the fault `name` of this file or of hf_families.py."""
    (globals().get(name) or getattr(hf_families, name))(patient, **parameters)
