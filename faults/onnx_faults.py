"""Mistakes in ONNX graphs, edited and run by ONNX Runtime. Each function takes an onnx_graph.Graph and the fault's parameters."""

import functools

import numpy as np
from onnx_graph import Graph

DECODER = {
    "attn.q": "self_attn/q_proj",
    "attn.k": "self_attn/k_proj",
    "attn.v": "self_attn/v_proj",
    "attn.out": "self_attn/o_proj",
    "mlp.gate": "mlp/gate_proj",
    "mlp.up": "mlp/up_proj",
    "mlp.out": "mlp/down_proj",
    "attn.norm": "input_layernorm",
    "mlp.norm": "post_attention_layernorm",
}
BERT = {
    "attn.q": "attention/self/query",
    "attn.k": "attention/self/key",
    "attn.v": "attention/self/value",
    "attn.out": "attention/output/dense",
    "mlp.up": "intermediate/dense",
    "mlp.out": "output/dense",
    "attn.post_norm": "attention/output/LayerNorm",
    "out": "output/LayerNorm",
}


def each(graph, role):
    """The module's path in every ill layer."""
    if role == "final_norm":
        return ["/model/norm"]
    return [f"{graph.path(i)}/{(BERT if graph.is_bert else DECODER)[role]}" for i in graph.layers]


def set_weight(graph, node, array, place=1):
    node.input[place] = graph.constant(array.astype(np.float32))


# ---- linears ----


def products(graph, role):
    return [graph.node(f"{path}/MatMul") for path in each(graph, role)]


def linear_transposed(graph, role):
    for node in products(graph, role):
        set_weight(graph, node, graph.array(node.input[1]).T)


def linear_weight_scale(graph, role, factor):
    for node in products(graph, role):
        set_weight(graph, node, graph.array(node.input[1]) * factor)


def linear_wrong_layer(graph, role, source):
    right, graph.layers = graph.layers, [source]
    other = graph.array(products(graph, role)[0].input[1])
    graph.layers = right
    for node in products(graph, role):
        set_weight(graph, node, other)


def linear_bias_missing(graph, role):
    """The Add node is dropped."""
    for path in each(graph, role):
        node = graph.node(f"{path}/Add")
        product = next(name for name in node.input if name.endswith("MatMul_output_0"))
        graph.replace(node, "Identity", [product])


def weights_swapped(graph, first, second):
    for a, b in zip(products(graph, first), products(graph, second), strict=True):
        a.input[1], b.input[1] = b.input[1], a.input[1]
        names = [node.name.replace("MatMul", "Add") for node in (a, b)]
        biases = [node for node in graph.graph.node if node.name in names]
        if len(biases) == 2:
            biases[0].input[0], biases[1].input[0] = biases[1].input[0], biases[0].input[0]


# ---- norms ----


def norm_eps(graph, role, eps):
    for path in each(graph, role):
        if graph.is_bert:
            attributes = graph.node(f"{path}/LayerNormalization").attribute
            next(a for a in attributes if a.name == "epsilon").f = eps
        else:
            node = graph.node(f"{path}/Add")
            node.input[1] = graph.constant(np.float32(eps))


def norm_weights(graph, role):
    """(node, place of the weight among its inputs)."""
    if graph.is_bert:
        return [(graph.node(f"{path}/LayerNormalization"), 1) for path in each(graph, role)]
    return [(graph.node(f"{path}/Mul_1"), 0) for path in each(graph, role)]


def norm_weight_plus_one(graph, role):
    for node, place in norm_weights(graph, role):
        set_weight(graph, node, graph.array(node.input[place]) + 1, place)


def norm_weight_missing(graph, role):
    for node, place in norm_weights(graph, role):
        set_weight(graph, node, np.ones_like(graph.array(node.input[place])), place)


def norm_weight_scale(graph, role, factor):
    for node, place in norm_weights(graph, role):
        set_weight(graph, node, graph.array(node.input[place]) * factor, place)


def norm_bias_missing(graph, role):
    for node, _ in norm_weights(graph, role):
        set_weight(graph, node, np.zeros_like(graph.array(node.input[2])), 2)


# ---- rope ----


