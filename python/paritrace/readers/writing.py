"""Named torch tensors to a trace, step by step."""

import torch

from paritrace.recording import Recording
from paritrace.torch_tap import to_numpy


class TensorWriter:
    """Writes tensors under the names and steps of somebody else's dump. Use as a context manager.

    engine  name whose rules map the names; "" tries all
    Errors: ValueError as of Recording.
    """

    def __init__(self, output, engine, source, overwrite=False):
        header = {"engine": {"name": engine, "version": ""}, "model": {"file": str(source)}, "run": {}}
        self.recording = Recording(output, header, overwrite=overwrite)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.recording.close()
        else:
            self.recording.abandon()

    def begin_step(self, step):
        """Goes on to a step, empty ones in between included. Steps must not go back."""
        while self.recording.step < step:
            self.recording.begin_step(0, [])

    def record(self, name, tensor):
        """Writes one torch tensor on any device; sparse and complex ones are left out."""
        tensor = tensor.detach()
        if tensor.is_sparse or tensor.is_complex() or tensor.is_meta:
            return
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        array, dtype, shape = to_numpy(tensor.to(torch.device("cpu")))
        self.recording.record(name, array, dtype=dtype, shape=shape)
