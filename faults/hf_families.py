"""Mistakes patched into transformers' BERT, Gemma 2, Mixtral, Qwen2-MoE and BitNet: what Llama-like models do not have.

Each function takes a Patient (hf_patient.py) and the fault's parameters.
"""

import torch
import torch.nn.functional as F
from transformers.integrations.bitnet import BitLinear

# ---- BERT ----


def bert_types_missing(patient):
    patient.model.embeddings.token_type_embeddings.weight.data.zero_()


def bert_token_type(patient, number):
    patient.model.embeddings.token_type_ids.fill_(number)


def bert_positions_missing(patient):
    patient.model.embeddings.position_embeddings.weight.data.zero_()


def bert_positions_from(patient, start):
    table = patient.model.embeddings.position_embeddings.weight
    table.data = torch.roll(table.data, -start, 0)


def bert_activation(patient, name):
    change = {"gelu_tanh": torch.nn.GELU("tanh"), "gelu": torch.nn.GELU(), "relu": torch.nn.ReLU()}[name]
    for _, block in patient.blocks():
        block.intermediate.intermediate_act_fn = change


def bert_norm_bias_missing(patient, role):
    for norm in patient.modules(role):
        norm.bias.data.zero_()


def bert_rms_norm(patient, role):
    for norm in patient.modules(role):

        def forward(x, norm=norm):
            wide = F.rms_norm(x.float(), (x.shape[-1],), norm.weight.float(), norm.eps)
            return wide.to(x.dtype) + norm.bias

        patient.patch(norm, "forward", forward)


def bert_norm_before_the_sum(patient):
    for _, block in patient.blocks():
        output = block.output
        patient.patch(
            output, "forward", lambda hidden, stream, output=output: stream + output.LayerNorm(output.dense(hidden))
        )


def bert_causal(patient):
    eager = patient.code.eager_attention_forward

    def masked(module, query, key, value, mask, **kwargs):
        count = query.shape[-2]
        mask = torch.full((count, count), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)[None, None]
        return eager(module, query, key, value, mask, **kwargs)

    patient.patch(patient.code, "eager_attention_forward", masked)


def bert_scale_missing(patient):
    """Scores are not divided by the root of the head's width."""
    for _, block in patient.blocks():
        block.attention.self.scaling = 1.0


# ---- Gemma 2 ----


def gemma2_embeddings_unscaled(patient):
    patient.inner.embed_tokens.embed_scale.fill_(1.0)


def gemma2_embedding_scale(patient, factor):
    patient.inner.embed_tokens.embed_scale.mul_(factor)


def gemma2_plus_one_missing(patient, module):
    """module: name of one of the layer's four norms."""
    for _, block in patient.blocks():
        norm = getattr(block, module)
        patient.patch(norm, "forward", lambda x, norm=norm: (norm._norm(x.float()) * norm.weight.float()).type_as(x))


def gemma2_plus_one_twice(patient, module):
    for _, block in patient.blocks():
        getattr(block, module).weight.data += 1


def gemma2_plus_one_in_bf16(patient, module):
    """1 + weight is rounded to bf16 before it multiplies, as a converter that adds it in the file's type leaves it."""
    for _, block in patient.blocks():
        norm = getattr(block, module)

        def forward(x, norm=norm):
            return (norm._norm(x.float()) * (1 + norm.weight.float()).bfloat16().float()).type_as(x)

        patient.patch(norm, "forward", forward)


def gemma2_scores_cap(patient, cap):
    """cap: 0 for none."""
    for _, block in patient.blocks():
        block.self_attn.attn_logit_softcapping = cap or None


def gemma2_logits_cap(patient, cap):
    patient.patch(patient.model.config, "final_logit_softcapping", cap or None)


def gemma2_window(patient, width):
    patient.model.config.sliding_window = width


def gemma2_norm_after_the_sum(patient):
    for _, block in patient.blocks():

        def forward(hidden_states, layer=block, **kwargs):
            attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
            stream = layer.post_attention_layernorm(hidden_states + attended)
            return stream + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(stream)))

        patient.patch(block, "forward", forward)


# ---- mixtures ----


def route(change):
    """A fault: the (logits, weights, experts) of the ill layers' routers, changed."""

    def fault(patient, **parameters):
        for _, block in patient.blocks():
            router = block.mlp.gate
            real = router.forward
            patient.patch(router, "forward", lambda x, real=real, router=router: change(router, *real(x), **parameters))

    return fault


moe_not_normalised = route(
    lambda router, logits, weights, experts: (logits, torch.softmax(logits.float(), -1).gather(-1, experts), experts)
)
moe_raw_logits = route(lambda router, logits, weights, experts: (logits, logits.float().gather(-1, experts), experts))
moe_next_expert = route(lambda router, logits, weights, experts: (logits, weights, (experts + 1) % router.num_experts))
moe_weights_reversed = route(lambda router, logits, weights, experts: (logits, weights.flip(-1), experts))
moe_weights_scaled = route(lambda router, logits, weights, experts, factor: (logits, weights * factor, experts))


