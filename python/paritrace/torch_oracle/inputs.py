"""What the subject was fed, step by step: the token ids of its header, and whatever else it recorded of its inputs."""

import torch

from paritrace.errors import InputError

# Axes of an input with its batch, of which the capture drops one of length 1.
_AXES = {
    "pixel_values": 4,
    "pixel_values_videos": 5,
    "input_features": 3,
    "inputs_embeds": 3,
    "encoder_hidden_states": 3,
}


class Inputs:
    """subject: subject.Subject; model: any load of it. Errors: InputError if a step states neither tokens nor inputs."""

    def __init__(self, subject, model):
        self.calls = [(step, self._of(step, subject, model)) for step in subject.steps]

    def _of(self, step, subject, model):
        given = {}
        for name, entry in subject.inputs(step["step"]).items():
            key = name.removeprefix("model:in").removeprefix(".") or model.main_input_name
            array = subject.values(entry)
            value = torch.from_numpy(array)
            if value.dim() == _AXES.get(key, 0) - 1:
                value = value[None]
            given[key] = value
        if "input_ids" not in given and (model.main_input_name == "input_ids" or not given):
            if "inputs_embeds" not in given:
                given["input_ids"] = torch.tensor(subject.prompts(step))
        return given

    def feed(self, model):
        """Runs the model over all steps."""
        dtype = next(value.dtype for value in model.parameters() if value.is_floating_point())
        cache = None
        several = any(step["start"] > 0 for step, _ in self.calls)
        for step, given in self.calls:
            options = {key: value.to(dtype) if value.is_floating_point() else value for key, value in given.items()}
            if several:
                options["use_cache"] = True
            if step["start"] > 0:
                if cache is None:
                    raise InputError("trace", f"step {step['step']}", "a model with a KV cache", type(model).__name__)
                options["past_key_values"] = cache
            output = model(**options)
            cache = getattr(output, "past_key_values", None)
