"""Hugging Face folders as ONNX files, as torch's exporter writes them: one node for each torch op, names by module path."""

import warnings

import torch
from paritrace import hf


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head

    def forward(self, input_ids, attention_mask):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        return self.lm_head(states)


class States(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.bert = model

    def forward(self, input_ids):
        return self.bert(input_ids=input_ids).last_hidden_state


def export(folder, path):
    """Writes the model in `folder` to `path`, in f32, for prompts of any length."""
    model = hf.load(folder, "f32")
    ids = torch.tensor([[1, 2, 3, 4]])
    if model.config.model_type == "bert":
        last = f"/bert/encoder/layer.{model.config.num_hidden_layers - 1}/output/LayerNorm/LayerNormalization_output_0"
        module, inputs, names, output = States(model), (ids,), ["input_ids"], last
    else:
        module, inputs = Logits(model), (ids, torch.ones_like(ids))
        names, output = ["input_ids", "attention_mask"], "logits"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            path,
            dynamo=False,
            input_names=names,
            output_names=[output],
            dynamic_axes={name: {1: "tokens"} for name in names},
            opset_version=18,
        )
