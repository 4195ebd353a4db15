"""Mistakes in the JAX model: another part in some layers, or other weights. Each function takes the model and the layers."""

import jax
import jax.numpy as jnp
import jax_model


def parts(model, layers):
    return [model.layers[i] for i in layers]


def weight_names(model, layers, role):
    if role == "final_norm":
        return ["model.norm.weight"]
    norms = {"attn.norm": "input_layernorm", "mlp.norm": "post_attention_layernorm"}
    path = norms.get(role) or jax_model.LINEARS[role]
    return [f"model.layers.{i}.{path}.weight" for i in layers]


# ---- rope ----


def neighbours(x, cos, sin):
    a, b = x[..., ::2], x[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)


def rotation(turn):
    """A fault: q and k both turned by `turn`."""

    def fault(model, layers):
        for part in parts(model, layers):
            part.rotate_q = part.rotate_k = turn

    return fault


rope_interleaved = rotation(neighbours)
rope_missing = rotation(lambda x, cos, sin: x)
rope_direction = rotation(lambda x, cos, sin: jax_model.rotate(x, cos, -sin))
rope_twice = rotation(lambda x, cos, sin: jax_model.rotate(jax_model.rotate(x, cos, sin), cos, sin))


def rope_k_missing(model, layers):
    for part in parts(model, layers):
        part.rotate_k = lambda x, cos, sin: x


def rope_theta(model, layers, base):
    for part in parts(model, layers):
        part.frequencies = base ** (-jnp.arange(0, model.dim, 2) / model.dim)


def rope_magnitude(model, layers, factor):
    for part in parts(model, layers):
        part.magnitude *= factor


def rope_position_offset(model, layers, offset):
    for part in parts(model, layers):
        part.shift_q = offset


# ---- norm ----


def norm_eps(model, layers, role, eps):
    for part in parts(model, layers):
        setattr(part, {"attn.norm": "eps", "mlp.norm": "mlp_eps"}[role], eps)


def norm_weight_plus_one(model, layers, role):
    for name in weight_names(model, layers, role):
        model.weights[name] = model.weights[name] + jnp.asarray(1, model.dtype)


def norm_weight_missing(model, layers, role):
    for name in weight_names(model, layers, role):
        model.weights[name] = jnp.ones_like(model.weights[name])


def norm_weight_twice(model, layers, role):
    def twice(x, weight, eps):
        return weight * jax_model.rms_norm(x, weight, eps)

    if role == "final_norm":
        model.top.norm = twice
    for part in parts(model, layers):
        setattr(part, {"attn.norm": "norm", "mlp.norm": "mlp_norm", "final_norm": "unused"}[role], twice)


def norm_type(model, layers, role):
    def centred(x, weight, eps):
        return jax_model.rms_norm(x - jnp.mean(x.astype(jnp.float32), -1, keepdims=True).astype(x.dtype), weight, eps)

    for part in parts(model, layers):
        setattr(part, {"attn.norm": "norm", "mlp.norm": "mlp_norm"}[role], centred)


# ---- attention ----


def attn_scale(model, layers, factor):
    for part in parts(model, layers):
        part.scale *= factor


def attn_mask_missing(model, layers):
    for part in parts(model, layers):
        part.mask = lambda rows, columns: (rows >= 0) & (columns >= 0)


def attn_mask_offset(model, layers, offset):
    for part in parts(model, layers):
        part.mask = lambda rows, columns: columns <= rows + offset


def attn_window(model, layers, width):
    for part in parts(model, layers):
        part.window = width or None


def attn_kv_head_order(model, layers):
    for part in parts(model, layers):
        part.spread = lambda x, groups: jnp.tile(x, (groups, 1, 1))


def attn_head_layout(model, layers):
    """Heads are joined as they lie, without the transposition."""
    for part in parts(model, layers):
        part.join = lambda context: context.transpose(1, 2, 0).reshape(context.shape[1], -1)


def softmax_low_precision(model, layers):
    for part in parts(model, layers):
        part.softmax = lambda scores: jax.nn.softmax(scores, -1)


def attn_softcap(model, layers, cap):
    for part in parts(model, layers):
        softmax = part.softmax

        def capped(scores, softmax=softmax):
            low = scores <= jnp.finfo(scores.dtype).min / 2
            return softmax(jnp.where(low, scores, cap * jnp.tanh(scores / cap)))

        part.softmax = capped


# ---- linears, mlp, residual, embedding, head ----


def linear_transposed(model, layers, role):
    for name in weight_names(model, layers, role):
        model.weights[name] = model.weights[name].T


def linear_wrong_layer(model, layers, role, source):
    for name, other in zip(weight_names(model, layers, role), weight_names(model, [source] * len(layers), role)):
        model.weights[name] = model.weights[other]


def linear_weight_scale(model, layers, role, factor):
    for name in weight_names(model, layers, role):
        model.weights[name] = model.weights[name] * jnp.asarray(factor, model.dtype)


def linear_bias_missing(model, layers, role):
    for name in weight_names(model, layers, role):
        del model.weights[name.replace(".weight", ".bias")]


ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(jnp.asarray(1.702, x.dtype) * x),
}


def mlp_activation(model, layers, name):
    for part in parts(model, layers):
        part.activation = ACTIVATIONS[name]


def mlp_gate_up_swapped(model, layers):
    for part in parts(model, layers):
        part.mix = lambda gate, up, activation: gate * activation(up)


def residual(wrong):
    """A fault: wrong(stream, normed, update, entry) in place of one of the two sums."""

    def fault(model, layers, role, **parameters):
        for part in parts(model, layers):
            setattr(
                part,
                {"attn.residual": "add_attention", "out": "add_mlp"}[role],
                lambda stream, normed, update, entry: wrong(stream, normed, update, entry, **parameters),
            )

    return fault


residual_missing = residual(lambda stream, normed, update, entry: update)
residual_from_norm = residual(lambda stream, normed, update, entry: normed + update)
residual_source = residual(lambda stream, normed, update, entry: entry + update)
residual_twice = residual(lambda stream, normed, update, entry: stream + (stream + update))
residual_scale = residual(
    lambda stream, normed, update, entry, factor: stream + update * jnp.asarray(factor, update.dtype)
)


def embed_scale(model, layers, factor):
    model.top.embed = lambda table, ids: table[ids] * jnp.asarray(factor, table.dtype)


def embed_row_offset(model, layers, offset):
    model.top.embed = lambda table, ids: table[(ids + offset) % table.shape[0]]


def head_untied(model, layers):
    model.weights["lm_head.weight"] = model.weights["model.embed_tokens.weight"]


def head_final_norm_missing(model, layers):
    model.top.head = lambda stream, normed: stream


def inject(model, layers, name, parameters):
    """Applies the fault `name` of this file."""
    globals()[name](model, layers, **parameters)