def moe_normalised(patient):
    for _, block in patient.blocks():
        block.mlp.gate.norm_topk_prob = True


def moe_top_k(patient, count):
    for _, block in patient.blocks():
        block.mlp.gate.top_k = count


def expert_weights(patient):
    for _, block in patient.blocks():
        yield from (block.mlp.experts.gate_up_proj, block.mlp.experts.down_proj)


def moe_experts_exchanged(patient, first, second):
    for weight in expert_weights(patient):
        weight.data[[first, second]] = weight.data[[second, first]]


def moe_one_expert_twice(patient, lost, kept):
    for weight in expert_weights(patient):
        weight.data[lost] = weight.data[kept]


def moe_experts_rotated(patient):
    for weight in expert_weights(patient):
        weight.data = torch.roll(weight.data, 1, 0)


def moe_experts_activation(patient, name):
    for _, block in patient.blocks():
        block.mlp.experts.act_fn = {"gelu": torch.nn.GELU(), "relu": torch.nn.ReLU()}[name]


def moe_experts_gate_up_swapped(patient):
    for _, block in patient.blocks():
        weight = block.mlp.experts.gate_up_proj
        weight.data = torch.roll(weight.data, weight.shape[1] // 2, 1)


def moe_scaled(patient, factor):
    for _, block in patient.blocks():
        experts = block.mlp.experts
        real = experts.forward
        patient.patch(experts, "forward", lambda *args, real=real: factor * real(*args))


def moe_router_in_bf16(patient):
    """The router's product is rounded to bf16, in a model of any type."""
    for _, block in patient.blocks():
        router = block.mlp.gate

        def forward(x, router=router):
            logits = F.linear(x.bfloat16(), router.weight.bfloat16()).to(x.dtype)
            probs = torch.softmax(logits.float(), -1)
            weights, experts = torch.topk(probs, router.top_k, -1)
            return logits, (weights / weights.sum(-1, keepdim=True)).to(x.dtype), experts

        patient.patch(router, "forward", forward)


def moe_router_of_layer(patient, source):
    for _, block in patient.blocks():
        block.mlp.gate.weight.data = patient.inner.layers[source].mlp.gate.weight.data.clone()


def moe_one_token_elsewhere(patient, token):
    """One token's second expert replaced by the least likely one."""
    for _, block in patient.blocks():
        router = block.mlp.gate
        real = router.forward

        def forward(x, real=real):
            logits, weights, experts = real(x)
            experts[token, 1] = logits[token].argmin()
            return logits, weights, experts

        patient.patch(router, "forward", forward)


def moe_block(patient, combine):
    """Qwen2-MoE's block with other sums: combine(block, x, mixture, shared)."""
    for _, block in patient.blocks():
        mlp = block.mlp

        def forward(x, mlp=mlp):
            rows = x.view(-1, x.shape[-1])
            _, weights, experts = mlp.gate(rows)
            return combine(mlp, rows, mlp.experts(rows, experts, weights), mlp.shared_expert(rows)).view(x.shape)

        patient.patch(mlp, "forward", forward)


def moe_shared_gate_missing(patient):
    moe_block(patient, lambda mlp, x, mixture, shared: mixture + shared)


def moe_shared_gate_on_the_mixture(patient):
    moe_block(patient, lambda mlp, x, mixture, shared: torch.sigmoid(mlp.shared_expert_gate(x)) * mixture + shared)


def moe_shared_activation(patient):
    for _, block in patient.blocks():
        block.mlp.shared_expert.act_fn = torch.nn.GELU()


# ---- BitNet ----


def bitnet_subnorm_missing(patient, module):
    for _, block in patient.blocks():
        patient.patch(block.get_submodule(module), "forward", lambda x: x)


def bitnet_weight_scale(patient, module, power):
    """power 0: the scale is lost; -1: inverted."""
    for _, block in patient.blocks():
        scale = block.get_submodule(module).weight_scale
        scale.data = scale.data**power


def bitnet_int8_by_tensor(patient):
    """Activations are quantised with one scale for all tokens."""

    def quantise(self, x, num_bits=8):
        scale = 127 / x.abs().max().clamp(min=1e-5)
        return (x * scale).round().clamp(-128, 127).to(torch.int8), scale.reshape(1, 1, 1).expand(*x.shape[:-1], 1)

    patient.patch(BitLinear, "activation_quant", quantise)


def bitnet_silu(patient):
    for _, block in patient.blocks():
        block.mlp.act_fn = torch.nn.SiLU()
