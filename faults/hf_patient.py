"""A loaded transformers model whose code and weights can be patched, and put back; and which module makes which site."""

import importlib

LLAMA = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.out": "self_attn.o_proj",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.out": "mlp.down_proj",
    "attn.norm": "input_layernorm",
    "mlp.norm": "post_attention_layernorm",
    "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm",
    "moe.router_logits": "mlp.gate",
    "attn.ctx_norm": "self_attn.attn_sub_norm",
    "mlp.act_norm": "mlp.ffn_sub_norm",
}
BERT = {
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.out": "attention.output.dense",
    "mlp.up": "intermediate.dense",
    "mlp.out": "output.dense",
    "attn.post_norm": "attention.output.LayerNorm",
    "out": "output.LayerNorm",
}
ROLES = {"bert": BERT, "gemma2": LLAMA | {"mlp.norm": "pre_feedforward_layernorm"}}


class Patient:
    """A model and the layers that the mistake is in. What is patched stays so until `heal` is called."""

    def __init__(self, model, layers):
        self.model = model
        self.inner = getattr(model, "model", model)
        self.code = importlib.import_module(type(model).__module__)
        self.roles = ROLES.get(model.config.model_type, LLAMA)
        self.layers = layers
        self.undo = []

    def patch(self, owner, name, value):
        """Puts `value` in place of an attribute; `heal` takes it back."""
        own = name in vars(owner)
        before = getattr(owner, name)
        self.undo.append((owner, name, before if own else None))
        setattr(owner, name, value)
        return before

    def heal(self):
        for owner, name, before in reversed(self.undo):
            delattr(owner, name) if before is None else setattr(owner, name, before)
        self.undo.clear()

    def blocks(self):
        """(number, module) of the ill layers."""
        blocks = self.inner.encoder.layer if hasattr(self.inner, "encoder") else self.inner.layers
        return [(i, blocks[i]) for i in self.layers]

    def modules(self, role):
        """The modules that make a site, in the ill layers."""
        whole = {"final_norm": "norm", "embed.norm": "embeddings.LayerNorm"}
        if role in whole:
            return [self.inner.get_submodule(whole[role])]
        return [block.get_submodule(self.roles[role]) for _, block in self.blocks()]

    def modules_of_layer(self, role, layer):
        return Patient(self.model, [layer]).modules(role)[0]
