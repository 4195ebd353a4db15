"""Random weights with the statistics of trained ones, for the fault bench and the tests: unit outputs, norm weights around their
neutral value, biases that are not zero, embeddings of ordinary size. Nothing in them is tuned to what the diagnosis expects.
"""

import torch


def fill(model, gain=1.3, embed=0.7, spread=0.3, norms_add_one=False):
    """Writes all parameters of a torch module from torch's own generator, which the caller seeds.

    gain: rms of a projection's output for inputs of 1; embed: rms of the embeddings; spread: of norm weights around their neutral
    value and of biases around 0; norms_add_one: that value is 0, as in Gemma.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(values * (embed if "embed" in name else gain / parameter.shape[-1] ** 0.5))
            else:
                is_weight = "norm" in name.lower() and name.endswith("weight")
                parameter.copy_((1.0 if is_weight and not norms_add_one else 0.0) + spread * values)
    return model