def rope_theta(graph, base):
    node = graph.node("/model/rotary_emb/Mul")
    shape = graph.array(node.input[1]).shape
    half = int(np.prod(shape))
    set_weight(graph, node, (base ** (-np.arange(half) / half)).reshape(shape))


def rotations(graph, which):
    """The sums x * cos + turned * sin, of q ("Add"), of k ("Add_1")."""
    return [graph.node(f"{graph.path(i)}/self_attn/{name}") for i in graph.layers for name in which]


def rope_missing(graph):
    for node in rotations(graph, ["Add", "Add_1"]):
        graph.replace(node, "Identity", [graph.maker(node.input[0]).input[0]])


def rope_k_missing(graph):
    for node in rotations(graph, ["Add_1"]):
        graph.replace(node, "Identity", [graph.maker(node.input[0]).input[0]])


def rope_direction(graph):
    for node in rotations(graph, ["Add", "Add_1"]):
        graph.replace(node, "Sub", list(node.input))


# ---- attention ----


def softmaxes(graph):
    middle = "attention/self" if graph.is_bert else "self_attn"
    return [graph.node(f"{graph.path(i)}/{middle}/Softmax") for i in graph.layers]


def attn_scale(graph, factor):
    for node in softmaxes(graph):
        scaled = graph.maker(node.input[0])
        if scaled.op_type == "Add":
            scaled = graph.maker(scaled.input[0])
        set_weight(graph, scaled, graph.array(scaled.input[1]) * factor)


def attn_mask_missing(graph):
    for node in softmaxes(graph):
        masked = graph.maker(node.input[0])
        graph.replace(masked, "Identity", [masked.input[0]])


def attn_softcap(graph, cap):
    """cap * tanh(scores / cap), before the mask."""
    for node in softmaxes(graph):
        scaled = graph.maker(graph.maker(node.input[0]).input[0])
        number = graph.constant(np.float32(cap))
        graph.after(scaled, "Mul", [number])
        last = graph.maker(scaled.output[0])
        graph.after(last, "Tanh", [])
        graph.after(last, "Div", [number])


def attn_kv_head_order(graph):
    for i in graph.layers:
        path = f"{graph.path(i)}/self_attn"
        widths = [graph.array(graph.node(f"{path}/{p}_proj/MatMul").input[1]).shape[1] for p in "qv"]
        groups, kv_heads = widths[0] // widths[1], graph.kv_heads
        order = graph.constant(np.asarray([(h % kv_heads) * groups for h in range(kv_heads * groups)], np.int64))
        context = graph.node(f"{path}/MatMul_1")
        keys = graph.maker(graph.node(f"{path}/MatMul").input[1])
        keys.input[0] = graph.insert(keys, "Gather", [keys.input[0], order], axis=1)
        context.input[1] = graph.insert(context, "Gather", [context.input[1], order], axis=1)


def attn_softmax_axis(graph):
    for node in softmaxes(graph):
        node.attribute[0].i = -2


# ---- mlp ----


def activation_nodes(graph, layer):
    """(node whose output is the activated value, name of its input)."""
    if graph.is_bert:
        path = f"{graph.path(layer)}/intermediate"
        return graph.node(f"{path}/intermediate_act_fn/Mul_1"), f"{path}/dense/Add_output_0"
    return graph.node(f"{graph.path(layer)}/mlp/act_fn/Mul"), f"{graph.path(layer)}/mlp/gate_proj/MatMul_output_0"


def put_before(graph, node, op, *inputs):
    return graph.insert(node, op, list(inputs))


def mlp_activation(graph, name):
    for layer in graph.layers:
        node, x = activation_nodes(graph, layer)
        number = lambda value: graph.constant(np.float32(value))  # noqa: E731
        put = functools.partial(put_before, graph, node)
        if name == "relu":
            graph.replace(node, "Relu", [x])
        elif name == "quick_gelu":
            graph.replace(node, "Mul", [x, put("Sigmoid", put("Mul", x, number(1.702)))])
        elif name == "gelu":
            inner = put("Add", put("Erf", put("Div", x, number(2**0.5))), number(1))
            graph.replace(node, "Mul", [put("Mul", x, number(0.5)), inner])
        elif name == "gelu_tanh":
            cubed = put("Mul", put("Mul", put("Mul", x, x), x), number(0.044715))
            bent = put("Tanh", put("Mul", put("Add", x, cubed), number((2 / np.pi) ** 0.5)))
            graph.replace(node, "Mul", [put("Mul", x, number(0.5)), put("Add", bent, number(1))])


