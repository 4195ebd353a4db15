"""A small BitNet b1.58 of random weights, with transformers' own quantised layers in each of their forms."""

import json

import tiny_models
import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

SIZES = dict(tiny_models.DECODER, hidden_size=256, intermediate_size=512, max_position_embeddings=128)
FORMS = ["plain", "bitlinear", "offline", "online"]


def build():
    """The model with float weights of trained statistics."""
    torch.manual_seed(1)
    config = transformers.BitNetConfig(**SIZES, hidden_act="relu2", tie_word_embeddings=True)
    model = transformers.BitNetForCausalLM._from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(values * (0.7 if "embed" in path else 1.3 / parameter.shape[-1] ** 0.5))
                if "embed" in path:
                    parameter.copy_(parameter.half())  # as the files of llama.cpp and bitnet.cpp keep it
            else:
                parameter.copy_(1 + 0.3 * values)
    return model.eval()


def codes_of(weight):
    """(codes -1, 0, 1; the scale they are multiplied by)."""
    scale = weight.abs().mean()
    return (weight / scale).round().clamp(-1, 1), scale


def quantise(model, form):
    """Puts transformers' layers in place of the projections. Returns what a folder stores for them."""
    stored = {}
    for path, module in list(model.named_modules()):
        if not path.endswith("_proj") or form == "plain":
            continue
        weight = module.weight.data
        rows, columns = weight.shape
        if form == "online":
            layer = AutoBitLinear(columns, rows, bias=False, online_quant=True)
            layer.weight.data = weight.clone()
        else:
            codes, scale = codes_of(weight)
            kept = (1 / scale if form == "bitlinear" else scale).reshape(1)
            stored[f"{path}.weight"], stored[f"{path}.weight_scale"] = pack_weights(codes.clone()), kept
            if form == "bitlinear":
                layer = BitLinear(columns, rows, bias=False)
                layer.weight = stored[f"{path}.weight"].clone()
            else:
                layer = AutoBitLinear(columns, rows, bias=False)
                layer.weight.data = codes
            layer.weight_scale = kept.clone()
        model.set_submodule(path, layer)
    return stored


def make(form, folder, dtype=torch.float32):
    """The model in one of FORMS, and its folder written."""
    model = build()
    model.save_pretrained(folder)
    stored = quantise(model, form)
    if stored:
        rest = {
            name: value
            for name, value in model.state_dict().items()
            if "_proj" not in name and name != "lm_head.weight"
        }
        save_file({name: value.contiguous() for name, value in (rest | stored).items()}, folder / "model.safetensors")
    if form != "plain":
        config = json.loads((folder / "config.json").read_text())
        kind = "bitlinear" if form == "bitlinear" else "autobitlinear"
        mode = "online" if form == "online" else "offline"
        config["quantization_config"] = {"quant_method": "bitnet", "linear_class": kind, "quantization_mode": mode}
        (folder / "config.json").write_text(json.dumps(config))
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model = model.to(dtype)
    model.model.rotary_emb.inv_freq = frequencies  # as from_pretrained leaves them
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.dtype = dtype
    return model