def mlp_gate_up_swapped(graph):
    for layer in graph.layers:
        path = f"{graph.path(layer)}/mlp"
        gate, up = f"{path}/gate_proj/MatMul_output_0", f"{path}/up_proj/MatMul_output_0"
        place = list(graph.graph.node).index(graph.node(f"{path}/act_fn/Sigmoid"))
        made = graph.node(f"{path}/up_proj/MatMul")  # made after it is used now: brought forward
        graph.graph.node.remove(made)
        graph.graph.node.insert(place, made)
        for name in ("act_fn/Sigmoid", "act_fn/Mul", "Mul"):
            node = graph.node(f"{path}/{name}")
            for i, value in enumerate(node.input):
                node.input[i] = up if value == gate else gate if value == up else value


# ---- residual, embedding, head ----


def sums(graph, role):
    """(sum, its stream, its update, the layer's entry, the norm's output)."""
    for i in graph.layers:
        node = graph.node(f"{graph.path(i)}/{'Add' if role == 'attn.residual' else 'Add_1'}")
        norm = {"attn.residual": "input_layernorm", "out": "post_attention_layernorm"}[role]
        entry = "/model/embed_tokens/Gather_output_0" if i == 0 else f"{graph.path(i - 1)}/Add_1_output_0"
        yield node, *node.input, entry, f"{graph.path(i)}/{norm}/Mul_1_output_0"


def residual_missing(graph, role):
    for node, _, update, *_ in list(sums(graph, role)):
        graph.replace(node, "Identity", [update])


def residual_twice(graph, role):
    for node, stream, *_ in list(sums(graph, role)):
        graph.after(node, "Add", [stream])


def residual_from_norm(graph, role):
    for node, _, update, _, normed in list(sums(graph, role)):
        graph.replace(node, "Add", [normed, update])


def residual_source(graph, role):
    for node, _, update, entry, _ in list(sums(graph, role)):
        graph.replace(node, "Add", [entry, update])


def residual_scale(graph, role, factor):
    for node, stream, update, *_ in list(sums(graph, role)):
        scaled = graph.insert(node, "Mul", [update, graph.constant(np.float32(factor))])
        graph.replace(node, "Add", [stream, scaled])


def embed_scale(graph, factor):
    graph.after(graph.node("/model/embed_tokens/Gather"), "Mul", [graph.constant(np.float32(factor))])


def embed_row_offset(graph, offset):
    node = graph.node("/model/embed_tokens/Gather")
    set_weight(graph, node, np.roll(graph.array(node.input[0]), -offset, 0), 0)


def head_untied(graph):
    table = graph.array(graph.node("/model/embed_tokens/Gather").input[0])
    set_weight(graph, graph.node("/lm_head/MatMul"), table.T)


def head_final_norm_missing(graph):
    last = max(int(n.name.split(".")[1].split("/")[0]) for n in graph.graph.node if n.name.startswith("/model/layers."))
    graph.node("/lm_head/MatMul").input[0] = f"{graph.path(last)}/Add_1_output_0"


# ---- outside the catalogue, or the precision of one step ----


def through_f16(graph, role):
    """The output of a linear is cast to f16 and back."""
    for path in each(graph, role):
        node = graph.node(f"{path}/MatMul")
        graph.after(node, "Cast", [], to=1)
        graph.after(node, "Cast", [], to=10)


def clipped(graph, role, limit):
    for path in each(graph, role):
        node = graph.node(f"{path}/MatMul")
        graph.after(node, "Clip", [graph.constant(np.float32(-limit)), graph.constant(np.float32(limit))])


def bent(graph, role):
    """sin in place of the output itself."""
    for path in each(graph, role):
        graph.after(graph.node(f"{path}/MatMul"), "Sin", [])


def edit(source, target, faults, kv_heads=0):
    """Writes `source` with faults, [(name of a function of this file, parameters, layers)], to `target`."""
    graph = Graph(source)
    graph.kv_heads = kv_heads
    for name, parameters, layers in faults:
        graph.layers = layers
        globals()[name](graph, **parameters)
    graph.save(target)
